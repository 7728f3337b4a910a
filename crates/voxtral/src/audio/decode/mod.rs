//! Audio decoding: any supported file to blocks of samples, or an error that says what is wrong with it.
//!
//! Decoders are built to keep playing; a dataset needs correct data. So everything a player would skip is an error here: a packet that
//! cannot be decoded, a checksum mismatch, a container that declares more samples than it has. Memory grows with what a file has, never
//! with what a header declares.

mod aac;
mod caf;
mod demux;
mod ffmpeg;
mod matroska;
mod mp4;
mod ogg_opus;
mod opus;
mod pcm;
mod source;
mod trim;
mod wav_header;

use std::fs::File;
use std::io::{Cursor, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use caf::CafSource;
use ogg_opus::OggCodec;
use source::PatchedSource;
use symphonia::core::io::MediaSource;
use wav_header::WavSource;

use super::formats;
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
    /// Whether only decoders of this program are used.
    only_built_in: bool,
}

impl Input {
    pub(super) fn file(path: &Path) -> Self {
        Self { name: path.to_owned(), bytes: None, only_built_in: false }
    }

    pub(super) fn bytes(name: &Path, bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), bytes: Some(bytes.into()), only_built_in: false }
    }

    pub(super) fn only_built_in(self) -> Self {
        Self { only_built_in: true, ..self }
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

/// What opening a recording gives.
enum Opened {
    Decoder(Box<dyn Decode>),
    /// It is sound, and no decoder here reads it.
    Foreign(Foreign),
}

/// A recording that is left to ffmpeg.
struct Foreign {
    /// What it is, in words.
    what: String,
    /// Name of the container in ffmpeg.
    demuxer: &'static str,
}

impl Opened {
    fn foreign(what: impl Into<String>, demuxer: &'static str) -> Self {
        Self::Foreign(Foreign { what: what.into(), demuxer })
    }
}

/// Bytes at the start by which a format is recognized.
const HEAD: usize = 400;

/// Opens a recording by its content.
fn open(input: &Input) -> Result<Opened> {
    let path = &input.name;
    let reading = || format!("cannot read {}", path.display());
    let (mut source, size) = input.open()?;
    let head = source::read_at(&mut source, 0, HEAD).with_context(reading)?;
    source.rewind().with_context(reading)?;
    if wav_header::is_wav(&head) {
        return match wav_header::corrected(path, source, size)? {
            WavSource::Riff(source, notes) => {
                let size = source.byte_len().unwrap_or(size);
                demux::open(path, source, size, &head, notes)
            }
            WavSource::Other(opened) => Ok(opened),
        };
    }
    if head.starts_with(b".snd") {
        return pcm::open_au(path, source, size);
    }
    if head.starts_with(b"caff") {
        return match caf::open(path, source, size)? {
            CafSource::Pcm(decoder) => Ok(Opened::Decoder(decoder)),
            CafSource::Compressed(source) => {
                let size = source.byte_len().unwrap_or(size);
                demux::open(path, source, size, &head, Vec::new())
            }
        };
    }
    if head.starts_with(b"OggS") {
        match ogg_opus::codec(&mut source).with_context(reading)? {
            OggCodec::Opus => return ogg_opus::open(path, source).map(Opened::Decoder),
            OggCodec::Speex => {
                ogg_opus::check_pages(path, &mut source, true)?;
                return Ok(Opened::foreign("Speex", "ogg"));
            }
            OggCodec::Other => ogg_opus::check_pages(path, &mut source, false)?,
        }
    }
    if let Some((what, demuxer)) = formats::foreign(&head) {
        return Ok(Opened::foreign(what, demuxer));
    }
    if head.first() == Some(&0xff) && head.get(1).is_some_and(|byte| *byte & 0xe6 == 0xe4) {
        return Ok(Opened::foreign("MPEG audio of layer 2", "mp3"));
    }
    let (source, size) = without_tags(source, size, &head).with_context(reading)?;
    demux::open(path, source, size, &head, Vec::new())
}

/// Leaves out tags that the decoder would take for sound: those behind the audio, and ID3v2 in front of FLAC.
fn without_tags(mut source: Box<dyn MediaSource>, size: u64, head: &[u8]) -> std::io::Result<(Box<dyn MediaSource>, u64)> {
    let mpeg = head.first() == Some(&0xff) && head.get(1).is_some_and(|byte| *byte >= 0xe0);
    if !(mpeg || head.starts_with(b"fLaC") || head.starts_with(b"ID3")) {
        return Ok((source, size));
    }
    let (front, back) = source::tags(&mut source, size)?;
    let flac = front > 0 && source::read_at(&mut source, front, 4)? == b"fLaC";
    source.rewind()?;
    let front = if flac { front } else { 0 };
    if front == 0 && back == 0 {
        return Ok((source, size));
    }
    let length = size - front - back;
    Ok((Box::new(PatchedSource::new(Vec::new(), source, front, length)), length))
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
        let decoder = match guarded(&path, || open(input))? {
            Opened::Decoder(decoder) => decoder,
            Opened::Foreign(foreign) if input.only_built_in => {
                return Err(damaged(&path, format!("is {}, for which no decoder is built in", foreign.what)).hint(CONVERT));
            }
            Opened::Foreign(foreign) => ffmpeg::open(input, &foreign)?,
        };
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
