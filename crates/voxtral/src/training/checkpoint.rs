//! Checkpoints: everything a run needs to go on and end in the same bytes.
//!
//! A checkpoint is a folder `step-000400`: `weights.safetensors` (what is trained), `optimizer.safetensors`, `state.json`, and
//! `MANIFEST.json` with the size and digest of each. It is written under another name, synced and renamed, and the one before the
//! previous is removed only after that. Reading takes the newest one whose manifest holds true.
//!
//! Beside them, `best-000350` has the weights of the best model so far. It is written before the first checkpoint that speaks of it, and
//! stays as long as any checkpoint does.

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

/// What a checkpoint holds.
#[derive(Debug, Default)]
pub struct TrainingCheckpoint {
    /// The trained tensors by name.
    pub weights: BTreeMap<String, TensorData>,
    /// The optimizer's tensors by name.
    pub optimizer: BTreeMap<String, TensorData>,
    /// The rest.
    pub state: TrainingState,
}

/// Where the run stands. Sampling and dropout depend on the seed and the step only, so they need no state of their own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingState {
    /// Optimizer steps made.
    pub step: u64,
    /// The losses so far.
    pub losses: Vec<LossRow>,
    /// What was thought of the model so far.
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
    /// Reads a file piece by piece: it may be as large as the model.
    fn of(path: &Path) -> Result<Self> {
        let reading = || format!("cannot read `{}`", path.display());
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path).with_context(reading)?).with_context(reading)?;
        Ok(Self { size: hasher.count(), digest: Digest(*hasher.finalize().as_bytes()) })
    }
}

impl TrainingCheckpoint {
    /// Writes the checkpoint durably into `folder` and removes old ones but for `kept` in all.
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
        // A best model goes when no checkpoint is left that speaks of it.
        let states = list(folder, STEP).into_iter().filter_map(|(_, path)| read_state(&path).ok());
        let spoken_of: BTreeSet<u64> = states.filter_map(|state| state.best).map(|best| best.step).collect();
        for (step, path) in list(folder, BEST) {
            if !spoken_of.contains(&step) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// The newest whole checkpoint in `folder`; damaged ones are told to `skipped`.
    pub fn newest(folder: &Path, mut skipped: impl FnMut(String)) -> Option<Self> {
        list(folder, STEP).into_iter().rev().find_map(|(_, path)| match Self::read(&path) {
            Ok(checkpoint) => Some(checkpoint),
            Err(error) => {
                skipped(format!("checkpoint `{}` is damaged and not used: {error}", path.file_name().unwrap_or_default().display()));
                None
            }
        })
    }

    fn read(path: &Path) -> Result<Self> {
        verify(path, &[OPTIMIZER, STATE, WEIGHTS])?;
        Ok(Self { weights: read_tensors(&path.join(WEIGHTS))?, optimizer: read_tensors(&path.join(OPTIMIZER))?, state: read_state(path)? })
    }
}

/// Writes the trained tensors of the best model so far durably.
pub fn write_best(folder: &Path, step: u64, weights: &BTreeMap<String, TensorData>) -> Result<()> {
    write_folder(folder, &format!("{BEST}{step:06}"), &|draft| write_tensors(&draft.join(WEIGHTS), weights))
}

/// Reads them back.
pub fn read_best(folder: &Path, step: u64) -> Result<BTreeMap<String, TensorData>> {
    let path = folder.join(format!("{BEST}{step:06}"));
    verify(&path, &[WEIGHTS]).and_then(|()| read_tensors(&path.join(WEIGHTS))).map_err(|error| {
        error
            .context(format!("the best model, `{}`, is damaged", path.display()))
            .hint(format!("remove `{}` to train from the start", folder.display()))
    })
}

fn read_state(path: &Path) -> Result<TrainingState> {
    Ok(serde_json::from_slice(&fs::read(path.join(STATE))?)?)
}

/// Makes a folder of files with their manifest, whole or not at all.
fn write_folder(folder: &Path, name: &str, fill: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let (draft, finished) = (folder.join(format!("{name}{DRAFT}")), folder.join(name));
    // A run that was killed while it wrote leaves a draft behind, of whatever step.
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

/// Whether the files of a folder are what its manifest says.
fn verify(path: &Path, files: &[&str]) -> Result<()> {
    let text = fs::read(path.join(MANIFEST)).with_context(|| format!("cannot read {MANIFEST}"))?;
    let manifest: BTreeMap<String, Entry> = serde_json::from_slice(&text)?;
    for file in files {
        let entry = manifest.get(*file).ok_or_else(|| Error::new(format!("{MANIFEST} does not list {file}")))?;
        let found = Entry::of(&path.join(file))?;
        if found.size != entry.size || found.digest != entry.digest {
            return Err(Error::new(format!("{file} is not what was written")));
        }
    }
    Ok(())
}

/// The finished folders whose names are `kind` and a step, by step.
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

/// What was never finished.
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
