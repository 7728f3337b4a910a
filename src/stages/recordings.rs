//! `recordings`: reads recordings of phrases from a folder; each file is named after its phrase.
//!
//! The run is parked until there are enough usable clips, and reports the missing ones. Of several takes (`en-0001.wav`, `en-0001.2.wav`)
//! the newest usable one counts. The folder is only read: no file in it is moved, changed or deleted.

use crate::data::clip_row::ClipRow;
use crate::data::file_index::{folded, meant};
use crate::data::ingest::{AudioCandidate, IngestLimits, ingest_audio, is_audio, is_litter, rounded};
use crate::data::phrase::PhraseRow;
use crate::data::text::{count, first_few, unique_stems};
use crate::error::{Error, Result, ResultExt};
use pipeline::artifact::ArtifactKind;
use pipeline::stage::{Arity, Context, Port, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe_io::jsonl;
use voxtral::audio::Channel;

/// Collect the recordings of a person who reads the phrases.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Recordings {
    /// Folder with the recordings, each named after its phrase: `en-0001.wav`, a second take `en-0001.2.wav`.
    pub folder: PathBuf,
    /// Number of phrases that need a usable recording before the run continues; until then it is parked.
    pub min_clips: usize,
    /// Language of the recordings, as an ISO 639-1 code. Default: the language of the phrases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Name of the speaker, written into every row. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
}

impl Default for Recordings {
    fn default() -> Self {
        Self { folder: "recordings".into(), min_clips: 40, language: None, speaker: None }
    }
}

/// Minimum and maximum duration in seconds. Shorter files are accidental taps on the record button.
const LIMITS: IngestLimits = IngestLimits { min: 0.1, max: f64::INFINITY };

impl Stage for Recordings {
    const KIND: &'static str = "recordings";
    const ABOUT: &'static str = "collects the recordings of a person who reads the phrases";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] =
        &[Port { name: "phrases", kinds: &[ArtifactKind::Phrases], arity: Arity::One, about: "the sentences to read" }];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Clips
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        if self.min_clips == 0 {
            errors.push(SettingError::new("min_clips", "`min_clips` must be at least 1").hint("write a number above 0"));
        }
        if self.folder.as_os_str().is_empty() {
            errors.push(SettingError::new("folder", "`folder` is empty").hint("write `folder = \"recordings\"`"));
        }
        errors
    }

    fn sources(&self) -> Vec<PathBuf> {
        vec![self.folder.clone()]
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let phrases = PhraseRow::read_all(&cx.input("phrases")?.path.join("phrases.jsonl"))?;
        if phrases.len() < self.min_clips {
            return Err(Error::new(format!("`min_clips` is {}, but there are only {}", self.min_clips, count(phrases.len(), "phrase")))
                .hint("lower `min_clips`, or raise `count` of the `phrases` stage"));
        }
        let folder = cx.path(&self.folder);
        let Sorted { takes, unmatched, other } = self.sort(&folder, &phrases)?;

        let stems = unique_stems(phrases.iter().map(|phrase| (phrase.id.as_str(), phrase.id.as_str())));
        let mut rejected = BTreeMap::new();
        let mut older = Vec::new();
        let mut used: BTreeMap<&str, (String, f64)> = BTreeMap::new();
        // Each round tries the newest remaining take of every open phrase; an unusable take is followed by the one before it.
        let mut open: BTreeMap<&str, Vec<Take>> = takes;
        while !open.is_empty() {
            let mut ids = Vec::new();
            let mut candidates = Vec::new();
            for (id, takes) in &mut open {
                if let Some(take) = takes.pop() {
                    candidates.push(AudioCandidate {
                        path: folder.join(&take.file),
                        shown: take.file,
                        stem: stems[*id].clone(),
                        span: None,
                        channel: Channel::Mix,
                    });
                    ids.push(*id);
                }
            }
            let total = candidates.len() as u64;
            let seconds = ingest_audio(&candidates, &cx.out.join("audio"), LIMITS, |done| {
                cx.progress(done as u64, total, "clips", "");
                !cx.stopping()
            })?;
            for ((id, candidate), seconds) in ids.into_iter().zip(candidates).zip(seconds) {
                match seconds {
                    Ok(clip) => {
                        used.insert(id, (candidate.shown, clip.seconds));
                        older.extend(open.remove(id).into_iter().flatten().map(|take| take.file));
                    }
                    Err(reason) => {
                        rejected.insert(candidate.shown, reason);
                    }
                }
            }
            open.retain(|_, takes| !takes.is_empty());
        }
        older.sort();

        let shown = self.folder.display();
        for reason in rejected.values() {
            cx.warn(format!("not usable: {reason}"));
        }
        if !unmatched.is_empty() {
            cx.warn(format!("{} in `{shown}` not named after a phrase: {}", count(unmatched.len(), "clip"), first_few(&unmatched, 5)));
        }
        let missing: Vec<&str> = phrases.iter().map(|phrase| phrase.id.as_str()).filter(|id| !used.contains_key(id)).collect();
        if used.len() < self.min_clips {
            let unusable = match rejected.len() {
                0 => String::new(),
                number => format!(" ({} not usable: {})", count(number, "file"), first_few(&rejected.keys().collect::<Vec<_>>(), 3)),
            };
            return Ok(StageOutcome::Parked {
                have: used.len() as u64,
                need: self.min_clips as u64,
                message: format!(
                    "`{shown}` has {} of {} clips{unusable}; record more and name each file after its phrase (`{}.wav`). Missing: {}",
                    used.len(),
                    self.min_clips,
                    missing.first().unwrap_or(&"en-0001"),
                    first_few(&missing, 5),
                ),
            });
        }

        let records: Vec<ClipRow> =
            phrases.iter().filter_map(|phrase| self.record(phrase, &stems, used.get(phrase.id.as_str())?)).collect();
        jsonl::write(&cx.out.join("clips.jsonl"), &records)?;
        let seconds = rounded(records.iter().filter_map(|record| record.duration).sum());
        let report = json!({
            "phrases": phrases.len(),
            "clips": records.len(),
            "seconds": seconds,
            "missing": missing,
            "rejected": rejected.iter().map(|(file, reason)| json!({"file": file, "reason": reason})).collect::<Vec<_>>(),
            "older_takes": older,
            "unmatched": unmatched,
            "other_files": other,
        });
        fs::write(cx.out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
        let made = StageResult::new(format!("{} of {} phrases have a clip, {seconds:.0} s in all", records.len(), phrases.len()));
        Ok(StageOutcome::Done(made.metric("clips", records.len() as f64).metric("seconds", seconds)))
    }
}

/// A take of a phrase; later takes have higher numbers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Take {
    number: u32,
    file: String,
}

/// The files of the folder, sorted by kind.
struct Sorted<'a> {
    /// The takes of each phrase, the newest last.
    takes: BTreeMap<&'a str, Vec<Take>>,
    /// Audio files that match no phrase.
    unmatched: Vec<String>,
    /// Files that are not audio.
    other: Vec<String>,
}

impl Recordings {
    /// Sorts the files of the folder. A missing folder counts as empty.
    fn sort<'a>(&self, folder: &Path, phrases: &'a [PhraseRow]) -> Result<Sorted<'a>> {
        let ids: BTreeSet<&str> = phrases.iter().map(|phrase| phrase.id.as_str()).collect();
        let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for id in &ids {
            alike.entry(folded(id)).or_default().push(id);
        }
        let mut sorted = Sorted { takes: BTreeMap::new(), unmatched: Vec::new(), other: Vec::new() };
        if !folder.exists() {
            return Ok(sorted);
        }
        let doing = || format!("cannot read the folder `{}`", self.folder.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).with_context(doing)? {
            let name = entry.with_context(doing)?.file_name().to_string_lossy().into_owned();
            if !is_litter(&name) {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let path = Path::new(&name);
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if !is_audio(path) || folder.join(path).is_dir() {
                sorted.other.push(name);
                continue;
            }
            // A file system may have changed the form of letters with accents, or their case.
            let of = |stem: &str| ids.get(stem).copied().or_else(|| meant(stem, alike.get(&folded(stem))?.iter().map(|id| (*id, *id))));
            let numbered = stem.rsplit_once('.').and_then(|(id, number)| Some((of(id)?, number.parse().ok()?)));
            match of(&stem).map(|id| (id, 1)).or(numbered) {
                Some((id, number)) => sorted.takes.entry(id).or_default().push(Take { number, file: name }),
                None => sorted.unmatched.push(name),
            }
        }
        sorted.takes.values_mut().for_each(|takes| takes.sort());
        Ok(sorted)
    }

    /// The row of `clips.jsonl` for a phrase and its take.
    fn record(&self, phrase: &PhraseRow, stems: &BTreeMap<String, String>, (file, seconds): &(String, f64)) -> Option<ClipRow> {
        Some(ClipRow {
            audio_path: format!("audio/{}.wav", stems.get(&phrase.id)?),
            text: phrase.text.clone(),
            language: Some(self.language.clone().unwrap_or_else(|| phrase.language.clone())),
            duration: Some(*seconds),
            speaker: self.speaker.clone(),
            source: Some(file.clone()),
            rest: Map::from_iter([("phrase".to_owned(), phrase.id.clone().into())]),
        })
    }
}
