//! What this machine lacks for the stages that would run on it: found before anything runs, not after the stages before.

use super::resources::ResourcePool;
use crate::error::Error;
use crate::graph::{CPU, ExecutorKind, Pipeline};
use std::cell::LazyCell;

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
/// cluster are left out: their machines are not known here.
pub fn missing_resources(pipeline: &Pipeline, on: Option<ExecutorKind>) -> Vec<MissingResource> {
    let mut missing = Vec::new();
    // Looking for GPUs takes time, so it is done only for stages that ask for something.
    let pool = LazyCell::new(|| ResourcePool::new(&pipeline.machines, None));
    let local = |on: Option<ExecutorKind>| on.unwrap_or(ExecutorKind::Local) == ExecutorKind::Local;
    for step in pipeline.steps.iter().filter(|step| local(step.resources.on.or(on))) {
        let mut found = |error: Error, is_fatal| missing.push(MissingResource { stage: step.name.clone(), error, is_fatal });
        if let Some(error) = step.stage.missing_on_machine() {
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
