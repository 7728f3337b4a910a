//! What this machine lacks for the stages that would run on it: found before anything runs, not after the stages before.

use super::resources::ResourcePool;
use crate::cache::programs;
use crate::error::Error;
use crate::executor::slurm;
use crate::graph::{CPU, ExecutorKind, Pipeline, Step};
use std::cell::LazyCell;
use std::path::Path;

/// A resource or device that a stage needs and this machine has not.
#[derive(Clone, Debug)]
pub struct MissingResource {
    /// The stage.
    pub stage: String,
    /// What is missing and what can be done.
    pub error: Error,
    /// Whether the stage cannot run without it.
    pub is_fatal: bool,
}

/// What is missing for the stages that run on this machine; `on` is the executor of stages whose `resources` do not set one. Stages of a
/// cluster need only the cluster's client programs: their machines are not known here.
pub fn missing_resources(pipeline: &Pipeline, on: Option<ExecutorKind>) -> Vec<MissingResource> {
    let mut missing = Vec::new();
    // Looking for GPUs takes time, so it is done only for stages that ask for something.
    let pool = LazyCell::new(|| ResourcePool::new(&pipeline.machines, None));
    for step in &pipeline.steps {
        let mut found = |error: Error, is_fatal| missing.push(MissingResource { stage: step.name.clone(), error, is_fatal });
        if step.resources.on.or(on) == Some(ExecutorKind::Slurm) {
            slurm::lacks().into_iter().for_each(|error| found(error, true));
            continue;
        }
        for error in step.stage.missing_on_machine().into_iter().chain(missing_program(step, &pipeline.root)) {
            found(error, true);
        }
        let Some(amounts) = &step.resources.amounts else { continue };
        if let Err(error) = pool.need(step, ExecutorKind::Local) {
            found(error, true);
        }
        let (asked, cores) = (amounts.get(CPU).copied().unwrap_or(0.0), pool.capacity(CPU));
        if asked > cores {
            let message = format!("it needs {asked} of `{CPU}`, but the machine has {cores}: it gets all of them");
            found(
                Error::new(message).hint("request less in the stage's `resources`, or run it on a larger machine: `on = \"slurm\"`"),
                false,
            );
        }
    }
    missing
}

/// The first program of a step that this machine has not.
fn missing_program(step: &Step, root: &Path) -> Option<Error> {
    let tools = step.stage.programs();
    let missing = tools.iter().find(|tool| programs::find(tool, root).is_none_or(|path| !root.join(path).is_file()))?;
    let message = format!("program `{missing}`, listed in `tools`, not found");
    Some(Error::new(message).environment().hint(format!("install `{missing}`, or remove it from `tools`")))
}
