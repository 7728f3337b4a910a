//! The resolved pipeline: a validated DAG of stages, built without reading the disk.
//!
//! [`Pipeline::parse`] is a pure function. It continues after a mistake: a stage with invalid settings still has a name that other
//! stages can refer to, so a file with five mistakes gets five diagnostics and no follow-up errors.

mod cache;
pub mod draw;
mod edges;
mod limits;
mod order;
mod resolver;
mod resources;
mod retry;
mod selection;
mod tracking;
mod upstream;

pub use crate::manifest::ExecutorKind;
pub use cache::CacheSettings;
pub use limits::{Comparison, MetricBound};
pub use resources::{CPU, GPU, MachineResources, ResourceRequest, SlurmSettings};
pub use retry::{RecoveryRule, StageRetry};
pub use selection::StageSelection;
pub use tracking::{TrackerKind, TrackingSettings};

use crate::cache::programs;
use crate::diagnostics::Diagnostic;
use crate::manifest::Manifest;
use crate::manifest::include::ManifestSources;
use crate::manifest::matrix::SweepMatrix;
use crate::manifest::overrides::{Arguments, CommandLineOverrides};
use crate::stage::{AnyStage, StageFactory};
use resolver::Resolver;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// A validated `pipeline.toml`.
pub struct Pipeline {
    /// `[pipeline] name`.
    pub name: String,
    /// The folder that relative paths start from: the file's folder joined with `[pipeline] root`.
    pub root: PathBuf,
    /// `[pipeline] seed`.
    pub seed: u64,
    /// The steps in topological order (ties in file order).
    pub steps: Vec<Step>,
    /// Experiment tracking.
    pub tracking: Option<TrackingSettings>,
    /// Resources to run it on.
    pub machines: MachineResources,
    /// Settings of the result cache.
    pub cache: CacheSettings,
    /// The pipeline file.
    pub file: PathBuf,
    /// Steps that a [`StageSelection`] left out; no selected step needs their results.
    pub left_out: Vec<Step>,
    /// Names of the steps that a [`StageSelection`] left out although selected steps need their results: they are used if they are up to date,
    /// and never run.
    pub held: BTreeSet<String>,
}

/// Result of parsing a pipeline file.
#[derive(Debug)]
pub struct ParsedPipeline {
    /// The pipeline; `None` if any diagnostic is an error.
    pub pipeline: Option<Pipeline>,
    /// Its `[matrix]`, if there is one and it is valid.
    pub matrix: Option<SweepMatrix>,
    /// All errors and warnings, in file order.
    pub diagnostics: Vec<Diagnostic>,
}

/// A resolved `[stage.NAME]`.
pub struct Step {
    /// The stage's name.
    pub name: String,
    /// The stage kind with its settings.
    pub stage: Box<dyn AnyStage>,
    /// Input port → names of the upstream steps.
    pub from: BTreeMap<String, Vec<String>>,
    /// Steps that must finish first although no data flows from them.
    pub after: Vec<String>,
    /// Seed, derived from the pipeline's seed and the step's name.
    pub seed: u64,
    /// Gates: metric name → bound.
    pub require: BTreeMap<String, MetricBound>,
    /// Maximum run time of one attempt.
    pub timeout: Option<Duration>,
    /// Maximum time without an event.
    pub stall_timeout: Option<Duration>,
    /// Resources it needs, and where it runs.
    pub resources: ResourceRequest,
    /// Retries after a failure.
    pub retry: StageRetry,
}

impl Pipeline {
    /// Parses the text of a `pipeline.toml` with the stage kinds in `registry`. `file` only determines where relative paths start; no
    /// file is read.
    pub fn parse(
        registry: &[&dyn StageFactory],
        text: &str,
        file: &Path,
        overrides: &CommandLineOverrides,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> ParsedPipeline {
        Self::parse_sources(registry, &ManifestSources::alone(text, file), file, overrides, env)
    }

    /// Like [`Pipeline::parse`], for a file with its includes.
    pub fn parse_sources(
        registry: &[&dyn StageFactory],
        sources: &ManifestSources,
        file: &Path,
        overrides: &CommandLineOverrides,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> ParsedPipeline {
        let text = sources.text();
        let mut arguments = Arguments::after(text);
        let (mut manifest, mut diagnostics) = Manifest::read(sources, overrides, registry, &mut arguments, env);
        let matrix = manifest.as_mut().and_then(|manifest| manifest.sweep.take());
        let foreach = manifest.as_mut().map(|manifest| std::mem::take(&mut manifest.foreach)).unwrap_or_default();
        let resolver = Resolver { registry, text, env, foreach: &foreach, found: &mut diagnostics };
        let pipeline = manifest.map(|manifest| resolver.pipeline(manifest, file));
        // Sort before mapping spans to files and arguments: until then all spans count bytes of one text.
        diagnostics.sort_by(Diagnostic::in_order);
        if !foreach.is_empty() {
            let mut seen = BTreeSet::new();
            diagnostics.retain(|one| seen.insert((one.span.start, one.span.end, foreach.without_entries(&one.message))));
        }
        for diagnostic in &mut diagnostics {
            arguments.place(diagnostic);
            sources.place(diagnostic);
        }
        diagnostics.dedup();
        let valid = !diagnostics.iter().any(Diagnostic::is_error);
        let pipeline = pipeline.filter(|_| valid);
        ParsedPipeline { pipeline, matrix, diagnostics }
    }

    /// The part of the pipeline that one step depends on, including the step.
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

    /// The path of the pipeline file from the project root, which tells two files of one name apart; absolute if it lies elsewhere.
    pub fn origin(&self) -> String {
        let is_plain = |path: &Path| path.is_relative() && path.components().all(|part| matches!(part, Component::Normal(_)));
        // This is asked for each step: where the paths themselves tell, the system is not asked for the working folder.
        if is_plain(&self.file)
            && is_plain(&self.root)
            && let Ok(below) = self.file.strip_prefix(&self.root)
        {
            return below.to_string_lossy().into_owned();
        }
        let absolute = |path: &Path| std::path::absolute(Path::new(".").join(path)).map(|path| without_dots(&path)).unwrap_or_default();
        let file = absolute(&self.file);
        file.strip_prefix(absolute(&self.root)).unwrap_or(&file).to_string_lossy().into_owned()
    }

    /// The step with this name.
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }
}

impl Step {
    /// The direct dependencies (`from` and `after`), sorted and unique.
    pub fn needs(&self) -> BTreeSet<&str> {
        self.from.values().flatten().chain(&self.after).map(String::as_str).collect()
    }

    /// The steps whose results it uses, sorted and unique.
    pub fn inputs(&self) -> BTreeSet<&str> {
        self.from.values().flatten().map(String::as_str).collect()
    }

    /// Whether its result may come from, and go to, a shared cache. What it puts elsewhere does not come with it.
    pub fn is_shared(&self) -> bool {
        !self.stage.publishes() && self.stage.external_outputs().is_empty()
    }

    /// Files and folders outside the store whose content is part of the fingerprint: those named in the settings, and the programs it
    /// uses, found from the project root.
    pub fn sources(&self, root: &Path) -> Vec<PathBuf> {
        let programs = self.stage.programs().into_iter().map(|name| programs::find(&name, root).unwrap_or_else(|| name.into()));
        self.stage.sources().into_iter().chain(programs).collect()
    }

    /// The connected input ports, sorted.
    pub fn ports(&self) -> Vec<&str> {
        self.from.keys().map(String::as_str).collect()
    }
}

/// A path with its `..` resolved by name.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    plain
}

/// The seed of a step: a BLAKE3 hash truncated to 53 bits, which JSON numbers represent exactly.
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
    /// The same step with other stage settings.
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
