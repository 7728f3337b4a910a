//! The project that the studio works on: its folder, its pipeline file, and calls of the `voxpipe` program.

use super::ApiError;
use super::inference::InferenceService;
use crate::error::{Error, Result, ResultExt};
use crate::stages::STAGES;
use pipeline::cache::store::Store;
use pipeline::graph::Pipeline;
use pipeline::manifest::include::ManifestSources;
use pipeline::manifest::include_files::read_included;
use pipeline::manifest::overrides::CommandLineOverrides;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use toml_edit::DocumentMut;
use voxpipe_io::write::write_atomic;

/// A project and the state of the server for it.
#[derive(Debug)]
pub struct StudioProject {
    /// The project folder.
    pub(super) root: PathBuf,
    /// The pipeline file.
    pub(super) file: PathBuf,
    /// Path of the running `voxpipe` executable.
    program: PathBuf,
    /// Transcription with the models of the project.
    pub(super) speech: Arc<InferenceService>,
    /// The last run started by this server.
    pub(super) run: Mutex<Option<Started>>,
    /// Cached quality metrics of takes: file name → (size, modification time, metrics).
    pub(super) measured: Mutex<BTreeMap<String, (u64, SystemTime, Value)>>,
    /// Serializes writes to the pipeline file and to the recordings folder.
    pub(super) writing: Mutex<()>,
}

/// What the pages show of a pipeline: its name and its stages with their settings.
#[derive(Debug, Default)]
pub(super) struct PipelineView {
    pub(super) name: String,
    /// The project root: relative paths of settings start here.
    pub(super) root: PathBuf,
    pub(super) stages: Vec<StageView>,
}

/// A stage with its settings: parameters filled in and defaults added where the file is sound, as they are written where it is not.
#[derive(Debug)]
pub(super) struct StageView {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) settings: Value,
}

impl PipelineView {
    fn of(pipeline: &Pipeline) -> Self {
        let stages = pipeline.steps.iter().map(|step| StageView {
            name: step.name.clone(),
            kind: step.stage.kind().to_owned(),
            settings: step.stage.settings(),
        });
        Self { name: pipeline.name.clone(), root: pipeline.root.clone(), stages: stages.collect() }
    }

    fn of_values(values: &Value, root: PathBuf) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let stages = values["stage"].as_object().into_iter().flatten().map(|(name, stage)| StageView {
            name: name.clone(),
            kind: text(&stage["uses"]),
            settings: stage["with"].clone(),
        });
        Self { name: text(&values["pipeline"]["name"]), root, stages: stages.collect() }
    }
}

/// A run started by this server.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    /// Captured standard error.
    pub(super) said: tempfile::NamedTempFile,
}

impl StudioProject {
    /// The project of a pipeline file. The file need not exist yet.
    pub fn new(file: &Path, speech: Arc<InferenceService>) -> Result<Self> {
        let file = std::path::absolute(file).with_context(|| "cannot resolve the path of the pipeline file")?;
        let root = file.parent().map(Path::to_owned).unwrap_or_default();
        let program = std::env::current_exe().with_context(|| "cannot find the voxpipe executable")?;
        let (run, measured, writing) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { root, file, program, speech, run, measured, writing })
    }

    /// Makes the sentences if they do not exist yet: starts a run, which then parks to wait for recordings.
    pub fn prepare(&self) -> Result<()> {
        if self.latest("phrases").is_none() {
            let ran = self.command(&["run", &self.file_to_run()]).output().with_context(|| "cannot start voxpipe")?;
            if self.latest("phrases").is_none() {
                let words = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
                return Err(Error::new(format!("failed to load the sentences:\n{words}")).environment());
            }
        }
        Ok(())
    }

    /// A `voxpipe` command in the project folder.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// Runs a `voxpipe` command and returns its standard output; on failure, its standard error becomes the error.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<String, ApiError> {
        let ran = self.command(arguments).output().with_context(|| "cannot start voxpipe")?;
        if ran.status.success() {
            return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        Err(ApiError::conflict(if words.is_empty() { "voxpipe failed without an error message".to_owned() } else { words }))
    }

    /// Runs a `voxpipe` command and parses its standard output as JSON, whatever the exit code.
    pub(super) fn describe(&self, arguments: &[&str]) -> Result<Value, ApiError> {
        let ran = self.command(arguments).output().with_context(|| "cannot start voxpipe")?;
        serde_json::from_slice(&ran.stdout).map_err(|_| ApiError::conflict(String::from_utf8_lossy(&ran.stderr).trim().to_owned()))
    }

    /// File name of the pipeline file, as a command-line argument.
    pub(super) fn name(&self) -> &str {
        self.file.file_name().and_then(|name| name.to_str()).unwrap_or("pipeline.toml")
    }

    /// The file as an argument of `run`, which takes a name without a dot or a slash for that of a stage.
    pub(super) fn file_to_run(&self) -> String {
        format!("{}{}", if self.name().contains('.') { "" } else { "./" }, self.name())
    }

    /// The parsed pipeline file; `None` if it does not exist.
    pub(super) fn document(&self) -> Result<Option<DocumentMut>, ApiError> {
        let Ok(text) = fs::read_to_string(&self.file) else { return Ok(None) };
        let parsed = text.parse().map_err(|error: toml_edit::TomlError| ApiError::conflict(format!("{}: {error}", self.name())))?;
        Ok(Some(parsed))
    }

    /// The file with everything it includes, as `voxpipe run` reads it; nothing if there is no file.
    pub(super) fn sources(&self) -> Option<ManifestSources> {
        let text = fs::read_to_string(&self.file).ok()?;
        Some(ManifestSources::gather(&text, &self.file, &read_included))
    }

    /// The pipeline, as far as the file can be read: a file with a mistake in one stage still names the others.
    pub(super) fn pipeline(&self) -> PipelineView {
        let Some(sources) = self.sources() else { return PipelineView::default() };
        let parsed =
            Pipeline::parse_sources(STAGES, &sources, &self.file, &CommandLineOverrides::default(), &|name| std::env::var(name).ok());
        match parsed.pipeline {
            Some(pipeline) => PipelineView::of(&pipeline),
            None => sources.values().map(|values| PipelineView::of_values(&values, sources.project_root(&self.file))).unwrap_or_default(),
        }
    }

    /// The folder that relative paths of settings start from: the folder of the file, joined with `[pipeline] root`.
    pub(super) fn project_root(&self) -> PathBuf {
        self.sources().map_or_else(|| self.root.clone(), |sources| sources.project_root(&self.file))
    }

    /// Names of the stages of a kind.
    pub(super) fn stages(&self, kind: &str) -> Vec<String> {
        self.pipeline().stages.into_iter().filter(|stage| stage.kind == kind).map(|stage| stage.name).collect()
    }

    /// A string setting of a stage.
    pub(super) fn setting(&self, stage: &str, key: &str) -> Option<String> {
        let stage = self.pipeline().stages.into_iter().find(|known| known.name == stage)?;
        Some(stage.settings.get(key)?.as_str()?.to_owned())
    }

    /// Folder of the newest result of the first stage of a kind.
    pub(super) fn latest(&self, kind: &str) -> Option<PathBuf> {
        let pipeline = self.pipeline();
        let stage = pipeline.stages.iter().find(|stage| stage.kind == kind)?;
        let store = Store::open_readonly(&pipeline.root).ok()?;
        Some(store.latest(&pipeline.name, &stage.name)).filter(|path| path.is_dir())
    }

    /// Whether a run is in progress, started here or in a shell.
    pub(super) fn is_running(&self) -> bool {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(started) = run.as_mut()
            && started.child.try_wait().is_ok_and(|ended| ended.is_none())
        {
            return true;
        }
        drop(run);
        self.runner().is_ok_and(|runner| runner.is_some())
    }

    /// The process of the run in progress, if there is one.
    pub(super) fn runner(&self) -> Result<Option<rustix::process::Pid>, Error> {
        Ok(Store::open_readonly(&self.project_root())?.runner(&self.pipeline().name))
    }

    /// Replaces the pipeline file atomically.
    pub(super) fn write(&self, text: &str) -> Result<(), ApiError> {
        write_atomic(&self.file, text.as_bytes())?;
        Ok(())
    }
}
