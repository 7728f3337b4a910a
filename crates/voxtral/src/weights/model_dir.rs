//! A model's folder: which of its files count, what they are together, and which go along to a model made of it.

use super::WeightFiles;
use crate::error::{Error, Result, ResultExt};
use crate::model::config::VoxtralConfig;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The files beside the weights that are read, or that whoever loads the model reads.
const COMPANIONS: &[&str] =
    &["config.json", "params.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tekken.json"];

/// Whether a file of a model's folder, by its path in it, decides what the model is. A README, a `.git`, a licence do not.
pub fn counts(file: &str) -> bool {
    COMPANIONS.contains(&file) || (!file.contains('/') && file.ends_with(".safetensors")) || file == super::INDEX
}

/// The files of a model's folder that are read: the small ones that are there, and the weights in the form that is taken.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = COMPANIONS.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
    if !files.iter().any(|path| path.ends_with("tekken.json")) {
        return Err(Error::new(format!("`{}` has no tekken.json, so it is no model's folder", folder.display())));
    }
    // A folder to start from a seed with has none.
    if let Ok(place) = WeightFiles::of(folder) {
        files.extend(place.files);
    }
    files.sort();
    Ok(files)
}

/// A digest of what a model is: the names and bytes of the files that are read.
pub fn digest(folder: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in files(folder)? {
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes()).update(b"\0");
        hasher.update_mmap_rayon(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    }
    Ok(hasher.finalize().to_string())
}

/// Writes what a model made of `base` needs beside its weights: its config saying `dtype` (`float32`, `bfloat16`), and copies of the rest.
/// Where the base has only Mistral's `params.json`, the files of transformers are made from it.
pub fn companions(base: &Path, out: &Path, dtype: &str) -> Result<()> {
    let config = VoxtralConfig::read(base)?;
    let path = base.join("config.json");
    let mut settings = if path.exists() {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        serde_json::from_str(&text).map_err(|error| Error::new(format!("{}: {error}", path.display())))?
    } else {
        config.to_json()
    };
    // Whichever spelling the base uses; in every part that repeats it.
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

/// Copies a file of a folder, if it has it.
pub fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    let file = from.join(name);
    if file.exists() {
        fs::copy(&file, to.join(name)).with_context(|| format!("cannot copy `{}`", file.display()))?;
    }
    Ok(())
}

/// What a model in `folder`, written as `name` in the settings of a project at `root`, is called in files others may read: a path inside
/// the project stays, a copy in the Hub's cache is known by its id, and of any other place only the last part is told.
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

/// The id of a model that lies in the cache of the Hub's tools: `…/models--OWNER--NAME/snapshots/REVISION`.
pub fn hub_id(folder: &Path) -> Option<String> {
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let (owner, name) = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?.split_once("--")?;
    (!owner.is_empty() && !name.is_empty()).then(|| format!("{owner}/{name}"))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, format!("{}\n", serde_json::to_string_pretty(value)?)).with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
