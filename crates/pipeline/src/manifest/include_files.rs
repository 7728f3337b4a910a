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

/// Reads a pipeline file, or says why that is not possible.
pub fn read(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    // What Windows calls Unicode. Without a mark, every other byte of plain text is zero.
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe])
        || bytes.starts_with(&[0xfe, 0xff])
        || bytes.iter().take(64).filter(|byte| **byte == 0).count() > 8;
    if is_utf16 {
        return Err(format!("`{}` is UTF-16 text, but TOML files are UTF-8: save it with the encoding UTF-8", path.display()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("`{}` is not UTF-8 text (line {line}): save it with the encoding UTF-8", path.display())
    })
}
