//! Scheduler: reuses fresh results, runs stale steps, and reports everything as events.
//!
//! A step that fails, is parked or fails a gate blocks its dependents; independent branches continue. Freshness is decided when all inputs
//! of a step are known. Independent steps run in parallel.

mod attempt;
mod machine;
mod resources;
mod schedule;
mod validate;
mod worker_pool;

pub use attempt::{RetryAnswer, RetryOffer, RetryQuestion};
pub use machine::{MissingResource, missing_resources};
pub use resources::ResourcePool;
pub use schedule::SchedulerOptions;

use crate::artifact::Artifact;
use crate::cache::content::{Content, SymlinkPolicy};
use crate::cache::fingerprint::FingerprintInputs;
use crate::cache::store::{AttemptEnd, AttemptRecord, CacheEntry, Store, Workspace};
use crate::error::{Error, Result};
use crate::events::{Emitter, Event, ResultRef};
use crate::executor::{Executor, StageJob, Watchdog, WatchdogLimits};
use crate::exit::Exit;
use crate::graph::{Pipeline, Step};
use crate::plan::{FreshnessCheck, Plan, absolute, why};
use crate::stage::gpu::Gpu;
use crate::stage::{Context, StageOutcome, StageResult};
use attempt::Attempt;
use schedule::LazyResources;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use voxpipe_io::digest::Digest;

/// A run of a pipeline.
pub struct PipelineRun<'a> {
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// The store, opened for writing.
    pub store: &'a Store,
    /// The event stream.
    pub emitter: Emitter,
    /// The run id.
    pub id: String,
    /// Steps that run even if they are fresh.
    pub force: BTreeSet<String>,
    /// Requests the run to stop.
    pub stop: StopSignal,
    /// Asks the user what to do after a failure; `None` if the run is not interactive.
    pub ask: Option<&'a (dyn Fn(&RetryQuestion) -> RetryAnswer + Sync)>,
    /// Parallelism and executor.
    pub scheduling: SchedulerOptions,
    means: LazyResources,
}

/// A request to stop a run; set by signal handlers.
#[derive(Clone, Debug, Default)]
pub struct StopSignal {
    /// Whether a stop was requested. Running stages see it within a moment.
    pub asked: Arc<AtomicBool>,
}

/// The outcome of a run.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// The run id.
    pub run: String,
    /// The exit code.
    pub exit: u8,
    /// The duration in seconds.
    pub seconds: f64,
    /// The outcome of each step, in pipeline order.
    pub stages: Vec<(String, StepOutcome)>,
    /// The steps that the selection of stages left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// The outcome of a step.
#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum StepOutcome {
    /// The result was up to date.
    Fresh,
    /// The step ran and succeeded.
    Done,
    /// The step waits for a person.
    Parked,
    /// The result failed a gate.
    Gate {
        /// The failed gates.
        message: String,
    },
    /// The step failed.
    Failed {
        /// The error message.
        message: String,
        /// The exit code of the error.
        #[serde(skip)]
        exit: Exit,
    },
    /// The step was stopped on request.
    Interrupted,
    /// The step was not started.
    Skipped {
        /// The reason.
        because: String,
        /// Whether the run was interrupted, as opposed to an upstream step not succeeding.
        #[serde(skip)]
        interrupted: bool,
    },
}

impl<'a> PipelineRun<'a> {
    /// A non-interactive run with default options; change its fields before [`PipelineRun::go`].
    pub fn new(pipeline: &'a Pipeline, store: &'a Store, emitter: Emitter, id: String) -> Self {
        Self {
            pipeline,
            store,
            emitter,
            id,
            force: BTreeSet::new(),
            stop: StopSignal::default(),
            ask: None,
            scheduling: SchedulerOptions::default(),
            means: LazyResources::default(),
        }
    }
}

impl PipelineRun<'_> {
    /// Runs the pipeline.
    pub fn go(&self) -> RunReport {
        let begun = Instant::now();
        let names: Vec<_> = self.pipeline.steps.iter().map(|step| step.name.clone()).collect();
        let left_out: Vec<_> = self.pipeline.left_out.iter().map(|step| step.name.clone()).collect();
        self.emitter.emit(Event::RunStarted {
            pipeline: self.pipeline.name.clone(),
            run: self.id.clone(),
            stages: names,
            left_out: left_out.clone(),
        });
        self.find_leftover();
        let mut stages = self.preflight().unwrap_or_else(|| self.run_state());
        self.tell_leftover();
        self.settle(&mut stages);
        let exit = exit(stages.iter().map(|(_, ending)| ending)) as u8;
        let seconds = begun.elapsed().as_secs_f64();
        self.emitter.emit(Event::RunFinished { exit, seconds });
        RunReport { run: self.id.clone(), exit, seconds, stages, left_out }
    }

    /// Checks what every stage that may run needs of this machine and of external services. If something is missing, no step starts.
    fn preflight(&self) -> Option<Vec<(String, StepOutcome)>> {
        let steps = &self.pipeline.steps;
        let missing = missing_resources(self.pipeline, self.scheduling.on);
        if !steps.iter().any(|step| step.stage.uses_network()) && !missing.iter().any(|missing| missing.is_fatal) {
            return None;
        }
        // Planning errors are reported later, by the step that causes them.
        let plan = Plan::checked(self.pipeline, self.store, &self.force, Some(self.remote())).ok()?;
        let may_run: BTreeSet<&str> = plan.steps.iter().filter(|step| step.may_run()).map(|step| step.stage.as_str()).collect();
        let lacks = |step: &Step| {
            missing.iter().find(|missing| missing.is_fatal && missing.stage == step.name).map(|missing| missing.error.clone())
        };
        let asked = |step: &Step| step.stage.uses_network().then(|| step.stage.preflight(&step.ports(), &self.stop.asked).err()).flatten();
        let running: Vec<&Step> = steps.iter().filter(|step| may_run.contains(step.name.as_str())).collect();
        // What this machine lacks is known without asking anybody.
        let refused = running.iter().find_map(|step| Some((*step, lacks(step)?)));
        let (refused, error) = refused.or_else(|| running.iter().find_map(|step| Some((*step, asked(step)?))))?;
        let skipped = |step: &Step| {
            let because = format!("`{}` failed its preflight check", refused.name);
            self.emitter.emit(Event::StageSkipped { stage: step.name.clone(), because: because.clone() });
            StepOutcome::Skipped { because, interrupted: false }
        };
        let ending = |step: &Step| if step.name == refused.name { self.failed(step, &error) } else { skipped(step) };
        Some(steps.iter().map(|step| (step.name.clone(), ending(step))).collect())
    }

    /// Waits until all cache entries are on disk. If that fails, the last step that ran is reported as failed.
    fn settle(&self, stages: &mut [(String, StepOutcome)]) {
        if let Err(error) = self.store.flush() {
            let error = error.context("not every result could be recorded");
            if let Some((stage, ending)) = stages.iter_mut().rev().find(|(_, ending)| matches!(ending, StepOutcome::Done)) {
                self.emitter.emit(Event::StageFailed { stage: stage.clone(), message: error.message.clone(), hint: error.hint.clone() });
                *ending = StepOutcome::Failed { exit: Exit::from(&error), message: error.message };
            }
        }
        self.store.save_index();
    }

    /// Runs one attempt at a step.
    fn attempt(
        &self,
        step: &Step,
        now: &Attempt,
        done: &BTreeMap<String, Artifact>,
        declared: &FingerprintInputs,
        work: &ExecContext<'_>,
    ) -> Result<AttemptOutcome> {
        let (step, fingerprint_inputs) = (now.step(step), &now.inputs);
        let begun = Instant::now();
        let fingerprint = fingerprint_inputs.fingerprint();
        self.write_last(step, declared, AttemptEnd::Begun)?;
        let space = self.store.workspace(fingerprint, &self.id, now.number, step.stage.uses_scratch())?;
        let mut inputs = BTreeMap::new();
        for (port, names) in &step.from {
            let mut artifacts: Vec<_> = names.iter().filter_map(|name| done.get(name)).cloned().collect();
            for artifact in &mut artifacts {
                artifact.path = absolute(&artifact.path)?;
            }
            inputs.insert(port.clone(), artifacts);
        }
        let clock =
            Watchdog::new(WatchdogLimits { timeout: step.timeout, stall_timeout: step.stall_timeout }, Arc::clone(&self.stop.asked));
        let cx = Context {
            stage: step.name.clone(),
            pipeline: self.pipeline.name.clone(),
            root: absolute(&self.pipeline.root)?,
            seed: step.seed,
            inputs,
            sources: self.means.sources(self.pipeline),
            upstream: self.pipeline.upstream(step),
            out: absolute(&space.out)?,
            scratch: absolute(&space.scratch)?,
            cache: absolute(&self.store.cache())?,
            gpus: work.gpus.clone(),
            liveness: self.store.liveness(),
            emitter: clock.listen(self.emitter.clone()),
            stop: clock.stop(),
        };
        let read: Vec<_> = fingerprint_inputs.inputs.values().flatten().collect();
        let before: Vec<_> = read.iter().map(|input| self.store.stamps(input.digest)).collect();
        let arguments = &step.resources.slurm;
        let job = StageJob { stage: step.stage.as_ref(), cx: &cx, clock: &clock, amounts: &work.amounts, arguments, run: &self.id };
        let finished = work.executor.execute(&job).and_then(|outcome| match outcome {
            StageOutcome::Parked { have, need, message } => Ok(AttemptOutcome::Parked { have, need, message }),
            StageOutcome::Done(made) => {
                for (input, before) in read.iter().zip(before) {
                    // A hard link to a file changes its stat key but not its bytes, so compare the content as well.
                    if self.store.stamps(input.digest) != before
                        && let Some(problem) = self.store.problem(input.digest)
                    {
                        return Err(Error::new(format!("the result of `{}` was changed while this stage read it: {problem}", input.stage))
                            .hint("make the program write only to `${out}` and `${scratch}`; run again to recreate that result"));
                    }
                }
                self.commit(step, now, declared, &space, made, begun)
            }
        });
        if !matches!(finished, Ok(AttemptOutcome::Kept(..)))
            && let Err(error) = self.store.discard(&space)
        {
            self.warn(step, error.message);
        }
        finished
    }

    /// Validates the result of a stage and commits it to the store.
    fn commit(
        &self,
        step: &Step,
        now: &Attempt,
        declared: &FingerprintInputs,
        space: &Workspace,
        made: StageResult,
        begun: Instant,
    ) -> Result<AttemptOutcome> {
        let inputs = &now.inputs;
        let kind = step.stage.output();
        validate::check(kind, &space.out)?;
        let digest = self.store.keep(space)?;
        let mut promises = BTreeMap::new();
        for path in step.stage.external_outputs() {
            let content = Content::read(&self.pipeline.root.join(&path), self.store.index(), SymlinkPolicy::Follow)?;
            if content == Content::Missing {
                return Err(Error::new(format!("the stage succeeded but `{}` does not exist", path.display())));
            }
            promises.insert(path.display().to_string(), content);
        }
        let check = FreshnessCheck { pipeline: self.pipeline, store: self.store, force: &self.force, remote: None };
        let moved = check.changed_source(step, inputs)?;
        let StageResult { summary, metrics, facts } = made;
        let seconds = begun.elapsed().as_secs_f64();
        let record =
            CacheEntry { ingredients: inputs.clone(), run: self.id.clone(), seconds, kind, digest, summary, metrics, facts, promises };
        let end = match moved {
            None => {
                self.store.commit(&record)?;
                self.push(step, &record);
                if inputs.fingerprint() != declared.fingerprint() {
                    // Also commit the result under the declared settings, so that the failed attempts are not repeated in the next run.
                    let mut record = CacheEntry { ingredients: declared.clone(), ..record.clone() };
                    record.facts.insert("recovered".to_owned(), now.changes.clone().into());
                    self.store.commit(&record)?;
                    self.warn(
                        step,
                        format!("the result was made with {}; put this into the file to make it permanent", now.changes.join(", then ")),
                    );
                }
                AttemptEnd::Done
            }
            Some((path, changes)) => {
                let what = why::moved(&path, &changes);
                self.warn(
                    step,
                    format!(
                        "{what} while the stage ran: this run uses the result, but the next run repeats the stage; if the stage itself writes \
                         there, let it write to `${{out}}` or `${{scratch}}`, or list those files in `ignore`"
                    ),
                );
                AttemptEnd::SourceMoved { path, changes }
            }
        };
        self.show(step, digest);
        Ok(AttemptOutcome::Kept(Box::new(self.store.artifact(&record, &step.name)), end))
    }

    fn failed(&self, step: &Step, error: &Error) -> StepOutcome {
        self.emitter.emit(Event::StageFailed { stage: step.name.clone(), message: error.message.clone(), hint: error.hint.clone() });
        StepOutcome::Failed { message: error.message.clone(), exit: Exit::from(error) }
    }

    fn warn(&self, step: &Step, message: String) {
        self.emitter.emit(Event::Warning { stage: step.name.clone(), message });
    }

    /// Points the `latest` link of a step to a result.
    fn show(&self, step: &Step, digest: Digest) {
        if let Err(error) = self.store.show(&self.pipeline.name, &step.name, digest) {
            self.warn(step, error.message);
        }
    }

    /// Pulls the result of a step from the remote cache, if the project does not have it.
    fn pull(&self, step: &Step, inputs: &FingerprintInputs) {
        if !self.store.shares() || !step.is_shared() || self.force.contains(&step.name) {
            return;
        }
        match self.store.pull(inputs.fingerprint()) {
            Ok(false) => {}
            Ok(true) => self.emitter.emit(Event::Note { stage: step.name.clone(), message: "pulled from the shared cache".to_owned() }),
            Err(error) => self.warn(step, format!("cannot pull from the shared cache: {}", error.message)),
        }
    }

    /// Pushes the result of a step to the remote cache, if there is one.
    fn push(&self, step: &Step, record: &CacheEntry) {
        if !step.is_shared() {
            return;
        }
        if let Err(error) = self.store.push(record) {
            self.warn(step, format!("cannot push the result to the shared cache: {}", error.message));
        }
    }

    /// Records a reused result as the newest of this step: it may come from another pipeline or an older run.
    fn recall(&self, step: &Step, inputs: &FingerprintInputs) {
        let last = self.store.last(&self.pipeline.name, &self.pipeline.origin(), &step.name);
        if last.is_none_or(|last| last.tried.end != AttemptEnd::Done || last.done.as_ref() != Some(inputs)) {
            self.remember(step, inputs, AttemptEnd::Done);
        }
    }

    fn remember(&self, step: &Step, inputs: &FingerprintInputs, end: AttemptEnd) {
        if let Err(error) = self.write_last(step, inputs, end) {
            self.warn(step, format!("cannot record how the attempt ended: {}", error.message));
        }
    }

    fn write_last(&self, step: &Step, inputs: &FingerprintInputs, end: AttemptEnd) -> Result<()> {
        let done = (end == AttemptEnd::Done).then(|| inputs.clone());
        let tried = AttemptRecord { run: self.id.clone(), fingerprint: inputs.fingerprint(), end };
        self.store.remember(&self.pipeline.name, &self.pipeline.origin(), &step.name, tried, done)
    }
}

/// A reference to the current result of a step.
fn kept(inputs: &FingerprintInputs, artifact: &Artifact) -> ResultRef {
    ResultRef { fingerprint: inputs.fingerprint().to_string(), digest: artifact.digest.to_string() }
}

/// The executor and leased resources of an attempt.
struct ExecContext<'a> {
    executor: &'a dyn Executor,
    gpus: Vec<Gpu>,
    amounts: BTreeMap<String, f64>,
}

/// The outcome of an attempt that did not fail.
enum AttemptOutcome {
    Kept(Box<Artifact>, AttemptEnd),
    Parked { have: u64, need: u64, message: String },
}

impl StepOutcome {
    /// Why the dependents of this step cannot run; `None` if they can.
    fn blocks(&self, name: &str) -> Option<String> {
        Some(match self {
            Self::Fresh | Self::Done => return None,
            Self::Parked => format!("`{name}` is parked"),
            Self::Gate { .. } => format!("`{name}` failed its gate"),
            Self::Failed { .. } => format!("`{name}` failed"),
            Self::Interrupted => "the run was interrupted".to_owned(),
            Self::Skipped { because, .. } => because.clone(),
        })
    }
}

/// The exit code of a run. Precedence: interrupted, failed, gate, parked.
fn exit<'a>(endings: impl Iterator<Item = &'a StepOutcome>) -> Exit {
    let rank = |exit: Exit| match exit {
        Exit::Interrupted => 4,
        Exit::Gate => 2,
        Exit::Parked => 1,
        Exit::Done => 0,
        _ => 3,
    };
    let mut worst = Exit::Done;
    for ending in endings {
        let exit = match ending {
            StepOutcome::Fresh | StepOutcome::Done => Exit::Done,
            StepOutcome::Skipped { interrupted: true, .. } => Exit::Interrupted,
            StepOutcome::Skipped { .. } => Exit::Done,
            StepOutcome::Parked => Exit::Parked,
            StepOutcome::Gate { .. } => Exit::Gate,
            StepOutcome::Failed { exit, .. } => *exit,
            StepOutcome::Interrupted => Exit::Interrupted,
        };
        if rank(exit) > rank(worst) {
            worst = exit;
        }
    }
    worst
}
