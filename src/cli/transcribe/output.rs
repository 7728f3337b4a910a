//! Writes transcripts as text, JSON or subtitles to standard output or to files. Existing files need `--force`.

use super::ValueEnum;
use super::input::{Input, Inputs, Source};
use crate::cli::print;
use crate::data::subtitles;
use crate::data::subtitles::SubtitleCue;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe_io::write::write_atomic;
use voxtral::inference::transcriber::Transcript;

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One line per file, with the file name if there are several
    Text,
    /// One JSON object per file and line
    Json,
    /// SubRip subtitles
    Srt,
    /// WebVTT subtitles
    Vtt,
}

/// Destination of the results.
#[derive(Debug)]
pub(super) struct Output {
    format: Format,
    /// Whether text output has the file name in front of each transcript.
    several: bool,
    /// Output file of each input; empty for standard output.
    files: Vec<PathBuf>,
    force: bool,
}

/// Transcript of a file.
pub(super) struct Clip<'a> {
    pub(super) input: &'a Input,
    pub(super) language: Option<&'a str>,
    pub(super) seconds: f64,
    pub(super) segments: Vec<Segment>,
}

/// Transcript of a part of a file.
#[derive(Debug, Serialize)]
pub(super) struct Segment {
    /// Start in seconds from the beginning of the file.
    start: f64,
    end: f64,
    text: String,
    tokens: Vec<u32>,
    log_probabilities: Vec<f32>,
    finished: bool,
    #[serde(skip)]
    repeats: bool,
}

/// JSON output of a file. The keys are part of the interface.
#[derive(Serialize)]
struct Json<'a> {
    file: String,
    text: String,
    language: Option<&'a str>,
    tokens: Vec<u32>,
    log_probabilities: Vec<f32>,
    seconds: f64,
    finished: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<&'a [Segment]>,
}

impl Format {
    /// Whether the format has times.
    pub(super) fn has_times(self) -> bool {
        matches!(self, Self::Srt | Self::Vtt)
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Text => "txt",
            Self::Json => "json",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
        }
    }
}

impl Output {
    /// Chooses the destination. Conflicts and existing files are errors now, before anything is transcribed.
    pub(super) fn new(format: Format, inputs: &Inputs, out: Option<&Path>, force: bool) -> Result<Self> {
        let mut output = Self { format, several: inputs.several, files: Vec::new(), force };
        let next_to_audio = format.has_times() && inputs.several;
        if out.is_none() && !next_to_audio {
            return Ok(output);
        }
        let usage = |message: String| Error::new(message).kind(ErrorKind::InvalidInput);
        let mut taken: BTreeMap<PathBuf, &Path> = BTreeMap::new();
        for input in &inputs.list {
            let path = match (out, &input.source) {
                (Some(out), _) => out.join(&input.below),
                (None, Source::File) => input.name.clone(),
                (None, Source::Stream(_)) => {
                    return Err(usage("standard input has no folder for its subtitles".to_owned()).hint("choose a folder with `--out`"));
                }
            };
            let path = path.with_extension(format.extension());
            if path == input.name {
                return Err(
                    usage(format!("the transcript of `{}` would overwrite it", path.display())).hint("choose a folder with `--out`")
                );
            }
            if let Some(other) = taken.insert(path.clone(), &input.name) {
                let both = format!("`{}` and `{}`", other.display(), input.name.display());
                return Err(usage(format!("{both} would both be written to `{}`", path.display())).hint("transcribe them in two commands"));
            }
            output.files.push(path);
        }
        let existing: Vec<&PathBuf> = output.files.iter().filter(|path| path.exists()).collect();
        match existing.first() {
            Some(first) if !force => {
                let more = if existing.len() > 1 { format!(" and {} more files", existing.len() - 1) } else { String::new() };
                Err(usage(format!("output exists: `{}`{more}", first.display()))
                    .hint("overwrite with `--force`, or choose a folder with `--out`"))
            }
            _ => Ok(output),
        }
    }

    /// Writes the transcript of the input with this index.
    pub(super) fn write(&self, index: usize, clip: &Clip) -> Result<()> {
        let text = self.render(clip)?;
        let Some(path) = self.files.get(index) else { return print(&text) };
        let writing = || format!("cannot write `{}`", path.display());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).with_context(writing)?;
        }
        if self.force {
            return write_atomic(path, text.as_bytes());
        }
        let part = path.with_added_extension("part");
        fs::write(&part, text).with_context(writing)?;
        // Creating a link fails if the file exists by now; a rename would replace it.
        let linked = fs::hard_link(&part, path);
        fs::remove_file(&part).with_context(writing)?;
        linked.with_context(writing)
    }

    fn render(&self, clip: &Clip) -> Result<String> {
        Ok(match self.format {
            Format::Text if self.several && self.files.is_empty() => format!("{}: {}\n", clip.input.name.display(), clip.text()),
            Format::Text => format!("{}\n", clip.text()),
            Format::Json => format!("{}\n", serde_json::to_string(&clip.json())?),
            Format::Srt => subtitles::srt(&clip.cues()),
            Format::Vtt => subtitles::vtt(&clip.cues()),
        })
    }
}

impl Clip<'_> {
    /// Whether the model ended every segment itself.
    pub(super) fn finished(&self) -> bool {
        self.segments.iter().all(|segment| segment.finished)
    }

    /// Whether a segment was ended because it repeats itself.
    pub(super) fn repeats(&self) -> bool {
        self.segments.iter().any(|segment| segment.repeats)
    }

    /// The whole transcript on one line.
    fn text(&self) -> String {
        self.segments.iter().flat_map(|segment| segment.text.split_whitespace()).collect::<Vec<_>>().join(" ")
    }

    fn json(&self) -> Json<'_> {
        let text = match self.segments.as_slice() {
            [whole] => whole.text.clone(),
            _ => self.text(),
        };
        Json {
            file: self.input.name.display().to_string(),
            text,
            language: self.language,
            tokens: self.segments.iter().flat_map(|segment| &segment.tokens).copied().collect(),
            log_probabilities: self.segments.iter().flat_map(|segment| &segment.log_probabilities).copied().collect(),
            seconds: self.seconds,
            finished: self.finished(),
            segments: self.is_split().then_some(&self.segments),
        }
    }

    /// Whether the file was transcribed in parts.
    fn is_split(&self) -> bool {
        !matches!(self.segments.as_slice(), [whole] if whole.start == 0.0 && whole.end == self.seconds)
    }

    fn cues(&self) -> Vec<SubtitleCue> {
        self.segments.iter().map(|segment| SubtitleCue { start: segment.start, end: segment.end, text: segment.text.clone() }).collect()
    }
}

impl Segment {
    pub(super) fn new(start: f64, end: f64, transcript: Transcript) -> Self {
        let Transcript { text, tokens, log_probabilities, finished, repeats } = transcript;
        Self { start, end, text, tokens, log_probabilities, finished, repeats }
    }
}
