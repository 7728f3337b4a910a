//! Model folders: the files that define a model, their digest, and the files copied to a derived model.

use crate::error::{Error, Result, ResultExt};
use crate::model::config::VoxtralConfig;
use crate::weights::{SafetensorsCheckpoint, WeightFiles};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Config and tokenizer files that this program or transformers reads.
const COMPANIONS: &[&str] =
    &["config.json", "params.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tekken.json"];

/// What a model was trained on: digests of clips and sentences, beside `training.json`.
pub const TRAINED_ON: &str = "trained-on.json";

/// Whether a file, given by its path in the model folder, is part of the model. A README, `.git` or license is not.
pub fn counts(file: &str) -> bool {
    COMPANIONS.contains(&file) || (!file.contains('/') && file.ends_with(".safetensors")) || file == crate::weights::INDEX
}

/// The files of a model folder that are read: existing config and tokenizer files, and the weight files in the chosen layout.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = COMPANIONS.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
    if !files.iter().any(|path| path.ends_with("tekken.json")) {
        return Err(Error::new(format!("`{}` is not a model folder: it has no tekken.json", folder.display())));
    }
    // A folder for random initialization has no weights.
    if let Ok(place) = WeightFiles::of(folder) {
        files.extend(place.files);
    }
    files.sort();
    Ok(files)
}

/// BLAKE3 digest of a model: the names and contents of the files that are read.
pub fn digest(folder: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in files(folder)? {
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes()).update(b"\0");
        hasher.update_mmap_rayon(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    }
    Ok(hasher.finalize().to_string())
}

/// BLAKE3 digest of what a model computes: the values of its configuration, its tokenizer and its tensors. Unlike [`digest`] it is the same
/// for any copy, however the tensors are spread over files and whatever else is in the folder.
///
/// # Errors
/// If a file is missing or damaged, and for Voxtral Realtime.
pub fn identity(folder: &Path) -> Result<String> {
    let config = VoxtralConfig::read(folder)?;
    let tokenizer = folder.join("tekken.json");
    let mut hasher = blake3::Hasher::new();
    hasher.update(config.signature().as_bytes()).update(b"\0");
    hasher.update(blake3::hash(&fs::read(&tokenizer).with_context(|| format!("cannot read `{}`", tokenizer.display()))?).as_bytes());
    hasher.update(SafetensorsCheckpoint::of(folder, config.rope_heads())?.digest()?.as_bytes());
    Ok(hasher.finalize().to_string())
}

/// Writes the config and tokenizer files of a model derived from `base`: `config.json` with `dtype` (such as `float32`, `bfloat16`) and
/// copies of the others. If the base has only Mistral's `params.json`, transformers' files are generated from it.
pub fn companions(base: &Path, out: &Path, dtype: &str) -> Result<()> {
    let config = VoxtralConfig::read(base)?;
    let path = base.join("config.json");
    let mut settings = if path.exists() {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        serde_json::from_str(&text).map_err(|error| Error::new(format!("{}: {error}", path.display())))?
    } else {
        config.to_json()
    };
    // Use the key that the base uses, and update it in every section that repeats it.
    let named = ["dtype", "torch_dtype"].into_iter().find(|key| settings.get(key).is_some()).unwrap_or("torch_dtype");
    settings[named] = json!(dtype);
    for part in ["audio_config", "text_config"] {
        for key in ["dtype", "torch_dtype"] {
            if let Some(value) = settings[part].get_mut(key) {
                *value = json!(dtype);
            }
        }
    }
    write_json(&out.join("config.json"), &settings)?;
    for name in ["generation_config.json", "preprocessor_config.json", "processor_config.json", "tekken.json"] {
        copy(base, out, name)?;
    }
    if !out.join("generation_config.json").exists() {
        write_json(&out.join("generation_config.json"), &json!({ "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11 }))?;
    }
    if !out.join("preprocessor_config.json").exists() && !out.join("processor_config.json").exists() {
        write_json(&out.join("preprocessor_config.json"), &crate::model::config::preprocessor::written(&config))?;
    }
    Ok(())
}

/// Copies a file from one folder to another if it exists.
pub fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    let file = from.join(name);
    if file.exists() {
        fs::copy(&file, to.join(name)).with_context(|| format!("cannot copy `{}`", file.display()))?;
    }
    Ok(())
}

/// A model name for published files that reveals no local path. `name` is the model as written in the settings of the project at `root`,
/// `folder` its location. A model in the Hub cache becomes its repository id, a path inside the project stays relative, and any other
/// path is reduced to its last component.
pub fn portable_name(name: &str, folder: &Path, root: &Path) -> String {
    let written = Path::new(name);
    if let Some(id) = hub_id(folder) {
        return id;
    }
    if let Ok(inside) = written.strip_prefix(root) {
        return inside.display().to_string();
    }
    if written.is_absolute() || name.starts_with('~') {
        return written.file_name().map_or_else(|| "base".to_owned(), |last| last.display().to_string());
    }
    name.to_owned()
}

/// Repository id of a model in the Hub cache: `…/models--OWNER--NAME/snapshots/REVISION`.
pub fn hub_id(folder: &Path) -> Option<String> {
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let (owner, name) = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?.split_once("--")?;
    (!owner.is_empty() && !name.is_empty()).then(|| format!("{owner}/{name}"))
}

/// Commit of a model in the Hub cache: the name of its snapshot folder.
pub fn hub_commit(folder: &Path) -> Option<&str> {
    hub_id(folder)?;
    folder.file_name()?.to_str()
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, format!("{}\n", serde_json::to_string_pretty(value)?)).with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use crate::model::model_dir::*;

    #[test]
    fn names_that_may_be_published() {
        let root = Path::new("/home/me/project");
        let is = |name: &str, expected: &str| assert_eq!(portable_name(name, &root.join(name), root), expected, "{name}");
        is("models/tiny", "models/tiny");
        is("/home/me/project/models/tiny", "models/tiny");
        is("/secret/clients/acme/Voxtral-Mini", "Voxtral-Mini");
        is("/c/hub/models--mistralai--Voxtral-Mini-3B-2507/snapshots/3060fe34b35b", "mistralai/Voxtral-Mini-3B-2507");
        is("/c/hub/models--mistralai/snapshots/1", "1");
    }

    #[test]
    fn what_counts() {
        for (name, is) in [
            ("config.json", true),
            ("model-00001-of-00002.safetensors", true),
            ("model.safetensors.index.json", true),
            ("README.md", false),
            (".git/config", false),
            ("old/model.safetensors", false),
            ("tokenizer.json", false),
        ] {
            assert_eq!(counts(name), is, "{name}");
        }
    }
}
