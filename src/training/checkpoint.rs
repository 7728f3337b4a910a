//! Checkpoints: everything a run needs to go on and end in the same bytes.
//!
//! A checkpoint is a folder `step-000400`: `weights.safetensors` (what is trained), `optimizer.safetensors`, `state.json`, and
//! `MANIFEST.json` with the size and digest of each. It is written under another name, synced and renamed, and the one before the
//! previous is removed only after that. Reading takes the newest one whose manifest holds true.

use super::LossRow;
use crate::artifact::Digest;
use crate::error::{Doing, Error, Result};
use crate::voxtral::weights::{read_tensors, write_tensors};
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const KEPT: usize = 2;
const MANIFEST: &str = "MANIFEST.json";
const DRAFT: &str = ".tmp";

/// What a checkpoint holds.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// The trained tensors by name.
    pub weights: BTreeMap<String, TensorData>,
    /// The optimizer's tensors by name.
    pub optimizer: BTreeMap<String, TensorData>,
    /// The rest.
    pub state: State,
}

/// Where the run stands. Sampling and dropout depend on the seed and the step only, so they need no state of their own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Optimizer steps made.
    pub step: u64,
    /// The losses so far.
    pub losses: Vec<LossRow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    size: u64,
    digest: Digest,
}

impl Entry {
    /// Reads a file piece by piece: it may be as large as the model.
    fn of(path: &Path) -> Result<Self> {
        let reading = || format!("cannot read `{}`", path.display());
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path).doing(reading)?).doing(reading)?;
        Ok(Self { size: hasher.count(), digest: Digest(*hasher.finalize().as_bytes()) })
    }
}

impl Checkpoint {
    /// Writes the checkpoint durably into `folder` and removes old ones.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let name = format!("step-{:06}", self.state.step);
        let (draft, finished) = (folder.join(format!("{name}{DRAFT}")), folder.join(&name));
        // A run that was killed while it wrote leaves a draft behind, of whatever step.
        for old in drafts(folder).into_iter().chain(finished.exists().then(|| finished.clone())) {
            fs::remove_dir_all(&old).doing(|| format!("cannot remove `{}`", old.display()))?;
        }
        fs::create_dir_all(&draft).doing(|| format!("cannot create `{}`", draft.display()))?;
        write_tensors(&draft.join("weights.safetensors"), &self.weights)?;
        write_tensors(&draft.join("optimizer.safetensors"), &self.optimizer)?;
        write_bytes(&draft.join("state.json"), &serde_json::to_vec(&self.state)?)?;
        let mut manifest = BTreeMap::new();
        for file in ["optimizer.safetensors", "state.json", "weights.safetensors"] {
            let path = draft.join(file);
            sync(&path)?;
            manifest.insert(file.to_owned(), Entry::of(&path)?);
        }
        write_bytes(&draft.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
        sync(&draft.join(MANIFEST))?;
        sync(&draft)?;
        fs::rename(&draft, &finished).doing(|| format!("cannot rename `{}`", draft.display()))?;
        sync(folder)?;
        let old = list(folder);
        for (_, path) in old.iter().rev().skip(KEPT) {
            fs::remove_dir_all(path).doing(|| format!("cannot remove `{}`", path.display()))?;
        }
        Ok(())
    }

    /// The newest whole checkpoint in `folder`; damaged ones are told to `skipped`.
    pub fn newest(folder: &Path, mut skipped: impl FnMut(String)) -> Option<Self> {
        list(folder).into_iter().rev().find_map(|(_, path)| match Self::read(&path) {
            Ok(checkpoint) => Some(checkpoint),
            Err(error) => {
                skipped(format!("checkpoint `{}` is damaged and not used: {error}", path.file_name().unwrap_or_default().display()));
                None
            }
        })
    }

    fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path.join(MANIFEST)).doing(|| format!("cannot read {MANIFEST}"))?;
        let manifest: BTreeMap<String, Entry> = serde_json::from_slice(&text)?;
        for file in ["optimizer.safetensors", "state.json", "weights.safetensors"] {
            let entry = manifest.get(file).ok_or_else(|| Error::new(format!("{MANIFEST} does not list {file}")))?;
            let found = Entry::of(&path.join(file))?;
            if found.size != entry.size || found.digest != entry.digest {
                return Err(Error::new(format!("{file} is not what was written")));
            }
        }
        Ok(Self {
            weights: read_tensors(&path.join("weights.safetensors"))?,
            optimizer: read_tensors(&path.join("optimizer.safetensors"))?,
            state: serde_json::from_slice(&fs::read(path.join("state.json"))?)?,
        })
    }
}

/// The finished checkpoints by step.
fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<(u64, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// The checkpoints that were never finished.
fn drafts(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with("step-") && name.ends_with(DRAFT)));
    names.map(|entry| entry.path()).collect()
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).doing(|| format!("cannot write `{}`", path.display()))
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).doing(|| format!("cannot sync `{}`", path.display()))
}
