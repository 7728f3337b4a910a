//! Fingerprints: a digest of everything a result depends on, with the list of inputs behind it.
//!
//! | input | form |
//! |---|---|
//! | kind and contract version | `train`, 3 |
//! | settings | [`crate::stage::Stage::identity`], defaults filled in, keys sorted, floats in their shortest exact form |
//! | inputs | by port: the digest of the upstream *output*, and of its facts and metrics |
//! | sources | external files: the digest of their bytes; folders: every relative path and its bytes; a missing source enters as missing |
//! | seed | the step's seed |
//! | pipeline name | for kinds that write it into their result |
//! | numerics class | for kinds whose bytes depend on precision and device class |
//!
//! Excluded: time, host, absolute paths (a source outside the project enters by position), the order of keys, resources, retries and
//! timeouts.

use crate::artifact::Artifact;
use crate::cache::content::Content;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use voxpipe_io::digest::Digest;

/// The cache key of a result, known before the result exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub Digest);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fingerprint inputs of a result: everything it depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FingerprintInputs {
    /// The stage's kind.
    pub kind: String,
    /// The contract version of the kind.
    pub version: u32,
    /// The settings that affect the result.
    pub settings: Value,
    /// Upstream results by port.
    pub inputs: BTreeMap<String, Vec<UpstreamInput>>,
    /// External files and folders, in the order the stage lists them.
    pub sources: Vec<SourceInput>,
    /// The step's seed.
    pub seed: u64,
    /// Precision and device class, if the bytes of the result depend on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<String>,
    /// The pipeline's name, if the result contains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// The digest, computed by the first call of [`FingerprintInputs::fingerprint`].
    #[serde(skip)]
    pub known: LazyFingerprint,
}

/// An upstream result as a fingerprint input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamInput {
    /// The step that made it; for display only, not part of the fingerprint.
    pub stage: String,
    /// The digest of its files.
    pub digest: Digest,
    /// The digest of the facts and metrics, which a downstream stage may read in addition to the files.
    pub said: Digest,
}

impl UpstreamInput {
    /// The part of an artifact that enters a fingerprint.
    pub fn of(artifact: &Artifact) -> Self {
        let said = canonical(&json!({ "metrics": voxpipe_io::metrics::object(&artifact.metrics), "facts": artifact.facts }));
        Self { stage: artifact.stage.clone(), digest: artifact.digest, said: Digest::of(said.as_bytes()) }
    }
}

/// An external file or folder as a fingerprint input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInput {
    /// The path, relative to the project root if it lies inside.
    pub path: String,
    /// The content at that path.
    pub content: Content,
}

/// A lazily computed fingerprint. Ignored in comparisons, as it is derived from the other fields.
#[derive(Clone, Debug, Default)]
pub struct LazyFingerprint(OnceLock<Fingerprint>);

impl PartialEq for LazyFingerprint {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl FingerprintInputs {
    /// The fingerprint. It is computed once: do not change the inputs after the first call.
    pub fn fingerprint(&self) -> Fingerprint {
        *self.known.0.get_or_init(|| self.computed())
    }

    fn computed(&self) -> Fingerprint {
        let inputs: BTreeMap<_, Vec<_>> = self
            .inputs
            .iter()
            .map(|(port, inputs)| (port, inputs.iter().map(|input| json!([input.digest, input.said])).collect()))
            .collect();
        let sources: Vec<_> = self
            .sources
            .iter()
            .map(|source| {
                let place = Path::new(&source.path);
                let name = if place.is_absolute() { Value::Null } else { json!(source.path) };
                match &source.content {
                    Content::Missing => json!([name, "missing"]),
                    Content::File(leaf) => json!([name, "file", leaf.digest]),
                    Content::Folder(tree) => json!([name, "folder", tree.digest()]),
                }
            })
            .collect();
        let parts = json!({
            "kind": self.kind, "version": self.version, "inputs": inputs, "sources": sources,
            "seed": self.seed, "numerics": self.numerics, "pipeline": self.pipeline,
        });
        // Avoids a copy of the settings: they may be long, and there may be many stages.
        let parts = parts.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value));
        let mut text = String::from("voxpipe fingerprint 1\n");
        write_object(parts.chain([("settings", &self.settings)]).collect(), &mut text);
        Fingerprint(Digest::of(text.as_bytes()))
    }
}

/// Replaces absolute paths in settings by relative ones or source positions, so that a project can be moved.
pub fn portable(settings: Value, sources: &[PathBuf], root: &Path) -> Value {
    match settings {
        Value::String(text) if Path::new(&text).is_absolute() => {
            let path = Path::new(&text);
            if let Ok(inside) = path.strip_prefix(root) {
                Value::String(inside.display().to_string())
            } else if let Some(position) = sources.iter().position(|source| source == path) {
                Value::String(format!("<source {position}>"))
            } else {
                Value::String(text)
            }
        }
        Value::Array(items) => items.into_iter().map(|item| portable(item, sources, root)).collect(),
        Value::Object(entries) => {
            entries.into_iter().map(|(key, value)| (key, portable(value, sources, root))).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

/// Canonical JSON: sorted keys and no whitespace, so that equal values have equal text.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, to: &mut String) {
    match value {
        Value::Object(entries) => write_object(entries.iter().map(|(key, value)| (key.as_str(), value)).collect(), to),
        Value::Array(items) => {
            to.push('[');
            for (place, item) in items.iter().enumerate() {
                to.push_str(if place == 0 { "" } else { "," });
                write_canonical(item, to);
            }
            to.push(']');
        }
        plain => to.push_str(&plain.to_string()),
    }
}

fn write_object(mut entries: Vec<(&str, &Value)>, to: &mut String) {
    entries.sort_unstable_by_key(|(key, _)| *key);
    to.push('{');
    for (place, (key, value)) in entries.into_iter().enumerate() {
        to.push_str(if place == 0 { "" } else { "," });
        to.push_str(&Value::from(key).to_string());
        to.push(':');
        write_canonical(value, to);
    }
    to.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::content::{FileContent, FileTree};

    fn inputs() -> FingerprintInputs {
        let leaf = FileContent { size: 1, digest: Digest::of(b"1") };
        let input = UpstreamInput { stage: "dataset".into(), digest: Digest::of(b"d"), said: Digest::of(b"s") };
        FingerprintInputs {
            kind: "train".into(),
            version: 3,
            settings: json!({ "epochs": 3.0, "lora": { "r": 8 } }),
            inputs: BTreeMap::from([("data".to_owned(), vec![input])]),
            sources: vec![SourceInput {
                path: "clips".into(),
                content: Content::Folder(FileTree(BTreeMap::from([("a".to_owned(), leaf)]))),
            }],
            seed: u64::MAX,
            numerics: Some("cpu-f32".into()),
            pipeline: None,
            known: LazyFingerprint::default(),
        }
    }

    #[test]
    fn every_input_changes_the_fingerprint() {
        let base = inputs().fingerprint();
        type Change = fn(&mut FingerprintInputs);
        let changes: [(&str, Change); 11] = [
            ("kind", |i| i.kind = "merge".into()),
            ("version", |i| i.version = 4),
            ("setting", |i| i.settings["lora"]["r"] = json!(16)),
            ("port", |i| drop(i.inputs.insert("model".into(), i.inputs["data"].clone()))),
            ("input", |i| i.inputs.get_mut("data").unwrap()[0].digest = Digest::of(b"e")),
            ("what the input says", |i| i.inputs.get_mut("data").unwrap()[0].said = Digest::of(b"t")),
            ("source gone", |i| i.sources[0].content = Content::Missing),
            ("source's place", |i| i.sources[0].path = "other".into()),
            ("seed", |i| i.seed = 1),
            ("numerics", |i| i.numerics = None),
            ("the pipeline's name", |i| i.pipeline = Some("mine".into())),
        ];
        for (what, change) in changes {
            let mut changed = inputs();
            change(&mut changed);
            assert_ne!(changed.fingerprint(), base, "{what}");
        }
    }

    #[test]
    fn names_of_steps_and_absolute_places_do_not_count() {
        let mut renamed = inputs();
        renamed.inputs.get_mut("data").unwrap()[0].stage = "clips".into();
        assert_eq!(renamed.fingerprint(), inputs().fingerprint());
        let (mut here, mut there) = (inputs(), inputs());
        here.sources[0].path = "/home/a/clips".into();
        there.sources[0].path = "/mnt/b/clips".into();
        assert_eq!(here.fingerprint(), there.fingerprint());
        let sources = ["/mnt/b/clips".into()];
        let settings = portable(json!({ "path": "/mnt/b/clips", "list": ["/p/in", "/elsewhere"] }), &sources, Path::new("/p"));
        assert_eq!(settings, json!({ "path": "<source 0>", "list": ["in", "/elsewhere"] }));
    }

    /// A change of this digest invalidates every existing result.
    #[test]
    fn the_recipe_does_not_change_by_accident() {
        assert_eq!(
            canonical(&json!({ "b": [1, 0.1, 1e-5], "a": { "z": null, "ä": "\n" } })),
            r#"{"a":{"z":null,"ä":"\n"},"b":[1,0.1,0.00001]}"#
        );
        assert_eq!(inputs().fingerprint().to_string()[..16].to_owned(), "a1f69075c5d651f4");
    }
}
