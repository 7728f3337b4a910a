//! Voxtral in Rust.

pub mod any_transcriber;
pub mod audio;
pub mod device;
pub mod inference;
pub mod kernels;
pub mod lora;
pub mod metrics;
pub mod model;
pub mod realtime;
pub mod tokenizer;
pub mod training;
pub mod weights;

pub use voxpipe_io::error;
