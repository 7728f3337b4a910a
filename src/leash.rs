//! A lock that a program inherits from the run that starts it, so that a later run can tell whether the program still lives.
//!
//! The kernel ends a program with the run that started it, but not what the program itself has started. Whoever was left over could go
//! on writing into a scratch folder that the next try works in.

use crate::error::{Doing, Error, Exit, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, TryLockError};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// What the folder of a job is called in a stage's scratch folder.
pub const JOB: &str = "job";

/// The name of the lock beside a stage's scratch folder.
pub const NAME: &str = "alive";

/// A held lock; programs started with it hold it too.
#[derive(Debug)]
pub struct Leash(File);

impl Leash {
    /// Takes the lock beside a stage's scratch folder.
    pub fn beside(scratch: &Path) -> Result<Self> {
        let path = scratch.with_file_name(NAME);
        let locking = || format!("cannot lock `{}`", path.display());
        let file = File::options().write(true).create(true).truncate(false).open(&path).doing(locking)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::new(format!("a program still works on this stage: it holds `{}`", path.display()))
                .exit(Exit::Locked)
                .advice("wait for it to end, or stop it, and run again")),
            Err(TryLockError::Error(error)) => Err(error).doing(locking),
        }
    }
}

impl AsRawFd for Leash {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// How long a program that is asked to end may take before it is made to.
const GRACE: Duration = Duration::from_secs(5);

/// Ends what earlier runs have left running, and says what that was. The project's lock is held: whoever works here is left over.
pub fn gather_in(work: &Path) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    let folders = fs::read_dir(work).doing(|| format!("cannot read folder `{}`", work.display()))?;
    let mut folders: Vec<_> = folders.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    for folder in folders.into_iter().filter(|folder| !is_elsewhere(folder)) {
        let path = folder.join(NAME);
        let Ok(file) = File::open(&path) else { continue };
        let begun = Instant::now();
        let mut asked = false;
        while let Err(TryLockError::WouldBlock) = file.try_lock() {
            let holders = holders(&path);
            if begun.elapsed() > GRACE * 2 || holders.is_empty() {
                let who = if holders.is_empty() { "a program".to_owned() } else { list(&holders) };
                return Err(Error::new(format!("{who} of an earlier run still works in `{}`", folder.display()))
                    .exit(Exit::Locked)
                    .advice("stop it and run again"));
            }
            if !asked {
                ended.push(format!("{} of an earlier run was still at work and was ended", list(&holders)));
            }
            let signal = if begun.elapsed() > GRACE { Signal::KILL } else { Signal::TERM };
            if !asked || signal == Signal::KILL {
                for holder in &holders {
                    let _ = kill_process(*holder, signal);
                }
            }
            asked = true;
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(ended)
}

/// Whether the work of a folder is a job somewhere else, which is meant to outlive the run that submitted it.
pub fn is_elsewhere(work: &Path) -> bool {
    work.join("scratch").join(JOB).exists()
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
