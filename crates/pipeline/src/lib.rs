//! A pipeline runner.

pub mod artifact;
pub mod cache;
pub mod diagnostics;
pub mod events;
pub mod executor;
pub mod exit;
pub mod graph;
pub mod manifest;
pub mod plan;
pub mod process;
pub mod scheduler;
pub mod stage;

pub use voxpipe_io::error;
