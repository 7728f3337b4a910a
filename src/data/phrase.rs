//! A sentence to read aloud: a row of `phrases.jsonl`.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use voxpipe_io::jsonl;

/// A sentence with its id, language and source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhraseRow {
    /// Unique id, safe as a file name: `en-0001`.
    pub id: String,
    /// The sentence.
    pub text: String,
    /// ISO 639-1 language code.
    pub language: String,
    /// Description of the source.
    pub source: String,
}

impl PhraseRow {
    /// Reads `phrases.jsonl`. An empty id or text, or a duplicate id, is an error that names the line.
    pub fn read_all(path: &Path) -> Result<Vec<Self>> {
        let rows: Vec<(usize, Self)> = jsonl::read(path)?;
        let mut seen = std::collections::BTreeMap::new();
        rows.into_iter()
            .map(|(line, phrase)| {
                let place = format!("{}:{line}", path.display());
                for (key, value) in [("id", &phrase.id), ("text", &phrase.text)] {
                    if value.trim().is_empty() {
                        return Err(Error::new(format!("{place}: `{key}` is empty")).hint("fill it in or remove the line"));
                    }
                }
                match seen.insert(phrase.id.clone(), line) {
                    Some(first) => Err(Error::new(format!("{place}: the id `{}` is already used on line {first}", phrase.id))
                        .hint("give every phrase a unique id")),
                    None => Ok(phrase),
                }
            })
            .collect()
    }
}
