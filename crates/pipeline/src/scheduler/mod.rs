//! Walks a pipeline: what is fresh is taken, what is stale runs, and each fact is said once as an event.
//!
//! A step that fails, parks or misses a gate stops what hangs on it; independent branches go on. Whether a step is fresh is
//! decided when its turn comes, from what its inputs have become by then. Steps that do not hang on each other run side by side.

mod attempt;
pub mod gpu;
mod resources;
mod schedule;
mod validate;
mod worker_pool;

pub use attempt::{RetryAnswer, RetryOffer, RetryQuestion};
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
use crate::plan::{FreshnessCheck, Plan, absolute};
use crate::stage::{Context, StageOutcome, StageResult};
use attempt::Attempt;
use gpu::Gpu;
use schedule::LazyResources;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use voxpipe_io::digest::Digest;

/// A run about to go.
pub struct PipelineRun<'a> {
    /// What to run.
    pub pipeline: &'a Pipeline,
    /// Where results are; opened for writing.
    pub store: &'a Store,
    /// Where events go.
    pub emitter: Emitter,
    /// The run's id.
    pub id: String,
    /// Steps that run whatever is there.
    pub force: BTreeSet<String>,
    /// How to ask it to stop.
    pub stop: StopSignal,
    /// Asks a person what to do after a failure, where one is there.
    pub ask: Option<&'a (dyn Fn(&RetryQuestion) -> RetryAnswer + Sync)>,
    /// How it makes use of the machine.
    pub scheduling: SchedulerOptions,
    means: LazyResources,
}

/// How a run is asked to stop; signal handlers set it.
#[derive(Clone, Debug, Default)]
pub struct StopSignal {
    /// Somebody asked. Every stage that runs is told within a moment.
    pub asked: Arc<AtomicBool>,
}

/// How a run went.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// Its id.
    pub run: String,
    /// The exit code it becomes.
    pub exit: u8,
    /// How long it took.
    pub seconds: f64,
    /// How each step ended, in the order of the pipeline.
    pub stages: Vec<(String, StepOutcome)>,
}

/// How a step ended.
#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum StepOutcome {
    /// Its result was there.
    Fresh,
    /// It ran.
    Done,
    /// It waits for a person.
    Parked,
    /// It did not pass its gates.
    Gate {
        /// Which, in words.
        message: String,
    },
    /// It failed.
    Failed {
        /// What happened.
        message: String,
        /// The exit code that becomes.
        #[serde(skip)]
        exit: Exit,
    },
    /// It was told to stop.
    Interrupted,
    /// It was not reached.
    Skipped {
        /// Why not.
        because: String,
        /// Whether it was the run that ended early, and not a step it needs.
        #[serde(skip)]
        interrupted: bool,
    },
}

impl<'a> PipelineRun<'a> {
    /// A run that forces nothing, asks nobody and has the machine to itself; its fields may be changed before it goes.
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
    /// Goes through all steps.
    pub fn go(&self) -> RunReport {
        let begun = Instant::now();
        let names: Vec<_> = self.pipeline.steps.iter().map(|step| step.name.clone()).collect();
        self.emitter.emit(Event::RunStarted { pipeline: self.pipeline.name.clone(), run: self.id.clone(), stages: names });
        let mut stages = self.preflight().unwrap_or_else(|| self.run_state());
        self.settle(&mut stages);
        let exit = exit(stages.iter().map(|(_, ending)| ending)) as u8;
        let seconds = begun.elapsed().as_secs_f64();
        self.emitter.emit(Event::RunFinished { exit, seconds });
        RunReport { run: self.id.clone(), exit, seconds, stages }
    }

    /// Asks what is outside this machine, for every stage that may run and needs it. If one is refused, nothing begins.
    fn preflight(&self) -> Option<Vec<(String, StepOutcome)>> {
        let steps = &self.pipeline.steps;
        if !steps.iter().any(|step| step.stage.reaches_out()) {
            return None;
        }
        // A pipeline that cannot be planned says so where it comes to it.
        let plan = Plan::of(self.pipeline, self.store, &self.force).ok()?;
        let may_run: BTreeSet<&str> = plan.steps.iter().filter(|step| step.may_run()).map(|step| step.stage.as_str()).collect();
        let asked = steps.iter().filter(|step| step.stage.reaches_out() && may_run.contains(step.name.as_str()));
        let (refused, error) =
            asked.into_iter().find_map(|step| Some((step, step.stage.preflight(&step.ports(), &self.stop.asked).err()?)))?;
        let skipped = |step: &Step| {
            let because = format!("`{}` could not do its part later", refused.name);
            self.emitter.emit(Event::StageSkipped { stage: step.name.clone(), because: because.clone() });
            StepOutcome::Skipped { because, interrupted: false }
        };
        let ending = |step: &Step| if step.name == refused.name { self.failed(step, &error) } else { skipped(step) };
        Some(steps.iter().map(|step| (step.name.clone(), ending(step))).collect())
    }

    /// Waits until what was done is on the disk; the newest stage speaks for all that could not be recorded.
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

    /// Tries a step once.
    fn attempt(
        &self,
        step: &Step,
        now: &Attempt,
        done: &BTreeMap<String, Artifact>,
        declared: &FingerprintInputs,
        work: &ExecContext<'_>,
    ) -> Result<AttemptOutcome> {
        let (step, ingredients) = (now.step(step), &now.ingredients);
        let begun = Instant::now();
        let fingerprint = ingredients.fingerprint();
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
        let read: Vec<_> = ingredients.inputs.values().flatten().collect();
        let before: Vec<_> = read.iter().map(|input| self.store.stamps(input.digest)).collect();
        let arguments = &step.resources.slurm;
        let job = StageJob { stage: step.stage.as_ref(), cx: &cx, clock: &clock, amounts: &work.amounts, arguments, run: &self.id };
        let finished = work.executor.execute(&job).and_then(|outcome| match outcome {
            StageOutcome::Parked { have, need, message } => Ok(AttemptOutcome::Parked { have, need, message }),
            StageOutcome::Done(made) => {
                for (input, before) in read.iter().zip(before) {
                    // A program may well have made a link to a file, which leaves another stamp and the same bytes.
                    if self.store.stamps(input.digest) != before
                        && let Some(problem) = self.store.problem(input.digest)
                    {
                        return Err(Error::new(format!("the result of `{}` was changed while this stage read it: {problem}", input.stage))
                            .hint("have the program write only into `${out}` and `${scratch}`; run again to make that result anew"));
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

    /// Checks what a stage made and takes it into the store.
    fn commit(
        &self,
        step: &Step,
        now: &Attempt,
        declared: &FingerprintInputs,
        space: &Workspace,
        made: StageResult,
        begun: Instant,
    ) -> Result<AttemptOutcome> {
        let ingredients = &now.ingredients;
        let kind = step.stage.output();
        validate::check(kind, &space.out)?;
        let digest = self.store.keep(space)?;
        let mut promises = BTreeMap::new();
        for path in step.stage.external_outputs() {
            let content = Content::read(&self.pipeline.root.join(&path), self.store.index(), SymlinkPolicy::Follow)?;
            if content == Content::Missing {
                return Err(Error::new(format!("the stage ended well but `{}` is not there", path.display())));
            }
            promises.insert(path.display().to_string(), content);
        }
        let judge = FreshnessCheck { pipeline: self.pipeline, store: self.store, force: &self.force };
        let moved = judge.moved_source(step, ingredients)?;
        let StageResult { summary, metrics, facts } = made;
        let seconds = begun.elapsed().as_secs_f64();
        let record =
            CacheEntry { ingredients: ingredients.clone(), run: self.id.clone(), seconds, kind, digest, summary, metrics, facts, promises };
        let end = match moved {
            None => {
                self.store.commit(&record)?;
                self.lend(step, &record);
                if ingredients.fingerprint() != declared.fingerprint() {
                    // What the file says has been done as far as it could be, and is not to be tried again each time.
                    let mut record = CacheEntry { ingredients: declared.clone(), ..record.clone() };
                    record.facts.insert("recovered".to_owned(), now.changes.clone().into());
                    self.store.commit(&record)?;
                    self.warn(
                        step,
                        format!("the result is that of {}; write that into the file to make it last", now.changes.join(", then ")),
                    );
                }
                AttemptEnd::Done
            }
            Some(path) => {
                self.warn(step, format!("`{path}` changed while the stage ran: its result is used now, but the stage will run again"));
                AttemptEnd::SourceMoved { path }
            }
        };
        self.show(step, digest);
        Ok(AttemptOutcome::Kept(self.store.artifact(&record, &step.name), end))
    }

    fn failed(&self, step: &Step, error: &Error) -> StepOutcome {
        self.emitter.emit(Event::StageFailed { stage: step.name.clone(), message: error.message.clone(), hint: error.hint.clone() });
        StepOutcome::Failed { message: error.message.clone(), exit: Exit::from(error) }
    }

    fn warn(&self, step: &Step, message: String) {
        self.emitter.emit(Event::Warning { stage: step.name.clone(), message });
    }

    /// Points the link people look at to a result.
    fn show(&self, step: &Step, digest: Digest) {
        if let Err(error) = self.store.show(&self.pipeline.name, &step.name, digest) {
            self.warn(step, error.message);
        }
    }

    /// Takes the result of a step from the shared cache, if it is only there.
    fn borrow(&self, step: &Step, ingredients: &FingerprintInputs) {
        if !self.store.shares() || self.force.contains(&step.name) {
            return;
        }
        match self.store.borrow(ingredients.fingerprint()) {
            Ok(false) => {}
            Ok(true) => self.emitter.emit(Event::Note { stage: step.name.clone(), message: "taken from the shared cache".to_owned() }),
            Err(error) => self.warn(step, format!("the shared cache was of no use: {}", error.message)),
        }
    }

    /// Puts the result of a step into the shared cache, where there is one.
    fn lend(&self, step: &Step, record: &CacheEntry) {
        if let Err(error) = self.store.lend(record) {
            self.warn(step, format!("the result was not shared: {}", error.message));
        }
    }

    /// Notes that a result which was there is what this step stands at now: it may be another pipeline's, or an older one come back.
    fn recall(&self, step: &Step, ingredients: &FingerprintInputs) {
        let last = self.store.last(&self.pipeline.name, &step.name);
        if last.is_none_or(|last| last.tried.end != AttemptEnd::Done || last.done.as_ref() != Some(ingredients)) {
            self.remember(step, ingredients, AttemptEnd::Done);
        }
    }

    fn remember(&self, step: &Step, ingredients: &FingerprintInputs, end: AttemptEnd) {
        if let Err(error) = self.write_last(step, ingredients, end) {
            self.warn(step, format!("how it ended could not be noted: {}", error.message));
        }
    }

    fn write_last(&self, step: &Step, ingredients: &FingerprintInputs, end: AttemptEnd) -> Result<()> {
        let done = (end == AttemptEnd::Done).then(|| ingredients.clone());
        let tried = AttemptRecord { run: self.id.clone(), fingerprint: ingredients.fingerprint(), end };
        self.store.remember(&self.pipeline.name, &step.name, tried, done)
    }
}

/// Which result a step stands at.
fn kept(ingredients: &FingerprintInputs, artifact: &Artifact) -> ResultRef {
    ResultRef { fingerprint: ingredients.fingerprint().to_string(), digest: artifact.digest.to_string() }
}

/// By whom a try is made, and with what.
struct ExecContext<'a> {
    executor: &'a dyn Executor,
    gpus: Vec<Gpu>,
    amounts: BTreeMap<String, f64>,
}

/// What became of a try that did not fail.
enum AttemptOutcome {
    Kept(Artifact, AttemptEnd),
    Parked { have: u64, need: u64, message: String },
}

impl StepOutcome {
    /// Why what hangs on this step cannot run, if so.
    fn blocks(&self, name: &str) -> Option<String> {
        Some(match self {
            Self::Fresh | Self::Done => return None,
            Self::Parked => format!("`{name}` waits for a person"),
            Self::Gate { .. } => format!("`{name}` does not pass its gate"),
            Self::Failed { .. } => format!("`{name}` failed"),
            Self::Interrupted => "the run was interrupted".to_owned(),
            Self::Skipped { because, .. } => because.clone(),
        })
    }
}

/// The exit code of a run: an interruption before a failure, a failure before a gate, a gate before a parked step.
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
