//! `voxpipe transcribe PATH…`: what a model hears in audio files, as text, JSON or subtitles.
//!
//! Files are decoded ahead of the model, in groups that fit in memory, and what is heard is printed in the order of the files as soon
//! as all that comes before is known. A file that cannot be read is said on standard error; the others go on.

mod input;
mod model;
mod output;
mod progress;
mod reader;

pub(super) use model::ModelArgs;

use super::run::listen;
use super::{complain, stream};
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
use voxtral::audio::{SAMPLE_RATE, segmentation};
use voxtral::inference::asr_model::AnyTranscriber;
use voxtral::inference::transcriber::{TokenLimit, TranscribeEvent, Transcript, Utterance};
use voxtral::realtime::MODEL_NAME;
use voxtral::tokenizer::prompt;

/// Longest recording that is heard in one go, in seconds: with its transcript it fills half of the 32 768 tokens the model was made for.
const CHUNK_LENGTH: f64 = 1200.0;
/// Longest piece a subtitle is made of, in seconds.
const PIECE: f64 = 12.0;

/// What to transcribe, with what, and where to.
#[derive(Args)]
pub(super) struct Transcribe {
    /// Audio files (WAV, FLAC, MP3, OGG, M4A), folders of them, patterns in quotes, or - for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    #[command(flatten)]
    model: model::ModelArgs,
    /// What is spoken, as a two-letter code; left out, the model finds out
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// Longest transcript, in tokens; left out, 64 and 16 for each second of audio
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// What to write
    #[arg(long, value_enum, group = "shape")]
    format: Option<Format>,
    /// The same as `--format json`: one object a file, on one line
    #[arg(long, group = "shape")]
    json: bool,
    /// The same as `--format srt`
    #[arg(long, group = "shape")]
    srt: bool,
    /// The same as `--format vtt`
    #[arg(long, group = "shape")]
    vtt: bool,
    /// Write a file for each input into this folder; left out, subtitles of several inputs are written beside these, all else is printed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write over files that are there
    #[arg(long)]
    force: bool,
    /// Cut at pauses into segments of at most this many seconds, each with its times. Default for subtitles: 12
    #[arg(long, alias = "pieces", value_name = "SECONDS", value_parser = seconds)]
    max_segment: Option<f64>,
    /// Transcribe at most this many seconds at a time; longer audio is cut at its quietest point
    #[arg(long, alias = "window", value_name = "SECONDS", value_parser = seconds, default_value_t = CHUNK_LENGTH, conflicts_with = "max_segment")]
    chunk_length: f64,
    /// Stop at the first file that cannot be transcribed
    #[arg(long)]
    fail_fast: bool,
    /// Print text while it is heard, of one file or of standard input: 16 kHz mono of 16 bits, bare or WAV; needs Voxtral Realtime
    #[arg(long, conflicts_with_all = ["shape", "out", "force", "max_segment", "language", "max_new_tokens", "fail_fast"])]
    stream: bool,
    /// How far the text of Voxtral Realtime lags behind the sound, in steps of 80 ms; left out, as its files say (480 ms)
    #[arg(long, value_name = "STEPS")]
    delay: Option<usize>,
}

/// What is done and what is left.
struct Work<'a> {
    asked: &'a Transcribe,
    inputs: &'a Inputs,
    recognizer: &'a AnyTranscriber,
    output: Output,
    progress: Progress,
    stop: &'a AtomicBool,
    /// Files that are done or have failed.
    past: usize,
    failed: usize,
}

/// A file of a group, with what was heard of it so far.
struct Hearing {
    index: usize,
    loaded: Result<Vec<f32>>,
    pieces: Vec<Range<usize>>,
    heard: Vec<Option<Transcript>>,
}

impl Transcribe {
    /// Transcribes, and gives the exit code.
    pub(super) fn go(&self) -> Result<u8> {
        if let Some(language) = &self.language {
            prompt::check_language(language).map_err(|error| error.kind(ErrorKind::InvalidInput))?;
        }
        if self.stream && self.paths.len() > 1 {
            return Err(Error::new("`--stream` hears one file, or standard input").kind(ErrorKind::InvalidInput).hint("name only one"));
        }
        if self.stream {
            return self.go_streaming();
        }
        let mut inputs = input::gather(&self.paths)?;
        let output = Output::new(self.format(), &inputs, self.out.as_deref(), self.force)?;
        let recognizer = self.listener()?;
        // Standard input is read before signals are listened to: while it waits, they end the program.
        inputs.read_stream()?;
        let stop = listen()?.asked;
        let progress = Progress::new(inputs.list.len());
        let mut work = Work { asked: self, inputs: &inputs, recognizer: &recognizer, output, progress, stop: &stop, past: 0, failed: 0 };
        thread::scope(|scope| {
            // One group waits while the model hears another, and a third is being decoded.
            let (sender, receiver) = sync_channel::<Group>(1);
            scope.spawn(|| reader::read(&inputs.list, sender));
            receiver.into_iter().try_for_each(|group| work.hear(group))
        })?;
        work.progress.end();
        match work.failed {
            0 => Ok(Exit::Done as u8),
            failed => {
                work.progress.say(&format!("{failed} of {} files could not be transcribed", inputs.list.len()));
                Ok(Exit::Failed as u8)
            }
        }
    }

    fn go_streaming(&self) -> Result<u8> {
        match (self.listener()?, self.paths.first()) {
            (AnyTranscriber::Realtime(recognizer), Some(path)) => stream::go(&recognizer, path),
            _ => Err(Error::new(format!("`--stream` needs {MODEL_NAME}; this model hears whole recordings"))
                .kind(ErrorKind::InvalidInput)
                .hint("leave `--stream` out, or give the folder of Voxtral-Mini-4B-Realtime-2602 as `--model`")),
        }
    }

    /// The model, with the delay that was asked for.
    fn listener(&self) -> Result<AnyTranscriber> {
        match (self.model.open()?, self.delay) {
            (listener, None) => Ok(listener),
            (AnyTranscriber::Realtime(recognizer), Some(steps)) => Ok(AnyTranscriber::Realtime(Box::new(recognizer.with_delay(steps)?))),
            (AnyTranscriber::Recordings(_), Some(_)) => {
                Err(Error::new(format!("`--delay` needs {MODEL_NAME}")).kind(ErrorKind::InvalidInput).hint("leave `--delay` out"))
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

    /// Where a recording is cut.
    fn cut(&self, samples: &[f32]) -> Vec<Range<usize>> {
        let count = |seconds: f64| (seconds * f64::from(SAMPLE_RATE)) as usize;
        match self.max_segment.or(self.format().has_times().then_some(PIECE)) {
            Some(longest) => segmentation::pieces(samples, count(longest)),
            None => segmentation::windows(samples, count(self.chunk_length)),
        }
    }
}

impl Work<'_> {
    /// Transcribes a group of files side by side.
    fn hear(&mut self, group: Group) -> Result<()> {
        let mut files: Vec<Hearing> = group.into_iter().map(|loaded| self.hearing(loaded)).collect();
        let stuck = if self.asked.fail_fast { files.iter().position(|file| file.loaded.is_err()) } else { None };
        let samples: Vec<Vec<f32>> = files.iter_mut().map(|file| std::mem::take(file.loaded.as_mut().unwrap_or(&mut Vec::new()))).collect();
        let first_failure = stuck.map(|stuck| files.split_off(stuck));
        let mut places = Vec::new();
        let mut utterances = Vec::new();
        for (place, (file, samples)) in files.iter().zip(&samples).enumerate() {
            for (piece, range) in file.pieces.iter().enumerate() {
                places.push((place, piece));
                utterances.push(Utterance { samples: samples.get(range.clone()).unwrap_or(&[]), language: self.asked.language.as_deref() });
            }
        }
        let limit = self.asked.max_new_tokens.map_or(TokenLimit::Auto, |tokens| TokenLimit::Tokens(tokens as usize));
        let mut next = 0;
        let recognizer = self.recognizer;
        self.flush(&mut files, &mut next)?;
        recognizer.transcribe_each(&utterances, limit, &mut |heard| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(self.interrupted());
            }
            match heard {
                TranscribeEvent::More => self.progress.tick(),
                TranscribeEvent::Clip(index, transcript) => {
                    let slot = places.get(index).and_then(|(place, piece)| files.get_mut(*place)?.heard.get_mut(*piece));
                    if let (Some(slot), Some(utterance)) = (slot, utterances.get(index)) {
                        *slot = Some(transcript);
                        self.progress.heard(utterance.samples.len());
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

    fn hearing(&self, Loaded { index, samples: loaded }: Loaded) -> Hearing {
        let pieces = loaded.as_ref().map_or_else(|_| Vec::new(), |samples| self.asked.cut(samples));
        Hearing { index, loaded, heard: vec![None; pieces.len()], pieces }
    }

    /// Writes what is known, up to the first file that is not.
    fn flush(&mut self, files: &mut [Hearing], next: &mut usize) -> Result<()> {
        while let Some(file) = files.get_mut(*next).filter(|file| file.heard.iter().all(Option::is_some)) {
            *next += 1;
            self.past += 1;
            let Some(input) = self.inputs.list.get(file.index) else { continue };
            match &file.loaded {
                Err(error) => {
                    self.failed += 1;
                    self.progress.aside(|| complain(error));
                }
                Ok(_) => {
                    let seconds = |samples: usize| samples as f64 / f64::from(SAMPLE_RATE);
                    let heard = file.heard.drain(..).flatten().zip(&file.pieces);
                    let segments: Vec<Segment> =
                        heard.map(|(transcript, piece)| Segment::new(seconds(piece.start), seconds(piece.end), transcript)).collect();
                    let clip = Clip { input, language: self.asked.language.as_deref(), seconds: input.seconds(), segments };
                    if !clip.finished() {
                        self.progress.say(&format!(
                            "warning: {}: the transcript was cut at its limit; `--max-new-tokens` raises it",
                            input.name.display()
                        ));
                    }
                    let output = &self.output;
                    self.progress.aside(|| output.write(file.index, &clip))?;
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

/// A number of seconds that can be heard in one go.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if (1.0..=2.0 * CHUNK_LENGTH).contains(&seconds) { Ok(seconds) } else { Err(format!("it must be from 1 to {}", 2.0 * CHUNK_LENGTH)) }
}
