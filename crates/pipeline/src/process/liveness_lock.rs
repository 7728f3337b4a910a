//! A lock that the programs of a run inherit from it, so that a later run can tell whether one of them still lives.
//!
//! With the run that started it a program is ended ([`crate::process::reaper`]), but not what left the program's group. Whoever was left over could
//! go on writing into a scratch folder that the next try works in.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{io, thread};

/// What the folder of a job is called in a stage's scratch folder.
pub const JOB: &str = "job";

/// The name of the lock in a project's state.
const NAME: &str = "alive";

/// The held lock.
#[derive(Debug)]
pub struct LivenessLock(File);

impl LivenessLock {
    /// Takes the lock in a project's state; nobody of an earlier run holds it.
    pub fn take(state: &Path) -> Result<Self> {
        let path = state.join(NAME);
        let locking = || format!("cannot lock `{}`", path.display());
        let file = File::options().write(true).create(true).truncate(false).open(&path).with_context(locking)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::new(format!("a program of an earlier run still holds `{}`", path.display()))
                .kind(ErrorKind::Locked)
                .hint("wait for it to end, or stop it, and run again")),
            Err(TryLockError::Error(error)) => Err(error).with_context(locking),
        }
    }

    /// Lets every program that is started from now on hold it too.
    pub fn inherit(&self) -> Result<()> {
        rustix::io::fcntl_setfd(&self.0, rustix::io::FdFlags::empty()).map_err(io::Error::from).with_context(|| "cannot hand on a lock")
    }
}

/// How long a program that is asked to end may take before it is made to.
const GRACE: Duration = Duration::from_secs(5);

/// Ends what earlier runs have left running, and says what that was. The project's lock is held: whoever works here is left over.
pub fn reap_orphans(state: &Path) -> Result<Option<String>> {
    let path = state.join(NAME);
    let Ok(file) = File::open(&path) else { return Ok(None) };
    let begun = Instant::now();
    let mut ended: Option<String> = None;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        let holders = holders(&path);
        if begun.elapsed() > GRACE * 2 || holders.is_empty() && begun.elapsed() > GRACE {
            let who = if holders.is_empty() { "a program".to_owned() } else { list(&holders) };
            return Err(Error::new(format!("{who} of an earlier run still works in `{}`", state.display()))
                .kind(ErrorKind::Locked)
                .hint("stop it and run again"));
        }
        let signal = if begun.elapsed() > GRACE { Signal::KILL } else { Signal::TERM };
        if !holders.is_empty() && (ended.is_none() || signal == Signal::KILL) {
            ended.get_or_insert_with(|| format!("{} of an earlier run was still at work and was ended", list(&holders)));
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

/// The processes other than ours that have a file open, as far as the system tells.
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
