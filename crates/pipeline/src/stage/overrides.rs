//! Setting overrides for a retry: `recover = [{ on = "out-of-memory", set = { batch_size = "/2" } }]`.

use super::Stage;
use crate::diagnostics::toml_schema;
use crate::error::{Error, ErrorKind, Result};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;

/// Overrides by dotted setting path: a new value, or `"/2"` or `"*2"` to halve or double the current number.
pub type SettingOverrides = BTreeMap<String, Value>;

/// The stage with overrides applied.
///
/// # Errors
/// If a path is not a setting, or a new value is invalid.
pub(super) fn changed<S: Stage>(stage: &S, changes: &SettingOverrides) -> Result<S> {
    let invalid = |message: String| Error::new(message).kind(ErrorKind::InvalidInput);
    let mut settings = serde_json::to_value(stage)?;
    for (path, change) in changes {
        let (first, rest) = path.split_once('.').map_or((path.as_str(), None), |(first, rest)| (first, Some(rest)));
        let first = toml_schema::current_name::<S>(first);
        let path = &rest.map_or_else(|| first.clone(), |rest| format!("{first}.{rest}"));
        let place = place(&mut settings, path).ok_or_else(|| invalid(format!("`{path}` is not a setting of `{}`", S::KIND)))?;
        *place = value(place, change).map_err(|message| invalid(format!("`{path}` {message}")))?;
    }
    let stage: S = serde_json::from_value(settings).map_err(|error| invalid(error.to_string()))?;
    match stage.check().into_iter().next() {
        None => Ok(stage),
        Some(complaint) => Err(invalid(complaint.message)),
    }
}

/// The setting at a dotted path, inserted as null if it is missing; `None` if the path leads through a scalar.
fn place<'a>(settings: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut place = settings;
    for key in path.split('.') {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        place = place.as_object_mut()?.entry(key).or_insert(Value::Null);
    }
    Some(place)
}

/// The new value of a setting: scaled by `"/N"` or `"*N"` if the old value is a number, or else the override itself.
fn value(old: &Value, change: &Value) -> Result<Value, String> {
    let (Value::Number(old), Value::String(text)) = (old, change) else { return Ok(change.clone()) };
    let factor = |text: &str| text.trim().parse::<f64>().ok().filter(|factor| *factor > 0.0 && factor.is_finite());
    let (by, divide) = match (text.strip_prefix('/').and_then(factor), text.strip_prefix('*').and_then(factor)) {
        (Some(by), _) => (by, true),
        (_, Some(by)) => (by, false),
        _ => return Err(format!("is a number: write one, or \"/2\" or \"*2\", not \"{text}\"")),
    };
    let exact = if divide { old.as_f64().unwrap_or(f64::NAN) / by } else { old.as_f64().unwrap_or(f64::NAN) * by };
    if !old.is_f64() {
        // Integers must divide exactly: rounding would change the effective batch size, and with it the training.
        return match exact.fract() == 0.0 && (1.0..1e15).contains(&exact) {
            true => Ok(Value::from(exact as u64)),
            false => Err(format!("is {old}, and {old} {} {by} is not a positive whole number", if divide { '/' } else { '*' })),
        };
    }
    Number::from_f64(exact).map(Value::Number).ok_or_else(|| format!("would be {exact}"))
}

/// Overrides as text with their resulting values in `settings`, such as `batch_size = 1, gradient_accumulation = 8`.
#[must_use]
pub fn describe_overrides(changes: &SettingOverrides, settings: &Value) -> String {
    let now = |path: &str| path.split('.').try_fold(settings, |place, key| place.get(key));
    let one = |(path, change): (&String, &Value)| format!("{path} = {}", now(path).unwrap_or(change));
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_halved_and_doubled() {
        let cases = [
            (json!(8), json!("/2"), Ok(json!(4))),
            (json!(4), json!("*2"), Ok(json!(8))),
            (json!(1e-3), json!("/2"), Ok(json!(5e-4))),
            (json!(8), json!(3), Ok(json!(3))),
            (json!("linear"), json!("/2"), Ok(json!("/2"))),
            (json!(1), json!("/2"), Err("is 1, and 1 / 2 is not a positive whole number")),
            (json!(3), json!("half"), Err("is a number: write one, or \"/2\" or \"*2\", not \"half\"")),
            (json!(3), json!("/0"), Err("is a number: write one, or \"/2\" or \"*2\", not \"/0\"")),
        ];
        for (old, change, expected) in cases {
            assert_eq!(value(&old, &change), expected.map_err(str::to_owned), "{old} {change}");
        }
    }

    #[test]
    fn settings_are_found_by_path() {
        let mut settings = json!({ "lora": { "r": 8 }, "eval": null });
        *place(&mut settings, "lora.r").unwrap() = json!(4);
        *place(&mut settings, "eval.steps").unwrap() = json!(5);
        assert_eq!(settings, json!({ "lora": { "r": 4 }, "eval": { "steps": 5 } }));
        assert!(place(&mut settings, "lora.r.x").is_none());
        assert_eq!(describe_overrides(&BTreeMap::from([("lora.r".to_owned(), json!("/2"))]), &settings), "lora.r = 4");
    }
}
