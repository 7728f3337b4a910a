//! Records that are written together: waiting for the disk once for many short stages, and at once for a long one.
//!
//! A record counts for the run that made it as soon as it is added, and for every later run once its group is on the disk. The order
//! in a group: results with their lists of files, and records under temporary names; then the records' names. Until the
//! last of these a stage is as if it had not run.

use super::files::UnfinishedFile;
use super::history::HistoryLog;
use super::{CacheEntry, disk, files};
use crate::cache::content::FileTree;
use crate::cache::fingerprint::Fingerprint;
use crate::cache::stat_cache::StatCache;
use crate::error::{Error, Result, ResultExt};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a record waits for others.
const PATIENCE: Duration = Duration::from_millis(200);

/// Results that wait for the disk, and the thread that waits with them.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A record with what has to be on the disk before it, and what follows.
#[derive(Debug)]
pub(super) struct PendingCommit {
    /// Where the record goes.
    pub(super) key: PathBuf,
    /// The record.
    pub(super) record: CacheEntry,
    /// Where its result is.
    pub(super) result: PathBuf,
    /// What is in it.
    pub(super) tree: Option<FileTree>,
    /// The list of its files.
    pub(super) listing: PathBuf,
    /// What remains of the work, to be removed.
    pub(super) work: PathBuf,
    /// Lines for logs that only make sense afterwards.
    pub(super) after: Vec<(PathBuf, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Fingerprint, PendingCommit>,
    /// Everything that was added and did not fail to be written: reading it again would give the same.
    records: BTreeMap<Fingerprint, CacheEntry>,
    since: Option<Instant>,
    hurry: bool,
    writing: bool,
    ended: bool,
    failed: Option<Error>,
}

impl GroupCommit {
    /// Adds a record; what is learnt of its files goes into `index` when they are on the disk.
    pub(super) fn add(&self, fingerprint: Fingerprint, commit: PendingCommit, index: &Arc<StatCache>, lasts: &Arc<HistoryLog>) {
        let first = {
            let mut state = self.shared.lock();
            state.records.insert(fingerprint, commit.record.clone());
            state.waiting.insert(fingerprint, commit);
            let first = state.since.is_none();
            state.since.get_or_insert_with(Instant::now);
            first
        };
        // Those that follow wait with the first.
        if first {
            self.shared.bell.notify_all();
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (shared, index, lasts) = (Arc::clone(&self.shared), Arc::clone(index), Arc::clone(lasts));
            *thread = Some(thread::spawn(move || shared.write(&index, &lasts)));
        }
    }

    /// A record that was added.
    pub(super) fn record(&self, fingerprint: Fingerprint) -> Option<CacheEntry> {
        self.shared.lock().records.get(&fingerprint).cloned()
    }

    /// Has a line added to a log when the record of `fingerprint` is on the disk; gives it back if there is no such record on its way.
    pub(super) fn after(&self, fingerprint: Fingerprint, path: PathBuf, bytes: Vec<u8>) -> Option<(PathBuf, Vec<u8>)> {
        match self.shared.lock().waiting.get_mut(&fingerprint) {
            Some(commit) => {
                commit.after.push((path, bytes));
                None
            }
            None => Some((path, bytes)),
        }
    }

    /// Waits until everything is on the disk.
    pub(super) fn flush(&self) -> Result<()> {
        let mut state = self.shared.lock();
        while state.writing || !state.waiting.is_empty() {
            state.hurry = true;
            self.shared.bell.notify_all();
            state = self.shared.wait(state);
        }
        state.hurry = false;
        state.failed.take().map_or(Ok(()), Err)
    }

    /// Writes what waits, and ends the thread.
    pub(super) fn end(&self) {
        self.shared.lock().ended = true;
        self.shared.bell.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.bell.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: one group after the other.
    fn write(&self, index: &StatCache, lasts: &HistoryLog) {
        let mut state = self.lock();
        loop {
            match state.since {
                None if state.ended => return,
                None => state = self.wait(state),
                Some(since) if state.hurry || state.ended || since.elapsed() >= PATIENCE => {
                    let group = std::mem::take(&mut state.waiting);
                    (state.since, state.writing) = (None, true);
                    drop(state);
                    let written = write(&group, index, lasts);
                    state = self.lock();
                    state.writing = false;
                    if let Err(error) = written {
                        group.keys().for_each(|fingerprint| _ = state.records.remove(fingerprint));
                        state.failed.get_or_insert(error);
                    }
                    self.bell.notify_all();
                }
                Some(since) => {
                    let rest = PATIENCE.saturating_sub(since.elapsed());
                    state = self.bell.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

fn write(group: &BTreeMap<Fingerprint, PendingCommit>, index: &StatCache, lasts: &HistoryLog) -> Result<()> {
    let mut paths = Vec::new();
    // Many stages may have made the same.
    let results: BTreeMap<&PathBuf, &PendingCommit> = group.values().map(|commit| (&commit.result, commit)).collect();
    for commit in results.values() {
        let (files, folders) = files::below(&commit.result)?;
        paths.extend(files);
        paths.extend(folders.into_iter().rev());
        paths.push(commit.listing.clone());
    }
    let folder_of = |path: &PathBuf| path.parent().map(PathBuf::from).unwrap_or_default();
    let folders = |of: fn(&PendingCommit) -> &PathBuf| group.values().map(|commit| folder_of(of(commit))).collect::<Vec<_>>();
    let mut above = [folders(|commit| &commit.result), folders(|commit| &commit.listing)].concat();
    above.sort();
    above.dedup();
    paths.extend(above);
    // Nobody sees a record before it has its name, so it can go to the disk together with what it speaks of.
    let records = group.values().map(|commit| UnfinishedFile::write(&commit.key, &serde_json::to_vec(&commit.record)?));
    let records = records.collect::<Result<Vec<_>>>()?;
    paths.extend(records.iter().map(|record| record.from.clone()));
    files::sync_all(&paths)?;
    // Read-only, ours alone and on the disk: nobody can have changed these files since they were hashed.
    for commit in results.values() {
        for (path, leaf) in commit.tree.iter().flat_map(|tree| &tree.0) {
            let path = commit.result.join(path);
            let meta = fs::metadata(&path).with_context(|| format!("cannot look at `{}`", path.display()))?;
            index.learn_settled(&meta, leaf.digest);
        }
    }
    records.into_iter().try_for_each(UnfinishedFile::place)?;
    let mut keys = folders(|commit| &commit.key);
    keys.dedup();
    keys.iter().try_for_each(|keys| files::sync(keys))?;
    let mut after: BTreeMap<&PathBuf, Vec<&[u8]>> = BTreeMap::new();
    for commit in group.values() {
        commit.after.iter().for_each(|(path, line)| after.entry(path).or_default().push(line));
        let _ = disk::remove_folder(&commit.work);
    }
    after.into_iter().try_for_each(|(path, lines)| lasts.write(path, lines))
}
