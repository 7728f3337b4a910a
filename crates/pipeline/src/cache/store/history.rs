//! Run history: the newest attempt and the newest result of each step, used by `why`.
//!
//! Each pipeline has one append-only log with a line per attempt. For each step only its newest line and its newest line with a result are
//! relevant. Appending a line is much faster than writing a file per step. Truncated lines are skipped. A log with too many obsolete
//! lines is compacted when a run reads it.

use super::files::Durability;
use super::{AttemptEnd, AttemptRecord, StageHistory, Store, disk, file_name, files};
use crate::cache::file_stat::StatKey;
use crate::cache::fingerprint::FingerprintInputs;
use crate::error::{Result, ResultExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The history logs read so far, by path.
#[derive(Debug, Default)]
pub(super) struct HistoryLog(Mutex<BTreeMap<PathBuf, Log>>);

#[derive(Debug, Default)]
struct Log {
    steps: BTreeMap<String, Arc<StageHistory>>,
    /// The stat key of the file when it was read.
    read: Option<StatKey>,
}

/// A line of a history log.
#[derive(Serialize, Deserialize)]
struct HistoryLine {
    stage: String,
    tried: AttemptRecord,
    /// The fingerprint inputs of the result, if this attempt committed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    done: Option<FingerprintInputs>,
}

/// A log is compacted when it is larger than its relevant lines by this many bytes and this factor.
const SPARE: (usize, usize) = (64 << 10, 3);

impl Store {
    /// The history of a step, if it has any.
    pub fn last(&self, pipeline: &str, stage: &str) -> Option<Arc<StageHistory>> {
        let path = self.lasts_path(pipeline);
        self.watch(&path);
        self.all_history.of(&path, stage, self.lock.is_some())
    }

    /// Records an attempt at a step, with the fingerprint inputs of its result if it committed one.
    pub fn remember(&self, pipeline: &str, stage: &str, tried: AttemptRecord, done: Option<FingerprintInputs>) -> Result<()> {
        let (path, fingerprint) = (self.lasts_path(pipeline), tried.fingerprint);
        // The history must not show a result before its cache entry is on disk.
        let later = tried.end == AttemptEnd::Done;
        let line = self.all_history.note(&path, stage, tried, done)?;
        let now = if later { self.group.after(fingerprint, path, line) } else { Some((path, line)) };
        now.map_or(Ok(()), |(path, line)| self.all_history.write(&path, [&line[..]]))
    }

    fn lasts_path(&self, pipeline: &str) -> PathBuf {
        self.dir.join("last").join(format!("{}.jsonl", file_name(pipeline)))
    }
}

impl HistoryLog {
    /// The history of a step in the log at `path`. `ours`: only this process writes the log, so it is read only once.
    pub(super) fn of(&self, path: &Path, stage: &str, ours: bool) -> Option<Arc<StageHistory>> {
        self.log(path, ours, |log| log.steps.get(stage).cloned())
    }

    /// The history of every step in the log at `path`.
    pub(super) fn all(&self, path: &Path, ours: bool) -> Vec<Arc<StageHistory>> {
        self.log(path, ours, |log| log.steps.values().cloned().collect())
    }

    /// Adds an attempt in memory, and returns the line for [`HistoryLog::write`].
    pub(super) fn note(&self, path: &Path, stage: &str, tried: AttemptRecord, done: Option<FingerprintInputs>) -> Result<Vec<u8>> {
        let line = HistoryLine { stage: stage.to_owned(), tried, done };
        let bytes = serde_json::to_vec(&line)?;
        self.log(path, true, |log| log.take(line));
        Ok(bytes)
    }

    /// Appends lines to the log at `path`.
    pub(super) fn write<'a>(&self, path: &Path, lines: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
        let mut bytes = Vec::new();
        for line in lines {
            // A line that a killed run wrote only in part stays separate.
            bytes.push(b'\n');
            bytes.extend_from_slice(line);
        }
        bytes.push(b'\n');
        let _one_at_a_time = self.lock();
        let writing = || format!("cannot write `{}`", path.display());
        disk::make_folder(path.parent().unwrap_or(Path::new("."))).with_context(writing)?;
        disk::append(path, &bytes).with_context(writing)
    }

    fn log<T>(&self, path: &Path, ours: bool, ask: impl FnOnce(&mut Log) -> T) -> T {
        let mut logs = self.lock();
        // Read it if it was not read yet, or if another process may have written to it.
        let known = logs.get(path).is_some_and(|log| ours || log.read == StatKey::at(path));
        if !known {
            logs.insert(path.to_owned(), Log::read(path, ours));
        }
        ask(logs.entry(path.to_owned()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Log>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn read(path: &Path, ours: bool) -> Self {
        let mut log = Self { steps: BTreeMap::new(), read: StatKey::at(path) };
        let bytes = fs::read(path).unwrap_or_default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Ok(line) = serde_json::from_slice(line) {
                log.take(line);
            }
        }
        if ours && bytes.len() > SPARE.0 {
            let short = log.short();
            if bytes.len() > SPARE.0 + SPARE.1 * short.len() {
                // Durable, as this file holds the whole history. A failure is ignored: the long log stays readable.
                let _ = files::replace(path, &short, Durability::Durable);
            }
        }
        log
    }

    fn take(&mut self, line: HistoryLine) {
        let HistoryLine { stage, tried, done } = line;
        match self.steps.entry(stage) {
            Entry::Vacant(place) => _ = place.insert(Arc::new(StageHistory { tried, done })),
            Entry::Occupied(mut place) => {
                // Changed in place: the fingerprint inputs may be a long list.
                let last = Arc::make_mut(place.get_mut());
                last.tried = tried;
                last.done = done.or(last.done.take());
            }
        }
    }

    /// The relevant lines.
    fn short(&self) -> Vec<u8> {
        let lines = self.steps.iter().filter_map(|(stage, last)| {
            let line = HistoryLine { stage: stage.clone(), tried: last.tried.clone(), done: last.done.clone() };
            Some([serde_json::to_vec(&line).ok()?, vec![b'\n']].concat())
        });
        lines.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::fingerprint::{Fingerprint, LazyFingerprint};
    use voxpipe_io::digest::Digest;

    fn tried(run: &str, end: AttemptEnd) -> AttemptRecord {
        AttemptRecord { run: run.to_owned(), fingerprint: Fingerprint(Digest::of(run.as_bytes())), end }
    }

    fn inputs(seed: u64) -> FingerprintInputs {
        FingerprintInputs {
            kind: "command".into(),
            version: 1,
            settings: serde_json::json!({ "run": ["true"] }),
            inputs: BTreeMap::new(),
            sources: vec![],
            seed,
            numerics: None,
            pipeline: None,
            known: LazyFingerprint::default(),
        }
    }

    #[test]
    fn the_newest_try_and_the_newest_result_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last/p.jsonl");
        let all_history = HistoryLog::default();
        let add = |stage: &str, run: &str, end: AttemptEnd, done| {
            let line = all_history.note(&path, stage, tried(run, end), done).unwrap();
            all_history.write(&path, [&line[..]]).unwrap();
        };
        assert!(all_history.of(&path, "a", true).is_none());
        add("a", "1", AttemptEnd::Done, Some(inputs(1)));
        add("b", "1", AttemptEnd::Begun, None);
        add("a", "2", AttemptEnd::Failed { message: "no".into() }, None);
        let expected = StageHistory { tried: tried("2", AttemptEnd::Failed { message: "no".into() }), done: Some(inputs(1)) };
        for (who, reader) in [("who wrote it", &all_history), ("who comes later", &HistoryLog::default())] {
            assert_eq!(*reader.of(&path, "a", true).unwrap(), expected, "{who}");
            assert_eq!(reader.of(&path, "b", true).unwrap().done, None, "{who}");
            assert_eq!(reader.all(&path, true).len(), 2, "{who}");
        }
    }

    #[test]
    fn a_line_that_was_cut_off_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let line = |run: &str| HistoryLog::default().note(&path, run, tried(run, AttemptEnd::Begun), None).unwrap();
        let all_history = HistoryLog::default();
        all_history.write(&path, [&line("1")[..], &line("2")[..4]]).unwrap();
        fs::write(&path, fs::read(&path).unwrap().trim_ascii_end()).unwrap();
        all_history.write(&path, [&line("3")[..]]).unwrap();
        let stages = |all_history: &HistoryLog| ["1", "2", "3"].map(|stage| all_history.of(&path, stage, true).is_some());
        assert_eq!(stages(&HistoryLog::default()), [true, false, true]);
    }

    #[test]
    fn a_read_only_reader_sees_what_others_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let (writer, reader) = (HistoryLog::default(), HistoryLog::default());
        for run in ["1", "2", "3"] {
            let line = writer.note(&path, "a", tried(run, AttemptEnd::Begun), None).unwrap();
            writer.write(&path, [&line[..]]).unwrap();
            assert_eq!(reader.of(&path, "a", false).unwrap().tried.run, run);
        }
    }

    #[test]
    fn a_log_stays_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let mut longest = 0;
        for run in 0..30 {
            let all_history = HistoryLog::default();
            for stage in 0..50 {
                let line =
                    all_history.note(&path, &format!("s{stage}"), tried(&run.to_string(), AttemptEnd::Done), Some(inputs(run))).unwrap();
                all_history.write(&path, [&line[..]]).unwrap();
            }
            longest = longest.max(fs::metadata(&path).unwrap().len());
        }
        let counts: usize = Log::read(&path, false).short().len();
        assert!(longest as usize <= SPARE.0 + (SPARE.1 + 1) * counts, "{longest} bytes, of which {counts} count");
        assert!(HistoryLog::default().all(&path, false).iter().all(|last| last.tried.run == "29" && last.done == Some(inputs(29))));
    }
}
