//! Kinds of work: one file each, one line each in [`STAGES`].
//!
//! The implementing struct *is* the `with = { … }` table of `pipeline.toml`: its fields are the settings, its doc comments
//! their descriptions in the JSON Schema. Everything else (ports, fingerprints, schema, parsing) follows from the trait.

mod failure;
mod overrides;

pub use failure::Failure;
pub use overrides::{SettingOverrides, told};

use crate::artifact::{Artifact, ArtifactKind};
use crate::error::{Error, Result};
use crate::events::{Emitter, Event};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::schema;
use crate::manifest::schema::SchemaShape;
use crate::process::liveness_lock::LivenessLock;
use crate::scheduler::gpu::Gpu;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use toml::Spanned;
use toml::de::DeTable;

/// Is told of a repository that settings name, as `id@revision`, and returns the commit to use, if it knows one.
pub type ResolveRevision<'a> = dyn FnMut(&str) -> Option<String> + 'a;

/// A kind of work, with its settings.
pub trait Stage: DeserializeOwned + Serialize + JsonSchema + Send + Sync + 'static {
    /// What `uses = "…"` says.
    const KIND: &'static str;
    /// One sentence on what it does, for `voxpipe schema` and error messages.
    const ABOUT: &'static str;
    /// Raise it when old results no longer count.
    const VERSION: u32;
    /// What `from = { … }` may name.
    const INPUTS: &'static [Port];

    /// What the stage makes.
    fn output(&self) -> ArtifactKind;

    /// Complaints about settings that have the right type but cannot work, found without touching a file.
    fn check(&self) -> Vec<SettingError> {
        Vec::new()
    }

    /// Outside files and folders whose content belongs in the fingerprint, as written in the settings
    /// (relative ones are relative to the project's root).
    fn sources(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Whether a file inside a folder among the sources, by its path in that folder, is read; others do not count.
    fn reads(&self, _file: &str) -> bool {
        true
    }

    /// The settings as they enter the fingerprint. Override it for settings that do not change the result.
    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    /// Settings that lead others to the same result, on a machine that may be another: those of [`Stage::identity`], unless they do not
    /// stand for themselves.
    fn recipe(&self) -> Value {
        self.identity()
    }

    /// Files and folders outside the store that the stage writes (a published folder); they are watched, and the stage runs
    /// again when they are gone or changed.
    fn external_outputs(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Offers every repository of the Hub that the settings name, and writes the commit it is given into them.
    fn pin(&mut self, _pin: &mut ResolveRevision<'_>) {}

    /// Precision and device class (`cpu-f32`), for kinds whose bytes depend on them; part of the fingerprint.
    fn numerics(&self) -> Option<String> {
        None
    }

    /// Whether it makes use of the whole machine, so that other work beside it would only slow both down; the file's `resources` may say
    /// otherwise.
    fn fills_machine(&self) -> bool {
        false
    }

    /// Whether it makes use of [`Context::scratch`], which is made only then.
    fn uses_scratch(&self) -> bool {
        true
    }

    /// What of the environment decided which files [`Stage::sources`] names, so that a run with nothing to do can see that it has not changed.
    fn lookups(&self) -> Lookups {
        Lookups::default()
    }

    /// Whether the pipeline's name ([`Context::pipeline`]) is written into the result, and so is part of the fingerprint.
    fn names_pipeline(&self) -> bool {
        false
    }

    /// Whether it needs something outside this machine that [`Stage::preflight`] can ask for.
    fn reaches_out(&self) -> bool {
        false
    }

    /// Asks, before any stage of a run begins, whether what this one needs outside this machine will be there, so that hours of training
    /// do not end in a refusal. Given are the ports it has. Returns what it found, in a sentence; nothing where the network is not to be used.
    fn preflight(&self, _given: &[&str], _stop: &AtomicBool) -> Result<Option<String>> {
        Ok(None)
    }

    /// Whether the result tells how what goes in was made ([`Context::upstream`]), so that it is part of the fingerprint.
    fn tells_upstream(&self) -> bool {
        false
    }

    /// What is wrong with these ports being given together, and what to write instead; ports that are always needed say so themselves.
    fn refuses(&self, _given: &[&str]) -> Option<(String, String)> {
        None
    }

    /// What to think of with these ports given, although it would work: what it means, and what to write.
    fn advises(&self, _given: &[&str]) -> Option<(String, String)> {
        None
    }

    /// What may help after a failure, the best first: settings to change, each with half a sentence on what that does.
    fn remedies(&self, _failure: Failure) -> Vec<SuggestedSettings> {
        Vec::new()
    }

    /// Does the work: everything made goes into `cx.out`, which becomes the artifact when this returns [`StageOutcome::Done`].
    fn run(&self, cx: &Context) -> Result<StageOutcome>;
}

/// Environment variables and paths that were consulted to find a stage's sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// Names of environment variables, such as `PATH`.
    pub variables: Vec<String>,
    /// Paths whose presence or absence decided.
    pub paths: Vec<PathBuf>,
}

/// An input a stage takes.
#[derive(Debug)]
pub struct Port {
    /// The key in `from = { … }`; `*` stands for any name.
    pub name: &'static str,
    /// The kinds that fit; empty means any.
    pub kinds: &'static [ArtifactKind],
    /// How many there may be.
    pub arity: Arity,
    /// One sentence on what it is for.
    pub about: &'static str,
}

/// How many artifacts a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one.
    One,
    /// One or none.
    Optional,
    /// At least one.
    Many,
}

/// Something wrong with a setting, placed by the path of its key inside `with`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The keys that lead to the value, `["split", "test"]`; empty for the whole table.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl SettingError {
    /// A complaint about the value at `path`, a dotted path such as `split.test`.
    pub fn new(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect(), message: message.into(), hint: None }
    }

    /// Adds what to write instead.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// How a stage ended when nothing went wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum StageOutcome {
    /// The result is in `cx.out`.
    Done(StageResult),
    /// A person has to do something first; running again looks again.
    Parked {
        /// How much is there.
        have: u64,
        /// How much is needed.
        need: u64,
        /// What to do.
        message: String,
    },
}

/// Settings that may help after a failure.
#[derive(Clone, Debug, PartialEq)]
pub struct SuggestedSettings {
    /// What to change.
    pub set: SettingOverrides,
    /// What that does, half a sentence.
    pub about: &'static str,
}

/// What a stage says of what it made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageResult {
    /// One sentence.
    pub summary: String,
    /// Numbers worth comparing and gating on.
    pub metrics: BTreeMap<String, f64>,
    /// Further facts for stages downstream.
    pub facts: BTreeMap<String, Value>,
}

impl StageResult {
    /// Something made, described in one sentence.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }

    /// Adds a number.
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

/// What a running stage is given: its inputs, its folders, its seed, and a voice.
#[derive(Debug)]
pub struct Context {
    /// The stage's name in the pipeline.
    pub stage: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The project's root: relative paths in settings start here.
    pub root: PathBuf,
    /// The stage's own seed, derived from the pipeline's seed and the stage's name.
    pub seed: u64,
    /// The inputs by port, in the order `from` names them.
    pub inputs: BTreeMap<String, Vec<Artifact>>,
    /// The outside files and folders that each stage of the pipeline reads, by its name, as written in its settings.
    pub sources: Arc<BTreeMap<String, Vec<PathBuf>>>,
    /// How each step before this one works, by its name: kind, version, seed, settings and inputs. Only for stages that tell it.
    pub upstream: BTreeMap<String, Value>,
    /// A private, empty folder: what is in it at the end is the result.
    pub out: PathBuf,
    /// A folder kept between attempts with the same fingerprint: checkpoints live here.
    pub scratch: PathBuf,
    /// A folder for what can be computed again, shared by all stages and runs of the project; it need not exist, and what was in it
    /// may be gone at any time.
    pub cache: PathBuf,
    /// The cards it was given for itself; none where nobody counts them.
    pub gpus: Vec<Gpu>,
    /// What the programs it starts hold on to, so that they are found should this run be killed; none where something else sees to that.
    pub liveness: Option<Arc<LivenessLock>>,
    /// Where events go.
    pub emitter: Emitter,
    /// Set when the run should stop soon; long stages look at it and leave with [`crate::error::Exit::Interrupted`].
    pub stop: Arc<AtomicBool>,
}

impl Context {
    /// The only artifact of a port.
    pub fn input(&self, port: &str) -> Result<&Artifact> {
        self.optional(port).ok_or_else(|| Error::new(format!("stage `{}` was given nothing for `{port}`", self.stage)))
    }

    /// The only artifact of a port that may be left out.
    pub fn optional(&self, port: &str) -> Option<&Artifact> {
        self.inputs.get(port).and_then(|artifacts| artifacts.first())
    }

    /// All artifacts of a port.
    pub fn all(&self, port: &str) -> &[Artifact] {
        self.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// A path from the settings, made absolute.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Says how far the stage is.
    pub fn progress(&self, done: u64, total: u64, unit: &str, detail: impl Into<String>) {
        self.emitter.emit(Event::Progress { stage: self.stage.clone(), done, total, unit: unit.to_owned(), detail: detail.into() });
    }

    /// Says something a person should read.
    pub fn note(&self, message: impl Into<String>) {
        self.emitter.emit(Event::Note { stage: self.stage.clone(), message: message.into() });
    }

    /// Says something a person should look at.
    pub fn warn(&self, message: impl Into<String>) {
        self.emitter.emit(Event::Warning { stage: self.stage.clone(), message: message.into() });
    }

    /// Whether the run should stop soon.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A stage of any kind, configured: what the runner holds. Implemented for every [`Stage`].
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
    /// See [`Stage::reads`].
    fn reads(&self, file: &str) -> bool;
    /// See [`Stage::identity`].
    fn identity(&self) -> Value;
    /// See [`Stage::recipe`].
    fn recipe(&self) -> Value {
        self.identity()
    }
    /// See [`Stage::external_outputs`].
    fn external_outputs(&self) -> Vec<PathBuf>;
    /// See [`Stage::numerics`].
    fn numerics(&self) -> Option<String>;
    /// See [`Stage::names_pipeline`].
    fn names_pipeline(&self) -> bool;
    /// See [`Stage::tells_upstream`].
    fn tells_upstream(&self) -> bool {
        false
    }
    /// See [`Stage::refuses`].
    fn refuses(&self, _given: &[&str]) -> Option<(String, String)> {
        None
    }
    /// See [`Stage::advises`].
    fn advises(&self, _given: &[&str]) -> Option<(String, String)> {
        None
    }
    /// See [`Stage::run`].
    fn run(&self, cx: &Context) -> Result<StageOutcome>;
    /// See [`Stage::fills_machine`].
    fn fills_machine(&self) -> bool {
        false
    }
    /// See [`Stage::uses_scratch`].
    fn uses_scratch(&self) -> bool {
        true
    }
    /// See [`Stage::lookups`].
    fn lookups(&self) -> Lookups {
        Lookups::default()
    }
    /// See [`Stage::reaches_out`].
    fn reaches_out(&self) -> bool {
        false
    }
    /// See [`Stage::preflight`].
    fn preflight(&self, _given: &[&str], _stop: &AtomicBool) -> Result<Option<String>> {
        Ok(None)
    }
    /// See [`Stage::remedies`].
    fn remedies(&self, _failure: Failure) -> Vec<SuggestedSettings> {
        Vec::new()
    }
    /// The settings, defaults filled in.
    fn settings(&self) -> Value {
        self.identity()
    }
    /// See [`Stage::pin`].
    fn pin(&mut self, _pin: &mut ResolveRevision<'_>) {}
    /// The same stage with other settings.
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
    fn reads(&self, file: &str) -> bool {
        Stage::reads(self, file)
    }
    fn identity(&self) -> Value {
        Stage::identity(self)
    }
    fn recipe(&self) -> Value {
        Stage::recipe(self)
    }
    fn external_outputs(&self) -> Vec<PathBuf> {
        Stage::external_outputs(self)
    }
    fn numerics(&self) -> Option<String> {
        Stage::numerics(self)
    }
    fn names_pipeline(&self) -> bool {
        Stage::names_pipeline(self)
    }
    fn tells_upstream(&self) -> bool {
        Stage::tells_upstream(self)
    }
    fn refuses(&self, given: &[&str]) -> Option<(String, String)> {
        Stage::refuses(self, given)
    }
    fn advises(&self, given: &[&str]) -> Option<(String, String)> {
        Stage::advises(self, given)
    }
    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        Stage::run(self, cx)
    }
    fn fills_machine(&self) -> bool {
        Stage::fills_machine(self)
    }
    fn uses_scratch(&self) -> bool {
        Stage::uses_scratch(self)
    }
    fn lookups(&self) -> Lookups {
        Stage::lookups(self)
    }
    fn reaches_out(&self) -> bool {
        Stage::reaches_out(self)
    }
    fn preflight(&self, given: &[&str], stop: &AtomicBool) -> Result<Option<String>> {
        Stage::preflight(self, given, stop)
    }
    fn remedies(&self, failure: Failure) -> Vec<SuggestedSettings> {
        Stage::remedies(self, failure)
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

/// A kind of work before it has settings: how a pipeline reads a stage of that kind.
pub trait StageFactory: Sync {
    /// See [`Stage::KIND`].
    fn kind(&self) -> &'static str;
    /// See [`Stage::ABOUT`].
    fn about(&self) -> &'static str;
    /// See [`Stage::VERSION`].
    fn version(&self) -> u32;
    /// See [`Stage::INPUTS`].
    fn ports(&self) -> &'static [Port];
    /// The shape of the `with` table; what it refers to is in the generator's definitions afterwards.
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
    /// Reads a `with` table. Every mistake is reported at its place; whether the settings can work is for [`Stage::check`].
    fn parse(&self, with: Spanned<DeTable<'_>>) -> Result<Box<dyn AnyStage>, Vec<Diagnostic>>;
    /// The stage of which [`AnyStage::settings`] told these.
    fn restore(&self, settings: Value) -> Result<Box<dyn AnyStage>>;
}

/// The entry of a kind of work.
pub struct FactoryOf<S>(PhantomData<fn() -> S>);

impl<S: Stage> FactoryOf<S> {
    /// For [`STAGES`].
    pub const NEW: Self = Self(PhantomData);
}

impl<S: Stage> StageFactory for FactoryOf<S> {
    fn kind(&self) -> &'static str {
        S::KIND
    }
    fn about(&self) -> &'static str {
        S::ABOUT
    }
    fn version(&self) -> u32 {
        S::VERSION
    }
    fn ports(&self) -> &'static [Port] {
        S::INPUTS
    }
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<S>()
    }
    fn restore(&self, settings: Value) -> Result<Box<dyn AnyStage>> {
        let stage: S =
            serde_json::from_value(settings).map_err(|error| Error::from(error).context(format!("settings of `{}`", S::KIND)))?;
        Ok(Box::new(stage))
    }
    fn parse(&self, mut with: Spanned<DeTable<'_>>) -> Result<Box<dyn AnyStage>, Vec<Diagnostic>> {
        let span = with.span();
        let shape = schema::of::<S>();
        let found = SchemaShape::new(&shape.0, &shape.1).check(&mut with, "with");
        if !found.is_empty() {
            // What was taken out would be missed now; that is no further mistake.
            return Err(found);
        }
        match S::deserialize(toml::de::Deserializer::from(with)) {
            Ok(stage) => Ok(Box::new(stage)),
            Err(error) => Err(vec![schema::unreadable(&error, span)]),
        }
    }
}
