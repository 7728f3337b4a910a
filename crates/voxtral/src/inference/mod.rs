//! From audio to text: transcribers, batching, greedy decoding, cached encoder outputs.

pub mod asr_model;
pub mod batching;
pub mod encoder_cache;
pub mod generate;
pub mod transcribe;
pub mod transcriber;
