//! What a run would do, before it does it: each step is fresh, stale for a reason, or has to wait for what comes before it.
//!
//! A step's fingerprint needs the digests of its inputs. While a step before it still has to run they are unknown, and they may
//! well come out as they were: then nothing after it runs. So such a step waits, unless it has reasons of its own.

pub mod why;

use crate::artifact::Artifact;
use crate::cache::content::{Content, ContentDiff, SymlinkPolicy};
use crate::cache::fingerprint::{Fingerprint, FingerprintInputs, LazyFingerprint, SourceInput, UpstreamInput, portable};
use crate::cache::store::{AttemptEnd, CacheEntry, Store};
use crate::error::{Result, ResultExt};
use crate::graph::{MetricBound, Pipeline, Step};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use why::Why;

/// What a run would do.
#[derive(Debug)]
pub struct Plan {
    /// The steps in the order of the pipeline.
    pub steps: Vec<PlannedStep>,
}

/// What a run would do with one step.
#[derive(Debug)]
pub struct PlannedStep {
    /// The step's name.
    pub stage: String,
    /// Its kind.
    pub kind: &'static str,
    /// Whether it has to run.
    pub state: StepState,
    /// How long it took when it was done last, in seconds, if it has to run or may have to.
    pub took: Option<f64>,
}

/// Whether a step has to run.
#[derive(Debug)]
pub enum StepState {
    /// Its result is there.
    Fresh(Box<Artifact>),
    /// Its result is in the shared cache, from where a run takes it.
    Shared(Box<Artifact>),
    /// Its result is there, but does not pass its gates; each is told in a sentence.
    GateUnmet(Box<Artifact>, Vec<String>),
    /// It runs.
    Stale(Vec<Why>),
    /// It may run: that depends on what these steps make.
    Waits(Vec<String>),
    /// It cannot run: this step does not pass its gate.
    Blocked(String),
}

/// What is known of a step once its inputs are there.
#[derive(Debug)]
pub enum Freshness {
    /// Its result is there.
    Fresh(Box<Artifact>),
    /// It has to run.
    Stale(Vec<Why>),
}

impl PlannedStep {
    /// Whether a run would do it, or might.
    pub fn may_run(&self) -> bool {
        matches!(self.state, StepState::Stale(_) | StepState::Waits(_))
    }
}

impl Plan {
    /// Looks at the whole pipeline. Writes nothing.
    pub fn of(pipeline: &Pipeline, store: &Store, force: &BTreeSet<String>) -> Result<Self> {
        let judge = FreshnessCheck { pipeline, store, force };
        let mut done: BTreeMap<String, Artifact> = BTreeMap::new();
        let mut blocked: BTreeMap<String, String> = BTreeMap::new();
        let mut steps = Vec::new();
        for step in &pipeline.steps {
            let needed: Vec<_> = step.from.values().flatten().collect();
            let state = if let Some(gate) = needed.iter().find_map(|name| blocked.get(*name)).cloned() {
                blocked.insert(step.name.clone(), gate.clone());
                StepState::Blocked(gate)
            } else if needed.iter().all(|name| done.contains_key(*name)) {
                match judge.verdict(step, &judge.ingredients(step, &done)?)? {
                    Freshness::Fresh(artifact) => {
                        let unmet = unmet(&step.require, &artifact);
                        if unmet.is_empty() {
                            done.insert(step.name.clone(), (*artifact).clone());
                            if store.keeps(artifact.digest) { StepState::Fresh(artifact) } else { StepState::Shared(artifact) }
                        } else {
                            blocked.insert(step.name.clone(), step.name.clone());
                            StepState::GateUnmet(artifact, unmet)
                        }
                    }
                    Freshness::Stale(reasons) => StepState::Stale(reasons),
                }
            } else {
                let upstream: BTreeSet<_> = needed.into_iter().filter(|name| !done.contains_key(*name)).cloned().collect();
                let mut reasons = judge.own_reasons(step, &done)?;
                if reasons.is_empty() {
                    StepState::Waits(upstream.into_iter().collect())
                } else {
                    reasons.extend(upstream.into_iter().map(|stage| Why::UpstreamWillRun { stage }));
                    StepState::Stale(reasons)
                }
            };
            let took = match state {
                StepState::Fresh(_) | StepState::Shared(_) | StepState::GateUnmet(..) => None,
                _ => judge.took(step),
            };
            steps.push(PlannedStep { stage: step.name.clone(), kind: step.stage.kind(), state, took });
        }
        Ok(Self { steps })
    }

    /// How many steps run for certain, may run, and need not.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.steps.iter().fold((0, 0, 0), |(run, may, fresh), step| match step.state {
            StepState::Stale(_) => (run + 1, may, fresh),
            StepState::Waits(_) | StepState::Blocked(_) => (run, may + 1, fresh),
            StepState::Fresh(_) | StepState::Shared(_) | StepState::GateUnmet(..) => (run, may, fresh + 1),
        })
    }

    /// How long what runs for certain took last time, in seconds, and with it what may run; none where nothing of that is known.
    pub fn times(&self) -> (Option<f64>, Option<f64>) {
        let known = |counts: fn(&StepState) -> bool| -> Option<f64> {
            let times: Vec<f64> = self.steps.iter().filter(|step| counts(&step.state)).filter_map(|step| step.took).collect();
            (!times.is_empty()).then(|| times.iter().sum())
        };
        (known(|state| matches!(state, StepState::Stale(_))), known(|state| matches!(state, StepState::Stale(_) | StepState::Waits(_))))
    }
}

impl StepState {
    /// The state as one word and a sentence.
    pub fn words(&self) -> (&'static str, String) {
        match self {
            Self::Fresh(artifact) => ("fresh", artifact.summary.clone()),
            Self::Shared(artifact) => ("shared", artifact.summary.clone()),
            Self::GateUnmet(_, unmet) => ("gate", unmet.join("; ")),
            Self::Stale(reasons) => ("run", why::sentence(reasons)),
            Self::Waits(upstream) => ("waits", format!("runs if {} out different", come(upstream))),
            Self::Blocked(gate) => ("blocked", format!("`{gate}` does not pass its gate")),
        }
    }

    /// The state for programs.
    pub fn json(&self) -> Value {
        let (word, sentence) = self.words();
        match self {
            Self::Stale(reasons) => json!({ "state": word, "sentence": sentence, "reasons": reasons }),
            Self::Waits(upstream) => json!({ "state": word, "sentence": sentence, "for": upstream }),
            Self::Blocked(gate) => json!({ "state": word, "sentence": sentence, "for": [gate] }),
            Self::Fresh(artifact) | Self::Shared(artifact) | Self::GateUnmet(artifact, _) => json!({
                "state": word, "sentence": sentence, "digest": artifact.digest, "metrics": artifact.metrics,
            }),
        }
    }
}

fn come(upstream: &[String]) -> String {
    let names = upstream.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
    format!("{names} {}", if upstream.len() == 1 { "comes" } else { "come" })
}

/// Decides whether a step has to run.
pub struct FreshnessCheck<'a> {
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// What is there already.
    pub store: &'a Store,
    /// Steps that run whatever is there.
    pub force: &'a BTreeSet<String>,
}

impl FreshnessCheck<'_> {
    /// What a step's result depends on, given the results before it.
    pub fn ingredients(&self, step: &Step, done: &BTreeMap<String, Artifact>) -> Result<FingerprintInputs> {
        let root = absolute(&self.pipeline.root)?;
        let sources = step.stage.sources();
        let mut settings = portable(step.stage.identity(), &sources, &root);
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
            pipeline: step.stage.names_pipeline().then(|| self.pipeline.name.clone()),
            known: LazyFingerprint::default(),
        })
    }

    fn read_sources(&self, root: &Path, step: &Step) -> Result<Vec<SourceInput>> {
        let mut read: Vec<SourceInput> = Vec::new();
        for path in step.stage.sources() {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            if !read.iter().any(|source| source.path == name) {
                read.push(SourceInput {
                    path: name,
                    content: Content::read_some(&root.join(&path), self.store.index(), SymlinkPolicy::Follow, &|file| {
                        step.stage.reads(file)
                    })?,
                });
            }
        }
        Ok(read)
    }

    /// The first source that is no longer what it was when the ingredients were listed.
    pub fn moved_source(&self, step: &Step, before: &FingerprintInputs) -> Result<Option<String>> {
        let root = absolute(&self.pipeline.root)?;
        let now = self.read_sources(&root, step)?;
        Ok(now.iter().zip(&before.sources).find(|(now, before)| now != before).map(|(now, _)| now.path.clone()))
    }

    /// Whether a step has to run, and why.
    pub fn verdict(&self, step: &Step, ingredients: &FingerprintInputs) -> Result<Freshness> {
        if self.force.contains(&step.name) {
            return Ok(Freshness::Stale(vec![Why::Forced]));
        }
        let fingerprint = ingredients.fingerprint();
        match self.store.record(fingerprint).or_else(|| self.store.lent(fingerprint)) {
            Some(record) => {
                let reasons = self.broken(&record)?;
                Ok(if reasons.is_empty() {
                    Freshness::Fresh(Box::new(self.store.artifact(&record, &step.name)))
                } else {
                    Freshness::Stale(reasons)
                })
            }
            None => Ok(Freshness::Stale(self.missing(step, ingredients, fingerprint))),
        }
    }

    /// What is wrong with a recorded result.
    fn broken(&self, record: &CacheEntry) -> Result<Vec<Why>> {
        let lent = || self.store.lent(record.ingredients.fingerprint()).is_some();
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

    /// Why there is no result with this fingerprint.
    fn missing(&self, step: &Step, new: &FingerprintInputs, fingerprint: Fingerprint) -> Vec<Why> {
        let Some(last) = self.store.last(&self.pipeline.name, &step.name) else { return vec![Why::NeverRun] };
        if last.tried.fingerprint == fingerprint {
            match last.tried.end.clone() {
                AttemptEnd::Parked { have, need, .. } => return vec![Why::Parked { have, need }],
                AttemptEnd::Failed { message } => return vec![Why::PreviousFailed { message }],
                AttemptEnd::Interrupted | AttemptEnd::Begun => return vec![Why::Interrupted],
                AttemptEnd::SourceMoved { path } => return vec![Why::SourceMoved { path }],
                AttemptEnd::Done => return vec![Why::OutputMissing { problem: "the record of its result is gone".to_owned() }],
            }
        }
        let Some(done) = &last.done else { return vec![Why::NeverRun] };
        let reasons = why::differences(done, new, |was, is| self.compare(was, is));
        if reasons.is_empty() { vec![Why::NeverRun] } else { reasons }
    }

    /// The reasons that do not hang on the inputs, for a step whose inputs are not there yet.
    fn own_reasons(&self, step: &Step, done: &BTreeMap<String, Artifact>) -> Result<Vec<Why>> {
        if self.force.contains(&step.name) {
            return Ok(vec![Why::Forced]);
        }
        let Some(mut old) = self.store.last(&self.pipeline.name, &step.name).and_then(|last| last.done.clone()) else {
            return Ok(vec![Why::NeverRun]);
        };
        let new = self.ingredients(step, done)?;
        (old.inputs, old.known) = (new.inputs.clone(), LazyFingerprint::default());
        Ok(why::differences(&old, &new, |_, _| ContentDiff::default()))
    }

    /// How long the newest result of a step took to make.
    fn took(&self, step: &Step) -> Option<f64> {
        let last = self.store.last(&self.pipeline.name, &step.name)?;
        self.store.record(last.done.as_ref()?.fingerprint()).map(|record| record.seconds)
    }

    /// What two results have different in them, file by file, as far as they are still known.
    pub fn compare(&self, was: &UpstreamInput, is: &UpstreamInput) -> ContentDiff {
        let trees = self.store.tree(was.digest).zip(self.store.tree(is.digest));
        trees.map(|(was, is)| was.changes(&is)).unwrap_or_default()
    }
}

/// A path made absolute, where an empty one is the current folder.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(Path::new(".").join(path)).with_context(|| format!("cannot find `{}`", path.display()))
}

/// The gates an artifact does not pass, each in a sentence.
pub fn unmet(require: &BTreeMap<String, MetricBound>, artifact: &Artifact) -> Vec<String> {
    let check = |(name, bound): (&String, &MetricBound)| match artifact.metrics.get(name) {
        Some(value) if bound.holds(*value) => None,
        Some(value) => Some(format!("{name} is {value}, which is not {bound}")),
        None => {
            let known = artifact.metrics.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Some(format!("it has no number called `{name}`; it has: {}", if known.is_empty() { "none" } else { &known }))
        }
    };
    require.iter().filter_map(check).collect()
}
