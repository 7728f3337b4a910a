//! One clip with its transcript: a line of `clips.jsonl`, `data.jsonl`, `train.jsonl` or `test.jsonl`.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;
use voxpipe_io::jsonl;

/// A clip and what is said in it. Fields we do not know travel along in `rest`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipRow {
    /// The WAV file, relative to the folder of the JSONL file.
    pub audio_path: String,
    /// What is said.
    pub text: String,
    /// ISO 639-1 code; absent means the model finds out by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Length in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// Who speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// Where the clip came from: a file name, a phrase id, a corpus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whatever else the line said.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl ClipRow {
    /// Reads a JSONL file of records; an empty text or path is an error with its line.
    pub fn read_all(path: &Path) -> Result<Vec<Self>> {
        let rows: Vec<(usize, Self)> = jsonl::read(path)?;
        rows.into_iter()
            .map(|(line, record)| {
                let missing = if record.text.trim().is_empty() {
                    "text"
                } else if record.audio_path.trim().is_empty() {
                    "audio_path"
                } else {
                    return Ok(record);
                };
                Err(Error::new(format!("{}:{line}: `{missing}` is empty", path.display())).hint("fill it in or remove the line"))
            })
            .collect()
    }
}
