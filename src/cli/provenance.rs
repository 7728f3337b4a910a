//! Provenance of a run: everything needed to repeat it and to compare the results.
//!
//! `runs/ID/provenance.json` has the text of the pipeline file, the command-line changes, the names of the environment variables that
//! the file uses (never their values), and the fingerprint and digest of each stage's result. The inputs of a result, file by file, are
//! in the cache entry of its fingerprint.

use super::Project;
use super::summary::{StageSummary, Summary};
use crate::error::{Error, Result, ResultExt};
use crate::hub::lockfile::Lockfile;
use pipeline::cache::store::Store;
use pipeline::events::Event;
use pipeline::events::reporter::Reporter;
use pipeline::graph::{Pipeline, StageSelection};
use pipeline::manifest::include::ManifestSources;
use pipeline::plan::absolute;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Version of the file format.
const VERSION: u32 = 1;

/// The content of `provenance.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Provenance {
    pub(super) v: u32,
    pub(super) run: String,
    pub(super) pipeline: String,
    /// Version of voxpipe.
    pub(super) voxpipe: String,
    /// Operating system and CPU architecture.
    pub(super) system: String,
    /// Start time in UTC.
    pub(super) started: String,
    pub(super) exit: u8,
    pub(super) seconds: f64,
    /// The pipeline file, relative to the folder that contains both it and the project.
    pub(super) file: PathBuf,
    /// The project root, relative to the same folder.
    pub(super) root: PathBuf,
    /// The text of the pipeline file.
    pub(super) text: String,
    /// The included files, relative to the same folder, with their texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) included: BTreeMap<PathBuf, String>,
    /// The text of `pipeline.lock`, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lock: Option<String>,
    /// `--set`, in the order given.
    pub(super) set: Vec<(String, String)>,
    /// `-p`, in the order given.
    pub(super) profiles: Vec<String>,
    /// `--force`.
    pub(super) force: Vec<String>,
    /// The selection of stages, such as `--until train`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) selection: Vec<String>,
    /// The names of the environment variables the file uses.
    pub(super) env: BTreeSet<String>,
    pub(super) stages: Vec<Stage>,
}

/// Outcome of a stage.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stage {
    pub(super) kind: String,
    #[serde(flatten)]
    pub(super) summary: StageSummary,
}

/// Reporter that collects the events of a run into a summary.
pub(super) struct RunObserver(Arc<Mutex<Summary>>);

impl RunObserver {
    /// A listener and the summary that it fills.
    pub(super) fn new() -> (Self, Arc<Mutex<Summary>>) {
        let summary = Arc::default();
        (Self(Arc::clone(&summary)), summary)
    }
}

impl Reporter for RunObserver {
    fn report_event(&mut self, event: &Event) -> Result<(), Error> {
        let time = match event {
            Event::RunStarted { .. } => jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            _ => String::new(),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(&time, event);
        Ok(())
    }
}

impl Provenance {
    /// The provenance of a finished run.
    pub(super) fn of(
        project: &Project,
        sources: &ManifestSources,
        force: &[String],
        selection: &StageSelection,
        pipeline: &Pipeline,
        summary: &Summary,
    ) -> Result<Self> {
        let kind = |name: &str| pipeline.step(name).map_or_else(String::new, |step| step.stage.kind().to_owned());
        let others: Vec<(&Path, &str)> = sources.texts().skip(1).collect();
        let (file, root, included) = places(project.file(), &pipeline.root, others.iter().map(|(path, _)| *path))?;
        let included = included.into_iter().zip(others.iter().map(|(_, text)| (*text).to_owned())).collect();
        let lock = Lockfile::beside(project.file());
        let lock = lock
            .is_file()
            .then(|| std::fs::read_to_string(&lock).with_context(|| format!("cannot read `{}`", lock.display())))
            .transpose()?;
        let env = sources
            .texts()
            .flat_map(|(_, text)| variables(text))
            .chain(project.changes.set.iter().flat_map(|(_, value)| variables(value)))
            .collect();
        Ok(Self {
            v: VERSION,
            run: summary.run.clone(),
            pipeline: pipeline.name.clone(),
            voxpipe: env!("CARGO_PKG_VERSION").to_owned(),
            system: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            started: summary.started.clone(),
            exit: summary.exit.unwrap_or_default(),
            seconds: summary.seconds.unwrap_or_default(),
            file,
            root,
            text: sources.own_text().to_owned(),
            included,
            lock,
            set: project.changes.set.clone(),
            profiles: project.changes.profiles.clone(),
            force: force.to_vec(),
            selection: selection.arguments(),
            env,
            stages: summary.stages.iter().map(|stage| Stage { kind: kind(&stage.stage), summary: stage.clone() }).collect(),
        })
    }

    /// Reads the provenance of a run; an error if it has none.
    pub(super) fn read(store: &Store, run: &str) -> Result<Self> {
        Self::find(store, run)?.ok_or_else(|| {
            Error::new(format!("run {run} has no provenance: it is still running or was killed"))
                .hint("every run that ended by itself has one, even after a failure")
        })
    }

    /// Finds the provenance of a run. A no-op run on the fast path writes none; it has that of the newest earlier run with the same
    /// results.
    pub(super) fn find(store: &Store, run: &str) -> Result<Option<Self>> {
        let read = |run: &str| -> Result<Option<Self>> {
            let Some(bytes) = store.provenance(run)? else { return Ok(None) };
            serde_json::from_slice(&bytes).map(Some).with_context(|| format!("the provenance of run {run} is damaged"))
        };
        if let Some(own) = read(run)? {
            return Ok(Some(own));
        }
        let summary = Summary::of(store, run)?;
        if summary.exit.is_none() || !summary.stages.iter().all(|stage| stage.result == "fresh") {
            return Ok(None);
        }
        for earlier in store.runs()?.iter().rev().skip_while(|other| *other != run) {
            let Some(mut found) = read(earlier)? else { continue };
            let same = |(here, there): (&StageSummary, &Stage)| here.stage == there.summary.stage && here.kept == there.summary.kept;
            let all = found.stages.len() == summary.stages.len() && summary.stages.iter().zip(&found.stages).all(same);
            if all && found.pipeline == summary.pipeline {
                found.run = run.to_owned();
                found.started.clone_from(&summary.started);
                (found.exit, found.seconds) = (summary.exit.unwrap_or_default(), summary.seconds.unwrap_or_default());
                found.force = Vec::new();
                for (stage, summary) in found.stages.iter_mut().zip(&summary.stages) {
                    stage.summary = summary.clone();
                }
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// File, root and included files relative to their common folder.
fn places<'p>(file: &Path, root: &Path, included: impl Iterator<Item = &'p Path>) -> Result<(PathBuf, PathBuf, Vec<PathBuf>)> {
    let canonical = |path: &Path| -> Result<PathBuf> { std::fs::canonicalize(path).or_else(|_| absolute(path)) };
    let whole = |file: &Path| -> Result<PathBuf> {
        let file = absolute(file)?;
        Ok(canonical(file.parent().unwrap_or(Path::new("/")))?.join(file.file_name().unwrap_or_default()))
    };
    let (file, root) = (whole(file)?, canonical(root)?);
    let included = included.map(whole).collect::<Result<Vec<PathBuf>>>()?;
    let holds = |folder: &&Path| file.starts_with(folder) && included.iter().all(|path| path.starts_with(folder));
    let all = root.ancestors().find(holds).unwrap_or(Path::new("/"));
    let below = |path: &Path| path.strip_prefix(all).unwrap_or(path).to_owned();
    Ok((below(&file), below(&root), included.iter().map(|path| below(path)).collect()))
}

/// The names of `${env.NAME}` references in a text.
fn variables(text: &str) -> impl Iterator<Item = String> {
    text.split("${").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0.trim().strip_prefix("env.")?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_root_are_relative_to_their_common_folder() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("a/pipelines")).unwrap();
        for (file, root, included, expected) in [
            ("a/p.toml", "a", "a/part.toml", ("p.toml", "", "part.toml")),
            ("a/pipelines/p.toml", "a/pipelines/..", "a/pipelines/part.toml", ("pipelines/p.toml", "", "pipelines/part.toml")),
            ("a/p.toml", "a/pipelines", "a/part.toml", ("p.toml", "pipelines", "part.toml")),
            ("a/p.toml", "a", "a/pipelines/../../part.toml", ("a/p.toml", "a", "part.toml")),
        ] {
            let (file, root, included) = places(&at(file), &at(root), [at(included).as_path()].into_iter()).unwrap();
            assert_eq!((file.as_path(), root.as_path()), (Path::new(expected.0), Path::new(expected.1)));
            assert_eq!(included, [Path::new(expected.2)]);
        }
    }

    #[test]
    fn variables_are_known_by_name() {
        let names: Vec<_> = variables("a = \"${env.HOME} ${ env.X } ${params.y} ${env.open\"").collect();
        assert_eq!(names, ["HOME", "X"]);
    }
}
