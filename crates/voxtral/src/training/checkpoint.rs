//! Training checkpoints: a resumed run ends with byte-identical results.
//!
//! A checkpoint is a folder `step-000400` with `weights.safetensors` (trained parameters), `optimizer.safetensors`, `state.json`, and
//! `MANIFEST.json` with the size and digest of each file. It is written under a temporary name, synced and renamed; old checkpoints are
//! removed only after that. Resuming uses the newest checkpoint whose files match its manifest.
//!
//! A folder `best-000350` contains the weights of the best model so far. It is written before the first checkpoint that refers to it, and
//! kept while any checkpoint refers to it.

use super::{BestModel, EvalResult, LossRow};
use crate::error::{Error, Result, ResultExt};
use crate::weights::{read_tensors, write_tensors};
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use voxpipe_io::digest::Digest;

const MANIFEST: &str = "MANIFEST.json";
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const STEP: &str = "step-";
const BEST: &str = "best-";
const DRAFT: &str = ".tmp";

/// Contents of a checkpoint.
#[derive(Debug, Default)]
pub struct TrainingCheckpoint {
    /// Trained parameters by name.
    pub weights: BTreeMap<String, TensorData>,
    /// Optimizer state by name.
    pub optimizer: BTreeMap<String, TensorData>,
    /// Progress of the run.
    pub state: TrainingState,
}

/// Progress of a run. Sampling and dropout depend only on the seed and the step, so they need no state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingState {
    /// Completed optimizer steps.
    pub step: u64,
    /// Losses so far, one row per step.
    pub losses: Vec<LossRow>,
    /// Evaluations so far.
    #[serde(default)]
    pub evaluations: Vec<EvalResult>,
    /// The best model so far.
    #[serde(default)]
    pub best: Option<BestModel>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    size: u64,
    digest: Digest,
}

impl Entry {
    /// Hashes a file in a streaming fashion: it may be as large as the model.
    fn of(path: &Path) -> Result<Self> {
        let reading = || format!("cannot read `{}`", path.display());
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path).with_context(reading)?).with_context(reading)?;
        Ok(Self { size: hasher.count(), digest: Digest(*hasher.finalize().as_bytes()) })
    }
}

impl TrainingCheckpoint {
    /// Writes the checkpoint durably to `folder`, then removes all but the newest `kept` checkpoints.
    pub fn write(&self, folder: &Path, kept: usize) -> Result<()> {
        let state = serde_json::to_vec(&self.state)?;
        write_folder(folder, &format!("{STEP}{:06}", self.state.step), &|draft| {
            write_tensors(&draft.join(WEIGHTS), &self.weights)?;
            write_tensors(&draft.join(OPTIMIZER), &self.optimizer)?;
            write_bytes(&draft.join(STATE), &state)
        })?;
        for (_, path) in list(folder, STEP).iter().rev().skip(kept.max(1)) {
            remove(path)?;
        }
        // Remove a best model when no remaining checkpoint refers to it.
        let states = list(folder, STEP).into_iter().filter_map(|(_, path)| read_state(&path).ok());
        let referenced: BTreeSet<u64> = states.filter_map(|state| state.best).map(|best| best.step).collect();
        for (step, path) in list(folder, BEST) {
            if !referenced.contains(&step) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// The newest intact checkpoint in `folder`; `skipped` receives a message for each damaged one.
    pub fn newest(folder: &Path, mut skipped: impl FnMut(String)) -> Option<Self> {
        list(folder, STEP).into_iter().rev().find_map(|(_, path)| match Self::read(&path) {
            Ok(checkpoint) => Some(checkpoint),
            Err(error) => {
                skipped(format!("checkpoint `{}` is damaged and is ignored: {error}", path.file_name().unwrap_or_default().display()));
                None
            }
        })
    }

    fn read(path: &Path) -> Result<Self> {
        verify(path, &[OPTIMIZER, STATE, WEIGHTS])?;
        Ok(Self { weights: read_tensors(&path.join(WEIGHTS))?, optimizer: read_tensors(&path.join(OPTIMIZER))?, state: read_state(path)? })
    }
}

/// Writes the trained parameters of the best model so far durably.
pub fn write_best(folder: &Path, step: u64, weights: &BTreeMap<String, TensorData>) -> Result<()> {
    write_folder(folder, &format!("{BEST}{step:06}"), &|draft| write_tensors(&draft.join(WEIGHTS), weights))
}

/// Reads the trained parameters of the best model.
pub fn read_best(folder: &Path, step: u64) -> Result<BTreeMap<String, TensorData>> {
    let path = folder.join(format!("{BEST}{step:06}"));
    verify(&path, &[WEIGHTS]).and_then(|()| read_tensors(&path.join(WEIGHTS))).map_err(|error| {
        error
            .context(format!("the checkpoint of the best model, `{}`, is damaged", path.display()))
            .hint(format!("remove `{}` to train from the start", folder.display()))
    })
}

fn read_state(path: &Path) -> Result<TrainingState> {
    Ok(serde_json::from_slice(&fs::read(path.join(STATE))?)?)
}

/// Atomically creates a folder of files with a manifest.
fn write_folder(folder: &Path, name: &str, fill: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let (draft, finished) = (folder.join(format!("{name}{DRAFT}")), folder.join(name));
    // A run that was killed while writing leaves a draft, of any step.
    for old in drafts(folder).iter().chain(finished.exists().then_some(&finished)) {
        remove(old)?;
    }
    fs::create_dir_all(&draft).with_context(|| format!("cannot create `{}`", draft.display()))?;
    fill(&draft)?;
    let mut manifest = BTreeMap::new();
    for file in [OPTIMIZER, STATE, WEIGHTS] {
        let path = draft.join(file);
        if path.exists() {
            sync(&path)?;
            manifest.insert(file.to_owned(), Entry::of(&path)?);
        }
    }
    write_bytes(&draft.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
    sync(&draft.join(MANIFEST))?;
    sync(&draft)?;
    fs::rename(&draft, &finished).with_context(|| format!("cannot rename `{}`", draft.display()))?;
    sync(folder)
}

/// Checks files against the sizes and digests of the manifest.
fn verify(path: &Path, files: &[&str]) -> Result<()> {
    let text = fs::read(path.join(MANIFEST)).with_context(|| format!("cannot read {MANIFEST}"))?;
    let manifest: BTreeMap<String, Entry> = serde_json::from_slice(&text)?;
    for file in files {
        let entry = manifest.get(*file).ok_or_else(|| Error::new(format!("{MANIFEST} does not list {file}")))?;
        let found = Entry::of(&path.join(file))?;
        if found.size != entry.size || found.digest != entry.digest {
            return Err(Error::new(format!("{file} does not match {MANIFEST}")));
        }
    }
    Ok(())
}

/// Complete folders named `kind` + step, sorted by step.
fn list(folder: &Path, kind: &str) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<(u64, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix(kind)?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Incomplete folders.
fn drafts(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = |name: &str| (name.starts_with(STEP) || name.starts_with(BEST)) && name.ends_with(DRAFT);
    entries.filter(|entry| entry.file_name().to_str().is_some_and(ours)).map(|entry| entry.path()).collect()
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove `{}`", folder.display()))
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).with_context(|| format!("cannot sync `{}`", path.display()))
}
