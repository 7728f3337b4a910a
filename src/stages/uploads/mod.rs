//! `uploads`: imports existing audio files and their transcripts.
//!
//! Transcripts and audio files are matched by name, as [`crate::data::file_index`] does it; never by position. Unmatched files, unmatched
//! transcripts, bad rows and unusable files are reported.

mod long;
mod pairing;
mod pieces;
mod sounds;
mod transcriber;

use crate::data::bad_rows::{check_bad_rows, is_limit};
use crate::data::clip_items::{ClipItem, LeftRow, keep_unknown_splits};
use crate::data::clip_row::ClipRow;
use crate::data::columns::Columns;
use crate::data::cues::CueFormat;
use crate::data::cues::merge::CueSettings;
use crate::data::ingest::{self, AudioCandidate, IngestLimits, ingest_audio, is_audio, rounded};
use crate::data::phrase::PhraseRow;
use crate::data::table::table_endings;
use crate::data::text::{count, first_few, normalized, unique_stems};
use crate::data::transcript::is_digits;
use crate::error::{Error, Result};
use long::LongReport;
use pairing::Paired;
use pipeline::artifact::ArtifactKind;
use pipeline::manifest::one_or_many::OneOrMany;
use pipeline::stage::{Arity, Context, Port, ResolveRevision, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sounds::{Sounds, is_pattern, pattern_folder};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use transcriber::TranscriberSettings;
use voxpipe_io::jsonl;
use voxtral::audio::Channel;
use voxtral::device;
use voxtral::tokenizer::prompt::check_language;

/// Import existing audio files with their transcripts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uploads {
    /// Audio files, folders (searched recursively), .zip or .tar files, or glob patterns such as `clips/*.flac`.
    pub audio: OneOrMany,
    /// Transcripts: a table (.csv, .tsv, .jsonl, .json, .xlsx, .ods) with a file column (`audio_path`, `file_name`, `path` …) and a text column
    /// (`text`, `sentence`, `transcript` …), or one without a header whose columns are told by their content; Kaldi's `text`; a folder with
    /// one of these; `txt` if each audio file has a text of the same name next to it (.txt, .srt, .vtt, .TextGrid, .eaf …), or its folder has
    /// `*.trans.txt` of LibriSpeech; or one file of timed text: subtitles (.srt, .vtt), Praat's .TextGrid, ELAN's .eaf, labels of Audacity.
    /// Only with `draft` it may be left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub transcripts: String,
    /// Column names, if they are not the usual ones.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
    /// How the cues of subtitles, labels and annotations become clips.
    #[serde(default, skip_serializing_if = "CueSettings::is_default")]
    pub cues: CueSettings,
    /// Channel of the recordings to read: `mix`, `left`, `right`, or a number counting from 1.
    #[serde(default, skip_serializing_if = "Channel::is_mix")]
    pub channel: Channel,
    /// Cut recordings longer than `max_seconds`, whose text has no times, by their text: a model finds which words are said in which part.
    /// Parts of which it is not certain are left out and listed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub align: bool,
    /// Cut recordings without a transcript at pauses, and let a model transcribe the parts. Such clips are drafts: `dataset` leaves them out
    /// until their text is confirmed or corrected.
    #[serde(default, skip_serializing_if = "is_false")]
    pub draft: bool,
    /// The model for `align` and `draft`.
    #[serde(default, skip_serializing_if = "TranscriberSettings::is_default")]
    pub transcriber: TranscriberSettings,
    /// Language of rows without one, as an ISO 639-1 code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Speaker of rows without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// Minimum clip duration in seconds; shorter clips are rejected.
    #[serde(default = "default_min_seconds")]
    pub min_seconds: f64,
    /// Maximum clip duration in seconds; longer clips are rejected.
    #[serde(default = "default_max_seconds")]
    pub max_seconds: f64,
    /// Fail if a file or a row is unusable, or if an audio file or a transcript has no match. Default: warn and continue without them.
    #[serde(default)]
    pub strict: bool,
    /// Share of bad rows (broken, without text, in an unknown language, contradicting each other, with damaged sound) above which the stage
    /// fails. Default: 0.2, in tables of 20 rows and more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bad: Option<f64>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Whether `transcripts` says that the texts are beside the recordings, by the ending they have.
fn is_beside(transcripts: &str) -> bool {
    std::iter::once(&"txt").chain(CueFormat::ENDINGS).any(|ending| ending.eq_ignore_ascii_case(transcripts))
}

fn default_min_seconds() -> f64 {
    0.2
}

fn default_max_seconds() -> f64 {
    30.0
}

/// Files beside Kaldi's `text`.
const KALDI_FILES: [&str; 4] = ["wav.scp", "segments", "utt2spk", "utt2lang"];
/// Endings of what holds no transcripts, or in a form that is not read.
const UNREAD: &[&str] =
    &["doc", "docx", "htm", "html", "md", "numbers", "odt", "parquet", "pdf", "rtf", "xls", "xlsb", "xml", "yaml", "yml"];

impl Stage for Uploads {
    const KIND: &'static str = "uploads";
    const ABOUT: &'static str = "imports existing audio files with their transcripts";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[
        Port {
            name: "phrases",
            kinds: &[ArtifactKind::Phrases],
            arity: Arity::Optional,
            about: "the sentences to read, to report which of them have a clip",
        },
        Port { name: "model", kinds: &[ArtifactKind::Model], arity: Arity::Optional, about: "the model for `align` and `draft`" },
    ];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Clips
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        if self.audio.as_slice().iter().all(|entry| entry.trim().is_empty()) {
            errors.push(SettingError::new("audio", "`audio` is empty").hint("name a folder: `audio = \"recordings\"`"));
        }
        for entry in self.audio.as_slice().iter().filter(|entry| is_pattern(entry)) {
            if let Err(error) = glob::Pattern::new(entry) {
                errors.push(
                    SettingError::new("audio", format!("`{entry}` is not a valid glob pattern: {error}")).hint("`*` matches any name"),
                );
            }
        }
        let ending = Path::new(&self.transcripts).extension().and_then(|it| it.to_str()).unwrap_or_default().to_lowercase();
        let unread = UNREAD.contains(&ending.as_str()) || is_audio(Path::new(&self.transcripts));
        if self.transcripts.trim().is_empty() && !self.draft || unread {
            let message = format!("`{}` is neither a table nor `txt`", self.transcripts);
            let hint = format!("name a table ({}) or a folder with one, or write `txt` for one .txt file per clip", table_endings());
            errors.push(SettingError::new("transcripts", message).hint(hint));
        }
        if self.needs_model() {
            errors.extend(self.transcriber.check(self.max_seconds));
        } else if !self.transcriber.is_default() {
            let message = "`transcriber` has no effect without `align` or `draft`".to_owned();
            errors.push(SettingError::new("transcriber", message).hint("set `align = true` or `draft = true`, or remove it"));
        }
        errors.extend(self.cues.check());
        if let Some(share) = self.max_bad.filter(|share| !(0.0..=1.0).contains(share)) {
            errors.push(SettingError::new("max_bad", format!("{share} is not a fraction")).hint("write a number from 0 to 1"));
        }
        if let Some(language) = self.language.as_deref().filter(|language| check_language(language).is_err()) {
            let message = format!("`{language}` is not a two-letter language code");
            errors.push(SettingError::new("language", message).hint("write an ISO 639-1 code such as `en`"));
        }
        if !(self.min_seconds >= 0.0 && self.max_seconds > self.min_seconds) {
            let message = format!("`min_seconds` {} and `max_seconds` {} exclude every clip", self.min_seconds, self.max_seconds);
            errors.push(SettingError::new("max_seconds", message).hint("set `max_seconds` above `min_seconds`"));
        }
        errors
    }

    fn sources(&self) -> Vec<PathBuf> {
        let mut sources: Vec<PathBuf> = Vec::new();
        for entry in self.audio.as_slice() {
            if is_pattern(entry) {
                sources.push(pattern_folder(entry));
            } else {
                sources.push(entry.into());
                if is_beside(&self.transcripts) && is_audio(Path::new(entry)) {
                    sources.extend(std::iter::once(&"txt").chain(CueFormat::ENDINGS).map(|ending| Path::new(entry).with_extension(ending)));
                }
            }
        }
        sources.extend(self.transcriber.base.iter().filter(|_| self.needs_model()).map(PathBuf::from));
        if !self.transcripts.is_empty() && !is_beside(&self.transcripts) {
            sources.push(self.transcripts.clone().into());
            // Kaldi's other files say where the sound is.
            if Path::new(&self.transcripts).file_name().is_some_and(|name| name == "text") {
                sources.extend(KALDI_FILES.map(|name| Path::new(&self.transcripts).with_file_name(name)));
            }
        }
        sources.sort();
        sources.dedup();
        sources
    }

    fn pin(&mut self, pin: &mut ResolveRevision<'_>) {
        if self.needs_model() {
            self.transcriber.pin(pin);
        }
    }

    fn identity(&self) -> Value {
        let mut identity = serde_json::to_value(self).unwrap_or(Value::Null);
        if let Some(transcriber) = identity.get_mut("transcriber").and_then(Value::as_object_mut) {
            transcriber.remove("device");
        }
        identity
    }

    fn missing_on_machine(&self) -> Option<Error> {
        if self.needs_model() { device::missing(&self.transcriber.device) } else { None }
    }

    fn numerics(&self) -> Option<String> {
        self.needs_model().then(|| format!("{}-{}", device::class(&self.transcriber.device), self.transcriber.precision))
    }

    fn uses_all_cores(&self) -> bool {
        self.needs_model()
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let sounds = Sounds::find(self.audio.as_slice(), cx)?;
        let mut paired = self.pair(cx, &sounds)?;
        let unpacked = cx.scratch.join("unpacked");
        let long = if self.needs_model() { self.transcribe_long(cx, &sounds, &mut paired, &unpacked)? } else { LongReport::default() };
        let Paired { clips, bad, missing, repeated, files_without_text, ignored, notes, left_out_of_paths } = paired;

        let phrases = match cx.optional("phrases") {
            Some(phrases) => Some(PhraseRow::read_all(&phrases.path.join("phrases.jsonl"))?),
            None => None,
        };
        let by_text: BTreeMap<String, &PhraseRow> = phrases.iter().flatten().map(|phrase| (normalized(&phrase.text), phrase)).collect();

        let mut bad: Vec<LeftRow> = bad;
        let mut candidates = Vec::new();
        let mut taking: Vec<(&ClipItem, String)> = Vec::new();
        let names = names(&clips, &sounds);
        let stems = unique_stems(names.iter().map(|name| (name.key.as_str(), name.stem.as_str())));
        for (item, name) in clips.iter().zip(&names) {
            match item.clip.bounds.span(item.unit) {
                Ok(span) => {
                    let path = sounds.local(name.file, &unpacked)?;
                    let (shown, stem) = (sounds.shown(name.file), stems[&name.key].clone());
                    candidates.push(AudioCandidate { path, shown, stem, span, channel: self.channel });
                    taking.push((item, name.shown.clone()));
                }
                Err(reason) => bad.push(LeftRow { row: item.clip.place.clone(), reason }),
            }
        }
        let limits = IngestLimits { min: self.min_seconds, max: self.max_seconds };
        let taken = ingest_audio(&candidates, &cx.out.join("audio"), limits, |done| {
            cx.progress(done as u64, candidates.len() as u64, "clips", "");
            !cx.stopping()
        })?;
        if unpacked.exists() {
            fs::remove_dir_all(&unpacked)?;
        }

        let mut records = Vec::new();
        let mut sound_notes = BTreeSet::new();
        let mut rejected: Vec<(String, String)> = Vec::new();
        let mut covered = BTreeSet::new();
        let mut without_phrase = Vec::new();
        for (((item, shown), candidate), taken) in taking.iter().zip(&candidates).zip(taken) {
            let seconds = match taken {
                Ok(made) => {
                    sound_notes.extend(made.notes.into_iter().map(|note| (candidate.shown.clone(), note)));
                    made.seconds
                }
                Err(reason) => {
                    rejected.push((shown.clone(), reason));
                    continue;
                }
            };
            let clip = &item.clip;
            let mut rest = Map::new();
            let phrase = by_text.get(&normalized(&clip.text));
            match phrase {
                Some(phrase) => {
                    covered.insert(phrase.id.as_str());
                    rest.insert("phrase".to_owned(), phrase.id.clone().into());
                }
                None if phrases.is_some() => without_phrase.push(shown.as_str()),
                None => {}
            }
            rest.extend(item.row_fields());
            records.push(ClipRow {
                audio_path: format!("audio/{}.wav", candidate.stem),
                text: clip.text.clone(),
                language: clip.language.clone().or_else(|| self.language.clone()).or_else(|| phrase.map(|phrase| phrase.language.clone())),
                duration: Some(seconds),
                speaker: clip.speaker.clone().or_else(|| self.speaker.clone()),
                source: Some(shown.clone()),
                rest,
            });
        }

        keep_unknown_splits(records.iter_mut().map(|record: &mut ClipRow| &mut record.rest));
        let mut problems = Vec::new();
        let mut add_problem = |number: usize, what: String, list: &[String]| {
            if number > 0 {
                problems.push(format!("{what}: {}", first_few(list, 5)));
            }
        };
        let files = |number| count(number, "file");
        let bad_rows: Vec<String> = bad.iter().map(|left| format!("{}: {}", left.row, left.reason)).collect();
        add_problem(bad.len(), format!("{} unusable", count(bad.len(), "row")), &bad_rows);
        let names: Vec<String> = rejected.iter().map(|(_, reason)| reason.clone()).collect();
        add_problem(rejected.len(), format!("{} unusable", files(rejected.len())), &names);
        add_problem(files_without_text.len(), format!("{} without a transcript", files(files_without_text.len())), &files_without_text);
        let names: Vec<String> = missing.iter().map(|text| format!("{} ({})", text.name, text.reason)).collect();
        add_problem(names.len(), format!("{} without an audio file", count(names.len(), "transcript")), &names);
        problems.extend(long.problems());
        if self.strict && !problems.is_empty() {
            let error = Error::new(problems.join("; ")).hint("fix these, or set `strict = false` to continue without them");
            return Err(error.context("`strict` is set and some files cannot be used"));
        }
        problems.iter().for_each(|message| cx.warn(message));
        if records.is_empty() {
            return Err(Error::new(format!("none of {} gave a usable clip; {}", files(sounds.len()), problems.join("; ")))
                .hint("check that the file names in the transcripts are right, and that the files can be played"));
        }
        let damaged = rejected.iter().filter(|(_, reason)| !is_limit(reason)).map(|(_, reason)| reason.clone());
        let all_bad: Vec<String> = bad_rows.into_iter().chain(damaged).collect();
        check_bad_rows(&all_bad, records.len() + bad.len() + rejected.len() + missing.len() + repeated.len(), self.max_bad)?;
        let digits = records.iter().filter(|record| is_digits(&record.text)).count();
        let mut notes = notes;
        if digits > 0 {
            notes.push(format!("{} with a text of digits alone; check that it is the transcript", count(digits, "clip")));
        }
        if !repeated.is_empty() {
            let rows: Vec<String> = repeated.iter().map(|left| format!("{}: {}", left.row, left.reason)).collect();
            notes.push(format!("{} repeated and used once: {}", count(rows.len(), "row"), first_few(&rows, 3)));
        }
        notes.extend(ingest::summarized(&sound_notes));
        notes.iter().for_each(|note| cx.note(note));

        let seconds = rounded(records.iter().filter_map(|record| record.duration).sum());
        let mut splits: BTreeMap<&str, usize> = BTreeMap::new();
        for split in records.iter().filter_map(|record| record.rest.get("split")?.as_str()) {
            *splits.entry(split).or_default() += 1;
        }
        let mut report = json!({
            "files": sounds.len(),
            "clips": records.len(),
            "seconds": seconds,
            "splits": splits,
            "rejected": rejected.iter().map(|(file, reason)| json!({"file": file, "reason": reason})).collect::<Vec<_>>(),
            "bad_rows": bad,
            "repeated": repeated,
            "files_without_text": files_without_text,
            "texts_without_file": missing,
            "ignored_columns": ignored,
            "left_out_of_paths": left_out_of_paths,
            "notes": notes,
            "sound_notes": sound_notes.iter().map(|(file, note)| json!({"file": file, "note": note})).collect::<Vec<_>>(),
        });
        long.write(&mut report, &cx.out, &records)?;
        let mut summary = format!("{} from {}, {seconds:.0} s in all", count(records.len(), "clip"), files(sounds.len()));
        if let Some(phrases) = &phrases {
            let missing: Vec<&str> = phrases.iter().map(|phrase| phrase.id.as_str()).filter(|id| !covered.contains(id)).collect();
            let coverage = format!("{} of {} have a clip", covered.len(), count(phrases.len(), "phrase"));
            if !missing.is_empty() {
                cx.warn(format!("{coverage}; missing: {}", first_few(&missing, 5)));
            }
            if !without_phrase.is_empty() {
                cx.note(format!(
                    "{} with a transcript that matches no phrase: {}",
                    count(without_phrase.len(), "clip"),
                    first_few(&without_phrase, 5)
                ));
            }
            report["phrases"] =
                json!({"total": phrases.len(), "covered": covered.len(), "missing": missing, "clips_without_phrase": without_phrase});
            summary = format!("{summary}; {coverage}");
        }
        jsonl::write(&cx.out.join("clips.jsonl"), &records)?;
        fs::write(cx.out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
        Ok(StageOutcome::Done(StageResult::new(summary).metric("clips", records.len() as f64).metric("seconds", seconds)))
    }
}

/// Name of a clip in results.
struct ClipName {
    /// Number of its file.
    file: usize,
    /// Its file, with the part of it as a media fragment: `talk.wav#t=2.5,4`.
    shown: String,
    /// File name without ending; clips of one file are numbered.
    stem: String,
    /// The same as `shown` with the path as the file system has it: names may differ in their Unicode form alone.
    key: String,
}

/// A name for each clip.
fn names(clips: &[ClipItem], sounds: &Sounds) -> Vec<ClipName> {
    let mut of_file: BTreeMap<usize, Vec<(f64, usize)>> = BTreeMap::new();
    for (index, item) in clips.iter().enumerate() {
        let start = item.clip.bounds.span(item.unit).ok().flatten().map_or(0.0, |span| span.start);
        of_file.entry(item.file.unwrap_or_default()).or_default().push((start, index));
    }
    let mut number = vec![0; clips.len()];
    for parts in of_file.values_mut() {
        parts.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        for (place, (_, index)) in parts.iter().enumerate() {
            number[*index] = place + 1;
        }
    }
    let name = |(item, number): (&ClipItem, usize)| {
        let file = item.file.unwrap_or_default();
        let (shown, stem) = (sounds.shown(file), sounds.stem(file));
        match item.part().filter(|_| !item.is_whole()) {
            None => ClipName { file, shown, stem, key: sounds.index.path(file).to_owned() },
            Some((start, end)) => {
                let seconds = |milliseconds: u64| rounded(milliseconds as f64 / 1000.0);
                let end = end.map(|end| format!(",{}", seconds(end))).unwrap_or_default();
                let part = format!("#t={}{end}", seconds(start));
                let key = format!("{}{part}", sounds.index.path(file));
                ClipName { file, shown: format!("{shown}{part}"), stem: format!("{stem}-{number:04}"), key }
            }
        }
    };
    clips.iter().zip(number).map(name).collect()
}
