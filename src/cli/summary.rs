//! Summary of a run, read from its event log; lookup of runs by id.

use super::Project;
use crate::error::{Error, ErrorKind, Result};
use pipeline::cache::fingerprint::Fingerprint;
use pipeline::cache::store::{CacheEntry, Store};
use pipeline::events::jsonl::EventLine;
use pipeline::events::{Event, ResultRef, jsonl};
use pipeline::exit::Exit;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

/// Summary of a run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    pub(super) run: String,
    pub(super) pipeline: String,
    /// Start time in UTC.
    pub(super) started: String,
    /// Exit code; none while the run is going on, or if it was killed.
    pub(super) exit: Option<u8>,
    pub(super) seconds: Option<f64>,
    pub(super) stages: Vec<StageSummary>,
    /// The stages that the selection of the run left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) left_out: Vec<String>,
}

/// Summary of one stage of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct StageSummary {
    pub(super) stage: String,
    pub(super) result: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) why: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) said: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "voxpipe_io::metrics")]
    pub(super) metrics: BTreeMap<String, f64>,
    #[serde(flatten)]
    pub(super) kept: ResultRef,
}

impl Summary {
    /// Reads the log of a run.
    pub(super) fn of(store: &Store, run: &str) -> Result<Self> {
        let mut summary = Self { run: run.to_owned(), ..Self::default() };
        for EventLine { time, event, .. } in &jsonl::read(&store.log(run))? {
            summary.take(time, event);
        }
        Ok(summary)
    }

    /// Adds the next event of the run.
    pub(super) fn take(&mut self, time: &str, event: &Event) {
        match event {
            Event::RunStarted { pipeline, stages, run, left_out } => {
                self.left_out.clone_from(left_out);
                if self.run.is_empty() {
                    self.run.clone_from(run);
                }
                self.pipeline.clone_from(pipeline);
                time.clone_into(&mut self.started);
                let unreached =
                    |stage: &String| StageSummary { stage: stage.clone(), result: "not reached".to_owned(), ..StageSummary::default() };
                self.stages = stages.iter().map(unreached).collect();
            }
            Event::RunFinished { exit, seconds } => (self.exit, self.seconds) = (Some(*exit), Some(*seconds)),
            event => self.take_stage(event),
        }
    }

    fn take_stage(&mut self, event: &Event) {
        let (result, name, said) = match event {
            Event::StageFresh { stage, summary, .. } => ("fresh", stage, summary.clone()),
            Event::StageStarted { stage, .. } => ("begun", stage, String::new()),
            Event::StageFinished { stage, summary, .. } => ("done", stage, summary.clone()),
            Event::StageParked { stage, have, need, message } => ("parked", stage, format!("{have}/{need}  {message}")),
            Event::StageFailed { stage, message, .. } => ("failed", stage, message.clone()),
            Event::GateFailed { stage, message } => ("gate", stage, message.clone()),
            Event::StageInterrupted { stage } => ("interrupted", stage, String::new()),
            Event::StageSkipped { stage, because } => ("skipped", stage, because.clone()),
            _ => return,
        };
        let Some(stage) = self.stages.iter_mut().find(|stage| stage.stage == *name) else { return };
        result.clone_into(&mut stage.result);
        stage.said = said;
        match event {
            Event::StageStarted { why, .. } => stage.why.clone_from(why),
            Event::StageFresh { kept, .. } => stage.kept.clone_from(kept),
            Event::StageFinished { seconds, metrics, kept, .. } => {
                stage.seconds = Some(*seconds);
                stage.metrics.clone_from(metrics);
                stage.kept.clone_from(kept);
            }
            _ => {}
        }
    }

    /// The stage with this name.
    pub(super) fn stage(&self, name: &str) -> Option<&StageSummary> {
        self.stages.iter().find(|stage| stage.stage == name)
    }
}

impl StageSummary {
    /// The cache entry of the stage's result, if it has one that is still in the store.
    pub(super) fn record(&self, store: &Store) -> Option<CacheEntry> {
        let fingerprint: Fingerprint = serde_json::from_value(self.kept.fingerprint.clone().into()).ok()?;
        let mut record = store.record(fingerprint)?;
        let digest = serde_json::from_value(self.kept.digest.clone().into()).ok()?;
        if record.digest != digest {
            // The same inputs have since given another result. Of this one, only what the log holds is known.
            let (summary, metrics) = (self.said.clone(), self.metrics.clone());
            record = CacheEntry { digest, summary, metrics, facts: BTreeMap::new(), promises: BTreeMap::new(), ..record };
        }
        Some(record)
    }
}

/// Resolves a run id, `latest` (the newest run) or `previous` (the one before it).
pub(super) fn find(store: &Store, run: &str) -> Result<String> {
    let runs = store.runs()?;
    let found = match run {
        "latest" => runs.last(),
        "previous" => runs.len().checked_sub(2).and_then(|place| runs.get(place)),
        id => runs.iter().find(|run| *run == id),
    };
    found.cloned().ok_or_else(|| match (runs.last(), run) {
        (None, _) => Error::new("no runs yet").kind(ErrorKind::InvalidInput).hint("start one with `voxpipe run`"),
        (Some(_), "previous") => Error::new("there is only one run").kind(ErrorKind::InvalidInput).hint("list runs with `voxpipe runs`"),
        (Some(last), _) => Error::new(format!("no run is called `{run}`"))
            .kind(ErrorKind::InvalidInput)
            .hint(format!("list runs with `voxpipe runs`; the newest is {last}")),
    })
}

/// Like [`find`], but `latest` and `previous` are of the pipeline in the project's file if that was named.
pub(super) fn find_of(store: &Store, run: &str, project: &Project) -> Result<String> {
    if project.named.is_none() || !["latest", "previous"].contains(&run) {
        return find(store, run);
    }
    // With errors in the file its name may not be known; past runs stay accessible.
    let Some(pipeline) = project.parse()?.1.pipeline.map(|pipeline| pipeline.name) else { return find(store, run) };
    let back = usize::from(run == "previous");
    // A damaged log of an old run is no reason not to find another.
    let its = |run: &String| Summary::of(store, run).is_ok_and(|summary| summary.pipeline == pipeline);
    store.runs()?.into_iter().rev().filter(its).nth(back).ok_or_else(|| {
        let what = if back == 0 { "no run" } else { "no run before the newest one" };
        Error::new(format!("there is {what} of pipeline `{pipeline}` (`{}`)", project.file().display()))
            .kind(ErrorKind::InvalidInput)
            .hint("list runs with `voxpipe runs`")
    })
}

/// The run and the project that two arguments `RUN FILE` name. A pipeline file may stand alone, or before the run: run ids have no dot and
/// no slash.
pub(super) fn run_and_project(run: &str, project: &Project) -> Result<(String, Project)> {
    let is_file = |argument: &str| argument.contains(['.', '/']);
    if !is_file(run) {
        return Ok((run.to_owned(), project.clone()));
    }
    let run_instead = match project.named.as_deref() {
        None => "latest".to_owned(),
        Some(other) if !is_file(&other.to_string_lossy()) => other.display().to_string(),
        Some(other) => {
            return Err(Error::new(format!("two pipeline files are named: `{run}` and `{}`", other.display()))
                .kind(ErrorKind::InvalidInput)
                .hint(format!("the run comes first, then the file: `latest {run}`")));
        }
    };
    Ok((run_instead, Project::new(Some(run.into()), project.changes.clone())))
}

/// Whether a run is going on: it has not ended, and the process that runs its pipeline has its log open.
pub(super) fn is_active(store: &Store, pipeline: &str, run: &str, exit: Option<u8>) -> bool {
    let Some(process) = store.runner(pipeline).filter(|_| exit.is_none()) else { return false };
    let open = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero()));
    match (open, fs::canonicalize(store.log(run))) {
        (Ok(open), Ok(log)) => open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).any(|file| file == log),
        // Without /proc, or for the process of another user, only the newest run of the pipeline can be the active one.
        _ => newest_run(store, pipeline).as_deref() == Some(run),
    }
}

/// How a run ended in words, or that it is running, or that it was killed.
pub(super) fn outcome_words(store: &Store, summary: &Summary) -> String {
    match summary.exit {
        None if is_active(store, &summary.pipeline, &summary.run, None) => "running".to_owned(),
        exit => exit_words(exit),
    }
}

/// The summary as JSON, with whether the run is going on: `exit` is null too if it was killed.
pub(super) fn summary_json(store: &Store, summary: &Summary) -> Value {
    let mut value = json!(summary);
    value["running"] = json!(is_active(store, &summary.pipeline, &summary.run, summary.exit));
    value
}

/// The newest run of a pipeline.
pub(super) fn newest_run(store: &Store, pipeline: &str) -> Option<String> {
    let runs = store.runs().ok()?;
    runs.into_iter().rev().find(|run| Summary::of(store, run).is_ok_and(|summary| summary.pipeline == pipeline))
}

/// An exit code in words.
pub(super) fn exit_words(exit: Option<u8>) -> String {
    let known = [
        (Exit::Done, "done"),
        (Exit::Failed, "failed"),
        (Exit::Usage, "failed: invalid pipeline file"),
        (Exit::Environment, "failed: environment problem"),
        (Exit::Parked, "parked"),
        (Exit::TimedOut, "timed out"),
        (Exit::Gate, "gate not met"),
        (Exit::Differs, "differs"),
        (Exit::Interrupted, "interrupted"),
    ];
    match exit {
        None => "not finished".to_owned(),
        Some(code) => {
            known.iter().find(|(exit, _)| *exit as u8 == code).map_or_else(|| format!("exit {code}"), |(_, word)| (*word).to_owned())
        }
    }
}
