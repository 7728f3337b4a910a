//! What `pipeline.toml` may say, with the place of everything it does say.
//!
//! The thinking goes in passes, each over the same tree of spanned TOML values:
//! 1. the texts become a tree ([`crate::manifest::include`]); only the earliest slip of syntax in each is worth telling;
//! 2. the profiles and the `--set`s are written into the tree ([`crate::manifest::overrides`]);
//! 3. the tree is held against the schema ([`crate::manifest::schema`]), which takes out what does not fit;
//! 4. tables whose content belongs to others (`params`, every `with`) are lifted out whole, so that their spans survive;
//! 5. serde reads the rest into a [`Manifest`].
//!
//! A manifest has names and places but no meaning yet: that is [`crate::graph`].

pub mod byte_size;
mod cache;
pub mod diagnostic;
pub mod include;
pub mod include_files;
pub mod interpolate;
pub mod matrix;
pub mod migration;
pub mod one_or_many;
pub mod origin;
pub mod overrides;
mod resources;
pub mod schema;
mod tracking;

pub use cache::CacheTable;
pub use resources::{ExecutorKind, ResourceNeeds, SlurmTable};
pub use tracking::{TrackingTable, TrackioTable};

use crate::stage::Failure;
use crate::stage::StageFactory;
use diagnostic::{Diagnostic, did_you_mean};
use include::{ManifestSources, MergedToml};
use matrix::SweepMatrix;
use overrides::{Arguments, CommandLineOverrides};
use schema::{SchemaShape, TOP};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The number this version of the file format has.
pub const SCHEMA: u64 = 1;

/// A table that is handed on as it stands.
pub type TomlTable<'t> = Spanned<DeTable<'t>>;

/// Shown in the schema; a path because schemars takes no array without features of syn.
const INCLUDE_EXAMPLE: [&str; 1] = ["defaults.toml"];

/// From recordings to a fine-tuned, evaluated, published Voxtral speech recogniser.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "A voxpipe pipeline")]
pub struct Manifest<'t> {
    /// The version of the file format: 1.
    #[schemars(with = "u64", example = SCHEMA)]
    pub schema: Option<Spanned<u64>>,
    /// Other files, or patterns of such, that this one is laid over: what they say holds where this file says nothing else. Paths start at
    /// this file's folder.
    #[serde(default)]
    #[schemars(with = "Vec<String>", example = INCLUDE_EXAMPLE)]
    pub include: Vec<Spanned<String>>,
    /// What holds for the whole pipeline.
    #[schemars(with = "PipelineTable")]
    pub pipeline: Option<PipelineTable>,
    /// Knobs: `${params.NAME}` in a stage's settings stands for the value, `--set NAME=VALUE` changes it.
    #[serde(default, deserialize_with = "lifted")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub params: Option<TomlTable<'t>>,
    /// The stages by name. Their order in the file does not matter: what a stage needs is written in `from`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, StageTable<'static>>")]
    pub stage: BTreeMap<Spanned<String>, StageTable<'t>>,
    /// Named sets of changed settings, chosen with `-p NAME`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, NamedProfile<'static>>")]
    pub profile: BTreeMap<Spanned<String>, NamedProfile<'t>>,
    /// Where runs are shown beside our own log. It changes no result.
    pub tracking: Option<TrackingTable>,
    /// How much this machine has of what stages may need: `cpu` and `gpu`, which are counted when left out, and names of your own.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, f64>")]
    pub resources: BTreeMap<Spanned<String>, Spanned<f64>>,
    /// How jobs are given to a Slurm cluster.
    pub slurm: Option<SlurmTable>,
    /// What is kept, and with whom it is shared. It changes no result.
    pub cache: Option<CacheTable>,
    /// Settings to compare: one run for each combination.
    pub matrix: Option<MatrixTable>,
    /// What the matrix comes to.
    #[serde(skip)]
    pub sweep: Option<SweepMatrix>,
}

/// `[pipeline]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineTable {
    /// What the pipeline is called, in reports and on the model card.
    #[schemars(with = "String", example = &"accent-fr")]
    pub name: Option<Spanned<String>>,
    /// Every stage's seed is derived from it and the stage's name.
    #[serde(default)]
    pub seed: u64,
    /// The folder relative paths start from, relative to this file.
    #[serde(default = "here")]
    #[schemars(with = "String")]
    pub root: Spanned<String>,
}

/// `[stage.NAME]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageTable<'t> {
    /// The kind of work.
    #[schemars(with = "String", example = &"train")]
    pub uses: Option<Spanned<String>>,
    /// The inputs: port = "stage", or port = ["one", "another"].
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, UpstreamNames>>")]
    pub from: Option<Spanned<BTreeMap<Spanned<String>, Spanned<UpstreamNames>>>>,
    /// The settings of the kind of work.
    #[serde(default, deserialize_with = "lifted")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub with: Option<TomlTable<'t>>,
    /// Stages that must be done first although nothing flows from them.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub after: Vec<Spanned<String>>,
    /// What the stage needs of a machine, such as `{ gpu = 1 }`, and where it runs.
    #[schemars(with = "Option<resources::NeedsTable>")]
    pub resources: Option<Spanned<ResourceNeeds>>,
    /// How long the stage may take.
    #[schemars(with = "Option<TimeoutText>")]
    pub timeout: Option<Spanned<String>>,
    /// How long the stage may say nothing before it counts as stuck.
    #[schemars(with = "Option<TimeoutText>", extend("x-formerly" = "stall"))]
    pub stall_timeout: Option<Spanned<String>>,
    /// Whether it is tried again after a failure.
    pub retry: Option<RetryTable>,
    /// Settings to change before trying again after a certain failure, twice at most unless `retry.times` says otherwise.
    #[serde(default)]
    #[schemars(with = "Option<Vec<RecoverTable>>")]
    pub recover: Option<Spanned<Vec<RecoverTable>>>,
    /// Gates: a bound for a metric of the result. What hangs on this stage does not run when one is not met.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, BoundText>")]
    pub require: BTreeMap<Spanned<String>, Spanned<String>>,
}

/// One upstream or several.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum UpstreamNames {
    /// The name of a stage.
    One(String),
    /// The names of several stages.
    Many(#[schemars(with = "Vec<String>")] Vec<Spanned<String>>),
}

/// `retry = { times = 2, on = ["crash"] }`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryTable {
    /// How many more times.
    #[schemars(with = "u32", example = 2)]
    pub times: Option<Spanned<u32>>,
    /// After which failures; after any when left out.
    #[schemars(with = "Option<Vec<Failure>>")]
    pub on: Option<Spanned<Vec<Failure>>>,
    /// How long to wait before the first of them; before each further one twice as long, an hour at most.
    #[schemars(with = "Option<TimeoutText>")]
    pub backoff: Option<Spanned<String>>,
}

/// An entry of `recover`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverTable {
    /// After which failure.
    #[schemars(with = "Failure", example = Failure::OutOfMemory.word())]
    pub on: Option<Failure>,
    /// The settings to change: a value, or "/2" and "*2" for half and twice the old one.
    #[serde(default)]
    pub set: BTreeMap<String, Value>,
}

/// `[profile.NAME]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedProfile<'t> {
    /// The changes: the name of a param, or a dotted path such as "stage.adapter.with.epochs".
    #[serde(default, deserialize_with = "lifted")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub set: Option<TomlTable<'t>>,
    /// The profile whose changes are made first.
    #[schemars(with = "Option<String>")]
    pub extends: Option<Spanned<String>>,
}

/// `[matrix]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatrixTable {
    /// The settings to vary, each with its values: the name of a param, or a dotted path such as "stage.adapter.with.epochs".
    pub axes: Option<BTreeMap<String, Vec<Value>>>,
    /// Which run is the best one. Stages that its metric does not need are run for that one alone.
    pub best: Option<BestTable>,
    /// Combinations to leave out, each by some of its values.
    #[serde(default)]
    pub exclude: Vec<BTreeMap<String, Value>>,
}

/// `best = { metric = "scores.wer", direction = "min" }`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BestTable {
    /// The stage and the name of its metric.
    #[schemars(with = "String", example = &"scores.wer")]
    pub metric: Option<String>,
    /// Whether less is better.
    #[serde(default)]
    #[schemars(extend("x-formerly" = "goal"))]
    pub direction: Direction,
}

/// The better end of a metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The least value is the best.
    #[default]
    Min,
    /// The greatest value is the best.
    Max,
}

impl<'t> Manifest<'t> {
    /// Reads the text, with the overrides written into it. There is no manifest when the text is not TOML.
    pub(crate) fn read(
        sources: &'t ManifestSources,
        overrides: &'t CommandLineOverrides,
        arguments: &mut Arguments,
    ) -> (Option<Self>, Vec<Diagnostic>) {
        let MergedToml { mut tree, mut found, schemas } = match sources.tree() {
            Ok(laid) => laid,
            Err(slips) => return (None, slips),
        };
        // A file for another version may say anything: its other mistakes would be none.
        let foreign: Vec<Diagnostic> = tree.get_ref().get("schema").into_iter().chain(&schemas).filter_map(foreign).collect();
        if !foreign.is_empty() {
            return (None, foreign);
        }
        overrides::apply(&mut tree, overrides, arguments, &mut found);

        let sweep = matrix::read(&tree, sources.text(), &mut found);

        let mut generator = schema::generator();
        let root = generator.root_schema_for::<Manifest<'static>>().to_value();
        let definitions = root.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
        found.extend(SchemaShape::new(&root, &definitions).check(&mut tree, TOP));

        let lifted = Lifted::out_of(tree.get_mut());
        match Self::deserialize(toml::de::Deserializer::from(tree)) {
            Ok(mut manifest) => {
                lifted.into(&mut manifest);
                manifest.sweep = sweep;
                (Some(manifest), found)
            }
            Err(error) => {
                found.push(schema::unreadable(&error, 0..0));
                (None, found)
            }
        }
    }
}

/// Whether a file is written for another version of the format, and what to do then.
fn foreign(schema: &Spanned<DeValue<'_>>) -> Option<Diagnostic> {
    let DeValue::Integer(written) = schema.get_ref() else { return None };
    let number = i128::from_str_radix(written.as_str(), written.radix()).unwrap_or(i128::MAX);
    let message = format!("this version of voxpipe reads schema {SCHEMA}, and the file says {number}");
    let hint = match number.cmp(&i128::from(SCHEMA)) {
        Ordering::Equal => return None,
        Ordering::Greater => "use a newer voxpipe, the one the file was written for".to_owned(),
        Ordering::Less => format!("`voxpipe migrate` makes it schema {SCHEMA}"),
    };
    Some(Diagnostic::error(schema.span(), message).hint(hint))
}

/// The JSON Schema of the whole file, in which the shape of `with` depends on `uses`.
pub fn schema(registry: &[&dyn StageFactory]) -> Value {
    let mut generator = schema::generator();
    let kinds: Vec<(&dyn StageFactory, Value)> = registry.iter().map(|entry| (*entry, entry.schema(&mut generator).to_value())).collect();
    for definition in generator.definitions_mut().values_mut() {
        allow_references(definition);
    }
    let mut root = generator.into_root_schema_for::<Manifest<'static>>().to_value();

    let choices: Vec<Value> = kinds
        .iter()
        .map(|(entry, with)| {
            let ports: serde_json::Map<String, Value> = entry
                .ports()
                .iter()
                .filter(|port| port.name != "*")
                .map(|port| (port.name.to_owned(), json!({ "$ref": "#/$defs/UpstreamNames", "description": port.about })))
                .collect();
            let any = entry.ports().iter().any(|port| port.name == "*");
            let needs_from = entry.ports().iter().any(|port| port.name != "*" && port.arity != crate::stage::Arity::Optional);
            let mut from = json!({ "properties": ports });
            if !any {
                from["additionalProperties"] = json!(false);
            }
            let mut then = json!({ "properties": { "with": with, "from": from } });
            if needs_from {
                then["required"] = json!(["from"]);
            }
            json!({ "if": { "properties": { "uses": { "const": entry.kind() } }, "required": ["uses"] }, "then": then })
        })
        .collect();
    let uses: Vec<Value> = kinds.iter().map(|(entry, _)| json!({ "const": entry.kind(), "description": entry.about() })).collect();
    if let Some(stage) = root.pointer_mut("/$defs/StageTable") {
        if !kinds.is_empty() {
            stage["properties"]["uses"]["oneOf"] = Value::Array(uses);
            stage["allOf"] = Value::Array(choices);
        }
        stage["properties"]["with"] = json!({ "type": "object", "description": "The settings of the kind of work." });
    }
    root["$defs"]["Reference"] = json!({
        "type": "string",
        "pattern": r"^\$\{\s*(params|env)\.[^}]+\}$",
        "description": "A param or an environment variable: ${params.NAME}, ${env.NAME}.",
    });
    root["properties"]["schema"]["const"] = json!(SCHEMA);
    root
}

/// Lets `${params.x}` stand for every value inside a table of settings.
fn allow_references(schema: &mut Value) {
    for key in ["properties", "items", "additionalProperties"] {
        match schema.get_mut(key) {
            Some(Value::Object(properties)) if key == "properties" => properties.values_mut().for_each(allow_reference),
            Some(inner @ Value::Object(_)) => allow_reference(inner),
            _ => {}
        }
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(choices) = schema.get_mut(key).and_then(Value::as_array_mut) {
            choices.iter_mut().for_each(allow_references);
        }
    }
}

fn allow_reference(value: &mut Value) {
    allow_references(value);
    let any_text =
        value.get("type").is_some_and(|kind| kind == "string" || kind.as_array().is_some_and(|kinds| kinds.contains(&json!("string"))));
    let free = any_text && ["enum", "const", "pattern"].iter().all(|key| value.get(key).is_none());
    let constant = value.get("const").is_some();
    if free || constant || value.as_object().is_none_or(serde_json::Map::is_empty) {
        return;
    }
    // What editors show stays outside.
    let mut outside = serde_json::Map::new();
    if let Some(inside) = value.as_object_mut() {
        for key in ["description", "default", "title"] {
            outside.extend(inside.remove(key).map(|shown| (key.to_owned(), shown)));
        }
    }
    outside.insert("anyOf".to_owned(), json!([value.take(), { "$ref": "#/$defs/Reference" }]));
    *value = Value::Object(outside);
}

/// Tables that are taken out before serde reads the rest, by the name of what they belong to.
#[derive(Default)]
struct Lifted<'t> {
    params: Option<TomlTable<'t>>,
    with: BTreeMap<String, TomlTable<'t>>,
    set: BTreeMap<String, TomlTable<'t>>,
}

impl<'t> Lifted<'t> {
    fn out_of(tree: &mut DeTable<'t>) -> Self {
        let mut every = |family: &str, key: &str| {
            let Some(DeValue::Table(family)) = tree.get_mut(family).map(Spanned::get_mut) else { return BTreeMap::new() };
            let members = family.iter_mut().filter_map(|(name, member)| match member.get_mut() {
                DeValue::Table(member) => Some((name.get_ref().to_string(), take_table(member, key)?)),
                _ => None,
            });
            members.collect()
        };
        let with = every("stage", "with");
        let set = every("profile", "set");
        Self { params: take_table(tree, "params"), with, set }
    }

    fn into(mut self, manifest: &mut Manifest<'t>) {
        manifest.params = self.params;
        for (name, stage) in &mut manifest.stage {
            stage.with = self.with.remove(name.get_ref());
        }
        for (name, profile) in &mut manifest.profile {
            profile.set = self.set.remove(name.get_ref());
        }
    }
}

fn take_table<'t>(table: &mut DeTable<'t>, key: &str) -> Option<TomlTable<'t>> {
    let value = table.remove(key)?;
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Some(Spanned::new(span, table)),
        _ => None,
    }
}

/// For tables that [`Lifted`] has taken out: nothing is left to read.
fn lifted<'de, 't, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TomlTable<'t>>, D::Error> {
    de::IgnoredAny::deserialize(deserializer).map(|_| None)
}

fn here() -> Spanned<String> {
    Spanned::new(0..0, ".".to_owned())
}

impl Default for PipelineTable {
    fn default() -> Self {
        Self { name: None, seed: 0, root: here() }
    }
}

impl UpstreamNames {
    /// The names with their places; `span` is that of the whole value.
    pub fn names(&self, span: std::ops::Range<usize>) -> Vec<Spanned<String>> {
        match self {
            Self::One(name) => vec![Spanned::new(span, name.clone())],
            Self::Many(names) => names.clone(),
        }
    }
}

/// By hand, because a derived untagged enum forgets the places.
impl<'de> Deserialize<'de> for UpstreamNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = UpstreamNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a stage or an array of them")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<UpstreamNames, E> {
                Ok(UpstreamNames::One(name.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<UpstreamNames, A::Error> {
                let mut all = Vec::new();
                while let Some(name) = names.next_element()? {
                    all.push(name);
                }
                Ok(UpstreamNames::Many(all))
            }
        }
        deserializer.deserialize_any(Names)
    }
}

#[derive(JsonSchema)]
#[schemars(inline, title = "a duration with its unit, in quotes", example = &"90s", example = &"15m", example = &"12h", example = &"2d")]
#[expect(dead_code, reason = "stands for the schema of a duration")]
struct TimeoutText(String);

#[derive(JsonSchema)]
#[schemars(inline, title = "a comparison in quotes", example = &"< 0.15", example = &">= 100")]
#[expect(dead_code, reason = "stands for the schema of a bound")]
struct BoundText(String);

/// Suggests one of the stages for a name that is none.
pub(crate) fn suggest_stage<'a>(written: &str, stages: impl IntoIterator<Item = &'a str> + Clone) -> (Option<String>, String) {
    let hint = did_you_mean(written, stages.clone());
    (hint, format!("stages: {}", crate::manifest::diagnostic::list(stages)))
}
