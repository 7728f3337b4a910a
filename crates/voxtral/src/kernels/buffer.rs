//! Room for results.

/// A vector of `length` numbers that the caller fills. Large ones come from the system as pages that are zero already and touched only
/// when written, so asking for zeros costs no pass over them.
#[must_use]
pub fn room(length: usize) -> Vec<f32> {
    vec![0.0; length]
}
