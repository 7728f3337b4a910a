//! Manual corrections of clips (JSON Lines): a new transcript, or exclusion of the clip.

use crate::error::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use voxpipe_io::jsonl;

/// One correction.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Edit {
    clip: String,
    #[serde(default)]
    pub(super) text: Option<String>,
    #[serde(default)]
    pub(super) exclude: bool,
}

/// Reads corrections by clip name. If a clip has several, the last one counts.
pub(super) fn read(path: &Path, shown: &Path) -> Result<BTreeMap<String, Edit>> {
    let rows: Vec<(usize, Edit)> = jsonl::read(path)?;
    let mut edits = BTreeMap::new();
    for (line, edit) in rows {
        if edit.text.as_deref().is_some_and(|text| text.trim().is_empty()) {
            let message = format!("{}:{line}: the text of `{}` is empty", shown.display(), edit.clip);
            return Err(Error::new(message).kind(ErrorKind::InvalidInput).hint("write the transcript, or set `\"exclude\": true`"));
        }
        edits.insert(edit.clip.clone(), edit);
    }
    Ok(edits)
}
