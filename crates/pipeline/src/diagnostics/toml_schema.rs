//! JSON Schema validation of spanned TOML values that reports every unknown key and wrong type, not only the first.
//!
//! Serde stops at its first error. So before a type deserializes its table, the table is validated against the type's own
//! schema (the one that `voxpipe schema` prints), and every value that does not fit is reported *and removed*: serde can read
//! the rest, and later passes can find more mistakes in it. Only the subset of JSON Schema that `schemars` generates from Rust
//! types is supported. Where several alternatives of a choice match a value, serde decides.

use crate::diagnostics::{Diagnostic, closest, did_you_mean, join, list};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};
use std::any::TypeId;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The schema generator of this crate (draft 2020-12).
pub fn generator() -> SchemaGenerator {
    schemars::generate::SchemaSettings::draft2020_12().into_generator()
}

/// A schema and its `$defs`.
pub type SchemaWithDefinitions = Arc<(Value, Map<String, Value>)>;

/// The schema of a type with its `$defs`. Cached, because a pipeline may have a thousand stages of one kind.
pub fn of<T: JsonSchema + 'static>() -> SchemaWithDefinitions {
    static CACHE: Mutex<BTreeMap<TypeId, SchemaWithDefinitions>> = Mutex::new(BTreeMap::new());
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(cache.entry(TypeId::of::<T>()).or_insert_with(|| {
        let mut generator = generator();
        let schema = generator.subschema_for::<T>().to_value();
        Arc::new((schema, generator.take_definitions(true)))
    }))
}

/// A schema and the definitions that its `$ref`s point to.
#[derive(Clone, Copy)]
pub struct SchemaShape<'a> {
    schema: &'a Value,
    definitions: &'a Map<String, Value>,
}

impl<'a> SchemaShape<'a> {
    /// A schema with the definitions of the generator that made it.
    pub fn new(schema: &'a Value, definitions: &'a Map<String, Value>) -> Self {
        Self { schema, definitions }.resolved()
    }

    /// Validates `table`: reports what does not fit the schema and removes it. Messages call the table `name`.
    pub fn check(self, table: &mut Spanned<DeTable<'_>>, name: &str) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let span = table.span();
        self.table(table.get_mut(), span, name, &mut found);
        found
    }

    /// The known keys of a table with this schema.
    pub fn keys(self) -> Vec<&'a str> {
        self.properties().map(|properties| properties.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    /// The types that the value at a path may have, and those of its elements if it is a list. Both are empty if the schema does not say.
    pub fn types_at(self, path: &[&str]) -> (BTreeSet<&'a str>, BTreeSet<&'a str>) {
        let mut shapes = self.alternatives();
        for key in path {
            shapes = shapes.into_iter().filter_map(|shape| shape.child(key)).flat_map(Self::alternatives).collect();
        }
        let items = shapes.iter().filter_map(|shape| Some(shape.with(shape.get("items")?))).flat_map(Self::alternatives);
        (shapes.iter().flat_map(|shape| shape.types()).collect(), items.flat_map(Self::types).collect())
    }

    /// The schema of a key of a table.
    fn child(self, key: &str) -> Option<Self> {
        let known = self
            .properties()
            .and_then(|properties| properties.get(key).or_else(|| properties.values().find(|schema| former_name(schema) == Some(key))));
        known.or_else(|| self.get("additionalProperties").filter(|values| values.is_object())).map(|schema| self.with(schema))
    }

    /// The names of the allowed types; `null` is left out.
    fn types(self) -> Vec<&'a str> {
        let types = match self.get("type") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ if self.words().is_some() => vec!["string"],
            _ => Vec::new(),
        };
        types.into_iter().filter(|one| *one != "null").collect()
    }

    fn table(self, table: &mut DeTable<'_>, span: Range<usize>, name: &str, found: &mut Vec<Diagnostic>) {
        let none = Map::new();
        let closed = self.get("additionalProperties") == Some(&Value::Bool(false));
        let Some(properties) = self.properties().or(closed.then_some(&none)) else {
            // A map: all values have the same schema.
            if let Some(values) = self.get("additionalProperties").filter(|values| values.is_object()) {
                let shape = self.with(values);
                keep(table, |key, value| shape.value(value, &format!("{name}.{}", key.get_ref()), found));
            }
            return;
        };
        current_names(table, properties, name, found);
        let open = ["allOf", "anyOf", "oneOf"].iter().any(|key| self.get(key).is_some());
        let others = self.get("additionalProperties").or_else(|| self.get("unevaluatedProperties"));
        let strict = others.map_or(!open, |others| *others == Value::Bool(false));
        // Keys that are present, or probably meant by a misspelled key.
        let mut present: Vec<String> = table.keys().map(|key| key.get_ref().to_string()).collect();
        keep(table, |key, value| match properties.get(key.get_ref().as_ref()) {
            Some(schema) => self.with(schema).value(value, &below(name, key.get_ref()), found),
            None if strict => {
                let mut unknown = Diagnostic::error(key.span(), format!("unknown key `{}` in {}", key.get_ref(), quoted(name)));
                unknown = unknown.maybe_hint(did_you_mean(key.get_ref(), self.keys()));
                present.extend(closest(key.get_ref(), self.keys()).map(str::to_owned));
                found.push(unknown.note(format!("keys of {}: {}", quoted(name), list(self.keys()))));
                false
            }
            None => others
                .filter(|others| others.is_object())
                .is_none_or(|others| self.with(others).value(value, &below(name, key.get_ref()), found)),
        });
        for key in self.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !present.iter().any(|present| present == key) {
                let schema = properties.get(key);
                let about =
                    schema.and_then(|schema| schema.get("description")).and_then(Value::as_str).and_then(|text| text.lines().next());
                let about = about.map(|about| format!("`{key}`: {about}"));
                let wanted = schema.map(|schema| self.with(schema));
                let mut missing = Diagnostic::error(span.clone(), format!("missing key `{key}` in {}", quoted(name)));
                missing.hint = wanted.and_then(SchemaShape::example).map(|example| format!("add `{key} = {example}`"));
                missing.notes.extend(about);
                found.push(missing);
            }
        }
    }

    /// Validates one value; returns whether to keep it.
    fn value(self, value: &mut Spanned<DeValue<'_>>, name: &str, found: &mut Vec<Diagnostic>) -> bool {
        let span = value.span();
        let alternatives = self.alternatives();
        let fitting: Vec<Self> = alternatives.iter().copied().filter(|shape| shape.takes(value.get_ref())).collect();
        let Some(first) = fitting.first().copied() else {
            let wanted = self.wanted();
            let mut wrong = match value.get_ref() {
                DeValue::String(text) if alternatives.iter().any(|shape| shape.words().is_some()) => {
                    let words: Vec<&str> = alternatives.iter().filter_map(|shape| shape.words()).flatten().collect();
                    Diagnostic::error(span, format!("`{name}` must be {wanted}, not \"{text}\"")).maybe_hint(did_you_mean(text, words))
                }
                other => Diagnostic::error(span, format!("`{name}` must be {wanted}, not {}", kind_of(other))),
            };
            if wrong.hint.is_none() {
                wrong.hint = self.example().map(|example| format!("for example {example}"));
            }
            found.push(wrong);
            return false;
        };
        if fitting.len() > 1 {
            return true;
        }
        match value.get_mut() {
            DeValue::Table(table) => first.table(table, span, name, found),
            DeValue::Array(array) => {
                if let Some(items) = first.get("items").filter(|items| items.is_object()) {
                    let shape = first.with(items);
                    let fine = array.iter_mut().enumerate().map(|(index, item)| shape.value(item, &format!("{name}[{index}]"), found));
                    return fine.fold(true, |all, one| all & one);
                }
            }
            DeValue::Integer(integer) => {
                if let Ok(number) = i128::from_str_radix(integer.as_str(), integer.radix()) {
                    return first.range(number as f64, span, name, found);
                }
            }
            DeValue::Float(float) => {
                if let Ok(number) = float.as_str().replace('_', "").parse::<f64>() {
                    return first.range(number, span, name, found);
                }
            }
            _ => {}
        }
        true
    }

    fn range(self, number: f64, span: Range<usize>, name: &str, found: &mut Vec<Diagnostic>) -> bool {
        let bound = |key| self.get(key).and_then(Value::as_f64);
        // `schemars` writes Rust integer types as formats.
        let widest = match self.get("format").and_then(Value::as_str) {
            Some("uint8") => f64::from(u8::MAX),
            Some("uint16") => f64::from(u16::MAX),
            Some("uint32") => f64::from(u32::MAX),
            Some("int32") => f64::from(i32::MAX),
            _ => f64::INFINITY,
        };
        let wanted = match (bound("minimum"), bound("exclusiveMinimum"), bound("maximum"), bound("exclusiveMaximum")) {
            (Some(least), ..) if number < least => format!("at least {least}"),
            (_, Some(least), ..) if number <= least => format!("more than {least}"),
            (_, _, Some(most), _) if number > most => format!("at most {most}"),
            (.., Some(most)) if number >= most => format!("less than {most}"),
            _ if number > widest => format!("at most {widest}"),
            _ => return true,
        };
        found.push(Diagnostic::error(span, format!("`{name}` must be {wanted}, not {number}")));
        false
    }

    /// Whether the value has an allowed TOML type (and, for an enumeration, is one of its words).
    fn takes(self, value: &DeValue<'_>) -> bool {
        if let (Some(words), DeValue::String(text)) = (self.words(), value) {
            return words.contains(&text.as_ref());
        }
        let types: Vec<&str> = match self.get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ if self.words().is_some() => vec!["string"],
            _ => return true,
        };
        let fits = types.iter().any(|one| match value {
            DeValue::String(_) => *one == "string",
            DeValue::Integer(_) => *one == "integer" || *one == "number",
            DeValue::Float(_) => *one == "number",
            DeValue::Boolean(_) => *one == "boolean",
            DeValue::Array(_) => *one == "array",
            DeValue::Table(_) => *one == "object",
            DeValue::Datetime(_) => false,
        });
        fits && value.as_table().is_none_or(|table| self.tagged(table))
    }

    /// Whether the table agrees with the string constants of this schema, such as the tag `kind = "a"`.
    fn tagged(self, table: &DeTable<'_>) -> bool {
        self.properties().into_iter().flatten().all(|(key, schema)| {
            match (schema.get("const").and_then(Value::as_str), table.get(key.as_str()).and_then(|value| value.get_ref().as_str())) {
                (Some(constant), Some(text)) => constant == text,
                _ => true,
            }
        })
    }

    /// The alternatives of `anyOf` or `oneOf`, or the schema itself. `null` is left out: TOML has no null.
    fn alternatives(self) -> Vec<Self> {
        let choices = self.get("anyOf").or_else(|| self.get("oneOf")).and_then(Value::as_array);
        match choices {
            Some(choices) if self.properties().is_none() => choices
                .iter()
                .map(|choice| self.with(choice))
                .filter(|choice| choice.get("type").and_then(Value::as_str) != Some("null"))
                .flat_map(Self::alternatives)
                .collect(),
            _ => vec![self],
        }
    }

    /// The allowed strings of a constant or an enumeration.
    fn words(self) -> Option<Vec<&'a str>> {
        match (self.get("const"), self.get("enum")) {
            (Some(Value::String(one)), _) => Some(vec![one]),
            (_, Some(Value::Array(several))) => Some(several.iter().filter_map(Value::as_str).collect()),
            _ => None,
        }
    }

    /// The expected value, in words.
    fn wanted(self) -> String {
        if let Some(title) = self.get("title").and_then(Value::as_str) {
            return title.to_owned();
        }
        let mut wanted: Vec<String> = Vec::new();
        for alternative in self.alternatives() {
            if let Some(words) = alternative.words() {
                wanted.extend(words.iter().map(|word| format!("\"{word}\"")));
                continue;
            }
            if let Some(title) = alternative.get("title").and_then(Value::as_str) {
                wanted.push(title.to_owned());
                continue;
            }
            let types: Vec<&str> = match alternative.get("type") {
                Some(Value::String(one)) => vec![one],
                Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            wanted.extend(types.into_iter().filter(|one| *one != "null").map(|one| words_for(one).to_owned()));
        }
        wanted.dedup();
        join(wanted, "or")
    }

    /// The examples of the schema, as TOML.
    fn example(self) -> Option<String> {
        let examples = self.get("examples").and_then(Value::as_array)?;
        Some(join(examples.iter().map(Value::to_string).collect(), "or"))
    }

    fn properties(self) -> Option<&'a Map<String, Value>> {
        self.get("properties").and_then(Value::as_object)
    }

    fn get(self, key: &str) -> Option<&'a Value> {
        self.schema.get(key)
    }

    fn with(self, schema: &'a Value) -> Self {
        Self { schema, ..self }.resolved()
    }

    /// Follows `$ref`s; the limit guards against cycles.
    fn resolved(self) -> Self {
        let mut shape = self;
        for _ in 0..16 {
            let target = shape.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix("#/$defs/"));
            match target.and_then(|name| self.definitions.get(name)) {
                Some(schema) => shape.schema = schema,
                None => break,
            }
        }
        shape
    }
}

/// Renames keys written with a former name (`x-formerly` in the schema) to the current name. Using both names is an error.
fn current_names(table: &mut DeTable<'_>, properties: &Map<String, Value>, name: &str, found: &mut Vec<Diagnostic>) {
    for (current, schema) in properties {
        let Some(former) = former_name(schema).filter(|former| table.contains_key(*former)) else { continue };
        let both = table.contains_key(current.as_str());
        keep(table, |key, _| {
            if key.get_ref() != former {
                return true;
            }
            if both {
                let message = format!("`{former}` is the former name of `{current}`, which is also set in {}", quoted(name));
                found.push(Diagnostic::error(key.span(), message).hint(format!("keep only `{current}`")));
                return false;
            }
            *key.get_mut() = Cow::Owned(current.clone());
            true
        });
    }
}

/// The former name of a renamed setting.
fn former_name(schema: &Value) -> Option<&str> {
    schema.get("x-formerly").and_then(Value::as_str)
}

/// The settings of a `with` table that were renamed, as (former name, current name). `schema` is that of the table, with its definitions.
pub fn renamed_settings(schema: &Value, definitions: &Map<String, Value>) -> Vec<(String, String)> {
    let top = SchemaShape::new(schema, definitions);
    let renamed = |(current, schema): (&String, &Value)| Some((former_name(schema)?.to_owned(), current.clone()));
    top.properties().into_iter().flatten().filter_map(renamed).collect()
}

/// The current name of a setting of `T`, given its current or former name.
pub fn current_name<T: JsonSchema + 'static>(written: &str) -> String {
    let schema = of::<T>();
    let top = SchemaShape::new(&schema.0, &schema.1);
    let renamed = top.properties().into_iter().flatten().find(|(_, schema)| former_name(schema) == Some(written));
    renamed.map_or(written, |(current, _)| current).to_owned()
}

/// A diagnostic for a serde error; `otherwise` is the span to use if the error has none.
pub fn unreadable(error: &toml::de::Error, otherwise: Range<usize>) -> Diagnostic {
    Diagnostic::error(error.span().unwrap_or(otherwise), error.message().lines().collect::<Vec<_>>().join(", "))
}

/// Keeps the entries for which `wanted` returns true.
fn keep(table: &mut DeTable<'_>, mut wanted: impl FnMut(&mut Spanned<Cow<'_, str>>, &mut Spanned<DeValue<'_>>) -> bool) {
    let entries = std::mem::take(table).into_iter();
    *table = entries.filter_map(|(mut key, mut value)| wanted(&mut key, &mut value).then_some((key, value))).collect();
}

/// The dotted path of a key; a top-level key has no prefix.
fn below(name: &str, key: &str) -> String {
    match name {
        TOP => key.to_owned(),
        _ => format!("{name}.{key}"),
    }
}

fn quoted(name: &str) -> String {
    match name {
        TOP => TOP.to_owned(),
        _ => format!("`{name}`"),
    }
}

/// What messages call the top-level table.
pub const TOP: &str = "the file";

/// The type of a TOML value, in words.
pub fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn words_for(json_type: &str) -> &str {
    match json_type {
        "string" => "a string",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "an array",
        "object" => "a table",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use crate::diagnostics::toml_schema::*;
    use schemars::JsonSchema;
    use std::collections::BTreeMap;

    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Settings {
        /// Where it comes from.
        source: Source,
        #[serde(default)]
        parts: BTreeMap<String, f64>,
        inner: Option<Inner>,
        #[serde(default)]
        list: Vec<Inner>,
        either: Option<Either>,
        #[serde(default)]
        shape: Shaped,
    }

    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Inner {
        size: u8,
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        share: f64,
    }

    #[derive(JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Source {
        /// Ours.
        Embedded,
        /// Yours.
        OnDisk,
    }

    #[derive(JsonSchema)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Either {
        Name(String),
        TomlTable(Inner),
    }

    #[derive(JsonSchema, Default)]
    #[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Shaped {
        #[default]
        Point,
        Circle {
            radius: f64,
        },
    }

    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    fn complaints<T: JsonSchema>(text: &str) -> Vec<String> {
        let mut generator = generator();
        let schema = generator.subschema_for::<T>().to_value();
        let mut table = DeTable::parse(text).unwrap();
        let found = SchemaShape::new(&schema, generator.definitions()).check(&mut table, "with");
        found.into_iter().map(|one| format!("{}: {}", &text[one.span], one.message)).collect()
    }

    #[test]
    fn valid_tables_have_no_complaints() {
        for text in [
            "source = 'embedded'",
            "source = 'on-disk'\nparts = { a = 1, b = 0.5 }\nlist = [{ size = 1 }, { size = 0xff, share = 1 }]",
            "source = 'embedded'\neither = 'a'\ninner = { size = 2 }",
            "source = 'embedded'\neither = { size = 2 }\nshape = { kind = 'circle', radius = 1.5 }",
            "source = 'embedded'\nshape = { kind = 'point' }",
        ] {
            assert_eq!(complaints::<Settings>(text), [] as [&str; 0], "{text}");
        }
        assert_eq!(complaints::<Nothing>(""), [] as [&str; 0]);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let text = "sauce = 'x'\nparts = { a = 1, b = '2' }\ninner = { size = 256, share = 2.0, sise = 1 }\nlist = [{ size = 1 }, { }, 3]\neither = 1";
        assert_eq!(
            complaints::<Settings>(text),
            [
                "1: `with.either` must be a string or a table, not an integer",
                "2.0: `with.inner.share` must be at most 1, not 2",
                "sise: unknown key `sise` in `with.inner`",
                "256: `with.inner.size` must be at most 255, not 256",
                "{ }: missing key `size` in `with.list[1]`",
                "3: `with.list[2]` must be a table, not an integer",
                "'2': `with.parts.b` must be a number, not a string",
                "sauce: unknown key `sauce` in `with`",
            ]
        );
        assert_eq!(
            complaints::<Settings>("source = 'embeded'\nshape = { kind = 'circle', radios = 1 }\neither = { sixe = 1 }"),
            [
                "sixe: unknown key `sixe` in `with.either`",
                "radios: unknown key `radios` in `with.shape`",
                "'embeded': `with.source` must be \"embedded\" or \"on-disk\", not \"embeded\"",
            ]
        );
        assert_eq!(complaints::<Settings>(""), [": missing key `source` in `with`"]);
        assert_eq!(complaints::<Nothing>("a = 1"), ["a: unknown key `a` in `with`"]);
    }
}
