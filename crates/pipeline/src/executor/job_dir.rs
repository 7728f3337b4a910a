//! The folder of a job: what is to be done, and what it says while it is done.
//!
//! ```text
//! task.json      what is to be done; no secret is in it
//! id             what the job is called where it runs
//! told.jsonl     the stage's events as they happen; the last line says how it ended
//! out/           the result
//! job.sh, job.log
//! ```
//!
//! The runner writes the first, the job the others. Everything the job says is in one file that is there before the job begins: a network
//! file system may hide a new file for a minute, but shows the end of an old one.

use super::{Watchdog, WatchdogLimits};
use crate::artifact::Artifact;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::events::jsonl::JsonLinesReporter;
use crate::events::reporter::{Reporter, fan_out};
use crate::events::{Emitter, jsonl};
use crate::exit::Exit;
use crate::process::liveness_lock::JOB;
use crate::stage::Failure;
use crate::stage::{AnyStage, Context, StageFactory, StageOutcome, StageResult};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What a job does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobTask {
    /// The kind of work.
    pub kind: String,
    /// Its version.
    pub version: u32,
    /// Its settings, defaults filled in.
    pub settings: Value,
    /// Precision and device class its result is recorded under.
    pub numerics: Option<String>,
    /// The run's id.
    pub run: String,
    /// See [`Context::stage`].
    pub stage: String,
    /// See [`Context::pipeline`].
    pub pipeline: String,
    /// See [`Context::root`].
    pub root: PathBuf,
    /// See [`Context::seed`].
    pub seed: u64,
    /// See [`Context::inputs`].
    pub inputs: BTreeMap<String, Vec<Artifact>>,
    /// See [`Context::sources`].
    pub sources: BTreeMap<String, Vec<PathBuf>>,
    /// See [`Context::upstream`].
    #[serde(default)]
    pub upstream: BTreeMap<String, Value>,
    /// See [`Context::scratch`].
    pub scratch: PathBuf,
    /// See [`Context::cache`].
    pub cache: PathBuf,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// How long it may say nothing.
    pub stall_timeout: Option<Duration>,
}

/// How a job ended, as its last line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "kebab-case")]
pub enum JobOutcome {
    /// The result is in `out/`.
    Done {
        /// See [`StageResult::summary`].
        summary: String,
        /// See [`StageResult::metrics`].
        metrics: BTreeMap<String, f64>,
        /// See [`StageResult::facts`].
        facts: BTreeMap<String, Value>,
    },
    /// A person has to do something first.
    Parked {
        /// How much is there.
        have: u64,
        /// How much is needed.
        need: u64,
        /// What to do.
        message: String,
    },
    /// It failed, or was interrupted.
    Failed {
        /// What happened.
        message: String,
        /// What to do.
        #[serde(rename = "advice")]
        hint: Option<String>,
        /// The exit code that becomes.
        exit: u8,
        /// What kind of failure it is.
        failure: Failure,
    },
}

/// A job's folder.
#[derive(Clone, Debug)]
pub struct JobDir(pub PathBuf);

impl JobDir {
    /// The folder of a stage's job.
    pub fn of(cx: &Context) -> Self {
        Self(cx.scratch.join(JOB))
    }

    /// Where the result is.
    pub fn out(&self) -> PathBuf {
        self.0.join("out")
    }

    /// What the job says.
    pub fn told(&self) -> PathBuf {
        self.0.join("told.jsonl")
    }

    /// What is printed beside that.
    pub fn log(&self) -> PathBuf {
        self.0.join("job.log")
    }

    /// Makes the folder anew for a task.
    pub fn make(&self, task: &JobTask) -> Result<()> {
        self.remove()?;
        let making = || format!("cannot make the job's folder `{}`", self.0.display());
        fs::create_dir_all(self.out()).with_context(making)?;
        fs::write(self.told(), "").with_context(making)?;
        // Written last: a folder without it is none.
        let (path, aside) = (self.0.join("task.json"), self.0.join(".task.json"));
        fs::write(&aside, serde_json::to_vec_pretty(task)?).with_context(making)?;
        fs::rename(aside, path).with_context(making)
    }

    /// The task, if the folder is whole.
    pub fn task(&self) -> Option<JobTask> {
        serde_json::from_slice(&fs::read(self.0.join("task.json")).ok()?).ok()
    }

    /// Notes what the job is called where it runs.
    pub fn note(&self, id: &str) -> Result<()> {
        let (path, aside) = (self.0.join("id"), self.0.join(".id"));
        fs::write(&aside, id)
            .and_then(|()| fs::rename(aside, path))
            .with_context(|| format!("cannot note job {id} in `{}`", self.0.display()))
    }

    /// What the job is called where it runs, if that was noted.
    pub fn id(&self) -> Option<String> {
        fs::read_to_string(self.0.join("id")).ok().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty())
    }

    /// The last lines of what was printed.
    pub fn last_words(&self) -> Vec<String> {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(10)..].iter().map(|line| (*line).to_owned()).collect()
    }

    /// Moves the result to where the runner wants it.
    pub fn hand_over(&self, out: &Path) -> Result<()> {
        let moving = || format!("cannot take the result from `{}`", self.out().display());
        match fs::remove_dir(out) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(moving),
            _ => fs::rename(self.out(), out).with_context(moving),
        }
    }

    /// Clears away a job of an earlier run that has ended, or says that it may go on: a stage has one scratch folder, and only one may work in it.
    pub fn settle(&self) -> Result<()> {
        if self.task().is_none() || matches!(JobFollower::of(self).tell(&Emitter::silent()), Ok(Some(_))) {
            return self.remove();
        }
        let id = self.id().map_or_else(|| "a job".to_owned(), |id| format!("job {id}"));
        Err(Error::new(format!("{id}, submitted by an earlier run for this stage, may still go on"))
            .kind(ErrorKind::Locked)
            .hint(format!("run the stage there once more, or cancel the job and remove `{}`", self.0.display())))
    }

    /// Removes the folder, if it is there.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove the job's folder `{}`", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

impl JobOutcome {
    /// How a stage ended, for its last line.
    pub fn of(outcome: &Result<StageOutcome>) -> Self {
        match outcome.clone() {
            Ok(StageOutcome::Done(StageResult { summary, metrics, facts })) => Self::Done { summary, metrics, facts },
            Ok(StageOutcome::Parked { have, need, message }) => Self::Parked { have, need, message },
            Err(error) => {
                let (exit, failure) = (Exit::from(&error) as u8, error.kind.into());
                Self::Failed { message: error.message, hint: error.hint, exit, failure }
            }
        }
    }

    /// What the stage said.
    pub fn outcome(self) -> Result<StageOutcome> {
        match self {
            Self::Done { summary, metrics, facts } => Ok(StageOutcome::Done(StageResult { summary, metrics, facts })),
            Self::Parked { have, need, message } => Ok(StageOutcome::Parked { have, need, message }),
            Self::Failed { message, hint, exit, failure } => {
                let known = [ErrorKind::InvalidInput, ErrorKind::Environment, ErrorKind::Timeout, ErrorKind::Interrupted];
                // The failure says more than the exit code, except where it only says that there was one.
                let kind = match failure {
                    Failure::Crash => known.into_iter().find(|kind| Exit::from(*kind) as u8 == exit).unwrap_or_default(),
                    failure => failure.kind(),
                };
                let mut error = Error::new(message).kind(kind);
                error.hint = hint;
                Err(error)
            }
        }
    }
}

/// Reads on in what a job says.
#[derive(Debug)]
pub struct JobFollower {
    path: PathBuf,
    read: u64,
}

impl JobFollower {
    /// Begins at the first line.
    pub fn of(folder: &JobDir) -> Self {
        Self { path: folder.told(), read: 0 }
    }

    /// Tells the events since the last time, and how the job ended if it has.
    pub fn tell(&mut self, emitter: &Emitter) -> Result<Option<JobOutcome>> {
        let reading = || format!("cannot read `{}`", self.path.display());
        let mut bytes = Vec::new();
        let mut file = File::open(&self.path).with_context(reading)?;
        file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_end(&mut bytes)).with_context(reading)?;
        let mut ended = None;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            self.read += line.len() as u64;
            match serde_json::from_slice(&line) {
                Ok(last) => ended = Some(last),
                Err(_) => jsonl::parse(&line)
                    .map_err(|error| error.context(self.path.display()))?
                    .into_iter()
                    .for_each(|line| emitter.emit(line.event)),
            }
        }
        Ok(ended)
    }
}

/// Does the work a folder describes, where the job runs; `asked` is set when it should stop.
pub fn carry_out(folder: &JobDir, registry: &[&dyn StageFactory], asked: Arc<AtomicBool>) -> Result<()> {
    let task = folder.task().ok_or_else(|| {
        Error::new(format!("`{}` is not the folder of a job", folder.0.display()))
            .kind(ErrorKind::InvalidInput)
            .hint("this command is started by `voxpipe run` where a stage runs elsewhere")
    })?;
    let told = folder.told();
    let writing = || format!("cannot write `{}`", told.display());
    let open = || File::options().append(true).open(&told).with_context(writing);
    let log: Box<dyn Reporter> = Box::new(JsonLinesReporter::new(open()?, told.display().to_string(), &task.run));
    let clock = Watchdog::new(WatchdogLimits { timeout: task.timeout, stall_timeout: task.stall_timeout }, asked);
    let emitter = clock.listen(fan_out(vec![log]));
    let outcome = stage(&task, registry).and_then(|stage| {
        let cx = Context {
            stage: task.stage,
            pipeline: task.pipeline,
            root: task.root,
            seed: task.seed,
            inputs: task.inputs,
            sources: Arc::new(task.sources),
            upstream: task.upstream,
            out: folder.out(),
            scratch: task.scratch,
            cache: task.cache,
            gpus: Vec::new(),
            liveness: None,
            emitter,
            stop: clock.stop(),
        };
        clock.watch(|| stage.run(&cx))
    });
    let mut line = serde_json::to_vec(&JobOutcome::of(&outcome))?;
    line.push(b'\n');
    let mut file = open()?;
    file.write_all(&line).and_then(|()| file.sync_all()).with_context(writing)
}

/// The stage of a task, if this program would make of it what the submitting one recorded.
fn stage(task: &JobTask, registry: &[&dyn StageFactory]) -> Result<Box<dyn AnyStage>> {
    let other = |what: String| {
        Error::new(format!("the voxpipe on this node is not the one that submitted the job: {what}"))
            .environment()
            .hint("let `program` in `[slurm]` name the same version")
    };
    let entry = registry.iter().find(|entry| entry.kind() == task.kind).ok_or_else(|| other(format!("it knows no `{}`", task.kind)))?;
    if entry.version() != task.version {
        return Err(other(format!("its `{}` has version {}, not {}", task.kind, entry.version(), task.version)));
    }
    let stage = entry.restore(task.settings.clone())?;
    let here = stage.numerics();
    if here != task.numerics {
        let name = |numerics: &Option<String>| numerics.clone().unwrap_or_else(|| "none".to_owned());
        return Err(Error::new(format!("this node would compute in {}, and the run was planned in {}", name(&here), name(&task.numerics)))
            .environment()
            .hint(
                "write the device into the stage's settings, `device = \"cuda\"` or `\"cpu\"`: `auto` means another one on each machine",
            ));
    }
    Ok(stage)
}
