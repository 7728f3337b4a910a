//! Scheduling loop: starts steps whose inputs are ready, in file order, as far as resources allow.
//!
//! One thread decides about all steps and reuses fresh results; each attempt at a stale step runs on its own worker thread, which sends a
//! message when it ends. If a step waits for a resource, later steps may not take that resource, so small steps cannot starve a large one.
//! Order and parallelism do not affect results: a result depends on its fingerprint alone.

use super::attempt::Attempt;
use super::resources::{Lease, ResourceAmounts, ResourcePool, Shortage, amounts};
use super::worker_pool::WorkerPool;
use super::{AttemptOutcome, ExecContext, PipelineRun, StepOutcome, kept};
use crate::artifact::Artifact;
use crate::cache::file_stat::StatKey;
use crate::cache::fingerprint::{Fingerprint, FingerprintInputs};
use crate::cache::store::{AttemptEnd, ClaimAnswer, ResultClaim};
use crate::error::{Error, ErrorKind};
use crate::events::Event;
use crate::executor::leftover::LeftoverJob;
use crate::executor::slurm::SlurmBackend;
use crate::executor::{Executor, LocalExecutor, RemoteExecutor};
use crate::exit::Exit;
use crate::graph::{ExecutorKind, Pipeline, Step};
use crate::plan::{Freshness, FreshnessCheck, RemoteChecks, not_up_to_date, unchecked_summary, unmet, why};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// Parallelism, failure handling and executor of a run.
#[derive(Clone, Debug, Default)]
pub struct SchedulerOptions {
    /// Maximum number of concurrent stages; default: the number of cores.
    pub jobs: Option<usize>,
    /// Start no more steps once one has failed. Otherwise independent steps continue.
    pub fail_fast: bool,
    /// The executor of stages whose `resources` do not set one.
    pub on: Option<ExecutorKind>,
    /// The executable of cluster jobs; default: the current one.
    pub program: Option<PathBuf>,
    /// The resource pool shared by parallel runs; a single run needs none.
    pub pool: Option<Arc<ResourcePool>>,
}

/// Resources of a run that are created when the first step has to run.
#[derive(Default)]
pub(super) struct LazyResources {
    pool: OnceLock<Arc<ResourcePool>>,
    slurm: OnceLock<RemoteExecutor<SlurmBackend>>,
    /// What was asked of remote services.
    remote: OnceLock<RemoteChecks>,
    /// Jobs of earlier runs about which nothing was decided yet.
    leftover: Mutex<Vec<LeftoverJob>>,
    sources: OnceLock<Arc<BTreeMap<String, Vec<PathBuf>>>>,
    /// Held while the user is asked: one question at a time.
    pub(super) asking: Mutex<()>,
}

impl LazyResources {
    /// See [`crate::stage::Context::sources`].
    pub(super) fn sources(&self, pipeline: &Pipeline) -> Arc<BTreeMap<String, Vec<PathBuf>>> {
        let steps = pipeline.steps.iter().chain(&pipeline.left_out);
        let all = || Arc::new(steps.map(|step| (step.name.clone(), step.sources(&pipeline.root))).collect());
        Arc::clone(self.sources.get_or_init(all))
    }
}

/// How often the scheduler thread checks the stop signal.
const POLL: Duration = Duration::from_millis(100);

/// The state of a run.
struct RunState<'r, 'a> {
    run: &'r PipelineRun<'a>,
    /// The number of unfinished upstream steps, by step.
    missing: Vec<usize>,
    /// The dependents of each step.
    waiting: Vec<Vec<usize>>,
    /// Steps whose inputs are ready.
    due: BTreeSet<usize>,
    /// Stale steps that wait to be started.
    stale: BTreeMap<usize, StaleStep>,
    /// The number of calls of [`RunState::start`].
    rounds: u64,
    running: usize,
    /// Whether every step uses the local executor.
    all_local: bool,
    done: BTreeMap<String, Artifact>,
    blocked: BTreeMap<String, String>,
    endings: Vec<Option<StepOutcome>>,
    halted: Option<String>,
}

/// A stale step that waits to be started.
struct StaleStep {
    declared: FingerprintInputs,
    why: String,
    inputs: BTreeMap<String, Artifact>,
    attempt: Attempt,
    need: ResourceAmounts,
    /// The earliest start, after a retry delay.
    from: Option<Instant>,
    /// The round in which freshness was decided: by a later round its sources may have changed.
    decided: u64,
    /// The cache entry on disk when freshness was decided: another run may have made the result since.
    entry: Option<StatKey>,
    /// Whether the user was told that another run is making the same result.
    waits: bool,
    /// Held while this run makes the result.
    claim: Option<ResultClaim>,
}

/// An attempt for a worker thread.
type WorkerTask = (usize, StaleStep, Lease);

/// The outcome of an attempt, sent by a worker thread.
enum WorkerMessage {
    Done(Box<Artifact>),
    Ended(StepOutcome),
    Again(Box<StaleStep>),
}

impl PipelineRun<'_> {
    /// Runs all steps, and returns their outcomes in pipeline order.
    pub(super) fn run_state(&self) -> Vec<(String, StepOutcome)> {
        let steps = &self.pipeline.steps;
        let place: BTreeMap<&str, usize> = steps.iter().enumerate().map(|(place, step)| (step.name.as_str(), place)).collect();
        let mut run_state = RunState {
            run: self,
            missing: vec![0; steps.len()],
            waiting: vec![Vec::new(); steps.len()],
            due: BTreeSet::new(),
            stale: BTreeMap::new(),
            rounds: 0,
            running: 0,
            all_local: steps.iter().all(|step| self.place(step) == ExecutorKind::Local),
            done: BTreeMap::new(),
            blocked: BTreeMap::new(),
            endings: steps.iter().map(|_| None).collect(),
            halted: None,
        };
        for (index, step) in steps.iter().enumerate() {
            for needed in step.needs().into_iter().filter_map(|name| place.get(name)) {
                run_state.missing[index] += 1;
                run_state.waiting[*needed].push(index);
            }
            if run_state.missing[index] == 0 {
                run_state.due.insert(index);
            }
        }
        thread::scope(|scope| run_state.go(scope));
        let endings = run_state.endings.into_iter().zip(steps);
        endings.map(|(ending, step)| (step.name.clone(), ending.unwrap_or(StepOutcome::Interrupted))).collect()
    }

    /// The resource pool; created when the first step has to run.
    pub(super) fn pool(&self) -> &Arc<ResourcePool> {
        let own = || Arc::new(ResourcePool::new(&self.pipeline.machines, self.scheduling.jobs));
        self.means.pool.get_or_init(|| self.scheduling.pool.clone().unwrap_or_else(own))
    }

    /// Asks remote services for publications, each once.
    pub(super) fn remote(&self) -> &RemoteChecks {
        self.means.remote.get_or_init(|| RemoteChecks::new(Arc::clone(&self.stop.asked)))
    }

    fn place(&self, step: &Step) -> ExecutorKind {
        step.resources.on.or(self.scheduling.on).unwrap_or(ExecutorKind::Local)
    }

    /// The executor of a step.
    pub(super) fn executor(&self, step: &Step) -> &dyn Executor {
        match self.place(step) {
            ExecutorKind::Local => &LocalExecutor,
            ExecutorKind::Slurm => self.slurm(),
        }
    }

    fn slurm(&self) -> &RemoteExecutor<SlurmBackend> {
        self.means.slurm.get_or_init(|| {
            let program = self.scheduling.program.clone().or_else(|| std::env::current_exe().ok());
            RemoteExecutor(SlurmBackend::new(self.pipeline.machines.slurm.clone(), &program.unwrap_or_else(|| PathBuf::from("voxpipe"))))
        })
    }

    /// Finds the jobs that killed runs left. Those of stages that this pipeline no longer has are cancelled at once; those of other pipelines
    /// are only named.
    pub(super) fn find_leftover(&self) {
        // A sweep decides when all its combinations are done: until then one may continue what another has no use for.
        if self.scheduling.pool.is_some() {
            return;
        }
        let Ok(jobs) = LeftoverJob::all(self.store) else { return };
        let mut undecided = Vec::new();
        for job in jobs {
            let stage = job.task.stage.clone();
            if job.task.pipeline != self.pipeline.name {
                let told = self.slurm().tell_leftover(&job);
                told.into_iter().for_each(|message| self.emitter.emit(Event::Note { stage: stage.clone(), message }));
            } else if self.pipeline.steps.iter().chain(&self.pipeline.left_out).any(|step| step.name == stage) {
                undecided.push(job);
            } else {
                self.cancel_leftover(&job);
            }
        }
        *self.means.leftover.lock().unwrap_or_else(PoisonError::into_inner) = undecided;
    }

    /// Decides about the jobs that killed runs left for a step: the one that makes the result it needs is continued, the others are cancelled.
    fn settle_leftover(&self, step: &Step, needed: Option<Fingerprint>) {
        let mut leftover = self.means.leftover.lock().unwrap_or_else(PoisonError::into_inner);
        let (of_step, others) = std::mem::take(&mut *leftover).into_iter().partition(|job| job.task.stage == step.name);
        *leftover = others;
        drop(leftover);
        let of_step: Vec<LeftoverJob> = of_step;
        of_step.iter().filter(|job| Some(job.fingerprint) != needed).for_each(|job| self.cancel_leftover(job));
    }

    fn cancel_leftover(&self, job: &LeftoverJob) {
        if let Some(message) = self.slurm().cancel_leftover(job) {
            self.emitter.emit(Event::Warning { stage: job.task.stage.clone(), message });
        }
    }

    /// Names the jobs about which nothing was decided, because the run did not come that far.
    pub(super) fn tell_leftover(&self) {
        for job in std::mem::take(&mut *self.means.leftover.lock().unwrap_or_else(PoisonError::into_inner)) {
            if let Some(message) = self.slurm().tell_leftover(&job) {
                self.emitter.emit(Event::Warning { stage: job.task.stage.clone(), message });
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stop.asked.load(Ordering::Relaxed)
    }
}

impl<'r> RunState<'r, '_> {
    fn go<'scope>(&mut self, scope: &'scope Scope<'scope, '_>)
    where
        'r: 'scope,
    {
        let (run, (sender, messages)) = (self.run, channel());
        let workers = WorkerPool::new(scope, move |(index, stale, lease): WorkerTask| {
            let step = &run.pipeline.steps[index];
            let (message, lease) = catch_unwind(AssertUnwindSafe(|| run.one_attempt(step, stale, lease))).unwrap_or_else(|_| {
                let error = Error::new("the runner panicked").hint("this is a bug in voxpipe; please report it");
                (WorkerMessage::Ended(run.failed(step, &error)), None)
            });
            // Fails only when the scheduler thread has ended.
            let _ = sender.send((index, message, lease));
            run.pool().happened();
        });
        loop {
            while let Some(index) = self.due.pop_first() {
                self.decide(index);
            }
            if self.running == 0 && self.stale.is_empty() {
                return;
            }
            let turn = self.run.pool().turn();
            // Released after all messages are handled, so that the resources go to the first waiting step in file order.
            let mut leases = Vec::new();
            for (index, message, lease) in messages.try_iter() {
                leases.extend(lease);
                self.running -= 1;
                match message {
                    WorkerMessage::Done(artifact) => self.made(index, *artifact, StepOutcome::Done),
                    WorkerMessage::Ended(ending) => self.end(index, ending),
                    WorkerMessage::Again(stale) => _ = self.stale.insert(index, *stale),
                }
            }
            // Steps that became due come first: they may precede waiting ones in file order.
            while let Some(index) = self.due.pop_first() {
                self.decide(index);
            }
            drop(leases);
            if self.due.is_empty() {
                self.start(&workers);
                if self.due.is_empty() && (self.running > 0 || !self.stale.is_empty()) {
                    self.run.pool().wait(turn, self.longest());
                }
            }
        }
    }

    /// How long the scheduler thread may sleep without an event.
    fn longest(&self) -> Duration {
        let now = Instant::now();
        let next = self.stale.values().filter_map(|stale| stale.from).map(|from| from.saturating_duration_since(now)).min();
        next.unwrap_or(POLL).clamp(Duration::from_millis(1), POLL)
    }

    /// Decides whether a due step is fresh, stale or skipped.
    fn decide(&mut self, index: usize) {
        let run = self.run;
        let step = &run.pipeline.steps[index];
        if let Some(because) = step.from.values().flatten().find_map(|name| self.blocked.get(name)).cloned() {
            return self.skip(index, because, false);
        }
        if run.stopping() {
            return self.skip(index, "the run was interrupted".to_owned(), true);
        }
        let _span = tracing::debug_span!("visit", stage = step.name).entered();
        let inputs: BTreeMap<String, Artifact> =
            step.from.values().flatten().filter_map(|name| Some((name.clone(), self.done.get(name)?.clone()))).collect();
        let check = FreshnessCheck { pipeline: run.pipeline, store: run.store, force: &run.force, remote: Some(run.remote()) };
        let decided = check.ingredients(step, &inputs).and_then(|fingerprint_inputs| {
            run.pull(step, &fingerprint_inputs);
            Ok((check.verdict(step, &fingerprint_inputs)?, fingerprint_inputs))
        });
        match decided {
            Err(error) => {
                let ending = run.failed(step, &error);
                self.end(index, ending);
            }
            Ok((Freshness::Fresh(artifact), fingerprint_inputs)) => self.reuse(index, artifact, None, &fingerprint_inputs),
            Ok((Freshness::Unchecked(artifact, why), fingerprint_inputs)) => {
                self.reuse(index, artifact, Some(&why), &fingerprint_inputs);
            }
            Ok((Freshness::Stale(reasons), declared)) => {
                tracing::debug!(target: "voxpipe", fingerprint = %declared.fingerprint(), "decided: stale");
                if run.pipeline.held.contains(&step.name) {
                    // It was up to date when the run began.
                    let ending = run.failed(step, &not_up_to_date(&step.name, &why::sentence(&reasons), 0));
                    return self.end(index, ending);
                }
                if let Some(because) = step.after.iter().find_map(|name| self.blocked.get(name)).cloned() {
                    return self.skip(index, because, false);
                }
                if let Some(because) = self.halted.clone() {
                    return self.skip(index, because, false);
                }
                run.settle_leftover(step, Some(declared.fingerprint()));
                let need = match run.pool().need(step, run.place(step)) {
                    Ok(need) => need,
                    Err(error) => {
                        let ending = run.failed(step, &error);
                        return self.end(index, ending);
                    }
                };
                let attempt = Attempt::first(&declared);
                let why = why::sentence(&reasons);
                let entry = run.store.entry_stamp(declared.fingerprint());
                let decided = self.rounds;
                let stale = StaleStep { declared, why, inputs, attempt, need, from: None, decided, entry, waits: false, claim: None };
                self.stale.insert(index, stale);
            }
        }
    }

    /// Ends a step whose result is up to date; `unchecked` says why its publication was not checked.
    fn reuse(&mut self, index: usize, artifact: Box<Artifact>, unchecked: Option<&str>, inputs: &FingerprintInputs) {
        let run = self.run;
        let step = &run.pipeline.steps[index];
        tracing::debug!(target: "voxpipe", fingerprint = %inputs.fingerprint(), "decided: fresh");
        run.settle_leftover(step, None);
        run.recall(step, inputs);
        let summary = unchecked.map_or_else(|| artifact.summary.clone(), |why| unchecked_summary(&artifact, why));
        run.emitter.emit(Event::StageFresh { stage: step.name.clone(), summary, kept: kept(inputs, &artifact) });
        run.show(step, artifact.digest);
        self.made(index, *artifact, StepOutcome::Fresh);
    }

    /// Starts the waiting steps whose resources are free.
    fn start(&mut self, workers: &WorkerPool<'_, '_, WorkerTask>) {
        let run = self.run;
        let mut shortage = Shortage::new();
        let mut next = 0;
        self.rounds += 1;
        while let Some(index) = self.stale.range(next..).next().map(|(index, _)| *index) {
            next = index + 1;
            // Nothing more can start, so the rest need not be checked, except to report steps of a stopping run.
            if self.all_local && ResourcePool::is_full(&shortage) && !run.stopping() && self.halted.is_none() {
                return;
            }
            let step = &run.pipeline.steps[index];
            let Some(stale) = self.stale.get_mut(&index) else { continue };
            let tried = stale.attempt.number > 1;
            if run.stopping() && tried {
                let declared = stale.declared.clone();
                self.stale.remove(&index);
                run.remember(step, &declared, AttemptEnd::Interrupted);
                run.emitter.emit(Event::StageInterrupted { stage: step.name.clone() });
                self.end(index, StepOutcome::Interrupted);
                continue;
            }
            let halted = self.halted.clone().filter(|_| !tried);
            if run.stopping() || halted.is_some() {
                self.stale.remove(&index);
                self.skip(index, halted.unwrap_or_else(|| "the run was interrupted".to_owned()), run.stopping());
                continue;
            }
            if stale.from.is_some_and(|from| from > Instant::now()) {
                continue;
            }
            if stale.need.wants(&shortage) {
                continue;
            }
            match run.pool().take(&stale.need, stale.attempt.inputs.fingerprint()) {
                Err(missing) => shortage.extend(missing),
                Ok(lease) => {
                    let (fingerprint, making) = (stale.declared.fingerprint(), stale.attempt.inputs.fingerprint());
                    let claim = match run.store.claim(making) {
                        Ok(ClaimAnswer::Ours(claim)) => Some(claim),
                        Ok(ClaimAnswer::Made) => None,
                        Ok(ClaimAnswer::Busy(who)) => {
                            stale.from = Some(Instant::now() + POLL);
                            if !std::mem::replace(&mut stale.waits, true) {
                                let message = format!("waits for {who}, which is making the same result");
                                run.emitter.emit(Event::Note { stage: step.name.clone(), message });
                            }
                            continue;
                        }
                        Err(error) => {
                            self.stale.remove(&index);
                            let ending = run.failed(step, &error);
                            self.end(index, ending);
                            continue;
                        }
                    };
                    // Its sources may have changed meanwhile, and another run may have made its result.
                    let made_elsewhere = run.store.entry_stamp(making) != stale.entry;
                    if !tried && (stale.decided + 1 < self.rounds || run.scheduling.pool.is_some() || made_elsewhere) {
                        self.stale.remove(&index);
                        self.decide(index);
                    }
                    let still = self.stale.remove(&index);
                    let Some(mut stale) = still else { continue };
                    if stale.declared.fingerprint() != fingerprint {
                        self.stale.insert(index, stale);
                        // Release the lease; the step is tried again at once.
                        drop(lease);
                        continue;
                    }
                    stale.from = None;
                    stale.claim = claim;
                    self.running += 1;
                    workers.give((index, stale, lease));
                }
            }
        }
    }

    fn skip(&mut self, index: usize, because: String, interrupted: bool) {
        let stage = self.run.pipeline.steps[index].name.clone();
        self.run.emitter.emit(Event::StageSkipped { stage, because: because.clone() });
        self.end(index, StepOutcome::Skipped { because, interrupted });
    }

    /// Ends a step that has a result, and checks its gates.
    fn made(&mut self, index: usize, artifact: Artifact, ending: StepOutcome) {
        let step = &self.run.pipeline.steps[index];
        let unmet = unmet(&step.require, &artifact);
        if unmet.is_empty() {
            self.done.insert(step.name.clone(), artifact);
            return self.end(index, ending);
        }
        let message = unmet.join("; ");
        self.run.emitter.emit(Event::GateFailed { stage: step.name.clone(), message: message.clone() });
        self.end(index, StepOutcome::Gate { message });
    }

    fn end(&mut self, index: usize, ending: StepOutcome) {
        let name = &self.run.pipeline.steps[index].name;
        if let Some(because) = ending.blocks(name) {
            self.blocked.insert(name.clone(), because);
        }
        if self.run.scheduling.fail_fast && matches!(ending, StepOutcome::Failed { .. }) {
            self.halted.get_or_insert(format!("`{name}` failed, and no more stages are started"));
        }
        self.endings[index] = Some(ending);
        for waiting in std::mem::take(&mut self.waiting[index]) {
            self.missing[waiting] -= 1;
            if self.missing[waiting] == 0 {
                self.due.insert(waiting);
            }
        }
    }
}

impl PipelineRun<'_> {
    /// Runs one attempt at a step and decides what follows. Returns the lease, unless it was released already.
    fn one_attempt(&self, step: &Step, stale: StaleStep, lease: Lease) -> (WorkerMessage, Option<Lease>) {
        let StaleStep { declared, why, inputs, attempt: now, need, claim, .. } = stale;
        let begun = Instant::now();
        let (kind, stage) = (step.stage.kind().to_owned(), step.name.clone());
        self.emitter.emit(Event::StageStarted { stage, kind, why: why.clone(), attempt: now.number });
        if !lease.gpus.is_empty() {
            let ids = lease.gpus.iter().map(|gpu| gpu.id.as_str()).collect::<Vec<_>>().join(", ");
            self.emitter.emit(Event::Note { stage: step.name.clone(), message: format!("uses GPU {ids}") });
        }
        let amounts = step.resources.amounts.as_ref().map(|_| amounts(step)).unwrap_or_default();
        let work = ExecContext { executor: self.executor(step), gpus: lease.gpus.clone(), amounts };
        let tried = self.attempt(step, &now, &inputs, &declared, &work);
        self.store.release(now.inputs.fingerprint(), claim);
        let error = match tried {
            Ok(AttemptOutcome::Kept(artifact, end)) => {
                self.remember(step, &declared, end);
                self.store.save_index_now_and_then();
                self.emitter.emit(Event::StageFinished {
                    stage: step.name.clone(),
                    seconds: begun.elapsed().as_secs_f64(),
                    summary: artifact.summary.clone(),
                    metrics: artifact.metrics.clone(),
                    kept: kept(&declared, &artifact),
                });
                return (WorkerMessage::Done(artifact), Some(lease));
            }
            Ok(AttemptOutcome::Parked { have, need, message }) => {
                self.remember(step, &declared, AttemptEnd::Parked { have, need, message: message.clone() });
                self.emitter.emit(Event::StageParked { stage: step.name.clone(), have, need, message });
                return (WorkerMessage::Ended(StepOutcome::Parked), Some(lease));
            }
            Err(error) => error,
        };
        // Release the resources before asking the user, who may take their time.
        let lease = Some(lease).filter(|_| !self.is_asked(&error));
        if error.kind == ErrorKind::Interrupted || self.stopping() {
            if error.kind != ErrorKind::Interrupted || !self.stopping() {
                self.warn(step, error.message);
            }
            self.remember(step, &declared, AttemptEnd::Interrupted);
            self.emitter.emit(Event::StageInterrupted { stage: step.name.clone() });
            return (WorkerMessage::Ended(StepOutcome::Interrupted), lease);
        }
        let message = match self.next(step, &now, &inputs, &error) {
            Some(attempt) => {
                let wait = attempt.wait;
                let from = wait.map(|wait| Instant::now() + wait);
                let (decided, entry, waits, claim) = (0, None, false, None);
                WorkerMessage::Again(Box::new(StaleStep { declared, why, inputs, attempt, need, from, decided, entry, waits, claim }))
            }
            None => {
                self.remember(step, &declared, AttemptEnd::Failed { message: error.message.clone() });
                WorkerMessage::Ended(match self.is_asked(&error) {
                    // Reported before the question.
                    true => StepOutcome::Failed { exit: Exit::from(&error), message: error.message },
                    false => self.failed(step, &error),
                })
            }
        };
        (message, lease)
    }
}
