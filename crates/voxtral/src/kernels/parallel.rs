//! Work in parts, side by side when it is enough to be worth the hand-over.
//!
//! Parts are cut the same way whatever the number of threads, so that results are too.

use rayon::prelude::*;

/// Operations below which handing work to other threads costs more than it saves.
const WORTH: usize = 1 << 19;

/// Whether work of so many operations is shared.
#[must_use]
pub(super) fn is_worth(operations: usize) -> bool {
    operations >= WORTH && rayon::current_num_threads() > 1
}

/// Does `work` with each part, in any order.
pub(super) fn each<P: Send>(operations: usize, parts: impl Iterator<Item = P>, work: impl Fn(P) + Send + Sync) {
    if is_worth(operations) {
        parts.collect::<Vec<_>>().into_par_iter().for_each(work);
    } else {
        parts.for_each(work);
    }
}

/// What `work` makes of each part, in the order of the parts.
pub(super) fn map<P: Send, R: Send>(operations: usize, parts: impl Iterator<Item = P>, work: impl Fn(P) -> R + Send + Sync) -> Vec<R> {
    if is_worth(operations) { parts.collect::<Vec<_>>().into_par_iter().map(work).collect() } else { parts.map(work).collect() }
}
