//! `import`: imports an existing dataset from the Hub or a folder (metadata tables, Parquet, JSON Lines manifests, CSV/TSV).
//!
//! Rows are streamed until there are enough clips, so only the needed part of a large Hub dataset is downloaded. Rejected rows are listed
//! with their reasons.

mod parquet;
mod place;
mod rows;
mod tables;

use crate::data::clip_row::ClipRow;
use crate::data::ingest;
use crate::data::ingest::{AudioCandidate, AudioSpan, IngestLimits, rounded};
use crate::data::text::{count, first_few, safe_name};
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::hub::Network;
use crate::hub::read::RepoReader;
use pipeline::artifact::ArtifactKind;
use pipeline::manifest::one_or_many::OneOrMany;
use pipeline::stage::{Context, Port, ResolveRevision, SettingError, Stage, StageOutcome, StageResult};
use place::Place;
use rows::Row;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe_io::jsonl;
use voxtral::audio::Channel;
use voxtral::tokenizer::prompt::check_language;

/// Import an existing dataset from the Hub or from a folder.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// Hub id of the dataset, `owner/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Branch, tag or commit of `repo`. Default: `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Folder with a dataset, instead of `repo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Configuration to import, if the dataset has several: the name of a folder in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Split to import, as it appears in the names of files or folders. Default: `train` if there is one, otherwise all tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Tables to read, as glob patterns such as `data/train-*.parquet`. Default: the first of these that exist: `metadata.jsonl`,
    /// `metadata.csv` or `metadata.tsv`; Parquet files; JSON Lines manifests; CSV or TSV files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<OneOrMany>,
    /// Local folder with the audio files that the rows name, if the dataset does not contain them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<PathBuf>,
    /// Column names, if they are not the usual ones.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
    /// ISO 639-1 code of the language. Rows in another language are rejected; rows without a language get this one. Default: all languages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Maximum number of clips to import. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Which clips to take if there are more than `count`.
    #[serde(default)]
    pub pick: Pick,
    /// Minimum number of words; rows with a shorter transcript are rejected.
    #[serde(default = "default_min_words")]
    pub min_words: usize,
    /// Maximum number of words; rows with a longer transcript are rejected. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_words: Option<usize>,
    /// Minimum clip duration in seconds; shorter clips are rejected.
    #[serde(default = "default_min_seconds")]
    pub min_seconds: f64,
    /// Maximum clip duration in seconds; longer clips are rejected.
    #[serde(default = "default_max_seconds")]
    pub max_seconds: f64,
    /// Fail if a row is rejected. Default: warn and continue without it.
    #[serde(default)]
    pub strict: bool,
}

/// Which clips are taken if there are more than `count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// The first ones.
    #[default]
    First,
    /// A random sample drawn with the stage's seed: single rows of a table, or row groups of a Parquet file.
    Sample,
}

/// Column names. The defaults are tried in the given order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Column with the audio, embedded or as a file path. Default: `audio_path`, `audio`, `file_name`, `audio_filepath`, `path` or `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<String>,
    /// Column with the transcript. Default: `text`, `transcription`, `sentence`, `transcript` or `normalized_text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Column with the language. Default: `language`, `lang`, `locale` or `source_lang`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Column with the speaker. Default: `speaker`, `speaker_id` or `client_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
}

impl Columns {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Number of clips that are downloaded and decoded in parallel.
const BATCH: usize = 16;
/// Maximum size of an audio file (512 MiB); larger ones are rejected.
const LARGEST: u64 = 512 << 20;

fn default_min_words() -> usize {
    1
}

fn default_min_seconds() -> f64 {
    0.2
}

fn default_max_seconds() -> f64 {
    30.0
}

impl Stage for Import {
    const KIND: &'static str = "import";
    const ABOUT: &'static str = "imports an existing dataset from the Hub or from a folder";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Clips
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        let mut wrong = |path: &str, message: String, hint: String| errors.push(SettingError::new(path, message).hint(hint));
        match (&self.repo, &self.folder) {
            (None, None) => wrong("", "nothing to import".into(), "set `repo = \"owner/name\"` or `folder = \"…\"`".into()),
            (Some(_), Some(_)) => wrong("folder", "`repo` and `folder` are both set".into(), "remove one of them".into()),
            (None, Some(_)) if self.revision.is_some() => {
                wrong("revision", "`revision` has no effect on a folder".into(), "remove `revision`, or set `repo`".into());
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
                wrong("files", format!("`{pattern}` is not a valid glob pattern: {error}"), "`*` matches any name".into());
            }
        }
        if let Some(Err(error)) = self.language.as_deref().map(check_language) {
            wrong("language", error.message, error.hint.unwrap_or_default());
        }
        if self.count == Some(0) {
            wrong("count", "`count` must be at least 1".into(), "write a number above 0, or remove `count` to take all clips".into());
        }
        if self.pick == Pick::Sample && self.count.is_none() {
            wrong("pick", "`pick = \"sample\"` needs a `count`".into(), "set `count` to the size of the sample".into());
        }
        if self.max_words.is_some_and(|most| most < self.min_words.max(1)) {
            wrong(
                "max_words",
                format!("`max_words` must be at least {}, like `min_words`", self.min_words.max(1)),
                "write a larger number".into(),
            );
        }
        if !(self.min_seconds >= 0.0 && self.max_seconds > self.min_seconds) {
            let message = format!("`min_seconds` {} and `max_seconds` {} exclude every clip", self.min_seconds, self.max_seconds);
            wrong("max_seconds", message, "set `max_seconds` above `min_seconds`".into());
        }
        errors
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
                return Err(Error::new("nothing to import").kind(ErrorKind::InvalidInput).hint("set `repo` or `folder`"));
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

/// State of an import.
struct Taking<'a> {
    import: &'a Import,
    cx: &'a Context,
    place: &'a Place<'a>,
    /// Where the audio files are.
    audio: &'a Place<'a>,
    into: PathBuf,
    seen: usize,
    waiting: Vec<Waiting>,
    records: Vec<ClipRow>,
    rejected: Vec<Rejected>,
}

/// A row whose audio is not decoded yet.
struct Waiting {
    number: usize,
    table: String,
    row: Row,
}

/// A rejected row.
#[derive(Serialize)]
struct Rejected {
    row: String,
    reason: String,
}

impl Taking<'_> {
    fn wanted(&self) -> usize {
        self.import.count.unwrap_or(usize::MAX)
    }

    /// Queues a row or rejects it. Returns whether more rows are wanted.
    fn offer(&mut self, table: &str, row: Row) -> Result<bool> {
        if self.cx.stopping() {
            return Err(Error::new("import interrupted").kind(ErrorKind::Interrupted).hint("run again to continue"));
        }
        self.seen += 1;
        match self.rejection(&row) {
            Some(reason) => self.rejected.push(Rejected { row: row.place, reason }),
            None => self.waiting.push(Waiting { number: self.seen, table: table.to_owned(), row }),
        }
        if self.waiting.len() >= BATCH.min(self.wanted() - self.records.len()) {
            self.take()?;
        }
        Ok(self.records.len() < self.wanted())
    }

    /// The reason to reject a row before its audio is read, if any.
    fn rejection(&self, row: &Row) -> Option<String> {
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
        // Allow for rounding; the decoded audio is measured again.
        let seconds = row.seconds.filter(|seconds| *seconds < import.min_seconds - 0.01 || *seconds > import.max_seconds + 0.01);
        if let Some(seconds) = seconds {
            return Some(format!("it says to have {seconds} s, between {} and {} s are asked for", import.min_seconds, import.max_seconds));
        }
        (row.sound.bytes.is_none() && row.sound.path.is_none()).then(|| "it names no sound".to_owned())
    }

    /// Fetches and decodes the queued rows.
    fn take(&mut self) -> Result<()> {
        let mut ready = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            match self.fetch(&waiting)? {
                Ok(candidate) => ready.push((waiting.row, candidate)),
                Err(reason) => self.rejected.push(Rejected { row: waiting.row.place, reason }),
            }
        }
        let limits = IngestLimits { min: self.import.min_seconds, max: self.import.max_seconds };
        let candidates: Vec<AudioCandidate> = ready.iter().map(|(_, candidate)| candidate.clone()).collect();
        let taken = ingest::ingest_audio(&candidates, &self.into, limits, |_| !self.cx.stopping())?;
        for ((row, candidate), taken) in ready.into_iter().zip(taken) {
            if candidate.path.starts_with(&self.cx.scratch) {
                fs::remove_file(&candidate.path)?;
            }
            match taken {
                Ok(clip) => self.records.push(ClipRow {
                    audio_path: format!("audio/{}.wav", candidate.stem),
                    text: row.text.unwrap_or_default(),
                    language: self.import.language.clone().or_else(|| two_letters(row.language.as_deref()?)),
                    duration: Some(clip.seconds),
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

    /// The local audio file of a row, downloaded if necessary; or the reason why there is none.
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
        let span = row.offset.zip(row.seconds).map(|(start, seconds)| AudioSpan { start, end: Some(start + seconds) });
        Ok(Ok(AudioCandidate { path, shown, stem, span, channel: Channel::Mix }))
    }

    /// Writes the clips and the report.
    fn finish(self, tables: &[String]) -> Result<StageOutcome> {
        let (cx, import) = (self.cx, self.import);
        let reasons: Vec<String> = self.rejected.iter().map(|rejected| format!("{}: {}", rejected.row, rejected.reason)).collect();
        if !reasons.is_empty() {
            let message = format!("{} rejected: {}", count(reasons.len(), "row"), first_few(&reasons, 5));
            if import.strict {
                return Err(Error::new(message).hint("fix these, or set `strict = false` to continue without them"));
            }
            cx.warn(message);
        }
        if self.records.is_empty() {
            let why = if reasons.is_empty() { "the tables have no rows".to_owned() } else { first_few(&reasons, 3) };
            return Err(Error::new(format!("none of {} of `{}` gave a usable clip; {why}", count(self.seen, "row"), self.place.name))
                .hint("check the column names (`columns`), and whether `language`, `min_words` and `max_seconds` reject every row"));
        }
        if let Some(wanted) = import.count.filter(|wanted| *wanted > self.records.len()) {
            cx.note(format!("`count` is {wanted}, but only {} were found: using all of them", self.records.len()));
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
            let license = reader.license()?;
            report["repository"] = import.repo.clone().into();
            report["commit"] = reader.commit().into();
            report["licence"] = license.clone().into();
            made = made.fact("repository", import.repo.clone()).fact("commit", reader.commit()).fact("licence", Value::from(license));
        }
        jsonl::write(&cx.out.join("clips.jsonl"), &self.records)?;
        fs::write(cx.out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
        Ok(StageOutcome::Done(made.metric("clips", self.records.len() as f64).metric("seconds", seconds)))
    }
}

/// The two-letter code of `de`, `de-DE` or `DE_at`; none if it is not a valid code.
fn two_letters(language: &str) -> Option<String> {
    let code = language.split(['-', '_']).next()?.to_lowercase();
    check_language(&code).is_ok().then_some(code)
}
