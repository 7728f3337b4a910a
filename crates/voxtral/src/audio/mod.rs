//! From an audio file to what the model hears.
//!
//! A file of any common format is decoded and mixed down ([`decode()`]), brought to 16 kHz ([`resample()`]) and, as a clip of
//! a dataset, written as 16-bit mono WAV ([`write_wav16k`]). Voxtral hears 128 mel bands a hundredth of a second apart
//! ([`LogMel`]). Nothing in here knows of pipelines, and nothing trusts a file: what is damaged, truncated or empty is an
//! error that names it, never a silently shorter clip.

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

/// Samples a second everywhere behind [`load`].
pub const SAMPLE_RATE: u32 = 16_000;
