//! Why a step has to run, as a type and as a sentence.

use crate::cache::content::ContentDiff;
use crate::cache::fingerprint::{FingerprintInputs, UpstreamInput};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One reason to run; a step may have several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Why {
    /// It has never been done.
    NeverRun,
    /// The kind, or its contract version, is another.
    KindVersion {
        /// Such as `train@2`.
        old: String,
        /// Such as `train@3`.
        new: String,
    },
    /// A setting is another.
    Setting {
        /// Its dotted key.
        key: String,
        /// Its value then, if it had one.
        old: Option<Value>,
        /// Its value now, if it has one.
        new: Option<Value>,
    },
    /// An outside file or folder is another.
    Source {
        /// Which, as the settings name it.
        path: String,
        /// File by file.
        changes: ContentDiff,
    },
    /// An upstream result is another.
    Input {
        /// The port it goes in.
        port: String,
        /// The step it comes from.
        stage: String,
        /// File by file, as far as the older result is still there to compare with.
        changes: ContentDiff,
    },
    /// The seed is another.
    Seed {
        /// The seed then.
        old: u64,
        /// The seed now.
        new: u64,
    },
    /// Precision or device class is another.
    Numerics {
        /// The class then.
        old: Option<String>,
        /// The class now.
        new: Option<String>,
    },
    /// The pipeline has another name, and the result tells it.
    Renamed {
        /// The name then, if it was told.
        old: Option<String>,
        /// The name now, if it is told.
        new: Option<String>,
    },
    /// A step before it runs first.
    UpstreamWillRun {
        /// That step.
        stage: String,
    },
    /// The kept result is gone or damaged.
    OutputMissing {
        /// What is wrong with it.
        problem: String,
    },
    /// Something it left outside the store is gone or changed.
    PromiseChanged {
        /// What.
        path: String,
        /// File by file.
        changes: ContentDiff,
    },
    /// A file it read changed while it ran.
    SourceMoved {
        /// Which.
        path: String,
    },
    /// It waits for a person.
    Parked {
        /// How much was there.
        have: u64,
        /// How much is needed.
        need: u64,
    },
    /// It was interrupted, or the program was killed.
    Interrupted,
    /// It failed.
    PreviousFailed {
        /// What had happened.
        message: String,
    },
    /// Somebody said so.
    Forced,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRun => write!(f, "it has not been done yet"),
            Self::KindVersion { old, new } => write!(f, "the stage changed: {old} → {new}"),
            Self::Setting { key, old, new } => match (old, new) {
                (Some(old), Some(new)) => write!(f, "setting `{key}` {} → {}", short(old), short(new)),
                (None, Some(new)) => write!(f, "setting `{key}` is new: {}", short(new)),
                _ => write!(f, "setting `{key}` is gone"),
            },
            Self::Source { path, changes } => match (changes.added.as_slice(), changes.removed.as_slice(), changes.changed.as_slice()) {
                ([], [], [one]) if one == path => write!(f, "`{path}` changed"),
                ([], [one], []) if one == path => write!(f, "`{path}` is gone"),
                ([one], [], []) if one == path => write!(f, "`{path}` is new"),
                ([], [], []) => write!(f, "`{path}` is different"),
                _ => write!(f, "`{path}`: {}", changes.sentence()),
            },
            Self::Input { port, stage, changes } if changes.is_empty() => write!(f, "input `{port}` from `{stage}` is different"),
            Self::Input { port, stage, changes } => write!(f, "input `{port}` from `{stage}`: {}", changes.sentence()),
            Self::Seed { old, new } => write!(f, "the seed changed: {old} → {new}"),
            Self::Numerics { old, new } => {
                let name = |class: &Option<String>| class.clone().unwrap_or_else(|| "any".to_owned());
                write!(f, "the numerics changed: {} → {}", name(old), name(new))
            }
            Self::Renamed { .. } => write!(f, "the pipeline's name changed"),
            Self::UpstreamWillRun { stage } => write!(f, "`{stage}` runs first"),
            Self::OutputMissing { problem } => write!(f, "{problem}"),
            Self::PromiseChanged { path, changes } if changes.is_empty() => write!(f, "`{path}` is gone"),
            Self::PromiseChanged { path, changes } => write!(f, "`{path}` changed since it was made: {}", changes.sentence()),
            Self::SourceMoved { path } => write!(f, "`{path}` changed while it ran"),
            Self::Parked { have, need } => write!(f, "it waits for a person: {have}/{need}"),
            Self::Interrupted => write!(f, "it was interrupted"),
            Self::PreviousFailed { message } => write!(f, "it failed last time: {}", message.lines().next().unwrap_or_default()),
            Self::Forced => write!(f, "asked for with --force"),
        }
    }
}

/// Several reasons as one sentence.
pub fn sentence(reasons: &[Why]) -> String {
    reasons.iter().map(Why::to_string).collect::<Vec<_>>().join("; ")
}

/// What is different between two lists of ingredients. `compare` tells two upstream results apart, file by file.
pub fn differences(
    old: &FingerprintInputs,
    new: &FingerprintInputs,
    compare: impl Fn(&UpstreamInput, &UpstreamInput) -> ContentDiff,
) -> Vec<Why> {
    let mut reasons = Vec::new();
    if (&old.kind, old.version) != (&new.kind, new.version) {
        let name = |of: &FingerprintInputs| format!("{}@{}", of.kind, of.version);
        reasons.push(Why::KindVersion { old: name(old), new: name(new) });
    }
    settings("", Some(&old.settings), Some(&new.settings), &mut reasons);
    sources(old, new, &mut reasons);
    for (port, now) in &new.inputs {
        let before = old.inputs.get(port).map_or(&[] as &[UpstreamInput], Vec::as_slice);
        for (position, input) in now.iter().enumerate() {
            match before.get(position) {
                Some(was) if (was.digest, was.said) == (input.digest, input.said) => {}
                was => {
                    let changes = was.map(|was| compare(was, input)).unwrap_or_default();
                    reasons.push(Why::Input { port: port.clone(), stage: input.stage.clone(), changes });
                }
            }
        }
    }
    for (port, before) in &old.inputs {
        let kept = new.inputs.get(port).map_or(0, Vec::len);
        for input in before.iter().skip(kept) {
            reasons.push(Why::Input { port: port.clone(), stage: input.stage.clone(), changes: ContentDiff::default() });
        }
    }
    if old.seed != new.seed {
        reasons.push(Why::Seed { old: old.seed, new: new.seed });
    }
    if old.numerics != new.numerics {
        reasons.push(Why::Numerics { old: old.numerics.clone(), new: new.numerics.clone() });
    }
    if old.pipeline != new.pipeline {
        reasons.push(Why::Renamed { old: old.pipeline.clone(), new: new.pipeline.clone() });
    }
    reasons
}

fn settings(key: &str, old: Option<&Value>, new: Option<&Value>, reasons: &mut Vec<Why>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let below = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                settings(&below, a.get(name), b.get(name), reasons);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() && !key.is_empty() => {
            for (position, (old, new)) in a.iter().zip(b).enumerate() {
                settings(&format!("{key}.{position}"), Some(old), Some(new), reasons);
            }
        }
        _ => reasons.push(Why::Setting { key: key.to_owned(), old: old.cloned(), new: new.cloned() }),
    }
}

fn sources(old: &FingerprintInputs, new: &FingerprintInputs, reasons: &mut Vec<Why>) {
    let by_path = |of: &FingerprintInputs| -> BTreeMap<_, _> {
        of.sources.iter().map(|source| (source.path.clone(), source.content.clone())).collect()
    };
    let (before, now) = (by_path(old), by_path(new));
    for path in before.keys().chain(now.keys()).collect::<BTreeSet<_>>() {
        let missing = crate::cache::content::Content::Missing;
        let (was, is) = (before.get(path).unwrap_or(&missing), now.get(path).unwrap_or(&missing));
        if was != is {
            let changes = was.changes(is, path);
            reasons.push(Why::Source { path: path.clone(), changes });
        }
    }
}

/// A value that fits in a line.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { format!("{}…", text.chars().take(59).collect::<String>()) }
}
