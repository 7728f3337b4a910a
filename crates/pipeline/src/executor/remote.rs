//! A stage as a job somewhere else: submitted, followed, cancelled when the run should stop, and found again by a later run.

use super::job_dir::{JobDir, JobFollower, JobOutcome, JobTask};
use super::{Executor, StageJob};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::stage::Failure;
use crate::stage::{Context, StageOutcome};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// What has to be known of a place where jobs run.
pub trait ClusterBackend: Send + Sync {
    /// What people call it.
    fn name(&self) -> &'static str;

    /// Submits a job that carries out what its folder describes ([`super::job_dir::carry_out`]) and gives what it is called there.
    fn submit(&self, order: &JobSpec<'_>) -> Result<String>;

    /// A job that has this name and has not ended: one whose submission outlived the run that made it.
    fn find(&self, name: &str) -> Result<Option<String>>;

    /// How a job is. It is asked often; a place that minds has to remember its answers.
    fn look(&self, id: &str) -> Result<JobStatus>;

    /// Ends a job.
    fn cancel(&self, id: &str, how: CancelMode) -> Result<()>;

    /// Brings what the job has written since the last time into its folder here. Where both are the same folder there is nothing to do.
    fn fetch(&self, _id: &str, _folder: &Path) -> Result<()> {
        Ok(())
    }

    /// How often it is asked.
    fn poll(&self) -> Duration;
}

/// A job to be submitted.
pub struct JobSpec<'a> {
    /// A name no other job of this project has.
    pub name: &'a str,
    /// The job's folder.
    pub folder: &'a Path,
    /// Where it runs.
    pub root: &'a Path,
    /// What it needs, by name.
    pub amounts: &'a BTreeMap<String, f64>,
    /// Further arguments of the stage.
    pub arguments: &'a [String],
    /// Names of secret environment variables that the stage asks for; no others are handed over.
    pub secrets: Vec<String>,
}

/// How a job is.
#[derive(Clone, Debug, PartialEq)]
pub enum JobStatus {
    /// In a queue, and why.
    Waits(String),
    /// At work, and where.
    Runs(String),
    /// It has ended, or nobody knows it any more.
    Ended(JobEnd),
}

/// How a job ended that may not have been able to say so itself.
#[derive(Clone, Debug, PartialEq)]
pub struct JobEnd {
    /// `it ended as OUT_OF_MEMORY`
    pub words: String,
    /// What kind of failure that is.
    pub failure: Failure,
    /// What to do.
    pub hint: Option<&'static str>,
}

/// How a job is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelMode {
    /// Asked to; a training writes a checkpoint.
    Ask,
    /// Made to.
    Make,
}

/// How long a job may take to stop when it was asked to.
const GRACE: Duration = Duration::from_secs(60);
/// How long it may take to end when it was made to.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the job's folder is looked at.
const GLANCE: Duration = Duration::from_millis(200);

/// Has stages run at a [`ClusterBackend`].
#[derive(Debug)]
pub struct RemoteExecutor<S>(pub S);

impl<S: ClusterBackend> Executor for RemoteExecutor<S> {
    fn execute(&self, job: &StageJob<'_>) -> Result<StageOutcome> {
        let folder = JobDir::of(job.cx);
        let name = name(job.cx, &folder);
        let id = match self.adopt(job.cx, &folder, &name)? {
            Some(id) => id,
            None => self.submit(job, &folder, &name)?,
        };
        let outcome = match self.follow(job, &folder, &id) {
            // A later run finds the job there.
            End::Alive(error) => return Err(error),
            End::Lost(error) => Err(error),
            End::Said(ended) => ended.outcome(),
        };
        if outcome.is_ok() {
            folder.hand_over(&job.cx.out)?;
        }
        // What cannot be cleared away is cleared away by the next job.
        let _ = folder.remove();
        outcome
    }
}

/// How following a job ends.
enum End {
    /// The job said how it ended.
    Said(JobOutcome),
    /// It ended without saying so.
    Lost(Error),
    /// It may go on, but nobody follows it any more.
    Alive(Error),
}

impl<S: ClusterBackend> RemoteExecutor<S> {
    fn submit(&self, job: &StageJob<'_>, folder: &JobDir, name: &str) -> Result<String> {
        let cx = job.cx;
        folder.make(&JobTask {
            kind: job.stage.kind().to_owned(),
            version: job.stage.version(),
            settings: job.stage.settings(),
            numerics: job.stage.numerics(),
            run: job.run.to_owned(),
            stage: cx.stage.clone(),
            pipeline: cx.pipeline.clone(),
            root: cx.root.clone(),
            seed: cx.seed,
            inputs: cx.inputs.clone(),
            sources: cx.sources.as_ref().clone(),
            upstream: cx.upstream.clone(),
            scratch: cx.scratch.clone(),
            cache: cx.cache.clone(),
            timeout: job.clock.limits.timeout,
            stall_timeout: job.clock.limits.stall_timeout,
        })?;
        let settings = job.stage.settings();
        let secrets = settings.get("env").and_then(|env| env.as_array()).into_iter().flatten();
        let order = JobSpec {
            name,
            folder: &folder.0,
            root: &cx.root,
            amounts: job.amounts,
            arguments: job.arguments,
            secrets: secrets.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        };
        let id = self.0.submit(&order).inspect_err(|_| _ = folder.remove())?;
        if let Err(error) = folder.note(&id) {
            cx.warn(error.message);
        }
        cx.note(format!("is {} job {id}", self.0.name()));
        Ok(id)
    }

    /// The job that an earlier run left, if it still goes on or has ended well.
    fn adopt(&self, cx: &Context, folder: &JobDir, name: &str) -> Result<Option<String>> {
        if folder.task().is_none() {
            return Ok(None);
        }
        let site = self.0.name();
        let unknown =
            |error: Error| error.context(format!("cannot learn from {site} whether the job of an earlier run still goes on")).environment();
        let noted = folder.id();
        let Some(id) = noted.map_or_else(|| self.0.find(name).map_err(unknown), |id| Ok(Some(id)))? else { return Ok(None) };
        let _ = self.0.fetch(&id, &folder.0);
        match JobFollower::of(folder).tell(&crate::events::Emitter::silent()) {
            Ok(Some(JobOutcome::Failed { .. })) | Err(_) => return Ok(None),
            Ok(Some(_)) => {
                cx.note(format!("{site} job {id} of an earlier run has ended meanwhile"));
                return Ok(Some(id));
            }
            Ok(None) => {}
        }
        if matches!(self.0.look(&id).map_err(unknown)?, JobStatus::Ended(_)) {
            return Ok(None);
        }
        folder.note(&id)?;
        cx.note(format!("{site} job {id} of an earlier run goes on"));
        Ok(Some(id))
    }

    /// Follows a job to its end.
    fn follow(&self, job: &StageJob<'_>, folder: &JobDir, id: &str) -> End {
        let (cx, site) = (job.cx, self.0.name());
        let mut follower = JobFollower::of(folder);
        let mut seen: Option<JobStatus> = None;
        let mut gone: Option<Instant> = None;
        let mut asked: Option<Instant> = None;
        let mut made = false;
        let mut troubled = false;
        loop {
            if let Err(error) = self.0.fetch(id, &folder.0)
                && !troubled
            {
                cx.warn(error.message);
                troubled = true;
            }
            match follower.tell(&cx.emitter) {
                Ok(None) => {}
                Ok(Some(JobOutcome::Failed { exit, .. })) if exit == Exit::Interrupted as u8 && asked.is_none() => {
                    return End::Said(stopped_there(site, id));
                }
                Ok(Some(ended)) => return End::Said(ended),
                Err(error) => {
                    let _ = self.0.cancel(id, CancelMode::Make);
                    return End::Alive(error.context(format!("cannot follow {site} job {id}, which was cancelled")));
                }
            }
            if gone.is_some_and(|since| since.elapsed() > self.0.poll()) {
                return End::Lost(match (asked, &seen) {
                    (None, Some(JobStatus::Ended(fate))) => lost(site, id, fate, folder),
                    _ => interrupted(site, id),
                });
            }
            if job.clock.asked() {
                match asked {
                    None => {
                        let waits = !matches!(seen, Some(JobStatus::Runs(_)));
                        made = waits;
                        if let Err(error) = self.0.cancel(id, if waits { CancelMode::Make } else { CancelMode::Ask }) {
                            return End::Alive(error);
                        }
                        asked = Some(Instant::now());
                    }
                    Some(since) if since.elapsed() > GRACE && !made => {
                        made = true;
                        if let Err(error) = self.0.cancel(id, CancelMode::Make) {
                            return End::Alive(error);
                        }
                    }
                    Some(since) if since.elapsed() > GRACE + PATIENCE => {
                        let message = format!("{site} job {id} was cancelled but does not end");
                        cx.warn(&message);
                        return End::Alive(
                            Error::new(message).kind(ErrorKind::Interrupted).hint("see that it does: a later run would wait for it"),
                        );
                    }
                    Some(_) => {}
                }
            }
            // One that has ended has only its last word left to say.
            if gone.is_none() {
                match self.0.look(id) {
                    Ok(sight) if seen.as_ref() != Some(&sight) => {
                        match &sight {
                            JobStatus::Waits(why) => cx.note(format!("{site} job {id} waits in the queue{}", bracketed(why))),
                            JobStatus::Runs(node) => cx.note(format!("{site} job {id} runs{}", bracketed(node))),
                            JobStatus::Ended(_) => gone = Some(Instant::now()),
                        }
                        (seen, troubled) = (Some(sight), false);
                    }
                    Ok(_) => troubled = false,
                    Err(error) if !troubled => {
                        troubled = true;
                        cx.warn(format!("{site} does not say how job {id} is: {}; asking on", error.message));
                    }
                    Err(_) => {}
                }
            }
            thread::sleep(GLANCE.min(self.0.poll()));
        }
    }
}

/// A name that no other job of anybody's has, the same whenever this stage with these ingredients is a job.
fn name(cx: &Context, folder: &JobDir) -> String {
    let hash = blake3::hash(folder.0.as_os_str().as_encoded_bytes()).to_hex();
    format!("voxpipe-{}-{}", cx.stage, &hash[..12])
}

fn bracketed(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// The job was told to stop, but not by us: its time there is over, or somebody cancelled it.
fn stopped_there(site: &str, id: &str) -> JobOutcome {
    JobOutcome::Failed {
        message: format!("{site} job {id} was stopped from outside: its time there was over, or somebody cancelled it"),
        hint: Some(
            "run again to go on from its last checkpoint; `retry = { times = 5, on = [\"timeout\"] }` does that by itself".to_owned(),
        ),
        exit: Exit::TimedOut as u8,
        failure: Failure::Timeout,
    }
}

fn interrupted(site: &str, id: &str) -> Error {
    Error::new(format!("{site} job {id} was cancelled")).kind(ErrorKind::Interrupted).hint("run again to start it anew")
}

/// The job ended without a last word.
fn lost(site: &str, id: &str, fate: &JobEnd, folder: &JobDir) -> Error {
    let lines = folder.last_words();
    let last = match lines.len() {
        0 => "; it printed nothing".to_owned(),
        count => format!("; its last {count} lines:\n{}", lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")),
    };
    let error = Error::new(format!("{site} job {id} ended without a result: {}{last}", fate.words)).kind(fate.failure.kind());
    error.hint(fate.hint.unwrap_or("correct what its last lines say and run again"))
}
