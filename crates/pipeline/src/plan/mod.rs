//! Run planning (dry run): which steps are up to date, which are stale and why, and which depend on pending upstream results.
//!
//! A step's fingerprint includes the digests of its inputs. They are unknown while an upstream step still has to run. If the new
//! upstream result is the same as before, its dependents need not run (early cutoff). So such a step waits, unless it is stale for
//! reasons of its own.

pub mod noop;
mod remote;
pub mod why;

pub use remote::RemoteChecks;

use crate::artifact::Artifact;
use crate::cache::content::{Content, ContentDiff, SymlinkPolicy};
use crate::cache::fingerprint::{Fingerprint, FingerprintInputs, LazyFingerprint, SourceInput, UpstreamInput, portable};
use crate::cache::store::{AttemptEnd, CacheEntry, Store};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::graph::{MetricBound, Pipeline, Step};
use crate::stage::PublicationState;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use why::Why;

/// The plan of a run.
#[derive(Debug)]
pub struct Plan {
    /// The steps in pipeline order.
    pub steps: Vec<PlannedStep>,
}

/// The plan for one step.
#[derive(Debug)]
pub struct PlannedStep {
    /// The step's name.
    pub stage: String,
    /// The stage kind.
    pub kind: &'static str,
    /// Whether and why it would run.
    pub state: StepState,
    /// Duration of its last completed run, in seconds; only for steps that run or may run.
    pub took: Option<f64>,
}

/// State of a step in a plan.
#[derive(Debug)]
pub enum StepState {
    /// Up to date.
    Fresh(Box<Artifact>),
    /// Up to date as far as can be told here; whether what it published still lies there was not checked, for this reason.
    Unchecked(Box<Artifact>, String),
    /// Up to date: a run pulls the result from the shared cache.
    Shared(Box<Artifact>),
    /// Up to date, but some gates fail; one message per failed gate.
    GateUnmet(Box<Artifact>, Vec<String>),
    /// Stale: it runs, for these reasons.
    Stale(Vec<Why>),
    /// It runs if the results of these upstream steps change.
    Waits(Vec<String>),
    /// It cannot run, because a gate of this upstream step fails.
    Blocked(String),
}

/// Whether a step with known inputs is up to date.
#[derive(Debug)]
pub enum Freshness {
    /// Up to date.
    Fresh(Box<Artifact>),
    /// Up to date, except that what it published was not checked, for this reason.
    Unchecked(Box<Artifact>, String),
    /// Stale, for these reasons.
    Stale(Vec<Why>),
}

impl PlannedStep {
    /// Whether it runs or may run.
    pub fn may_run(&self) -> bool {
        matches!(self.state, StepState::Stale(_) | StepState::Waits(_))
    }
}

impl Plan {
    /// Plans the whole pipeline. Writes nothing and opens no connection.
    pub fn of(pipeline: &Pipeline, store: &Store, force: &BTreeSet<String>) -> Result<Self> {
        Self::checked(pipeline, store, force, None)
    }

    /// Plans the whole pipeline. Writes nothing. With `remote`, remote services are asked for what was published there.
    pub fn checked(pipeline: &Pipeline, store: &Store, force: &BTreeSet<String>, remote: Option<&RemoteChecks>) -> Result<Self> {
        let check = FreshnessCheck { pipeline, store, force, remote };
        let mut done: BTreeMap<String, Artifact> = BTreeMap::new();
        let mut blocked: BTreeMap<String, String> = BTreeMap::new();
        let mut steps = Vec::new();
        for step in &pipeline.steps {
            let needed: Vec<_> = step.from.values().flatten().collect();
            let state = if let Some(gate) = needed.iter().find_map(|name| blocked.get(*name)).cloned() {
                blocked.insert(step.name.clone(), gate.clone());
                StepState::Blocked(gate)
            } else if needed.iter().all(|name| done.contains_key(*name)) {
                let (fresh, unchecked) = match check.verdict(step, &check.ingredients(step, &done)?)? {
                    Freshness::Fresh(artifact) => (Ok(artifact), None),
                    Freshness::Unchecked(artifact, why) => (Ok(artifact), Some(why)),
                    Freshness::Stale(reasons) => (Err(reasons), None),
                };
                match fresh {
                    Ok(artifact) => {
                        let unmet = unmet(&step.require, &artifact);
                        if unmet.is_empty() {
                            done.insert(step.name.clone(), (*artifact).clone());
                            match unchecked {
                                Some(why) => StepState::Unchecked(artifact, why),
                                None if store.keeps(artifact.digest) => StepState::Fresh(artifact),
                                None => StepState::Shared(artifact),
                            }
                        } else {
                            blocked.insert(step.name.clone(), step.name.clone());
                            StepState::GateUnmet(artifact, unmet)
                        }
                    }
                    Err(reasons) => StepState::Stale(reasons),
                }
            } else {
                let upstream: BTreeSet<_> = needed.into_iter().filter(|name| !done.contains_key(*name)).cloned().collect();
                let mut reasons = check.own_reasons(step, &done)?;
                if reasons.is_empty() {
                    StepState::Waits(upstream.into_iter().collect())
                } else {
                    reasons.extend(upstream.into_iter().map(|stage| Why::UpstreamWillRun { stage }));
                    StepState::Stale(reasons)
                }
            };
            let took = match state {
                StepState::Fresh(_) | StepState::Unchecked(..) | StepState::Shared(_) | StepState::GateUnmet(..) => None,
                _ => check.took(step),
            };
            steps.push(PlannedStep { stage: step.name.clone(), kind: step.stage.kind(), state, took });
        }
        Ok(Self { steps })
    }

    /// Refuses a selection that leaves out steps which selected ones need and which are not up to date.
    ///
    /// # Errors
    /// If there is such a step.
    pub fn check_held(&self, pipeline: &Pipeline) -> Result<()> {
        let held = |step: &&PlannedStep| pipeline.held.contains(&step.stage) && step.may_run();
        let stale: Vec<&PlannedStep> = self.steps.iter().filter(held).collect();
        let Some(first) = stale.first() else { return Ok(()) };
        Err(not_up_to_date(&first.stage, &first.state.words().1, stale.len() - 1))
    }

    /// The number of steps that run, that may run, and that are up to date.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.steps.iter().fold((0, 0, 0), |(run, may, fresh), step| match step.state {
            StepState::Stale(_) => (run + 1, may, fresh),
            StepState::Waits(_) | StepState::Blocked(_) => (run, may + 1, fresh),
            StepState::Fresh(_) | StepState::Unchecked(..) | StepState::Shared(_) | StepState::GateUnmet(..) => (run, may, fresh + 1),
        })
    }

    /// Estimated duration in seconds, from the last runs: of the steps that run, and of the steps that run or may run. `None` if no
    /// duration is known.
    pub fn times(&self) -> (Option<f64>, Option<f64>) {
        let estimate = |counts: fn(&StepState) -> bool| -> Option<f64> {
            let times: Vec<f64> = self.steps.iter().filter(|step| counts(&step.state)).filter_map(|step| step.took).collect();
            (!times.is_empty()).then(|| times.iter().sum())
        };
        (
            estimate(|state| matches!(state, StepState::Stale(_))),
            estimate(|state| matches!(state, StepState::Stale(_) | StepState::Waits(_))),
        )
    }
}

impl StepState {
    /// The state as a word (also used in JSON) and a sentence.
    pub fn words(&self) -> (&'static str, String) {
        match self {
            Self::Fresh(artifact) => ("fresh", artifact.summary.clone()),
            Self::Unchecked(artifact, why) => ("fresh", unchecked_summary(artifact, why)),
            Self::Shared(artifact) => ("shared", artifact.summary.clone()),
            Self::GateUnmet(_, unmet) => ("gate", unmet.join("; ")),
            Self::Stale(reasons) => ("run", why::sentence(reasons)),
            Self::Waits(upstream) => ("waits", format!("runs if the result of {} changes", alternatives(upstream))),
            Self::Blocked(gate) => ("blocked", format!("`{gate}` does not pass its gate")),
        }
    }

    /// The state as JSON.
    pub fn json(&self) -> Value {
        let (word, sentence) = self.words();
        match self {
            Self::Stale(reasons) => json!({ "state": word, "sentence": sentence, "reasons": reasons }),
            Self::Waits(upstream) => json!({ "state": word, "sentence": sentence, "for": upstream }),
            Self::Blocked(gate) => json!({ "state": word, "sentence": sentence, "for": [gate] }),
            Self::Unchecked(artifact, why) => json!({
                "state": word, "sentence": sentence, "digest": artifact.digest, "metrics": artifact.metrics, "not_checked": why,
            }),
            Self::Fresh(artifact) | Self::Shared(artifact) | Self::GateUnmet(artifact, _) => json!({
                "state": word, "sentence": sentence, "digest": artifact.digest,
                "metrics": voxpipe_io::metrics::object(&artifact.metrics),
            }),
        }
    }
}

/// The error for a step that was left out although its result is needed and not up to date.
pub(crate) fn not_up_to_date(stage: &str, why: &str, others: usize) -> Error {
    let others = match others {
        0 => String::new(),
        1 => " (and 1 more stage)".to_owned(),
        others => format!(" (and {others} more stages)"),
    };
    Error::new(format!("stage `{stage}` is left out, but its result is needed and not up to date: {why}{others}"))
        .kind(ErrorKind::InvalidInput)
        .hint(format!("run it first: `voxpipe run {stage}`, or select it too"))
}

/// The summary of a result whose publication was not checked.
pub fn unchecked_summary(artifact: &Artifact, why: &str) -> String {
    format!("{} (published; not checked: {why})", artifact.summary)
}

/// "`a` or `b`".
fn alternatives(upstream: &[String]) -> String {
    upstream.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}

/// Decides whether a step is up to date or stale.
pub struct FreshnessCheck<'a> {
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// The store with recorded results.
    pub store: &'a Store,
    /// Steps to run even if they are up to date (`--force`).
    pub force: &'a BTreeSet<String>,
    /// Asks remote services for what was published there; without it no connection is opened.
    pub remote: Option<&'a RemoteChecks>,
}

impl FreshnessCheck<'_> {
    /// The fingerprint inputs of a step, given the results of its upstream steps.
    pub fn ingredients(&self, step: &Step, done: &BTreeMap<String, Artifact>) -> Result<FingerprintInputs> {
        let root = absolute(&self.pipeline.root)?;
        let mut settings = portable(step.stage.identity(), &step.sources(&root), &root);
        let upstream = self.pipeline.upstream(step);
        if let Some(settings) = settings.as_object_mut().filter(|_| !upstream.is_empty()) {
            settings.insert("upstream".to_owned(), upstream.into_iter().collect::<serde_json::Map<_, _>>().into());
        }
        Ok(FingerprintInputs {
            kind: step.stage.kind().to_owned(),
            version: step.stage.version(),
            settings,
            inputs: step
                .from
                .iter()
                .map(|(port, names)| (port.clone(), names.iter().filter_map(|name| done.get(name)).map(UpstreamInput::of).collect()))
                .collect(),
            sources: self.read_sources(&root, step)?,
            seed: step.seed,
            numerics: step.stage.numerics(),
            pipeline: step.stage.records_pipeline_name().then(|| self.pipeline.name.clone()),
            known: LazyFingerprint::default(),
        })
    }

    fn read_sources(&self, root: &Path, step: &Step) -> Result<Vec<SourceInput>> {
        let mut read: Vec<SourceInput> = Vec::new();
        for path in step.sources(root) {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            if !read.iter().any(|source| source.path == name) {
                read.push(SourceInput {
                    path: name,
                    content: Content::read_some(&root.join(&path), self.store.index(), SymlinkPolicy::Follow, &|path| {
                        path.strip_suffix('/').map_or_else(|| step.stage.reads(path), |folder| step.stage.enters(folder))
                    })?,
                });
            }
        }
        Ok(read)
    }

    /// The first source that changed since the fingerprint inputs were collected, and what changed in it.
    pub fn changed_source(&self, step: &Step, before: &FingerprintInputs) -> Result<Option<(String, ContentDiff)>> {
        let root = absolute(&self.pipeline.root)?;
        let now = self.read_sources(&root, step)?;
        let changed = now.into_iter().zip(&before.sources).find(|(now, before)| now != *before);
        Ok(changed.map(|(now, before)| (now.path.clone(), before.content.changes(&now.content, &now.path))))
    }

    /// Whether a step is up to date, or why it has to run.
    pub fn verdict(&self, step: &Step, ingredients: &FingerprintInputs) -> Result<Freshness> {
        if self.force.contains(&step.name) {
            return Ok(Freshness::Stale(vec![Why::Forced]));
        }
        let fingerprint = ingredients.fingerprint();
        let lent = || if step.is_shared() { self.store.lent(fingerprint) } else { None };
        match self.store.record(fingerprint).or_else(lent) {
            Some(record) => {
                let reasons = self.broken(step, &record)?;
                if !reasons.is_empty() {
                    return Ok(Freshness::Stale(reasons));
                }
                let artifact = Box::new(self.store.artifact(&record, &step.name));
                if !step.stage.publishes() {
                    return Ok(Freshness::Fresh(artifact));
                }
                let state = match self.remote {
                    Some(remote) => remote.ask(step, fingerprint, &artifact),
                    None => step.stage.verify(&artifact, false, &AtomicBool::new(false)),
                };
                Ok(match state {
                    PublicationState::Unchanged => Freshness::Fresh(artifact),
                    PublicationState::NotChecked(why) => Freshness::Unchecked(artifact, why),
                    PublicationState::Changed(problem) => Freshness::Stale(vec![Why::PublicationChanged { problem }]),
                })
            }
            None => Ok(Freshness::Stale(self.missing(step, ingredients, fingerprint))),
        }
    }

    /// Reasons why a recorded result cannot be used.
    fn broken(&self, step: &Step, record: &CacheEntry) -> Result<Vec<Why>> {
        let lent = || step.is_shared() && self.store.lent(record.ingredients.fingerprint()).is_some();
        let problem = if !self.store.keeps(record.digest) && lent() { None } else { self.store.problem(record.digest) };
        let mut reasons: Vec<_> = problem.map(|problem| Why::OutputMissing { problem }).into_iter().collect();
        for (path, promised) in &record.promises {
            let now = Content::read(&self.pipeline.root.join(path), self.store.index(), SymlinkPolicy::Follow)?;
            if now != *promised {
                let changes = if now == Content::Missing { ContentDiff::default() } else { promised.changes(&now, path) };
                reasons.push(Why::PromiseChanged { path: path.clone(), changes });
            }
        }
        Ok(reasons)
    }

    /// Reasons why there is no result with this fingerprint.
    fn missing(&self, step: &Step, new: &FingerprintInputs, fingerprint: Fingerprint) -> Vec<Why> {
        let Some(last) = self.store.last(&self.pipeline.name, &self.pipeline.origin(), &step.name) else { return vec![Why::NeverRun] };
        if last.tried.fingerprint == fingerprint {
            match last.tried.end.clone() {
                AttemptEnd::Parked { have, need, .. } => return vec![Why::Parked { have, need }],
                AttemptEnd::Failed { message } => return vec![Why::PreviousFailed { message }],
                AttemptEnd::Interrupted | AttemptEnd::Begun => return vec![Why::Interrupted],
                AttemptEnd::SourceMoved { path, changes } => return vec![Why::SourceMoved { path, changes }],
                AttemptEnd::Done => return vec![Why::OutputMissing { problem: "the cache entry of its result is missing".to_owned() }],
            }
        }
        let differences = |done: &FingerprintInputs| why::differences(done, new, |was, is| self.compare(was, is));
        let mut reasons = last.done.as_ref().map(differences).unwrap_or_default();
        if let AttemptEnd::SourceMoved { path, changes } = last.tried.end.clone() {
            // The result of the newest attempt was not kept because of this; the source differs from that of an older one anyway.
            reasons.retain(|reason| !matches!(reason, Why::Source { path: source, .. } if *source == path));
            reasons.insert(0, Why::SourceMoved { path, changes });
        }
        if reasons.is_empty() { vec![Why::NeverRun] } else { reasons }
    }

    /// The reasons that do not depend on the inputs, for a step whose inputs are not known yet.
    fn own_reasons(&self, step: &Step, done: &BTreeMap<String, Artifact>) -> Result<Vec<Why>> {
        if self.force.contains(&step.name) {
            return Ok(vec![Why::Forced]);
        }
        let Some(mut old) = self.store.last(&self.pipeline.name, &self.pipeline.origin(), &step.name).and_then(|last| last.done.clone())
        else {
            return Ok(vec![Why::NeverRun]);
        };
        let new = self.ingredients(step, done)?;
        (old.inputs, old.known) = (new.inputs.clone(), LazyFingerprint::default());
        Ok(why::differences(&old, &new, |_, _| ContentDiff::default()))
    }

    /// The duration of a step's last completed run, in seconds.
    fn took(&self, step: &Step) -> Option<f64> {
        let last = self.store.last(&self.pipeline.name, &self.pipeline.origin(), &step.name)?;
        self.store.record(last.done.as_ref()?.fingerprint()).map(|record| record.seconds)
    }

    /// The difference between two results, file by file; empty if a file list is no longer available.
    pub fn compare(&self, was: &UpstreamInput, is: &UpstreamInput) -> ContentDiff {
        let trees = self.store.tree(was.digest).zip(self.store.tree(is.digest));
        trees.map(|(was, is)| was.changes(&is)).unwrap_or_default()
    }
}

/// Makes a path absolute; an empty path is the current folder.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(Path::new(".").join(path)).with_context(|| format!("cannot find `{}`", path.display()))
}

/// The failed gates of an artifact, one message each.
pub fn unmet(require: &BTreeMap<String, MetricBound>, artifact: &Artifact) -> Vec<String> {
    let check = |(name, bound): (&String, &MetricBound)| match artifact.metrics.get(name) {
        Some(value) if bound.holds(*value) => None,
        Some(value) if !value.is_finite() => {
            Some(format!("{name} is {}, which passes no gate; its bound is {bound}", voxpipe_io::metrics::text(*value)))
        }
        Some(value) => Some(format!("{name} is {value}, which is not {bound}")),
        None => {
            let known = artifact.metrics.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Some(format!("it has no metric `{name}`; it has: {}", if known.is_empty() { "none" } else { &known }))
        }
    };
    require.iter().filter_map(check).collect()
}
