//! `voxpipe transcribe --stream PATH`: what a Realtime model hears, printed while it hears it.
//!
//! Standard input is 16 kHz mono of 16 bits: WAV with its header, or nothing but the samples, as recording programs write them. A file
//! may be of any kind. The stream ends with its source; a first Ctrl-C ends it too, and what was said until then is still written.

use super::print;
use super::run::listen;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use pipeline::exit::Exit;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use voxtral::audio;
use voxtral::audio::SAMPLE_RATE;
use voxtral::realtime::transcriber::RealtimeTranscriber;

/// Most bytes that are taken from a source at once: half a second.
const PIECE: usize = 16_000;
/// Most bytes before the sound of a WAV file.
const LONGEST_HEADER: usize = 1 << 20;

/// Listens to a file, or with `-` to standard input, and prints as it hears.
pub(super) fn go(recognizer: &RealtimeTranscriber, path: &str) -> Result<u8> {
    let stop = listen()?.asked;
    let mut printer = Printer { recognizer, stream: recognizer.stream(), begun: false };
    if path == "-" {
        let mut source = Samples::default();
        let mut input = std::io::stdin().lock();
        let mut buffer = vec![0; PIECE];
        while !stop.load(Ordering::Relaxed) {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => printer.hear(&source.add(buffer.get(..count).unwrap_or_default())?)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| "cannot read standard input"),
            }
        }
        let rest = source.finish()?;
        printer.hear(&rest)?;
    } else {
        hear_file(&mut printer, Path::new(path), &stop)?;
    }
    printer.finish()
}

fn hear_file(printer: &mut Printer, path: &Path, stop: &AtomicBool) -> Result<()> {
    let samples = audio::load(path)?;
    for piece in samples.chunks(PIECE / 2) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        printer.hear(piece)?;
    }
    Ok(())
}

/// A stream whose text is printed.
struct Printer<'a> {
    recognizer: &'a RealtimeTranscriber,
    stream: voxtral::realtime::stream::TranscriptionStream<'a>,
    /// Whether something stands on the line.
    begun: bool,
}

impl Printer<'_> {
    fn hear(&mut self, samples: &[f32]) -> Result<()> {
        let delta = self.stream.push(samples)?;
        self.print(&delta.text)?;
        // The model has closed the transcript: what comes now begins another.
        if self.stream.ended() {
            let ended = std::mem::replace(&mut self.stream, self.recognizer.stream());
            let rest = ended.finish()?.text;
            self.print(&rest)?;
            self.end_line()?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<u8> {
        let last = std::mem::replace(&mut self.stream, self.recognizer.stream()).finish()?;
        self.print(&last.text)?;
        self.end_line()?;
        Ok(Exit::Done as u8)
    }

    fn print(&mut self, text: &str) -> Result<()> {
        let text = if self.begun { text } else { text.trim_start() };
        self.begun |= !text.is_empty();
        if text.is_empty() { Ok(()) } else { print(text) }
    }

    fn end_line(&mut self) -> Result<()> {
        if std::mem::take(&mut self.begun) { print("\n") } else { Ok(()) }
    }
}

/// Bytes of a pipe on their way to being samples.
#[derive(Default)]
struct Samples {
    /// What cannot be told yet: the header, or half a sample.
    begun: Vec<u8>,
    /// Whether the samples have begun.
    sounding: bool,
}

impl Samples {
    fn add(&mut self, bytes: &[u8]) -> Result<Vec<f32>> {
        self.begun.extend_from_slice(bytes);
        if !self.sounding {
            match header(&self.begun)? {
                Some(length) => {
                    self.begun.drain(..length);
                    self.sounding = true;
                }
                None if self.begun.len() > LONGEST_HEADER => return Err(refused("has no sound in its first megabyte")),
                None => return Ok(Vec::new()),
            }
        }
        Ok(self.whole())
    }

    /// What is left at the end; a header that never came to its samples is an error.
    fn finish(&mut self) -> Result<Vec<f32>> {
        if !self.sounding && self.begun.starts_with(b"RIFF") {
            return Err(refused("ends within its header"));
        }
        Ok(self.whole())
    }

    fn whole(&mut self) -> Vec<f32> {
        let (pairs, half) = self.begun.as_chunks::<2>();
        let samples = pairs.iter().map(|pair| f32::from(i16::from_le_bytes(*pair)) / 32_768.0).collect();
        self.begun = half.to_vec();
        samples
    }
}

/// The length of the header in front of the samples: none while it cannot be told, 0 for bare samples.
fn header(bytes: &[u8]) -> Result<Option<usize>> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let u16_at = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let Some(begin) = bytes.get(..12) else { return Ok(None) };
    if !begin.starts_with(b"RIFF") || !begin.ends_with(b"WAVE") {
        let compressed: [&[u8]; 4] = [b"fLaC", b"OggS", b"ID3", b"RIFX"];
        if compressed.iter().any(|magic| begin.starts_with(magic)) || begin.get(4..8) == Some(b"ftyp") {
            return Err(refused("is a compressed file, which cannot be heard while it comes"));
        }
        return Ok(Some(0));
    }
    let mut at = 12;
    let mut told = false;
    loop {
        let (Some(name), Some(size)) = (bytes.get(at..at + 4), u32_at(at + 4)) else { return Ok(None) };
        if name == b"data" {
            return if told { Ok(Some(at + 8)) } else { Err(refused("does not say what its samples are")) };
        }
        if name == b"fmt " {
            let (Some(kind), Some(channels), Some(rate), Some(bits)) = (u16_at(at + 8), u16_at(at + 10), u32_at(at + 12), u16_at(at + 22))
            else {
                return Ok(None);
            };
            // 1 is PCM; 0xfffe says the same with more words.
            if !matches!(kind, 1 | 0xfffe) || channels != 1 || rate != SAMPLE_RATE || bits != 16 {
                return Err(refused(&format!("has {channels} channels, {rate} Hz, {bits} bits")));
            }
            told = true;
        }
        at += 8 + (size as usize).min(LONGEST_HEADER).next_multiple_of(2);
    }
}

fn refused(what: &str) -> Error {
    Error::new(format!("standard input {what}; a stream is 16 kHz, mono, 16 bits"))
        .kind(ErrorKind::InvalidInput)
        .hint("let `ffmpeg -i … -f s16le -ac 1 -ar 16000 -` write it, or give the name of a file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(channels: u16, rate: u32, samples: &[i16]) -> Vec<u8> {
        let mut bytes = b"RIFF\xff\xff\xff\xffWAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0\x01\0".to_vec();
        bytes.extend(channels.to_le_bytes());
        bytes.extend(rate.to_le_bytes());
        bytes.extend((rate * 2).to_le_bytes());
        bytes.extend([2, 0, 16, 0]);
        bytes.extend(b"data\xff\xff\xff\xff");
        bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        bytes
    }

    fn heard(bytes: &[u8], piece: usize) -> Result<Vec<f32>> {
        let mut source = Samples::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(piece) {
            found.extend(source.add(piece)?);
        }
        found.extend(source.finish()?);
        Ok(found)
    }

    #[test]
    fn a_header_is_skipped_and_samples_are_whole_whatever_the_pieces() {
        let samples: Vec<i16> = (0..500).map(|n| n * 65 - 16_000).collect();
        let expected: Vec<f32> = samples.iter().map(|sample| f32::from(*sample) / 32_768.0).collect();
        let bare: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        for piece in [1, 2, 3, 7, 50, 10_000] {
            assert_eq!(heard(&wav(1, 16_000, &samples), piece).unwrap(), expected, "pieces of {piece}");
            assert_eq!(heard(&bare, piece).unwrap(), expected, "pieces of {piece}");
        }
        assert_eq!(heard(&bare[..6], 100).unwrap(), expected[..3], "shorter than a header");
    }

    #[test]
    fn what_is_no_such_stream_is_refused() {
        for (bytes, word) in [
            (wav(2, 16_000, &[0; 10]), "2 channels"),
            (wav(1, 44_100, &[0; 10]), "44100 Hz"),
            (wav(1, 16_000, &[0; 10])[..40].to_vec(), "header"),
            (b"fLaC and something more".to_vec(), "compressed"),
        ] {
            let error = heard(&bytes, 5).unwrap_err();
            assert!(error.message.contains(word) && error.kind == ErrorKind::InvalidInput, "{error}");
        }
    }
}
