//! Validates the result of a program against its declared `output` kind.

use crate::data::clip_row::ClipRow;
use crate::data::phrase::PhraseRow;
use crate::error::{Error, Result, ResultExt};
use pipeline::artifact::ArtifactKind;
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe_io::jsonl;

/// Checks that a folder has the files of an artifact kind. Returns a description of what was found.
pub(super) fn check(kind: ArtifactKind, folder: &Path) -> Result<String> {
    let object = |name: &str| -> Result<Map<String, Value>> {
        let path = present(folder, name)?;
        serde_json::from_str(&fs::read_to_string(&path)?).with_context(|| path.display().to_string())
    };
    let records = |name: &str| -> Result<usize> {
        let path = present(folder, name)?;
        let records = ClipRow::read_all(&path)?;
        for record in &records {
            present(folder, &record.audio_path).map_err(|error| error.context(path.display()))?;
        }
        Ok(records.len())
    };
    Ok(match kind {
        ArtifactKind::Phrases => format!("{} phrases", PhraseRow::read_all(&present(folder, "phrases.jsonl")?)?.len()),
        ArtifactKind::Clips => format!("{} clips", records("clips.jsonl")?),
        ArtifactKind::Dataset => {
            let all = records("data.jsonl")?;
            format!("a dataset of {all} clips, {} to train on and {} to test on", records("train.jsonl")?, records("test.jsonl")?)
        }
        ArtifactKind::Model => {
            let adapter = folder.join("adapter_config.json").exists();
            let (config, weights, found) = if adapter {
                ("adapter_config.json", "adapter_model.safetensors", "an adapter")
            } else {
                ("config.json", "model.safetensors", "a model")
            };
            object(config)?;
            present(folder, weights)?;
            object("training.json")?;
            found.to_owned()
        }
        ArtifactKind::Scores => {
            object("scores.json")?;
            format!("scores of {} clips", jsonl::read::<Map<String, Value>>(&present(folder, "clips.jsonl")?)?.len())
        }
        ArtifactKind::Card => {
            present(folder, "README.md")?;
            "a card".to_owned()
        }
        ArtifactKind::Published => {
            object("published.json")?;
            "something published".to_owned()
        }
        ArtifactKind::Demo => {
            present(folder, "README.md")?;
            "a demo".to_owned()
        }
        ArtifactKind::Files => match fs::read_dir(folder)?.count() {
            0 => "no files".to_owned(),
            1 => "1 file or folder".to_owned(),
            count => format!("{count} files and folders"),
        },
    })
}

/// The path of a required file.
fn present(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { Err(Error::new(format!("`{name}` is missing"))) }
}
