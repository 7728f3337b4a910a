//! Child processes: the reaper terminates them with the run, and the liveness lock detects orphaned ones.

pub mod liveness_lock;
pub mod peak_memory;
pub mod reaper;
