//! Group commit of cache entries: many short stages share one sync to disk; a long stage syncs at once.
//!
//! A cache entry is visible to its own run as soon as it is added, and to later runs once its group is on disk. The order in a group:
//! sync the results, their file lists, and the entries under temporary names; then rename the entries and sync their folder. Until the
//! last step, a stage counts as not run.

use super::files::UnfinishedFile;
use super::history::HistoryLog;
use super::{CacheEntry, ResultClaim, disk, files};
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

/// How long a cache entry waits for others.
const PATIENCE: Duration = Duration::from_millis(200);

/// Pending commits and the thread that writes them.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A cache entry with the files that must be on disk before it, and the steps that follow it.
#[derive(Debug)]
pub(super) struct PendingCommit {
    /// The path of the cache entry.
    pub(super) key: PathBuf,
    /// The cache entry.
    pub(super) record: CacheEntry,
    /// The folder of the result.
    pub(super) result: PathBuf,
    /// The files of the result.
    pub(super) tree: Option<FileTree>,
    /// The path of the file list.
    pub(super) listing: PathBuf,
    /// The working folder, removed afterwards.
    pub(super) work: PathBuf,
    /// Log lines to append once the entry is on disk, by path of the log.
    pub(super) after: Vec<(PathBuf, Vec<u8>)>,
    /// Released once the entry is on disk.
    pub(super) claim: Option<ResultClaim>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Fingerprint, PendingCommit>,
    /// All entries added by this process, except those that could not be written; saves reading them back.
    records: BTreeMap<Fingerprint, CacheEntry>,
    /// Released when the group that is being written is on disk.
    claims: Vec<ResultClaim>,
    since: Option<Instant>,
    hurry: bool,
    writing: bool,
    ended: bool,
    failed: Option<Error>,
}

impl GroupCommit {
    /// Adds a commit; the digests of its files enter the stat cache `index` when they are on disk.
    pub(super) fn add(&self, fingerprint: Fingerprint, commit: PendingCommit, index: &Arc<StatCache>, all_history: &Arc<HistoryLog>) {
        let first = {
            let mut state = self.shared.lock();
            state.records.insert(fingerprint, commit.record.clone());
            state.waiting.insert(fingerprint, commit);
            let first = state.since.is_none();
            state.since.get_or_insert_with(Instant::now);
            first
        };
        // Later commits join the group of the first.
        if first {
            self.shared.changed.notify_all();
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (shared, index, all_history) = (Arc::clone(&self.shared), Arc::clone(index), Arc::clone(all_history));
            *thread = Some(thread::spawn(move || shared.write(&index, &all_history)));
        }
    }

    /// A cache entry that was added.
    pub(super) fn record(&self, fingerprint: Fingerprint) -> Option<CacheEntry> {
        self.shared.lock().records.get(&fingerprint).cloned()
    }

    /// Appends a line to a log once the cache entry of `fingerprint` is on disk. Returns the line if no such entry is pending.
    pub(super) fn after(&self, fingerprint: Fingerprint, path: PathBuf, bytes: Vec<u8>) -> Option<(PathBuf, Vec<u8>)> {
        match self.shared.lock().waiting.get_mut(&fingerprint) {
            Some(commit) => {
                commit.after.push((path, bytes));
                None
            }
            None => Some((path, bytes)),
        }
    }

    /// Keeps a claim until the cache entry of `fingerprint` is on disk; releases it at once if no such entry is pending.
    pub(super) fn hold(&self, fingerprint: Fingerprint, claim: ResultClaim) {
        let mut state = self.shared.lock();
        if let Some(commit) = state.waiting.get_mut(&fingerprint) {
            commit.claim = Some(claim);
        } else if state.writing {
            state.claims.push(claim);
        }
    }

    /// Waits until all pending commits are on disk.
    pub(super) fn flush(&self) -> Result<()> {
        let mut state = self.shared.lock();
        while state.writing || !state.waiting.is_empty() {
            state.hurry = true;
            self.shared.changed.notify_all();
            state = self.shared.wait(state);
        }
        state.hurry = false;
        state.failed.take().map_or(Ok(()), Err)
    }

    /// Writes pending commits and joins the thread.
    pub(super) fn end(&self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
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
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of the writer thread: one group after the other.
    fn write(&self, index: &StatCache, all_history: &HistoryLog) {
        let mut state = self.lock();
        loop {
            match state.since {
                None if state.ended => return,
                None => state = self.wait(state),
                Some(since) if state.hurry || state.ended || since.elapsed() >= PATIENCE => {
                    let group = std::mem::take(&mut state.waiting);
                    (state.since, state.writing) = (None, true);
                    drop(state);
                    let written = write(&group, index, all_history);
                    state = self.lock();
                    state.writing = false;
                    state.claims.clear();
                    if let Err(error) = written {
                        group.keys().for_each(|fingerprint| _ = state.records.remove(fingerprint));
                        state.failed.get_or_insert(error);
                    }
                    self.changed.notify_all();
                }
                Some(since) => {
                    let rest = PATIENCE.saturating_sub(since.elapsed());
                    state = self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

fn write(group: &BTreeMap<Fingerprint, PendingCommit>, index: &StatCache, all_history: &HistoryLog) -> Result<()> {
    let mut paths = Vec::new();
    // Several stages may have made the same result.
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
    // An entry is invisible until it is renamed, so it can be synced together with its result.
    let records = group.values().map(|commit| UnfinishedFile::write(&commit.key, &serde_json::to_vec(&commit.record)?));
    let records = records.collect::<Result<Vec<_>>>()?;
    paths.extend(records.iter().map(|record| record.from.clone()));
    files::sync_all(&paths)?;
    // These files are read-only, private and on disk: they cannot have changed since they were hashed.
    for commit in results.values() {
        for (path, leaf) in commit.tree.iter().flat_map(|tree| &tree.0) {
            let path = commit.result.join(path);
            let meta = fs::metadata(&path).with_context(|| format!("cannot access `{}`", path.display()))?;
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
    after.into_iter().try_for_each(|(path, lines)| all_history.write(path, lines))
}
