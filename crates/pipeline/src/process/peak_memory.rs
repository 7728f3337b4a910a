//! Peak memory of this process during an attempt, and of programs that are running. Linux only; elsewhere nothing is told.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Attempts that are being measured.
static MEASURING: AtomicUsize = AtomicUsize::new(0);

/// Measures the peak memory of this process while it lives.
#[derive(Debug)]
pub struct MemoryProbe(());

impl MemoryProbe {
    /// Starts to measure. Attempts at the same time share the process, so each is told the peak since the first of them.
    #[must_use]
    pub fn begin() -> Self {
        if MEASURING.fetch_add(1, Ordering::Relaxed) == 0 {
            // Sets the peak back to the present size. If that is not allowed, the peak is that of the whole run so far.
            let _ = fs::write("/proc/self/clear_refs", "5");
        }
        Self(())
    }

    /// The peak since the start, in bytes.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        peak_of("/proc/self/status")
    }
}

impl Drop for MemoryProbe {
    fn drop(&mut self) {
        MEASURING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The peak memory of the largest process among a running one and its descendants, in bytes. A process that has ended has none.
#[must_use]
pub fn peak_of_program(pid: u32) -> Option<u64> {
    let mut largest = None;
    let mut processes = vec![pid];
    // A program that starts processes faster than they are counted must not hold us up.
    for _ in 0..256 {
        let Some(pid) = processes.pop() else { break };
        largest = largest.max(peak_of(&format!("/proc/{pid}/status")));
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        processes.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    largest
}

fn peak_of(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_known_after_the_memory_is_given_back() {
        let memory = MemoryProbe::begin();
        let before = memory.bytes().unwrap();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        drop(block);
        assert!(memory.bytes().unwrap() >= before.min(48 << 20) && memory.bytes().unwrap() >= 64 << 20);
        assert!(peak_of_program(std::process::id()).unwrap() >= 64 << 20);
        assert_eq!(peak_of_program(u32::MAX), None);
    }
}
