//! Remote executor: submits a stage as a cluster job, follows it, cancels it when the run stops, and adopts jobs of earlier runs.

use super::job_dir::{JobDir, JobFollower, JobOutcome, JobTask};
use super::{Executor, StageJob};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::process::liveness_lock::JOB;
use crate::stage::{Failure, StageOutcome};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// A cluster backend: the job operations of one kind of cluster.
pub trait ClusterBackend: Send + Sync {
    /// The display name.
    fn name(&self) -> &'static str;

    /// Submits a job that runs [`super::job_dir::run_task`] on its folder, and returns the job id.
    fn submit(&self, order: &JobSpec<'_>) -> Result<String>;

    /// The id of an unended job with this name, submitted by a run that was killed before it recorded the id.
    fn find(&self, name: &str) -> Result<Option<String>>;

    /// The status of a job. Called often: backends should cache answers where polling is expensive.
    fn status(&self, id: &str) -> Result<JobStatus>;

    /// Cancels a job.
    fn cancel(&self, id: &str, how: CancelMode) -> Result<()>;

    /// Copies new output of the job to its local folder. Does nothing if both are the same folder (shared file system).
    fn fetch(&self, _id: &str, _folder: &Path) -> Result<()> {
        Ok(())
    }

    /// Whether an error means that the cluster does not answer for the moment, so that the same call may succeed later.
    fn is_away(&self, _error: &Error) -> bool {
        false
    }

    /// The polling interval.
    fn poll(&self) -> Duration;
}

/// A job to be submitted.
pub struct JobSpec<'a> {
    /// The job name, unique in this project.
    pub name: &'a str,
    /// The job folder.
    pub folder: &'a Path,
    /// The working directory.
    pub root: &'a Path,
    /// The resources it needs, by name.
    pub amounts: &'a BTreeMap<String, f64>,
    /// Additional submission arguments of the stage.
    pub arguments: &'a [String],
    /// Names of the secret environment variables that the stage declares; no others are passed on.
    pub secrets: Vec<String>,
}

/// The status of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobStatus {
    /// Queued, with the reason.
    Waits(String),
    /// Running, with the node.
    Runs(String),
    /// Ended or unknown to the cluster.
    Ended(JobEnd),
}

/// The end of a job as reported by the cluster, for jobs that could not report their outcome themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct JobEnd {
    /// A description, such as `final state OUT_OF_MEMORY`.
    pub words: String,
    /// The kind of failure.
    pub failure: Failure,
    /// What the user can do.
    pub hint: Option<&'static str>,
}

/// How a job is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelMode {
    /// Request it to stop (SIGTERM), so that a training can write a checkpoint.
    Ask,
    /// Terminate it.
    Make,
}

/// Stands for the id of a job that had ended before the cluster said which it was.
const UNKNOWN_ID: &str = "of unknown id";
/// How long a job may take to stop after a request.
const GRACE: Duration = Duration::from_secs(60);
/// How long a job may take to end after it was terminated.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the cluster may take to tell the final state of a job that has told its own end.
const SETTLE: Duration = Duration::from_secs(30);
/// How often the job folder is read.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Runs stages as jobs of a [`ClusterBackend`].
#[derive(Debug)]
pub struct RemoteExecutor<S>(pub S);

impl<S: ClusterBackend> Executor for RemoteExecutor<S> {
    fn execute(&self, job: &StageJob<'_>) -> Result<StageOutcome> {
        let folder = JobDir::of(job.cx);
        let name = name(&job.cx.stage, &folder);
        let id = match self.adopt(job, &folder, &name)? {
            Some(id) => id,
            None => self.submit(job, &folder, &name)?,
        };
        let outcome = match self.follow(job, &folder, &id) {
            // Keep the folder: a later run adopts the job.
            End::Alive(error) => return Err(error),
            End::Lost(error) => Err(error),
            End::Reported(outcome) => outcome.outcome(),
        };
        if outcome.is_ok() {
            folder.move_result(&job.cx.out)?;
        }
        // The next job removes what cannot be removed now.
        let _ = folder.remove();
        outcome
    }
}

/// How following a job ends.
enum End {
    /// The job reported its outcome.
    Reported(JobOutcome),
    /// The job ended without an outcome.
    Lost(Error),
    /// The job may still be running, but is no longer followed.
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
        let id = self.submit_patiently(job, folder, &order)?;
        if let Err(error) = folder.note(&id) {
            cx.warn(error.message);
        }
        cx.note(format!("submitted as {} job {id}", self.0.name()));
        Ok(id)
    }

    /// Submits a job. While the cluster does not answer, it is tried again, and looked whether an attempt succeeded although no answer came.
    fn submit_patiently(&self, job: &StageJob<'_>, folder: &JobDir, order: &JobSpec<'_>) -> Result<String> {
        loop {
            match self.0.submit(order) {
                Ok(id) => return Ok(id),
                Err(error) if self.0.is_away(&error) => {
                    job.cx.warn(format!("cannot submit to {}: {}; retrying", self.0.name(), error.message));
                    self.pause(job)?;
                    if let Some(id) = self.patiently(job, || self.0.find(order.name))? {
                        return Ok(id);
                    }
                    // It may have ended already, and told so.
                    if folder.unended_task().is_none() {
                        return Ok(UNKNOWN_ID.to_owned());
                    }
                }
                Err(error) => {
                    // The next job removes what cannot be removed now.
                    let _ = folder.remove();
                    return Err(error);
                }
            }
        }
    }

    /// Asks the cluster until it answers, or until the run is to stop.
    fn patiently<T>(&self, job: &StageJob<'_>, ask: impl Fn() -> Result<T>) -> Result<T> {
        let mut warned = false;
        loop {
            match ask() {
                Err(error) if self.0.is_away(&error) => {
                    if !warned {
                        job.cx.warn(format!("{} does not answer: {}; retrying", self.0.name(), error.message));
                        warned = true;
                    }
                    self.pause(job)?;
                }
                answer => return answer,
            }
        }
    }

    /// Waits for one polling interval; an error if the run is to stop.
    fn pause(&self, job: &StageJob<'_>) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < self.0.poll() {
            if job.clock.asked() {
                return Err(Error::new(format!("the run was stopped while {} did not answer", self.0.name()))
                    .kind(ErrorKind::Interrupted)
                    .hint("run again: a job that was submitted nevertheless is found then"));
            }
            thread::sleep(FOLLOW_INTERVAL.min(self.0.poll()));
        }
        Ok(())
    }

    /// The id of the job in a folder, if it may still be running.
    pub fn living(&self, folder: &JobDir) -> Result<Option<String>> {
        let Some(task) = folder.unended_task() else { return Ok(None) };
        // The name has the path that the folder had when the job was submitted.
        let name = name(&task.stage, &JobDir(task.scratch.join(JOB)));
        let Some(id) = folder.id().map_or_else(|| self.0.find(&name), |id| Ok(Some(id)))? else { return Ok(None) };
        Ok(if matches!(self.0.status(&id)?, JobStatus::Ended(_)) { None } else { Some(id) })
    }

    /// The job of an earlier run, if it is still running or has not failed.
    fn adopt(&self, job: &StageJob<'_>, folder: &JobDir, name: &str) -> Result<Option<String>> {
        if folder.task().is_none() {
            return Ok(None);
        }
        let (cx, site) = (job.cx, self.0.name());
        let unknown = |error: Error| {
            if error.kind == ErrorKind::Interrupted {
                return error;
            }
            error.context(format!("cannot find out from {site} whether the job of an earlier run is still running")).environment()
        };
        let find = || self.patiently(job, || self.0.find(name)).map_err(unknown);
        let Some(id) = folder.id().map_or_else(find, |id| Ok(Some(id)))? else { return Ok(None) };
        let _ = self.0.fetch(&id, &folder.0);
        match JobFollower::of(folder).emit_new_events(&crate::events::Emitter::silent()) {
            Ok(Some(JobOutcome::Failed { .. })) | Err(_) => return Ok(None),
            Ok(Some(_)) => {
                cx.note(format!("{site} job {id} of an earlier run has ended in the meantime"));
                return Ok(Some(id));
            }
            Ok(None) => {}
        }
        if matches!(self.patiently(job, || self.0.status(&id)).map_err(unknown)?, JobStatus::Ended(_)) {
            return Ok(None);
        }
        folder.note(&id)?;
        cx.note(format!("{site} job {id} of an earlier run is still running"));
        Ok(Some(id))
    }

    /// Follows a job to its end.
    fn follow(&self, job: &StageJob<'_>, folder: &JobDir, id: &str) -> End {
        let (cx, site) = (job.cx, self.0.name());
        let mut follower = JobFollower::of(folder);
        let mut last_status: Option<JobStatus> = None;
        let mut ended_at: Option<Instant> = None;
        let mut asked: Option<Instant> = None;
        let mut terminated = false;
        let mut warned = false;
        loop {
            if let Err(error) = self.0.fetch(id, &folder.0)
                && !warned
            {
                cx.warn(error.message);
                warned = true;
            }
            match follower.emit_new_events(&cx.emitter) {
                Ok(None) => {}
                Ok(Some(JobOutcome::Failed { exit, .. })) if exit == Exit::Interrupted as u8 && asked.is_none() => {
                    return self.stopped_externally(job, id);
                }
                Ok(Some(outcome)) => return End::Reported(outcome),
                Err(error) => {
                    let _ = self.0.cancel(id, CancelMode::Make);
                    return End::Alive(error.context(format!("cannot follow {site} job {id}, so it was cancelled")));
                }
            }
            if ended_at.is_some_and(|since| since.elapsed() > self.0.poll()) {
                return End::Lost(match (asked, &last_status) {
                    (None, Some(JobStatus::Ended(end))) if end.failure == Failure::Cancelled => cancelled(site, id, end),
                    (None, Some(JobStatus::Ended(end))) => lost(site, id, end, folder),
                    _ => interrupted(site, id),
                });
            }
            if job.clock.asked() {
                match asked {
                    None => {
                        let queued = !matches!(last_status, Some(JobStatus::Runs(_)));
                        terminated = queued;
                        if let Err(error) = self.0.cancel(id, if queued { CancelMode::Make } else { CancelMode::Ask }) {
                            return End::Alive(error);
                        }
                        asked = Some(Instant::now());
                    }
                    Some(since) if since.elapsed() > GRACE && !terminated => {
                        terminated = true;
                        if let Err(error) = self.0.cancel(id, CancelMode::Make) {
                            return End::Alive(error);
                        }
                    }
                    Some(since) if since.elapsed() > GRACE + PATIENCE => {
                        let message = format!("{site} job {id} was cancelled but does not end");
                        cx.warn(&message);
                        return End::Alive(
                            Error::new(message).kind(ErrorKind::Interrupted).hint("make sure that it ends: a later run would wait for it"),
                        );
                    }
                    Some(_) => {}
                }
            }
            // For an ended job, only its last events are still to be read.
            if ended_at.is_none() {
                match self.0.status(id) {
                    Ok(status) if last_status.as_ref() != Some(&status) => {
                        match &status {
                            JobStatus::Waits(why) => cx.note(format!("{site} job {id} is queued{}", bracketed(why))),
                            JobStatus::Runs(node) => cx.note(format!("{site} job {id} is running{}", bracketed(node))),
                            JobStatus::Ended(_) => ended_at = Some(Instant::now()),
                        }
                        (last_status, warned) = (Some(status), false);
                    }
                    Ok(_) => warned = false,
                    Err(error) if !warned => {
                        warned = true;
                        cx.warn(format!("cannot get the status of {site} job {id}: {}; retrying", error.message));
                    }
                    Err(_) => {}
                }
            }
            thread::sleep(FOLLOW_INTERVAL.min(self.0.poll()));
        }
    }
}

impl<S: ClusterBackend> RemoteExecutor<S> {
    /// The end of a job that said it was stopped, though this run did not ask it to: the cluster knows whether somebody cancelled it.
    fn stopped_externally(&self, job: &StageJob<'_>, id: &str) -> End {
        let (site, begun) = (self.0.name(), Instant::now());
        while begun.elapsed() < SETTLE && !job.clock.asked() {
            match self.0.status(id) {
                Ok(JobStatus::Ended(end)) if end.failure == Failure::Cancelled => return End::Lost(cancelled(site, id, &end)),
                Ok(JobStatus::Ended(_)) => break,
                _ => thread::sleep(FOLLOW_INTERVAL.min(self.0.poll())),
            }
        }
        End::Reported(time_is_over(site, id))
    }
}

/// A job name that is unique to this stage and its fingerprint, so that a later run can find the job.
fn name(stage: &str, folder: &JobDir) -> String {
    let hash = blake3::hash(folder.0.as_os_str().as_encoded_bytes()).to_hex();
    format!("voxpipe-{stage}-{}", &hash[..12])
}

fn bracketed(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// The error for a job that a person cancelled. It is no timeout, so that `retry` does not undo what the person did.
fn cancelled(site: &str, id: &str, end: &JobEnd) -> Error {
    Error::new(format!("{site} job {id} was cancelled by somebody ({})", end.words))
        .kind(ErrorKind::Cancelled)
        .hint("run again to resume from its last checkpoint")
}

/// The outcome of a job that was stopped from outside, but not cancelled: it reached its time limit.
fn time_is_over(site: &str, id: &str) -> JobOutcome {
    JobOutcome::Failed {
        message: format!("{site} job {id} was stopped from outside: it reached its time limit"),
        hint: Some(
            "run again to resume from its last checkpoint; `retry = { times = 5, on = [\"timeout\"] }` does so automatically".to_owned(),
        ),
        exit: Exit::TimedOut as u8,
        failure: Failure::Timeout,
    }
}

fn interrupted(site: &str, id: &str) -> Error {
    Error::new(format!("{site} job {id} was cancelled")).kind(ErrorKind::Interrupted).hint("run again to restart it")
}

/// The error for a job that ended without an outcome.
fn lost(site: &str, id: &str, end: &JobEnd, folder: &JobDir) -> Error {
    let lines = folder.log_tail();
    let last = match lines.len() {
        0 => "; it printed nothing".to_owned(),
        count => format!("; its last {count} lines:\n{}", lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")),
    };
    let error = Error::new(format!("{site} job {id} ended without a result: {}{last}", end.words)).kind(end.failure.kind());
    error.hint(end.hint.unwrap_or("fix the problem shown in its last lines and run again"))
}
