//! `voxpipe why STAGE`: explains why a stage would run, file by file and setting by setting.

use super::plan::{RemoteArgs, step_json};
use super::selection::require_stage;
use super::summary::{Summary, find_of};
use super::{Project, print, print_json};
use crate::error::{Error, ErrorKind, Result};
use clap::Args;
use pipeline::cache::content::ContentDiff;
use pipeline::cache::store::Store;
use pipeline::graph::Pipeline;
use pipeline::plan::why::Why as Reason;
use pipeline::plan::{FreshnessCheck, Plan, PlannedStep, StepState, why};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Options of `voxpipe why`.
#[derive(Args)]
pub(super) struct Why {
    /// Stage name; that of a `foreach` means all its stages
    stage: String,
    #[command(flatten)]
    project: Project,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Compare with the inputs of this run: a run id, `latest` or `previous`
    #[arg(long, value_name = "RUN")]
    vs: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Why {
    /// Prints the reasons.
    pub(super) fn print(&self) -> Result<()> {
        let pipeline = self.project.pipeline()?;
        // The name of a `foreach` means all its stages, except for programs: they get one object for one stage.
        if self.json {
            require_stage(&pipeline, &self.stage)?;
        }
        let stages = pipeline.steps_named(&self.stage)?;
        let store = self.project.read_store(&pipeline)?;
        let plan = self.remote.plan(&pipeline, &store, &BTreeSet::new())?;
        let mut text = String::new();
        for stage in stages {
            let versus = self.vs.as_deref().map(|run| versus(&self.project, &pipeline, &store, &plan, stage, run)).transpose()?;
            let Some(step) = plan.steps.iter().find(|step| step.stage == stage) else { continue };
            if self.json {
                let mut value = step_json(step);
                if let Some((run, reasons)) = versus {
                    value["vs"] = json!({ "run": run, "reasons": reasons });
                }
                return print_json(value);
            }
            text.push_str(&match (versus, &step.state) {
                (Some((run, reasons)), _) if reasons.is_empty() => format!("`{stage}` is unchanged since run {run}\n"),
                (Some((run, reasons)), _) => format!("`{stage}` has changed since run {run}:\n{}", reason_lines(&reasons)),
                (None, StepState::Stale(reasons)) => format!("`{stage}` runs:\n{}", reason_lines(reasons)),
                (None, other) => {
                    let (word, sentence) = other.words();
                    let verb = match word {
                        "fresh" => "is fresh",
                        "shared" => "is in the shared cache",
                        "gate" => "is fresh, but does not pass its gate",
                        "waits" => "waits",
                        _ => "cannot run",
                    };
                    format!("`{stage}` {verb}: {sentence}\n")
                }
            });
        }
        print(&text)
    }
}

/// The differences between a stage's inputs now and in a run. Returns the id of that run as well.
fn versus(project: &Project, pipeline: &Pipeline, store: &Store, plan: &Plan, stage: &str, run: &str) -> Result<(String, Vec<Reason>)> {
    let run = find_of(store, run, project)?;
    let summary = Summary::of(store, &run)?;
    let unusable =
        |what: String| Error::new(what).kind(ErrorKind::InvalidInput).hint("run `voxpipe show RUN` to see how each stage of a run ended");
    let Some(then) = summary.stage(stage) else { return Err(unusable(format!("run {run} has no stage `{stage}`"))) };
    let Some(old) = then.record(store).map(|record| record.ingredients) else {
        return Err(unusable(format!("nothing to compare with: run {run} has no result of `{stage}` (it was {})", then.result)));
    };
    let Some(step) = pipeline.step(stage) else { return Ok((run, Vec::new())) };
    let artifact = |step: &PlannedStep| match &step.state {
        StepState::Fresh(artifact)
        | StepState::Unchecked(artifact, _)
        | StepState::Shared(artifact)
        | StepState::GateUnmet(artifact, _) => Some((step.stage.clone(), (**artifact).clone())),
        _ => None,
    };
    let done: BTreeMap<_, _> = plan.steps.iter().filter_map(artifact).collect();
    let force = BTreeSet::new();
    let check = FreshnessCheck { pipeline, store, force: &force, remote: None };
    let mut new = check.ingredients(step, &done)?;
    let unknown: BTreeSet<&String> = step.from.values().flatten().filter(|name| !done.contains_key(*name)).collect();
    if !unknown.is_empty() {
        new.inputs.clone_from(&old.inputs);
    }
    let mut reasons = why::differences(&old, &new, |was, is| check.compare(was, is));
    reasons.extend(unknown.into_iter().map(|stage| Reason::UpstreamWillRun { stage: stage.clone() }));
    Ok((run, reasons))
}

/// One line for each reason, followed by its changed files.
pub(super) fn reason_lines(reasons: &[Reason]) -> String {
    let mut text = String::new();
    for reason in reasons {
        text.push_str(&format!("  {reason}\n"));
        for line in changed_files(reason) {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

/// All changed files of a reason; its sentence names only the first few.
fn changed_files(reason: &Reason) -> Vec<String> {
    let changes = match reason {
        Reason::Source { changes, .. } | Reason::Input { changes, .. } | Reason::PromiseChanged { changes, .. } => changes.clone(),
        _ => ContentDiff::default(),
    };
    let marked = |mark: &'static str, paths: Vec<String>| paths.into_iter().map(move |path| format!("{mark} {path}"));
    marked("+", changes.added).chain(marked("-", changes.removed)).chain(marked("~", changes.changed)).collect()
}
