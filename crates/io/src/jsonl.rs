//! JSON Lines files: reading with errors that name the file and line, and writing.

use crate::error::{Error, Result, ResultExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io::Write;
use std::path::Path;

/// Reads all values of a JSON Lines file with their line numbers, from 1. Skips empty lines and a byte order mark.
///
/// # Errors
/// If the file cannot be read or a line is not a valid `T`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    text.trim_start_matches('\u{feff}')
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            let value = serde_json::from_str(line).map_err(|error| {
                Error::new(format!("{}:{}: {error}", path.display(), index + 1))
                    .hint("each line must be one JSON object; fix or remove this line")
            })?;
            Ok((index + 1, value))
        })
        .collect()
}

/// Writes one JSON value per line.
pub fn write<'a, T: Serialize + 'a>(path: &Path, rows: impl IntoIterator<Item = &'a T>) -> Result<()> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row)?;
        bytes.push(b'\n');
    }
    let mut file = fs::File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?;
    file.write_all(&bytes).with_context(|| format!("cannot write `{}`", path.display()))
}
