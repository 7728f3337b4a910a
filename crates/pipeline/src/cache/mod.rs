//! The result cache: fingerprints, content digests, the store on disk, and the fast path for up-to-date runs.

pub mod content;
pub mod file_stat;
pub mod fingerprint;
pub mod programs;
pub mod reads;
pub mod stat_cache;
pub mod store;
