//! Artifacts: the results that stages pass to each other, each a folder with a kind and a content digest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use voxpipe_io::digest::Digest;

/// The kind of an artifact; it determines which input ports accept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    /// `phrases.jsonl`: prompts to read aloud, each with an id, a language and a source.
    Phrases,
    /// `clips.jsonl` and `audio/`: 16 kHz mono WAV files with their transcripts.
    Clips,
    /// `data.jsonl`, one JSONL file per split (`train.jsonl`, `test.jsonl`), `audio/` and `report.json`.
    Dataset,
    /// A full model or a LoRA adapter in Hugging Face layout, with `training.json`.
    Model,
    /// `scores.json` and `clips.jsonl`: word and character error rates (WER, CER), overall and per clip.
    Scores,
    /// `README.md`: the model card.
    Card,
    /// `published.json`: where a model was published, and the files there afterwards.
    Published,
    /// The files of a demo Space.
    Demo,
    /// The files that a command wrote to its output folder.
    Files,
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Phrases => "phrases",
            Self::Clips => "clips",
            Self::Dataset => "dataset",
            Self::Model => "model",
            Self::Scores => "scores",
            Self::Card => "card",
            Self::Published => "published",
            Self::Demo => "demo",
            Self::Files => "files",
        })
    }
}

/// The result of a stage: an immutable folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// The kind of its content.
    pub kind: ArtifactKind,
    /// Its current path; not part of any fingerprint.
    pub path: PathBuf,
    /// Content digest: relative path and bytes of every file.
    pub digest: Digest,
    /// The stage that produced it.
    pub stage: String,
    /// One-sentence summary from the stage.
    pub summary: String,
    /// Metrics for comparisons and gates, by name (`wer`, `clips`, `seconds`).
    #[serde(with = "voxpipe_io::metrics")]
    pub metrics: BTreeMap<String, f64>,
    /// Further facts for downstream stages, by name.
    #[serde(default)]
    pub facts: BTreeMap<String, Value>,
}
