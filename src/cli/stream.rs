//! `voxpipe transcribe --stream PATH`: streaming transcription with Voxtral Realtime.
//!
//! Standard input is 16 kHz mono 16-bit PCM, either WAV or raw samples. A file may have any supported format. The stream ends with its
//! source or with the first Ctrl-C; the transcript up to that point is still printed.

use super::signals::listen;
use super::{note, print};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use pipeline::exit::Exit;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use voxtral::audio;
use voxtral::audio::SAMPLE_RATE;
use voxtral::realtime::transcriber::RealtimeTranscriber;

/// Maximum bytes read from a source at a time: half a second.
const READ_BYTES: usize = 16_000;
/// Maximum bytes before the samples of a WAV file.
const MAX_HEADER: usize = 1 << 20;

/// Transcribes a file, or standard input for `-`, and prints the text as it is recognized.
pub(super) fn go(recognizer: &RealtimeTranscriber, path: &str) -> Result<u8> {
    let stop = listen()?.asked;
    let mut printer = Printer { recognizer, stream: recognizer.stream(), begun: false };
    if path == "-" {
        let mut source = Samples::default();
        let mut input = std::io::stdin().lock();
        let mut buffer = vec![0; READ_BYTES];
        while !stop.load(Ordering::Relaxed) {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => printer.push(&source.add(buffer.get(..count).unwrap_or_default())?)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| "cannot read standard input"),
            }
        }
        let rest = source.finish()?;
        printer.push(&rest)?;
    } else {
        push_file(&mut printer, Path::new(path), &stop)?;
    }
    printer.finish()
}

fn push_file(printer: &mut Printer, path: &Path, stop: &AtomicBool) -> Result<()> {
    let samples = audio::load(path)?;
    for piece in samples.chunks(READ_BYTES / 2) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        printer.push(piece)?;
    }
    Ok(())
}

/// Prints the text of a transcription stream.
struct Printer<'a> {
    recognizer: &'a RealtimeTranscriber,
    stream: voxtral::realtime::stream::TranscriptionStream<'a>,
    /// Whether the current line has text.
    begun: bool,
}

impl Printer<'_> {
    fn push(&mut self, samples: &[f32]) -> Result<()> {
        let delta = self.stream.push(samples)?;
        self.print(&delta.text)?;
        // The model has ended the transcript; further audio starts a new one.
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
        if !self.recognizer.is_complete(&last.tokens) {
            note("the transcript is unfinished: the model was still writing 0.8 s after the end of the audio");
        }
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

/// Decodes the bytes of a pipe to samples.
#[derive(Default)]
struct Samples {
    /// Undecoded bytes: an incomplete header or half a sample.
    pending: Vec<u8>,
    /// Whether the header is past.
    in_samples: bool,
}

impl Samples {
    fn add(&mut self, bytes: &[u8]) -> Result<Vec<f32>> {
        self.pending.extend_from_slice(bytes);
        if !self.in_samples {
            match header(&self.pending)? {
                Some(length) => {
                    self.pending.drain(..length);
                    self.in_samples = true;
                }
                None if self.pending.len() > MAX_HEADER => return Err(invalid("has no samples in its first megabyte")),
                None => return Ok(Vec::new()),
            }
        }
        Ok(self.take_samples())
    }

    /// The remaining samples at the end of the source. An incomplete header is an error.
    fn finish(&mut self) -> Result<Vec<f32>> {
        if !self.in_samples && self.pending.starts_with(b"RIFF") {
            return Err(invalid("ends within its header"));
        }
        Ok(self.take_samples())
    }

    /// Takes all complete samples.
    fn take_samples(&mut self) -> Vec<f32> {
        let (pairs, half) = self.pending.as_chunks::<2>();
        let samples = pairs.iter().map(|pair| f32::from(i16::from_le_bytes(*pair)) / 32_768.0).collect();
        self.pending = half.to_vec();
        samples
    }
}

/// Length of the WAV header in bytes: none if more bytes are needed, 0 for raw samples.
fn header(bytes: &[u8]) -> Result<Option<usize>> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let u16_at = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let Some(begin) = bytes.get(..12) else { return Ok(None) };
    if !begin.starts_with(b"RIFF") || !begin.ends_with(b"WAVE") {
        let compressed: [&[u8]; 4] = [b"fLaC", b"OggS", b"ID3", b"RIFX"];
        if compressed.iter().any(|magic| begin.starts_with(magic)) || begin.get(4..8) == Some(b"ftyp") {
            return Err(invalid("is a compressed file, which cannot be streamed"));
        }
        return Ok(Some(0));
    }
    let mut at = 12;
    let mut has_format = false;
    loop {
        let (Some(name), Some(size)) = (bytes.get(at..at + 4), u32_at(at + 4)) else { return Ok(None) };
        if name == b"data" {
            return if has_format { Ok(Some(at + 8)) } else { Err(invalid("has no sample format before its samples")) };
        }
        if name == b"fmt " {
            let (Some(kind), Some(channels), Some(rate), Some(bits)) = (u16_at(at + 8), u16_at(at + 10), u32_at(at + 12), u16_at(at + 22))
            else {
                return Ok(None);
            };
            // 1 is PCM; 0xfffe is WAVE_FORMAT_EXTENSIBLE.
            if !matches!(kind, 1 | 0xfffe) || channels != 1 || rate != SAMPLE_RATE || bits != 16 {
                return Err(invalid(&format!("has {channels} channels, {rate} Hz, {bits} bits")));
            }
            has_format = true;
        }
        at += 8 + (size as usize).min(MAX_HEADER).next_multiple_of(2);
    }
}

fn invalid(what: &str) -> Error {
    Error::new(format!("standard input {what}; expected 16 kHz mono 16-bit PCM"))
        .kind(ErrorKind::InvalidInput)
        .hint("convert it with `ffmpeg -i … -f s16le -ac 1 -ar 16000 -`, or pass a file name")
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

    fn decode(bytes: &[u8], piece: usize) -> Result<Vec<f32>> {
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
            assert_eq!(decode(&wav(1, 16_000, &samples), piece).unwrap(), expected, "pieces of {piece}");
            assert_eq!(decode(&bare, piece).unwrap(), expected, "pieces of {piece}");
        }
        assert_eq!(decode(&bare[..6], 100).unwrap(), expected[..3], "shorter than a header");
    }

    #[test]
    fn what_is_no_such_stream_is_refused() {
        for (bytes, word) in [
            (wav(2, 16_000, &[0; 10]), "2 channels"),
            (wav(1, 44_100, &[0; 10]), "44100 Hz"),
            (wav(1, 16_000, &[0; 10])[..40].to_vec(), "header"),
            (b"fLaC and something more".to_vec(), "compressed"),
        ] {
            let error = decode(&bytes, 5).unwrap_err();
            assert!(error.message.contains(word) && error.kind == ErrorKind::InvalidInput, "{error}");
        }
    }
}
