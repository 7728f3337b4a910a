//! Run history: the newest attempt and the newest result of each step, used by `why` and by garbage collection.
//!
//! Each pipeline has one append-only log with a line per attempt. For each step only its newest line and its newest line with a result are
//! relevant. Two files may give their pipelines one name: they share the log, but each has its own history in it. Appending a line is much faster than writing a file per step. Truncated lines are skipped. A log with too many obsolete
//! lines is compacted when a run reads it.

use super::files::Durability;
use super::{AttemptEnd, AttemptRecord, StageHistory, Store, disk, file_name, files, names};
use crate::cache::file_stat::StatKey;
use crate::cache::fingerprint::FingerprintInputs;
use crate::error::{Result, ResultExt};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The history logs read so far, by path.
#[derive(Debug, Default)]
pub(super) struct HistoryLog(Mutex<BTreeMap<PathBuf, Log>>);

#[derive(Debug, Default)]
struct Log {
    /// By step, the pipeline files with their histories, the newest last.
    steps: BTreeMap<String, Vec<(String, Arc<StageHistory>)>>,
    /// The stat key of the file when it was read.
    read: Option<StatKey>,
}

/// A line of a history log.
#[derive(Serialize, Deserialize)]
struct HistoryLine {
    stage: String,
    /// The pipeline file, from the project root; lines of older versions have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    file: String,
    tried: AttemptRecord,
    /// The fingerprint inputs of the result, if this attempt committed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    done: Option<FingerprintInputs>,
}

/// A log is compacted when it is larger than its relevant lines by this many bytes and this factor.
const SPARE: (usize, usize) = (64 << 10, 3);

impl Store {
    /// The history of a step of the pipeline in `file`, if it has any. A file that was renamed takes over the history of its former name.
    pub fn last(&self, pipeline: &str, file: &str, stage: &str) -> Option<Arc<StageHistory>> {
        let path = self.lasts_path(pipeline);
        self.watch(&path);
        let histories = self.all_history.of(&path, stage, self.locks.is_some())?;
        let own = histories.iter().find(|(of, _)| of == file);
        own.or_else(|| histories.iter().rev().find(|(of, _)| !self.is_file(of))).map(|(_, last)| Arc::clone(last))
    }

    /// The pipeline files that ran under this name, from the project root.
    pub fn files_of(&self, pipeline: &str) -> BTreeSet<String> {
        let all = self.all_history.all(&self.lasts_path(pipeline), self.locks.is_some());
        all.into_iter().flatten().map(|(file, _)| file).filter(|file| self.is_file(file)).collect()
    }

    /// The histories that count of every step of every pipeline: of files that are there, and otherwise the newest one.
    pub fn all_history(&self) -> Result<Vec<Arc<StageHistory>>> {
        let folder = self.dir.join("last");
        let logs = names(&folder)?.into_iter().filter(|name| name.ends_with(".jsonl"));
        let steps = logs.flat_map(|name| self.all_history.all(&folder.join(name), self.locks.is_some()));
        let counts = |histories: Vec<(String, Arc<StageHistory>)>| {
            let newest = histories.len().saturating_sub(1);
            let kept = histories.into_iter().enumerate().filter(move |(place, (file, _))| *place == newest || self.is_file(file));
            kept.map(|(_, (_, last))| last).collect::<Vec<_>>()
        };
        Ok(steps.flat_map(counts).collect())
    }

    fn is_file(&self, file: &str) -> bool {
        !file.is_empty() && self.root().join(file).is_file()
    }

    /// Records an attempt at a step of the pipeline in `file`, with the fingerprint inputs of its result if it committed one.
    pub fn remember(&self, pipeline: &str, file: &str, stage: &str, tried: AttemptRecord, done: Option<FingerprintInputs>) -> Result<()> {
        let (path, fingerprint) = (self.lasts_path(pipeline), tried.fingerprint);
        // The history must not show a result before its cache entry is on disk.
        let later = tried.end == AttemptEnd::Done;
        let line = self.all_history.note(&path, HistoryLine { stage: stage.to_owned(), file: file.to_owned(), tried, done })?;
        let now = if later { self.group.after(fingerprint, path, line) } else { Some((path, line)) };
        now.map_or(Ok(()), |(path, line)| self.all_history.write(&path, [&line[..]]))
    }

    fn lasts_path(&self, pipeline: &str) -> PathBuf {
        self.dir.join("last").join(format!("{}.jsonl", file_name(pipeline)))
    }
}

impl HistoryLog {
    /// The histories of a step in the log at `path`, by pipeline file. `ours`: only this process writes the log, so it is read only once.
    fn of(&self, path: &Path, stage: &str, ours: bool) -> Option<Vec<(String, Arc<StageHistory>)>> {
        self.log(path, ours, |log| log.steps.get(stage).cloned())
    }

    /// The histories of every step in the log at `path`, by pipeline file.
    fn all(&self, path: &Path, ours: bool) -> Vec<Vec<(String, Arc<StageHistory>)>> {
        self.log(path, ours, |log| log.steps.values().cloned().collect())
    }

    /// Adds an attempt in memory, and returns the line for [`HistoryLog::write`].
    fn note(&self, path: &Path, line: HistoryLine) -> Result<Vec<u8>> {
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
        let HistoryLine { stage, file, tried, done } = line;
        let histories = self.steps.entry(stage).or_default();
        let mut entry = match histories.iter().position(|(of, _)| *of == file) {
            None => (file, Arc::new(StageHistory { tried, done })),
            Some(place) => {
                // Changed in place: the fingerprint inputs may be a long list.
                let mut entry = histories.remove(place);
                let last = Arc::make_mut(&mut entry.1);
                last.tried = tried;
                last.done = done.or(last.done.take());
                entry
            }
        };
        // A result that an older version recorded without a file is taken over.
        if entry.1.done.is_none()
            && let Some(older) = histories.iter().position(|(of, _)| of.is_empty())
        {
            Arc::make_mut(&mut entry.1).done = histories.remove(older).1.done.clone();
        }
        histories.push(entry);
    }

    /// The relevant lines.
    fn short(&self) -> Vec<u8> {
        let steps = self.steps.iter().flat_map(|(stage, histories)| histories.iter().map(move |history| (stage, history)));
        let lines = steps.filter_map(|(stage, (file, last))| {
            let line = HistoryLine { stage: stage.clone(), file: file.clone(), tried: last.tried.clone(), done: last.done.clone() };
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

    fn line(stage: &str, tried: AttemptRecord, done: Option<FingerprintInputs>) -> HistoryLine {
        HistoryLine { stage: stage.to_owned(), file: "pipeline.toml".to_owned(), tried, done }
    }

    fn last(log: &HistoryLog, path: &Path, stage: &str) -> Option<Arc<StageHistory>> {
        Some(log.of(path, stage, true)?.pop()?.1)
    }

    #[test]
    fn files_of_one_name_have_their_own_histories_and_older_lines_are_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let log = HistoryLog::default();
        let add = |file: &str, run: &str, done: Option<u64>| {
            let line = HistoryLine { file: file.to_owned(), ..line("a", tried(run, AttemptEnd::Begun), done.map(inputs)) };
            let line = log.note(&path, line).unwrap();
            log.write(&path, [&line[..]]).unwrap();
        };
        add("", "1", Some(1));
        add("one.toml", "2", None);
        add("two.toml", "3", Some(3));
        add("one.toml", "4", None);
        for (who, log) in [("who wrote it", &log), ("who comes later", &HistoryLog::default())] {
            let all = log.of(&path, "a", true).unwrap();
            let runs: Vec<_> = all.iter().map(|(file, last)| (file.as_str(), last.tried.run.as_str(), last.done.clone())).collect();
            assert_eq!(runs, [("two.toml", "3", Some(inputs(3))), ("one.toml", "4", Some(inputs(1)))], "{who}");
        }
    }

    #[test]
    fn the_newest_try_and_the_newest_result_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last/p.jsonl");
        let all_history = HistoryLog::default();
        let add = |stage: &str, run: &str, end: AttemptEnd, done| {
            let line = all_history.note(&path, line(stage, tried(run, end), done)).unwrap();
            all_history.write(&path, [&line[..]]).unwrap();
        };
        assert!(last(&all_history, &path, "a").is_none());
        add("a", "1", AttemptEnd::Done, Some(inputs(1)));
        add("b", "1", AttemptEnd::Begun, None);
        add("a", "2", AttemptEnd::Failed { message: "no".into() }, None);
        let expected = StageHistory { tried: tried("2", AttemptEnd::Failed { message: "no".into() }), done: Some(inputs(1)) };
        for (who, reader) in [("who wrote it", &all_history), ("who comes later", &HistoryLog::default())] {
            assert_eq!(*last(reader, &path, "a").unwrap(), expected, "{who}");
            assert_eq!(last(reader, &path, "b").unwrap().done, None, "{who}");
            assert_eq!(reader.all(&path, true).len(), 2, "{who}");
        }
    }

    #[test]
    fn a_line_that_was_cut_off_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let line = |run: &str| HistoryLog::default().note(&path, line(run, tried(run, AttemptEnd::Begun), None)).unwrap();
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
            let line = writer.note(&path, line("a", tried(run, AttemptEnd::Begun), None)).unwrap();
            writer.write(&path, [&line[..]]).unwrap();
            assert_eq!(reader.of(&path, "a", false).unwrap()[0].1.tried.run, run);
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
                let line = line(&format!("s{stage}"), tried(&run.to_string(), AttemptEnd::Done), Some(inputs(run)));
                let line = all_history.note(&path, line).unwrap();
                all_history.write(&path, [&line[..]]).unwrap();
            }
            longest = longest.max(fs::metadata(&path).unwrap().len());
        }
        let counts: usize = Log::read(&path, false).short().len();
        assert!(longest as usize <= SPARE.0 + (SPARE.1 + 1) * counts, "{longest} bytes, of which {counts} count");
        let all = HistoryLog::default().all(&path, false);
        assert!(all.iter().flatten().all(|(_, last)| last.tried.run == "29" && last.done == Some(inputs(29))));
    }
}
