//! Executors: run a stage in this process or as a cluster job.
//!
//! The scheduler passes a [`StageJob`] and gets a [`StageOutcome`] or an error; events arrive through the job's emitter, so the scheduler
//! need not know where the stage ran. A [`ClusterBackend`] submits, polls, cancels and fetches jobs of one kind of cluster. The
//! [`RemoteExecutor`] is common to all backends: it describes the job in a [`job_dir`], follows its events, finds the job again after this
//! process was killed, and cancels it when the run is stopped.

pub mod job_dir;
pub mod leftover;
mod remote;
pub mod slurm;
mod watchdog;

pub use remote::{CancelMode, ClusterBackend, JobEnd, JobSpec, JobStatus, RemoteExecutor};
pub(crate) use watchdog::words;
pub use watchdog::{Watchdog, WatchdogLimits};

use crate::error::Result;
use crate::events::Event;
use crate::process::peak_memory::MemoryProbe;
use crate::stage::{AnyStage, Context, StageOutcome};
use std::collections::BTreeMap;

/// Runs stages.
pub trait Executor: Send + Sync {
    /// Runs an attempt at a stage and waits until it ends.
    fn execute(&self, job: &StageJob<'_>) -> Result<StageOutcome>;
}

/// An attempt at a stage, ready to run.
pub struct StageJob<'a> {
    /// The stage.
    pub stage: &'a dyn AnyStage,
    /// The stage's context: inputs, folders, seed.
    pub cx: &'a Context,
    /// The watchdog: time limits and stop request.
    pub clock: &'a Watchdog,
    /// The resources it needs, by name.
    pub amounts: &'a BTreeMap<String, f64>,
    /// Additional submission arguments for the cluster.
    pub arguments: &'a [String],
    /// The run id.
    pub run: &'a str,
}

/// Runs stages in this process.
#[derive(Debug)]
pub struct LocalExecutor;

impl Executor for LocalExecutor {
    fn execute(&self, job: &StageJob<'_>) -> Result<StageOutcome> {
        job_dir::JobDir::of(job.cx).remove_ended()?;
        let memory = MemoryProbe::begin();
        let outcome = job.clock.watch(|| job.stage.run(job.cx));
        if let Some(bytes) = memory.bytes() {
            let (stage, process) = (job.cx.stage.clone(), "voxpipe".to_owned());
            job.cx.emitter.emit(Event::PeakMemory { stage, process, bytes });
        }
        outcome
    }
}
