//! `dataset`: checks audio and texts, removes duplicates, and splits clips by sentence so that no sentence appears in two splits.
//!
//! Splits that come with the clips are kept. The split of any other sentence depends only on a hash of the seed and its words, so most
//! sentences keep their split when clips are added. `report.json` lists rejected clips with reasons, clips with suspicious audio or text, and
//! what is in several splits.

mod edits;
mod leakage;
mod measure;
mod split;
mod text_checks;

use crate::data::clip_row::ClipRow;
use crate::data::ingest::rounded;
use crate::data::managed_dir;
use crate::data::managed_dir::ManagedDir;
use crate::data::text::{count, first_few, normalized, unique_stems};
use crate::error::{Error, Result, ResultExt};
use leakage::{Leakage, LeakageAction};
use measure::Sound;
use pipeline::artifact::ArtifactKind;
use pipeline::stage::{Arity, Context, Port, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use split::{GivenSplits, SPLITS, Split};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Component, Path, PathBuf};
use text_checks::{CheckAction, Findings, TextChecks};
use voxpipe_io::digest::Digest;
use voxpipe_io::jsonl;

/// Build a checked dataset with train, test and validation splits from clips.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dataset {
    /// Fraction of the clips in each split; the fractions must add up to 1. All clips of a sentence go to the same split, or with
    /// `by = "speaker"` all clips of a speaker. Splits that come with the clips are kept, unless `given = "ignore"`.
    pub split: Split,
    /// Minimum clip duration in seconds; shorter clips are rejected.
    pub min_seconds: f64,
    /// Maximum clip duration in seconds; longer clips are rejected.
    pub max_seconds: f64,
    /// Minimum transcript length in characters; clips with a shorter transcript are rejected.
    pub min_text_chars: usize,
    /// What to do with clips in which no one speaks, only noise, hum or tones: `reject`, `warn` or `keep`.
    #[serde(skip_serializing_if = "is_rejected")]
    pub no_speech: CheckAction,
    /// What to do with clips whose text is odd.
    #[serde(skip_serializing_if = "TextChecks::is_default")]
    pub checks: TextChecks,
    /// What to do with training clips whose sentence or recording is in a held-out split as well, because their splits came with them.
    #[serde(skip_serializing_if = "LeakageAction::is_warn")]
    pub leakage: LeakageAction,
    /// Path of a JSON Lines file with manual corrections: `{"clip": "en-0001.wav", "text": "What was said."}` replaces a transcript,
    /// `"exclude": true` removes the clip. `clip` is the name of the recording, or its `audio_path` in the upstream stage. The file may be
    /// missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edits: Option<PathBuf>,
    /// Additional folder to copy the dataset to. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

impl Default for Dataset {
    fn default() -> Self {
        Self {
            split: Split::default(),
            min_seconds: 0.2,
            max_seconds: 30.0,
            min_text_chars: 1,
            no_speech: CheckAction::Reject,
            checks: TextChecks::default(),
            leakage: LeakageAction::Warn,
            edits: None,
            folder: None,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_rejected(action: &CheckAction) -> bool {
    *action == CheckAction::Reject
}

/// Marker file in the folder that `folder` creates.
const MARKER: &str = ".voxpipe-dataset";

impl Stage for Dataset {
    const KIND: &'static str = "dataset";
    const ABOUT: &'static str = "builds a checked dataset with train, test and validation splits from clips";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] =
        &[Port { name: "clips", kinds: &[ArtifactKind::Clips], arity: Arity::Many, about: "clips with their transcripts" }];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Dataset
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        let shares = self.split.shares();
        for (name, share) in shares.iter().filter(|(_, share)| !(0.0..=1.0).contains(share)) {
            errors
                .push(SettingError::new(&format!("split.{name}"), format!("{share} is not a fraction")).hint("write a number from 0 to 1"));
        }
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        if errors.is_empty() && (sum - 1.0).abs() > 1e-6 {
            let named = shares.map(|(name, share)| format!("{name} {share}")).join(", ");
            let hint = format!("the fractions are {named}; omitted ones have their defaults");
            errors.push(SettingError::new("split", format!("the split fractions add up to {}, not 1", rounded(sum))).hint(hint));
        }
        if !(self.min_seconds >= 0.0 && self.max_seconds > self.min_seconds) {
            let message = format!("`min_seconds` {} and `max_seconds` {} exclude every clip", self.min_seconds, self.max_seconds);
            errors.push(SettingError::new("max_seconds", message).hint("set `max_seconds` above `min_seconds`"));
        }
        if self.split.by.trim().is_empty() {
            let error = SettingError::new("split.by", "`by` is empty");
            errors.push(error.hint("write `sentence`, `speaker` or the name of a column"));
        }
        if self.no_speech == CheckAction::Fix {
            let error = SettingError::new("no_speech", "a clip without speech cannot be corrected");
            errors.push(error.hint("write `reject`, `warn` or `keep`"));
        }
        errors.extend(self.checks.check());
        errors
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.edits.iter().cloned().collect()
    }

    fn external_outputs(&self) -> Vec<PathBuf> {
        self.folder.iter().cloned().collect()
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let mut clips = self.gather(cx)?;
        let excluded = self.apply_edits(cx, &mut clips)?;
        let drafts: BTreeSet<String> = clips.iter().filter(|clip| clip.is_draft()).map(|clip| clip.key.clone()).collect();
        let mut findings = Findings::default();
        let odd_texts: Vec<Option<String>> =
            clips.iter_mut().map(|clip| (!excluded.contains(&clip.key)).then(|| self.checks.clip(clip, &mut findings)).flatten()).collect();
        let measured = measure::measure(cx, &clips)?;
        let mut listed = Listed::default();
        let mut sounding = Vec::new();
        for ((clip, sound), odd_text) in clips.iter().zip(&measured).zip(odd_texts) {
            if drafts.contains(&clip.key) && !excluded.contains(&clip.key) {
                listed.reject(clip, "is a draft: nobody has confirmed its text".to_owned());
                continue;
            }
            match self.verdict(clip, sound, odd_text, excluded.contains(&clip.key), &mut findings) {
                Ok(sound) => sounding.push((clip, sound)),
                Err(reason) => listed.reject(clip, reason),
            }
        }
        let kept = self.without_copies(&sounding, &mut findings, &mut listed);
        if kept.is_empty() && !drafts.is_empty() {
            return Ok(self.parked(drafts.len()));
        }
        if kept.is_empty() {
            return Err(Error::new(format!(
                "none of {} can be used: {}",
                count(clips.len(), "clip"),
                first_few(&lines(&listed.rejected), 3)
            ))
            .hint("record the clips again, or change the limits in `with`"));
        }
        for (clip, sound) in &kept {
            let absence =
                sound.absence.iter().filter(|_| self.no_speech == CheckAction::Warn).map(|what| format!("has no speech ({what})"));
            listed.odd.extend(absence.chain(sound.oddities(&clip.record.text)).map(|what| (clip.shown.clone(), what)));
        }

        tell_clips(cx, &listed, &findings, &kept);
        let rows: Vec<&ClipRow> = kept.iter().map(|(clip, _)| &clip.record).collect();
        let assigned = match self.split.assign(cx.seed, &rows) {
            // What is missing are the drafts.
            Err(_) if !drafts.is_empty() => return Ok(self.parked(drafts.len())),
            assigned => assigned?,
        };
        let similar = leakage::near_duplicates(cx, &kept)?;
        let leakage = Leakage::of(&kept, &assigned.splits, &similar);
        let dropped = match self.leakage {
            LeakageAction::Warn => BTreeMap::new(),
            LeakageAction::Drop => leakage.to_drop(&kept, &assigned.splits),
        };
        let leaking = leakage.json(&kept, &assigned.splits);
        assigned.notes.iter().for_each(|note| cx.note(note));
        self.tell_leakage(cx, &leakage, &kept, dropped.len());
        dropped.iter().for_each(|(at, reason)| listed.reject(kept[*at].0, reason.clone()));
        let chosen: Vec<(&Clip, &Sound, &'static str)> =
            (0..kept.len()).filter(|at| !dropped.contains_key(at)).map(|at| (kept[at].0, kept[at].1, assigned.splits[at])).collect();

        fs::create_dir_all(cx.out.join("audio"))?;
        let stems = unique_stems(chosen.iter().map(|(clip, ..)| (clip.key.as_str(), clip.stem())));
        let mut records = Vec::new();
        for (clip, sound, split) in &chosen {
            let mut record = clip.record.clone();
            record.audio_path = format!("audio/{}.wav", stems[&clip.key]);
            record.text = record.text.trim().to_owned();
            record.duration = Some(rounded(sound.seconds));
            record.rest.insert("split".to_owned(), (*split).into());
            let bytes = fs::read(&clip.path).with_context(|| format!("cannot read {}", clip.shown))?;
            fs::write(cx.out.join(&record.audio_path), bytes).with_context(|| format!("cannot write `{}`", record.audio_path))?;
            records.push(record);
        }
        jsonl::write(&cx.out.join("data.jsonl"), &records)?;
        let mut counts = BTreeMap::new();
        for (name, share) in self.split.shares() {
            let rows: Vec<&ClipRow> =
                records.iter().zip(&chosen).filter(|(_, (.., split))| *split == name).map(|(record, _)| record).collect();
            if name == "validation" && share == 0.0 && rows.is_empty() {
                continue;
            }
            jsonl::write(&cx.out.join(format!("{name}.jsonl")), rows.iter().copied())?;
            counts.insert(name, rows.len());
        }
        let seconds = rounded(records.iter().filter_map(|record| record.duration).sum());
        let entry = |(clip, reason): &(String, String)| json!({"clip": clip, "reason": reason});
        let sound = |((_, sound, _), record): (&(&Clip, &Sound, &str), &ClipRow)| SoundEntry {
            audio_path: record.audio_path.clone(),
            seconds: rounded(sound.seconds),
            speech_seconds: rounded(sound.speech_seconds),
            peak_dbfs: tenths(sound.peak_dbfs),
            rms_dbfs: tenths(sound.rms_dbfs),
            snr_db: sound.snr_db.map(tenths),
            clipped_share: (sound.clipped * 1e6).round() / 1e6,
            telephone: sound.telephone,
            chars_per_second: tenths(sound.rate(&record.text)),
        };
        let without_language: Vec<&str> =
            chosen.iter().filter(|(clip, ..)| clip.record.language.is_none()).map(|(clip, ..)| clip.shown.as_str()).collect();
        let report = json!({
            "clips": records.len(),
            "seconds": seconds,
            "splits": counts,
            "given_splits": assigned.given,
            "split_notes": assigned.notes,
            "rejected": listed.rejected.iter().map(entry).collect::<Vec<_>>(),
            "odd": listed.odd.iter().map(entry).collect::<Vec<_>>(),
            "checks": findings.json(),
            "leakage": leaking,
            "without_language": without_language,
        });
        let report = DatasetReport { report, sound: chosen.iter().zip(&records).map(sound).collect() };
        let mut file = BufWriter::new(fs::File::create(cx.out.join("report.json"))?);
        serde_json::to_writer_pretty(&mut file, &report)?;
        file.flush()?;

        if let Some(folder) = &self.folder {
            let (path, written) = (cx.path(folder), folder.display().to_string());
            managed_dir::place(
                &managed_dir::named(&cx.out)?,
                &ManagedDir { path: &path, written: &written, marker: MARKER, overwrite: false },
            )?;
            cx.note(format!("the dataset was also written to `{written}`"));
        }
        let parts = counts.iter().map(|(name, number)| format!("{number} {name}")).collect::<Vec<_>>().join(", ");
        let came = match assigned.given {
            0 => String::new(),
            given if given == kept.len() => " (as they came)".to_owned(),
            given => format!(" ({given} as they came)"),
        };
        let mut made = StageResult::new(format!("{}, {:.1} min: {parts}{came}", count(records.len(), "clip"), seconds / 60.0));
        made = made.metric("clips", records.len() as f64).metric("seconds", seconds);
        for (name, number) in counts {
            made = made.metric(&format!("{name}_clips"), number as f64);
        }
        Ok(StageOutcome::Done(made))
    }
}

/// `report.json`. The measurements of tens of thousands of clips are written as they are, not as a tree of JSON values.
#[derive(Serialize)]
struct DatasetReport {
    #[serde(flatten)]
    report: Value,
    sound: Vec<SoundEntry>,
}

/// What was measured on a clip.
#[derive(Serialize)]
struct SoundEntry {
    audio_path: String,
    seconds: f64,
    speech_seconds: f64,
    peak_dbfs: f64,
    rms_dbfs: f64,
    snr_db: Option<f64>,
    clipped_share: f64,
    telephone: bool,
    chars_per_second: f64,
}

/// Clips that are told by name, with the reasons.
#[derive(Default)]
struct Listed {
    rejected: Vec<(String, String)>,
    odd: Vec<(String, String)>,
}

impl Listed {
    fn reject(&mut self, clip: &Clip, reason: String) {
        self.rejected.push((clip.shown.clone(), reason));
    }
}

fn lines(pairs: &[(String, String)]) -> Vec<String> {
    pairs.iter().map(|(clip, reason)| format!("{clip} {reason}")).collect()
}

/// A clip from one of the inputs.
struct Clip {
    record: ClipRow,
    path: PathBuf,
    /// Unique among all inputs.
    key: String,
    /// Name in messages and reports: the file, preceded by its stage if there are several inputs.
    shown: String,
}

impl Clip {
    /// Whether a model wrote the text, and nobody has confirmed it.
    fn is_draft(&self) -> bool {
        self.record.rest.get("draft") == Some(&true.into())
    }

    fn stem(&self) -> &str {
        Path::new(&self.record.audio_path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl Dataset {
    /// The run waits until a person has confirmed or corrected drafts.
    fn parked(&self, drafts: usize) -> StageOutcome {
        let where_to = match &self.edits {
            Some(file) => format!("write the right texts into `{}`", file.display()),
            None => "set `edits = \"corrections.jsonl\"` and write the right texts into that file".to_owned(),
        };
        let message = format!(
            "{} still drafts that a model wrote, and the others are too few: {where_to}, one line a clip, as in `drafts.jsonl` of the stage that made them, or use the studio",
            if drafts == 1 { "1 clip is".to_owned() } else { format!("{drafts} clips are") }
        );
        StageOutcome::Parked { have: 0, need: drafts as u64, message }
    }

    /// Applies manual corrections to the clips. Returns the keys of excluded clips.
    fn apply_edits(&self, cx: &Context, clips: &mut [Clip]) -> Result<BTreeSet<String>> {
        // The studio creates the file with the first correction.
        let Some(file) = self.edits.as_deref().filter(|file| cx.path(file).exists()) else { return Ok(BTreeSet::new()) };
        let applied = edits::apply(edits::read(&cx.path(file), file)?, clips);
        if !applied.unknown.is_empty() {
            cx.warn(format!("`{}` has corrections for unknown clips: {}", file.display(), first_few(&applied.unknown, 3)));
        }
        if !applied.ambiguous.is_empty() {
            let names = first_few(&applied.ambiguous, 3);
            cx.warn(format!("`{}` has corrections that fit several clips; write the stage before the name: {names}", file.display()));
        }
        Ok(applied.excluded)
    }

    /// Reads the clips of all inputs.
    fn gather(&self, cx: &Context) -> Result<Vec<Clip>> {
        let inputs = cx.all("clips");
        let mut clips = Vec::new();
        for input in inputs {
            for record in ClipRow::read_all(&input.path.join("clips.jsonl"))
                .map_err(|error| error.context(format!("from stage `{}`", input.stage)))?
            {
                let key = format!("{}/{}", input.stage, record.audio_path);
                if !Path::new(&record.audio_path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
                    return Err(
                        Error::new(format!("{key} is outside the folder of its stage")).hint("write a relative `audio_path` without `..`")
                    );
                }
                let shown = if inputs.len() > 1 { key.clone() } else { record.audio_path.clone() };
                clips.push(Clip { path: input.path.join(&record.audio_path), record, key, shown });
            }
        }
        if clips.is_empty() {
            return Err(Error::new("no clips to build a dataset from").hint("check the results of the stages in `from`"));
        }
        Ok(clips)
    }

    /// Whether a clip can be used, or the reason why not.
    fn verdict<'a>(
        &self,
        clip: &Clip,
        sound: &'a Result<Sound, String>,
        odd_text: Option<String>,
        excluded: bool,
        findings: &mut Findings,
    ) -> Result<&'a Sound, String> {
        if excluded {
            return Err("is left out by a correction".to_owned());
        }
        let sound = sound.as_ref().map_err(Clone::clone)?;
        self.check_limits(sound, &clip.record.text)?;
        if let Some(what) = sound.absence.as_ref().filter(|_| self.no_speech == CheckAction::Reject) {
            return Err(format!("has no speech ({what})"));
        }
        if let Some(reason) = odd_text.or_else(|| self.checks.rate(clip, sound, findings)) {
            return Err(reason);
        }
        if self.split.given == GivenSplits::Keep {
            split::given(&clip.record)?;
        }
        Ok(sound)
    }

    /// The clips without those whose samples another one has. Of clips with different splits, the held-out one stays.
    fn without_copies<'a>(
        &self,
        clips: &[(&'a Clip, &'a Sound)],
        findings: &mut Findings,
        listed: &mut Listed,
    ) -> Vec<(&'a Clip, &'a Sound)> {
        let two_texts = self.checks.two_texts(clips, findings);
        let place = |at: usize| match self.split.given {
            GivenSplits::Keep => {
                split::given(&clips[at].0.record).ok().flatten().and_then(|name| SPLITS.iter().position(|known| *known == name))
            }
            GivenSplits::Ignore => None,
        };
        // `test` before `validation` before `train` before none; then the first.
        let rank = |at: usize| (place(at).map_or(3, |place| [2, 0, 1][place]), at);
        let mut stays: BTreeMap<(Digest, String), usize> = BTreeMap::new();
        let key = |at: usize| {
            let text = if self.checks.two_texts == CheckAction::Warn { normalized(&clips[at].0.record.text) } else { String::new() };
            (clips[at].1.digest, text)
        };
        for at in (0..clips.len()).filter(|at| !two_texts.contains_key(at)) {
            let best = stays.entry(key(at)).or_insert(at);
            if rank(at) < rank(*best) {
                *best = at;
            }
        }
        let mut different = Vec::new();
        for at in 0..clips.len() {
            let same = stays.get(&key(at)).copied();
            match (two_texts.get(&at), same) {
                (Some(reason), _) => listed.reject(clips[at].0, reason.clone()),
                (None, Some(same)) if same != at => listed.reject(clips[at].0, format!("sounds exactly like {}", clips[same].0.shown)),
                _ => different.push(clips[at]),
            }
        }
        let records: Vec<&Clip> = different.iter().map(|(clip, _)| *clip).collect();
        let repeated = self.checks.repeats(&records, findings);
        repeated.iter().for_each(|(at, reason)| listed.reject(different[*at].0, reason.clone()));
        (0..different.len()).filter(|at| !repeated.contains_key(at)).map(|at| different[at]).collect()
    }

    /// Tells what is in several splits.
    fn tell_leakage(&self, cx: &Context, leakage: &Leakage, kept: &[(&Clip, &Sound)], dropped: usize) {
        let by_speaker = self.split.by == "speaker";
        if dropped > 0 {
            cx.warn(format!("{} left out of `train`: their sentence or recording is held out", count(dropped, "clip")));
        } else {
            leakage.warnings(kept, by_speaker).iter().for_each(|line| cx.warn(line));
        }
        leakage.notes(by_speaker).iter().for_each(|line| cx.note(line));
    }
}

/// Tells which clips were left out or are suspicious.
fn tell_clips(cx: &Context, listed: &Listed, findings: &Findings, kept: &[(&Clip, &Sound)]) {
    if !listed.rejected.is_empty() {
        cx.warn(format!("{} rejected: {}", count(listed.rejected.len(), "clip"), first_few(&lines(&listed.rejected), 5)));
    }
    findings.lines().iter().for_each(|line| cx.warn(line));
    if !listed.odd.is_empty() {
        cx.warn(format!("suspicious audio: {}", first_few(&lines(&listed.odd), 5)));
    }
    let telephone = kept.iter().filter(|(_, sound)| sound.telephone).count();
    if telephone > 0 {
        cx.note(format!("{} of telephone quality (nothing above 3.6 kHz)", count(telephone, "clip")));
    }
    let without_language = kept.iter().filter(|(clip, _)| clip.record.language.is_none()).count();
    if without_language > 0 {
        cx.note(format!("{} without a language; the model detects it automatically", count(without_language, "clip")));
    }
}
