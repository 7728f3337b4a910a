//! Reasons why a step is stale, as a type (also in JSON) and as a sentence.

use crate::cache::content::ContentDiff;
use crate::cache::fingerprint::{FingerprintInputs, UpstreamInput};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A reason why a step is stale; a step may have several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Why {
    /// It has never run to completion.
    NeverRun,
    /// The stage kind or its version changed.
    KindVersion {
        /// Before, such as `train@2`.
        old: String,
        /// Now, such as `train@3`.
        new: String,
    },
    /// A setting changed.
    Setting {
        /// Its dotted key.
        key: String,
        /// Value before; `None` if it was not set.
        old: Option<Value>,
        /// Value now; `None` if it is not set.
        new: Option<Value>,
    },
    /// A source file or folder outside the store changed.
    Source {
        /// Its path as written in the settings.
        path: String,
        /// Differences, file by file.
        changes: ContentDiff,
    },
    /// An upstream result changed.
    Input {
        /// The input port.
        port: String,
        /// The upstream step.
        stage: String,
        /// Differences, file by file; empty if the former result is no longer available.
        changes: ContentDiff,
    },
    /// The seed changed.
    Seed {
        /// Seed before.
        old: u64,
        /// Seed now.
        new: u64,
    },
    /// The precision or device class changed.
    Numerics {
        /// Class before.
        old: Option<String>,
        /// Class now.
        new: Option<String>,
    },
    /// The pipeline was renamed, and the result contains its name.
    Renamed {
        /// Name before, if the result contained it.
        old: Option<String>,
        /// Name now, if the result contains it.
        new: Option<String>,
    },
    /// An upstream step runs first.
    UpstreamWillRun {
        /// The upstream step.
        stage: String,
    },
    /// The stored result is missing or damaged.
    OutputMissing {
        /// What is wrong.
        problem: String,
    },
    /// An output outside the store is missing or changed.
    PromiseChanged {
        /// Its path.
        path: String,
        /// Differences, file by file.
        changes: ContentDiff,
    },
    /// What it published on a remote service is missing, changed, or elsewhere.
    PublicationChanged {
        /// What is wrong.
        problem: String,
    },
    /// A source changed while the step ran.
    SourceMoved {
        /// Its path.
        path: String,
        /// What changed in it.
        #[serde(default)]
        changes: ContentDiff,
    },
    /// Parked: it waits for a person.
    Parked {
        /// Amount present.
        have: u64,
        /// Amount needed.
        need: u64,
    },
    /// It was interrupted, or the program was killed.
    Interrupted,
    /// The last attempt failed.
    PreviousFailed {
        /// The error message.
        message: String,
    },
    /// Requested with `--force`.
    Forced,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRun => write!(f, "it has not run yet"),
            Self::KindVersion { old, new } => write!(f, "the stage changed: {old} → {new}"),
            Self::Setting { key, old, new } => match (old, new) {
                (Some(old), Some(new)) => write!(f, "setting `{key}` {} → {}", short(old), short(new)),
                (None, Some(new)) => write!(f, "setting `{key}` is new: {}", short(new)),
                _ => write!(f, "setting `{key}` was removed"),
            },
            Self::Source { path, changes } => match (changes.added.as_slice(), changes.removed.as_slice(), changes.changed.as_slice()) {
                ([], [], [one]) if one == path => write!(f, "`{path}` changed"),
                ([], [one], []) if one == path => write!(f, "`{path}` is missing"),
                ([one], [], []) if one == path => write!(f, "`{path}` is new"),
                ([], [], []) => write!(f, "`{path}` changed"),
                _ => write!(f, "`{path}`: {}", changes.sentence()),
            },
            Self::Input { port, stage, changes } if changes.is_empty() => write!(f, "input `{port}` from `{stage}` changed"),
            Self::Input { port, stage, changes } => write!(f, "input `{port}` from `{stage}`: {}", changes.sentence()),
            Self::Seed { old, new } => write!(f, "the seed changed: {old} → {new}"),
            Self::Numerics { old, new } => {
                let name = |class: &Option<String>| class.clone().unwrap_or_else(|| "any".to_owned());
                write!(f, "the numerics changed: {} → {}", name(old), name(new))
            }
            Self::Renamed { .. } => write!(f, "the pipeline's name changed"),
            Self::UpstreamWillRun { stage } => write!(f, "`{stage}` runs first"),
            Self::OutputMissing { problem } => write!(f, "{problem}"),
            Self::PromiseChanged { path, changes } if changes.is_empty() => write!(f, "`{path}` is missing"),
            Self::PromiseChanged { path, changes } => write!(f, "`{path}` changed since it was made: {}", changes.sentence()),
            Self::PublicationChanged { problem } => f.write_str(problem),
            Self::SourceMoved { path, changes } => write!(f, "{} while it ran last", moved(path, changes)),
            Self::Parked { have, need } => write!(f, "it waits for a person: {have}/{need}"),
            Self::Interrupted => write!(f, "it was interrupted"),
            Self::PreviousFailed { message } => write!(f, "it failed last time: {}", message.lines().next().unwrap_or_default()),
            Self::Forced => write!(f, "requested with --force"),
        }
    }
}

/// What changed in a source: "`src` changed (1 added (log.txt))".
pub fn moved(path: &str, changes: &ContentDiff) -> String {
    let of_a_file = [&changes.added, &changes.removed, &changes.changed].into_iter().flatten().any(|name| name == path);
    if changes.is_empty() || of_a_file { format!("`{path}` changed") } else { format!("`{path}` changed ({})", changes.sentence()) }
}

/// Several reasons as one sentence.
pub fn sentence(reasons: &[Why]) -> String {
    reasons.iter().map(Why::to_string).collect::<Vec<_>>().join("; ")
}

/// The differences between two sets of fingerprint inputs. `compare` returns the difference between two upstream results, file by file.
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

/// A value as JSON, truncated to 60 characters.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { format!("{}…", text.chars().take(59).collect::<String>()) }
}
