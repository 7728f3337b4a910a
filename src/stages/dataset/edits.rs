//! Manual corrections of clips (JSON Lines): a new transcript, or exclusion of the clip.

use super::Clip;
use crate::error::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use voxpipe_io::jsonl;

/// One correction.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Edit {
    clip: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    exclude: bool,
}

/// Reads corrections, in the order of the lines.
pub(super) fn read(path: &Path, shown: &Path) -> Result<Vec<Edit>> {
    let rows: Vec<(usize, Edit)> = jsonl::read(path)?;
    let mut edits = Vec::new();
    for (line, edit) in rows {
        let wrong = |what: &str| {
            let message = format!("{}:{line}: {what}", shown.display());
            Err(Error::new(message).kind(ErrorKind::InvalidInput).hint("write the transcript, or set `\"exclude\": true`"))
        };
        match edit.text.as_deref().map(str::trim) {
            Some("") => return wrong(&format!("the text of `{}` is empty", edit.clip)),
            None if !edit.exclude => return wrong(&format!("the correction of `{}` has no text", edit.clip)),
            _ => edits.push(edit),
        }
    }
    Ok(edits)
}

/// What corrections did.
#[derive(Default)]
pub(super) struct Applied {
    /// Keys of the excluded clips.
    pub(super) excluded: BTreeSet<String>,
    /// Names that no clip has.
    pub(super) unknown: Vec<String>,
    /// Names that several clips have.
    pub(super) ambiguous: Vec<String>,
}

/// Applies corrections; of several for one clip, the last one counts. A clip is known by its source, by its path in the stage before, and by
/// both behind the name of that stage. A part of a recording is known by its source alone: its path is a number, which another clip has after
/// the recording was cut in another way.
pub(super) fn apply(edits: Vec<Edit>, clips: &mut [Clip]) -> Applied {
    let mut names: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (index, clip) in clips.iter().enumerate() {
        let source = clip.record.source.clone();
        let is_part = source.as_ref().is_some_and(|source| source.contains("#t="));
        let path = (!is_part).then(|| clip.record.audio_path.clone());
        let stage = clip.key.split('/').next().unwrap_or_default();
        for name in source.into_iter().chain(path) {
            names.entry(format!("{stage}/{name}")).or_default().insert(index);
            names.entry(name).or_default().insert(index);
        }
    }
    let mut applied = Applied::default();
    for edit in edits {
        let found: Vec<usize> = names.get(&edit.clip).into_iter().flatten().copied().collect();
        let Some(clip) = found.first().filter(|_| found.len() == 1).and_then(|index| clips.get_mut(*index)) else {
            if found.is_empty() { &mut applied.unknown } else { &mut applied.ambiguous }.push(edit.clip);
            continue;
        };
        if let Some(text) = edit.text {
            clip.record.text = text.trim().to_owned();
            // Whoever wrote the text has heard the clip.
            clip.record.rest.remove("draft");
        }
        if edit.exclude {
            applied.excluded.insert(clip.key.clone());
        } else {
            applied.excluded.remove(&clip.key);
        }
    }
    applied
}
