//! Suspension: Ctrl-Z stops the programs of this process together with it, and the time until it continues counts for no time limit.
//!
//! Programs run in process groups of their own, which a terminal's Ctrl-Z does not reach. So they are stopped here, before this process stops
//! itself, and continued after it.

use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
static SUSPENSIONS: Mutex<Suspensions> = Mutex::new(Suspensions { past: Duration::ZERO, since: None });

/// How long this process has been suspended.
#[derive(Clone, Copy)]
struct Suspensions {
    past: Duration,
    /// When the suspension that has not ended began.
    since: Option<Instant>,
}

/// Measures time, without that in which this process was suspended.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    begun: Instant,
    /// How long this process had been suspended before.
    before: Duration,
}

impl Stopwatch {
    /// A stopwatch that starts now.
    pub fn start() -> Self {
        Self { begun: Instant::now(), before: suspensions().past }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        let now = suspensions();
        let until = now.since.unwrap_or_else(Instant::now);
        until.saturating_duration_since(self.begun).saturating_sub(now.past.saturating_sub(self.before))
    }
}

fn suspensions() -> Suspensions {
    *SUSPENSIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a program with `spawn`, which returns its process group too. It cannot start while this process is being suspended, and so be
/// forgotten.
pub fn spawn<T, E>(spawn: impl FnOnce() -> Result<(T, Option<Pid>), E>) -> Result<T, E> {
    let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    let (child, group) = spawn()?;
    groups.extend(group.map(|group| group.as_raw_nonzero().get()));
    Ok(child)
}

/// Forgets the group of a program that has ended.
pub(super) fn ended(group: Pid) {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner).remove(&group.as_raw_nonzero().get());
}

/// Stops the programs, and then, with `stop`, this process; when that returns, the programs are continued.
pub fn suspend(stop: impl FnOnce()) {
    let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    let send = |signal| {
        for group in groups.iter().copied().filter(|group| *group > 1).filter_map(Pid::from_raw) {
            let _ = kill_process_group(group, signal);
        }
    };
    // Not SIGTSTP: a program may ignore it, and the kernel drops it for a group whose parent has ended.
    send(Signal::STOP);
    let change = |change: &dyn Fn(&mut Suspensions)| change(&mut SUSPENSIONS.lock().unwrap_or_else(PoisonError::into_inner));
    change(&|suspensions| suspensions.since = Some(Instant::now()));
    stop();
    change(&|suspensions| suspensions.past += suspensions.since.take().map_or(Duration::ZERO, |since| since.elapsed()));
    send(Signal::CONT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    #[test]
    fn a_stopwatch_does_not_count_a_suspension() {
        let begun = Instant::now();
        let before = Stopwatch::start();
        suspend(|| {
            let during = Stopwatch::start();
            sleep(Duration::from_millis(30));
            assert!(during.elapsed().is_zero(), "time stands still");
        });
        assert!(before.elapsed() + Duration::from_millis(30) <= begun.elapsed());
    }
}
