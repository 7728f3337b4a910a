//! Parser for `pipeline.toml`; every value keeps its source span.
//!
//! Parsing runs in passes over one tree of spanned TOML values:
//! 1. Parse the files and merge them into a tree ([`crate::manifest::include`]). Only the first syntax error of each file is reported.
//! 2. Write profiles and `--set` overrides into the tree ([`crate::manifest::overrides`]).
//! 3. Take out every `foreach` ([`crate::manifest::foreach`]).
//! 4. Validate the tree against the JSON Schema ([`crate::diagnostics::toml_schema`]) and remove what does not fit. Then copy each stage with a
//!    `foreach` for its entries.
//! 5. Take out the free-form tables (`params`, every `with`, every profile's `set`), because serde would lose their spans.
//! 6. Deserialize the rest into a [`Manifest`] with serde.
//!
//! A [`Manifest`] is not resolved yet: references between stages are resolved in [`crate::graph`].

mod argument_value;
pub mod byte_size;
mod cache;
pub mod foreach;
pub mod include;
pub mod include_files;
pub mod interpolate;
mod literal_secrets;
pub mod matrix;
pub mod migration;
pub mod one_or_many;
pub mod origin;
pub mod overrides;
mod resources;
mod tracking;

pub use cache::CacheTable;
pub use resources::{ExecutorKind, ResourceNeeds, SlurmTable};
pub use tracking::{TrackingTable, TrackioTable};

use crate::diagnostics::toml_schema::{SchemaShape, TOP};
use crate::diagnostics::{Diagnostic, did_you_mean};
use crate::stage::{Failure, StageFactory};
use foreach::ForeachStages;
use include::{ManifestSources, MergedToml};
use matrix::SweepMatrix;
use overrides::{Arguments, CommandLineOverrides};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The version of the file format that this program reads.
pub const SCHEMA: u64 = 1;

/// A table of unparsed TOML values.
pub type TomlTable<'t> = Spanned<DeTable<'t>>;

/// Example in the schema. A constant, because the schemars attribute does not accept an array literal here.
const INCLUDE_EXAMPLE: [&str; 1] = ["defaults.toml"];

/// A pipeline of stages that prepare data and fine-tune, evaluate and publish a Voxtral speech recognizer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "A voxpipe pipeline")]
pub struct Manifest<'t> {
    /// The version of the file format: 1.
    #[schemars(with = "u64", example = SCHEMA)]
    pub schema: Option<Spanned<u64>>,
    /// Files to include, as paths or glob patterns relative to this file's folder. Values in this file override included values; tables are
    /// merged. Later entries override earlier ones.
    #[serde(default)]
    #[schemars(with = "Vec<String>", example = INCLUDE_EXAMPLE)]
    pub include: Vec<Spanned<String>>,
    /// Settings of the whole pipeline: name, seed and root folder.
    #[schemars(with = "PipelineTable")]
    pub pipeline: Option<PipelineTable>,
    /// Parameters. `${params.NAME}` in a stage's `with` is replaced by the value; `--set NAME=VALUE` overrides it.
    #[serde(default, deserialize_with = "lifted")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub params: Option<TomlTable<'t>>,
    /// Stages by name. Their order in the file does not matter: `from` and `after` define the dependencies.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, StageTable<'static>>")]
    pub stage: BTreeMap<Spanned<String>, StageTable<'t>>,
    /// Profiles: named sets of overrides, selected with `-p NAME`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, NamedProfile<'static>>")]
    pub profile: BTreeMap<Spanned<String>, NamedProfile<'t>>,
    /// Experiment tracking. It does not affect results.
    pub tracking: Option<TrackingTable>,
    /// Capacities of this machine: `cpu` (cores) and `gpu` (devices), both detected by default, and resources with names of your own.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, f64>")]
    pub resources: BTreeMap<Spanned<String>, Spanned<f64>>,
    /// How stages are submitted to a Slurm cluster.
    pub slurm: Option<SlurmTable>,
    /// Size limit and sharing of the result cache. It does not affect results.
    pub cache: Option<CacheTable>,
    /// Settings to compare with `voxpipe sweep`: one run per combination.
    pub matrix: Option<MatrixTable>,
    /// The validated `[matrix]`.
    #[serde(skip)]
    pub sweep: Option<SweepMatrix>,
    /// The entries of the stages with `foreach`, which are in `stage` already.
    #[serde(skip)]
    pub foreach: ForeachStages<'t>,
}

/// `[pipeline]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineTable {
    /// The pipeline's name, used in reports and on the model card.
    #[schemars(with = "String", example = &"accent-fr")]
    pub name: Option<Spanned<String>>,
    /// Random seed (default 0). Each stage derives its own seed from this value and its name.
    #[serde(default)]
    pub seed: u64,
    /// The folder that relative paths start from, relative to this file. Default: the folder of this file.
    #[serde(default = "here")]
    #[schemars(with = "String")]
    pub root: Spanned<String>,
}

/// `[stage.NAME]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageTable<'t> {
    /// The stage kind.
    #[schemars(with = "String", example = &"train")]
    pub uses: Option<Spanned<String>>,
    /// Makes one stage for each entry, named `stage[entry]`: a list of names or numbers, a list of tables with a `name`, or a table of tables by
    /// name. `${each}` is the entry (its name, if it is a table) and `${each.KEY}` a value of its table, in `with`, `from` and `after`.
    #[serde(default)]
    #[schemars(with = "Option<foreach::ForeachTable>")]
    pub foreach: Option<de::IgnoredAny>,
    /// Inputs: `port = "stage"`, or `port = ["one", "another"]` where a port takes several stages.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, UpstreamNames>>")]
    pub from: Option<Spanned<BTreeMap<Spanned<String>, Spanned<UpstreamNames>>>>,
    /// Settings of the stage; which ones exist depends on `uses`.
    #[serde(default, deserialize_with = "lifted")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub with: Option<TomlTable<'t>>,
    /// Stages that must finish first although this stage does not use their results.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub after: Vec<Spanned<String>>,
    /// Resources that the stage needs, such as `{ gpu = 1 }`, and where it runs.
    #[schemars(with = "Option<resources::NeedsTable>")]
    pub resources: Option<Spanned<ResourceNeeds>>,
    /// Maximum run time of one attempt, such as "12h". Default: no limit.
    #[schemars(with = "Option<TimeoutText>")]
    pub timeout: Option<Spanned<String>>,
    /// Maximum time without a progress report before the attempt counts as stalled, such as "30m". Default: no limit.
    #[schemars(with = "Option<TimeoutText>", extend("x-formerly" = "stall"))]
    pub stall_timeout: Option<Spanned<String>>,
    /// Retries after a failure. Default: none.
    pub retry: Option<RetryTable>,
    /// Setting overrides for retries after particular failures. At most 2 retries unless `retry.times` is set.
    #[serde(default)]
    #[schemars(with = "Option<Vec<RecoverTable>>")]
    pub recover: Option<Spanned<Vec<RecoverTable>>>,
    /// Gates: bounds for metrics of the result, such as `{ wer = "< 0.15" }`. Dependent stages do not run if a gate fails.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, BoundText>")]
    pub require: BTreeMap<Spanned<String>, Spanned<String>>,
}

/// One upstream stage or several.
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
    /// Number of retries after the first attempt.
    #[schemars(with = "u32", example = 2)]
    pub times: Option<Spanned<u32>>,
    /// Failures to retry after. Default: all but "timeout", "stalled", "disk-full" and errors in the environment or the configuration.
    #[schemars(with = "Option<Vec<Failure>>")]
    pub on: Option<Spanned<Vec<Failure>>>,
    /// Delay before the first retry, such as "30s"; it doubles with each further retry, up to 1 hour. Default: no delay.
    #[schemars(with = "Option<TimeoutText>")]
    pub backoff: Option<Spanned<String>>,
}

/// An entry of `recover`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverTable {
    /// The failure this entry applies to. Default: any failure.
    #[serde(default)]
    #[schemars(with = "Option<Failure>", example = Failure::OutOfMemory.word())]
    pub on: Option<Failure>,
    /// Settings to change: a new value, or "/2" or "*2" to halve or double the current number.
    #[serde(default)]
    pub set: BTreeMap<String, Value>,
}

/// `[profile.NAME]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedProfile<'t> {
    /// Overrides. Keys are param names or dotted paths such as "stage.adapter.with.epochs".
    #[serde(default, deserialize_with = "lifted")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub set: Option<TomlTable<'t>>,
    /// A profile whose overrides are applied first.
    #[schemars(with = "Option<String>")]
    pub extends: Option<Spanned<String>>,
}

/// `[matrix]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MatrixTable {
    /// Settings to vary, each with a list of values. Keys are param names or dotted paths such as "stage.adapter.with.epochs".
    pub axes: Option<BTreeMap<String, Vec<Value>>>,
    /// How to select the best combination. Stages that the metric does not depend on run for the best combination only.
    pub best: Option<BestTable>,
    /// Combinations to skip. An entry names values of some axes and skips every combination that has all of them.
    #[serde(default)]
    pub exclude: Vec<BTreeMap<String, Value>>,
}

/// `best = { metric = "scores.wer", direction = "min" }`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BestTable {
    /// The metric to compare, as STAGE.METRIC.
    #[schemars(with = "String", example = &"scores.wer")]
    pub metric: Option<String>,
    /// Whether the lowest ("min", the default) or the highest ("max") value is best.
    #[serde(default)]
    #[schemars(extend("x-formerly" = "goal"))]
    pub direction: Direction,
}

/// Whether a lower or a higher metric is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The lowest value is best.
    #[default]
    Min,
    /// The highest value is best.
    Max,
}

impl<'t> Manifest<'t> {
    /// Parses the files and applies the overrides, whose types the settings of `registry` decide. Returns no manifest if a file is not valid
    /// TOML, has an unsupported schema or contains a secret.
    pub(crate) fn read(
        sources: &'t ManifestSources,
        overrides: &'t CommandLineOverrides,
        registry: &[&dyn StageFactory],
        arguments: &mut Arguments,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> (Option<Self>, Vec<Diagnostic>) {
        let MergedToml { mut tree, mut found, schemas } = match sources.tree() {
            Ok(merged) => merged,
            Err(errors) => return (None, errors),
        };
        // A file of another schema version may have other keys: do not report them as mistakes.
        let declared = tree.get_ref().get("schema").into_iter().chain(&schemas);
        let unsupported: Vec<Diagnostic> = declared.filter_map(unsupported_schema).collect();
        if !unsupported.is_empty() {
            return (None, unsupported);
        }
        let later = overrides::apply(&mut tree, overrides, registry, arguments, &mut found);
        // Other messages might quote a secret.
        let secrets = literal_secrets::check(sources.text(), &tree, &later, arguments);
        if !secrets.is_empty() {
            return (None, secrets);
        }
        let foreach = foreach::take(&mut tree, sources.text(), env, &mut found);

        let sweep = matrix::read(&tree, &foreach, sources.text(), &mut found);

        let mut generator = crate::diagnostics::toml_schema::generator();
        let root = generator.root_schema_for::<Manifest<'static>>().to_value();
        let definitions = root.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
        let shape = SchemaShape::new(&root, &definitions);
        // A key that is missing may be in a file that could not be included.
        let may_be_elsewhere = !sources.is_whole();
        let is_echo = |one: &Diagnostic| may_be_elsewhere && one.message.starts_with("missing key") && one.message.ends_with(TOP);
        found.extend(shape.check(&mut tree, TOP).into_iter().filter(|one| !is_echo(one)));
        if !foreach.is_empty() {
            foreach.expand(&mut tree, sources.text(), &mut found);
            if !later.is_empty() {
                foreach.write_later(&mut tree, later, sources.text(), &mut found);
                found.extend(shape.check(&mut tree, TOP).into_iter().filter(|one| !is_echo(one)));
            }
        }

        let lifted = Lifted::out_of(tree.get_mut());
        match Self::deserialize(toml::de::Deserializer::from(tree)) {
            Ok(mut manifest) => {
                lifted.into(&mut manifest);
                manifest.sweep = sweep;
                manifest.foreach = foreach;
                (Some(manifest), found)
            }
            Err(error) => {
                found.push(crate::diagnostics::toml_schema::unreadable(&error, 0..0));
                (None, found)
            }
        }
    }
}

/// The diagnostic for a file of an unsupported schema version.
fn unsupported_schema(schema: &Spanned<DeValue<'_>>) -> Option<Diagnostic> {
    let DeValue::Integer(written) = schema.get_ref() else { return None };
    let number = i128::from_str_radix(written.as_str(), written.radix()).unwrap_or(i128::MAX);
    let message = format!("unsupported schema {number}: this version of voxpipe reads schema {SCHEMA}");
    let hint = match number.cmp(&i128::from(SCHEMA)) {
        Ordering::Equal => return None,
        Ordering::Greater => "use a newer voxpipe".to_owned(),
        Ordering::Less => format!("run `voxpipe migrate` to convert it to schema {SCHEMA}"),
    };
    Some(Diagnostic::error(schema.span(), message).hint(hint))
}

/// The JSON Schema of `pipeline.toml`; the schema of `with` and `from` depends on `uses`.
pub fn schema(registry: &[&dyn StageFactory]) -> Value {
    let mut generator = crate::diagnostics::toml_schema::generator();
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
        let about = "Settings of the stage; which ones exist depends on `uses`.";
        stage["properties"]["with"] = json!({ "type": "object", "description": about });
    }
    root["$defs"]["Reference"] = json!({
        "type": "string",
        "pattern": r"^\$\{\s*((params|env)\.[^}]+|each(\.[^}]+)?\s*)\}$",
        "description": "A reference to a param, an environment variable or the entry of a foreach: ${params.NAME}, ${env.NAME}, ${each}.",
    });
    root["properties"]["schema"]["const"] = json!(SCHEMA);
    root
}

/// Allows a reference such as `${params.x}` in place of every value inside a settings table.
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
    // Editors read these keys from the outer schema.
    let mut outside = serde_json::Map::new();
    if let Some(inside) = value.as_object_mut() {
        for key in ["description", "default", "title"] {
            outside.extend(inside.remove(key).map(|shown| (key.to_owned(), shown)));
        }
    }
    outside.insert("anyOf".to_owned(), json!([value.take(), { "$ref": "#/$defs/Reference" }]));
    *value = Value::Object(outside);
}

/// Free-form tables taken out before serde reads the rest, by stage or profile name.
#[derive(Default)]
struct Lifted<'t> {
    params: Option<TomlTable<'t>>,
    with: BTreeMap<String, TomlTable<'t>>,
    set: BTreeMap<String, TomlTable<'t>>,
}

impl<'t> Lifted<'t> {
    fn out_of(tree: &mut DeTable<'t>) -> Self {
        let mut take_all = |family: &str, key: &str| {
            let Some(DeValue::Table(family)) = tree.get_mut(family).map(Spanned::get_mut) else { return BTreeMap::new() };
            let members = family.iter_mut().filter_map(|(name, member)| match member.get_mut() {
                DeValue::Table(member) => Some((name.get_ref().to_string(), take_table(member, key)?)),
                _ => None,
            });
            members.collect()
        };
        let with = take_all("stage", "with");
        let set = take_all("profile", "set");
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

/// Deserializes a table that [`Lifted`] has already taken out: always `None`.
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
    /// The names with their spans; `span` is the span of the whole value.
    pub fn names(&self, span: std::ops::Range<usize>) -> Vec<Spanned<String>> {
        match self {
            Self::One(name) => vec![Spanned::new(span, name.clone())],
            Self::Many(names) => names.clone(),
        }
    }
}

/// Implemented by hand because a derived untagged enum loses the spans.
impl<'de> Deserialize<'de> for UpstreamNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = UpstreamNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a stage name or an array of stage names")
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
#[schemars(inline, title = "a duration string with a unit", example = &"90s", example = &"15m", example = &"12h", example = &"2d")]
#[expect(dead_code, reason = "stands for the schema of a duration")]
struct TimeoutText(String);

#[derive(JsonSchema)]
#[schemars(inline, title = "a comparison string", example = &"< 0.15", example = &">= 100")]
#[expect(dead_code, reason = "stands for the schema of a bound")]
struct BoundText(String);

/// A "did you mean" hint for an unknown stage name, and a note that lists all stages.
pub(crate) fn suggest_stage<'a>(written: &str, stages: impl IntoIterator<Item = &'a str> + Clone) -> (Option<String>, String) {
    let hint = did_you_mean(written, stages.clone());
    (hint, format!("stages: {}", crate::diagnostics::list(stages)))
}
