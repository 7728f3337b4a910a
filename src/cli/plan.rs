//! `voxpipe plan`: shows what a run would do and why, without writing anything.

use super::selection::{SelectedArgs, forced, selected};
use super::summary::newest_run;
use super::table::table;
use super::{note, print, print_json};
use crate::error::Result;
use crate::report::terminal::{duration, left_out_words};
use clap::Args;
use pipeline::cache::store::{AttemptEnd, Store};
use pipeline::exit::Exit;
use pipeline::graph::Pipeline;
use pipeline::plan::{Plan as PipelinePlan, PlannedStep, RemoteChecks, StepState};
use pipeline::scheduler::{MissingResource, missing_resources};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Options of `voxpipe plan`.
#[derive(Args)]
pub(super) struct Plan {
    #[command(flatten)]
    selected: SelectedArgs,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Plan as for `run --force STAGE`; repeatable
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
    /// Exit with code 14 if any stage would run, or 12 if only a gate is not met
    #[arg(long)]
    exit_code: bool,
}

/// How publications are looked at.
#[derive(Args)]
pub(super) struct RemoteArgs {
    /// Ask the Hub whether publications are still there as they were made; without it no connection is opened
    #[arg(long)]
    check_remote: bool,
}

impl RemoteArgs {
    /// Plans the pipeline.
    pub(super) fn plan(&self, pipeline: &Pipeline, store: &Store, force: &BTreeSet<String>) -> Result<PipelinePlan> {
        let remote = RemoteChecks::default();
        PipelinePlan::checked(pipeline, store, force, self.check_remote.then_some(&remote))
    }
}

impl Plan {
    /// The plan of `run --dry-run`.
    pub(super) fn of_run(selected: SelectedArgs, force: Vec<String>, json: bool) -> Self {
        Self { selected, remote: RemoteArgs { check_remote: false }, json, force, exit_code: false }
    }

    /// Prints the plan and returns the exit code.
    pub(super) fn print(&self) -> Result<u8> {
        let (project, selection) = self.selected.resolved()?;
        let (sources, pipeline) = project.with_sources()?;
        let pipeline = selected(&project, pipeline, &selection)?;
        let force = forced(&pipeline, &self.force)?;
        let store = project.read_store(&pipeline)?;
        let plan = self.remote.plan(&pipeline, &store, &force)?;
        plan.check_held(&pipeline)?;
        let left_out: Vec<String> = pipeline.left_out.iter().map(|step| step.name.clone()).collect();
        let ((run, may, fresh), (certain, all)) = (plan.counts(), plan.times());
        let gate = plan.steps.iter().any(|step| matches!(step.state, StepState::GateUnmet(..)));
        let code = match run {
            _ if !self.exit_code => Exit::Done,
            1.. => Exit::Pending,
            0 if gate => Exit::Gate,
            0 => Exit::Done,
        } as u8;
        let may_run = |stage: &str| plan.steps.iter().any(|step| step.stage == stage && step.may_run());
        let missing: Vec<_> = missing_resources(&pipeline, None).into_iter().filter(|missing| may_run(&missing.stage)).collect();
        let runs = |step: &PlannedStep| is_running(&store, &pipeline, &step.stage);
        if self.json {
            let with_time = |step: &PlannedStep| {
                let mut value = step_json(step);
                value["running"] = json!(runs(step));
                value["seconds"] = json!(step.took);
                value
            };
            let steps: Vec<_> = plan.steps.iter().map(with_time).collect();
            let counts = json!({ "run": run, "may": may, "fresh": fresh });
            let files: Vec<_> = sources.files().collect();
            let mut value = json!({
                "pipeline": pipeline.name,
                "steps": steps,
                "counts": counts,
                "seconds": { "run": certain, "all": all },
                "files": files,
                "changes": project.changes(),
                "machine": missing.iter().map(missing_json).collect::<Vec<_>>(),
            });
            if !left_out.is_empty() {
                value["left_out"] = json!(left_out);
            }
            print_json(value)?;
            return Ok(code);
        }
        let rows = plan.steps.iter().map(|step| {
            let (word, mut sentence) = if runs(step) { ("running", "it is running".to_owned()) } else { step.state.words() };
            if let Some(took) = step.took {
                sentence.push_str(&format!(" ({} last time)", duration(took)));
            }
            (step.stage.as_str(), word, sentence)
        });
        let mut counts = vec![format!("{run} to run")];
        if may > 0 {
            counts.push(format!("{may} may run"));
        }
        counts.push(format!("{fresh} fresh"));
        let read = project.read_from(&sources).map(|read| format!("from {read}\n")).unwrap_or_default();
        let time = match (certain, all) {
            (Some(certain), Some(all)) if all > certain => {
                format!("; about {}, or {} if the dependent stages run too", duration(certain), duration(all))
            }
            (Some(time), _) | (None, Some(time)) => format!("; about {}", duration(time)),
            _ => String::new(),
        };
        let without = left_out_words(&left_out).map(|words| format!("{words}\n")).unwrap_or_default();
        print(&format!("{read}{}{without}{}{time}; nothing was written\n", table(rows), counts.join(", ")))?;
        missing.iter().for_each(|missing| note(&missing_text(missing)));
        Ok(code)
    }
}

/// Whether a run is at work on a stage right now. What an earlier run began is not what the active one does.
pub(super) fn is_running(store: &Store, pipeline: &Pipeline, stage: &str) -> bool {
    let last = store.last(&pipeline.name, &pipeline.origin(), stage).filter(|last| last.tried.end == AttemptEnd::Begun);
    last.is_some_and(|last| store.runner(&pipeline.name).is_some() && newest_run(store, &pipeline.name).as_ref() == Some(&last.tried.run))
}

/// What this machine lacks for a stage, in words.
pub(super) fn missing_text(missing: &MissingResource) -> String {
    let hint = missing.error.hint.as_deref().map(|hint| format!("\n  = {hint}")).unwrap_or_default();
    format!("stage `{}` on this machine: {}{hint}", missing.stage, missing.error.message)
}

/// What this machine lacks for a stage, as JSON.
pub(super) fn missing_json(missing: &MissingResource) -> Value {
    json!({ "stage": missing.stage, "message": missing.error.message, "hint": missing.error.hint, "fatal": missing.is_fatal })
}

/// A step's state as JSON, with its stage name and kind.
pub(super) fn step_json(step: &PlannedStep) -> Value {
    let mut value = step.state.json();
    value["stage"] = json!(step.stage);
    value["kind"] = json!(step.kind);
    value
}
