//! The sounds of the clips a demo shows.

use crate::data::clip_row::ClipRow;
use crate::error::{Error, Result, ResultExt};
use pipeline::artifact::Artifact;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Puts the sound of every shown clip beside the page, and its name there into the clip. Only clips of this dataset can be shown: that it
/// is given to the stage is what says that they may be heard.
pub(super) fn add_sounds(scores: &mut Value, data: &Artifact, out: &Path) -> Result<()> {
    let records = ClipRow::read_all(&data.path.join("data.jsonl"))?;
    let known: BTreeSet<&str> = records.iter().map(|record| record.audio_path.as_str()).collect();
    let folder = out.join("audio");
    for list in ["best", "worst"] {
        for (at, clip) in scores[list].as_array_mut().into_iter().flatten().enumerate() {
            let Some(path) = clip["audio_path"].as_str().map(str::to_owned) else { continue };
            if !known.contains(path.as_str()) {
                return Err(Error::new(format!("the scored clip `{path}` is not in the dataset of stage `{}`", data.stage))
                    .hint("give the demo the dataset that was evaluated, or leave `data` out"));
            }
            fs::create_dir_all(&folder).with_context(|| "cannot make the folder of the sounds")?;
            let name = format!("{list}-{}.wav", at + 1);
            fs::copy(data.path.join(&path), folder.join(&name)).with_context(|| format!("cannot copy the sound `{path}`"))?;
            clip["sound"] = json!(name);
        }
    }
    Ok(())
}
