//! Metrics of transcripts.

pub mod wer;
