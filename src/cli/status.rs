//! `voxpipe status`: shows the state of each stage.

use super::plan::{RemoteArgs, is_running, step_json};
use super::table::table;
use super::{Project, print, print_json};
use crate::error::Result;
use clap::Args;
use pipeline::cache::store::{AttemptEnd, StageHistory};
use pipeline::plan::StepState;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Options of `voxpipe status`.
#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    project: Project,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Prints one line for each stage.
    pub(super) fn print(&self) -> Result<()> {
        let pipeline = self.project.pipeline()?;
        let store = self.project.read_store(&pipeline)?;
        let plan = self.remote.plan(&pipeline, &store, &BTreeSet::new())?;
        let states: Vec<_> = plan
            .steps
            .iter()
            .map(|step| {
                let last = store.last(&pipeline.name, &pipeline.origin(), &step.stage);
                (step, state(&step.state, last.as_deref(), is_running(&store, &pipeline, &step.stage)))
            })
            .collect();
        if self.json {
            let steps: Vec<_> = states
                .iter()
                .map(|(step, (word, sentence, last))| {
                    let mut value = step_json(step);
                    value["status"] = json!(word);
                    value["sentence"] = json!(sentence);
                    value["last"] = last.clone();
                    value
                })
                .collect();
            return print_json(json!({ "pipeline": pipeline.name, "run": store.runs()?.last(), "steps": steps }));
        }
        print(&table(states.iter().map(|(step, (word, sentence, _))| (step.stage.as_str(), *word, sentence.clone()))))
    }
}

/// A step's state as word, sentence and JSON of its last attempt. The last attempt counts only where there is no up-to-date result.
fn state(state: &StepState, last: Option<&StageHistory>, running: bool) -> (&'static str, String, Value) {
    let (word, sentence) = state.words();
    let now = if word == "run" { "stale" } else { word };
    let end = last.map(|last| &last.tried.end);
    let json = end.map_or(Value::Null, |end| json!(end));
    match (state, end) {
        // With `--force` a stage runs that is up to date.
        (StepState::Fresh(_) | StepState::Unchecked(..) | StepState::Shared(_) | StepState::GateUnmet(..), _) if !running => {
            (now, sentence, json)
        }
        (_, Some(AttemptEnd::Parked { have, need, message })) => ("parked", format!("{have}/{need}  {message}"), json),
        (_, Some(AttemptEnd::Failed { message })) => ("failed", message.lines().next().unwrap_or_default().to_owned(), json),
        (_, Some(AttemptEnd::Begun)) if running => ("running", "it is running".to_owned(), json),
        (_, Some(AttemptEnd::Begun)) => ("begun", "its run was killed; run again to continue".to_owned(), json),
        (_, Some(AttemptEnd::Interrupted)) => ("interrupted", "run again to continue".to_owned(), json),
        _ => (now, sentence, json),
    }
}
