//! Processes of a run: none outlives it unseen.

pub mod liveness_lock;
pub mod reaper;
