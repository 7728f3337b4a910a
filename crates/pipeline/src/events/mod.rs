//! Event stream: the scheduler and the stages emit events; reporters write them to the run log, the terminal and other sinks.
//!
//! All reporters receive the same values, so each can show everything.

pub mod jsonl;
pub mod metrics_log;
pub mod reporter;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The version of the event format, written to every line.
pub const VERSION: u32 = 1;

/// An event of a run. Events of a stage carry its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run started.
    RunStarted {
        /// The pipeline's name.
        pipeline: String,
        /// The run id, unique in its project.
        run: String,
        /// The stages of the run, in pipeline order.
        stages: Vec<String>,
        /// The stages of the pipeline that the selection left out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left_out: Vec<String>,
    },
    /// A stage's result is up to date.
    StageFresh {
        /// The stage.
        stage: String,
        /// The summary of the result.
        summary: String,
        /// The result.
        #[serde(flatten)]
        kept: ResultRef,
    },
    /// An attempt at a stage started.
    StageStarted {
        /// The stage.
        stage: String,
        /// The stage's kind.
        kind: String,
        /// Why the stage has to run.
        why: String,
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// Progress of a stage.
    Progress {
        /// The stage.
        stage: String,
        /// Finished units.
        done: u64,
        /// Total units; 0 if unknown.
        total: u64,
        /// The unit: `clips`, `steps`.
        unit: String,
        /// A short description of the current work (`epoch 3, loss 0.41`); may be empty.
        detail: String,
    },
    /// Metrics measured during a stage, such as the loss at a step.
    Metrics {
        /// The stage.
        stage: String,
        /// The training step.
        step: u64,
        /// The values by name.
        #[serde(with = "voxpipe_io::metrics")]
        values: BTreeMap<String, f64>,
    },
    /// A training opened its metrics log, new or resumed.
    Journal {
        /// The stage.
        stage: String,
        /// The id of the metrics log; unchanged when the training resumes.
        id: String,
        /// When the training began, in UTC.
        began: String,
        /// The path of the metrics log.
        path: String,
        /// The last step before the training resumes; 0 for a new training.
        step: u64,
        /// The stage's settings.
        settings: Value,
    },
    /// The held-out clips with the highest word error rate, worst first.
    WorstClips {
        /// The stage.
        stage: String,
        /// The clips.
        clips: Vec<WorstClip>,
    },
    /// Information for the user.
    Note {
        /// The stage.
        stage: String,
        /// The text.
        message: String,
    },
    /// A problem that does not stop the run.
    Warning {
        /// The stage.
        stage: String,
        /// The text.
        message: String,
    },
    /// The peak memory of an attempt at a stage, told when the attempt ends, also if it failed.
    PeakMemory {
        /// The stage.
        stage: String,
        /// Whose memory: `program` for the largest program that the stage started, `voxpipe` for voxpipe itself meanwhile, with all stages
        /// that run at the same time.
        process: String,
        /// Peak resident set size in bytes.
        bytes: u64,
    },
    /// A stage succeeded and its result is stored.
    StageFinished {
        /// The stage.
        stage: String,
        /// The duration in seconds.
        seconds: f64,
        /// A one-line summary of the result.
        summary: String,
        /// The metrics of the result.
        #[serde(with = "voxpipe_io::metrics")]
        metrics: BTreeMap<String, f64>,
        /// The result.
        #[serde(flatten)]
        kept: ResultRef,
    },
    /// A stage is parked: it waits for a person.
    StageParked {
        /// The stage.
        stage: String,
        /// How many items exist.
        have: u64,
        /// How many items are needed.
        need: u64,
        /// What the person has to do.
        message: String,
    },
    /// A stage failed.
    StageFailed {
        /// The stage.
        stage: String,
        /// The error message.
        message: String,
        /// What the user can do.
        #[serde(rename = "advice")]
        hint: Option<String>,
    },
    /// A stage's result is stored but failed a `require` gate, so dependent stages are skipped.
    GateFailed {
        /// The stage.
        stage: String,
        /// The metric and its bound.
        message: String,
    },
    /// A stage was stopped on request; the next run resumes it.
    StageInterrupted {
        /// The stage.
        stage: String,
    },
    /// A stage was not started.
    StageSkipped {
        /// The stage.
        stage: String,
        /// The reason.
        because: String,
    },
    /// The run ended.
    RunFinished {
        /// The exit code.
        exit: u8,
        /// The duration in seconds.
        seconds: f64,
    },
}

/// The current result of a stage. Logs of older versions have neither field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRef {
    /// The fingerprint, 64 hexadecimal digits: the key of the cache entry.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// The digest of the files, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
}

/// A clip with a high word error rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorstClip {
    /// The path of the recording, 16 kHz WAV.
    pub audio: String,
    /// The reference transcript.
    pub reference: String,
    /// The transcript of the base model.
    pub base: Option<String>,
    /// The transcript of the fine-tuned model.
    pub tuned: String,
    /// The word error rate of the fine-tuned model.
    pub wer: f64,
    /// Whether the fine-tuned model ended its transcript.
    #[serde(default = "ended")]
    pub finished: bool,
}

/// Events of former versions do not say so.
fn ended() -> bool {
    true
}

/// The sending end of the event stream; cheap to clone.
#[derive(Clone)]
pub struct Emitter(Arc<dyn Fn(Event) + Send + Sync>);

impl Emitter {
    /// An emitter that passes every event to `listener`.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// An emitter that drops all events.
    pub fn silent() -> Self {
        Self::new(|_| ())
    }

    /// Emits an event.
    pub fn emit(&self, event: Event) {
        (self.0)(event);
    }
}

impl std::fmt::Debug for Emitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Emitter")
    }
}
