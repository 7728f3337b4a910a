//! Where the base of a trained model is, now that a later stage needs it again.
//!
//! `training.json` names the base in a form that may be published, and holds the digest of its files; the digest decides. A place that
//! the pipeline names for this very purpose has to hold that model. Otherwise the folders that other stages of the pipeline read are
//! tried, so that a project, or its base, may be moved.

use super::Context;
use crate::artifact::Artifact;
use crate::error::{Doing, Error, Exit, Result};
use crate::voxtral::folder;
use crate::voxtral::recognizer::Start;
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;

/// A base model that was found.
#[derive(Clone, Debug)]
pub struct Base {
    /// Its folder.
    pub path: PathBuf,
    /// How its weights start.
    pub start: Start,
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

impl Base {
    /// What decides which weights these are.
    pub fn identity(&self) -> String {
        self.start.identity(&self.digest)
    }
}

impl Context {
    /// The base of `model`; `with` is the stage's own setting, and the port `base` counts more.
    pub fn base_of(&self, model: &Artifact, with: Option<&str>) -> Result<Base> {
        let path = model.path.join("training.json");
        let text = fs::read_to_string(&path).doing(|| format!("cannot read `training.json` of stage `{}`", model.stage))?;
        let training: Training =
            serde_json::from_str(&text).map_err(|error| Error::new(format!("training.json of stage `{}`: {error}", model.stage)))?;
        let Named { name, init, digest, revision } = training.base;
        let start = if init == "random" { Start::Random(training.seed) } else { Start::Checkpoint };
        let asked = match (self.optional("base"), with) {
            (Some(artifact), _) => Some((artifact.path.clone(), format!("stage `{}`", artifact.stage))),
            (None, Some(with)) => Some((self.model(with, None)?, format!("`{with}`"))),
            (None, None) => None,
        };
        if let Some((path, shown)) = asked {
            if folder::digest(&path).map_err(|error| error.exit(Exit::Environment))? == digest {
                return Ok(Base { path, start, digest });
            }
            return Err(Error::new(format!(
                "{shown} is not the base that stage `{}` was trained on, `{name}`: their files differ",
                model.stage
            ))
            .exit(Exit::Environment)
            .advice("name the folder as it was then, or train again on this one"));
        }
        let named = self.path(&name);
        let others = self.sources.values().flatten().map(|source| self.path(source));
        let mut tried: Vec<PathBuf> = Vec::new();
        for path in std::iter::once(named.clone()).chain(others) {
            if tried.contains(&path) || !path.is_dir() {
                continue;
            }
            if folder::digest(&path).is_ok_and(|found| found == digest) {
                return Ok(Base { path, start, digest });
            }
            tried.push(path);
        }
        if let Some(revision) = &revision {
            let path = self.model(&name, Some(revision)).map_err(|error| error.context("base model"))?;
            if folder::digest(&path)? == digest {
                return Ok(Base { path, start, digest });
            }
        }
        let message = if tried.contains(&named) {
            format!("the base model at `{}` is not the one stage `{}` was trained on: its files have changed", named.display(), model.stage)
        } else {
            format!("the base model `{name}` of stage `{}` is not at `{}`", model.stage, named.display())
        };
        Err(Error::new(message)
            .exit(Exit::Environment)
            .advice("name its folder in `with = { base = \"FOLDER\" }`, or, where another stage made it, in `from = { base = \"STAGE\" }`"))
    }
}
