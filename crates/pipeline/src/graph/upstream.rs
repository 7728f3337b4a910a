//! Provenance of a published result: the resolved settings of its upstream steps.
//!
//! It contains settings, not the text of the file, so that a changed comment or an unrelated stage does not cause a new publication. Paths
//! outside the project and secrets are redacted.

use super::{Pipeline, Step};
use crate::cache::fingerprint::portable;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use voxpipe_io::secrets::redactor::Redactor;

impl Pipeline {
    /// The settings of all upstream steps by name, if the step's result records them; empty otherwise.
    pub fn upstream(&self, step: &Step) -> BTreeMap<String, Value> {
        if !step.stage.records_upstream() {
            return BTreeMap::new();
        }
        let needed = self.all_upstream(step.needs(), Step::needs);
        let root = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        let (secrets, _) = Redactor::of_environment();
        let described = |step: &Step| {
            json!({
                "uses": step.stage.kind(),
                "version": step.stage.version(),
                "from": step.from,
                "with": public(portable(step.stage.portable_settings(), &[], &root), secrets),
                "pipeline_seed": self.seed,
            })
        };
        let all = self.steps.iter().chain(&self.left_out);
        all.filter(|step| needed.contains(step.name.as_str())).map(|step| (step.name.clone(), described(step))).collect()
    }
}

/// The settings without nulls, folders outside the project, and secrets.
fn public(value: Value, secrets: &Redactor) -> Value {
    match value {
        Value::String(text) => {
            let text = secrets.redact(&text);
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
