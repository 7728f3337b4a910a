//! Contents of a model repository: weights, configuration and model card, with a check for missing and truncated files.

use super::Release;
use crate::data::managed_dir;
use crate::error::{Error, Result, ResultExt};
use crate::hub::RepoType;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use voxtral::weights;

impl Release {
    /// The release of the model or adapter in `folder`, with a model card.
    pub fn model(folder: &Path, card: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut left_out = Vec::new();
        for (name, path) in managed_dir::named(folder)? {
            if is_public(&name) {
                files.insert(name, path);
            } else {
                left_out.push(name);
            }
        }
        files.insert("README.md".to_owned(), card.to_owned());
        let kind = check_files(&files)?;
        Ok(Self { repository: RepoType::Model, kind, files, left_out })
    }
}

/// Whether a file is published. Checkpoints, optimizer states, partial and hidden files are not.
fn is_public(name: &str) -> bool {
    let private =
        |part: &str| part.starts_with('.') || part.starts_with("checkpoint") || part.starts_with("optimizer") || part.ends_with(".part");
    !name.split('/').any(private)
}

/// Returns `adapter` or `model`. It is an error if a required file is missing, truncated or invalid.
fn check_files(files: &BTreeMap<String, PathBuf>) -> Result<&'static str> {
    let (kind, needed) = if files.contains_key("adapter_config.json") {
        ("adapter", ["adapter_config.json", "adapter_model.safetensors", "training.json"])
    } else {
        ("model", ["config.json", weights::SINGLE, "training.json"])
    };
    let sharded = !files.contains_key(weights::SINGLE) && files.contains_key(weights::INDEX);
    let mut needed: Vec<String> = needed.into_iter().filter(|name| !sharded || *name != weights::SINGLE).map(str::to_owned).collect();
    if sharded {
        needed.push(weights::INDEX.to_owned());
        needed.extend(shards(files)?);
    }
    for name in &needed {
        let path = files.get(name.as_str()).ok_or_else(|| {
            Error::new(format!("the {kind} has no `{name}` and cannot be loaded")).hint("check the result of the stage in `from.model`")
        })?;
        let bad = |what: String| Error::new(format!("`{name}` of the {kind}: {what}")).hint("rerun the stage that produced it");
        if name.ends_with(".json") {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read `{name}`"))?;
            serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| bad(error.to_string()))?;
        } else {
            check_size(path).map_err(|error| bad(error.message))?;
        }
    }
    Ok(kind)
}

/// The weight files named in the index of a sharded model.
fn shards(files: &BTreeMap<String, PathBuf>) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let name = weights::INDEX;
    let Some(path) = files.get(name) else { return Ok(BTreeSet::new()) };
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{name}`"))?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| Error::new(format!("`{name}` of the model: {error}")).hint("rerun the stage that produced it"))?;
    Ok(index.weight_map.into_values().collect())
}

/// An entry of a safetensors header; `__metadata__` has no offsets.
#[derive(Deserialize)]
struct Tensor {
    data_offsets: Option<[u64; 2]>,
}

/// Checks that the size of a safetensors file matches its header.
fn check_size(path: &Path) -> Result<()> {
    use std::io::Read;
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| Error::new(format!("{size} bytes are too short for a header")))?;
    let header = u64::from_le_bytes(length);
    if header > size.saturating_sub(8) {
        return Err(Error::new(format!("truncated: the header has {header} bytes, the file only {size}")));
    }
    let mut text = Vec::new();
    file.take(header).read_to_end(&mut text)?;
    let tensors: BTreeMap<String, Tensor> =
        serde_json::from_slice(&text).map_err(|error| Error::new(format!("invalid header: {error}")))?;
    let end = tensors.values().filter_map(|tensor| tensor.data_offsets).map(|offsets| offsets[1]).max().unwrap_or(0);
    let expected = end.saturating_add(8 + header);
    if size == expected { Ok(()) } else { Err(Error::new(format!("wrong size: expected {expected} bytes, found {size}"))) }
}
