//! Reads the value of `--set KEY=VALUE` as the type that the key has: that of the setting, or of the value in the file.
//!
//! On a command line nobody writes quotes: `1_1_1`, `true` and `0x10` are texts where a text is wanted, and numbers where a number is.

use crate::diagnostics::Diagnostic;
use crate::diagnostics::toml_schema::{self, SchemaShape};
use crate::manifest::Manifest;
use crate::manifest::foreach::{name_in_file, split_key};
use crate::manifest::include::moved;
use crate::stage::StageFactory;
use std::borrow::Cow;
use std::collections::BTreeSet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The types that a value may have, by their names in JSON Schema. None if they are not known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WantedTypes {
    types: BTreeSet<String>,
    /// Those of the elements of a list.
    items: BTreeSet<String>,
}

impl WantedTypes {
    /// The types of the value at a path from the top of the file: by the schema of the setting, or else by the value that is there.
    pub(super) fn of(path: &[&str], tree: &DeTable<'_>, registry: &[&dyn StageFactory]) -> Self {
        let by_schema = match path {
            ["params", ..] => Self::default(),
            ["matrix", "axes", axis] => {
                let keys = split_key(axis);
                let of_axis =
                    if let [param] = keys[..] { Self::of(&["params", param], tree, registry) } else { Self::of(&keys, tree, registry) };
                return Self { types: one("array"), items: of_axis.types };
            }
            ["stage", stage, "with", setting @ ..] => {
                let uses = at(&["stage", name_in_file(stage), "uses"], tree).and_then(DeValue::as_str);
                registry.iter().find(|entry| uses == Some(entry.kind())).map_or_else(Self::default, |entry| {
                    let mut generator = toml_schema::generator();
                    let schema = entry.schema(&mut generator).to_value();
                    Self::by_schema(SchemaShape::new(&schema, &generator.take_definitions(true)), setting)
                })
            }
            path => {
                let mut generator = toml_schema::generator();
                let schema = generator.root_schema_for::<Manifest<'static>>().to_value();
                let definitions = schema.get("$defs").and_then(serde_json::Value::as_object).cloned().unwrap_or_default();
                Self::by_schema(SchemaShape::new(&schema, &definitions), path)
            }
        };
        if by_schema.types.is_empty() { at(path, tree).map(Self::by_value).unwrap_or_default() } else { by_schema }
    }

    fn by_schema(schema: SchemaShape<'_>, path: &[&str]) -> Self {
        let (types, items) = schema.types_at(path);
        let owned = |types: BTreeSet<&str>| types.into_iter().map(str::to_owned).collect();
        Self { types: owned(types), items: owned(items) }
    }

    fn by_value(value: &DeValue<'_>) -> Self {
        let items = match value {
            DeValue::Array(items) => items.iter().flat_map(|item| Self::by_value(item.get_ref()).types).collect(),
            _ => BTreeSet::new(),
        };
        let types = match value {
            // The type of a reference is that of what it refers to.
            DeValue::String(text) if text.contains("${") => BTreeSet::new(),
            DeValue::String(_) | DeValue::Datetime(_) => one("string"),
            DeValue::Integer(_) | DeValue::Float(_) => one("number"),
            DeValue::Boolean(_) => one("boolean"),
            DeValue::Array(_) => one("array"),
            DeValue::Table(_) => one("object"),
        };
        Self { types, items }
    }

    /// Reads a value. `start` is the place of the argument's value.
    pub(super) fn read<'t>(&self, text: &'t str, start: usize, key: &str) -> Result<Spanned<DeValue<'t>>, Box<Diagnostic>> {
        let span = start..start + text.len();
        let wrong = |message: String, hint: String| Err(Box::new(Diagnostic::error(span.clone(), message).hint(hint)));
        let has = |wanted: &str| self.types.contains(wanted);
        let parsed = DeValue::parse(text).map(|value| moved(value, &|span| span.start + start..span.end + start));
        let is_quoted = text.starts_with(['"', '\'']);
        if has("string") && self.types.len() == 1 && !is_quoted {
            return Ok(Spanned::new(span, DeValue::String(Cow::Borrowed(text))));
        }
        if has("array") && !is_quoted && (text.starts_with('[') || !has("string")) {
            return self.list(text, start, key, parsed.ok());
        }
        // A text would be an error far from here, such as that of a program which gets it.
        if self.are_numbers() && !is_quoted && !text.contains("${") {
            return match parsed {
                Ok(value) if is_number(value.get_ref()) => Ok(value),
                parsed => {
                    let (message, hint) = no_number(text, key, parsed.ok().as_ref().map(Spanned::get_ref));
                    wrong(message, hint)
                }
            };
        }
        let error = match parsed {
            Ok(value) if is_quoted || self.types.is_empty() || self.take(value.get_ref()) => return Ok(value),
            Ok(_) => None,
            Err(error) if text.starts_with(['[', '{', '"', '\'']) => {
                let span = error.span().unwrap_or(0..text.len());
                let message = format!("this is not a TOML value: {}", error.message().lines().collect::<Vec<_>>().join(", "));
                return Err(Box::new(Diagnostic::error(span.start + start..span.end + start, message)));
            }
            Err(error) => Some(error),
        };
        if has("boolean") {
            if let Ok(truth) = text.to_ascii_lowercase().parse::<bool>() {
                return Ok(Spanned::new(span, DeValue::Boolean(truth)));
            }
            if self.types.len() == 1 {
                return wrong(format!("`{key}` is true or false, not `{text}`"), "write `true` or `false`".to_owned());
            }
        }
        // `.5` and `1.` are numbers elsewhere.
        if (has("number") || has("integer"))
            && error.is_some()
            && !text.starts_with(|first: char| first.is_alphabetic())
            && let Some(number) = text.parse::<f64>().ok().filter(|number| number.is_finite())
        {
            return wrong(format!("`{text}` is not how TOML writes a number"), format!("write `{number:?}`"));
        }
        match error {
            // The schema or the stage says what is wrong with it.
            None if !has("string") => DeValue::parse(text)
                .map(|value| moved(value, &|span| span.start + start..span.end + start))
                .or_else(|_| Ok(Spanned::new(span, DeValue::String(Cow::Borrowed(text))))),
            _ => Ok(Spanned::new(span, DeValue::String(Cow::Borrowed(text)))),
        }
    }

    /// Whether only numbers are wanted.
    fn are_numbers(&self) -> bool {
        !self.types.is_empty() && self.types.iter().all(|one| one == "number" || one == "integer")
    }

    /// Whether a value has one of the types.
    fn take(&self, value: &DeValue<'_>) -> bool {
        let is = |one: &str| self.types.contains(one);
        match value {
            DeValue::String(_) => is("string"),
            DeValue::Integer(_) => is("integer") || is("number"),
            DeValue::Float(_) => is("number"),
            DeValue::Boolean(_) => is("boolean"),
            DeValue::Array(_) => is("array"),
            DeValue::Table(_) => is("object"),
            DeValue::Datetime(_) => false,
        }
    }

    /// A list: in TOML, or elements without quotes as in `[de, fr]` and `de,fr`.
    fn list<'t>(
        &self,
        text: &'t str,
        start: usize,
        key: &str,
        parsed: Option<Spanned<DeValue<'t>>>,
    ) -> Result<Spanned<DeValue<'t>>, Box<Diagnostic>> {
        let only_texts = self.items.len() == 1 && self.items.contains("string");
        if let Some(value) = parsed
            && let DeValue::Array(items) = value.get_ref()
            && (!only_texts || items.iter().all(|item| item.get_ref().is_str()))
        {
            return Ok(value);
        }
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let items = Self { types: self.items.clone(), items: BTreeSet::new() };
        let mut place = start + usize::from(inner.len() != text.len());
        let mut list = Vec::new();
        for piece in inner.split(',') {
            let item = piece.trim();
            let at = place + (piece.len() - piece.trim_start().len());
            place += piece.len() + 1;
            if !item.is_empty() {
                let plain = || Spanned::new(at..at + item.len(), DeValue::String(Cow::Borrowed(item)));
                list.push(match items.read(item, at, &format!("{key}[{}]", list.len())) {
                    Err(complaint) if items.are_numbers() => return Err(complaint),
                    read => read.unwrap_or_else(|_| plain()),
                });
            }
        }
        Ok(Spanned::new(start..start + text.len(), DeValue::Array(list.into_iter().collect())))
    }
}

/// Whether a value is a number that can be stored. Which numbers are allowed is said by the schema or the stage.
fn is_number(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Integer(number) => {
            let (digits, radix) = (number.as_str(), number.radix());
            i64::from_str_radix(digits, radix).is_ok() || u64::from_str_radix(digits, radix).is_ok()
        }
        // `1e999` is not what was written, but `inf` is.
        DeValue::Float(number) => {
            number.as_str().parse::<f64>().is_ok_and(|parsed| parsed.is_finite() || number.as_str().contains(['n', 'N']))
        }
        _ => false,
    }
}

/// Why a text is no number, and what to write.
fn no_number(text: &str, key: &str, parsed: Option<&DeValue<'_>>) -> (String, String) {
    let plain = |text: &str| {
        let digits = !text.starts_with(|first: char| first.is_alphabetic());
        text.parse::<f64>().ok().filter(|number| digits && number.is_finite())
    };
    if matches!(parsed, Some(DeValue::Integer(_) | DeValue::Float(_))) {
        return (format!("`{text}` is too large for a number"), "write a smaller one".to_owned());
    }
    if text.trim().is_empty() {
        return (format!("`{key}` is a number, and no value is given"), format!("write one, such as `{key}=1`"));
    }
    if let Ok(number) = text.parse::<i64>() {
        return (format!("`{text}` is not how TOML writes a number"), format!("write `{number}`"));
    }
    // `.5` and `1.` are numbers elsewhere.
    if let Some(number) = plain(text) {
        return (format!("`{text}` is not how TOML writes a number"), format!("write `{number:?}`"));
    }
    match plain(&text.replacen(',', ".", 1)) {
        Some(number) => (format!("`{text}` is not how TOML writes a number"), format!("decimals follow a point: `{number:?}`")),
        None => (format!("`{key}` is a number, not `{text}`"), "write a number, such as `1` or `5e-5`".to_owned()),
    }
}

fn one(name: &str) -> BTreeSet<String> {
    BTreeSet::from([name.to_owned()])
}

/// The value at a path.
fn at<'a, 't>(path: &[&str], tree: &'a DeTable<'t>) -> Option<&'a DeValue<'t>> {
    let (first, rest) = path.split_first()?;
    let value = tree.get(*first)?.get_ref();
    if rest.is_empty() { Some(value) } else { at(rest, value.as_table()?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, path: &[&str], text: &str) -> Result<String, String> {
        let tree = DeTable::parse(file).unwrap();
        let value = WantedTypes::of(path, tree.get_ref(), &[]).read(text, 0, "key").map_err(|error| error.message)?;
        let table: DeTable<'_> = [(Spanned::new(0..0, Cow::Borrowed("v")), value)].into_iter().collect();
        let value: toml::Table = serde::Deserialize::deserialize(toml::de::Deserializer::from(Spanned::new(0..0, table))).unwrap();
        Ok(value["v"].to_string())
    }

    #[test]
    fn a_value_has_the_type_of_what_it_replaces() {
        let file = "[params]\ns = 'word'\nn = 5\nf = 0.5\nb = true\nl = [1, 2]\nt = ['a']\nr = '${params.n}'\n[matrix]\naxes = { s = ['x'], n = [1] }";
        for (key, text, value) in [
            ("s", "1_1_1", "\"1_1_1\""),
            ("s", "0x10", "\"0x10\""),
            ("s", "true", "\"true\""),
            ("s", "1e5", "\"1e5\""),
            ("s", "[1]", "\"[1]\""),
            ("s", "2026-01-02", "\"2026-01-02\""),
            ("s", "'quoted'", "\"quoted\""),
            ("s", "", "\"\""),
            ("n", "7", "7"),
            ("n", "0.5", "0.5"),
            ("n", "-1_000", "-1000"),
            ("n", "0x10", "16"),
            ("n", "'auto'", "\"auto\""),
            ("n", "${params.f}", "\"${params.f}\""),
            ("f", "inf", "inf"),
            ("f", "1e-5", "0.00001"),
            ("f", "3", "3"),
            ("b", "True", "true"),
            ("b", "FALSE", "false"),
            ("l", "[3, 4]", "[3, 4]"),
            ("l", "3,4", "[3, 4]"),
            ("l", "[]", "[]"),
            ("t", "[de, fr]", "[\"de\", \"fr\"]"),
            ("t", "[\"a b\", 'c']", "[\"a b\", \"c\"]"),
            ("t", "1_1,true", "[\"1_1\", \"true\"]"),
            ("t", "x", "[\"x\"]"),
            ("r", "8", "8"),
            ("new", "8", "8"),
            ("new", "word", "\"word\""),
        ] {
            assert_eq!(read(file, &["params", key], text).as_deref(), Ok(value), "{key}={text}");
        }
        for (key, text, message) in [
            ("f", ".5", "not how TOML writes"),
            ("n", "1.", "not how TOML writes"),
            ("n", "007", "not how TOML writes"),
            ("f", "0,5", "not how TOML writes"),
            ("n", "abc", "is a number, not `abc`"),
            ("n", "auto", "is a number, not `auto`"),
            ("n", "true", "is a number, not `true`"),
            ("n", "[1]", "is a number, not `[1]`"),
            ("n", "", "no value is given"),
            ("n", "99999999999999999999", "too large"),
            ("n", "-9223372036854775809", "too large"),
            ("f", "1e999", "too large"),
            ("l", "1,abc", "`key[1]` is a number, not `abc`"),
            ("b", "yes", "true or false"),
        ] {
            let error = read(file, &["params", key], text).unwrap_err();
            assert!(error.contains(message), "{key}={text}: {error}");
        }
        assert_eq!(read(file, &["matrix", "axes", "s"], "[1_1, 2]").as_deref(), Ok("[\"1_1\", \"2\"]"));
        assert_eq!(read(file, &["matrix", "axes", "n"], "1,2").as_deref(), Ok("[1, 2]"));
        assert_eq!(read(file, &["pipeline", "name"], "2026").as_deref(), Ok("\"2026\""));
        assert_eq!(read(file, &["stage", "a", "timeout"], "90").as_deref(), Ok("\"90\""));
        assert_eq!(read(file, &["stage", "a", "retry", "times"], "2").as_deref(), Ok("2"));
    }
}
