//! `phrases`: sentences to read aloud, from a pack inside the program or from a file of the user's own.
//!
//! Where the sentences come from is written into every row and never changes silently: what cannot be had is an error.

use super::{Complaint, Context, Made, Outcome, Port, Stage};
use crate::artifact::ArtifactKind;
use crate::error::{Doing, Error, Exit, Result};
use crate::phrase::Phrase;
use crate::text::{closest, count, first_few, normalised};
use crate::voxtral::prompt::check_language;
use crate::{jsonl, table};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

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
    /// NVIDIA Granary on the Hub.
    Granary,
}

fn hundred() -> usize {
    100
}

/// A pack inside the program: original sentences, written for it.
struct Pack {
    language: &'static str,
    /// The names people may type instead of the code.
    names: &'static [&'static str],
    version: u32,
    text: &'static str,
}

const PACKS: &[Pack] = &[
    Pack { language: "en", names: &["english"], version: 1, text: include_str!("../../templates/phrases/en.txt") },
    Pack {
        language: "es", names: &["spanish", "español", "castellano"], version: 1, text: include_str!("../../templates/phrases/es.txt")
    },
];

impl Stage for Phrases {
    const KIND: &'static str = "phrases";
    const ABOUT: &'static str = "chooses sentences to read aloud";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Phrases
    }

    fn check(&self) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        if self.source == Source::Embedded && self.pack().is_none() {
            let packs = PACKS.iter().map(|pack| pack.language).collect::<Vec<_>>().join(", ");
            let hint = match meant(&self.language) {
                Some(code) => format!("did you mean `{code}`? Packs exist for: {packs}"),
                None => format!("packs exist for: {packs}; or bring your own with `source = \"file\"` and `file = \"…\"`"),
            };
            complaints.push(Complaint::new("language", format!("there is no embedded pack for `{}`", self.language)).hint(hint));
        } else if let Err(error) = check_language(&self.language) {
            let hint = meant(&self.language).map(|code| format!("did you mean `{code}`?")).or(error.advice).unwrap_or_default();
            complaints.push(Complaint::new("language", error.message).hint(hint));
        }
        match (&self.file, self.source) {
            (None, Source::File) => {
                complaints.push(Complaint::new("source", "`source = \"file\"` needs a `file`").hint("add `file = \"phrases.txt\"`"));
            }
            (Some(_), Source::Embedded | Source::Granary) => {
                let message = "`file` is given, but `source` does not read one";
                complaints.push(Complaint::new("file", message).hint("write `source = \"file\"`, or take `file` out"));
            }
            _ => {}
        }
        if self.count == 0 {
            complaints.push(Complaint::new("count", "no phrases are asked for").hint("write a number above 0"));
        }
        complaints
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.file.iter().cloned().collect()
    }

    fn run(&self, cx: &Context) -> Result<Outcome> {
        let found = match (self.source, &self.file) {
            (Source::Granary, _) => {
                return Err(Error::new("this version cannot reach the Hub yet, so `source = \"granary\"` has no phrases to give")
                    .exit(Exit::Environment)
                    .advice("use `source = \"embedded\"`, or `source = \"file\"` with sentences of your own"));
            }
            (Source::Embedded, _) => {
                let pack = self.pack().ok_or_else(|| {
                    Error::new(format!("there is no embedded pack for `{}`", self.language))
                        .exit(Exit::Usage)
                        .advice("use `source = \"file\"`")
                })?;
                let source = format!("embedded pack {}, version {}", pack.language, pack.version);
                self.lines(pack.text, |_| source.clone())
            }
            (Source::File, Some(file)) => self.read(&cx.path(file), file)?,
            (Source::File, None) => {
                return Err(Error::new("`source = \"file\"` needs a `file`").exit(Exit::Usage).advice("add `file = \"…\"`"));
            }
        };
        let (mut phrases, duplicates) = without_duplicates(found);
        if !duplicates.is_empty() {
            let texts: Vec<&str> = duplicates.iter().map(|(phrase, _)| phrase.text.as_str()).collect();
            cx.warn(format!("{} left out as repeated: {}", count(texts.len(), "sentence"), first_few(&texts, 3)));
        }
        if phrases.is_empty() {
            let place = self.file.as_deref().unwrap_or(Path::new("the pack")).display();
            return Err(Error::new(format!("{place}: there is no sentence in it")).advice("write at least one sentence"));
        }
        let available = phrases.len();
        if self.count < available {
            let mut chosen: Vec<usize> = (0..available).collect();
            chosen.shuffle(&mut ChaCha8Rng::seed_from_u64(cx.seed));
            chosen.truncate(self.count);
            chosen.sort_unstable();
            phrases = chosen.into_iter().map(|index| phrases[index].clone()).collect();
        } else if self.count > available {
            cx.note(format!("{} asked for, {available} available: all are taken", self.count));
        }
        jsonl::write(&cx.out.join("phrases.jsonl"), &phrases)?;
        let report = json!({
            "language": self.language,
            "source": self.source,
            "asked": self.count,
            "available": available,
            "chosen": phrases.len(),
            "duplicates": duplicates.iter().map(|(phrase, first)| json!({"id": phrase.id, "text": phrase.text, "same_as": first})).collect::<Vec<_>>(),
        });
        fs::write(cx.out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
        let from = match &self.file {
            Some(file) => format!("`{}`", file.display()),
            None => format!("the embedded pack `{}`", self.language),
        };
        let made = Made::new(format!("{} of {available} from {from}", count(phrases.len(), "phrase")));
        Ok(Outcome::Done(made.metric("phrases", phrases.len() as f64).fact("language", self.language.clone())))
    }
}

impl Phrases {
    fn pack(&self) -> Option<&'static Pack> {
        PACKS.iter().find(|pack| pack.language == self.language)
    }

    /// One sentence a line; ids are counted over the sentences, not the lines, so that empty lines do not matter.
    fn lines(&self, text: &str, source: impl Fn(usize) -> String) -> Vec<Phrase> {
        let lines = text.trim_start_matches('\u{feff}').lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines.enumerate().map(|(index, (line, text))| self.phrase(None, index, text, source(line + 1))).collect()
    }

    fn phrase(&self, id: Option<&str>, index: usize, text: &str, source: String) -> Phrase {
        let id = id.map_or_else(|| format!("{}-{:04}", self.language, index + 1), str::to_owned);
        Phrase { id, text: text.split_whitespace().collect::<Vec<_>>().join(" "), language: self.language.clone(), source }
    }

    fn read(&self, path: &Path, written: &Path) -> Result<Vec<Phrase>> {
        let shown = written.display();
        let source = |line: usize| format!("{shown}, line {line}");
        let extension = path.extension().and_then(|it| it.to_str()).unwrap_or_default().to_lowercase();
        if extension == "txt" {
            let text = fs::read_to_string(path).doing(|| format!("cannot read `{shown}`"))?;
            return Ok(self.lines(&text, source));
        }
        let rows = table::read(path, &shown.to_string())?;
        let mut ids = BTreeMap::new();
        let mut phrases = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let place = format!("{shown}:{}", row.line);
            let (_, text) = row.required(&["text", "sentence"])?;
            let id = row.get("id");
            if let Some(id) = id {
                if crate::text::safe_name(id) != id {
                    return Err(Error::new(format!("{place}: the id `{id}` cannot be a file name"))
                        .advice("use only letters, digits, `-`, `_` and `.` in ids"));
                }
                if let Some(first) = ids.insert(id.to_lowercase(), row.line) {
                    return Err(Error::new(format!("{place}: the id `{id}` is already used on line {first}"))
                        .advice("give every sentence its own id"));
                }
            }
            phrases.push(self.phrase(id, index, text, source(row.line)));
        }
        let missing = rows.iter().find(|row| row.get("id").is_none());
        if let (false, Some(row)) = (ids.is_empty(), missing) {
            return Err(Error::new(format!("{shown}:{}: `id` is missing, but other rows have one", row.line))
                .advice("give every sentence an id, or none"));
        }
        Ok(phrases)
    }
}

/// The language code a person may have meant by `English` or `en-GB`.
fn meant(typed: &str) -> Option<&'static str> {
    let typed = typed.to_lowercase();
    if let Some(pack) = typed.split(['-', '_']).next().and_then(|code| PACKS.iter().find(|pack| pack.language == code)) {
        return Some(pack.language);
    }
    let name = closest(&typed, PACKS.iter().flat_map(|pack| pack.names.iter().copied()))?;
    PACKS.iter().find(|pack| pack.names.contains(&name)).map(|pack| pack.language)
}

/// The phrases without those whose text was there before; and these, each with the id of the first.
fn without_duplicates(found: Vec<Phrase>) -> (Vec<Phrase>, Vec<(Phrase, String)>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_fit_to_be_read_aloud() {
        for pack in PACKS {
            let lines: Vec<&str> = pack.text.lines().collect();
            assert!(lines.len() >= 100, "{}: {} sentences", pack.language, lines.len());
            let mut seen = BTreeMap::new();
            for (index, line) in lines.iter().enumerate() {
                let place = format!("{}:{}", pack.language, index + 1);
                let words = line.split_whitespace().count();
                assert!((4..=14).contains(&words), "{place}: {words} words");
                assert!(line.ends_with(['.', '?', '!']) && !line.contains(|it: char| it.is_ascii_digit() || it == '"'), "{place}: {line}");
                assert_eq!(seen.insert(normalised(line), index), None, "{place} is repeated");
            }
            assert!(lines.iter().filter(|line| line.ends_with('?')).count() >= 10, "{}: few questions", pack.language);
        }
    }
}
