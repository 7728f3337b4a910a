//! What is kept between runs: fingerprints, content digests, the store, and the fast path of a run with nothing to do.

pub mod content;
pub mod file_stat;
pub mod fingerprint;
pub mod noop;
pub mod stat_cache;
pub mod store;
