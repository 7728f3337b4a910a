//! The cache that Hugging Face tools share: `models--ORG--NAME/{refs,snapshots,blobs}`.
//!
//! `refs/REVISION` holds the name of a commit; `snapshots/COMMIT` holds its files, which are links into `blobs`. `remember` writes the
//! ref of a branch or tag, once all files are there; nothing else here writes to that cache.

use super::RepoRevision;
use super::token::HubToken;
use crate::error::{Error, Result, ResultExt};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};
use voxpipe_io::write::{Durability, write_atomic_with};

/// The files of a commit that are in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder with its files.
    pub folder: PathBuf,
}

impl Snapshot {
    /// What the cache holds of a repository's revision, if anything.
    pub fn find(cache: &Path, repository: &RepoRevision) -> Option<Self> {
        let home = home(cache, repository);
        let commit = if repository.is_pinned() {
            repository.revision.clone()
        } else {
            fs::read_to_string(home.join("refs").join(&repository.revision)).ok()?.trim().to_owned()
        };
        let folder = home.join("snapshots").join(&commit);
        (super::is_commit(&commit) && folder.is_dir()).then_some(Self { folder })
    }

    /// Files that a model or an adapter needs and that are missing; broken links count as missing.
    pub fn missing(&self) -> Vec<String> {
        let has = |name: &str| self.folder.join(name).is_file();
        if has("adapter_config.json") {
            let needed = ["adapter_model.safetensors"];
            return needed.into_iter().filter(|name| !has(name)).map(str::to_owned).collect();
        }
        let mut missing = Vec::new();
        if !has("config.json") && !has("params.json") {
            missing.push("config.json".to_owned());
        }
        if !has("tekken.json") {
            missing.push("tekken.json".to_owned());
        }
        missing.extend(self.missing_weights(&has));
        missing
    }

    fn missing_weights(&self, has: &dyn Fn(&str) -> bool) -> Vec<String> {
        let indices = ["model.safetensors.index.json", "consolidated.safetensors.index.json"];
        if let Some(index) = indices.into_iter().find(|index| has(index)) {
            // Loading the model reports an index that cannot be read; downloading it again would not help.
            return shards(&self.folder.join(index)).into_iter().filter(|shard| !has(shard)).collect();
        }
        if has("model.safetensors") || has("consolidated.safetensors") { Vec::new() } else { vec!["model.safetensors".to_owned()] }
    }
}

/// The folder of the cache, found as the official client does.
pub fn folder() -> Result<PathBuf> {
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
        if let Some(folder) = variable(name) {
            return Ok(PathBuf::from(folder));
        }
    }
    Ok(hugging_face_home()?.join("hub"))
}

/// The token that the official client would use, if there is one.
pub(super) fn token() -> Option<HubToken> {
    if variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_yes(&value)) {
        return None;
    }
    let file = || variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(hugging_face_home().ok()?.join("token")));
    let written = || file().and_then(|path| Some(HubToken::new(clean(&fs::read_to_string(&path).ok()?)?, format!("`{}`", path.display()))));
    token_in("HF_TOKEN").or_else(|| token_in("HUGGING_FACE_HUB_TOKEN")).or_else(written)
}

/// The token in an environment variable, if it is set.
pub(super) fn token_in(name: &str) -> Option<HubToken> {
    Some(HubToken::new(clean(&variable(name)?)?, name))
}

fn clean(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|token| !token.is_empty())
}

/// The address of the Hub, without a slash at the end.
pub(super) fn endpoint() -> String {
    variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()).trim_end_matches('/').to_owned()
}

/// Records the commit of a branch or tag, atomically.
pub(super) fn remember(cache: &Path, repository: &RepoRevision, commit: &str) -> Result<()> {
    write(&home(cache, repository).join("refs").join(&repository.revision), commit.as_bytes())
}

/// Writes a file of the cache, which can be downloaded again.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let writing = || format!("cannot write `{}`", path.display());
    write_atomic_with(path, Durability::ProcessEnd, |file| file.write_all(bytes).with_context(writing))
}

/// Whether the value of an environment variable means yes, as the official client reads it.
pub(super) fn is_yes(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

fn home(cache: &Path, repository: &RepoRevision) -> PathBuf {
    cache.join(repository.repo.cache_name())
}

pub(super) fn hugging_face_home() -> Result<PathBuf> {
    if let Some(folder) = variable("HF_HOME") {
        return Ok(PathBuf::from(folder));
    }
    if let Some(folder) = variable("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(folder).join("huggingface"));
    }
    env::home_dir()
        .filter(|home| !home.as_os_str().is_empty())
        .map(|home| home.join(".cache/huggingface"))
        .ok_or_else(|| Error::new("cannot find the cache of models: there is no home folder").environment().hint("set HF_HOME to a folder"))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The files that an index names. Loading the model refuses names that lead out of the folder.
fn shards(index: &Path) -> BTreeSet<String> {
    let value: Option<Value> = fs::read_to_string(index).ok().and_then(|text| serde_json::from_str(&text).ok());
    let map = value.as_ref().and_then(|value| value.get("weight_map")).and_then(Value::as_object);
    map.into_iter().flat_map(|map| map.values()).filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_may_keep_the_same_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refs/main");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || (0..200).for_each(|_| write(path, writer.to_string().repeat(40).as_bytes()).unwrap()));
            }
        });
        let found = fs::read_to_string(&path).unwrap();
        assert!(found.len() == 40 && found.chars().all(|digit| found.starts_with(digit)), "{found}");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary is left");
    }
}
