//! Evaluation metrics for transcripts.

pub mod wer;
