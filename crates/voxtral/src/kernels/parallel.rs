//! Parallel loops over parts of the work (rayon); sequential if the work is too small to be worth it.
//!
//! The parts do not depend on the number of threads, so neither do results.

use rayon::prelude::*;

/// Operations below which multithreading costs more than it saves.
const WORTH: usize = 1 << 19;

/// Whether work of `operations` operations runs on several threads.
#[must_use]
pub(super) fn is_worth(operations: usize) -> bool {
    operations >= WORTH && rayon::current_num_threads() > 1
}

/// Calls `work` for each part, in any order.
pub(super) fn each<P: Send>(operations: usize, parts: impl Iterator<Item = P>, work: impl Fn(P) + Send + Sync) {
    if is_worth(operations) {
        parts.collect::<Vec<_>>().into_par_iter().for_each(work);
    } else {
        parts.for_each(work);
    }
}

/// Maps each part with `work`; results are in the order of the parts.
pub(super) fn map<P: Send, R: Send>(operations: usize, parts: impl Iterator<Item = P>, work: impl Fn(P) -> R + Send + Sync) -> Vec<R> {
    if is_worth(operations) { parts.collect::<Vec<_>>().into_par_iter().map(work).collect() } else { parts.map(work).collect() }
}
