//! Where a stage runs: in this process, or as a job somewhere else.
//!
//! The runner hands over a [`Job`] and gets an [`Outcome`] or an error, after the stage's events have come through the job's emitter: it
//! cannot tell where the work was done. What a place away from here has to know is a [`Site`]: how to submit a job, look at it, cancel it
//! and bring back what it wrote. Everything else ([`Remote`]) is the same for all of them: a [`folder`] describes the job and takes what it
//! says, the job is found again after this program was killed, and it is cancelled when somebody asks the run to stop.

pub mod job_dir;
mod remote;
pub mod slurm;
mod watchdog;

pub use remote::{Cancel, Fate, Order, Remote, Sight, Site};
pub(crate) use watchdog::words;
pub use watchdog::{Clock, Limits};

use crate::error::Result;
use crate::stage::{AnyStage, Context, Outcome};
use std::collections::BTreeMap;

/// A way to get a stage's work done.
pub trait Executor: Send + Sync {
    /// Does the work, or has it done, and waits for its end.
    fn execute(&self, job: &Job<'_>) -> Result<Outcome>;
}

/// One try at a stage, ready to go.
pub struct Job<'a> {
    /// The stage.
    pub stage: &'a dyn AnyStage,
    /// What it is given.
    pub cx: &'a Context,
    /// How long it may take, and whether somebody asked it to stop.
    pub clock: &'a Clock,
    /// What it needs of a machine, by name.
    pub amounts: &'a BTreeMap<String, f64>,
    /// Further arguments for the place where it runs.
    pub arguments: &'a [String],
    /// The run's id.
    pub run: &'a str,
}

/// In this process.
#[derive(Debug)]
pub struct Local;

impl Executor for Local {
    fn execute(&self, job: &Job<'_>) -> Result<Outcome> {
        job_dir::Folder::of(job.cx).settle()?;
        job.clock.mind(|| job.stage.run(job.cx))
    }
}
