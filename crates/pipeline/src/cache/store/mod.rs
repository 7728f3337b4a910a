//! The store: results, cache entries, history and run logs in `.voxpipe/`. No other module writes there.
//!
//! ```text
//! .voxpipe/
//!   store/DIGEST/              a result; its files are read-only and immutable
//!   trees/DIGEST.json          the file list of a result
//!   keys/FINGERPRINT.json      the cache entry of a result: written last, so it is the commit point
//!   work/out-FINGERPRINT-…/    the output folder of a running stage; leftovers of a killed run are deleted
//!   work/FINGERPRINT/scratch/  files kept across attempts (checkpoints)
//!   last/PIPELINE.jsonl        run history: the newest attempt and the newest result of each stage; the data behind `why`
//!   latest/PIPELINE/STAGE      a symbolic link to the newest result, for users
//!   cache/                     recomputable files of stages; may be deleted at any time
//!   runs/ID/events.jsonl       the event log of a run; next to it provenance.json, which describes how to reproduce it
//!   pins/RUN                   a pinned run: garbage collection keeps its results
//!   damaged/  repro/  trash/   damaged results; reproduced runs; folders being deleted
//!   stat.idx                   the stat cache
//!   memo/                      the no-op cache; losing it only costs time
//!   lock  locks/               file locks: of the project, of each pipeline that runs, of each result that is being made
//!   alive  locks/*.alive       liveness locks, held by the processes that a run has started
//! ```
//!
//! A stage's result is committed in this order: validate, hash, make read-only, sync to disk, move to `store/`, and only then write the
//! cache entry to `keys/`. A stage interrupted before the last step leaves nothing but its scratch folder.
//! Stored paths are relative, so the project can be moved as a whole.

mod archive;
mod disk;
mod files;
mod gc;
mod group_commit;
mod history;
mod lock;
mod open;
mod remote;
mod runs;

pub use archive::{ArchiveManifest, ImportedRun};
pub use gc::CachedFile;
pub use lock::ResultClaim;
pub use open::ClaimAnswer;

use crate::artifact::{Artifact, ArtifactKind};
use crate::cache::content::{Content, ContentDiff, FileTree, STATE_FOLDER, SymlinkPolicy};
use crate::cache::file_stat::StatKey;
use crate::cache::fingerprint::{Fingerprint, FingerprintInputs};
use crate::cache::reads;
use crate::cache::stat_cache::StatCache;
use crate::error::{Result, ResultExt};
use crate::events::metrics_log;
use crate::manifest::foreach;
use crate::process::liveness_lock::LivenessLock;
use files::Durability;
use group_commit::{GroupCommit, PendingCommit};
use history::HistoryLog;
use open::HeldLocks;
use remote::SharedCache;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};
use voxpipe_io::digest::Digest;

/// The state folder of a project.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    index: Arc<StatCache>,
    /// Cache entries that are not on disk yet.
    group: GroupCommit,
    all_history: Arc<HistoryLog>,
    /// Serializes [`Store::keep`]: two results may be equal.
    keeping: Mutex<()>,
    /// Serializes link replacement: runs of a sweep may share a link.
    linking: Mutex<()>,
    /// Output folders of small results that already existed, removed at the end: removals slow down concurrent access to `work/`.
    spare: Mutex<Vec<PathBuf>>,
    /// A description of the orphaned processes of an earlier run that were terminated.
    orphans: Option<String>,
    /// The liveness lock that the processes of this run inherit.
    liveness: Option<Arc<LivenessLock>>,
    /// When the stat cache was last saved.
    saved: Mutex<Option<Instant>>,
    /// Released last.
    locks: Option<HeldLocks>,
    shared: Option<SharedCache>,
}

/// A cache entry: records that a result exists, and what it was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// The fingerprint inputs of the result.
    pub ingredients: FingerprintInputs,
    /// The run that made it.
    pub run: String,
    /// The duration of the stage in seconds.
    pub seconds: f64,
    /// The artifact kind of the result.
    pub kind: ArtifactKind,
    /// The digest of the result folder.
    pub digest: Digest,
    /// The stage's one-line summary.
    pub summary: String,
    /// The metrics of the result.
    #[serde(with = "voxpipe_io::metrics")]
    pub metrics: BTreeMap<String, f64>,
    /// The facts of the result.
    pub facts: BTreeMap<String, Value>,
    /// The declared outputs outside the store, by path.
    pub promises: BTreeMap<String, Content>,
}

/// The history of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageHistory {
    /// The newest attempt.
    pub tried: AttemptRecord,
    /// The fingerprint inputs of the newest committed result.
    pub done: Option<FingerprintInputs>,
}

/// One attempt at a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The run it belonged to.
    pub run: String,
    /// The fingerprint of the attempted result.
    pub fingerprint: Fingerprint,
    /// How it ended.
    pub end: AttemptEnd,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum AttemptEnd {
    /// Still running, or the run was killed.
    Begun,
    /// A result was committed.
    Done,
    /// Waits for a person.
    Parked {
        /// How many items exist.
        have: u64,
        /// How many items are needed.
        need: u64,
        /// What the person has to do.
        message: String,
    },
    /// Failed with an error.
    Failed {
        /// The error message.
        message: String,
    },
    /// Stopped on request.
    Interrupted,
    /// A source file changed during the attempt, so the result was used but got no cache entry.
    SourceMoved {
        /// The path of the source.
        path: String,
        /// What changed in it.
        #[serde(default)]
        changes: ContentDiff,
    },
}

/// The working folders of a running stage.
#[derive(Debug)]
pub struct Workspace {
    /// The output folder: empty at the start; its contents at the end are the result.
    pub out: PathBuf,
    /// The scratch folder, kept across attempts.
    pub scratch: PathBuf,
}

impl Store {
    fn at(dir: PathBuf, index: Arc<StatCache>) -> Self {
        Self {
            dir,
            index,
            group: GroupCommit::default(),
            all_history: Arc::default(),
            keeping: Mutex::default(),
            linking: Mutex::default(),
            spare: Mutex::default(),
            orphans: None,
            liveness: None,
            saved: Mutex::default(),
            locks: None,
            shared: None,
        }
    }

    /// A sentence on the orphaned processes of earlier runs that were terminated, if any.
    pub fn orphans(&self) -> Option<&str> {
        self.orphans.as_deref()
    }

    /// The liveness lock that the processes of a run inherit.
    pub fn liveness(&self) -> Option<Arc<LivenessLock>> {
        self.liveness.clone()
    }

    /// The bytes of the no-op entry `name`.
    pub fn noop_entry(root: &Path, name: &str) -> Option<Vec<u8>> {
        fs::read(state_folder(root).join("memo").join(name)).ok()
    }

    /// Writes a no-op entry. Failures are ignored: losing it only costs time.
    pub fn save_noop_entry(&self, name: &str, bytes: &[u8]) {
        if self.locks.is_some() {
            let _ = files::replace(&self.dir.join("memo").join(name), bytes, Durability::Whole);
        }
    }

    /// Whether a path is inside the state folder.
    pub fn owns(&self, path: &Path) -> bool {
        path.starts_with(&self.dir)
    }

    /// Records access to the folder of a pipeline's links, whose stat key changes with each of them.
    pub fn watch_links(&self, pipeline: &str) {
        let folder = self.dir.join("latest").join(file_name(pipeline));
        let _ = reads::metadata(&folder);
    }

    /// The stat cache.
    pub fn index(&self) -> &StatCache {
        &self.index
    }

    /// The path of a run's event log.
    pub fn log(&self, run: &str) -> PathBuf {
        self.dir.join("runs").join(run).join("events.jsonl")
    }

    /// The ids of all runs, oldest first.
    pub fn runs(&self) -> Result<Vec<String>> {
        let mut runs: Vec<(String, u64)> = names(&self.dir.join("runs"))?
            .iter()
            .filter_map(|name| name.rsplit_once('-').and_then(|(day, n)| Some((day.to_owned(), n.parse().ok()?))))
            .collect();
        runs.sort();
        Ok(runs.into_iter().map(|(day, n)| format!("{day}-{n}")).collect())
    }

    /// Creates the folder of a new run and returns the run id: the date and a number.
    pub fn begin_run(&self) -> Result<String> {
        let day = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
        let newest = self.runs()?.iter().filter_map(|run| run.strip_prefix(&day)?.strip_prefix('-')?.parse::<u64>().ok()).max();
        let mut number = newest.unwrap_or(0) + 1;
        loop {
            let run = format!("{day}-{number}");
            let folder = self.dir.join("runs").join(&run);
            let made = disk::make_new_folder(&folder).or_else(|error| {
                // The no-op path opens a store without looking at its folders, and this one may have been removed.
                if error.kind() != io::ErrorKind::NotFound {
                    return Err(error);
                }
                disk::make_folder(&self.dir.join("runs"))?;
                disk::make_new_folder(&folder)
            });
            // Another run may begin at the same moment.
            if made.with_context(|| format!("cannot create `{}`", folder.display()))? {
                return Ok(run);
            }
            number += 1;
        }
    }

    /// The cache entry of a fingerprint, if it exists and is intact.
    pub fn record(&self, fingerprint: Fingerprint) -> Option<CacheEntry> {
        let key = self.key(fingerprint);
        if let Some(record) = self.group.record(fingerprint) {
            self.watch(&key);
            return Some(record);
        }
        let record: CacheEntry = self.parse(&key)?;
        (record.ingredients.fingerprint() == fingerprint).then_some(record)
    }

    /// The result of a cache entry, as an artifact of the step `stage`.
    pub fn artifact(&self, record: &CacheEntry, stage: &str) -> Artifact {
        Artifact {
            kind: record.kind,
            path: self.result(record.digest),
            digest: record.digest,
            stage: stage.to_owned(),
            summary: record.summary.clone(),
            metrics: record.metrics.clone(),
            facts: record.facts.clone(),
        }
    }

    /// Describes what is wrong with a stored result, if anything. Reads only files that changed since they were stored.
    pub fn problem(&self, digest: Digest) -> Option<String> {
        let Some(listed) = self.tree(digest) else { return Some("the file list of its result is missing".to_owned()) };
        match Content::read(&self.result(digest), &self.index, SymlinkPolicy::Refuse) {
            Ok(Content::Folder(found)) if found == listed => None,
            Ok(Content::Folder(found)) => Some(format!("its stored result is damaged: {}", listed.changes(&found).sentence())),
            Ok(_) => Some("its stored result is missing".to_owned()),
            Err(error) => Some(format!("its stored result cannot be read: {error}")),
        }
    }

    /// The stat keys of all files and folders of a stored result; `None` if they cannot be read.
    pub fn stamps(&self, digest: Digest) -> Option<Vec<Option<StatKey>>> {
        let (files, folders) = files::below(&self.result(digest)).ok()?;
        let mut paths = [files, folders].concat();
        paths.sort();
        Some(paths.iter().map(|path| StatKey::at(path)).collect())
    }

    /// The file list of a stored result.
    pub fn tree(&self, digest: Digest) -> Option<FileTree> {
        let tree: FileTree = self.parse(&self.listing(digest))?;
        (tree.digest() == digest).then_some(tree)
    }

    /// The path of the link to a stage's newest result. It need not exist.
    pub fn latest(&self, pipeline: &str, stage: &str) -> PathBuf {
        self.dir.join("latest").join(file_name(pipeline)).join(stage_file_name(stage))
    }

    /// The files called `name` in all scratch folders.
    pub fn scratch_files(&self, name: &str) -> Vec<PathBuf> {
        let work = self.dir.join("work");
        let found = names(&work).unwrap_or_default();
        found.iter().map(|fingerprint| work.join(fingerprint).join("scratch").join(name)).filter(|file| file.is_file()).collect()
    }

    /// Creates the working folders of an attempt: an empty output folder, and the scratch folder of the fingerprint.
    ///
    /// The output folder gets a new name for each attempt, so that an orphaned process of a killed run cannot write into it. The scratch
    /// folder is created only if the stage uses it.
    pub fn workspace(&self, fingerprint: Fingerprint, run: &str, attempt: u32, uses_scratch: bool) -> Result<Workspace> {
        let work = self.dir.join("work");
        let (out, scratch) = (format!("out-{fingerprint}-{run}-{attempt}"), fingerprint.to_string());
        let space = Workspace { out: work.join(out), scratch: work.join(scratch).join("scratch") };
        files::remove_folder(&space.out)?;
        for folder in [Some(&space.out), Some(&space.scratch).filter(|_| uses_scratch)].into_iter().flatten() {
            disk::make_folder(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        }
        Ok(space)
    }

    /// Whether an earlier attempt left scratch files to resume from.
    pub fn has_scratch(&self, fingerprint: Fingerprint) -> bool {
        let scratch = self.dir.join("work").join(fingerprint.to_string()).join("scratch");
        // A metrics log alone is nothing to resume from.
        fs::read_dir(scratch).is_ok_and(|files| files.flatten().any(|file| file.file_name() != metrics_log::FILE))
    }

    /// The cache folder for recomputable files of stages. It need not exist.
    pub fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// Deletes the output folder of a failed attempt; the scratch folder stays unless it is empty.
    pub fn discard(&self, space: &Workspace) -> Result<()> {
        files::remove_folder(&space.out)?;
        let _ = fs::remove_dir(&space.scratch);
        if let Some(work) = space.scratch.parent() {
            let _ = fs::remove_dir(work);
        }
        Ok(())
    }

    /// Moves an output folder into the store without a cache entry, and returns its digest.
    pub fn keep(&self, space: &Workspace) -> Result<Digest> {
        files::seal(&space.out)?;
        let tree = FileTree::read(&space.out, &self.index, SymlinkPolicy::Refuse)?;
        let digest = tree.digest();
        let place = self.result(digest);
        let _one_at_a_time = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let _one_process = self.keep_lock()?;
        if self.problem(digest).is_none() {
            if tree.0.values().map(|leaf| leaf.size).sum::<u64>() < SMALL {
                self.spare().push(space.out.clone());
            } else {
                files::remove_folder(&space.out)?;
            }
        } else {
            files::remove_folder(&place)?;
            disk::rename(&space.out, &place).with_context(|| format!("cannot store `{}`", place.display()))?;
            files::replace(&self.listing(digest), &serde_json::to_vec(&tree)?, Durability::Whole)?;
        }
        Ok(digest)
    }

    /// Adds the cache entry of a stored result, visible to this run at once and to later runs when it is on disk.
    ///
    /// The entry of a long stage is on disk when this returns; entries of short stages are written in groups.
    pub fn commit(&self, record: &CacheEntry) -> Result<()> {
        let fingerprint = record.ingredients.fingerprint();
        let work = self.dir.join("work").join(fingerprint.to_string());
        let dear = record.seconds >= SHORT || fs::read_dir(work.join("scratch")).is_ok_and(|mut files| files.next().is_some());
        let commit = PendingCommit {
            key: self.key(fingerprint),
            record: record.clone(),
            result: self.result(record.digest),
            tree: self.tree(record.digest),
            listing: self.listing(record.digest),
            work,
            after: Vec::new(),
            claim: None,
        };
        self.group.add(fingerprint, commit, &self.index, &self.all_history);
        if dear { self.flush() } else { Ok(()) }
    }

    /// Waits until all cache entries are on disk.
    pub fn flush(&self) -> Result<()> {
        self.group.flush()?;
        // The next run removes what cannot be removed now.
        let spare = std::mem::take(&mut *self.spare());
        spare.iter().for_each(|folder| _ = files::remove_folder(folder));
        Ok(())
    }

    fn spare(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Points the `latest` link of a stage to a result.
    pub fn show(&self, pipeline: &str, stage: &str, digest: Digest) -> Result<()> {
        let link = self.latest(pipeline, stage);
        let target = Path::new("../../store").join(digest.to_string());
        if files::new_link(&link, &target)? || fs::read_link(&link).is_ok_and(|now| now == target) {
            return Ok(());
        }
        let _one_at_a_time = self.linking.lock().unwrap_or_else(PoisonError::into_inner);
        files::replace_link(&link, &target)
    }

    /// Like [`Store::save_index`], but at most once per interval.
    pub fn save_index_now_and_then(&self) {
        let saved = *self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if saved.is_none_or(|saved| saved.elapsed() > BETWEEN_SAVES) {
            self.save_index();
        }
    }

    /// Saves the stat cache. Failures are ignored: losing it only costs time.
    pub fn save_index(&self) {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        *saved = Some(Instant::now());
        if let Some(bytes) = self.locks.as_ref().and_then(|_| self.index.to_save()) {
            let _ = files::replace(&self.dir.join("stat.idx"), &bytes, Durability::Whole);
        }
    }

    /// Reads a JSON file of the store; `None` if it is missing or damaged.
    fn parse<T: DeserializeOwned>(&self, path: &Path) -> Option<T> {
        serde_json::from_slice(&self.read(path)?).ok()
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.watch(path);
        fs::read(path).ok()
    }

    fn watch(&self, path: &Path) {
        if reads::recording() {
            let _ = reads::metadata(path);
        }
    }

    fn result(&self, digest: Digest) -> PathBuf {
        self.dir.join("store").join(digest.to_string())
    }

    fn listing(&self, digest: Digest) -> PathBuf {
        self.dir.join("trees").join(format!("{digest}.json"))
    }

    fn key(&self, fingerprint: Fingerprint) -> PathBuf {
        self.dir.join("keys").join(format!("{fingerprint}.json"))
    }
}

/// Minimum time between two saves of the stat cache.
const BETWEEN_SAVES: Duration = Duration::from_secs(2);
/// Stages shorter than this many seconds are committed in groups: rerunning one is cheaper than waiting for the disk.
const SHORT: f64 = 1.0;
/// Duplicate results below this many bytes are removed at the end of the run.
const SMALL: u64 = 64 << 10;

impl Drop for Store {
    fn drop(&mut self) {
        self.group.end();
    }
}

/// The state folder of a project, without a leading `./` to keep messages short.
fn state_folder(root: &Path) -> PathBuf {
    if root == Path::new(".") { PathBuf::from(STATE_FOLDER) } else { root.join(STATE_FOLDER) }
}

/// Reads a JSON file; `None` if it is missing or damaged.
fn parse<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

impl Store {
    /// Whether two pipelines or stages of these names share their place in the store.
    pub fn same_place(one: &str, other: &str) -> bool {
        file_name(one) == file_name(other)
    }
}

/// The sorted names in a folder; empty if the folder does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read folder `{}`", folder.display())),
    };
    let mut names: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// The file name of a stage: `import[de]`, which a `foreach` made, keeps its brackets, so that no two stages have one file.
fn stage_file_name(name: &str) -> String {
    match foreach::split_name(name) {
        Some((stage, entry)) if !entry.contains('/') => format!("{}[{entry}]", file_name(stage)),
        _ => file_name(name),
    }
}

/// Turns a pipeline or stage name into a safe path component.
fn file_name(name: &str) -> String {
    let safe: String = name.chars().map(|c| if c.is_alphanumeric() || "-_".contains(c) { c } else { '-' }).collect();
    if safe.is_empty() { "-".to_owned() } else { safe }
}
