//! `import`: imports an existing dataset from the Hub, a folder or an archive, in any of the forms that [`crate::data::table`] reads.
//!
//! Rows are streamed until there are enough clips, so only the needed part of a large Hub dataset is downloaded. Rejected rows are listed
//! with their reasons.

mod parquet;
mod place;
pub mod preview;
mod tables;
mod taking;

use crate::data::columns::Columns;
use crate::data::cues::merge::CueSettings;
use crate::data::table::{TableWish, pick_tables};
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::hub::Network;
use crate::hub::read::RepoReader;
use pipeline::artifact::ArtifactKind;
use pipeline::manifest::one_or_many::OneOrMany;
use pipeline::stage::{Context, Port, ResolveRevision, SettingError, Stage, StageOutcome};
use place::Place;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;
use taking::Taking;
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
    /// Folder with a dataset, or a .zip or .tar file of one, instead of `repo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Configuration to import, if the dataset has several: its name in `configs:` of the dataset card, or the name of a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Splits to import, as the dataset names them. Default: all of them; each row keeps the split that it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<OneOrMany>,
    /// Tables to read, as glob patterns such as `data/train-*.parquet`. Default: what `configs:` of the dataset card says; without that the
    /// first of these that exist: `metadata.jsonl`, `metadata.csv` or `metadata.tsv`; Parquet files; JSON Lines manifests; CSV or TSV files;
    /// Kaldi's `text`; LibriSpeech's `*.trans.txt`; spreadsheets; JSON; a .txt file beside each recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<OneOrMany>,
    /// Local folder with the audio files that the rows name, if the dataset does not contain them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<PathBuf>,
    /// Column names, if they are not the usual ones.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
    /// How the cues of subtitles, labels and annotations become clips.
    #[serde(default, skip_serializing_if = "CueSettings::is_default")]
    pub cues: CueSettings,
    /// Channel of the recordings to read: `mix`, `left`, `right`, or a number counting from 1.
    #[serde(default, skip_serializing_if = "Channel::is_mix")]
    pub channel: Channel,
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
    /// Share of bad rows (broken, without text, in an unknown language, contradicting each other, with damaged sound) above which the import
    /// fails. Default: 0.2, in tables of 20 rows and more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bad: Option<f64>,
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
    const VERSION: u32 = 2;
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
        for error in self.cues.check() {
            wrong(&error.path.join("."), error.message.clone(), error.hint.clone().unwrap_or_default());
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
        if let Some(share) = self.max_bad.filter(|share| !(0.0..=1.0).contains(share)) {
            wrong("max_bad", format!("{share} is not a fraction"), "write a number from 0 to 1".into());
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
        let splits = self.split.as_ref().map_or(&[][..], |splits| splits.as_slice());
        let into = cx.out.join("audio");
        fs::create_dir_all(&into)?;
        let mut taking = Taking::new(self, cx, &place, audio.as_ref().unwrap_or(&place), into);
        let wish = TableWish { patterns, config: self.config.as_deref(), splits, folders_are_configs: place.reader().is_some() };
        let (tables, notes) = pick_tables(&place, wish, &|name| taking.knows(name))?;
        notes.iter().for_each(|note| cx.note(note));
        taking.read(&tables, (self.pick == Pick::Sample).then_some(cx.seed), &place)?;
        taking.finish(&tables, &place)
    }
}
