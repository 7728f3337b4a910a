//! Settings of a stage with where each value comes from: the command line, a pipeline file, a profile, or the default.

use crate::cli::provenance::Provenance;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What the pipeline files and the command line of a run set, by dotted key.
pub(super) struct Origins {
    /// Keys in the pipeline files, with the file and the value as written.
    written: BTreeMap<String, (String, Value)>,
    /// Keys of `--set`.
    set: Vec<String>,
    profiles: Vec<String>,
}

impl Origins {
    pub(super) fn of(provenance: Option<&Provenance>) -> Self {
        let mut origins = Self { written: BTreeMap::new(), set: Vec::new(), profiles: Vec::new() };
        let Some(provenance) = provenance else { return origins };
        let included = provenance.included.iter();
        // The pipeline file itself overrides what it includes.
        for (file, text) in included.chain([(&provenance.file, &provenance.text)]) {
            if let Ok(table) = toml::from_str::<toml::Table>(text) {
                let mut keys = BTreeMap::new();
                flatten("", &json!(table), &mut keys);
                let file = file.display().to_string();
                origins.written.extend(keys.into_iter().map(|(key, value)| (key, (file.clone(), value))));
            }
        }
        origins.set = provenance.set.iter().map(|(key, _)| key.clone()).collect();
        origins.profiles.clone_from(&provenance.profiles);
        origins
    }

    /// The settings of a stage as rows: name, value, origin, and whether it was set.
    pub(super) fn rows(&self, stage: &str, effective: Option<&Value>) -> Vec<Value> {
        let mut settings = BTreeMap::new();
        match effective {
            Some(effective) => flatten("", effective, &mut settings),
            // The stage has no result; only what the file says is known.
            None => {
                let prefix = format!("stage.{stage}.with.");
                let written =
                    self.written.iter().filter_map(|(key, (_, value))| Some((key.strip_prefix(&prefix)?.to_owned(), value.clone())));
                settings.extend(written);
            }
        }
        let row = |(name, value): (&String, &Value)| {
            let origin = self.origin(stage, name);
            json!({ "name": name, "value": shown(value), "origin": origin.as_deref().unwrap_or("default"), "set": origin.is_some() })
        };
        settings.iter().map(row).collect()
    }

    fn origin(&self, stage: &str, name: &str) -> Option<String> {
        // A stage of `foreach` is written once, without its item.
        let stages = [stage, stage.split('[').next().unwrap_or(stage)];
        let keys: Vec<String> = stages.iter().map(|stage| format!("stage.{stage}.with.{name}")).collect();
        let covers = |outer: &str, key: &str| key == outer || key.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
        if self.set.iter().any(|set| keys.iter().any(|key| covers(set, key))) {
            return Some("--set".to_owned());
        }
        for profile in self.profiles.iter().rev() {
            if keys.iter().any(|key| self.written.contains_key(&format!("profile.{profile}.{key}"))) {
                return Some(format!("profile {profile}"));
            }
        }
        let (file, value) = keys.iter().find_map(|key| self.written.get(key))?;
        let parameter = value.as_str().and_then(|text| text.split_once("${params.")?.1.split_once('}')).map(|(name, _)| name);
        Some(match parameter {
            Some(parameter) if self.set.iter().any(|set| set == parameter || *set == format!("params.{parameter}")) => {
                format!("--set {parameter}")
            }
            Some(parameter) => format!("{file}, params.{parameter}"),
            None => file.clone(),
        })
    }
}

/// The leaves of a value by dotted key; lists are leaves.
fn flatten(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, into);
            }
        }
        leaf => _ = into.insert(prefix.to_owned(), leaf.clone()),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        other => other.to_string(),
    }
}
