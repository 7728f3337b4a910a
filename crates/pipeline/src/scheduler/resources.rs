//! Resource pool: stages lease CPU cores, GPUs and named resources for the time they run.
//!
//! Amounts are counted in thousandths, so that fractions of a GPU add up exactly.

use crate::cache::fingerprint::Fingerprint;
use crate::error::{Error, Result};
use crate::graph::{CPU, ExecutorKind, GPU, MachineResources, Step};
use crate::stage::gpu;
use crate::stage::gpu::Gpu;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The resources of a machine. Parallel runs in one process, such as those of a sweep, share a pool.
#[derive(Debug)]
pub struct ResourcePool {
    total: BTreeMap<String, u64>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: BTreeMap<String, u64>,
    /// GPUs with the free amount of each; empty if GPUs are only counted.
    gpus: Vec<(Gpu, u64)>,
    /// Fingerprints of the results being made.
    making: BTreeSet<Fingerprint>,
    /// Incremented at every event that may unblock a step.
    turn: u64,
}

/// The amounts that an attempt leases, by resource name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResourceAmounts(BTreeMap<String, u64>);

/// A resource lease of an attempt; released on drop.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Arc<ResourcePool>,
    need: ResourceAmounts,
    taken: Vec<(usize, u64)>,
    fingerprint: Fingerprint,
    /// The leased GPUs.
    pub(super) gpus: Vec<Gpu>,
}

/// Internal resources that limit the number of concurrent stages, by executor.
const JOBS: &str = "concurrent stages";
const SLURM: &str = "Slurm jobs";

impl ResourcePool {
    /// The capacities in `machines`, with detected defaults; at most `jobs` stages run concurrently (default: the number of cores).
    pub fn new(machines: &MachineResources, jobs: Option<usize>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut total: BTreeMap<String, u64> =
            machines.capacities.iter().map(|(name, amount)| (name.clone(), thousandths(*amount))).collect();
        total.entry(CPU.to_owned()).or_insert(thousandths(cores as f64));
        let mut visible = gpu::visible_gpus();
        // Without a GPU the CPU does its work and counts as one: two trainings on one CPU gain nothing.
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

    /// The capacity of a resource in units.
    pub(super) fn capacity(&self, name: &str) -> f64 {
        units(self.total.get(name).copied().unwrap_or(0))
    }

    /// Whether no local step can start, whatever else it needs.
    pub(super) fn is_full(shortage: &Shortage) -> bool {
        shortage.contains(JOBS)
    }

    /// The amounts that a step leases.
    ///
    /// # Errors
    /// If the step needs more than the machine has.
    pub(super) fn need(&self, step: &Step, on: ExecutorKind) -> Result<ResourceAmounts> {
        let mut need: BTreeMap<String, u64> = BTreeMap::new();
        for (name, amount) in amounts(step) {
            // The cluster accounts for the CPUs and GPUs of its jobs; user-defined resources are counted here, wherever the step runs.
            if on == ExecutorKind::Local || ![CPU, GPU].contains(&name.as_str()) {
                need.insert(name, thousandths(amount));
            }
        }
        need.insert(if on == ExecutorKind::Local { JOBS } else { SLURM }.to_owned(), WHOLE);
        for (name, wanted) in &mut need {
            let there = self.total.get(name).copied().unwrap_or(0);
            // A request for more cores than exist leases all of them.
            if name == CPU {
                *wanted = (*wanted).min(there);
            }
            if *wanted > there {
                let message = format!("it needs {} of `{name}`, but the machine has {}", units(*wanted), units(there));
                let capacity = format!("[resources] {name} = {}", units(*wanted));
                let hint = match name.as_str() {
                    GPU => format!(
                        "request less in the stage's `resources`, run it on a cluster (`on = \"slurm\"`), or write `{capacity}` if the GPUs are there"
                    ),
                    _ => format!("request less in the stage's `resources`, or raise the capacity: `{capacity}`"),
                };
                return Err(Error::new(message).environment().hint(hint));
            }
        }
        Ok(ResourceAmounts(need))
    }

    /// Leases the resources of an attempt, or returns the names of those that are not free.
    pub(super) fn take(self: &Arc<Self>, need: &ResourceAmounts, fingerprint: Fingerprint) -> Result<Lease, Shortage> {
        let mut state = self.state();
        let mut shortage: Shortage = need
            .0
            .iter()
            .filter(|(name, wanted)| state.free.get(*name).is_none_or(|free| free < wanted))
            .map(|(name, _)| name.clone())
            .collect();
        let gpus = need.0.get(GPU).copied().unwrap_or(0);
        let taken = if state.gpus.is_empty() { Some(Vec::new()) } else { state.gpus_for(gpus) };
        if taken.is_none() {
            shortage.insert(GPU.to_owned());
        }
        // Another run of this process is making the same result: wait for it.
        if !shortage.is_empty() || state.making.contains(&fingerprint) {
            return Err(shortage);
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

    /// The event counter; pass it to [`ResourcePool::wait`].
    pub(super) fn turn(&self) -> u64 {
        self.state().turn
    }

    /// Signals an event that may unblock a step.
    pub(super) fn happened(&self) {
        self.state().turn += 1;
        self.changed.notify_all();
    }

    /// Waits for an event after `turn`, at most for `longest`.
    pub(super) fn wait(&self, turn: u64, longest: Duration) {
        let state = self.state();
        drop(self.changed.wait_timeout_while(state, longest, |state| state.turn == turn).unwrap_or_else(PoisonError::into_inner));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names of resources that are not free.
pub(super) type Shortage = BTreeSet<String>;

const WHOLE: u64 = 1000;

impl State {
    /// The first free GPUs, or for a fraction one GPU with that much left; `None` if there are too few.
    fn gpus_for(&self, gpus: u64) -> Option<Vec<(usize, u64)>> {
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
    /// Whether it needs a resource that an earlier step waits for.
    pub(super) fn wants(&self, shortage: &Shortage) -> bool {
        self.0.iter().any(|(name, wanted)| *wanted > 0 && shortage.contains(name))
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

/// The amounts a step needs, by resource name: declared in the file, or the default of its kind.
pub(super) fn amounts(step: &Step) -> BTreeMap<String, f64> {
    let whole = if step.stage.uses_all_cores() { f64::MAX } else { 1.0 };
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

/// Converts thousandths to whole units.
fn units(amount: u64) -> f64 {
    amount as f64 / WHOLE as f64
}
