//! Slurm: jobs are submitted with `sbatch`, looked at with `squeue` and `sacct`, cancelled with `scancel`.
//!
//! Nodes and this machine share the project's folder, as they do on clusters, so nothing has to be carried there or back. All jobs are
//! asked after in one call each poll, however many there are.

use super::job_dir::JobDir;
use super::{CancelMode, ClusterBackend, JobEnd, JobSpec, JobStatus};
use crate::error::{Error, Result, ResultExt};
use crate::graph::{CPU, GPU, SlurmSettings as Settings};
use crate::secrets::is_secret;
use crate::stage::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

/// A Slurm cluster, as far as this machine's client programs reach it.
#[derive(Debug)]
pub struct SlurmBackend {
    settings: Settings,
    /// The command on a node that carries out a job's folder.
    program: String,
    known: Mutex<Known>,
}

/// What `squeue` said last.
#[derive(Debug, Default)]
struct Known {
    at: Option<Instant>,
    asked: BTreeSet<String>,
    told: BTreeMap<String, JobStatus>,
    /// Why it said nothing.
    trouble: Option<Error>,
}

impl SlurmBackend {
    /// A cluster with the settings of `[slurm]`; `program` is the voxpipe of this machine.
    pub fn new(settings: Settings, program: &Path) -> Self {
        let program = settings.program.clone().unwrap_or_else(|| program.display().to_string());
        Self { settings, program, known: Mutex::default() }
    }

    /// The script of a job.
    fn script(&self, folder: &Path) -> String {
        let setup: String = self.settings.setup.iter().map(|line| format!("{line}\n")).collect();
        // In place of the shell, so that a signal to the job is a signal to the stage.
        format!("#!/bin/bash\nset -e\n{setup}exec {} work {}\n", quoted(&self.program), quoted(&folder.display().to_string()))
    }

    /// Asks after all jobs at once.
    fn ask(&self, known: &mut Known) -> Result<()> {
        let ids = known.asked.iter().cloned().collect::<Vec<_>>().join(",");
        let output = start("squeue", &["--noheader", "--states=all", "--format=%i|%T|%r|%N", &format!("--jobs={ids}")])?;
        let unknown = String::from_utf8_lossy(&output.stderr).contains("Invalid job id");
        if !output.status.success() && !unknown {
            return Err(complaint("squeue", &output));
        }
        known.told = String::from_utf8_lossy(&output.stdout).lines().filter_map(row).collect();
        Ok(())
    }

    /// What the books say of a job that the queue has forgotten.
    fn booked(id: &str) -> JobStatus {
        let unknown = || {
            JobStatus::Ended(JobEnd {
                words: "Slurm no longer knows it".to_owned(),
                failure: Failure::Crash,
                hint: Some("see `sacct` and the node's log, and run again"),
            })
        };
        let Ok(output) = start("sacct", &["--noheader", "--parsable2", "--allocations", "--format=State,NodeList", "--jobs", id]) else {
            return unknown();
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match text.lines().next().and_then(|line| line.split('|').next()).filter(|state| !state.trim().is_empty()) {
            Some(state) if output.status.success() => sight(state, "", ""),
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
        // Slurm writes a job's environment down: what is secret goes there only if the stage asks for it.
        for (name, _) in std::env::vars_os() {
            if is_secret(&name) && !order.secrets.iter().any(|asked| **asked == *name) {
                command.env_remove(name);
            }
        }
        let output = finish("sbatch", &mut command)?;
        if !output.status.success() {
            return Err(complaint("sbatch", &output).hint("see `args` in `[slurm]` and `resources` of the stage"));
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let id = said.lines().last().and_then(|line| line.split(';').next()).map(str::trim).unwrap_or_default();
        if id.is_empty() || !id.chars().all(|digit| digit.is_ascii_digit()) {
            return Err(Error::new(format!("`sbatch` did not say the job's number, but: {}", said.trim())).environment());
        }
        Ok(id.to_owned())
    }

    fn find(&self, name: &str) -> Result<Option<String>> {
        let output = start("squeue", &["--noheader", "--me", "--format=%i", &format!("--name={name}")])?;
        if !output.status.success() {
            return Err(complaint("squeue", &output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()))
    }

    fn look(&self, id: &str) -> Result<JobStatus> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = known.asked.insert(id.to_owned());
        if fresh || known.at.is_none_or(|at| at.elapsed() >= self.settings.poll) {
            // A controller that is away is not asked by each job in turn.
            known.at = Some(Instant::now());
            known.trouble = self.ask(&mut known).err();
        }
        if let Some(trouble) = &known.trouble {
            return Err(trouble.clone());
        }
        let sight = known.told.get(id).cloned().unwrap_or_else(|| Self::booked(id));
        if matches!(sight, JobStatus::Ended(_)) {
            known.asked.remove(id);
        }
        Ok(sight)
    }

    fn cancel(&self, id: &str, how: CancelMode) -> Result<()> {
        let arguments: &[&str] = match how {
            CancelMode::Ask => &["--batch", "--signal=TERM", id],
            CancelMode::Make => &[id],
        };
        let output = start("scancel", arguments)?;
        // One that has ended already is no trouble.
        let ended = String::from_utf8_lossy(&output.stderr).contains("already completed");
        if output.status.success() || ended {
            Ok(())
        } else {
            Err(complaint("scancel", &output).hint(format!("cancel it by hand: scancel {id}")))
        }
    }

    fn poll(&self) -> Duration {
        self.settings.poll
    }
}

/// A row of `squeue`.
fn row(line: &str) -> Option<(String, JobStatus)> {
    let mut fields = line.trim().split('|');
    let (id, state) = (fields.next()?, fields.next()?);
    let (reason, nodes) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    Some((id.to_owned(), sight(state, reason, nodes)))
}

fn sight(state: &str, reason: &str, nodes: &str) -> JobStatus {
    let ended = |failure, hint| JobStatus::Ended(JobEnd { words: format!("it ended as {state}"), failure, hint });
    // `sacct` says CANCELLED by 1000.
    match state.split_whitespace().next().unwrap_or_default() {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "RESV_DEL_HOLD" | "SPECIAL_EXIT" => {
            JobStatus::Waits(if reason == "None" { String::new() } else { reason.to_owned() })
        }
        "RUNNING" | "COMPLETING" | "STAGE_OUT" | "SIGNALING" | "STOPPED" | "SUSPENDED" | "RESIZING" => JobStatus::Runs(nodes.to_owned()),
        "OUT_OF_MEMORY" => ended(Failure::OutOfMemory, Some("ask for more, such as `slurm = [\"--mem=64G\"]` in the stage's `resources`")),
        "TIMEOUT" | "DEADLINE" => {
            ended(Failure::Timeout, Some("ask for more time, such as `slurm = [\"--time=12:00:00\"]` in the stage's `resources`"))
        }
        "NODE_FAIL" | "BOOT_FAIL" => ended(Failure::LostDevice, Some("run again; `retry` with \"lost-device\" does that by itself")),
        "CANCELLED" | "PREEMPTED" | "REVOKED" => ended(Failure::Timeout, Some("somebody took it away; run again")),
        _ => ended(Failure::Crash, None),
    }
}

fn start(program: &str, arguments: &[&str]) -> Result<Output> {
    finish(program, Command::new(program).args(arguments))
}

fn finish(program: &str, command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "run this on a machine with Slurm's client programs, or the stage here: `on = \"local\"`",
            _ => "see whether it starts by hand",
        };
        Error::new(format!("cannot start `{program}`: {error}")).environment().hint(hint)
    })
}

fn complaint(program: &str, output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let said = if said.is_empty() { output.status.to_string() } else { said };
    Error::new(format!("`{program}` says: {said}")).environment()
}

/// A word for the shell.
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
            ("CANCELLED by 1000", Failure::Timeout),
            ("FAILED", Failure::Crash),
            ("SOMETHING_NEW", Failure::Crash),
        ] {
            let JobStatus::Ended(fate) = sight(state, "", "") else { panic!("{state} is an end") };
            assert_eq!((fate.failure, fate.words), (failure, format!("it ended as {state}")));
        }
    }

    #[test]
    fn a_job_is_the_stage_itself_and_not_a_shell_around_it() {
        let settings = Settings { setup: vec!["module load cuda".into()], ..Settings::default() };
        let script = SlurmBackend::new(settings, Path::new("/opt/it's/voxpipe")).script(Path::new("/p/a b"));
        assert_eq!(script, "#!/bin/bash\nset -e\nmodule load cuda\nexec '/opt/it'\\''s/voxpipe' work '/p/a b'\n");
    }
}
