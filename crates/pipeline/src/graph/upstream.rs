//! What a published result tells of how it was made: the settings of the steps before it, as they were resolved.
//!
//! It is not the text of the file, so that a comment, or a stage beside the road, does not publish anew. No path outside the project is
//! told, and no value of an environment variable that is a secret by its name.

use super::{Pipeline, Step};
use crate::cache::fingerprint::portable;
use crate::secrets::is_secret;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Shorter values are words and numbers that occur everywhere.
const SHORTEST_SECRET: usize = 6;

impl Pipeline {
    /// The steps that lead to one, by name, if its result tells of them; nothing otherwise.
    pub fn upstream(&self, step: &Step) -> BTreeMap<String, Value> {
        if !step.stage.tells_upstream() {
            return BTreeMap::new();
        }
        let mut needed: BTreeSet<&str> = step.needs();
        for step in self.steps.iter().rev() {
            if needed.contains(step.name.as_str()) {
                needed.extend(step.needs());
            }
        }
        let root = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        let secrets: Vec<String> = std::env::vars_os()
            .filter(|(name, _)| is_secret(name))
            .map(|(_, value)| value.to_string_lossy().trim().to_owned())
            .filter(|value| value.len() >= SHORTEST_SECRET)
            .collect();
        let told = |step: &Step| {
            json!({
                "uses": step.stage.kind(),
                "version": step.stage.version(),
                "from": step.from,
                "with": public(portable(step.stage.recipe(), &[], &root), &secrets),
                "pipeline_seed": self.seed,
            })
        };
        self.steps.iter().filter(|step| needed.contains(step.name.as_str())).map(|step| (step.name.clone(), told(step))).collect()
    }
}

/// Settings without what was not set, folders outside the project and secrets.
fn public(value: Value, secrets: &[String]) -> Value {
    match value {
        Value::String(text) => {
            let text = secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), "[redacted]"));
            let path = Path::new(&text);
            if path.is_absolute() {
                json!(path.file_name().map_or_else(|| "outside".to_owned(), |name| format!("outside/{}", name.to_string_lossy())))
            } else {
                Value::String(text)
            }
        }
        Value::Array(items) => items.into_iter().map(|item| public(item, secrets)).collect(),
        Value::Object(entries) => {
            let entries = entries.into_iter().filter(|(_, value)| !value.is_null());
            entries.map(|(key, value)| (key, public(value, secrets))).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}
