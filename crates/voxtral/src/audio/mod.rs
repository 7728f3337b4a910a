//! Audio: decoding, resampling to 16 kHz, log-mel features, augmentation, segmentation and quality checks.
//!
//! [`load_with`] reads any common format as 16 kHz mono samples, [`load_blocks`] reads recordings of hours without holding them in memory,
//! and [`write_wav16k`] writes a dataset clip: 16-bit mono WAV. [`LogMel`] computes the model's input, a log-mel spectrogram with one frame
//! every 10 ms (128 bands for Voxtral). This module does not depend on pipelines. It trusts no file: a damaged, truncated or empty file is
//! an error that names the file, never a silently shorter clip.

pub mod augment;
pub mod channel;
pub mod decode;
mod fft;
pub mod formats;
pub mod load;
pub mod log_mel;
mod mixdown;
pub mod quality;
pub mod resample;
pub mod segmentation;
pub mod speech;
pub mod wav;

pub use channel::Channel;
pub use decode::DecodedAudio;
pub use load::{
    LoadInfo, LoadOptions, Loaded, decode, decode_built_in, decode_bytes, load, load_blocks, load_bytes, load_stream, load_with,
};
pub use log_mel::{Features, LogMel, MelCeiling};
pub use resample::resample;
pub use wav::{read_wav16k, write_wav16k};

/// Sample rate of all audio after [`load()`], in Hz.
pub const SAMPLE_RATE: u32 = 16_000;
