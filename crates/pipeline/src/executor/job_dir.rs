//! Job folder: the interface between the runner and a cluster job.
//!
//! ```text
//! task.json      the task; contains no secrets
//! id             the job id on the cluster
//! told.jsonl     the event stream of the stage; the last line is the outcome
//! out/           the result
//! job.sh         the batch script
//! job.log        the output of the job
//! ```
//!
//! All messages of the job go to one file that exists before the job starts: a network file system may delay the appearance of a new file
//! by a minute, but not the growth of an existing one.

use super::{Watchdog, WatchdogLimits};
use crate::artifact::Artifact;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::events::jsonl::JsonLinesReporter;
use crate::events::reporter::{Reporter, fan_out};
use crate::events::{Emitter, jsonl};
use crate::exit::Exit;
use crate::process::liveness_lock::JOB;
use crate::stage::{AnyStage, Context, Failure, StageFactory, StageOutcome, StageResult};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use voxpipe_io::write::{Durability, write_atomic_with};

/// The task of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobTask {
    /// The stage's kind.
    pub kind: String,
    /// The contract version of the kind.
    pub version: u32,
    /// The stage's settings with defaults filled in.
    pub settings: Value,
    /// The numerics class (precision and device class) in the fingerprint of the result.
    pub numerics: Option<String>,
    /// The run id.
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
    /// The maximum duration of the attempt.
    pub timeout: Option<Duration>,
    /// The maximum time without an event.
    pub stall_timeout: Option<Duration>,
}

/// The outcome of a job: the last line of its event stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "kebab-case")]
pub enum JobOutcome {
    /// The result is in `out/`.
    Done {
        /// See [`StageResult::summary`].
        summary: String,
        /// See [`StageResult::metrics`].
        #[serde(with = "voxpipe_io::metrics")]
        metrics: BTreeMap<String, f64>,
        /// See [`StageResult::facts`].
        facts: BTreeMap<String, Value>,
    },
    /// The stage waits for a person.
    Parked {
        /// How many items exist.
        have: u64,
        /// How many items are needed.
        need: u64,
        /// What the person has to do.
        message: String,
    },
    /// The stage failed or was interrupted.
    Failed {
        /// The error message.
        message: String,
        /// The hint of the error.
        #[serde(rename = "advice")]
        hint: Option<String>,
        /// The exit code of the error.
        exit: u8,
        /// The kind of failure.
        failure: Failure,
    },
}

/// The folder of a job.
#[derive(Clone, Debug)]
pub struct JobDir(pub PathBuf);

impl JobDir {
    /// The folder of a stage's job.
    pub fn of(cx: &Context) -> Self {
        Self(cx.scratch.join(JOB))
    }

    /// The folder of the result.
    pub fn out(&self) -> PathBuf {
        self.0.join("out")
    }

    /// The event stream of the job.
    pub fn events_path(&self) -> PathBuf {
        self.0.join("told.jsonl")
    }

    /// The log of the job: its standard output and error.
    pub fn log(&self) -> PathBuf {
        self.0.join("job.log")
    }

    /// Creates an empty folder for a task; removes an existing one.
    pub fn make(&self, task: &JobTask) -> Result<()> {
        self.remove()?;
        let making = || format!("cannot create the job folder `{}`", self.0.display());
        fs::create_dir_all(self.out()).with_context(making)?;
        fs::write(self.events_path(), "").with_context(making)?;
        // Written last: a folder without it is not a job folder.
        let task = serde_json::to_vec_pretty(task)?;
        write_atomic_with(&self.0.join("task.json"), Durability::ProcessEnd, |file| file.write_all(&task).with_context(making))
    }

    /// The task, if this is a complete job folder.
    pub fn task(&self) -> Option<JobTask> {
        serde_json::from_slice(&fs::read(self.0.join("task.json")).ok()?).ok()
    }

    /// Records the job id on the cluster.
    pub fn note(&self, id: &str) -> Result<()> {
        let recording = || format!("cannot record job {id} in `{}`", self.0.display());
        write_atomic_with(&self.0.join("id"), Durability::ProcessEnd, |file| file.write_all(id.as_bytes()).with_context(recording))
    }

    /// The recorded job id, if there is one.
    pub fn id(&self) -> Option<String> {
        fs::read_to_string(self.0.join("id")).ok().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty())
    }

    /// The last lines of the log, at most 10.
    pub fn log_tail(&self) -> Vec<String> {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(10)..].iter().map(|line| (*line).to_owned()).collect()
    }

    /// The task of a job that has not told its end.
    pub fn unended_task(&self) -> Option<JobTask> {
        let task = self.task()?;
        let ended = matches!(JobFollower::of(self).emit_new_events(&Emitter::silent()), Ok(Some(_)));
        (!ended).then_some(task)
    }

    /// Moves the result to the output folder `out` of the attempt.
    pub fn move_result(&self, out: &Path) -> Result<()> {
        let moving = || format!("cannot move the result out of `{}`", self.out().display());
        match fs::remove_dir(out) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(moving),
            _ => fs::rename(self.out(), out).with_context(moving),
        }
    }

    /// Removes the folder of an ended job of an earlier run.
    ///
    /// # Errors
    /// If the job may still be running: only one process may use the stage's scratch folder.
    pub fn remove_ended(&self) -> Result<()> {
        if self.unended_task().is_none() {
            return self.remove();
        }
        let id = self.id().map_or_else(|| "a job".to_owned(), |id| format!("job {id}"));
        Err(Error::new(format!("{id}, submitted by an earlier run for this stage, may still be running"))
            .kind(ErrorKind::Locked)
            .hint(format!("run the stage on the cluster again, or cancel the job and remove `{}`", self.0.display())))
    }

    /// Removes the folder, if it exists.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove the job folder `{}`", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

impl JobOutcome {
    /// Converts the outcome of a stage.
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

    /// Converts back to the outcome of the stage.
    pub fn outcome(self) -> Result<StageOutcome> {
        match self {
            Self::Done { summary, metrics, facts } => Ok(StageOutcome::Done(StageResult { summary, metrics, facts })),
            Self::Parked { have, need, message } => Ok(StageOutcome::Parked { have, need, message }),
            Self::Failed { message, hint, exit, failure } => {
                let known = [ErrorKind::InvalidInput, ErrorKind::Environment, ErrorKind::Timeout, ErrorKind::Interrupted];
                // The failure is more specific than the exit code, except for `Crash`.
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

/// Follows the event stream of a job.
#[derive(Debug)]
pub struct JobFollower {
    path: PathBuf,
    read: u64,
}

impl JobFollower {
    /// A follower that starts at the first line.
    pub fn of(folder: &JobDir) -> Self {
        Self { path: folder.events_path(), read: 0 }
    }

    /// Emits the events since the last call; returns the outcome if the job has ended.
    pub fn emit_new_events(&mut self, emitter: &Emitter) -> Result<Option<JobOutcome>> {
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

/// Runs the task of a job folder, on the cluster node; `asked` requests it to stop.
pub fn run_task(folder: &JobDir, registry: &[&dyn StageFactory], asked: Arc<AtomicBool>) -> Result<()> {
    let task = folder.task().ok_or_else(|| {
        Error::new(format!("`{}` is not a job folder", folder.0.display()))
            .kind(ErrorKind::InvalidInput)
            .hint("this command is internal: `voxpipe run` starts it in cluster jobs")
    })?;
    let events = folder.events_path();
    let writing = || format!("cannot write `{}`", events.display());
    let open = || File::options().append(true).open(&events).with_context(writing);
    let log: Box<dyn Reporter> = Box::new(JsonLinesReporter::new(open()?, events.display().to_string(), &task.run));
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

/// The stage of a task.
///
/// # Errors
/// If the kind's version or the numerics class differ from the task: the result would not match its fingerprint.
fn stage(task: &JobTask, registry: &[&dyn StageFactory]) -> Result<Box<dyn AnyStage>> {
    let other = |what: String| {
        Error::new(format!("the voxpipe on this node differs from the one that submitted the job: {what}"))
            .environment()
            .hint("set `program` in `[slurm]` to the same version of voxpipe")
    };
    let entry =
        registry.iter().find(|entry| entry.kind() == task.kind).ok_or_else(|| other(format!("it has no stage kind `{}`", task.kind)))?;
    if entry.version() != task.version {
        return Err(other(format!("its `{}` has version {}, not {}", task.kind, entry.version(), task.version)));
    }
    let stage = entry.restore(task.settings.clone())?;
    let here = stage.numerics();
    if here != task.numerics {
        let name = |numerics: &Option<String>| numerics.clone().unwrap_or_else(|| "none".to_owned());
        return Err(Error::new(format!(
            "this node would compute in {}, but the run was planned for {}",
            name(&here),
            name(&task.numerics)
        ))
        .environment()
        .hint("set `device = \"cuda\"` or `\"cpu\"` in the stage's settings: `auto` selects a device per machine"));
    }
    Ok(stage)
}
