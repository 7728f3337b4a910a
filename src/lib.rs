#![doc = include_str!("../ARCHITECTURE.md")]

pub mod allocator;
pub mod bench;
pub mod cli;
pub mod data;
pub mod hub;
pub mod plot;
pub mod release;
pub mod report;
pub mod stages;
pub mod studio;

pub use voxpipe_io::error;
