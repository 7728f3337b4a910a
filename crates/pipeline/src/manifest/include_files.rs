//! The [`FileProvider`](super::include::FileProvider) that reads included files from the disk.

use std::fs;
use std::path::{Path, PathBuf};

/// Reads the file at `path`, or all files that it matches as a glob pattern, sorted by path.
pub fn read_included(path: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    if path.is_file() {
        return Ok(vec![(path.to_owned(), read(path)?)]);
    }
    let text = path.to_str().filter(|text| text.contains(['*', '?', '[']));
    let Some(pattern) = text else {
        return Err(if path.is_dir() { "it is a folder".to_owned() } else { "no such file".to_owned() });
    };
    let mut found = Vec::new();
    for file in glob::glob(pattern).map_err(|error| format!("invalid pattern: {error}"))? {
        let file = file.map_err(|error| format!("cannot list files: {error}"))?;
        if file.is_file() {
            found.push((file.clone(), read(&file)?));
        }
    }
    if found.is_empty() { Err("no file matches".to_owned()) } else { Ok(found) }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
}
