//! The one stream of events: the runner and the stages *say* what happens, reporters *tell* it.
//!
//! Run log, terminal and (later) the browser read the same values, so what one shows the others can show too.

pub mod jsonl;
pub mod metrics_log;
pub mod reporter;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The version of the event format, written with every event.
pub const VERSION: u32 = 1;

/// Something that happened. Every event names the stage it belongs to, if it belongs to one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run begins.
    RunStarted {
        /// The pipeline's name.
        pipeline: String,
        /// The run's id, unique in its project.
        run: String,
        /// The stages to be visited, in order.
        stages: Vec<String>,
    },
    /// A stage's result is already there.
    StageFresh {
        /// The stage.
        stage: String,
        /// What it had said of its result.
        summary: String,
        /// Which result that is.
        #[serde(flatten)]
        kept: ResultRef,
    },
    /// A stage begins.
    StageStarted {
        /// The stage.
        stage: String,
        /// Its kind.
        kind: String,
        /// Why it has to run, in words.
        why: String,
        /// 1 for the first try.
        attempt: u32,
    },
    /// A stage is `done` of `total` through.
    Progress {
        /// The stage.
        stage: String,
        /// Units finished.
        done: u64,
        /// Units in all, 0 when unknown.
        total: u64,
        /// What is counted: `clips`, `steps`.
        unit: String,
        /// A short word on what is being done now (`epoch 3, loss 0.41`), may be empty.
        detail: String,
    },
    /// Numbers measured on the way, such as the loss at a step.
    Metrics {
        /// The stage.
        stage: String,
        /// The step they belong to.
        step: u64,
        /// The values by name.
        values: BTreeMap<String, f64>,
    },
    /// A training begins to keep a journal, or goes on with the one it has.
    Journal {
        /// The stage.
        stage: String,
        /// The journal's id, the same when the training goes on.
        id: String,
        /// When the training began, in UTC.
        began: String,
        /// Where the journal is.
        path: String,
        /// The step after which it goes on; 0 at the beginning.
        step: u64,
        /// The stage's settings.
        settings: Value,
    },
    /// The held-out clips that a model heard worst, the worst first.
    WorstClips {
        /// The stage.
        stage: String,
        /// The clips.
        clips: Vec<WorstClip>,
    },
    /// Something a person should read, but nothing is wrong.
    Note {
        /// The stage.
        stage: String,
        /// The sentence.
        message: String,
    },
    /// Something a person should look at; the run goes on.
    Warning {
        /// The stage.
        stage: String,
        /// The sentence.
        message: String,
    },
    /// A stage is done and its result is kept.
    StageFinished {
        /// The stage.
        stage: String,
        /// How long it took.
        seconds: f64,
        /// What it made, in one sentence.
        summary: String,
        /// Its numbers.
        metrics: BTreeMap<String, f64>,
        /// Which result that is.
        #[serde(flatten)]
        kept: ResultRef,
    },
    /// A stage waits for a person.
    StageParked {
        /// The stage.
        stage: String,
        /// How much is there.
        have: u64,
        /// How much is needed.
        need: u64,
        /// What to do.
        message: String,
    },
    /// A stage failed.
    StageFailed {
        /// The stage.
        stage: String,
        /// What happened.
        message: String,
        /// What to do.
        #[serde(rename = "advice")]
        hint: Option<String>,
    },
    /// A stage's result is kept, but a `require` gate was not met: what hangs on it does not run.
    GateFailed {
        /// The stage.
        stage: String,
        /// The number and the bound.
        message: String,
    },
    /// A stage was told to stop and stopped; running again goes on with it.
    StageInterrupted {
        /// The stage.
        stage: String,
    },
    /// A stage was not reached because of another.
    StageSkipped {
        /// The stage.
        stage: String,
        /// Why not.
        because: String,
    },
    /// The run ends.
    RunFinished {
        /// The exit code.
        exit: u8,
        /// How long it took.
        seconds: f64,
    },
}

/// Which result a stage stands at. Logs of before this was told have neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRef {
    /// The digest of everything the result depends on, 64 hexadecimal digits: the name of its record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// The digest of its files, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
}

/// A clip that a model did not hear well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorstClip {
    /// The recording, 16 kHz WAV.
    pub audio: String,
    /// What was said.
    pub reference: String,
    /// What the base model heard.
    pub base: Option<String>,
    /// What the tuned model heard.
    pub tuned: String,
    /// Its word error rate.
    pub wer: f64,
}

/// The sending end of the stream; cheap to clone, silent by default.
#[derive(Clone)]
pub struct Emitter(Arc<dyn Fn(Event) + Send + Sync>);

impl Emitter {
    /// An emitter that hands every event to `listener`.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// An emitter nobody listens to.
    pub fn silent() -> Self {
        Self::new(|_| ())
    }

    /// Says one event.
    pub fn emit(&self, event: Event) {
        (self.0)(event);
    }
}

impl std::fmt::Debug for Emitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Emitter")
    }
}
