//! Child processes: the reaper terminates them with the run, the liveness lock detects orphaned ones, and Ctrl-Z suspends them.

pub mod liveness_lock;
pub mod peak_memory;
pub mod reaper;
pub mod suspend;
