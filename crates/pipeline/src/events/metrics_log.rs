//! Metrics log: the metrics of a training as JSON Lines, the source of training curves.
//!
//! The first line is a header; each further line holds the metrics of a step. Each line is written with a single call, so a killed run
//! loses at most the line being written. When a training resumes from a checkpoint, the log is rewritten with the rows of that checkpoint:
//! later rows are dropped and lost rows restored, so no step occurs twice. Unlike results, metrics logs contain times.

use crate::error::{Error, Result, ResultExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use voxpipe_io::write::{Durability, write_atomic_with};

/// The file name in a stage's scratch folder.
pub const FILE: &str = "journal.jsonl";

/// The header of a metrics log: its first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsLogHeader {
    /// The unique id of the log; unchanged while the training resumes from its own checkpoints.
    pub id: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The stage.
    pub stage: String,
    /// When the training began, in UTC.
    pub began: String,
}

/// The metrics of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricsRow {
    /// The step, from 1.
    pub step: u64,
    /// When the row was written, in UTC; `None` for a row restored from a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The metrics by name.
    #[serde(flatten, with = "voxpipe_io::metrics")]
    pub values: BTreeMap<String, f64>,
}

impl MetricsRow {
    /// A row without a time.
    pub fn new<'a>(step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Self {
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value));
        Self { step, time: None, values: values.collect() }
    }

    /// The key of a row; distinguishes the training and evaluation rows of a step.
    fn key(&self) -> (u64, Option<&String>) {
        (self.step, self.values.keys().next_back())
    }
}

/// A metrics log open for writing.
#[derive(Debug)]
pub struct MetricsLog {
    /// The header.
    pub head: MetricsLogHeader,
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log of a stage and replaces its rows by `kept`. Keeps the header and the times of an existing log of the same stage.
    pub fn open(path: &Path, pipeline: &str, stage: &str, mut kept: Vec<MetricsRow>) -> Result<Self> {
        let before = read(path).ok();
        let head = match &before {
            Some((head, _)) if head.pipeline == pipeline && head.stage == stage => head.clone(),
            _ => MetricsLogHeader { id: id(path), pipeline: pipeline.to_owned(), stage: stage.to_owned(), began: now() },
        };
        let rows = before.map_or(Vec::new(), |(_, rows)| rows);
        let times: BTreeMap<_, _> = rows.iter().map(|row| (row.key(), &row.time)).collect();
        for row in &mut kept {
            row.time = times.get(&row.key()).and_then(|time| (*time).clone());
        }
        let mut bytes = serde_json::to_vec(&head)?;
        bytes.push(b'\n');
        for row in &kept {
            serde_json::to_writer(&mut bytes, row)?;
            bytes.push(b'\n');
        }
        let writing = || format!("cannot write `{}`", path.display());
        write_atomic_with(path, Durability::ProcessEnd, |file| file.write_all(&bytes).with_context(writing))?;
        let file = OpenOptions::new().append(true).open(path).with_context(writing)?;
        Ok(Self { head, path: path.to_owned(), file })
    }

    /// The path of the log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a row with the current time.
    pub fn write(&mut self, row: MetricsRow) -> Result<()> {
        let mut bytes = serde_json::to_vec(&MetricsRow { time: Some(now()), ..row })?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).with_context(|| format!("cannot write `{}`", self.path.display()))
    }
}

/// Reads a metrics log. Skips an unfinished last line.
pub fn read(path: &Path) -> Result<(MetricsLogHeader, Vec<MetricsRow>)> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let wrong = |number: usize, error: serde_json::Error| {
        Error::new(format!("{}:{number}: {error}", path.display())).hint("remove this line; the other lines can be read")
    };
    let mut lines = whole.lines().enumerate();
    let Some((_, head)) = lines.next() else { return Err(Error::new(format!("`{}` is empty", path.display()))) };
    let head = serde_json::from_str(head).map_err(|error| wrong(1, error))?;
    let rows = lines.map(|(index, line)| serde_json::from_str(line).map_err(|error| wrong(index + 1, error))).collect::<Result<_>>()?;
    Ok((head, rows))
}

/// The current time in UTC, ISO 8601 with milliseconds.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Creates a unique id for a metrics log.
pub fn id(path: &Path) -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let mut hasher = blake3::Hasher::new();
    hasher.update(path.as_os_str().as_encoded_bytes()).update(&nanos.to_le_bytes()).update(&std::process::id().to_le_bytes());
    hasher.finalize().to_hex().as_str().chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> MetricsRow {
        MetricsRow::new(step, [("loss", 1.0 / step as f64), ("epoch", step as f64)])
    }

    #[test]
    fn a_journal_goes_on_from_a_checkpoint_with_no_step_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut journal = MetricsLog::open(&path, "p", "adapter", Vec::new()).unwrap();
        let head = journal.head.clone();
        for step in 1..=5 {
            journal.write(row(step)).unwrap();
        }
        journal.write(MetricsRow::new(5, [("eval_loss", 0.5), ("eval_wer", f64::NAN)])).unwrap();
        let whole = fs::read(&path).unwrap();
        let (_, rows) = read(&path).unwrap();
        assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 5]);
        assert!(rows[5].values["eval_loss"] == 0.5 && rows[5].values["eval_wer"].is_nan(), "what is no number is kept");

        // Killed in the middle of a line: the checkpoint knows steps 1 to 3, and one more that the disk lost.
        for cut in [whole.len() - 1, whole.len() - 9, whole.len() / 2] {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut journal = MetricsLog::open(&path, "p", "adapter", (1..=3).map(row).collect()).unwrap();
            assert_eq!(journal.head, head);
            journal.write(row(4)).unwrap();
            let (_, again) = read(&path).unwrap();
            let bare = |rows: &[MetricsRow]| rows.iter().map(|row| MetricsRow { time: None, ..row.clone() }).collect::<Vec<_>>();
            assert_eq!(bare(&again), (1..=4).map(row).collect::<Vec<_>>());
            assert_eq!(again[0].time, rows[0].time, "a step keeps its time");
        }
        assert_ne!(MetricsLog::open(&path, "p", "other", Vec::new()).unwrap().head.id, head.id, "another stage's journal is another one");
        fs::write(&path, "{\"step\":1}\n").unwrap();
        assert!(read(&path).unwrap_err().message.contains("journal.jsonl:1:"));
    }
}
