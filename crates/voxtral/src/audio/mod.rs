//! Audio: decoding, resampling to 16 kHz, log-mel features, augmentation, segmentation and quality checks.
//!
//! [`decode()`] reads any common format and mixes it down to mono. [`resample()`] converts it to 16 kHz, and [`write_wav16k`] writes it as
//! a dataset clip: 16-bit mono WAV. [`LogMel`] computes the model's input, a log-mel spectrogram with one frame every 10 ms (128 bands for
//! Voxtral). This module does not depend on pipelines. It trusts no file: a damaged, truncated or empty file is an error that names the
//! file, never a silently shorter clip.

pub mod augment;
pub mod decode;
mod fft;
pub mod log_mel;
pub mod quality;
pub mod resample;
pub mod segmentation;
pub mod wav;

pub use decode::{DecodedAudio, decode, decode_bytes};
pub use log_mel::{Features, LogMel, MelCeiling};
pub use resample::resample;
pub use wav::{load, load_stream, read_wav16k, write_wav16k};

/// Sample rate of all audio after [`load`], in Hz.
pub const SAMPLE_RATE: u32 = 16_000;
