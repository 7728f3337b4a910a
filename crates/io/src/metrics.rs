//! Metrics in JSON, which has no number for NaN and the infinities: they are written as the strings `"NaN"`, `"Infinity"` and `"-Infinity"`,
//! as in the JSON mapping of Protocol Buffers.
//!
//! The functions `serialize` and `deserialize` are for `#[serde(with = "voxpipe_io::metrics")]`.

use serde::de::{Deserializer, Error as _};
use serde::ser::{SerializeMap as _, Serializer};
use serde::{Deserialize as _, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Metrics by name.
pub type Metrics = BTreeMap<String, f64>;

/// A number as JSON.
pub fn number(value: f64) -> Value {
    if value.is_finite() { Value::from(value) } else { Value::from(name(value)) }
}

/// Metrics as a JSON object.
pub fn object(metrics: &Metrics) -> Map<String, Value> {
    metrics.iter().map(|(name, value)| (name.clone(), number(*value))).collect()
}

/// A number in words: `0.5`, `NaN`, `Infinity`.
pub fn text(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { name(value).to_owned() }
}

/// The number that a JSON value stands for: a number, a number in a string, or `null` for NaN. `None` for anything else.
pub fn value(json: &Value) -> Option<f64> {
    match json {
        Value::Null => Some(f64::NAN),
        Value::Number(number) => number.as_f64(),
        // "NaN", "Infinity", "-inf" and "1e-3" in the letters of any language.
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn name(value: f64) -> &'static str {
    match value {
        value if value.is_nan() => "NaN",
        value if value > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { serializer.serialize_f64(self.0) } else { serializer.serialize_str(name(self.0)) }
    }
}

/// Writes metrics.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(metrics: &Metrics, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(metrics.len()))?;
    for (name, value) in metrics {
        map.serialize_entry(name, &Number(*value))?;
    }
    map.end()
}

/// Reads metrics. `null`, as older versions wrote NaN, is NaN.
///
/// # Errors
/// If a value is no number.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Metrics, D::Error> {
    let values = Map::<String, Value>::deserialize(deserializer)?;
    let number = |(name, json): (String, Value)| match value(&json) {
        Some(number) => Ok((name, number)),
        None => Err(D::Error::custom(format!("metric `{name}` is no number: {json}"))),
    };
    values.into_iter().map(number).collect()
}

/// Parses a line that is JSON but for its numbers: `NaN` and `Infinity` as Python writes them, `nan`, `-inf`, `.5`, `1.`, `1e999`. They become
/// strings where JSON has no number for them. `None` for anything else.
pub fn parse_lenient(line: &str) -> Option<Value> {
    match serde_json::from_str(line) {
        Ok(value) => Some(value),
        Err(_) if line.trim_start().starts_with('{') => serde_json::from_str(&with_plain_numbers(line)).ok(),
        Err(_) => None,
    }
}

/// The line with every number outside of strings written as JSON has it.
fn with_plain_numbers(line: &str) -> String {
    let mut plain = String::with_capacity(line.len() + 16);
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let length = if first == '"' { string_length(rest) } else { rest.find(is_no_number).unwrap_or(rest.len()) }.max(first.len_utf8());
        let (piece, after) = rest.split_at(length);
        let number = if first == '"' || serde_json::from_str::<Value>(piece).is_ok() { None } else { piece.parse::<f64>().ok() };
        plain.push_str(&number.map_or_else(|| piece.to_owned(), |value| self::number(value).to_string()));
        rest = after;
    }
    plain
}

fn is_no_number(character: char) -> bool {
    !character.is_ascii_alphanumeric() && !matches!(character, '+' | '-' | '.')
}

/// The length of the JSON string at the start of a text, with its quotes.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Row {
        step: u64,
        #[serde(flatten, with = "super")]
        values: Metrics,
    }

    #[test]
    fn what_is_no_number_is_written_as_a_string_and_read_again() {
        let values = [("a", 0.5), ("b", f64::INFINITY), ("c", f64::NEG_INFINITY), ("n", f64::NAN)];
        let row = Row { step: 3, values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect() };
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(text, r#"{"step":3,"a":0.5,"b":"Infinity","c":"-Infinity","n":"NaN"}"#);
        let read: Row = serde_json::from_str(&text).unwrap();
        assert!(read.values["n"].is_nan() && read.values["b"] == f64::INFINITY && read.values["c"] == f64::NEG_INFINITY);
        assert_eq!(read.values["a"], 0.5);
        assert!(serde_json::from_str::<Row>(r#"{"step":3,"a":null}"#).unwrap().values["a"].is_nan());
        assert!(serde_json::from_str::<Row>(r#"{"step":3,"a":"x"}"#).unwrap_err().to_string().contains("metric `a`"));
        assert_eq!(json!(object(&read.values)), json!({"a": 0.5, "b": "Infinity", "c": "-Infinity", "n": "NaN"}));
    }

    #[test]
    fn lines_with_numbers_of_other_languages_are_read() {
        for (line, expected) in [
            (
                r#"{"a": NaN, "b": [Infinity, -Infinity], "c": {"NaN": "NaN, \" Infinity"}}"#,
                json!({"a": "NaN", "b": ["Infinity", "-Infinity"], "c": {"NaN": "NaN, \" Infinity"}}),
            ),
            (
                r#"{"a":nan,"b":-inf,"c":.5,"d":1.,"e":1e999,"f":true,"g":null,"h":-1.5e3}"#,
                json!({"a": "NaN", "b": "-Infinity", "c": 0.5, "d": 1.0, "e": "Infinity", "f": true, "g": null, "h": -1500.0}),
            ),
        ] {
            assert_eq!(parse_lenient(line), Some(expected), "{line}");
        }
        for line in ["NaN", "{nan}", "{\"a\": NaNs}", "{\"a", "plain NaN text", "{\"a\": }"] {
            assert_eq!(parse_lenient(line), None, "{line}");
        }
        assert_eq!(value(&json!("-inf")), Some(f64::NEG_INFINITY));
        assert_eq!(value(&json!("0.5")), Some(0.5));
        assert_eq!(value(&json!("x")), None);
        assert_eq!(value(&json!([1])), None);
    }
}
