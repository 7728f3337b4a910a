//! `align` and `draft`: replaces long recordings among the clips by the parts that a model found, and reports what it did not find.

use super::Uploads;
use super::pairing::Paired;
use super::sounds::Sounds;
use super::transcriber::{LongRecording, PieceTranscriber, UncertainPart};
use crate::data::clip_items::{ClipItem, LeftRow};
use crate::data::clip_row::ClipRow;
use crate::data::columns::TableClip;
use crate::data::ingest::rounded;
use crate::data::text::{count, first_few};
use crate::data::time_bounds::{TimeBounds, WrittenTime};
use crate::error::Result;
use pipeline::stage::Context;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use voxpipe_io::jsonl;

/// What was heard, beside the clips.
#[derive(Default)]
pub(super) struct LongReport {
    /// Number of recordings that were cut by their text.
    aligned: usize,
    /// Number of clips that are drafts.
    drafts: usize,
    uncertain: Vec<UncertainPart>,
    left_over: Vec<LeftOver>,
}

/// A passage of a text that was found nowhere in its recording.
#[derive(Serialize)]
struct LeftOver {
    file: String,
    text: String,
}

impl Uploads {
    /// Whether a model is needed.
    pub(super) fn needs_model(&self) -> bool {
        self.align || self.draft
    }

    /// Listens to the long recordings with a text, and to those without one. Files in archives are written to `unpacked` first.
    pub(super) fn transcribe_long(&self, cx: &Context, sounds: &Sounds, paired: &mut Paired, unpacked: &Path) -> Result<LongReport> {
        let mut long = LongReport::default();
        let mut transcriber: Option<PieceTranscriber> = None;
        let mut clips = Vec::new();
        for item in std::mem::take(&mut paired.clips) {
            let Some(file) = item.file.filter(|_| self.align && item.clip.bounds.is_empty()) else {
                clips.push(item);
                continue;
            };
            let shown = sounds.shown(file);
            let recording = LongRecording {
                path: &sounds.local(file, unpacked)?,
                shown: &shown,
                channel: self.channel,
                text: Some(&item.clip.text),
                language: item.clip.language.as_deref().or(self.language.as_deref()),
            };
            let transcriber = opened(&mut transcriber, || PieceTranscriber::open(cx, &self.transcriber))?;
            match readable(&recording, transcriber.find(&recording, self.max_seconds))? {
                Ok(Some(heard)) => {
                    long.aligned += 1;
                    paired.notes.extend(heard.notes.into_iter().map(|note| format!("{shown}: {note}")));
                    long.uncertain.extend(heard.uncertain);
                    long.left_over.extend(heard.left_over.into_iter().map(|text| LeftOver { file: shown.clone(), text }));
                    clips.extend(heard.clips.into_iter().map(|part| {
                        let clip = TableClip { text: part.text, bounds: bounds(part.start, part.end), ..item.clip.clone() };
                        let mut extra = item.extra.clone();
                        if part.confidence < 1.0 {
                            extra.insert("confidence".to_owned(), part.confidence.into());
                            extra.insert("heard".to_owned(), part.heard.into());
                        }
                        ClipItem { clip, unit: 1.0, extra, ..item.clone() }
                    }));
                }
                // A short recording is one clip, and a damaged one is told like all others.
                Ok(None) | Err(_) => clips.push(item),
            }
        }
        if self.draft {
            let files: BTreeMap<String, usize> = (0..sounds.len()).rev().map(|file| (sounds.shown(file), file)).collect();
            for shown in std::mem::take(&mut paired.files_without_text) {
                let Some(file) = files.get(&shown).copied() else { continue };
                let path = sounds.local(file, unpacked)?;
                let language = self.language.as_deref();
                let recording = LongRecording { path: &path, shown: &shown, channel: self.channel, text: None, language };
                let transcriber = opened(&mut transcriber, || PieceTranscriber::open(cx, &self.transcriber))?;
                match readable(&recording, transcriber.find(&recording, self.max_seconds))? {
                    Ok(heard) => {
                        let heard = heard.unwrap_or_default();
                        if heard.clips.is_empty() {
                            paired.bad.push(LeftRow { row: shown.clone(), reason: "the model hears no words in it".to_owned() });
                        }
                        long.drafts += heard.clips.len();
                        clips.extend(heard.clips.into_iter().map(|part| draft(file, &shown, part.text, bounds(part.start, part.end))));
                    }
                    Err(reason) => paired.bad.push(LeftRow { row: shown.clone(), reason }),
                }
            }
        }
        clips.sort_by_key(|item| (item.file, item.number));
        paired.clips = clips;
        Ok(long)
    }
}

/// Opens the model when it is first needed.
fn opened<'s, 'a>(
    slot: &'s mut Option<PieceTranscriber<'a>>,
    open: impl FnOnce() -> Result<PieceTranscriber<'a>>,
) -> Result<&'s PieceTranscriber<'a>> {
    let opened = match slot.take() {
        Some(opened) => opened,
        None => open()?,
    };
    Ok(slot.insert(opened))
}

/// Separates a recording that cannot be read, which is no reason to stop, from errors of the model and of the machine.
fn readable<T>(recording: &LongRecording, heard: Result<T>) -> Result<Result<T, String>> {
    match heard {
        Err(error) if error.path.as_deref() == Some(recording.path) => {
            Ok(Err(error.message.replace(&recording.path.display().to_string(), recording.shown)))
        }
        other => other.map(Ok),
    }
}

fn bounds(start: f64, end: f64) -> TimeBounds {
    let time = |value: f64| Some(WrittenTime { value: rounded(value), sure: true });
    TimeBounds { start: time(start), end: time(end), duration: None }
}

fn draft(file: usize, shown: &str, text: String, bounds: TimeBounds) -> ClipItem {
    let clip = TableClip {
        place: shown.to_owned(),
        bytes: None,
        path: Some(shown.to_owned()),
        text,
        language: None,
        speaker: None,
        bounds,
        split: None,
    };
    ClipItem { number: 0, clip, file: Some(file), unit: 1.0, split: None, extra: Map::from_iter([("draft".to_owned(), true.into())]) }
}

impl LongReport {
    /// What a person should know, as problems of the stage.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.uncertain.is_empty() {
            let shown = |part: &UncertainPart| {
                format!("{} {:.1}–{:.1} s: text `{}`, heard `{}`", part.file, part.start, part.end, part.text, part.heard)
            };
            let list: Vec<String> = self.uncertain.iter().map(shown).collect();
            problems.push(format!("{} left out, as the text is not certain: {}", count(list.len(), "part"), first_few(&list, 3)));
        }
        if !self.left_over.is_empty() {
            let list: Vec<&str> = self.left_over.iter().map(|passage| passage.text.as_str()).collect();
            problems.push(format!("{} of texts not found in the recordings: {}", count(list.len(), "passage"), first_few(&list, 3)));
        }
        problems
    }

    /// Adds what was heard to the report, and writes drafts as a file of corrections for `dataset`.
    pub(super) fn write(&self, report: &mut Value, out: &Path, records: &[ClipRow]) -> Result<()> {
        if self.aligned > 0 {
            report["align"] = json!({ "recordings": self.aligned, "uncertain": self.uncertain, "left_over": self.left_over });
        }
        if self.drafts > 0 {
            let is_draft = |record: &&ClipRow| record.rest.get("draft") == Some(&Value::Bool(true));
            let drafts: Vec<Value> =
                records.iter().filter(is_draft).map(|record| json!({ "clip": record.source, "text": record.text })).collect();
            report["drafts"] = drafts.len().into();
            jsonl::write(&out.join("drafts.jsonl"), &drafts)?;
        }
        Ok(())
    }
}
