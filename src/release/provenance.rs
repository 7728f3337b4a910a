//! Provenance of a release: how to reproduce it.
//!
//! `provenance.json` is for programs, `pipeline.toml` for people and for `voxpipe run`. Both contain the resolved settings of all upstream
//! stages, with Hub repositories pinned to commits, so no lockfile is needed.

use super::Release;
use crate::error::{Error, Result, ResultExt};
use pipeline::artifact::Artifact;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use voxpipe_io::digest::Digest;

/// Provenance information of a release.
#[derive(Debug)]
pub struct ReleaseProvenance<'a> {
    /// Name of the pipeline.
    pub pipeline: &'a str,
    /// Upstream stages by name: kind, inputs and settings.
    pub upstream: &'a BTreeMap<String, Value>,
    /// The released results.
    pub results: Vec<&'a Artifact>,
}

impl ReleaseProvenance<'_> {
    /// Writes `provenance.json` and `pipeline.toml` to `folder` and adds them to the release.
    pub fn add_to(&self, release: &mut Release, folder: &Path) -> Result<()> {
        let text = self.pipeline_toml()?;
        let results: BTreeMap<&str, Digest> = self.results.iter().map(|result| (result.stage.as_str(), result.digest)).collect();
        let written = json!({
            "v": 1,
            "voxpipe": env!("CARGO_PKG_VERSION"),
            "pipeline": self.pipeline,
            "pipeline_digest": Digest::of(text.as_bytes()),
            "results": results,
            "stages": self.upstream,
        });
        for (name, bytes) in [("provenance.json", serde_json::to_vec_pretty(&written)?), ("pipeline.toml", text.into_bytes())] {
            let path = folder.join(name);
            fs::write(&path, bytes).with_context(|| format!("cannot write `{}`", path.display()))?;
            release.files.insert(name.to_owned(), path);
        }
        Ok(())
    }

    /// The upstream stages as a pipeline file.
    fn pipeline_toml(&self) -> Result<String> {
        let mut stages = Map::new();
        let mut seed = Value::Null;
        for (name, described) in self.upstream {
            let mut stage = Map::new();
            for key in ["uses", "from", "with"] {
                let full = |value: &Value| !value.is_null() && value.as_object().is_none_or(|entries| !entries.is_empty());
                if let Some(value) = described.get(key).filter(|value| full(value)) {
                    stage.insert(key.to_owned(), value.clone());
                }
            }
            seed = described.get("pipeline_seed").cloned().unwrap_or_default();
            stages.insert(name.clone(), stage.into());
        }
        let mut pipeline = Map::from_iter([("name".to_owned(), json!(self.pipeline))]);
        if !seed.is_null() {
            pipeline.insert("seed".to_owned(), seed);
        }
        let file = json!({ "schema": 1, "pipeline": pipeline, "stage": stages });
        let text = toml::to_string(&file).map_err(|error| Error::new(format!("cannot serialize `pipeline.toml`: {error}")))?;
        Ok(format!(
            "# What made this repository, as voxpipe resolved it: run it with `voxpipe run`, with the same recordings beside it.\n{text}"
        ))
    }
}
