//! Which step is taken when: those whose inputs are there, in the order of the file, as many at once as the machine has room for.
//!
//! One thread decides and takes what is fresh; each try at a stale step has a thread to itself, which tells when it has ended. When a step
//! finds no room, those after it leave alone what it waits for, so that a large one is not held up by a row of small ones. Order and
//! company change no result: what a step makes depends on its fingerprint alone.

use super::attempt::Attempt;
use super::resources::{Lease, ResourceAmounts, ResourcePool, Shortage, amounts};
use super::worker_pool::WorkerPool;
use super::{AttemptOutcome, ExecContext, PipelineRun, StepOutcome, kept};
use crate::artifact::Artifact;
use crate::cache::fingerprint::FingerprintInputs;
use crate::cache::store::AttemptEnd;
use crate::error::{Error, ErrorKind};
use crate::events::Event;
use crate::executor::slurm::SlurmBackend;
use crate::executor::{Executor, LocalExecutor, RemoteExecutor};
use crate::exit::Exit;
use crate::graph::{ExecutorKind, Pipeline, Step};
use crate::plan::{Freshness, FreshnessCheck, unmet, why};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// How a run makes use of the machine.
#[derive(Clone, Debug, Default)]
pub struct SchedulerOptions {
    /// How many stages run at once; as many as there are cores if it is left out.
    pub jobs: Option<usize>,
    /// Begin nothing more once a step has failed. Otherwise whatever does not hang on it goes on.
    pub fail_fast: bool,
    /// Where stages run whose `resources` do not say.
    pub on: Option<ExecutorKind>,
    /// The program a job runs, if not this one.
    pub program: Option<PathBuf>,
    /// What runs that go on side by side share; a run alone needs none.
    pub pool: Option<Arc<ResourcePool>>,
}

/// What a run needs only if something in it has to be done.
#[derive(Default)]
pub(super) struct LazyResources {
    pool: OnceLock<Arc<ResourcePool>>,
    slurm: OnceLock<RemoteExecutor<SlurmBackend>>,
    sources: OnceLock<Arc<BTreeMap<String, Vec<PathBuf>>>>,
    /// Held while a person is asked: one question at a time.
    pub(super) asking: Mutex<()>,
}

impl LazyResources {
    /// See [`crate::stage::Context::sources`].
    pub(super) fn sources(&self, pipeline: &Pipeline) -> Arc<BTreeMap<String, Vec<PathBuf>>> {
        let all = || Arc::new(pipeline.steps.iter().map(|step| (step.name.clone(), step.stage.sources())).collect());
        Arc::clone(self.sources.get_or_init(all))
    }
}

/// How often the deciding thread looks whether the run should stop.
const GLANCE: Duration = Duration::from_millis(100);

/// A run under way.
struct RunState<'r, 'a> {
    run: &'r PipelineRun<'a>,
    /// How many steps each still waits for.
    missing: Vec<usize>,
    /// The steps that wait for each.
    waiting: Vec<Vec<usize>>,
    /// Steps whose turn has come.
    due: BTreeSet<usize>,
    /// Steps that have to run.
    stale: BTreeMap<usize, StaleStep>,
    /// How often it was looked for what can be started.
    rounds: u64,
    running: usize,
    /// Whether every step runs on this machine.
    all_local: bool,
    done: BTreeMap<String, Artifact>,
    blocked: BTreeMap<String, String>,
    endings: Vec<Option<StepOutcome>>,
    halted: Option<String>,
}

/// A step that has to run.
struct StaleStep {
    declared: FingerprintInputs,
    why: String,
    inputs: BTreeMap<String, Artifact>,
    attempt: Attempt,
    need: ResourceAmounts,
    /// When it may.
    from: Option<Instant>,
    /// The round in which it was judged: in a later one its sources may be others.
    judged: u64,
}

/// A try for whichever thread is free.
type WorkerTask = (usize, StaleStep, Lease);

/// What a thread tells of a try.
enum WorkerMessage {
    Done(Box<Artifact>),
    Ended(StepOutcome),
    Again(Box<StaleStep>),
}

impl PipelineRun<'_> {
    /// Takes every step, and tells how each ended, in the order of the pipeline.
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

    /// What the machine has; looked at when the first step has to run.
    pub(super) fn pool(&self) -> &Arc<ResourcePool> {
        let own = || Arc::new(ResourcePool::new(&self.pipeline.machines, self.scheduling.jobs));
        self.means.pool.get_or_init(|| self.scheduling.pool.clone().unwrap_or_else(own))
    }

    fn place(&self, step: &Step) -> ExecutorKind {
        step.resources.on.or(self.scheduling.on).unwrap_or(ExecutorKind::Local)
    }

    /// Whoever does the work of a step.
    pub(super) fn executor(&self, step: &Step) -> &dyn Executor {
        match self.place(step) {
            ExecutorKind::Local => &LocalExecutor,
            ExecutorKind::Slurm => self.means.slurm.get_or_init(|| {
                let program = self.scheduling.program.clone().or_else(|| std::env::current_exe().ok());
                RemoteExecutor(SlurmBackend::new(
                    self.pipeline.machines.slurm.clone(),
                    &program.unwrap_or_else(|| PathBuf::from("voxpipe")),
                ))
            }),
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
        let (run, (sender, told)) = (self.run, channel());
        let crew = WorkerPool::new(scope, move |(index, stale, permit): WorkerTask| {
            let step = &run.pipeline.steps[index];
            let (told, permit) = catch_unwind(AssertUnwindSafe(|| run.one_try(step, stale, permit))).unwrap_or_else(|_| {
                let error = Error::new("the runner panicked").hint("this is a bug in voxpipe; please report it");
                (WorkerMessage::Ended(run.failed(step, &error)), None)
            });
            // Only gone when nobody waits any more.
            let _ = sender.send((index, told, permit));
            run.pool().happened();
        });
        loop {
            while let Some(index) = self.due.pop_first() {
                self.judge(index);
            }
            if self.running == 0 && self.stale.is_empty() {
                return;
            }
            let turn = self.run.pool().turn();
            // The room of what has ended goes to whoever is first in the file by then, so it is given back last.
            let mut room = Vec::new();
            for (index, told, permit) in told.try_iter() {
                room.extend(permit);
                self.running -= 1;
                match told {
                    WorkerMessage::Done(artifact) => self.made(index, *artifact, StepOutcome::Done),
                    WorkerMessage::Ended(ending) => self.end(index, ending),
                    WorkerMessage::Again(stale) => _ = self.stale.insert(index, *stale),
                }
            }
            // What has become due comes first: it may stand before what waits.
            while let Some(index) = self.due.pop_first() {
                self.judge(index);
            }
            drop(room);
            if self.due.is_empty() {
                self.start(&crew);
                if self.due.is_empty() && (self.running > 0 || !self.stale.is_empty()) {
                    self.run.pool().wait(turn, self.longest());
                }
            }
        }
    }

    /// How long the deciding thread may sleep if nothing happens.
    fn longest(&self) -> Duration {
        let now = Instant::now();
        let next = self.stale.values().filter_map(|stale| stale.from).map(|from| from.saturating_duration_since(now)).min();
        next.unwrap_or(GLANCE).clamp(Duration::from_millis(1), GLANCE)
    }

    /// Decides what becomes of a step whose turn has come.
    fn judge(&mut self, index: usize) {
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
        let judge = FreshnessCheck { pipeline: run.pipeline, store: run.store, force: &run.force };
        let judged = judge.ingredients(step, &inputs).and_then(|ingredients| {
            run.borrow(step, &ingredients);
            Ok((judge.verdict(step, &ingredients)?, ingredients))
        });
        match judged {
            Err(error) => {
                let ending = run.failed(step, &error);
                self.end(index, ending);
            }
            Ok((Freshness::Fresh(artifact), ingredients)) => {
                tracing::debug!(target: "voxpipe", fingerprint = %ingredients.fingerprint(), "judged fresh");
                run.recall(step, &ingredients);
                run.emitter.emit(Event::StageFresh {
                    stage: step.name.clone(),
                    summary: artifact.summary.clone(),
                    kept: kept(&ingredients, &artifact),
                });
                run.show(step, artifact.digest);
                self.made(index, *artifact, StepOutcome::Fresh);
            }
            Ok((Freshness::Stale(reasons), declared)) => {
                tracing::debug!(target: "voxpipe", fingerprint = %declared.fingerprint(), "judged stale");
                if let Some(because) = step.after.iter().find_map(|name| self.blocked.get(name)).cloned() {
                    return self.skip(index, because, false);
                }
                if let Some(because) = self.halted.clone() {
                    return self.skip(index, because, false);
                }
                let need = match run.pool().need(step, run.place(step)) {
                    Ok(need) => need,
                    Err(error) => {
                        let ending = run.failed(step, &error);
                        return self.end(index, ending);
                    }
                };
                let attempt = Attempt::first(&declared);
                let why = why::sentence(&reasons);
                self.stale.insert(index, StaleStep { declared, why, inputs, attempt, need, from: None, judged: self.rounds });
            }
        }
    }

    /// Starts what there is room for.
    fn start(&mut self, crew: &WorkerPool<'_, '_, WorkerTask>) {
        let run = self.run;
        let mut lack = Shortage::new();
        let mut next = 0;
        self.rounds += 1;
        while let Some(index) = self.stale.range(next..).next().map(|(index, _)| *index) {
            next = index + 1;
            // Nothing fits any more: those that wait need not be asked one by one. Who stops has to be told.
            if self.all_local && ResourcePool::is_full(&lack) && !run.stopping() && self.halted.is_none() {
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
            if stale.need.wants(&lack) {
                continue;
            }
            match run.pool().take(&stale.need, stale.attempt.ingredients.fingerprint()) {
                Err(missing) => lack.extend(missing),
                Ok(permit) => {
                    let fingerprint = stale.declared.fingerprint();
                    // Its sources may be others by now, and another run may have made its result.
                    if !tried && (stale.judged + 1 < self.rounds || run.scheduling.pool.is_some()) {
                        self.stale.remove(&index);
                        self.judge(index);
                    }
                    let still = self.stale.remove(&index);
                    let Some(mut stale) = still else { continue };
                    if stale.declared.fingerprint() != fingerprint {
                        self.stale.insert(index, stale);
                        // Its room is free again, and its turn comes at once.
                        drop(permit);
                        continue;
                    }
                    stale.from = None;
                    self.running += 1;
                    crew.give((index, stale, permit));
                }
            }
        }
    }

    fn skip(&mut self, index: usize, because: String, interrupted: bool) {
        let stage = self.run.pipeline.steps[index].name.clone();
        self.run.emitter.emit(Event::StageSkipped { stage, because: because.clone() });
        self.end(index, StepOutcome::Skipped { because, interrupted });
    }

    /// A step has a result: it counts if it passes the gates.
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
            self.halted.get_or_insert(format!("`{name}` failed, and nothing more is begun"));
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
    /// Tries a step once, and decides what follows; its room goes back with that.
    fn one_try(&self, step: &Step, stale: StaleStep, permit: Lease) -> (WorkerMessage, Option<Lease>) {
        let StaleStep { declared, why, inputs, attempt: now, need, .. } = stale;
        let begun = Instant::now();
        let (kind, stage) = (step.stage.kind().to_owned(), step.name.clone());
        self.emitter.emit(Event::StageStarted { stage, kind, why: why.clone(), attempt: now.number });
        if !permit.gpus.is_empty() {
            let ids = permit.gpus.iter().map(|card| card.id.as_str()).collect::<Vec<_>>().join(", ");
            self.emitter.emit(Event::Note { stage: step.name.clone(), message: format!("has GPU {ids}") });
        }
        let amounts = step.resources.amounts.as_ref().map(|_| amounts(step)).unwrap_or_default();
        let work = ExecContext { executor: self.executor(step), gpus: permit.gpus.clone(), amounts };
        let tried = self.attempt(step, &now, &inputs, &declared, &work);
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
                return (WorkerMessage::Done(Box::new(artifact)), Some(permit));
            }
            Ok(AttemptOutcome::Parked { have, need, message }) => {
                self.remember(step, &declared, AttemptEnd::Parked { have, need, message: message.clone() });
                self.emitter.emit(Event::StageParked { stage: step.name.clone(), have, need, message });
                return (WorkerMessage::Ended(StepOutcome::Parked), Some(permit));
            }
            Err(error) => error,
        };
        // A person may take their time, and others have the room meanwhile.
        let permit = Some(permit).filter(|_| !self.is_asked(&error));
        if error.kind == ErrorKind::Interrupted || self.stopping() {
            if error.kind != ErrorKind::Interrupted || !self.stopping() {
                self.warn(step, error.message);
            }
            self.remember(step, &declared, AttemptEnd::Interrupted);
            self.emitter.emit(Event::StageInterrupted { stage: step.name.clone() });
            return (WorkerMessage::Ended(StepOutcome::Interrupted), permit);
        }
        let told = match self.next(step, &now, &inputs, &error) {
            Some(attempt) => {
                let wait = attempt.wait;
                let from = wait.map(|wait| Instant::now() + wait);
                WorkerMessage::Again(Box::new(StaleStep { declared, why, inputs, attempt, need, from, judged: 0 }))
            }
            None => {
                self.remember(step, &declared, AttemptEnd::Failed { message: error.message.clone() });
                WorkerMessage::Ended(match self.is_asked(&error) {
                    // Said before the question.
                    true => StepOutcome::Failed { exit: Exit::from(&error), message: error.message },
                    false => self.failed(step, &error),
                })
            }
        };
        (told, permit)
    }
}
