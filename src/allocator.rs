//! Global allocator: the system allocator with transparent huge pages for large buffers (Linux).
//!
//! A training step allocates and frees buffers of many megabytes. With 4 KiB pages, page faults take a twentieth of the time of a full
//! fine-tuning; with 2 MiB pages only a fraction of that. `madvise(MADV_HUGEPAGE)` requests huge pages for a buffer.

use std::alloc::{GlobalAlloc, Layout, System};

/// Buffers of at least this many bytes contain a whole huge page at any alignment.
const LARGE: usize = 2 * HUGE;
/// Size of a huge page in bytes, or a multiple of it, on the supported machines.
const HUGE: usize = 2 << 20;

/// The system allocator with huge pages for large buffers.
#[derive(Debug)]
pub struct HugePages;

// SAFETY: every call is forwarded unchanged to the system allocator; advice on pages changes neither their content nor their ownership.
#[allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]
unsafe impl GlobalAlloc for HugePages {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of the system allocator.
        advised(unsafe { System.alloc(layout) }, layout.size())
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        advised(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    #[inline]
    unsafe fn realloc(&self, buffer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        advised(unsafe { System.realloc(buffer, layout, size) }, size)
    }

    #[inline]
    unsafe fn dealloc(&self, buffer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(buffer, layout) }
    }
}

/// Requests huge pages for a large buffer and returns the buffer. Inlined, with the rare case out of line: it is part of every allocation.
#[inline]
fn advised(buffer: *mut u8, size: usize) -> *mut u8 {
    if size >= LARGE && !buffer.is_null() {
        advise(buffer, size);
    }
    buffer
}

#[cfg(target_os = "linux")]
#[cold]
fn advise(buffer: *mut u8, size: usize) {
    let skip = buffer.addr().next_multiple_of(HUGE) - buffer.addr();
    let length = (size - skip) / HUGE * HUGE;
    // SAFETY: whole pages inside a buffer that was just allocated. A kernel without huge pages refuses the call, which has no effect.
    #[allow(unsafe_code, reason = "madvise takes a raw pointer")]
    unsafe {
        let _ = rustix::mm::madvise(buffer.add(skip).cast(), length, rustix::mm::Advice::LinuxHugepage);
    }
}

#[cfg(not(target_os = "linux"))]
#[cold]
fn advise(_: *mut u8, _: usize) {}

#[cfg(test)]
mod tests {
    /// Buffers around the size limit keep their content when grown and shrunk.
    #[test]
    fn large_buffers_keep_their_bytes() {
        for size in [super::LARGE - 1, super::LARGE, super::LARGE + 12_345, 9 * super::HUGE + 1] {
            let mut buffer: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            buffer.resize(3 * size, 7);
            buffer.truncate(size);
            buffer.shrink_to_fit();
            assert!(buffer.iter().enumerate().all(|(index, byte)| *byte == (index % 251) as u8), "{size}");
            assert!(vec![0_u8; size].iter().all(|byte| *byte == 0), "{size}");
        }
    }
}
