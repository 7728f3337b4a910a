//! A pipeline whose names are resolved and whose ports fit: everything there is to know before looking at the disk.
//!
//! [`Pipeline::parse`] is a function of its arguments. It goes on after a mistake: a stage whose settings cannot be read still
//! has a name others may refer to, so a file with five mistakes gets five complaints, and no sixth that follows from them.

mod cache;
pub mod draw;
mod edges;
mod limits;
mod order;
mod resolver;
mod resources;
mod retry;
mod tracking;
mod upstream;

pub use crate::manifest::ExecutorKind;
pub use cache::CacheSettings;
pub use limits::{Comparison, MetricBound};
pub use resources::{CPU, GPU, MachineResources, ResourceRequest, SlurmSettings};
pub use retry::{RecoveryRule, RetryPolicy};
pub use tracking::{TrackerKind, TrackingSettings};

use crate::manifest::Manifest;
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::include::ManifestSources;
use crate::manifest::matrix::SweepMatrix;
use crate::manifest::overrides::{Arguments, CommandLineOverrides};
use crate::stage::{AnyStage, StageFactory};
use resolver::Resolver;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A checked `pipeline.toml`.
pub struct Pipeline {
    /// `[pipeline] name`.
    pub name: String,
    /// The folder relative paths start from: that of the file, joined with `[pipeline] root`.
    pub root: PathBuf,
    /// `[pipeline] seed`.
    pub seed: u64,
    /// The steps in an order in which every step comes after those it needs (ties in file order).
    pub steps: Vec<Step>,
    /// Where its runs are shown beside our own log.
    pub tracking: Option<TrackingSettings>,
    /// What there is to run it on.
    pub machines: MachineResources,
    /// What is kept, and with whom it is shared.
    pub cache: CacheSettings,
    /// The environment variables that its settings were filled from (`${env.NAME}`).
    pub variables: BTreeSet<String>,
}

/// What came of a text.
#[derive(Debug)]
pub struct ParsedPipeline {
    /// The pipeline, if there is no error among the diagnostics.
    pub pipeline: Option<Pipeline>,
    /// Its `[matrix]`, if it has one and nothing is wrong with it.
    pub matrix: Option<SweepMatrix>,
    /// Everything there is to say, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// One `[stage.NAME]`.
pub struct Step {
    /// NAME.
    pub name: String,
    /// The kind with its settings.
    pub stage: Box<dyn AnyStage>,
    /// Port → names of the steps whose results go in.
    pub from: BTreeMap<String, Vec<String>>,
    /// Steps that must be done first although no data flows.
    pub after: Vec<String>,
    /// Derived from the pipeline's seed and the step's name.
    pub seed: u64,
    /// Gates: metric name → bound.
    pub require: BTreeMap<String, MetricBound>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// How long it may say nothing.
    pub stall_timeout: Option<Duration>,
    /// What it needs of a machine.
    pub resources: ResourceRequest,
    /// When it is tried again.
    pub retry: RetryPolicy,
}

impl Pipeline {
    /// Reads the text of a `pipeline.toml` whose stages are of the kinds in `registry`. `file` is only used as the place relative paths start
    /// from; nothing is read.
    pub fn parse(
        registry: &[&dyn StageFactory],
        text: &str,
        file: &Path,
        overrides: &CommandLineOverrides,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> ParsedPipeline {
        Self::parse_sources(registry, &ManifestSources::alone(text, file), file, overrides, env)
    }

    /// As [`Pipeline::parse`], for a file with everything it includes.
    pub fn parse_sources(
        registry: &[&dyn StageFactory],
        sources: &ManifestSources,
        file: &Path,
        overrides: &CommandLineOverrides,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> ParsedPipeline {
        let text = sources.text();
        let asked = RefCell::new(BTreeSet::new());
        let env = &|name: &str| {
            asked.borrow_mut().insert(name.to_owned());
            env(name)
        };
        let mut arguments = Arguments::after(text);
        let (mut manifest, mut diagnostics) = Manifest::read(sources, overrides, &mut arguments);
        let matrix = manifest.as_mut().and_then(|manifest| manifest.sweep.take());
        let pipeline = manifest.map(|manifest| Resolver { registry, text, env, found: &mut diagnostics }.pipeline(manifest, file));
        // As long as nothing is placed, the files and the command line lie one behind the other.
        diagnostics.sort_by(Diagnostic::in_order);
        for diagnostic in &mut diagnostics {
            arguments.place(diagnostic);
            sources.place(diagnostic);
        }
        diagnostics.dedup();
        let sound = !diagnostics.iter().any(Diagnostic::is_error);
        let pipeline = pipeline.filter(|_| sound).map(|pipeline| Pipeline { variables: asked.take(), ..pipeline });
        ParsedPipeline { pipeline, matrix, diagnostics }
    }

    /// The part of the pipeline that makes one step's result.
    pub fn up_to(self, name: &str) -> Self {
        let mut needed = BTreeSet::from([name.to_owned()]);
        for step in self.steps.iter().rev() {
            if needed.contains(&step.name) {
                needed.extend(step.needs().into_iter().map(str::to_owned));
            }
        }
        let steps = self.steps.into_iter().filter(|step| needed.contains(&step.name)).collect();
        Self { steps, ..self }
    }

    /// The step of a name.
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }
}

impl Step {
    /// The names of all steps that must be done first, each once, sorted.
    pub fn needs(&self) -> BTreeSet<&str> {
        self.from.values().flatten().chain(&self.after).map(String::as_str).collect()
    }

    /// The ports that are given something, sorted.
    pub fn ports(&self) -> Vec<&str> {
        self.from.keys().map(String::as_str).collect()
    }
}

/// The seed of a step: 53 bits, so that it is the same number in JSON.
pub fn derived_seed(seed: u64, step: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"voxpipe seed").update(&seed.to_le_bytes()).update(step.as_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first) & ((1 << 53) - 1)
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("name", &self.name)
            .field("root", &self.root)
            .field("seed", &self.seed)
            .field("steps", &self.steps)
            .finish()
    }
}

impl Step {
    /// The same step with another stage.
    pub fn with_stage(&self, stage: Box<dyn AnyStage>) -> Self {
        Self {
            name: self.name.clone(),
            stage,
            from: self.from.clone(),
            after: self.after.clone(),
            seed: self.seed,
            require: self.require.clone(),
            timeout: self.timeout,
            stall_timeout: self.stall_timeout,
            resources: self.resources.clone(),
            retry: self.retry.clone(),
        }
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .field("kind", &self.stage.kind())
            .field("with", &self.stage.identity())
            .field("from", &self.from)
            .field("after", &self.after)
            .field("seed", &self.seed)
            .field("require", &self.require)
            .field("timeout", &self.timeout)
            .field("stall_timeout", &self.stall_timeout)
            .field("resources", &self.resources)
            .field("retry", &self.retry)
            .finish()
    }
}
