//! `phrases`: sentences to read aloud, from a pack inside the program, from a file of the user's own, or from the Hub.
//!
//! Where the sentences come from is written into every row and never changes silently: what cannot be had is an error.

mod bigram_coverage;
mod datasets_server;
mod file;
mod filters;
mod granary;
mod languages;

pub use filters::Filters;

use crate::data::phrase::PhraseRow;
use crate::data::text::{count, first_few, normalised};
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

/// Chooses sentences to read aloud.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phrases {
    /// ISO 639-1 code of the language: `en`.
    pub language: String,
    /// Where the sentences come from.
    #[serde(default)]
    pub source: Source,
    /// With `source = "file"`: a .txt (one sentence a line), or a .csv, .tsv or .jsonl with a `text` column. An `id` column keeps
    /// recordings with their sentences when lines are inserted later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// How many sentences to choose.
    #[serde(default = "hundred")]
    pub count: usize,
    /// With `source = "granary"` or `"rows"`: the data set on the Hub, `owner/name`. Granary is `nvidia/Granary`; others have to be laid
    /// out like it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// A branch, tag or commit of `repo`; `main` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// With `source = "granary"`: only this corpus (`voxpopuli`, `yodas`, `ytc` …); all of them if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<String>,
    /// With `source = "rows"`: the configuration of the data set; `default` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// With `source = "rows"`: the split; `train` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// With `source = "rows"`: the column with the sentences; `text`, `transcript`, `transcription` or `sentence` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// With `source = "rows"`: the address of the server that gives rows, if it is not that of the Hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// What sentences must be like. Those from the Hub are filtered in any case, those of a pack or a file only if this is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Filters>,
    /// Whether to choose sentences that together have as many different pairs of letters as can be had, so that a few of them
    /// cover the sounds of the language.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cover: bool,
}

/// Where phrases come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A pack that ships inside the program.
    #[default]
    Embedded,
    /// A file of your own.
    File,
    /// NVIDIA Granary on the Hub, or a data set laid out like it.
    Granary,
    /// Any data set on the Hub that its viewer shows.
    Rows,
}

/// With `cover`, so many times the wanted sentences are read from the Hub to choose from.
const CHOICE: usize = 4;

fn hundred() -> usize {
    100
}

/// What a source has to give.
struct Choice {
    phrases: Vec<PhraseRow>,
    /// The corpus of each, where a source has several.
    corpora: Vec<String>,
    /// For the report.
    about: Value,
    /// Where they are from, in words.
    from: String,
}

/// The languages that are known, for a page: code, names, how many sentences of ours there are, and whether Granary has it.
pub fn languages() -> Value {
    languages::LANGUAGES.iter().map(languages::Language::told).collect()
}

impl Stage for Phrases {
    const KIND: &'static str = "phrases";
    const ABOUT: &'static str = "chooses sentences to read aloud";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Phrases
    }

    fn check(&self) -> Vec<SettingError> {
        let mut complaints = Vec::new();
        let meant = languages::meant(&self.language);
        if self.source == Source::Embedded && languages::pack(&self.language).is_none() {
            let packs = languages::packs();
            let hint = match meant.filter(|code| *code != self.language) {
                Some(code) => format!("did you mean `{code}`? Packs exist for: {packs}"),
                None => format!("packs exist for: {packs}; or bring your own with `source = \"file\"` and `file = \"…\"`"),
            };
            complaints.push(SettingError::new("language", format!("there is no embedded pack for `{}`", self.language)).hint(hint));
        } else if let Err(error) = check_language(&self.language) {
            let hint = meant.map(|code| format!("did you mean `{code}`?")).or(error.hint).unwrap_or_default();
            complaints.push(SettingError::new("language", error.message).hint(hint));
        }
        match (&self.file, self.source) {
            (None, Source::File) => {
                complaints.push(SettingError::new("source", "`source = \"file\"` needs a `file`").hint("add `file = \"phrases.txt\"`"));
            }
            (Some(_), Source::Embedded | Source::Granary | Source::Rows) => {
                let message = "`file` is given, but `source` does not read one";
                complaints.push(SettingError::new("file", message).hint("write `source = \"file\"`, or take `file` out"));
            }
            _ => {}
        }
        if self.count == 0 {
            complaints.push(SettingError::new("count", "no phrases are asked for").hint("write a number above 0"));
        }
        self.check_hub(&mut complaints);
        if let Some(filters) = &self.filters {
            filters.check(&mut complaints);
        }
        complaints
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
            Source::Embedded | Source::File => self.here(cx),
            Source::Granary | Source::Rows => self.hub(cx),
        }
    }
}

impl Phrases {
    /// Settings that only some sources read.
    fn check_hub(&self, complaints: &mut Vec<SettingError>) {
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
                let message = format!("`{name}` is given, but `source` does not read it");
                complaints.push(SettingError::new(name, message).hint(format!("write `source = \"{source}\"`, or take `{name}` out")));
            }
        }
        if rows && self.repo.is_none() {
            complaints.push(SettingError::new("source", "`source = \"rows\"` needs a `repo`").hint("add `repo = \"owner/name\"`"));
        }
        if let (true, Some(repo)) = (hub, &self.repo)
            && let Err(error) = hub::dataset(repo, None)
        {
            complaints.push(SettingError::new("repo", error.message).hint(error.hint.unwrap_or_default()));
        } else if let (true, Some(repo)) = (hub, self.repository())
            && let Err(error) = hub::dataset(repo, self.revision.as_deref())
        {
            complaints.push(SettingError::new("revision", error.message).hint(error.hint.unwrap_or_default()));
        }
    }

    /// The data set that is read, if any is.
    fn repository(&self) -> Option<&str> {
        match self.source {
            Source::Granary => Some(self.repo.as_deref().unwrap_or(granary::REPOSITORY)),
            Source::Rows => self.repo.as_deref(),
            Source::Embedded | Source::File => None,
        }
    }

    /// From a pack or a file: all that is there is looked at, and a seeded part of it chosen.
    fn here(&self, cx: &Context) -> Result<StageOutcome> {
        let found = match &self.file {
            Some(file) => self.read(&cx.path(file), file)?,
            None if self.source == Source::File => {
                return Err(Error::new("`source = \"file\"` needs a `file`").kind(ErrorKind::InvalidInput).hint("add `file = \"…\"`"));
            }
            None => {
                let pack = languages::pack(&self.language).ok_or_else(|| {
                    Error::new(format!("there is no embedded pack for `{}`", self.language))
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
            cx.warn(format!("{} left out as repeated: {}", count(texts.len(), "sentence"), first_few(&texts, 3)));
        }
        let place = self.file.as_deref().unwrap_or(Path::new("the pack")).display().to_string();
        if phrases.is_empty() {
            return Err(Error::new(format!("{place}: there is no sentence in it")).hint("write at least one sentence"));
        }
        let mut report = json!({
            "language": self.language,
            "source": self.source,
            "asked": self.count,
            "duplicates": duplicates.iter().map(|(phrase, first)| json!({"id": phrase.id, "text": phrase.text, "same_as": first})).collect::<Vec<_>>(),
        });
        if let Some(filters) = &self.filters {
            let mut sieve = FilterStats::new(filters, &self.language);
            phrases.retain(|phrase| sieve.pass(&Found { text: phrase.text.clone(), ..Found::default() }).is_some());
            if phrases.is_empty() {
                return Err(nothing_left(&place, &sieve));
            }
            report["rejected"] = json!(sieve.rejected());
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

    /// From the Hub: read until there are enough.
    fn hub(&self, cx: &Context) -> Result<StageOutcome> {
        let filters = self.filters.clone().unwrap_or_default();
        let mut sieve = FilterStats::new(&filters, &self.language);
        let wanted = if self.cover { self.count.saturating_mul(CHOICE) } else { self.count };
        let Choice { mut phrases, corpora, about, from } = match self.source {
            Source::Rows => self.rows(cx, &mut sieve, wanted)?,
            _ => self.granary(cx, &mut sieve, wanted)?,
        };
        if phrases.is_empty() {
            return Err(nothing_left(&from, &sieve));
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
            "rejected": sieve.rejected(),
        });
        if let (Some(report), Value::Object(about)) = (report.as_object_mut(), about) {
            report.extend(about);
        }
        phrases = chosen.into_iter().map(|index| phrases[index].clone()).collect();
        self.write(cx, &phrases, &report, &format!("{available} fit ones in {from}"))
    }

    fn write(&self, cx: &Context, phrases: &[PhraseRow], report: &Value, of: &str) -> Result<StageOutcome> {
        let available = report["available"].as_u64().unwrap_or(0);
        if self.count as u64 > available {
            cx.note(format!("{} asked for, {available} available: all are taken", self.count));
        }
        jsonl::write(&cx.out.join("phrases.jsonl"), phrases)?;
        fs::write(cx.out.join("report.json"), serde_json::to_vec_pretty(report)?)?;
        let made = StageResult::new(format!("{} of {of}", count(phrases.len(), "phrase")));
        Ok(StageOutcome::Done(made.metric("phrases", phrases.len() as f64).fact("language", self.language.clone())))
    }

    /// A phrase named after its text, so that a recording finds it again whatever else is chosen.
    fn by_text(&self, text: String, source: String) -> PhraseRow {
        let id = format!("{}-{}", self.language, Digest::of(normalised(&text).as_bytes()).short());
        PhraseRow { id, text, language: self.language.clone(), source }
    }
}

fn nothing_left(place: &str, sieve: &FilterStats) -> Error {
    Error::new(format!("{place}: no sentence is left by the filters ({})", sieve.reasons()))
        .hint("set some of `filters` less strictly, or use another `source`")
}

/// The phrases without those whose text was there before; and these, each with the id of the first.
fn without_duplicates(found: Vec<PhraseRow>) -> (Vec<PhraseRow>, Vec<(PhraseRow, String)>) {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    let (mut kept, mut repeated) = (Vec::new(), Vec::new());
    for phrase in found {
        match first.get(&normalised(&phrase.text)) {
            Some(id) => repeated.push((phrase, id.clone())),
            None => {
                first.insert(normalised(&phrase.text), phrase.id.clone());
                kept.push(phrase);
            }
        }
    }
    (kept, repeated)
}
