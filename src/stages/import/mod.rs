//! `import`: a data set that exists already, from the Hub or from a folder, in the forms it is usually in.
//!
//! Rows are taken one after another until there are enough; of a large data set on the Hub no more is read than that. Every row that is
//! not used is listed with its reason.

mod parquet;
mod place;
mod rows;
mod tables;

use crate::data::clip_row::ClipRow;
use crate::data::ingest;
use crate::data::ingest::{AudioCandidate, IngestLimits, rounded};
use crate::data::text::{count, first_few, safe_name};
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::hub::Network;
use crate::hub::read::RepoReader;
use pipeline::artifact::ArtifactKind;
use pipeline::manifest::one_or_many::OneOrMany;
use pipeline::stage::{Context, Port, ResolveRevision, SettingError, Stage, StageOutcome, StageResult};
use place::Place;
use rayon::prelude::*;
use rows::Row;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe_io::jsonl;
use voxtral::tokenizer::prompt::check_language;

/// Takes in a data set from the Hub or from a folder.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// The data set on the Hub, `owner/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// A branch, tag or commit of it; `main` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Instead of `repo`: a folder with a data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Which configuration, where the data set has several: a folder in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Which split, as it stands in the names of its files or folders; `train` if there is one and none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Which tables hold the rows, as patterns such as `data/train-*.parquet`. If it is not given: `metadata.jsonl` or `metadata.csv`,
    /// or else Parquet files, or else manifests of JSON lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<OneOrMany>,
    /// A folder of your own with the sound files that the rows name, where the data set does not have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<PathBuf>,
    /// What the columns are called, where it is nothing usual.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
    /// ISO 639-1 code: rows in another language are left out, and rows that do not name theirs have this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// How many clips to take at most; all of them if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Which of them.
    #[serde(default)]
    pub pick: Pick,
    /// Rows with fewer words are left out.
    #[serde(default = "one")]
    pub min_words: usize,
    /// Rows with more words are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_words: Option<usize>,
    /// Shorter clips are left out.
    #[serde(default = "fifth")]
    pub min_seconds: f64,
    /// Longer clips are left out.
    #[serde(default = "thirty")]
    pub max_seconds: f64,
    /// Whether a row that cannot be used is an error.
    #[serde(default)]
    pub strict: bool,
}

/// Which clips are taken where there are more than wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// The first.
    #[default]
    First,
    /// Some that the seed chooses: single rows of a table, row groups of a Parquet file.
    Sample,
}

/// Names of columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The sound, or the path of its file: `audio_path`, `audio`, `file_name`, `audio_filepath`, `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<String>,
    /// What is said: `text`, `transcription`, `sentence`, `transcript`, `normalized_text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// In which language: `language`, `lang`, `locale`, `source_lang`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Who speaks: `speaker`, `speaker_id`, `client_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
}

impl Columns {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Clips that are fetched and decoded side by side.
const BATCH: usize = 16;
/// A sound file larger than this is left out.
const LARGEST: u64 = 512 << 20;

fn one() -> usize {
    1
}

fn fifth() -> f64 {
    0.2
}

fn thirty() -> f64 {
    30.0
}

impl Stage for Import {
    const KIND: &'static str = "import";
    const ABOUT: &'static str = "takes in a data set from the Hub or from a folder";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Clips
    }

    fn check(&self) -> Vec<SettingError> {
        let mut complaints = Vec::new();
        let mut wrong = |path: &str, message: String, hint: String| complaints.push(SettingError::new(path, message).hint(hint));
        match (&self.repo, &self.folder) {
            (None, None) => wrong("", "nothing is named to import".into(), "add `repo = \"owner/name\"` or `folder = \"…\"`".into()),
            (Some(_), Some(_)) => wrong("folder", "`repo` and `folder` are both given".into(), "keep one of them".into()),
            (None, Some(_)) if self.revision.is_some() => {
                wrong("revision", "a folder has no revisions".into(), "take `revision` out, or name a `repo`".into());
            }
            (Some(repo), None) => {
                if let Err(error) = hub::dataset(repo, None) {
                    wrong("repo", error.message, error.hint.unwrap_or_default());
                } else if let Err(error) = hub::dataset(repo, self.revision.as_deref()) {
                    wrong("revision", error.message, error.hint.unwrap_or_default());
                }
            }
            _ => {}
        }
        for pattern in self.files.iter().flat_map(|files| files.as_slice()) {
            if let Err(error) = glob::Pattern::new(pattern) {
                wrong("files", format!("`{pattern}` is not a pattern: {error}"), "write `*` for any name".into());
            }
        }
        if let Some(Err(error)) = self.language.as_deref().map(check_language) {
            wrong("language", error.message, error.hint.unwrap_or_default());
        }
        if self.count == Some(0) {
            wrong("count", "no clips are asked for".into(), "write a number above 0, or take it out for all".into());
        }
        if self.pick == Pick::Sample && self.count.is_none() {
            wrong("pick", "a sample of all clips is all of them".into(), "say how many with `count`".into());
        }
        if self.max_words.is_some_and(|most| most < self.min_words.max(1)) {
            wrong("max_words", format!("no text has {} words at least and fewer at most", self.min_words), "write a larger number".into());
        }
        if !(self.min_seconds >= 0.0 && self.max_seconds > self.min_seconds) {
            let message = format!("no clip is between {} and {} seconds long", self.min_seconds, self.max_seconds);
            wrong("max_seconds", message, "write a `max_seconds` above `min_seconds`".into());
        }
        complaints
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.folder.iter().chain(&self.audio).cloned().collect()
    }

    fn pin(&mut self, pin: &mut ResolveRevision<'_>) {
        if let Some(repo) = self.repo.clone() {
            hub::pin_dataset(&repo, &mut self.revision, pin);
        }
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let stopped = || cx.stopping();
        let place = match (&self.repo, &self.folder) {
            (Some(repo), _) => {
                let repository = hub::dataset(repo, self.revision.as_deref())?;
                Place::hub(RepoReader::open(&repository, Network::unless(false), &stopped)?)?
            }
            (None, Some(folder)) => Place::folder(&cx.path(folder), &folder.display().to_string())?,
            (None, None) => {
                return Err(Error::new("nothing is named to import").kind(ErrorKind::InvalidInput).hint("add `repo` or `folder`"));
            }
        };
        let audio = match &self.audio {
            Some(folder) => Some(Place::folder(&cx.path(folder), &folder.display().to_string())?),
            None => None,
        };
        let patterns = self.files.as_ref().map_or(&[][..], |files| files.as_slice());
        let tables = place::tables(&place, patterns, self.config.as_deref(), self.split.as_deref())?;
        let into = cx.out.join("audio");
        fs::create_dir_all(&into)?;
        let mut taking = Taking {
            import: self,
            cx,
            place: &place,
            audio: audio.as_ref().unwrap_or(&place),
            into,
            seen: 0,
            waiting: Vec::new(),
            records: Vec::new(),
            rejected: Vec::new(),
        };
        let seed = (self.pick == Pick::Sample).then_some(cx.seed);
        tables::each_row(&place, &tables, &self.columns, seed, &cx.scratch, &mut |table, row| taking.offer(table, row))?;
        taking.take()?;
        taking.finish(&tables)
    }
}

/// Clips being taken.
struct Taking<'a> {
    import: &'a Import,
    cx: &'a Context,
    place: &'a Place<'a>,
    /// Where the sounds are.
    audio: &'a Place<'a>,
    into: PathBuf,
    seen: usize,
    waiting: Vec<Waiting>,
    records: Vec<ClipRow>,
    rejected: Vec<Rejected>,
}

/// A row whose sound is still to be decoded.
struct Waiting {
    number: usize,
    table: String,
    row: Row,
}

/// A row that is not used.
#[derive(Serialize)]
struct Rejected {
    row: String,
    reason: String,
}

impl Taking<'_> {
    fn wanted(&self) -> usize {
        self.import.count.unwrap_or(usize::MAX)
    }

    /// Takes a row in, or says why not; answers whether more are wanted.
    fn offer(&mut self, table: &str, row: Row) -> Result<bool> {
        if self.cx.stopping() {
            return Err(Error::new("stopped while importing").kind(ErrorKind::Interrupted).hint("run again to go on"));
        }
        self.seen += 1;
        match self.unfit(&row) {
            Some(reason) => self.rejected.push(Rejected { row: row.place, reason }),
            None => self.waiting.push(Waiting { number: self.seen, table: table.to_owned(), row }),
        }
        if self.waiting.len() >= BATCH.min(self.wanted() - self.records.len()) {
            self.take()?;
        }
        Ok(self.records.len() < self.wanted())
    }

    /// Why a row is left out before its sound is looked at.
    fn unfit(&self, row: &Row) -> Option<String> {
        let import = self.import;
        let Some(text) = &row.text else { return Some("it has no text".to_owned()) };
        let words = text.split_whitespace().count();
        let language = row.language.as_deref().map(|language| language.split(['-', '_']).next().unwrap_or_default().to_lowercase());
        if let (Some(wanted), Some(language)) = (&import.language, language)
            && language.len() == 2
            && *wanted != language
        {
            return Some(format!("it is in the language `{language}`"));
        }
        if words < import.min_words || import.max_words.is_some_and(|most| words > most) {
            return Some(format!("its text has {}", count(words, "word")));
        }
        // A hundredth of a second is lost in rounding; what is decoded is measured again.
        let seconds = row.seconds.filter(|seconds| *seconds < import.min_seconds - 0.01 || *seconds > import.max_seconds + 0.01);
        if let Some(seconds) = seconds {
            return Some(format!("it says to have {seconds} s, between {} and {} s are asked for", import.min_seconds, import.max_seconds));
        }
        (row.sound.bytes.is_none() && row.sound.path.is_none()).then(|| "it names no sound".to_owned())
    }

    /// Fetches and decodes what waits.
    fn take(&mut self) -> Result<()> {
        let mut ready = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            match self.fetch(&waiting)? {
                Ok(candidate) => ready.push((waiting.row, candidate)),
                Err(reason) => self.rejected.push(Rejected { row: waiting.row.place, reason }),
            }
        }
        let limits = IngestLimits { min: self.import.min_seconds, max: self.import.max_seconds };
        let taken: Vec<Result<Result<f64, String>>> = ready
            .par_iter()
            .map(|(row, candidate)| {
                let part = row.offset.filter(|_| row.seconds.is_some()).zip(row.seconds);
                ingest::take_part(candidate, part, &self.into, limits)
            })
            .collect();
        for ((row, candidate), taken) in ready.into_iter().zip(taken) {
            if candidate.path.starts_with(&self.cx.scratch) {
                fs::remove_file(&candidate.path)?;
            }
            match taken? {
                Ok(seconds) => self.records.push(ClipRow {
                    audio_path: format!("audio/{}.wav", candidate.stem),
                    text: row.text.unwrap_or_default(),
                    language: self.import.language.clone().or_else(|| two_letters(row.language.as_deref()?)),
                    duration: Some(seconds),
                    speaker: row.speaker,
                    source: Some(row.place),
                    rest: Map::new(),
                }),
                Err(reason) => self.rejected.push(Rejected { row: row.place, reason }),
            }
        }
        let total = self.import.count.unwrap_or(self.seen);
        self.cx.progress(self.records.len() as u64, total as u64, "clips", format!("{} seen", count(self.seen, "row")));
        Ok(())
    }

    /// The file of a row's sound, on this machine; or why there is none.
    fn fetch(&self, Waiting { number, table, row }: &Waiting) -> Result<Result<AudioCandidate, String>> {
        let named = row.sound.path.clone().unwrap_or_default();
        let name = Path::new(&named);
        let stem = name.file_stem().and_then(|stem| stem.to_str()).map_or_else(|| "clip".to_owned(), safe_name);
        let ending = name.extension().and_then(|ending| ending.to_str()).map_or_else(|| "wav".to_owned(), safe_name);
        let stem = format!("{number:06}-{}", stem.chars().take(40).collect::<String>());
        let kept = self.cx.scratch.join(format!("import-{number:06}.{ending}"));
        let (path, shown) = match &row.sound.bytes {
            Some(bytes) => {
                fs::write(&kept, bytes)?;
                (kept, if named.is_empty() { row.place.clone() } else { named })
            }
            None => {
                let Some(found) = self.audio.find(table, &named) else {
                    return Ok(Err(format!("its file `{named}` is not in `{}`", self.audio.name)));
                };
                if self.audio.size(&found) > LARGEST {
                    return Ok(Err(format!("its file `{found}` has more than {} MiB", LARGEST >> 20)));
                }
                (self.audio.local(&found, &kept)?, found)
            }
        };
        Ok(Ok(AudioCandidate { path, shown, stem }))
    }

    fn finish(self, tables: &[String]) -> Result<StageOutcome> {
        let (cx, import) = (self.cx, self.import);
        let reasons: Vec<String> = self.rejected.iter().map(|rejected| format!("{}: {}", rejected.row, rejected.reason)).collect();
        if !reasons.is_empty() {
            let message = format!("{} cannot be used: {}", count(reasons.len(), "row"), first_few(&reasons, 5));
            if import.strict {
                return Err(Error::new(message).hint("correct these, or set `strict = false` to go on without them"));
            }
            cx.warn(message);
        }
        if self.records.is_empty() {
            let why = if reasons.is_empty() { "its tables have no rows".to_owned() } else { first_few(&reasons, 3) };
            return Err(Error::new(format!("none of {} of `{}` became a clip; {why}", count(self.seen, "row"), self.place.name))
                .hint("see what the columns are called (`columns`), and whether `language`, `min_words` and `max_seconds` leave any"));
        }
        if let Some(wanted) = import.count.filter(|wanted| *wanted > self.records.len()) {
            cx.note(format!("{wanted} asked for, {} found: all are taken", self.records.len()));
        }
        let seconds = rounded(self.records.iter().filter_map(|record| record.duration).sum());
        let mut languages: BTreeMap<&str, usize> = BTreeMap::new();
        for record in &self.records {
            *languages.entry(record.language.as_deref().unwrap_or("unknown")).or_default() += 1;
        }
        let mut report = json!({
            "source": self.place.name,
            "tables": tables,
            "rows": self.seen,
            "clips": self.records.len(),
            "seconds": seconds,
            "languages": languages,
            "rejected": self.rejected,
        });
        let mut made = StageResult::new(format!("{} of `{}`, {seconds:.0} s in all", count(self.records.len(), "clip"), self.place.name));
        if let Some(reader) = self.place.reader() {
            let licence = reader.licence()?;
            report["repository"] = import.repo.clone().into();
            report["commit"] = reader.commit().into();
            report["licence"] = licence.clone().into();
            made = made.fact("repository", import.repo.clone()).fact("commit", reader.commit()).fact("licence", Value::from(licence));
        }
        jsonl::write(&cx.out.join("clips.jsonl"), &self.records)?;
        fs::write(cx.out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
        Ok(StageOutcome::Done(made.metric("clips", self.records.len() as f64).metric("seconds", seconds)))
    }
}

/// `de` of `de`, `de-DE` or `DE_at`; nothing of what is no code.
fn two_letters(language: &str) -> Option<String> {
    let code = language.split(['-', '_']).next()?.to_lowercase();
    check_language(&code).is_ok().then_some(code)
}
