//! Audio files of the clips that a demo shows.

use crate::data::clip_row::ClipRow;
use crate::error::{Error, Result, ResultExt};
use pipeline::artifact::Artifact;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Copies the audio of every shown clip next to the page and writes its file name into the clip. Only clips of `data` can be published:
/// passing the dataset to the stage is the permission to publish its audio.
pub(super) fn add_sounds(scores: &mut Value, data: &Artifact, out: &Path) -> Result<()> {
    let records = ClipRow::read_all(&data.path.join("data.jsonl"))?;
    let known: BTreeSet<&str> = records.iter().map(|record| record.audio_path.as_str()).collect();
    let folder = out.join("audio");
    for list in ["best", "worst"] {
        for (at, clip) in scores[list].as_array_mut().into_iter().flatten().enumerate() {
            let Some(path) = clip["audio_path"].as_str().map(str::to_owned) else { continue };
            if !known.contains(path.as_str()) {
                return Err(Error::new(format!("the scored clip `{path}` is not in the dataset of stage `{}`", data.stage))
                    .hint("set `data` to the dataset that was evaluated, or leave it out"));
            }
            fs::create_dir_all(&folder).with_context(|| "cannot create the audio folder")?;
            let name = format!("{list}-{}.wav", at + 1);
            fs::copy(data.path.join(&path), folder.join(&name)).with_context(|| format!("cannot copy the audio file `{path}`"))?;
            clip["sound"] = json!(name);
        }
    }
    Ok(())
}
