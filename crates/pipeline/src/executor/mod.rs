//! Where a stage runs: in this process, or as a job somewhere else.
//!
//! The runner hands over a [`StageJob`] and gets an [`StageOutcome`] or an error, after the stage's events have come through the job's emitter: it
//! cannot tell where the work was done. What a place away from here has to know is a [`ClusterBackend`]: how to submit a job, look at it, cancel it
//! and bring back what it wrote. Everything else ([`RemoteExecutor`]) is the same for all of them: a [`folder`] describes the job and takes what it
//! says, the job is found again after this program was killed, and it is cancelled when somebody asks the run to stop.

pub mod job_dir;
mod remote;
pub mod slurm;
mod watchdog;

pub use remote::{CancelMode, ClusterBackend, JobEnd, JobSpec, JobStatus, RemoteExecutor};
pub(crate) use watchdog::words;
pub use watchdog::{Watchdog, WatchdogLimits};

use crate::error::Result;
use crate::stage::{AnyStage, Context, StageOutcome};
use std::collections::BTreeMap;

/// A way to get a stage's work done.
pub trait Executor: Send + Sync {
    /// Does the work, or has it done, and waits for its end.
    fn execute(&self, job: &StageJob<'_>) -> Result<StageOutcome>;
}

/// One try at a stage, ready to go.
pub struct StageJob<'a> {
    /// The stage.
    pub stage: &'a dyn AnyStage,
    /// What it is given.
    pub cx: &'a Context,
    /// How long it may take, and whether somebody asked it to stop.
    pub clock: &'a Watchdog,
    /// What it needs of a machine, by name.
    pub amounts: &'a BTreeMap<String, f64>,
    /// Further arguments for the place where it runs.
    pub arguments: &'a [String],
    /// The run's id.
    pub run: &'a str,
}

/// In this process.
#[derive(Debug)]
pub struct LocalExecutor;

impl Executor for LocalExecutor {
    fn execute(&self, job: &StageJob<'_>) -> Result<StageOutcome> {
        job_dir::JobDir::of(job.cx).settle()?;
        job.clock.watch(|| job.stage.run(job.cx))
    }
}
