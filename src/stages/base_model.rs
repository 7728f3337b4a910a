//! Finds the base model of a trained model when a later stage needs it.
//!
//! `training.json` holds a publishable name of the base model and the digest of its files; the digest decides. A base that the stage names
//! explicitly must match the digest. Otherwise the recorded path and the folders that other stages read are tried, so that the project or
//! the base model may be moved, and finally the recorded Hub revision.

use super::context::SpeechContext;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::{self, Network};
use pipeline::artifact::Artifact;
use pipeline::stage::Context;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use voxtral::inference::transcriber::WeightsFrom;
use voxtral::lora::{BaseMatch, RecordedBase};
use voxtral::model::model_dir;

/// A base model on disk.
#[derive(Clone, Debug)]
pub struct BaseModel {
    /// Its folder.
    pub path: PathBuf,
    /// Where its weights come from.
    pub start: WeightsFrom,
    /// The digest of its files.
    pub digest: String,
}

/// The part of `training.json` about the base model.
#[derive(Deserialize)]
struct Training {
    base: Named,
    seed: u64,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    init: String,
    digest: String,
    /// The digest of what it computes, which any copy has; absent in older files.
    weights: Option<String>,
    /// The commit, if it is a Hub repository.
    revision: Option<String>,
}

impl Named {
    /// Whether a folder holds this model.
    fn is(&self, folder: &Path) -> bool {
        let same_files = model_dir::digest(folder).is_ok_and(|found| found == self.digest);
        same_files || self.weights.is_some() && model_dir::identity(folder).ok() == self.weights
    }
}

impl BaseModel {
    /// A string that identifies the weights.
    pub fn identity(&self) -> String {
        self.start.identity(&self.digest)
    }
}

/// Finds the base model of `model`. `with` is the stage's setting `base`; the port `base` takes precedence over it.
pub(super) fn base_of(cx: &Context, model: &Artifact, with: Option<&str>) -> Result<BaseModel> {
    let path = model.path.join("training.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `training.json` of stage `{}`", model.stage))?;
    let training: Training =
        serde_json::from_str(&text).map_err(|error| Error::new(format!("training.json of stage `{}`: {error}", model.stage)))?;
    let recorded = training.base;
    let (name, digest) = (recorded.name.clone(), recorded.digest.clone());
    let start = if recorded.init == "random" { WeightsFrom::Random(training.seed) } else { WeightsFrom::Checkpoint };
    let explicit = match (cx.optional("base"), with) {
        (Some(artifact), _) => Some((artifact.path.clone(), format!("stage `{}`", artifact.stage))),
        (None, Some(with)) => Some((cx.model(with, None)?, format!("`{with}`"))),
        (None, None) => None,
    };
    if let Some((path, shown)) = explicit {
        model_dir::files(&path).map_err(|error| error.environment())?;
        if recorded.is(&path) {
            return Ok(BaseModel { path, start, digest });
        }
        return Err(Error::new(format!(
            "{shown} is not the base model that stage `{}` was trained on (`{name}`): the files differ",
            model.stage
        ))
        .environment()
        .hint("name a folder with the original files, or train again on this one"));
    }
    let named = cx.path(&name);
    let others = cx.sources.values().flatten().map(|source| cx.path(source));
    let mut tried: Vec<PathBuf> = Vec::new();
    for path in std::iter::once(named.clone()).chain(others) {
        if tried.contains(&path) || !path.is_dir() {
            continue;
        }
        if recorded.is(&path) {
            return Ok(BaseModel { path, start, digest });
        }
        tried.push(path);
    }
    if let Some(revision) = &recorded.revision {
        let path = cx.model(&name, Some(revision)).map_err(|error| error.context("base model"))?;
        if recorded.is(&path) {
            return Ok(BaseModel { path, start, digest });
        }
    }
    let message = if tried.contains(&named) {
        format!(
            "the base model at `{}` is not the one that stage `{}` was trained on: its files have changed",
            named.display(),
            model.stage
        )
    } else {
        format!("base model `{name}` of stage `{}` not found at `{}`", model.stage, named.display())
    };
    Err(Error::new(message)
        .environment()
        .hint("set `with = { base = \"FOLDER\" }`, or, if another stage made it, `from = { base = \"STAGE\" }`"))
}

/// An error if the adapter was trained on another base model than the one in the folder `base`, unless `force` is set. Returns a note if that
/// is so by force, or if it cannot be told. `hint` says what to do about the error. Nothing is downloaded.
pub fn check_base(adapter: &Path, base: &Path, force: bool, hint: &str) -> Result<Option<String>> {
    let recorded = RecordedBase::read(adapter)?;
    // A base that the adapter names and that is at hand: beside the adapter, in this folder, or in the cache of the Hub.
    let named = recorded.name.as_deref().and_then(|name| {
        let beside = adapter.join(name);
        let cached = || hub::model_folder(Path::new(""), name, recorded.revision.as_deref(), Network::Forbidden, &mut |_| Ok(())).ok();
        if beside.is_dir() { Some(beside) } else { cached() }
    });
    let shown = adapter.display();
    Ok(match recorded.matches(base, named.as_deref())? {
        BaseMatch::Same => None,
        BaseMatch::Unknown(why) => Some(format!("the base of the adapter `{shown}` was not checked: {why}")),
        BaseMatch::Different(what) if force => Some(format!("the adapter `{shown}` is used on another base than its own: {what}")),
        BaseMatch::Different(what) => {
            return Err(Error::new(format!("the adapter `{shown}` belongs to another base model: {what}"))
                .kind(ErrorKind::InvalidInput)
                .hint(hint.to_owned()));
        }
    })
}
