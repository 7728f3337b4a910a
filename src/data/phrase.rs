//! A sentence to read aloud: a line of `phrases.jsonl`.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use voxpipe_io::jsonl;

/// A sentence with its name, its language and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhraseRow {
    /// Unique in its file and safe as a file name: `en-0001`.
    pub id: String,
    /// The sentence.
    pub text: String,
    /// ISO 639-1 code.
    pub language: String,
    /// Where the sentence comes from, in words.
    pub source: String,
}

impl PhraseRow {
    /// Reads a `phrases.jsonl`; an empty id or text is an error with its line, and so is an id that is there twice.
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
                        .hint("every phrase needs an id of its own")),
                    None => Ok(phrase),
                }
            })
            .collect()
    }
}
