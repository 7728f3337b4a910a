//! What there is of a machine, and who has it: stages take what they need before they run and give it back afterwards.
//!
//! Amounts are counted in thousandths, so that parts of a card add up exactly.

use super::gpu;
use crate::cache::fingerprint::Fingerprint;
use crate::error::{Error, Result};
use crate::graph::{CPU, ExecutorKind, GPU, MachineResources, Step};
use crate::scheduler::gpu::Gpu;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The resources of a machine. Runs in one process that go on side by side, as those of a sweep, share one.
#[derive(Debug)]
pub struct ResourcePool {
    total: BTreeMap<String, u64>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: BTreeMap<String, u64>,
    /// Cards, each with what is free of it; none where there is only a number to count.
    gpus: Vec<(Gpu, u64)>,
    /// Results under way.
    making: BTreeSet<Fingerprint>,
    /// Raised whenever something is given back.
    turn: u64,
}

/// What one try takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResourceAmounts(BTreeMap<String, u64>);

/// What one try has; given back when this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Arc<ResourcePool>,
    need: ResourceAmounts,
    taken: Vec<(usize, u64)>,
    fingerprint: Fingerprint,
    /// The cards among it.
    pub(super) gpus: Vec<Gpu>,
}

/// How many stages run at once, by where they do.
const JOBS: &str = "stages at once";
const SLURM: &str = "jobs at Slurm";

impl ResourcePool {
    /// What this machine has, as far as `machines` does not say otherwise; at most `jobs` stages run at once.
    pub fn new(machines: &MachineResources, jobs: Option<usize>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut total: BTreeMap<String, u64> =
            machines.capacities.iter().map(|(name, amount)| (name.clone(), thousandths(*amount))).collect();
        total.entry(CPU.to_owned()).or_insert(thousandths(cores as f64));
        let mut visible = gpu::visible_gpus();
        // Without a card the processor does its work, and two trainings on one processor are no gain.
        let gpus = *total.entry(GPU.to_owned()).or_insert(thousandths(visible.len().max(1) as f64));
        visible.truncate((gpus / WHOLE) as usize);
        if (visible.len() as u64) * WHOLE < gpus {
            visible.clear();
        }
        total.insert(JOBS.to_owned(), thousandths(jobs.unwrap_or(cores) as f64));
        total.insert(SLURM.to_owned(), thousandths(f64::from(machines.slurm.jobs)));
        let gpus = visible.into_iter().map(|gpu| (gpu, WHOLE)).collect();
        let state = State { free: total.clone(), gpus, making: BTreeSet::new(), turn: 0 };
        Self { total, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Whether no step at all can run here for want of these, whatever it needs besides.
    pub(super) fn is_full(lack: &Shortage) -> bool {
        lack.contains(JOBS)
    }

    /// What a step takes, or why it can never run here.
    pub(super) fn need(&self, step: &Step, on: ExecutorKind) -> Result<ResourceAmounts> {
        let mut need: BTreeMap<String, u64> = BTreeMap::new();
        for (name, amount) in amounts(step) {
            // What a job needs elsewhere is counted there; names of the file's own are counted here, wherever it runs.
            if on == ExecutorKind::Local || ![CPU, GPU].contains(&name.as_str()) {
                need.insert(name, thousandths(amount));
            }
        }
        need.insert(if on == ExecutorKind::Local { JOBS } else { SLURM }.to_owned(), WHOLE);
        for (name, wanted) in &mut need {
            let there = self.total.get(name).copied().unwrap_or(0);
            // Whoever asks for more cores than there are gets them all.
            if name == CPU {
                *wanted = (*wanted).min(there);
            }
            if *wanted > there {
                let message = format!("it needs {} of `{name}`, and there is {}", told(*wanted), told(there));
                return Err(Error::new(message).environment().hint(format!(
                    "ask for less in its `resources`, or say that there is more: `[resources] {name} = {}`",
                    told(*wanted)
                )));
            }
        }
        Ok(ResourceAmounts(need))
    }

    /// Takes what a try needs, or says what of it is not free.
    pub(super) fn take(self: &Arc<Self>, need: &ResourceAmounts, fingerprint: Fingerprint) -> Result<Lease, Shortage> {
        let mut state = self.state();
        let mut lack: Shortage = need
            .0
            .iter()
            .filter(|(name, wanted)| state.free.get(*name).is_none_or(|free| free < wanted))
            .map(|(name, _)| name.clone())
            .collect();
        let gpus = need.0.get(GPU).copied().unwrap_or(0);
        let taken = if state.gpus.is_empty() { Some(Vec::new()) } else { state.cards_for(gpus) };
        if taken.is_none() {
            lack.insert(GPU.to_owned());
        }
        // Another run of this process makes the same: its result will do.
        if !lack.is_empty() || state.making.contains(&fingerprint) {
            return Err(lack);
        }
        for (name, wanted) in &need.0 {
            if let Some(free) = state.free.get_mut(name) {
                *free -= wanted;
            }
        }
        let taken = taken.unwrap_or_default();
        for (place, amount) in &taken {
            state.gpus[*place].1 -= amount;
        }
        state.making.insert(fingerprint);
        let gpus = taken.iter().map(|(place, _)| state.gpus[*place].0.clone()).collect();
        Ok(Lease { pool: Arc::clone(self), need: need.clone(), taken, fingerprint, gpus })
    }

    /// The number that is raised whenever something happens.
    pub(super) fn turn(&self) -> u64 {
        self.state().turn
    }

    /// Says that something happened.
    pub(super) fn happened(&self) {
        self.state().turn += 1;
        self.changed.notify_all();
    }

    /// Waits until something happens after `turn`, or some time has passed.
    pub(super) fn wait(&self, turn: u64, longest: Duration) {
        let state = self.state();
        drop(self.changed.wait_timeout_while(state, longest, |state| state.turn == turn).unwrap_or_else(PoisonError::into_inner));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of what is not free.
pub(super) type Shortage = BTreeSet<String>;

const WHOLE: u64 = 1000;

impl State {
    /// The first cards that are free, or one with so much left of it.
    fn cards_for(&self, gpus: u64) -> Option<Vec<(usize, u64)>> {
        let free = |wanted: u64| self.gpus.iter().enumerate().filter(move |(_, (_, free))| *free >= wanted).map(|(place, _)| place);
        if gpus == 0 {
            return Some(Vec::new());
        }
        if gpus < WHOLE {
            return free(gpus).next().map(|place| vec![(place, gpus)]);
        }
        let count = (gpus / WHOLE) as usize;
        let taken: Vec<_> = free(WHOLE).take(count).map(|place| (place, WHOLE)).collect();
        (taken.len() == count).then_some(taken)
    }
}

impl ResourceAmounts {
    /// Whether it is in want of something that others wait for.
    pub(super) fn wants(&self, lack: &Shortage) -> bool {
        self.0.iter().any(|(name, wanted)| *wanted > 0 && lack.contains(name))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        for (name, amount) in &self.need.0 {
            if let Some(free) = state.free.get_mut(name) {
                *free += amount;
            }
        }
        for (place, amount) in &self.taken {
            state.gpus[*place].1 += amount;
        }
        state.making.remove(&self.fingerprint);
        drop(state);
        self.pool.happened();
    }
}

/// What a step needs by name: what the file says, or what its kind makes use of.
pub(super) fn amounts(step: &Step) -> BTreeMap<String, f64> {
    let whole = if step.stage.fills_machine() { f64::MAX } else { 1.0 };
    match &step.resources.amounts {
        None => BTreeMap::from([(CPU.to_owned(), whole)]),
        Some(amounts) => {
            let mut amounts = amounts.clone();
            amounts.entry(CPU.to_owned()).or_insert(1.0);
            amounts
        }
    }
}

fn thousandths(amount: f64) -> u64 {
    (amount * WHOLE as f64).round() as u64
}

fn told(amount: u64) -> f64 {
    amount as f64 / WHOLE as f64
}
