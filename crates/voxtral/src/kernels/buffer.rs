//! Output buffers.

/// A zeroed vector of `length` values for the caller to fill. The system hands out large ones as pages that are already zero and are
/// touched only when written, so zeroing costs no pass over the memory.
#[must_use]
pub fn room(length: usize) -> Vec<f32> {
    vec![0.0; length]
}
