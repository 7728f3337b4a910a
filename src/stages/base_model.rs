//! Where the base of a trained model is, now that a later stage needs it again.
//!
//! `training.json` names the base in a form that may be published, and holds the digest of its files; the digest decides. A place that
//! the pipeline names for this very purpose has to hold that model. Otherwise the folders that other stages of the pipeline read are
//! tried, so that a project, or its base, may be moved.

use super::context::SpeechContext;
use crate::error::{Error, Result, ResultExt};
use pipeline::artifact::Artifact;
use pipeline::stage::Context;
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;
use voxtral::inference::transcriber::WeightsFrom;
use voxtral::weights::model_dir;

/// A base model that was found.
#[derive(Clone, Debug)]
pub struct BaseModel {
    /// Its folder.
    pub path: PathBuf,
    /// How its weights start.
    pub start: WeightsFrom,
    /// The digest of its files.
    pub digest: String,
}

/// The part of `training.json` that leads back to the base model.
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
    /// The commit, if it was a repository of the Hub.
    revision: Option<String>,
}

impl BaseModel {
    /// What decides which weights these are.
    pub fn identity(&self) -> String {
        self.start.identity(&self.digest)
    }
}

/// The base of `model`; `with` is the stage's own setting, and the port `base` counts more.
pub(super) fn base_of(cx: &Context, model: &Artifact, with: Option<&str>) -> Result<BaseModel> {
    let path = model.path.join("training.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `training.json` of stage `{}`", model.stage))?;
    let training: Training =
        serde_json::from_str(&text).map_err(|error| Error::new(format!("training.json of stage `{}`: {error}", model.stage)))?;
    let Named { name, init, digest, revision } = training.base;
    let start = if init == "random" { WeightsFrom::Random(training.seed) } else { WeightsFrom::Checkpoint };
    let asked = match (cx.optional("base"), with) {
        (Some(artifact), _) => Some((artifact.path.clone(), format!("stage `{}`", artifact.stage))),
        (None, Some(with)) => Some((cx.model(with, None)?, format!("`{with}`"))),
        (None, None) => None,
    };
    if let Some((path, shown)) = asked {
        if model_dir::digest(&path).map_err(|error| error.environment())? == digest {
            return Ok(BaseModel { path, start, digest });
        }
        return Err(Error::new(format!(
            "{shown} is not the base that stage `{}` was trained on, `{name}`: their files differ",
            model.stage
        ))
        .environment()
        .hint("name the folder as it was then, or train again on this one"));
    }
    let named = cx.path(&name);
    let others = cx.sources.values().flatten().map(|source| cx.path(source));
    let mut tried: Vec<PathBuf> = Vec::new();
    for path in std::iter::once(named.clone()).chain(others) {
        if tried.contains(&path) || !path.is_dir() {
            continue;
        }
        if model_dir::digest(&path).is_ok_and(|found| found == digest) {
            return Ok(BaseModel { path, start, digest });
        }
        tried.push(path);
    }
    if let Some(revision) = &revision {
        let path = cx.model(&name, Some(revision)).map_err(|error| error.context("base model"))?;
        if model_dir::digest(&path)? == digest {
            return Ok(BaseModel { path, start, digest });
        }
    }
    let message = if tried.contains(&named) {
        format!("the base model at `{}` is not the one stage `{}` was trained on: its files have changed", named.display(), model.stage)
    } else {
        format!("the base model `{name}` of stage `{}` is not at `{}`", model.stage, named.display())
    };
    Err(Error::new(message)
        .environment()
        .hint("name its folder in `with = { base = \"FOLDER\" }`, or, where another stage made it, in `from = { base = \"STAGE\" }`"))
}
