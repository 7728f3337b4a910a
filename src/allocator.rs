//! The program's memory: the system's allocator, which is asked for huge pages where a buffer is large.
//!
//! A training step takes and gives back buffers of many megabytes. In pages of 4 KiB the kernel fills each of them one page at a time, which
//! is a twentieth of the time of a full fine-tuning; in pages of 2 MiB it is a fraction of that. Linux gives these to whoever asks.

use std::alloc::{GlobalAlloc, Layout, System};

/// From this many bytes on a buffer has huge pages in it wherever it begins.
const LARGE: usize = 2 * HUGE;
/// The size of a huge page, or a multiple of it, on the machines we know.
const HUGE: usize = 2 << 20;

/// The system's allocator with huge pages for large buffers.
#[derive(Debug)]
pub struct HugePages;

// SAFETY: every call goes to the system's allocator as it is; advice on pages changes neither their content nor whose they are.
#[allow(unsafe_code, reason = "an allocator cannot be had otherwise")]
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of the system's allocator.
        advised(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        advised(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, buffer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        advised(unsafe { System.realloc(buffer, layout, size) }, size)
    }

    unsafe fn dealloc(&self, buffer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(buffer, layout) }
    }
}

#[cfg(target_os = "linux")]
fn advised(buffer: *mut u8, size: usize) -> *mut u8 {
    if size >= LARGE && !buffer.is_null() {
        let skip = buffer.addr().next_multiple_of(HUGE) - buffer.addr();
        let length = (size - skip) / HUGE * HUGE;
        // SAFETY: whole pages inside a buffer that was just given to us. A kernel that knows no huge pages refuses, and nothing is lost.
        #[allow(unsafe_code, reason = "the one way to ask for them")]
        unsafe {
            let _ = rustix::mm::madvise(buffer.add(skip).cast(), length, rustix::mm::Advice::LinuxHugepage);
        }
    }
    buffer
}

#[cfg(not(target_os = "linux"))]
fn advised(buffer: *mut u8, _: usize) -> *mut u8 {
    buffer
}

#[cfg(test)]
mod tests {
    /// Sizes around the bound, grown and shrunk, keep what is in them.
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
