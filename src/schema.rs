//! Holds a TOML value against a JSON Schema, so that every misspelt key and every wrong type is found, not only the first.
//!
//! Serde stops at the first mistake it meets. So before a type reads its table, the table is held against the type's own
//! schema (the same that `voxpipe schema` prints), and what does not fit is reported *and taken out*: what remains can be
//! read, and further mistakes in it can be found. Only the part of JSON Schema that `schemars` makes of Rust types is
//! understood; where several readings of a value remain, the choice is left to serde.

use crate::diagnostic::{Diagnostic, did_you_mean, join, list};
use schemars::SchemaGenerator;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The settings with which all schemas of this crate are made.
pub fn generator() -> SchemaGenerator {
    schemars::generate::SchemaSettings::draft2020_12().into_generator()
}

/// A schema and the definitions its `$ref`s lead to.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    schema: &'a Value,
    definitions: &'a Map<String, Value>,
}

impl<'a> Shape<'a> {
    /// A schema with the definitions of the generator that made it.
    pub fn new(schema: &'a Value, definitions: &'a Map<String, Value>) -> Self {
        Self { schema, definitions }.resolved()
    }

    /// Reports everything in `table` that does not fit, and takes it out. `name` is what messages call the table.
    pub fn check(self, table: &mut Spanned<DeTable<'_>>, name: &str) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let span = table.span();
        self.table(table.get_mut(), span, name, &mut found);
        found
    }

    /// The keys a table of this shape may have.
    pub fn keys(self) -> Vec<&'a str> {
        self.properties().map(|properties| properties.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    fn table(self, table: &mut DeTable<'_>, span: Range<usize>, name: &str, found: &mut Vec<Diagnostic>) {
        let none = Map::new();
        let closed = self.get("additionalProperties") == Some(&Value::Bool(false));
        let Some(properties) = self.properties().or(closed.then_some(&none)) else {
            // A map: every value has the same shape.
            if let Some(values) = self.get("additionalProperties").filter(|values| values.is_object()) {
                let shape = self.with(values);
                keep(table, |key, value| shape.value(value, &format!("{name}.{}", key.get_ref()), found));
            }
            return;
        };
        let open = ["allOf", "anyOf", "oneOf"].iter().any(|key| self.get(key).is_some());
        let others = self.get("additionalProperties").or_else(|| self.get("unevaluatedProperties"));
        let strict = others.map_or(!open, |others| *others == Value::Bool(false));
        keep(table, |key, value| match properties.get(key.get_ref().as_ref()) {
            Some(schema) => self.with(schema).value(value, &below(name, key.get_ref()), found),
            None if strict => {
                let mut unknown = Diagnostic::error(key.span(), format!("unknown key `{}` in {}", key.get_ref(), quoted(name)));
                unknown = unknown.maybe_hint(did_you_mean(key.get_ref(), self.keys()));
                found.push(unknown.note(format!("keys of {}: {}", quoted(name), list(self.keys()))));
                false
            }
            None => others
                .filter(|others| others.is_object())
                .is_none_or(|others| self.with(others).value(value, &below(name, key.get_ref()), found)),
        });
        for key in self.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            let missing =
                !table.contains_key(key) && !found.iter().any(|other| other.message.starts_with(&format!("`{}` ", below(name, key))));
            if missing {
                let wanted = properties.get(key).map(|schema| self.with(schema));
                let about = wanted.and_then(|shape| shape.description()).map(|about| format!("`{key}`: {about}"));
                let mut lacking = Diagnostic::error(span.clone(), format!("{} lacks `{key}`", quoted(name)));
                lacking.hint = wanted.and_then(Shape::example).map(|example| format!("add `{key} = {example}`"));
                lacking.notes.extend(about);
                found.push(lacking);
            }
        }
    }

    /// Whether the value may stay.
    fn value(self, value: &mut Spanned<DeValue<'_>>, name: &str, found: &mut Vec<Diagnostic>) -> bool {
        let span = value.span();
        let readings = self.readings();
        let fitting: Vec<Self> = readings.iter().copied().filter(|shape| shape.takes(value.get_ref())).collect();
        let Some(first) = fitting.first().copied() else {
            let wanted = self.wanted();
            let mut wrong = match value.get_ref() {
                DeValue::String(text) if readings.iter().any(|shape| shape.words().is_some()) => {
                    let words: Vec<&str> = readings.iter().filter_map(|shape| shape.words()).flatten().collect();
                    Diagnostic::error(span, format!("`{name}` must be {wanted}, not \"{text}\"")).maybe_hint(did_you_mean(text, words))
                }
                other => Diagnostic::error(span, format!("`{name}` must be {wanted}, not {}", kind_of(other))),
            };
            if wrong.hint.is_none() {
                wrong.hint = self.example().map(|example| format!("write {example}"));
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
        let wanted = match (bound("minimum"), bound("exclusiveMinimum"), bound("maximum"), bound("exclusiveMaximum")) {
            (Some(least), ..) if number < least => format!("at least {least}"),
            (_, Some(least), ..) if number <= least => format!("more than {least}"),
            (_, _, Some(most), _) if number > most => format!("at most {most}"),
            (.., Some(most)) if number >= most => format!("less than {most}"),
            _ => return true,
        };
        found.push(Diagnostic::error(span, format!("`{name}` must be {wanted}, not {number}")));
        false
    }

    /// Whether a value of this TOML type (and, for words, this word) may be meant.
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

    /// Whether the constants of this shape (`kind = "a"`) agree with the table's.
    fn tagged(self, table: &DeTable<'_>) -> bool {
        self.properties().into_iter().flatten().all(|(key, schema)| {
            match (schema.get("const").and_then(Value::as_str), table.get(key.as_str()).and_then(|value| value.get_ref().as_str())) {
                (Some(constant), Some(text)) => constant == text,
                _ => true,
            }
        })
    }

    /// The alternatives of a choice, or the shape itself; `null` is no alternative in TOML.
    fn readings(self) -> Vec<Self> {
        let choices = self.get("anyOf").or_else(|| self.get("oneOf")).and_then(Value::as_array);
        match choices {
            Some(choices) if self.properties().is_none() => choices
                .iter()
                .map(|choice| self.with(choice))
                .filter(|choice| choice.get("type").and_then(Value::as_str) != Some("null"))
                .flat_map(Self::readings)
                .collect(),
            _ => vec![self],
        }
    }

    /// The words a string may be, if it may only be some.
    fn words(self) -> Option<Vec<&'a str>> {
        match (self.get("const"), self.get("enum")) {
            (Some(Value::String(one)), _) => Some(vec![one]),
            (_, Some(Value::Array(several))) => Some(several.iter().filter_map(Value::as_str).collect()),
            _ => None,
        }
    }

    /// What belongs here, in words.
    fn wanted(self) -> String {
        if let Some(title) = self.get("title").and_then(Value::as_str) {
            return title.to_owned();
        }
        let mut wanted: Vec<String> = Vec::new();
        for reading in self.readings() {
            if let Some(words) = reading.words() {
                wanted.extend(words.iter().map(|word| format!("\"{word}\"")));
                continue;
            }
            if let Some(title) = reading.get("title").and_then(Value::as_str) {
                wanted.push(title.to_owned());
                continue;
            }
            let types: Vec<&str> = match reading.get("type") {
                Some(Value::String(one)) => vec![one],
                Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            wanted.extend(types.into_iter().filter(|one| *one != "null").map(|one| words_for(one).to_owned()));
        }
        wanted.dedup();
        join(wanted, "or")
    }

    /// An example of what belongs here, in TOML.
    fn example(self) -> Option<String> {
        let examples = self.get("examples").and_then(Value::as_array)?;
        Some(join(examples.iter().map(Value::to_string).collect(), "or"))
    }

    fn description(self) -> Option<&'a str> {
        self.get("description").and_then(Value::as_str).and_then(|text| text.lines().next())
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

    /// Follows `$ref`. The description beside a reference is lost here, which only shortens a note.
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

/// What serde says of a value that has the right type and still cannot be read.
pub fn unreadable(error: &toml::de::Error, otherwise: Range<usize>) -> Diagnostic {
    Diagnostic::error(error.span().unwrap_or(otherwise), error.message().lines().collect::<Vec<_>>().join(", "))
}

/// Keeps the entries for which `wanted` is true.
fn keep(table: &mut DeTable<'_>, mut wanted: impl FnMut(&Spanned<Cow<'_, str>>, &mut Spanned<DeValue<'_>>) -> bool) {
    let entries = std::mem::take(table).into_iter();
    *table = entries.filter_map(|(key, mut value)| wanted(&key, &mut value).then_some((key, value))).collect();
}

/// The dotted path of a key. At the top of the file there is nothing before it.
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

/// What messages call the outermost table.
pub const TOP: &str = "the file";

/// What a TOML value is, in words.
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
