//! Long recordings without times: a model finds where their text is said (`align`), or transcribes them (`draft`).

use super::pieces::between_pauses;
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::stages::context::SpeechContext;
use pipeline::stage::{Context, ResolveRevision, SettingError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use voxtral::audio::speech::SpeechActivity;
use voxtral::audio::{Channel, SAMPLE_RATE, read_wav16k, write_wav16k};
use voxtral::inference::alignment::{HeardPiece, align};
use voxtral::inference::transcriber::{TokenLimit, TranscribeEvent, Transcriber, Utterance, WeightsFrom};
use voxtral::weights::precision::Precision;
use voxtral::{device, lora};

/// The model that `align` and `draft` use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TranscriberSettings {
    /// Folder or Hub id of the model. Default: that of the input `model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Device: `auto` (a GPU if there is one, otherwise the CPU), `cpu`, or one GPU: `cuda:N`, `rocm:N`, `wgpu:N`.
    pub device: String,
    /// Data type of the weight matrices in memory: `auto` (as stored in the checkpoint), `f32`, `bf16`, `q8` or `q4` (8 or 4 bits).
    pub precision: Precision,
    /// Maximum length of a clip in seconds; recordings are cut at pauses.
    pub segment_seconds: f64,
    /// Confidence from 0 to 1 that a passage of the text needs to become a clip: 1 if the model hears the same words there and around it, lower
    /// the less probable the words are to it. Others are left out and listed.
    pub confidence: f64,
}

impl Default for TranscriberSettings {
    fn default() -> Self {
        Self { base: None, device: "auto".to_owned(), precision: Precision::Auto, segment_seconds: 12.0, confidence: 0.5 }
    }
}

impl TranscriberSettings {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with the settings.
    pub(super) fn check(&self, max_seconds: f64) -> Vec<SettingError> {
        let mut errors = Vec::new();
        let mut wrong = |name: &str, message: String, hint: &str| {
            errors.push(SettingError::new(&format!("transcriber.{name}"), message).hint(hint));
        };
        if !device::is_name(&self.device) {
            wrong("device", format!("`device` must be {}", device::NAMES), "write `auto`");
        }
        if !(self.segment_seconds >= 1.0 && self.segment_seconds <= max_seconds) {
            let message = format!("`segment_seconds` is {}, `max_seconds` is {max_seconds}", self.segment_seconds);
            wrong("segment_seconds", message, "write a number from 1 to `max_seconds`");
        }
        if !(0.0..=1.0).contains(&self.confidence) {
            wrong("confidence", format!("{} is no confidence", self.confidence), "write a number from 0 to 1");
        }
        errors
    }

    pub(super) fn pin(&mut self, pin: &mut ResolveRevision<'_>) {
        if let Some(base) = &mut self.base {
            hub::pin(base, None, pin);
        }
    }
}

/// A part of a recording with its text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FoundClip {
    /// Start in seconds.
    pub(super) start: f64,
    /// End in seconds.
    pub(super) end: f64,
    pub(super) text: String,
    /// What the model hears.
    pub(super) heard: String,
    /// From 0 to 1.
    pub(super) confidence: f64,
}

/// A part of a recording that is left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct UncertainPart {
    /// The recording.
    pub(super) file: String,
    /// Start in seconds.
    pub(super) start: f64,
    /// End in seconds.
    pub(super) end: f64,
    /// The given text that may belong here.
    pub(super) text: String,
    /// What the model hears.
    pub(super) heard: String,
    /// From 0 to 1.
    pub(super) confidence: f64,
}

/// What was found in a recording.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FoundClips {
    pub(super) clips: Vec<FoundClip>,
    pub(super) uncertain: Vec<UncertainPart>,
    /// Passages of the text that were found nowhere.
    pub(super) left_over: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// A recording to cut.
pub(super) struct LongRecording<'a> {
    pub(super) path: &'a Path,
    pub(super) shown: &'a str,
    pub(super) channel: Channel,
    /// The text that is said in it; `None` writes what the model hears.
    pub(super) text: Option<&'a str>,
    pub(super) language: Option<&'a str>,
}

/// An opened model that transcribes the pieces of recordings.
pub(super) struct PieceTranscriber<'a> {
    cx: &'a Context,
    settings: &'a TranscriberSettings,
    model: Transcriber,
}

/// Pieces that are transcribed at a time.
const AT_ONCE: usize = 64;

impl<'a> PieceTranscriber<'a> {
    /// Opens the model of the input `model` or of the settings.
    pub(super) fn open(cx: &'a Context, settings: &'a TranscriberSettings) -> Result<Self> {
        let chosen = cx.device(&settings.device)?;
        let open = |folder: &Path, start| Transcriber::open_with(folder, start, settings.precision, &chosen.device);
        let model = match (cx.optional("model"), &settings.base) {
            (Some(model), base) if lora::is_adapter(&model.path) => {
                let base = cx.base_of(model, base.as_deref())?;
                let mut opened = open(&base.path, base.start)?;
                opened.adapt(&model.path)?;
                opened
            }
            (Some(model), _) => open(&model.path, WeightsFrom::Checkpoint)?,
            (None, Some(base)) => open(&cx.model(base, None)?, WeightsFrom::Checkpoint)?,
            (None, None) => {
                return Err(Error::new("`align` and `draft` need a model")
                    .kind(ErrorKind::InvalidInput)
                    .hint("write `from = { model = \"STAGE\" }`, or `transcriber = { base = \"mistralai/Voxtral-Mini-3B-2507\" }`"));
            }
        };
        if let Some(note) = &model.loaded.note {
            cx.note(note);
        }
        Ok(Self { cx, settings, model })
    }

    /// Cuts a recording at pauses and finds the text of the pieces. A recording of at most `whole` seconds with a text is one clip: it is not
    /// transcribed, and the result is `None`.
    pub(super) fn find(&self, recording: &LongRecording, whole: f64) -> Result<Option<FoundClips>> {
        let folder = self.cx.scratch.join("pieces");
        fs::create_dir_all(&folder)?;
        let longest = (self.settings.segment_seconds * f64::from(SAMPLE_RATE)) as usize;
        let mut places = Vec::new();
        let info = between_pauses(recording.path, recording.channel, longest, &mut |place, samples| {
            // A model writes words for noise too.
            if SpeechActivity::of(samples).instead.is_some() {
                return Ok(());
            }
            write_wav16k(&piece_path(&folder, places.len()), samples)?;
            places.push(place);
            Ok(())
        })?;
        if recording.text.is_some() && info.samples as f64 <= whole * f64::from(SAMPLE_RATE) {
            fs::remove_dir_all(&folder)?;
            return Ok(None);
        }
        let heard = self.transcribe(&folder, places.len(), recording)?;
        let seconds = |samples: usize| samples as f64 / f64::from(SAMPLE_RATE);
        let mut found = FoundClips { notes: info.notes, ..Default::default() };
        let Some(text) = recording.text else {
            let clips = places.iter().zip(heard).filter(|(_, heard)| !heard.text.is_empty());
            found.clips = clips
                .map(|(place, heard)| FoundClip {
                    start: seconds(place.start),
                    end: seconds(place.end),
                    text: heard.text.clone(),
                    heard: heard.text,
                    confidence: 1.0,
                })
                .collect();
            fs::remove_dir_all(&folder)?;
            return Ok(Some(found));
        };
        let aligned = align(text, &heard, &mut |piece, texts| {
            self.check_stop()?;
            let samples = read_wav16k(&piece_path(&folder, piece))?;
            let scores = self.model.score_texts(&Utterance { samples: &samples, language: recording.language }, texts)?;
            Ok(scores.into_iter().map(|score| score.log_probability).collect())
        })?;
        fs::remove_dir_all(&folder)?;
        for ((place, heard), piece) in places.iter().zip(heard).zip(aligned.pieces) {
            let (start, end) = (seconds(place.start), seconds(place.end));
            let confidence = (piece.confidence * 1000.0).round() / 1000.0;
            if piece.confidence >= self.settings.confidence && !piece.text.is_empty() {
                found.clips.push(FoundClip { start, end, text: piece.text, heard: heard.text, confidence });
            } else {
                let file = recording.shown.to_owned();
                found.uncertain.push(UncertainPart { file, start, end, text: piece.text, heard: heard.text, confidence });
            }
        }
        found.left_over = aligned.left_over;
        Ok(Some(found))
    }

    /// What the model hears in the pieces of a folder.
    fn transcribe(&self, folder: &Path, number: usize, recording: &LongRecording) -> Result<Vec<HeardPiece>> {
        let mut heard = vec![HeardPiece { text: String::new(), log_probability: 0.0 }; number];
        let mut done = 0;
        for first in (0..number).step_by(AT_ONCE) {
            let pieces: Vec<usize> = (first..number.min(first + AT_ONCE)).collect();
            let samples = pieces.iter().map(|piece| read_wav16k(&piece_path(folder, *piece))).collect::<Result<Vec<_>>>()?;
            let utterances: Vec<Utterance> = samples.iter().map(|samples| Utterance { samples, language: recording.language }).collect();
            let outcome = self.model.transcribe_each(&utterances, TokenLimit::Auto, &mut |event| {
                self.check_stop()?;
                if let TranscribeEvent::Transcript(index, transcript) = event {
                    let log_probability = transcript.log_probabilities.iter().map(|value| f64::from(*value)).sum();
                    // A transcript that the model did not end is of no use; as an empty one it makes the piece uncertain.
                    let text = if transcript.finished { transcript.text } else { String::new() };
                    if let Some(slot) = pieces.get(index).and_then(|piece| heard.get_mut(*piece)) {
                        *slot = HeardPiece { text, log_probability };
                    }
                    done += 1;
                    self.cx.progress(done, number as u64, "pieces", recording.shown);
                }
                Ok(())
            });
            outcome.map_err(|error| error.context(recording.shown.to_owned()))?;
        }
        Ok(heard)
    }

    fn check_stop(&self) -> Result<()> {
        if self.cx.stopping() {
            return Err(Error::new("stopped while long to the recordings").kind(ErrorKind::Interrupted).hint("run again"));
        }
        Ok(())
    }
}

fn piece_path(folder: &Path, piece: usize) -> PathBuf {
    folder.join(format!("{piece:06}.wav"))
}
