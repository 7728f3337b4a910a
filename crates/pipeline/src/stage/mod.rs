//! The [`Stage`] trait: a stage kind with its settings, input ports and fingerprint.
//!
//! The implementing struct *is* the `with = { … }` table of `pipeline.toml`: its fields are the settings, and its doc comments
//! are their descriptions in the JSON Schema. Parsing and schema are derived from the trait. A registry of [`FactoryOf`] entries
//! lists the available kinds.

mod factory;
mod failure;
pub mod gpu;
mod overrides;
mod publication;

pub use factory::{FactoryOf, StageFactory};
pub use failure::Failure;
pub use overrides::{SettingOverrides, describe_overrides};
pub use publication::PublicationState;

use crate::artifact::{Artifact, ArtifactKind};
use crate::error::{Error, Result};
use crate::events::{Emitter, Event};
use crate::process::liveness_lock::LivenessLock;
use crate::stage::gpu::Gpu;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maps a Hub repository in the settings, as `id@revision`, to the commit to use (from the lockfile), if it is known.
pub type ResolveRevision<'a> = dyn FnMut(&str) -> Option<String> + 'a;

/// A stage kind with its settings.
pub trait Stage: DeserializeOwned + Serialize + JsonSchema + Send + Sync + 'static {
    /// The kind's name in `uses = "…"`.
    const KIND: &'static str;
    /// One-sentence description, for `voxpipe schema` and error messages.
    const ABOUT: &'static str;
    /// Version of the implementation; increase it to invalidate old results.
    const VERSION: u32;
    /// The input ports, for `from = { … }`.
    const INPUTS: &'static [Port];

    /// The kind of the result.
    fn output(&self) -> ArtifactKind;

    /// Errors in settings that have the right type but invalid values. Reads no files.
    fn check(&self) -> Vec<SettingError> {
        Vec::new()
    }

    /// Files and folders outside the store whose content is part of the fingerprint, as written in the settings (relative to the
    /// project root).
    fn sources(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Programs whose files are part of the fingerprint, by name in `PATH` or by path. The runner looks them up, from the project root.
    fn programs(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether a file in a source folder, given by its path in that folder, is part of the fingerprint.
    fn reads(&self, _file: &str) -> bool {
        true
    }

    /// Whether files of a folder in a source folder, given by its path in that folder, can be part of the fingerprint.
    fn enters(&self, _folder: &str) -> bool {
        true
    }

    /// The settings that are part of the fingerprint. Override it to leave out settings that do not affect the result.
    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    /// Settings that reproduce the result on another machine, for provenance. The default is [`Stage::identity`]; override it if that
    /// contains derived or machine-dependent values.
    fn portable_settings(&self) -> Value {
        self.identity()
    }

    /// Files and folders outside the store that the stage writes, such as a published folder. The stage is stale if they are missing or
    /// changed.
    fn external_outputs(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Whether the stage puts something on a remote service, where [`Stage::verify`] finds it. Such a result is never shared between users, and
    /// counts as fresh only if it was verified.
    fn publishes(&self) -> bool {
        false
    }

    /// Compares what the stage put on a remote service with what its `result` tells. Without `connect` no connection may be opened: then the
    /// answer is [`PublicationState::NotChecked`], unless the settings of the environment alone rule it out.
    fn verify(&self, _result: &Artifact, _connect: bool, _stop: &AtomicBool) -> PublicationState {
        PublicationState::Unchanged
    }

    /// Resolves every Hub repository in the settings to a commit and stores the commit in the settings.
    fn pin(&mut self, _pin: &mut ResolveRevision<'_>) {}

    /// Device class and precision, such as `cpu-f32`, for kinds whose result depends on them; part of the fingerprint.
    fn numerics(&self) -> Option<String> {
        None
    }

    /// Whether the stage uses all CPU cores, so that concurrent stages would only slow each other down. The file's `resources` override it.
    fn uses_all_cores(&self) -> bool {
        false
    }

    /// Whether the stage uses [`Context::scratch`]; the folder is created only then.
    fn uses_scratch(&self) -> bool {
        true
    }

    /// Whether the result contains the pipeline's name ([`Context::pipeline`]); the name is then part of the fingerprint.
    fn records_pipeline_name(&self) -> bool {
        false
    }

    /// Whether the stage uses a remote service that [`Stage::preflight`] can check.
    fn uses_network(&self) -> bool {
        false
    }

    /// Checks remote services before a run starts, such as permission to publish, so that a run does not fail after hours of training.
    /// `given` are the connected ports. Returns a one-sentence result; `None` if the network must not be used.
    fn preflight(&self, _given: &[&str], _stop: &AtomicBool) -> Result<Option<String>> {
        Ok(None)
    }

    /// What the settings need and this machine lacks, such as a device. Loads nothing.
    fn missing_on_machine(&self) -> Option<Error> {
        None
    }

    /// Whether the result records the settings of all upstream stages ([`Context::upstream`]); they are then part of the fingerprint.
    fn records_upstream(&self) -> bool {
        false
    }

    /// Mistakes in the settings that show only when the number of inputs of each port is known.
    fn check_inputs(&self, _counts: &BTreeMap<&str, usize>) -> Vec<SettingError> {
        Vec::new()
    }

    /// Settings that are valid but probably not meant. `has_gates`: the stage has `require`.
    fn warnings(&self, _has_gates: bool) -> Vec<SettingError> {
        Vec::new()
    }

    /// An error (message and hint) if these connected ports do not work together. Missing required ports are reported elsewhere.
    fn port_conflicts(&self, _given: &[&str]) -> Option<(String, String)> {
        None
    }

    /// A warning (message and hint) about these connected ports.
    fn port_warnings(&self, _given: &[&str]) -> Option<(String, String)> {
        None
    }

    /// Setting overrides that may help after a failure, best first.
    fn recovery_suggestions(&self, _failure: Failure) -> Vec<SuggestedSettings> {
        Vec::new()
    }

    /// Runs the stage. It writes its result to `cx.out`, which becomes the artifact on [`StageOutcome::Done`].
    fn run(&self, cx: &Context) -> Result<StageOutcome>;
}

/// An input port of a stage.
#[derive(Debug)]
pub struct Port {
    /// The key in `from = { … }`; `*` matches any name.
    pub name: &'static str,
    /// The accepted artifact kinds; empty for any.
    pub kinds: &'static [ArtifactKind],
    /// The number of artifacts it takes.
    pub arity: Arity,
    /// One-sentence description.
    pub about: &'static str,
}

/// The number of artifacts that a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one.
    One,
    /// Zero or one.
    Optional,
    /// One or more.
    Many,
}

/// An error in a setting, located by its key path in `with`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The key path of the value, such as `["split", "test"]`; empty for the whole table.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl SettingError {
    /// An error in the value at a dotted path such as `split.test`.
    pub fn new(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect(), message: message.into(), hint: None }
    }

    /// Sets the hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The outcome of a stage that did not fail.
#[derive(Clone, Debug, PartialEq)]
pub enum StageOutcome {
    /// The result is in `cx.out`.
    Done(StageResult),
    /// Parked: a person has to do something first; the next run checks again.
    Parked {
        /// Amount present.
        have: u64,
        /// Amount needed.
        need: u64,
        /// What the person has to do.
        message: String,
    },
}

/// Setting overrides that may help after a failure.
#[derive(Clone, Debug, PartialEq)]
pub struct SuggestedSettings {
    /// The overrides.
    pub set: SettingOverrides,
    /// Their effect, as a short phrase.
    pub about: &'static str,
}

/// Summary, metrics and facts of a stage's result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageResult {
    /// One-sentence summary.
    pub summary: String,
    /// Metrics for comparisons and gates, by name.
    pub metrics: BTreeMap<String, f64>,
    /// Further facts for downstream stages, by name.
    pub facts: BTreeMap<String, Value>,
}

impl StageResult {
    /// A result with a one-sentence summary.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }

    /// Adds a metric.
    pub fn metric(mut self, name: &str, value: f64) -> Self {
        self.metrics.insert(name.to_owned(), value);
        self
    }

    /// Adds a fact.
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

/// Execution context of a running stage: inputs, folders, seed, GPUs and event output.
#[derive(Debug)]
pub struct Context {
    /// The stage's name in the pipeline.
    pub stage: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The project root; relative paths in settings start here.
    pub root: PathBuf,
    /// The stage's seed, derived from the pipeline's seed and the stage's name.
    pub seed: u64,
    /// The inputs by port, in the order `from` names them.
    pub inputs: BTreeMap<String, Vec<Artifact>>,
    /// Source files and folders of every stage in the pipeline, by stage name, as written in the settings.
    pub sources: Arc<BTreeMap<String, Vec<PathBuf>>>,
    /// Kind, version, settings, inputs and pipeline seed of each upstream step, by name. Only for stages with [`Stage::records_upstream`].
    pub upstream: BTreeMap<String, Value>,
    /// The output folder, initially empty; its content becomes the result.
    pub out: PathBuf,
    /// A folder for checkpoints, kept between attempts with the same fingerprint.
    pub scratch: PathBuf,
    /// A folder for recomputable data, shared by all stages and runs of the project. It may not exist, and its content may be deleted at
    /// any time.
    pub cache: PathBuf,
    /// The GPUs assigned to this stage; empty if GPUs are not assigned.
    pub gpus: Vec<Gpu>,
    /// The liveness lock that child processes inherit, so that orphans are found if this run is killed. `None` where another mechanism
    /// does that.
    pub liveness: Option<Arc<LivenessLock>>,
    /// Receives events.
    pub emitter: Emitter,
    /// Set when the run should stop; long stages poll it and return an error of kind [`crate::error::ErrorKind::Interrupted`].
    pub stop: Arc<AtomicBool>,
}

impl Context {
    /// The artifact of a required port.
    pub fn input(&self, port: &str) -> Result<&Artifact> {
        self.optional(port).ok_or_else(|| Error::new(format!("stage `{}` has no input `{port}`", self.stage)))
    }

    /// The artifact of an optional port.
    pub fn optional(&self, port: &str) -> Option<&Artifact> {
        self.inputs.get(port).and_then(|artifacts| artifacts.first())
    }

    /// All artifacts of a port.
    pub fn all(&self, port: &str) -> &[Artifact] {
        self.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// Resolves a path from the settings against the project root.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Reports progress.
    pub fn progress(&self, done: u64, total: u64, unit: &str, detail: impl Into<String>) {
        self.emitter.emit(Event::Progress { stage: self.stage.clone(), done, total, unit: unit.to_owned(), detail: detail.into() });
    }

    /// Emits a note.
    pub fn note(&self, message: impl Into<String>) {
        self.emitter.emit(Event::Note { stage: self.stage.clone(), message: message.into() });
    }

    /// Emits a warning.
    pub fn warn(&self, message: impl Into<String>) {
        self.emitter.emit(Event::Warning { stage: self.stage.clone(), message: message.into() });
    }

    /// Whether the run should stop.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Object-safe version of [`Stage`] that the runner uses. Implemented for every [`Stage`].
pub trait AnyStage: Send + Sync {
    /// See [`Stage::KIND`].
    fn kind(&self) -> &'static str;
    /// See [`Stage::VERSION`].
    fn version(&self) -> u32;
    /// See [`Stage::INPUTS`].
    fn ports(&self) -> &'static [Port];
    /// See [`Stage::output`].
    fn output(&self) -> ArtifactKind;
    /// See [`Stage::check`].
    fn check(&self) -> Vec<SettingError>;
    /// See [`Stage::sources`].
    fn sources(&self) -> Vec<PathBuf>;
    /// See [`Stage::programs`].
    fn programs(&self) -> Vec<String> {
        Vec::new()
    }
    /// See [`Stage::reads`].
    fn reads(&self, file: &str) -> bool;
    /// See [`Stage::enters`].
    fn enters(&self, _folder: &str) -> bool {
        true
    }
    /// See [`Stage::identity`].
    fn identity(&self) -> Value;
    /// See [`Stage::portable_settings`].
    fn portable_settings(&self) -> Value {
        self.identity()
    }
    /// See [`Stage::external_outputs`].
    fn external_outputs(&self) -> Vec<PathBuf>;
    /// See [`Stage::publishes`].
    fn publishes(&self) -> bool {
        false
    }
    /// See [`Stage::verify`].
    fn verify(&self, _result: &Artifact, _connect: bool, _stop: &AtomicBool) -> PublicationState {
        PublicationState::Unchanged
    }
    /// See [`Stage::numerics`].
    fn numerics(&self) -> Option<String>;
    /// See [`Stage::records_pipeline_name`].
    fn records_pipeline_name(&self) -> bool;
    /// See [`Stage::records_upstream`].
    fn records_upstream(&self) -> bool {
        false
    }
    /// See [`Stage::check_inputs`].
    fn check_inputs(&self, _counts: &BTreeMap<&str, usize>) -> Vec<SettingError> {
        Vec::new()
    }
    /// See [`Stage::missing_on_machine`].
    fn missing_on_machine(&self) -> Option<Error> {
        None
    }
    /// See [`Stage::warnings`].
    fn warnings(&self, _has_gates: bool) -> Vec<SettingError> {
        Vec::new()
    }
    /// See [`Stage::port_conflicts`].
    fn port_conflicts(&self, _given: &[&str]) -> Option<(String, String)> {
        None
    }
    /// See [`Stage::port_warnings`].
    fn port_warnings(&self, _given: &[&str]) -> Option<(String, String)> {
        None
    }
    /// See [`Stage::run`].
    fn run(&self, cx: &Context) -> Result<StageOutcome>;
    /// See [`Stage::uses_all_cores`].
    fn uses_all_cores(&self) -> bool {
        false
    }
    /// See [`Stage::uses_scratch`].
    fn uses_scratch(&self) -> bool {
        true
    }
    /// See [`Stage::uses_network`].
    fn uses_network(&self) -> bool {
        false
    }
    /// See [`Stage::preflight`].
    fn preflight(&self, _given: &[&str], _stop: &AtomicBool) -> Result<Option<String>> {
        Ok(None)
    }
    /// See [`Stage::recovery_suggestions`].
    fn recovery_suggestions(&self, _failure: Failure) -> Vec<SuggestedSettings> {
        Vec::new()
    }
    /// All settings, including defaults.
    fn settings(&self) -> Value {
        self.identity()
    }
    /// See [`Stage::pin`].
    fn pin(&mut self, _pin: &mut ResolveRevision<'_>) {}
    /// The stage with setting overrides.
    fn changed(&self, _changes: &SettingOverrides) -> Result<Box<dyn AnyStage>> {
        Err(Error::new(format!("the settings of `{}` cannot be changed", self.kind())))
    }
}

impl<S: Stage> AnyStage for S {
    fn kind(&self) -> &'static str {
        S::KIND
    }
    fn version(&self) -> u32 {
        S::VERSION
    }
    fn ports(&self) -> &'static [Port] {
        S::INPUTS
    }
    fn output(&self) -> ArtifactKind {
        Stage::output(self)
    }
    fn check(&self) -> Vec<SettingError> {
        Stage::check(self)
    }
    fn sources(&self) -> Vec<PathBuf> {
        Stage::sources(self)
    }
    fn programs(&self) -> Vec<String> {
        Stage::programs(self)
    }
    fn reads(&self, file: &str) -> bool {
        Stage::reads(self, file)
    }
    fn enters(&self, folder: &str) -> bool {
        Stage::enters(self, folder)
    }
    fn identity(&self) -> Value {
        Stage::identity(self)
    }
    fn portable_settings(&self) -> Value {
        Stage::portable_settings(self)
    }
    fn external_outputs(&self) -> Vec<PathBuf> {
        Stage::external_outputs(self)
    }
    fn publishes(&self) -> bool {
        Stage::publishes(self)
    }
    fn verify(&self, result: &Artifact, connect: bool, stop: &AtomicBool) -> PublicationState {
        Stage::verify(self, result, connect, stop)
    }
    fn numerics(&self) -> Option<String> {
        Stage::numerics(self)
    }
    fn records_pipeline_name(&self) -> bool {
        Stage::records_pipeline_name(self)
    }
    fn records_upstream(&self) -> bool {
        Stage::records_upstream(self)
    }
    fn check_inputs(&self, counts: &BTreeMap<&str, usize>) -> Vec<SettingError> {
        Stage::check_inputs(self, counts)
    }
    fn missing_on_machine(&self) -> Option<Error> {
        Stage::missing_on_machine(self)
    }
    fn warnings(&self, has_gates: bool) -> Vec<SettingError> {
        Stage::warnings(self, has_gates)
    }
    fn port_conflicts(&self, given: &[&str]) -> Option<(String, String)> {
        Stage::port_conflicts(self, given)
    }
    fn port_warnings(&self, given: &[&str]) -> Option<(String, String)> {
        Stage::port_warnings(self, given)
    }
    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        Stage::run(self, cx)
    }
    fn uses_all_cores(&self) -> bool {
        Stage::uses_all_cores(self)
    }
    fn uses_scratch(&self) -> bool {
        Stage::uses_scratch(self)
    }
    fn uses_network(&self) -> bool {
        Stage::uses_network(self)
    }
    fn preflight(&self, given: &[&str], stop: &AtomicBool) -> Result<Option<String>> {
        Stage::preflight(self, given, stop)
    }
    fn recovery_suggestions(&self, failure: Failure) -> Vec<SuggestedSettings> {
        Stage::recovery_suggestions(self, failure)
    }
    fn settings(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
    fn pin(&mut self, pin: &mut ResolveRevision<'_>) {
        Stage::pin(self, pin);
    }
    fn changed(&self, changes: &SettingOverrides) -> Result<Box<dyn AnyStage>> {
        Ok(Box::new(overrides::changed(self, changes)?))
    }
}
