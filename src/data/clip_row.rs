//! A clip with its transcript: a row of `clips.jsonl`, `data.jsonl`, `train.jsonl` or `test.jsonl`.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;
use voxpipe_io::jsonl;

/// A clip and its transcript. Unknown fields are preserved in `rest`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipRow {
    /// Path of the WAV file, relative to the folder of the JSONL file.
    pub audio_path: String,
    /// The transcript.
    pub text: String,
    /// ISO 639-1 language code; the model detects the language if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Duration in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// Speaker name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// Origin of the clip: a file name, a phrase id or a corpus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// All other fields of the row.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl ClipRow {
    /// Reads a JSONL file of clips. An empty text or path is an error that names the line.
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
