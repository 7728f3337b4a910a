//! Liveness lock: a file lock inherited by the child processes of a run, so that a later run can detect orphaned processes.
//!
//! The [reaper](crate::process::reaper) terminates the process groups of a run, but not processes that left their group. Such an orphaned
//! process could still write to a scratch folder that the next attempt uses.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{io, thread};

/// The name of the job folder in a stage's scratch folder.
pub const JOB: &str = "job";

/// The file name of the lock in the state folder, for a process that is alone in the project.
pub const NAME: &str = "alive";

/// The held lock.
#[derive(Debug)]
pub struct LivenessLock(File);

impl LivenessLock {
    /// Takes the lock at `path`; fails if an orphaned process holds it.
    pub fn take(path: &Path) -> Result<Self> {
        let locking = || format!("cannot lock `{}`", path.display());
        let file = File::options().write(true).create(true).truncate(false).open(path).with_context(locking)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::new(format!("a process of an earlier run still holds `{}`", path.display()))
                .kind(ErrorKind::Locked)
                .hint("wait for it to finish, or stop it, and run again")),
            Err(TryLockError::Error(error)) => Err(error).with_context(locking),
        }
    }

    /// Lets child processes started from now on inherit the lock.
    pub fn inherit(&self) -> Result<()> {
        rustix::io::fcntl_setfd(&self.0, rustix::io::FdFlags::empty())
            .map_err(io::Error::from)
            .with_context(|| "cannot make the liveness lock inheritable")
    }
}

/// Whether somebody holds the liveness lock at `path`: a run, or what outlived it. The caller sees to it that nobody takes it meanwhile.
pub(crate) fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// How long a process may take to end after SIGTERM before it gets SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Terminates orphaned processes of earlier runs, which hold the liveness lock at `path`, and returns a description of them.
///
/// The caller must know that the run which handed on this lock is over, so that every holder is an orphan. `state` is named in errors.
pub fn reap_orphans(path: &Path, state: &Path) -> Result<Option<String>> {
    let Ok(file) = File::open(path) else { return Ok(None) };
    let begun = Instant::now();
    let mut ended: Option<String> = None;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        let holders = holders(path);
        if begun.elapsed() > GRACE * 2 || holders.is_empty() && begun.elapsed() > GRACE {
            let who = if holders.is_empty() { "a process".to_owned() } else { list(&holders) };
            return Err(Error::new(format!("{who} of an earlier run is still running in `{}`", state.display()))
                .kind(ErrorKind::Locked)
                .hint("stop it and run again"));
        }
        let signal = if begun.elapsed() > GRACE { Signal::KILL } else { Signal::TERM };
        if !holders.is_empty() && (ended.is_none() || signal == Signal::KILL) {
            ended.get_or_insert_with(|| format!("{} of an earlier run was still running and was terminated", list(&holders)));
            for holder in &holders {
                let _ = kill_process(*holder, signal);
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(ended)
}

fn list(holders: &[Pid]) -> String {
    let numbers = holders.iter().map(|holder| holder.as_raw_nonzero().to_string()).collect::<Vec<_>>().join(", ");
    format!("process {numbers}")
}

/// The other processes that have a file open, from `/proc`; empty where that is not available.
fn holders(path: &Path) -> Vec<Pid> {
    let Ok(path) = fs::canonicalize(path) else { return Vec::new() };
    let own = rustix::process::getpid();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let holds = |pid: &Pid| {
        let open = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|file| file == path)
    };
    let mut holders: Vec<Pid> = numbers.filter_map(Pid::from_raw).filter(|pid| *pid != own).filter(holds).collect();
    holders.sort_by_key(|holder| holder.as_raw_nonzero());
    holders
}
