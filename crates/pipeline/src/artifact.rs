//! What travels along the edges of a pipeline: a folder of files with a kind and a digest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use voxpipe_io::digest::Digest;

/// What a folder holds, and so which ports it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    /// `phrases.jsonl`: sentences to read aloud, each with an id, a language and its source.
    Phrases,
    /// `clips.jsonl` and `audio/`: 16 kHz mono WAV files with their transcripts.
    Clips,
    /// `data.jsonl`, one JSONL a split (`train.jsonl`, `test.jsonl`), `audio/` and `report.json`.
    Dataset,
    /// A full model or an adapter, laid out as on the Hub, with `training.json` beside it.
    Model,
    /// `scores.json` and `clips.jsonl`: word and character error rates, in total and for each clip.
    Scores,
    /// `README.md`: the model card.
    Card,
    /// `published.json`: where a model went and what was there afterwards.
    Published,
    /// The files of a demo Space.
    Demo,
    /// Whatever a command left in its output folder.
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

/// The result of a stage: a folder that never changes again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// What the folder holds.
    pub kind: ArtifactKind,
    /// Where it lies now. Never part of a fingerprint.
    pub path: PathBuf,
    /// The digest of its content: every file's relative path and bytes.
    pub digest: Digest,
    /// The name of the stage that made it.
    pub stage: String,
    /// What the stage said of it, in one sentence.
    pub summary: String,
    /// Numbers worth comparing and gating on (`wer`, `clips`, `seconds`), by name.
    pub metrics: BTreeMap<String, f64>,
    /// Further facts for stages downstream, by name.
    #[serde(default)]
    pub facts: BTreeMap<String, Value>,
}
