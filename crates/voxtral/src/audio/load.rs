//! Reading recordings as 16 kHz mono samples: whole, or in blocks for recordings of any length.

use std::path::Path;

use super::channel::Channel;
use super::decode::{Input, damaged};
use super::mixdown::mixed;
use super::resample::StreamResampler;
use super::{DecodedAudio, SAMPLE_RATE};
use crate::error::{Error, Result};

/// Longest recording that is read whole, in hours; a dataset clip is a thousand times shorter.
const LONGEST_WHOLE: u64 = 4;
/// Longest recording that is read in blocks, in hours.
const LONGEST_BLOCKS: u64 = 24;
/// Most samples held in memory: 4 GiB.
const MOST_SAMPLES: u64 = 1 << 30;

/// How a recording is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The channel to read.
    pub channel: Channel,
}

/// What was read by [`load_blocks`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadInfo {
    /// Number of 16 kHz samples handed out.
    pub samples: u64,
    /// Sample rate of the file in Hz.
    pub rate: u32,
    /// Number of channels in the file.
    pub channels: u16,
    /// What was done beyond decoding, one sentence each without a full stop: a channel that was left out, a header that was corrected.
    pub notes: Vec<String>,
}

/// A recording as 16 kHz mono samples, see [`load_with`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The samples, nominally within ±1.
    pub samples: Vec<f32>,
    /// Sample rate of the file in Hz.
    pub rate: u32,
    /// Number of channels in the file.
    pub channels: u16,
    /// What was done beyond decoding; see [`LoadInfo::notes`].
    pub notes: Vec<String>,
}

/// Decodes any audio file to 16 kHz mono samples.
pub fn load(path: &Path) -> Result<Vec<f32>> {
    Ok(load_with(path, &LoadOptions::default())?.samples)
}

/// Decodes any audio file to 16 kHz mono samples, and says what was done.
pub fn load_with(path: &Path, options: &LoadOptions) -> Result<Loaded> {
    whole(&Input::file(path), options)
}

/// Decodes a streamed audio file, such as standard input, to 16 kHz mono samples; `name` is used in errors.
///
/// A program that writes WAV to a pipe does not know the length in advance and declares a placeholder. Such a file is read to its end.
pub fn load_stream(name: &Path, bytes: Vec<u8>) -> Result<Vec<f32>> {
    Ok(load_bytes(name, bytes, &LoadOptions::default())?.samples)
}

/// Decodes an audio file that is already in memory to 16 kHz mono samples; `name` is used in errors.
pub fn load_bytes(name: &Path, bytes: Vec<u8>, options: &LoadOptions) -> Result<Loaded> {
    whole(&Input::bytes(name, bytes), options)
}

/// Decodes any audio file to 16 kHz mono samples, handed out block by block; together they are the samples of [`load_with`]. The memory
/// needed does not grow with the length of the recording, which may be up to 24 hours.
///
/// `on_block` returns whether to go on. A mixdown of a long recording with several channels reads the file twice: whether the channels
/// cancel each other is known only at its end.
///
/// # Errors
///
/// As [`load_with`], and whatever `on_block` returns.
pub fn load_blocks(path: &Path, options: &LoadOptions, on_block: &mut dyn FnMut(&[f32]) -> Result<bool>) -> Result<LoadInfo> {
    blocks(&Input::file(path), options, LONGEST_BLOCKS, on_block)
}

fn whole(input: &Input, options: &LoadOptions) -> Result<Loaded> {
    let mut samples = Vec::new();
    let info = blocks(input, options, LONGEST_WHOLE, &mut |block| {
        samples.extend_from_slice(block);
        Ok(true)
    })?;
    Ok(Loaded { samples, rate: info.rate, channels: info.channels, notes: info.notes })
}

fn blocks(input: &Input, options: &LoadOptions, hours: u64, on_block: &mut dyn FnMut(&[f32]) -> Result<bool>) -> Result<LoadInfo> {
    let in_context = |error: Error| error.context(input.name.display());
    let mut samples = 0;
    let mut on_block = |block: &[f32]| {
        samples += block.len() as u64;
        on_block(block)
    };
    let mut limit = Limit::new(hours);
    let mut resampler: Option<StreamResampler> = None;
    let mut stopped = false;
    let sound = mixed(input, options.channel, &mut |rate, block| {
        limit.add(input, rate, block.len())?;
        let go_on = if rate == SAMPLE_RATE {
            on_block(block)?
        } else {
            let resampler = match &mut resampler {
                Some(resampler) => resampler,
                None => resampler.insert(StreamResampler::new(rate).map_err(in_context)?),
            };
            resampler.push(block, &mut on_block).map_err(|error| if error.path.is_none() { in_context(error) } else { error })?
        };
        stopped |= !go_on;
        Ok(go_on)
    })?;
    if let Some(resampler) = resampler.filter(|_| !stopped) {
        resampler.finish(&mut on_block)?;
    }
    if samples == 0 && !stopped {
        return Err(damaged(&input.name, "has less than one sample of audio"));
    }
    Ok(LoadInfo { samples, rate: sound.rate, channels: sound.channels, notes: sound.notes })
}

/// Decodes an audio file to mono samples at its own rate. The format is detected from the content, not from the file name.
pub fn decode(path: &Path) -> Result<DecodedAudio> {
    at_own_rate(&Input::file(path))
}

/// As [`decode`], but what only the program `ffmpeg` could decode is an error, whether it is installed or not.
pub fn decode_built_in(path: &Path) -> Result<DecodedAudio> {
    at_own_rate(&Input::file(path).only_built_in())
}

/// Decodes a file that is already in memory; `name` is used in errors.
pub fn decode_bytes(name: &Path, bytes: Vec<u8>) -> Result<DecodedAudio> {
    at_own_rate(&Input::bytes(name, bytes))
}

fn at_own_rate(input: &Input) -> Result<DecodedAudio> {
    let mut samples = Vec::new();
    let mut limit = Limit::new(LONGEST_WHOLE);
    let sound = mixed(input, Channel::Mix, &mut |rate, block| {
        limit.add(input, rate, block.len())?;
        samples.extend_from_slice(block);
        Ok(true)
    })?;
    Ok(DecodedAudio { samples, rate: sound.rate, channels: sound.channels })
}

/// Refuses recordings that are too long.
struct Limit {
    hours: u64,
    samples: u64,
}

impl Limit {
    fn new(hours: u64) -> Self {
        Self { hours, samples: 0 }
    }

    fn add(&mut self, input: &Input, rate: u32, samples: usize) -> Result<()> {
        let hours = self.hours;
        self.samples += samples as u64;
        let too_many = hours == LONGEST_WHOLE && self.samples > MOST_SAMPLES;
        if self.samples > hours * 3600 * u64::from(rate) || too_many {
            let limit = match hours {
                LONGEST_WHOLE => format!("is longer than {hours} hours or {MOST_SAMPLES} samples"),
                _ => format!("is longer than {hours} hours"),
            };
            return Err(damaged(&input.name, limit).hint("split it into clips of at most 30 s, one per line of the transcript"));
        }
        Ok(())
    }
}
