//! Speech recognition: transcribers, batching, greedy decoding and the feature cache.

pub mod alignment;
pub mod batching;
pub mod encoder_cache;
pub mod generate;
pub mod loop_guard;
pub mod text_score;
pub mod transcribe;
pub mod transcriber;
