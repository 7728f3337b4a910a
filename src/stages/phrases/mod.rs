//! `phrases`: selects sentences to read aloud, from an embedded pack, a file, or a dataset on the Hub.
//!
//! Every row names its source. An unavailable source is an error; there is no silent fallback to another one.

mod bigram_coverage;
mod datasets_server;
mod file;
mod filters;
mod granary;
mod languages;

pub use filters::Filters;

use crate::data::phrase::PhraseRow;
use crate::data::text::{count, first_few, normalized};
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use filters::{FilterStats, Found};
use pipeline::artifact::ArtifactKind;
use pipeline::stage::{Context, Port, ResolveRevision, SettingError, Stage, StageOutcome, StageResult};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe_io::digest::Digest;
use voxpipe_io::jsonl;
use voxtral::tokenizer::prompt::check_language;

/// Select sentences to read aloud.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phrases {
    /// Language of the sentences, as an ISO 639-1 code: `en`.
    pub language: String,
    /// Source of the sentences.
    #[serde(default)]
    pub source: Source,
    /// With `source = "file"`: a .txt file (one sentence per line), or a .csv, .tsv or .jsonl file with a `text` or `sentence` column. An
    /// optional `id` column keeps recordings matched to their sentences when lines are inserted later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Number of sentences to select.
    #[serde(default = "default_count")]
    pub count: usize,
    /// With `source = "granary"` or `"rows"`: Hub id of the dataset, `owner/name`. Default with `granary`: `nvidia/Granary`; other datasets
    /// must have the same layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Branch, tag or commit of `repo`. Default: `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// With `source = "granary"`: the corpus to read (`voxpopuli`, `yodas`, `ytc` …). Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<String>,
    /// With `source = "rows"`: the configuration of the dataset. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// With `source = "rows"`: the split of the dataset. Default: `train`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// With `source = "rows"`: the column with the sentences. Default: `text`, `transcript`, `transcription` or `sentence`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// With `source = "rows"`: URL of the datasets-server. Default: the one of the Hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Criteria for sentences. Sentences from the Hub are always filtered, by default with the default criteria; those from a pack or a
    /// file only if this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Filters>,
    /// Select for letter-bigram coverage: sentences that together contain as many different letter pairs as possible, so that a few of them
    /// cover the sounds of the language. Default: a seeded random selection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cover: bool,
}

/// Source of the sentences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A pack embedded in the program.
    #[default]
    Embedded,
    /// A local file.
    File,
    /// NVIDIA Granary on the Hub, or a dataset with the same layout.
    Granary,
    /// Any dataset on the Hub that the dataset viewer supports.
    Rows,
}

/// With `cover`, this many times `count` sentences are read from the Hub as candidates.
const CHOICE: usize = 4;

fn default_count() -> usize {
    100
}

/// Candidate sentences from a Hub source.
struct Choice {
    phrases: Vec<PhraseRow>,
    /// Corpus or configuration of each phrase.
    corpora: Vec<String>,
    /// Facts about the source for `report.json`.
    about: Value,
    /// Description of the source for messages.
    from: String,
}

/// The known languages for the studio: code, names, number of embedded sentences, and whether Granary has the language.
pub fn languages() -> Value {
    languages::LANGUAGES.iter().map(languages::Language::describe).collect()
}

impl Stage for Phrases {
    const KIND: &'static str = "phrases";
    const ABOUT: &'static str = "selects sentences to read aloud";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Phrases
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        let meant = languages::meant(&self.language);
        if self.source == Source::Embedded && languages::pack(&self.language).is_none() {
            let packs = languages::packs();
            let hint = match meant.filter(|code| *code != self.language) {
                Some(code) => format!("did you mean `{code}`? Packs exist for: {packs}"),
                None => format!("packs exist for: {packs}; or use your own sentences with `source = \"file\"` and `file = \"…\"`"),
            };
            errors.push(SettingError::new("language", format!("no embedded pack for `{}`", self.language)).hint(hint));
        } else if let Err(error) = check_language(&self.language) {
            let hint = meant.map(|code| format!("did you mean `{code}`?")).or(error.hint).unwrap_or_default();
            errors.push(SettingError::new("language", error.message).hint(hint));
        }
        match (&self.file, self.source) {
            (None, Source::File) => {
                errors.push(SettingError::new("source", "`source = \"file\"` needs a `file`").hint("add `file = \"phrases.txt\"`"));
            }
            (Some(_), Source::Embedded | Source::Granary | Source::Rows) => {
                let message = "`file` is set, but `source` does not use it";
                errors.push(SettingError::new("file", message).hint("write `source = \"file\"`, or remove `file`"));
            }
            _ => {}
        }
        if self.count == 0 {
            errors.push(SettingError::new("count", "`count` must be at least 1").hint("write a number above 0"));
        }
        self.check_hub(&mut errors);
        if let Some(filters) = &self.filters {
            filters.check(&mut errors);
        }
        errors
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.file.iter().cloned().collect()
    }

    fn pin(&mut self, pin: &mut ResolveRevision<'_>) {
        if let Some(repo) = self.repository().map(str::to_owned) {
            hub::pin_dataset(&repo, &mut self.revision, pin);
        }
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        match self.source {
            Source::Embedded | Source::File => self.load_local(cx),
            Source::Granary | Source::Rows => self.load_hub(cx),
        }
    }
}

impl Phrases {
    /// Checks the settings that only some sources use.
    fn check_hub(&self, errors: &mut Vec<SettingError>) {
        let hub = matches!(self.source, Source::Granary | Source::Rows);
        let rows = self.source == Source::Rows;
        for (name, given, read) in [
            ("repo", self.repo.is_some(), hub),
            ("revision", self.revision.is_some(), hub),
            ("corpus", self.corpus.is_some(), self.source == Source::Granary),
            ("config", self.config.is_some(), rows),
            ("split", self.split.is_some(), rows),
            ("column", self.column.is_some(), rows),
            ("server", self.server.is_some(), rows),
        ] {
            if given && !read {
                let source = if name == "corpus" || name == "repo" || name == "revision" { "granary" } else { "rows" };
                let message = format!("`{name}` is set, but `source` does not use it");
                errors.push(SettingError::new(name, message).hint(format!("write `source = \"{source}\"`, or remove `{name}`")));
            }
        }
        if rows && self.repo.is_none() {
            errors.push(SettingError::new("source", "`source = \"rows\"` needs a `repo`").hint("add `repo = \"owner/name\"`"));
        }
        if let (true, Some(repo)) = (hub, &self.repo)
            && let Err(error) = hub::dataset(repo, None)
        {
            errors.push(SettingError::new("repo", error.message).hint(error.hint.unwrap_or_default()));
        } else if let (true, Some(repo)) = (hub, self.repository())
            && let Err(error) = hub::dataset(repo, self.revision.as_deref())
        {
            errors.push(SettingError::new("revision", error.message).hint(error.hint.unwrap_or_default()));
        }
    }

    /// The Hub dataset to read, if any.
    fn repository(&self) -> Option<&str> {
        match self.source {
            Source::Granary => Some(self.repo.as_deref().unwrap_or(granary::REPOSITORY)),
            Source::Rows => self.repo.as_deref(),
            Source::Embedded | Source::File => None,
        }
    }

    /// Selects from a pack or a file: reads all sentences and takes a seeded random selection.
    fn load_local(&self, cx: &Context) -> Result<StageOutcome> {
        let found = match &self.file {
            Some(file) => self.read(&cx.path(file), file)?,
            None if self.source == Source::File => {
                return Err(Error::new("`source = \"file\"` needs a `file`").kind(ErrorKind::InvalidInput).hint("add `file = \"…\"`"));
            }
            None => {
                let pack = languages::pack(&self.language).ok_or_else(|| {
                    Error::new(format!("no embedded pack for `{}`", self.language))
                        .kind(ErrorKind::InvalidInput)
                        .hint("use `source = \"file\"`")
                })?;
                let source = format!("embedded pack {}, version {}", self.language, pack.version);
                self.lines(pack.text, |_| source.clone())
            }
        };
        let (mut phrases, duplicates) = without_duplicates(found);
        if !duplicates.is_empty() {
            let texts: Vec<&str> = duplicates.iter().map(|(phrase, _)| phrase.text.as_str()).collect();
            cx.warn(format!("{} skipped as duplicate: {}", count(texts.len(), "sentence"), first_few(&texts, 3)));
        }
        let place = self.file.as_deref().unwrap_or(Path::new("the pack")).display().to_string();
        if phrases.is_empty() {
            return Err(Error::new(format!("{place}: no sentences found")).hint("add at least one sentence"));
        }
        let mut report = json!({
            "language": self.language,
            "source": self.source,
            "asked": self.count,
            "duplicates": duplicates.iter().map(|(phrase, first)| json!({"id": phrase.id, "text": phrase.text, "same_as": first})).collect::<Vec<_>>(),
        });
        if let Some(filters) = &self.filters {
            let mut filter = FilterStats::new(filters, &self.language);
            phrases.retain(|phrase| filter.pass(&Found { text: phrase.text.clone(), ..Found::default() }).is_some());
            if phrases.is_empty() {
                return Err(nothing_left(&place, &filter));
            }
            report["rejected"] = json!(filter.rejected());
        }
        let available = phrases.len();
        if self.count < available {
            let mut chosen: Vec<usize> = (0..available).collect();
            chosen.shuffle(&mut ChaCha8Rng::seed_from_u64(cx.seed));
            if self.cover {
                let shuffled: Vec<PhraseRow> = chosen.iter().map(|index| phrases[*index].clone()).collect();
                chosen = bigram_coverage::choose(&shuffled, self.count).into_iter().map(|place| chosen[place]).collect();
            }
            chosen.truncate(self.count);
            chosen.sort_unstable();
            phrases = chosen.into_iter().map(|index| phrases[index].clone()).collect();
        }
        report["available"] = available.into();
        report["chosen"] = phrases.len().into();
        let from = match &self.file {
            Some(file) => format!("`{}`", file.display()),
            None => format!("the embedded pack `{}`", self.language),
        };
        self.write(cx, &phrases, &report, &format!("{available} from {from}"))
    }

    /// Selects from the Hub: reads until there are enough suitable sentences.
    fn load_hub(&self, cx: &Context) -> Result<StageOutcome> {
        let filters = self.filters.clone().unwrap_or_default();
        let mut filter = FilterStats::new(&filters, &self.language);
        let wanted = if self.cover { self.count.saturating_mul(CHOICE) } else { self.count };
        let Choice { mut phrases, corpora, about, from } = match self.source {
            Source::Rows => self.rows(cx, &mut filter, wanted)?,
            _ => self.granary(cx, &mut filter, wanted)?,
        };
        if phrases.is_empty() {
            return Err(nothing_left(&from, &filter));
        }
        let available = phrases.len();
        let chosen: Vec<usize> =
            if self.cover { bigram_coverage::choose(&phrases, self.count) } else { (0..available.min(self.count)).collect() };
        let mut by_corpus: BTreeMap<&str, usize> = BTreeMap::new();
        for index in &chosen {
            *by_corpus.entry(&corpora[*index]).or_default() += 1;
        }
        let mut report = json!({
            "language": self.language,
            "source": self.source,
            "asked": self.count,
            "available": available,
            "chosen": chosen.len(),
            "chosen_by_corpus": by_corpus,
            "filters": filters,
            "seed": cx.seed,
            "rejected": filter.rejected(),
        });
        if let (Some(report), Value::Object(about)) = (report.as_object_mut(), about) {
            report.extend(about);
        }
        phrases = chosen.into_iter().map(|index| phrases[index].clone()).collect();
        self.write(cx, &phrases, &report, &format!("{available} suitable ones in {from}"))
    }

    /// Writes the phrases and the report.
    fn write(&self, cx: &Context, phrases: &[PhraseRow], report: &Value, of: &str) -> Result<StageOutcome> {
        let available = report["available"].as_u64().unwrap_or(0);
        if self.count as u64 > available {
            cx.note(format!("`count` is {}, but only {available} are available: using all of them", self.count));
        }
        jsonl::write(&cx.out.join("phrases.jsonl"), phrases)?;
        fs::write(cx.out.join("report.json"), serde_json::to_vec_pretty(report)?)?;
        let made = StageResult::new(format!("{} of {of}", count(phrases.len(), "phrase")));
        Ok(StageOutcome::Done(made.metric("phrases", phrases.len() as f64).fact("language", self.language.clone())))
    }

    /// A phrase with an id derived from its text, so that recordings stay matched whatever else is selected.
    fn by_text(&self, text: String, source: String) -> PhraseRow {
        let id = format!("{}-{}", self.language, Digest::of(normalized(&text).as_bytes()).short());
        PhraseRow { id, text, language: self.language.clone(), source }
    }
}

/// The error for filters that reject every sentence.
fn nothing_left(place: &str, filter: &FilterStats) -> Error {
    Error::new(format!("{place}: the filters reject every sentence ({})", filter.reasons()))
        .hint("relax some of `filters`, or use another `source`")
}

/// Removes phrases with a repeated text. Returns the rest, and the removed phrases with the id of the first occurrence.
fn without_duplicates(found: Vec<PhraseRow>) -> (Vec<PhraseRow>, Vec<(PhraseRow, String)>) {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    let (mut kept, mut repeated) = (Vec::new(), Vec::new());
    for phrase in found {
        match first.get(&normalized(&phrase.text)) {
            Some(id) => repeated.push((phrase, id.clone())),
            None => {
                first.insert(normalized(&phrase.text), phrase.id.clone());
                kept.push(phrase);
            }
        }
    }
    (kept, repeated)
}
