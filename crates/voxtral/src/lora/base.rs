//! Which base model an adapter was trained on, and whether a folder holds that one.
//!
//! voxpipe's `training.json` names the base and has its digests. PEFT's `adapter_config.json` has only a name and a revision. An adapter
//! loads into any model of the same shapes, and on another base than its own it gives a model that nobody trained.

use super::config::CONFIG;
use crate::error::{Error, Result, ResultExt};
use crate::model::model_dir;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::path::Path;

/// What an adapter folder says about its base model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedBase {
    /// Name: a Hub id or a path.
    pub name: Option<String>,
    /// Commit of the Hub repository.
    pub revision: Option<String>,
    /// Digest of its files ([`model_dir::digest`]).
    pub digest: Option<String>,
    /// Digest of what it computes ([`model_dir::identity`]).
    pub weights: Option<String>,
}

/// Whether a folder holds the base model of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseMatch {
    /// It does.
    Same,
    /// The adapter does not say enough; a sentence that tells what is missing.
    Unknown(String),
    /// It holds another model; a sentence that tells the difference.
    Different(String),
}

#[derive(Deserialize)]
struct Training {
    base: Option<Base>,
}

#[derive(Deserialize)]
struct Base {
    name: Option<String>,
    hub: Option<String>,
    revision: Option<String>,
    digest: Option<String>,
    weights: Option<String>,
}

#[derive(Deserialize)]
struct Peft {
    base_model_name_or_path: Option<String>,
    revision: Option<String>,
}

impl RecordedBase {
    /// Reads what an adapter folder says.
    pub fn read(adapter: &Path) -> Result<Self> {
        let peft: Option<Peft> = read(&adapter.join(CONFIG))?;
        let training: Option<Training> = read(&adapter.join("training.json"))?;
        let (named, revision) = peft.map_or((None, None), |peft| (peft.base_model_name_or_path, peft.revision));
        Ok(match training.and_then(|training| training.base) {
            Some(base) => {
                Self { name: base.hub.or(base.name).or(named), revision: base.revision, digest: base.digest, weights: base.weights }
            }
            None => Self { name: named, revision, ..Self::default() },
        })
    }

    /// Compares a model folder with what is recorded. `named` is the folder of the model that the adapter names, where it is at hand: it
    /// decides if the adapter has no digest.
    pub fn matches(&self, base: &Path, named: Option<&Path>) -> Result<BaseMatch> {
        let shown = self.name.as_deref().unwrap_or("another model");
        let id = model_dir::hub_id(base);
        let same_name = id.is_some() && id.as_deref() == self.name.as_deref();
        let commit = model_dir::hub_commit(base);
        if same_name && self.revision.is_some() && self.revision.as_deref() == commit {
            return Ok(BaseMatch::Same);
        }
        if self.weights.is_some() || self.digest.is_some() {
            let same = match &self.weights {
                Some(weights) => model_dir::identity(base)? == *weights,
                None => self.digest.as_deref() == Some(model_dir::digest(base)?.as_str()),
            };
            return Ok(if same {
                BaseMatch::Same
            } else {
                BaseMatch::Different(format!("it was trained on `{shown}`, and `{}` holds another model", base.display()))
            });
        }
        let Some(name) = &self.name else {
            return Ok(BaseMatch::Unknown("it does not say which base model it was trained on".to_owned()));
        };
        if same_name {
            return Ok(match (&self.revision, commit) {
                (Some(revision), Some(commit)) if is_commit(revision) && revision != commit => {
                    BaseMatch::Different(format!("it names commit {revision} of `{name}` as its base, not {commit}"))
                }
                _ => BaseMatch::Same,
            });
        }
        if let Some(named) = named {
            let same = same_folder(named, base) || model_dir::identity(named)? == model_dir::identity(base)?;
            return Ok(if same {
                BaseMatch::Same
            } else {
                BaseMatch::Different(format!("it names `{name}` as its base, and `{}` holds another model", base.display()))
            });
        }
        Ok(match id {
            Some(id) if looks_like_id(name) => BaseMatch::Different(format!("it names `{name}` as its base, not `{id}`")),
            _ => BaseMatch::Unknown(format!(
                "it names `{name}` as its base and has no digest of it, so whether `{}` is that model was not checked",
                base.display()
            )),
        })
    }
}

/// BLAKE3 digest of an adapter: its configuration and its tensors.
pub fn identity(adapter: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for name in [CONFIG, super::peft::TENSORS] {
        let path = adapter.join(name);
        hasher.update(name.as_bytes()).update(b"\0");
        hasher.update_mmap_rayon(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    }
    Ok(hasher.finalize().to_string())
}

/// Parses a JSON file; `None` if it does not exist.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_str(&text).map(Some).map_err(|error| Error::new(format!("{}: {error}", path.display())))
}

fn same_folder(one: &Path, other: &Path) -> bool {
    fs::canonicalize(one).ok().zip(fs::canonicalize(other).ok()).is_some_and(|(one, other)| one == other)
}

/// Whether a name can be a repository on the Hub: `owner/name`.
fn looks_like_id(name: &str) -> bool {
    name.split('/').count() == 2 && !name.starts_with(['.', '/', '~'])
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
