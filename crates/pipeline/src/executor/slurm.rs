//! Slurm backend: submits jobs with `sbatch`, polls them with `squeue` and `sacct`, and cancels them with `scancel`.
//!
//! Assumes that the project folder is on a file system shared with the nodes, so nothing is copied. Each poll queries all jobs in one call.

use super::job_dir::JobDir;
use super::{CancelMode, ClusterBackend, JobEnd, JobSpec, JobStatus};
use crate::cache::programs;
use crate::error::{Error, Result, ResultExt};
use crate::graph::{CPU, GPU, SlurmSettings as Settings};
use crate::stage::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};
use voxpipe_io::secrets::is_secret_variable;

/// A Slurm cluster, accessed through the client programs of this machine.
#[derive(Debug)]
pub struct SlurmBackend {
    settings: Settings,
    /// The voxpipe executable on the nodes.
    program: String,
    cached: Mutex<QueueCache>,
}

/// The last answer of `squeue`.
#[derive(Debug, Default)]
struct QueueCache {
    /// When it was queried.
    at: Option<Instant>,
    /// The ids of the jobs to query.
    ids: BTreeSet<String>,
    statuses: BTreeMap<String, JobStatus>,
    /// The error of the last query, if it failed.
    error: Option<Error>,
}

impl SlurmBackend {
    /// A cluster with the settings of `[slurm]`; `program` is the default executable on the nodes.
    pub fn new(settings: Settings, program: &Path) -> Self {
        let program = settings.program.clone().unwrap_or_else(|| program.display().to_string());
        Self { settings, program, cached: Mutex::default() }
    }

    /// The batch script of a job.
    fn script(&self, folder: &Path) -> String {
        let setup: String = self.settings.setup.iter().map(|line| format!("{line}\n")).collect();
        // `exec` replaces the shell, so that a signal to the job reaches the stage.
        format!("#!/bin/bash\nset -e\n{setup}exec {} work {}\n", quoted(&self.program), quoted(&folder.display().to_string()))
    }

    /// Queries the status of all jobs in one call.
    fn query(&self, cache: &mut QueueCache) -> Result<()> {
        let ids = cache.ids.iter().cloned().collect::<Vec<_>>().join(",");
        let output = start("squeue", &["--noheader", "--states=all", "--format=%i|%T|%r|%N", &format!("--jobs={ids}")])?;
        let unknown = String::from_utf8_lossy(&output.stderr).contains("Invalid job id");
        if !output.status.success() && !unknown {
            return Err(failure_of("squeue", &output));
        }
        cache.statuses = String::from_utf8_lossy(&output.stdout).lines().filter_map(row).collect();
        Ok(())
    }

    /// The status of a job that has left the queue, from Slurm's accounting.
    fn accounted(id: &str) -> JobStatus {
        let unknown = || {
            JobStatus::Ended(JobEnd {
                words: "Slurm has no record of it".to_owned(),
                failure: Failure::Crash,
                hint: Some("check `sacct` and the node's log, then run again"),
            })
        };
        let Ok(output) = start("sacct", &["--noheader", "--parsable2", "--allocations", "--format=State,NodeList", "--jobs", id]) else {
            return unknown();
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match text.lines().next().and_then(|line| line.split('|').next()).filter(|state| !state.trim().is_empty()) {
            Some(state) if output.status.success() => job_status(state, "", ""),
            _ => unknown(),
        }
    }
}

impl ClusterBackend for SlurmBackend {
    fn name(&self) -> &'static str {
        "Slurm"
    }

    fn submit(&self, order: &JobSpec<'_>) -> Result<String> {
        let script = order.folder.join("job.sh");
        fs::write(&script, self.script(order.folder)).with_context(|| format!("cannot write `{}`", script.display()))?;
        let mut command = Command::new("sbatch");
        command.args(["--parsable", "--no-requeue", "--open-mode=append", "--signal=B:TERM@60", "--export=ALL"]);
        command.arg(format!("--job-name={}", order.name)).arg(format!("--chdir={}", order.root.display()));
        command.arg(format!("--output={}", JobDir(order.folder.to_owned()).log().display().to_string().replace('%', "%%")));
        let amount = |name: &str| order.amounts.get(name).copied().unwrap_or(0.0).ceil() as u64;
        if amount(CPU) > 0 {
            command.arg(format!("--cpus-per-task={}", amount(CPU)));
        }
        if amount(GPU) > 0 {
            command.arg(format!("--gres=gpu:{}", amount(GPU)));
        }
        command.args(&self.settings.args).args(order.arguments).arg(&script);
        // Slurm stores a job's environment on disk: pass on only the secrets that the stage declares.
        for (name, value) in std::env::vars_os() {
            if is_secret_variable(&name, &value) && !order.secrets.iter().any(|asked| **asked == *name) {
                command.env_remove(name);
            }
        }
        // Slurm sets these in a job. In a job that this one submits, they would be taken for options (`sbatch` reads SBATCH_…, and `srun` in the
        // job SLURM_…), or tell of nodes that it has not.
        if let Some(names) = surrounding_job(std::env::vars_os().map(|(name, _)| name)) {
            names.iter().for_each(|name| _ = command.env_remove(name));
        }
        let output = finish("sbatch", &mut command)?;
        if !output.status.success() {
            return Err(failure_of("sbatch", &output).hint("check `args` in `[slurm]` and the stage's `resources`"));
        }
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let id = printed.lines().last().and_then(|line| line.split(';').next()).map(str::trim).unwrap_or_default();
        if id.is_empty() || !id.chars().all(|digit| digit.is_ascii_digit()) {
            return Err(Error::new(format!("`sbatch` did not print a job id, but: {}", printed.trim())).environment());
        }
        Ok(id.to_owned())
    }

    fn find(&self, name: &str) -> Result<Option<String>> {
        let output = start("squeue", &["--noheader", "--me", "--format=%i", &format!("--name={name}")])?;
        if !output.status.success() {
            return Err(failure_of("squeue", &output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()))
    }

    fn status(&self, id: &str) -> Result<JobStatus> {
        let mut cache = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let new = cache.ids.insert(id.to_owned());
        if new || cache.at.is_none_or(|at| at.elapsed() >= self.settings.poll) {
            // Errors are cached too, so that an unreachable controller is not queried once per job.
            cache.at = Some(Instant::now());
            cache.error = self.query(&mut cache).err();
        }
        if let Some(error) = &cache.error {
            return Err(error.clone());
        }
        let status = cache.statuses.get(id).cloned().unwrap_or_else(|| Self::accounted(id));
        if matches!(status, JobStatus::Ended(_)) {
            cache.ids.remove(id);
        }
        Ok(status)
    }

    fn cancel(&self, id: &str, how: CancelMode) -> Result<()> {
        let arguments: &[&str] = match how {
            CancelMode::Ask => &["--batch", "--signal=TERM", id],
            CancelMode::Make => &[id],
        };
        let output = start("scancel", arguments)?;
        // Cancelling a job that has already ended is not an error.
        let ended = String::from_utf8_lossy(&output.stderr).contains("already completed");
        if output.status.success() || ended {
            Ok(())
        } else {
            Err(failure_of("scancel", &output).hint(format!("cancel it manually: scancel {id}")))
        }
    }

    fn is_away(&self, error: &Error) -> bool {
        let message = error.message.to_lowercase();
        AWAY.iter().any(|words| message.contains(words))
    }

    fn poll(&self) -> Duration {
        self.settings.poll
    }
}

/// What Slurm's client programs say, in lower case, when the controller or the network is away.
const AWAY: &[&str] = &[
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "connection timed out",
    "communication connection failure",
    "slurm controller not responding",
    "controller in standby mode",
    "temporarily unable to accept job",
    "zero bytes were transmitted or received",
    "transport endpoint is not connected",
    "message receive failure",
    "message send failure",
    "resource temporarily unavailable",
    "slurm temporarily unable",
    "no route to host",
];

/// The variables of the Slurm job that this program runs in, of which none may reach a job that it submits; `None` outside of a job, where the
/// person may have set some. Where the cluster is and how to log in to it stays.
fn surrounding_job(names: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let slurm = |name: &OsString| name.to_str().is_some_and(|name| ["SLURM_", "SBATCH_", "SRUN_"].iter().any(|of| name.starts_with(of)));
    let found: Vec<OsString> = names.filter(slurm).collect();
    let inside = ["SLURM_JOB_ID", "SLURM_JOBID", "SLURM_STEP_ID"];
    found.iter().any(|name| inside.iter().any(|inside| name == inside)).then(|| {
        found.into_iter().filter(|name| !["SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"].iter().any(|kept| name == kept)).collect()
    })
}

/// Parses a row of `squeue`: job id and status.
fn row(line: &str) -> Option<(String, JobStatus)> {
    let mut fields = line.trim().split('|');
    let (id, state) = (fields.next()?, fields.next()?);
    let (reason, nodes) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    Some((id.to_owned(), job_status(state, reason, nodes)))
}

/// The status of a job for a Slurm job state.
fn job_status(state: &str, reason: &str, nodes: &str) -> JobStatus {
    let ended = |failure, hint| JobStatus::Ended(JobEnd { words: format!("final state {state}"), failure, hint });
    // The first word only: `sacct` prints `CANCELLED by 1000`.
    match state.split_whitespace().next().unwrap_or_default() {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "RESV_DEL_HOLD" | "SPECIAL_EXIT" => {
            JobStatus::Waits(if reason == "None" { String::new() } else { reason.to_owned() })
        }
        "RUNNING" | "COMPLETING" | "STAGE_OUT" | "SIGNALING" | "STOPPED" | "SUSPENDED" | "RESIZING" => JobStatus::Runs(nodes.to_owned()),
        "OUT_OF_MEMORY" => {
            ended(Failure::OutOfMemory, Some("request more memory, e.g. `slurm = [\"--mem=64G\"]` in the stage's `resources`"))
        }
        "TIMEOUT" | "DEADLINE" => {
            ended(Failure::Timeout, Some("request more time, e.g. `slurm = [\"--time=12:00:00\"]` in the stage's `resources`"))
        }
        "NODE_FAIL" | "BOOT_FAIL" => ended(Failure::LostDevice, Some("run again; `retry` on \"lost-device\" does so automatically")),
        "CANCELLED" => ended(Failure::Cancelled, Some("it was cancelled; run again")),
        "PREEMPTED" | "REVOKED" => ended(Failure::Timeout, Some("it was preempted; run again")),
        _ => ended(Failure::Crash, None),
    }
}

const NO_CLIENT: &str = "run this on a machine with the Slurm client programs, or run the stage locally: `on = \"local\"`";

fn start(program: &str, arguments: &[&str]) -> Result<Output> {
    finish(program, Command::new(program).args(arguments))
}

/// What this machine lacks to submit a job.
pub(crate) fn lacks() -> Option<Error> {
    let found = programs::find("sbatch", Path::new("")).is_some();
    (!found).then(|| Error::new("cannot start `sbatch`: it is not in PATH").environment().hint(NO_CLIENT))
}

fn finish(program: &str, command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => NO_CLIENT,
            _ => "check that it runs from the command line",
        };
        Error::new(format!("cannot start `{program}`: {error}")).environment().hint(hint)
    })
}

/// The error of a Slurm client program that failed.
fn failure_of(program: &str, output: &Output) -> Error {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let message = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let message = if message.is_empty() { output.status.to_string() } else { message };
    Error::new(format!("`{program}` failed: {message}")).environment()
}

/// Quotes a word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_understood() {
        assert_eq!(row("7|PENDING|Resources|"), Some(("7".into(), JobStatus::Waits("Resources".into()))));
        assert_eq!(row("7|RUNNING|None|node3"), Some(("7".into(), JobStatus::Runs("node3".into()))));
        for (state, failure) in [
            ("OUT_OF_MEMORY", Failure::OutOfMemory),
            ("TIMEOUT", Failure::Timeout),
            ("NODE_FAIL", Failure::LostDevice),
            ("CANCELLED by 1000", Failure::Cancelled),
            ("PREEMPTED", Failure::Timeout),
            ("FAILED", Failure::Crash),
            ("SOMETHING_NEW", Failure::Crash),
        ] {
            let JobStatus::Ended(end) = job_status(state, "", "") else { panic!("{state} is an end") };
            assert_eq!((end.failure, end.words), (failure, format!("final state {state}")));
        }
    }

    #[test]
    fn a_surrounding_job_does_not_reach_the_next() {
        let names = |names: &[&str]| surrounding_job(names.iter().map(OsString::from));
        assert_eq!(names(&["SBATCH_ACCOUNT", "SLURM_CONF", "PATH"]), None);
        let inside = ["SLURM_JOB_ID", "SLURM_NTASKS", "SBATCH_PARTITION", "SLURM_CONF", "SLURM_JWT", "PATH", "SLURMISH"];
        assert_eq!(names(&inside).unwrap(), ["SLURM_JOB_ID", "SLURM_NTASKS", "SBATCH_PARTITION"]);
    }

    #[test]
    fn a_job_is_the_stage_itself_and_not_a_shell_around_it() {
        let settings = Settings { setup: vec!["module load cuda".into()], ..Settings::default() };
        let script = SlurmBackend::new(settings, Path::new("/opt/it's/voxpipe")).script(Path::new("/p/a b"));
        assert_eq!(script, "#!/bin/bash\nset -e\nmodule load cuda\nexec '/opt/it'\\''s/voxpipe' work '/p/a b'\n");
    }
}
