//! Audio decoding: any supported file to blocks of samples, or an error that says what is wrong with it.
//!
//! Decoders are built to keep playing; a dataset needs correct data. So everything a player would skip is an error here: a packet that
//! cannot be decoded, a checksum mismatch, a container that declares more samples than it has. Memory grows with what a file has, never
//! with what a header declares.

mod demux;

use std::fs::File;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use symphonia::core::io::MediaSource;

use super::resample::{MAX_MAGNITUDE, RATES};
use crate::error::{Error, Result, ResultExt};

/// Decoded audio of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedAudio {
    /// Mean of the channels, nominally within ±1.
    pub samples: Vec<f32>,
    /// Sample rate in Hz.
    pub rate: u32,
    /// Number of channels in the file.
    pub channels: u16,
}

/// A file to decode, or its bytes.
pub(super) struct Input {
    /// Path in errors.
    pub(super) name: PathBuf,
    bytes: Option<Bytes>,
}

impl Input {
    pub(super) fn file(path: &Path) -> Self {
        Self { name: path.to_owned(), bytes: None }
    }

    pub(super) fn bytes(name: &Path, bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), bytes: Some(bytes.into()) }
    }

    /// Opens the input from its start, and returns its size.
    fn open(&self) -> Result<(Box<dyn MediaSource>, u64)> {
        let Some(bytes) = &self.bytes else {
            let (file, size) = opened(&self.name)?;
            return Ok((Box::new(file), size));
        };
        if bytes.is_empty() {
            return Err(damaged(&self.name, "is empty (0 bytes)").hint(AGAIN));
        }
        Ok((Box::new(Cursor::new(bytes.clone())), bytes.len() as u64))
    }
}

/// Rate in Hz and number of channels of a block.
pub(super) type Shape = (u32, u16);

/// A decoder of one recording.
trait Decode {
    /// Replaces `interleaved` by the next samples; `None` at the end.
    fn next(&mut self, interleaved: &mut Vec<f32>) -> Result<Option<Shape>>;

    /// What was done beyond decoding; complete at the end of the recording.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Reads a recording block by block, and checks what the decoder returns.
pub(super) struct BlockReader {
    path: PathBuf,
    /// `None` after a panic.
    decoder: Option<Box<dyn Decode>>,
    shape: Option<Shape>,
    frames: u64,
}

impl BlockReader {
    pub(super) fn open(input: &Input) -> Result<Self> {
        let path = input.name.clone();
        let decoder = guarded(&path, || {
            let (source, size) = input.open()?;
            demux::open(&input.name, source, size)
        })?;
        Ok(Self { path, decoder: Some(decoder), shape: None, frames: 0 })
    }

    /// Replaces `interleaved` by the next block, which is not empty; `None` at the end. The shape is the same for all blocks.
    pub(super) fn next(&mut self, interleaved: &mut Vec<f32>) -> Result<Option<Shape>> {
        loop {
            interleaved.clear();
            let Some(decoder) = &mut self.decoder else { return Err(absurd(&self.path)) };
            let shape = match guarded(&self.path, || decoder.next(interleaved)) {
                Ok(Some(shape)) => shape,
                Ok(None) => return Ok(None),
                Err(error) => {
                    self.decoder = None;
                    return Err(error);
                }
            };
            if interleaved.is_empty() {
                continue;
            }
            self.check(shape, interleaved)?;
            return Ok(Some(shape));
        }
    }

    /// See [`Decode::notes`].
    pub(super) fn notes(&self) -> Vec<String> {
        self.decoder.as_ref().map_or_else(Vec::new, |decoder| decoder.notes())
    }

    fn check(&mut self, shape: Shape, interleaved: &[f32]) -> Result<()> {
        let path = &self.path;
        let (rate, channels) = shape;
        match self.shape {
            None if channels == 0 => return Err(damaged(path, "declares 0 channels")),
            None if !RATES.contains(&rate) => return Err(damaged(path, format!("declares a sample rate of {rate} Hz")).hint(CONVERT)),
            None => self.shape = Some(shape),
            Some(before) if before != shape => {
                let from = format!("{} Hz and {} channels to {rate} Hz and {channels}", before.0, before.1);
                return Err(damaged(path, format!("changes from {from} after {}", time(self.frames, before.0))).hint(CONVERT));
            }
            Some(_) => {}
        }
        let width = u64::from(channels.max(1));
        // NaN is not within the limits either.
        if let Some(place) = interleaved.iter().position(|sample| !(-MAX_MAGNITUDE..=MAX_MAGNITUDE).contains(sample)) {
            let (sample, time) = (interleaved[place], time(self.frames + place as u64 / width, rate));
            let what = match sample.is_finite() {
                false => format!("has a non-finite sample ({sample}) at {time}"),
                true => format!("has a sample of {sample:e} at {time}, where 1 is full scale"),
            };
            return Err(damaged(path, what).hint(AGAIN));
        }
        self.frames += interleaved.len() as u64 / width;
        Ok(())
    }
}

/// A position in seconds, as text.
fn time(frames: u64, rate: u32) -> String {
    format!("{:.2} s", frames as f64 / f64::from(rate.max(1)))
}

/// Calls a decoder. Some decoder arithmetic overflows on absurd headers, which panics in a debug build.
fn guarded<T>(path: &Path, call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(absurd(path)))
}

fn absurd(path: &Path) -> Error {
    damaged(path, "is damaged: it contains values the decoder cannot handle").hint(AGAIN)
}

/// Opens a file and returns it with its size. A folder or an empty file is an error.
pub(super) fn opened(path: &Path) -> Result<(File, u64)> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let about = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if about.is_dir() {
        return Err(damaged(path, "is a folder, not an audio file"));
    }
    if about.len() == 0 {
        return Err(damaged(path, "is empty (0 bytes)").hint(AGAIN));
    }
    Ok((file, about.len()))
}

/// Error about a file: its path, then what is wrong.
pub(super) fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(format!("{} {what}", path.display())).at(path)
}

const AGAIN: &str = "copy or export the file again from its source";
const CONVERT: &str = "convert it to WAV or FLAC first, for example: ffmpeg -i FILE -ac 1 -ar 16000 FILE.wav";
