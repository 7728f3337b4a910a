//! Results on disk. Nobody else writes below `.voxpipe/`.
//!
//! ```text
//! .voxpipe/
//!   store/DIGEST/              a result; its files are read-only and never change
//!   trees/DIGEST.json          what is in it, file by file
//!   keys/FINGERPRINT.json      the record that a result exists: written last, so it is the commit point
//!   work/out-FINGERPRINT-…/    a stage under way; what a killed run leaves is thrown away
//!   work/FINGERPRINT/scratch/  what it keeps from try to try (checkpoints)
//!   last/PIPELINE.jsonl        what was tried and done last, also when it failed; the memory behind `why`
//!   latest/PIPELINE/STAGE      a link to the newest result, for people
//!   cache/                     what stages would compute again; anybody may empty it
//!   runs/ID/events.jsonl       the log of a run; beside it provenance.json, what it takes to repeat it
//!   pins/RUN                   a run whose results stay
//!   damaged/  repro/  trash/   results set aside; runs repeated; what is on its way out
//!   stat.idx                   digests of files seen before
//!   memo/                      what runs with nothing to do looked at; losing it costs a moment
//!   lock                       held by the one run that may write here
//!   alive                      held by the programs that a run has started
//! ```
//!
//! A stage's result is committed in this order: checked, hashed, made read-only, put on the disk, moved to `store/`, and only then
//! recorded in `keys/`. Whatever is interrupted before the last step is as if it had not happened, except for its scratch folder.
//! Paths inside are relative: the project may be moved as a whole.

mod archive;
mod disk;
mod files;
mod gc;
mod group_commit;
mod history;
mod lock;
mod remote;
mod runs;

pub use archive::{ArchiveManifest, ImportedRun};
pub use gc::CachedFile;

use crate::artifact::{Artifact, ArtifactKind};
use crate::cache::content::{Content, FileTree, STATE_FOLDER, SymlinkPolicy};
use crate::cache::file_stat::StatKey;
use crate::cache::fingerprint::{Fingerprint, FingerprintInputs};
use crate::cache::stat_cache::StatCache;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::events::metrics_log;
use crate::process::liveness_lock;
use crate::process::liveness_lock::LivenessLock;
use files::Durability;
use group_commit::{GroupCommit, PendingCommit};
use history::HistoryLog;
use lock::ProjectLock;
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

/// The version of the layout.
const FORMAT: &str = "1";

/// The state of a project.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    index: Arc<StatCache>,
    /// What is not on the disk yet.
    group: GroupCommit,
    lasts: Arc<HistoryLog>,
    /// One result is taken in at a time: two may be equal.
    keeping: Mutex<()>,
    /// One link is replaced at a time: runs of a sweep may have the same.
    linking: Mutex<()>,
    /// Small results that were there already, to be removed in the end: a folder that names come and go in is slow to others.
    spare: Mutex<Vec<PathBuf>>,
    /// What was left running by an earlier run and ended by this one.
    orphans: Option<String>,
    /// What the programs of this run hold on to.
    liveness: Option<Arc<LivenessLock>>,
    /// When what is known of files was kept last.
    saved: Mutex<Option<Instant>>,
    /// Given back last.
    lock: Option<ProjectLock>,
    shared: Option<SharedCache>,
}

/// The record that a result exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// What the result was made from.
    pub ingredients: FingerprintInputs,
    /// The run that made it.
    pub run: String,
    /// How long that took.
    pub seconds: f64,
    /// What the folder holds.
    pub kind: ArtifactKind,
    /// The digest of the folder.
    pub digest: Digest,
    /// What the stage said of it.
    pub summary: String,
    /// Its numbers.
    pub metrics: BTreeMap<String, f64>,
    /// Its facts.
    pub facts: BTreeMap<String, Value>,
    /// What it left outside the store, by path.
    pub promises: BTreeMap<String, Content>,
}

/// What is remembered of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageHistory {
    /// The newest try.
    pub tried: AttemptRecord,
    /// What went into the newest result that was kept.
    pub done: Option<FingerprintInputs>,
}

/// One try at a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The run it belonged to.
    pub run: String,
    /// What it was to be made from.
    pub fingerprint: Fingerprint,
    /// How it ended.
    pub end: AttemptEnd,
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum AttemptEnd {
    /// It did not, or nobody lived to tell.
    Begun,
    /// A result was kept.
    Done,
    /// It waits for a person.
    Parked {
        /// How much was there.
        have: u64,
        /// How much is needed.
        need: u64,
        /// What to do.
        message: String,
    },
    /// It failed.
    Failed {
        /// What happened.
        message: String,
    },
    /// It was told to stop.
    Interrupted,
    /// A file it read changed meanwhile, so its result was used but not recorded.
    SourceMoved {
        /// Which.
        path: String,
    },
}

/// The folders of a stage under way.
#[derive(Debug)]
pub struct Workspace {
    /// Empty; what is in it at the end is the result.
    pub out: PathBuf,
    /// Kept from try to try.
    pub scratch: PathBuf,
}

impl Store {
    /// Looks at the state below `root`, which may not exist yet. Writes nothing.
    pub fn look(root: &Path) -> Result<Self> {
        let dir = state_folder(root);
        let found = match fs::read_to_string(dir.join("format")) {
            Ok(format) => format,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => FORMAT.to_owned(),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", dir.display())),
        };
        // An empty file is what a crash at the very first start leaves.
        if !found.trim().is_empty() && found.trim() != FORMAT {
            return Err(Error::new(format!("`{}` has format {}, this program knows {FORMAT}", dir.display(), found.trim()))
                .kind(ErrorKind::InvalidInput)
                .hint("use the version of voxpipe that wrote it, or move the folder away to start over"));
        }
        let index = fs::read(dir.join("stat.idx")).map(|bytes| StatCache::load(&bytes)).unwrap_or_default();
        Ok(Self::at(dir, Arc::new(index)))
    }

    fn at(dir: PathBuf, index: Arc<StatCache>) -> Self {
        Self {
            dir,
            index,
            group: GroupCommit::default(),
            lasts: Arc::default(),
            keeping: Mutex::default(),
            linking: Mutex::default(),
            spare: Mutex::default(),
            orphans: None,
            liveness: None,
            saved: Mutex::default(),
            lock: None,
            shared: None,
        }
    }

    /// Opens the state for writing: makes it if need be, takes the lock, and clears what a killed run left.
    pub fn open(root: &Path, command: &str) -> Result<Self> {
        let dir = state_folder(root);
        let making = || format!("cannot keep state in `{}`", dir.display());
        disk::make_folder(&dir).with_context(making)?;
        let lock = ProjectLock::take(&dir.join("lock"), command)?;
        let mut store = Self::look(root)?;
        store.lock = Some(lock);
        let greeting = [
            (".gitignore", "*\n", Durability::Whole),
            (
                "CACHEDIR.TAG",
                "Signature: 8a477f597d28d172789f06886806bc55\n# Results and checkpoints of voxpipe; they can be made again.\n",
                Durability::Whole,
            ),
            ("format", FORMAT, Durability::Durable),
        ];
        for (name, text, safety) in greeting {
            if fs::read_to_string(dir.join(name)).unwrap_or_default().trim().is_empty() {
                files::replace(&dir.join(name), text.as_bytes(), safety)?;
            }
        }
        for folder in ["store", "trees", "keys", "work", "runs"] {
            disk::make_folder(&dir.join(folder)).with_context(making)?;
        }
        store.orphans = liveness_lock::reap_orphans(&dir)?;
        store.liveness = Some(Arc::new(LivenessLock::take(&dir)?));
        store.tidy()?;
        Ok(store)
    }

    /// Takes the lock of a project for a run that has nothing to do, and looks at nothing else.
    pub fn enter(root: &Path, command: &str) -> Result<Self> {
        let dir = state_folder(root);
        let lock = ProjectLock::take(&dir.join("lock"), command)?;
        let mut store = Self::at(dir, Arc::default());
        store.lock = Some(lock);
        Ok(store)
    }

    /// What earlier runs had left running and this one ended, in a sentence.
    pub fn orphans(&self) -> Option<&str> {
        self.orphans.as_deref()
    }

    /// What the programs of a run hold on to.
    pub fn liveness(&self) -> Option<Arc<LivenessLock>> {
        self.liveness.clone()
    }

    /// What the no-op entry of this name says.
    pub fn noop_entry(root: &Path, name: &str) -> Option<Vec<u8>> {
        fs::read(state_folder(root).join("memo").join(name)).ok()
    }

    /// Keeps a no-op entry. Losing it costs time only, so it is not an error.
    pub fn save_noop_entry(&self, name: &str, bytes: &[u8]) {
        if self.lock.is_some() {
            let _ = files::replace(&self.dir.join("memo").join(name), bytes, Durability::Whole);
        }
    }

    /// Whether a path is inside the state, where nobody but us writes.
    pub fn owns(&self, path: &Path) -> bool {
        path.starts_with(&self.dir)
    }

    /// Looks at the folder of a pipeline's links: it changes with each of them.
    pub fn watch_links(&self, pipeline: &str) {
        let folder = self.dir.join("latest").join(file_name(pipeline));
        self.index.saw(&folder, fs::metadata(&folder).ok().as_ref());
    }

    /// What is known of files.
    pub fn index(&self) -> &StatCache {
        &self.index
    }

    /// Where the log of a run is.
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

    /// Makes the folder of a new run and gives its id: the day and a number.
    pub fn begin_run(&self) -> Result<String> {
        let day = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
        let newest = self.runs()?.iter().filter_map(|run| run.strip_prefix(&day)?.strip_prefix('-')?.parse::<u64>().ok()).max();
        let run = format!("{day}-{}", newest.unwrap_or(0) + 1);
        let folder = self.dir.join("runs").join(&run);
        disk::make_folder(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        Ok(run)
    }

    /// The record of a result, if there is one. A damaged record is none.
    pub fn record(&self, fingerprint: Fingerprint) -> Option<CacheEntry> {
        let key = self.key(fingerprint);
        if let Some(record) = self.group.record(fingerprint) {
            self.watch(&key);
            return Some(record);
        }
        let record: CacheEntry = self.parse(&key)?;
        (record.ingredients.fingerprint() == fingerprint).then_some(record)
    }

    /// The result a record speaks of, as stage `stage` of a pipeline sees it.
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

    /// What is wrong with a kept result, if anything. Reads only files that changed since they were kept.
    pub fn problem(&self, digest: Digest) -> Option<String> {
        let Some(listed) = self.tree(digest) else { return Some("the list of files of its result is gone".to_owned()) };
        match Content::read(&self.result(digest), &self.index, SymlinkPolicy::Refuse) {
            Ok(Content::Folder(found)) if found == listed => None,
            Ok(Content::Folder(found)) => Some(format!("its kept result was damaged: {}", listed.changes(&found).sentence())),
            Ok(_) => Some("its kept result is gone".to_owned()),
            Err(error) => Some(format!("its kept result cannot be read: {error}")),
        }
    }

    /// The stamps of what is in a kept result, folders included; none where it cannot be looked at.
    pub fn stamps(&self, digest: Digest) -> Option<Vec<Option<StatKey>>> {
        let (files, folders) = files::below(&self.result(digest)).ok()?;
        let mut paths = [files, folders].concat();
        paths.sort();
        Some(paths.iter().map(|path| StatKey::at(path)).collect())
    }

    /// The files of a kept result.
    pub fn tree(&self, digest: Digest) -> Option<FileTree> {
        let tree: FileTree = self.parse(&self.listing(digest))?;
        (tree.digest() == digest).then_some(tree)
    }

    /// The link to a stage's newest result. It need not exist.
    pub fn latest(&self, pipeline: &str, stage: &str) -> PathBuf {
        self.dir.join("latest").join(file_name(pipeline)).join(file_name(stage))
    }

    /// The files of this name that stages under way keep from try to try.
    pub fn scratch_files(&self, name: &str) -> Vec<PathBuf> {
        let work = self.dir.join("work");
        let found = names(&work).unwrap_or_default();
        found.iter().map(|fingerprint| work.join(fingerprint).join("scratch").join(name)).filter(|file| file.is_file()).collect()
    }

    /// Folders for a stage to work in: an empty one for the result, and the scratch folder of this fingerprint.
    ///
    /// The first has a new name each time, so that a program that outlived a killed run cannot write into it. The second is made if the
    /// stage makes use of it.
    pub fn workspace(&self, fingerprint: Fingerprint, run: &str, attempt: u32, uses_scratch: bool) -> Result<Workspace> {
        let work = self.dir.join("work");
        let (out, scratch) = (format!("out-{fingerprint}-{run}-{attempt}"), fingerprint.to_string());
        let space = Workspace { out: work.join(out), scratch: work.join(scratch).join("scratch") };
        files::remove_folder(&space.out)?;
        for folder in [Some(&space.out), Some(&space.scratch).filter(|_| uses_scratch)].into_iter().flatten() {
            disk::make_folder(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        }
        Ok(space)
    }

    /// Whether earlier tries left something to go on from.
    pub fn has_scratch(&self, fingerprint: Fingerprint) -> bool {
        let scratch = self.dir.join("work").join(fingerprint.to_string()).join("scratch");
        // A journal tells what was, and nothing can go on from it.
        fs::read_dir(scratch).is_ok_and(|files| files.flatten().any(|file| file.file_name() != metrics_log::FILE))
    }

    /// The folder for what stages would compute again. It need not exist.
    pub fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// Throws away what a stage had begun to make; its scratch folder stays, if there is anything in it.
    pub fn discard(&self, space: &Workspace) -> Result<()> {
        files::remove_folder(&space.out)?;
        let _ = fs::remove_dir(&space.scratch);
        if let Some(work) = space.scratch.parent() {
            let _ = fs::remove_dir(work);
        }
        Ok(())
    }

    /// Takes what a stage made into the store, without recording it: gives its digest.
    pub fn keep(&self, space: &Workspace) -> Result<Digest> {
        files::seal(&space.out)?;
        let tree = FileTree::read(&space.out, &self.index, SymlinkPolicy::Refuse)?;
        let digest = tree.digest();
        let place = self.result(digest);
        let _one_at_a_time = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        if self.problem(digest).is_none() {
            if tree.0.values().map(|leaf| leaf.size).sum::<u64>() < SMALL {
                self.spare().push(space.out.clone());
            } else {
                files::remove_folder(&space.out)?;
            }
        } else {
            files::remove_folder(&place)?;
            disk::rename(&space.out, &place).with_context(|| format!("cannot keep `{}`", place.display()))?;
            files::replace(&self.listing(digest), &serde_json::to_vec(&tree)?, Durability::Whole)?;
        }
        Ok(digest)
    }

    /// Records a result that was kept: from here on it counts, for this run at once, and for later ones when it is on the disk. A
    /// stage that took long is on the disk when this returns; short ones wait a moment for each other.
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
        };
        self.group.add(fingerprint, commit, &self.index, &self.lasts);
        if dear { self.flush() } else { Ok(()) }
    }

    /// Waits until everything that was recorded is on the disk.
    pub fn flush(&self) -> Result<()> {
        self.group.flush()?;
        // What cannot be removed now the next run removes.
        let spare = std::mem::take(&mut *self.spare());
        spare.iter().for_each(|folder| _ = files::remove_folder(folder));
        Ok(())
    }

    fn spare(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Points the link people look at to a result.
    pub fn show(&self, pipeline: &str, stage: &str, digest: Digest) -> Result<()> {
        let link = self.latest(pipeline, stage);
        let target = Path::new("../../store").join(digest.to_string());
        if files::new_link(&link, &target)? || fs::read_link(&link).is_ok_and(|now| now == target) {
            return Ok(());
        }
        let _one_at_a_time = self.linking.lock().unwrap_or_else(PoisonError::into_inner);
        files::replace_link(&link, &target)
    }

    /// The same as [`Store::save_index`], but not more often than there is something to lose by it.
    pub fn save_index_now_and_then(&self) {
        let saved = *self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if saved.is_none_or(|saved| saved.elapsed() > BETWEEN_SAVES) {
            self.save_index();
        }
    }

    /// Keeps what was learnt of files. Losing it costs time only, so it is not an error.
    pub fn save_index(&self) {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        *saved = Some(Instant::now());
        if let Some(bytes) = self.lock.as_ref().and_then(|_| self.index.to_save()) {
            let _ = files::replace(&self.dir.join("stat.idx"), &bytes, Durability::Whole);
        }
    }

    fn tidy(&self) -> Result<()> {
        for name in names(&self.dir.join("work"))? {
            let work = self.dir.join("work").join(&name);
            if name.starts_with("out-") {
                files::remove_folder(&work)?;
                continue;
            }
            // Only empty folders go: what is in a scratch folder may be days of training.
            let _ = fs::remove_dir(work.join("scratch"));
            let _ = fs::remove_dir(&work);
        }
        let mut folders: Vec<PathBuf> = ["", "keys", "last", "memo", "trees"].map(|folder| self.dir.join(folder)).into();
        let latest = self.dir.join("latest");
        folders.extend(names(&latest)?.iter().map(|pipeline| latest.join(pipeline)));
        for folder in folders {
            for name in names(&folder)?.iter().filter(|name| name.starts_with(".tmp-")) {
                let _ = disk::remove_file(&folder.join(name));
            }
        }
        Ok(())
    }

    /// Reads a JSON file of ours; one that is absent or damaged counts as absent.
    fn parse<T: DeserializeOwned>(&self, path: &Path) -> Option<T> {
        serde_json::from_slice(&self.read(path)?).ok()
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.watch(path);
        fs::read(path).ok()
    }

    fn watch(&self, path: &Path) {
        if self.index.watching() {
            self.index.saw(path, fs::metadata(path).ok().as_ref());
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

/// How long what was learnt of files may wait to be kept.
const BETWEEN_SAVES: Duration = Duration::from_secs(2);
/// Below this many seconds a stage is sooner run again than the disk waited for.
const SHORT: f64 = 1.0;
/// Below this many bytes a result that is not needed may wait to be removed.
const SMALL: u64 = 64 << 10;

impl Drop for Store {
    fn drop(&mut self) {
        self.group.end();
    }
}

/// Where the state of a project is; messages are easier on the eye without a leading `./`.
fn state_folder(root: &Path) -> PathBuf {
    if root == Path::new(".") { PathBuf::from(STATE_FOLDER) } else { root.join(STATE_FOLDER) }
}

/// Reads a JSON file; one that is absent or damaged counts as absent.
fn parse<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The names in a folder, sorted; none if it is not there.
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

/// A name from a pipeline as one harmless path component.
fn file_name(name: &str) -> String {
    let safe: String = name.chars().map(|c| if c.is_alphanumeric() || "-_".contains(c) { c } else { '-' }).collect();
    if safe.is_empty() { "-".to_owned() } else { safe }
}
