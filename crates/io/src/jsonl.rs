//! JSON Lines files, read with errors that name the file and the line, and written whole or not at all.

use crate::error::{Error, Result, ResultExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io::Write;
use std::path::Path;

/// Reads every object of a JSONL file with its line number. Empty lines are allowed; anything else that is not a `T` is an error.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    text.trim_start_matches('\u{feff}')
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            let value = serde_json::from_str(line).map_err(|error| {
                Error::new(format!("{}:{}: {error}", path.display(), index + 1))
                    .hint("each line must be one JSON object; correct or remove this one")
            })?;
            Ok((index + 1, value))
        })
        .collect()
}

/// Writes one object a line.
pub fn write<'a, T: Serialize + 'a>(path: &Path, rows: impl IntoIterator<Item = &'a T>) -> Result<()> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row)?;
        bytes.push(b'\n');
    }
    let mut file = fs::File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?;
    file.write_all(&bytes).with_context(|| format!("cannot write `{}`", path.display()))
}
