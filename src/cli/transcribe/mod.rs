//! `voxpipe transcribe PATH…`: transcribes audio files to text, JSON or subtitles.
//!
//! Files are decoded ahead of the model in groups bounded by memory. Transcripts are printed in input order, each as soon as all before
//! it are done. A file that cannot be read is reported on standard error, and the others are still transcribed.

mod input;
mod model;
mod output;
mod progress;
mod reader;

pub(super) use model::{ModelArgs, OTHER_BASE};

use super::signals::listen;
use super::{print_error, stream};
use crate::error::{Error, ErrorKind, Result};
use clap::{Args, ValueEnum};
use input::Inputs;
use output::{Clip, Format, Output, Segment};
use pipeline::exit::Exit;
use progress::Progress;
use reader::{Group, Loaded};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use voxtral::any_transcriber::AnyTranscriber;
use voxtral::audio::{Channel, SAMPLE_RATE, segmentation};
use voxtral::inference::transcriber::{TokenLimit, TranscribeEvent, Transcript, Utterance};
use voxtral::realtime::MODEL_NAME;
use voxtral::tokenizer::prompt;

/// Default maximum chunk length in seconds: with its transcript, a chunk takes half of the model's context of 32 768 tokens.
const CHUNK_LENGTH: f64 = 1200.0;
/// Default maximum segment length of subtitles, in seconds.
const SUBTITLE_SEGMENT: f64 = 12.0;

/// Options of `voxpipe transcribe`.
#[derive(Args)]
pub(super) struct Transcribe {
    /// Audio or video files (WAV, FLAC, MP3, Ogg, M4A, WebM …), folders, quoted glob patterns, or - for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    #[command(flatten)]
    model: model::ModelArgs,
    /// Spoken language as a two-letter code [default: detected by the model]
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// Maximum transcript length in tokens [default: until the model ends it, repeats itself, or writes more than can be said]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// Output format [default: text]
    #[arg(long, value_enum, group = "shape")]
    format: Option<Format>,
    /// Same as `--format json`: one JSON object per file and line
    #[arg(long, group = "shape")]
    json: bool,
    /// Same as `--format srt`
    #[arg(long, group = "shape")]
    srt: bool,
    /// Same as `--format vtt`
    #[arg(long, group = "shape")]
    vtt: bool,
    /// Write one file per input to this folder [default: standard output; subtitles of several inputs go next to the audio]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Overwrite existing files, and accept an adapter that was trained on another base model
    #[arg(long)]
    force: bool,
    /// Split at pauses into segments of at most this many seconds, with times [default for subtitles: 12]
    #[arg(long, alias = "pieces", value_name = "SECONDS", value_parser = seconds)]
    max_segment: Option<f64>,
    /// Maximum seconds to transcribe at a time; longer audio is split at quiet points
    #[arg(long, alias = "window", value_name = "SECONDS", value_parser = seconds, conflicts_with = "max_segment")]
    #[arg(default_value_t = CHUNK_LENGTH)]
    chunk_length: f64,
    /// Channel to transcribe: mix, left, right, or its number from 1 on
    #[arg(long, value_name = "CHANNEL", default_value_t)]
    channel: Channel,
    /// Stop at the first file that fails
    #[arg(long)]
    fail_fast: bool,
    /// Stream the transcript of one file or of standard input (16 kHz mono 16-bit, raw or WAV); needs Voxtral Realtime
    #[arg(long, conflicts_with_all = ["shape", "out", "max_segment", "language", "max_new_tokens", "channel", "fail_fast"])]
    stream: bool,
    /// Transcription delay of Voxtral Realtime in steps of 80 ms [default: as in the model's files, usually 6 (480 ms)]
    #[arg(long, value_name = "STEPS")]
    delay: Option<usize>,
}

/// A transcription while it runs.
struct Work<'a> {
    options: &'a Transcribe,
    inputs: &'a Inputs,
    recognizer: &'a AnyTranscriber,
    output: Output,
    progress: Progress,
    stop: &'a AtomicBool,
    /// Number of files that are done or have failed.
    past: usize,
    failed: usize,
    /// Number of files with a transcript that the model did not end.
    unfinished: usize,
}

/// A file of a group with the transcripts of its pieces so far.
struct PendingFile {
    index: usize,
    loaded: Result<Vec<f32>>,
    /// Sample ranges that are transcribed separately.
    pieces: Vec<Range<usize>>,
    transcripts: Vec<Option<Transcript>>,
}

impl Transcribe {
    /// Transcribes all inputs and returns the exit code.
    pub(super) fn go(&self) -> Result<u8> {
        if let Some(language) = &self.language {
            prompt::check_language(language).map_err(|error| error.kind(ErrorKind::InvalidInput))?;
        }
        if self.stream && self.paths.len() > 1 {
            return Err(Error::new("`--stream` takes one file or standard input").kind(ErrorKind::InvalidInput).hint("pass only one path"));
        }
        if self.stream {
            return self.go_streaming();
        }
        let mut inputs = input::gather(&self.paths)?;
        let output = Output::new(self.format(), &inputs, self.out.as_deref(), self.force)?;
        let recognizer = self.transcriber()?;
        // Standard input is read before the signal handlers are installed, so that Ctrl-C ends the program while it waits.
        inputs.read_stream()?;
        let stop = listen()?.asked;
        let progress = Progress::new(inputs.list.len());
        let mut work = Work {
            options: self,
            inputs: &inputs,
            recognizer: &recognizer,
            output,
            progress,
            stop: &stop,
            past: 0,
            failed: 0,
            unfinished: 0,
        };
        thread::scope(|scope| {
            // One group waits while the model transcribes another and a third is being decoded.
            let (sender, receiver) = sync_channel::<Group>(1);
            scope.spawn(|| reader::read(&inputs.list, self.channel, sender));
            receiver.into_iter().try_for_each(|group| work.transcribe(group))
        })?;
        work.progress.end();
        if work.unfinished > 0 && inputs.list.len() > 1 {
            work.progress.print(&format!("{} of {} transcripts are unfinished", work.unfinished, inputs.list.len()));
        }
        match work.failed {
            0 => Ok(Exit::Done as u8),
            failed => {
                work.progress.print(&format!("{failed} of {} files could not be transcribed", inputs.list.len()));
                Ok(Exit::Failed as u8)
            }
        }
    }

    fn go_streaming(&self) -> Result<u8> {
        match (self.transcriber()?, self.paths.first()) {
            (AnyTranscriber::Realtime(recognizer), Some(path)) => stream::go(&recognizer, path),
            _ => Err(Error::new(format!("`--stream` needs {MODEL_NAME}; this model transcribes whole recordings only"))
                .kind(ErrorKind::InvalidInput)
                .hint("omit `--stream`, or pass Voxtral-Mini-4B-Realtime-2602 as `--model`")),
        }
    }

    /// Opens the model, with the delay of `--delay`.
    fn transcriber(&self) -> Result<AnyTranscriber> {
        match (self.model.open(self.force)?, self.delay) {
            (transcriber, None) => Ok(transcriber),
            (AnyTranscriber::Realtime(recognizer), Some(steps)) => Ok(AnyTranscriber::Realtime(Box::new(recognizer.with_delay(steps)?))),
            (AnyTranscriber::Recordings(_), Some(_)) => {
                Err(Error::new(format!("`--delay` needs {MODEL_NAME}")).kind(ErrorKind::InvalidInput).hint("omit `--delay`"))
            }
        }
    }

    fn format(&self) -> Format {
        match (self.json, self.srt, self.vtt) {
            (true, ..) => Format::Json,
            (_, true, _) => Format::Srt,
            (_, _, true) => Format::Vtt,
            _ => self.format.unwrap_or(Format::Text),
        }
    }

    /// Splits a recording into sample ranges.
    fn split(&self, samples: &[f32]) -> Vec<Range<usize>> {
        let count = |seconds: f64| (seconds * f64::from(SAMPLE_RATE)) as usize;
        match self.max_segment.or(self.format().has_times().then_some(SUBTITLE_SEGMENT)) {
            Some(longest) => segmentation::pieces(samples, count(longest)),
            None => segmentation::windows(samples, count(self.chunk_length)),
        }
    }
}

impl Work<'_> {
    /// Transcribes a group of files in batches.
    fn transcribe(&mut self, group: Group) -> Result<()> {
        let mut files: Vec<PendingFile> = group.into_iter().map(|loaded| self.pending(loaded)).collect();
        let failed_at = if self.options.fail_fast { files.iter().position(|file| file.loaded.is_err()) } else { None };
        let samples: Vec<Vec<f32>> = files.iter_mut().map(|file| std::mem::take(file.loaded.as_mut().unwrap_or(&mut Vec::new()))).collect();
        let first_failure = failed_at.map(|failed_at| files.split_off(failed_at));
        let mut places = Vec::new();
        let mut utterances = Vec::new();
        for (place, (file, samples)) in files.iter().zip(&samples).enumerate() {
            for (piece, range) in file.pieces.iter().enumerate() {
                places.push((place, piece));
                let samples = samples.get(range.clone()).unwrap_or(&[]);
                utterances.push(Utterance { samples, language: self.options.language.as_deref() });
            }
        }
        let limit = self.options.max_new_tokens.map_or(TokenLimit::Auto, |tokens| TokenLimit::Tokens(tokens as usize));
        let mut next = 0;
        let recognizer = self.recognizer;
        self.flush(&mut files, &mut next)?;
        recognizer.transcribe_each(&utterances, limit, &mut |event| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(self.interrupted());
            }
            match event {
                TranscribeEvent::Progress => self.progress.tick(),
                TranscribeEvent::Transcript(index, transcript) => {
                    let slot = places.get(index).and_then(|(place, piece)| files.get_mut(*place)?.transcripts.get_mut(*piece));
                    if let (Some(slot), Some(utterance)) = (slot, utterances.get(index)) {
                        *slot = Some(transcript);
                        self.progress.add_samples(utterance.samples.len());
                    }
                    self.flush(&mut files, &mut next)?;
                }
            }
            Ok(())
        })?;
        self.flush(&mut files, &mut next)?;
        let failure = first_failure.and_then(|failed| failed.into_iter().next()?.loaded.err());
        failure.map_or(Ok(()), Err)
    }

    fn pending(&self, Loaded { index, samples: loaded, notes }: Loaded) -> PendingFile {
        if let Some(input) = self.inputs.list.get(index) {
            notes.iter().for_each(|note| self.progress.print(&format!("note: {}: {note}", input.name.display())));
        }
        let pieces = loaded.as_ref().map_or_else(|_| Vec::new(), |samples| self.options.split(samples));
        PendingFile { index, loaded, transcripts: vec![None; pieces.len()], pieces }
    }

    /// Writes the results of finished files, up to the first unfinished one.
    fn flush(&mut self, files: &mut [PendingFile], next: &mut usize) -> Result<()> {
        while let Some(file) = files.get_mut(*next).filter(|file| file.transcripts.iter().all(Option::is_some)) {
            *next += 1;
            self.past += 1;
            let Some(input) = self.inputs.list.get(file.index) else { continue };
            match &file.loaded {
                Err(error) => {
                    self.failed += 1;
                    self.progress.suspend(|| print_error(error));
                }
                Ok(_) => {
                    let seconds = |samples: usize| samples as f64 / f64::from(SAMPLE_RATE);
                    let pieces = file.transcripts.drain(..).flatten().zip(&file.pieces);
                    let segments: Vec<Segment> =
                        pieces.map(|(transcript, piece)| Segment::new(seconds(piece.start), seconds(piece.end), transcript)).collect();
                    let clip = Clip { input, language: self.options.language.as_deref(), seconds: input.seconds(), segments };
                    if !clip.finished() {
                        self.unfinished += 1;
                        let why = match self.options.max_new_tokens {
                            Some(limit) => format!("it reached the limit of {limit} tokens; raise it with `--max-new-tokens`, or omit it"),
                            None if clip.repeats() => "it repeats itself and was ended".to_owned(),
                            None => "it reached the most text that the recording or the model's context can hold".to_owned(),
                        };
                        self.progress.print(&format!("warning: {}: the transcript is unfinished: {why}", input.name.display()));
                    }
                    let output = &self.output;
                    self.progress.suspend(|| output.write(file.index, &clip))?;
                }
            }
            self.progress.file();
        }
        Ok(())
    }

    fn interrupted(&self) -> Error {
        Error::new(format!("interrupted: {} of {} files are done", self.past, self.inputs.list.len())).kind(ErrorKind::Interrupted)
    }
}

/// Parses a length in seconds that the model can transcribe at a time.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if (1.0..=2.0 * CHUNK_LENGTH).contains(&seconds) { Ok(seconds) } else { Err(format!("it must be from 1 to {}", 2.0 * CHUNK_LENGTH)) }
}
