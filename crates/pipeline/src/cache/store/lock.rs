//! File locks of a project. The kernel releases them when the process ends, however it ends.
//!
//! | file | held by |
//! |---|---|
//! | `lock` | every run, shared; exclusively by what removes or replaces results (`gc`, `cache verify --repair`, `import`, pins) |
//! | `locks/PIPELINE.run` | the run of that pipeline: a pipeline runs once at a time |
//! | `locks/FINGERPRINT` | the run that makes that result: what two pipelines share is made once |
//! | `locks/start` | whoever takes or probes the locks above, for a moment |
//! | `locks/keep` | whoever moves a result into the store, for a moment |
//!
//! A run waits for `locks/FINGERPRINT` only, and holds no other such lock meanwhile that needs the waiting to end: nothing can wait in a circle.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long to wait for a lock that is held for a moment only.
const MOMENT: Duration = Duration::from_secs(30);

/// A held lock. Its file stays: otherwise two processes could lock two different files.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
}

/// The lock on making one result. Its file goes with it.
#[derive(Debug)]
pub struct ResultClaim {
    lock: FileLock,
    path: PathBuf,
    /// Whether a process that was killed held it before.
    pub(super) abandoned: bool,
}

impl FileLock {
    fn open(path: &Path) -> Result<File> {
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
        opened.with_context(|| format!("cannot lock `{}`", path.display()))
    }

    /// Takes the lock exclusively; none if another process has it.
    pub(super) fn exclusive(path: &Path) -> Result<Option<Self>> {
        let file = Self::open(path)?;
        Self::taken(file.try_lock(), path).map(|taken| taken.then_some(Self { file }))
    }

    /// Takes the lock together with others; none if another process has it for itself.
    pub(super) fn shared(path: &Path) -> Result<Option<Self>> {
        let file = Self::open(path)?;
        Self::taken(file.try_lock_shared(), path).map(|taken| taken.then_some(Self { file }))
    }

    /// Takes a lock that others hold for a moment only.
    pub(super) fn soon(path: &Path) -> Result<Self> {
        let begun = Instant::now();
        loop {
            if let Some(lock) = Self::exclusive(path)? {
                return Ok(lock);
            }
            if begun.elapsed() > MOMENT {
                return Err(Error::new(format!("another process has held `{}` for {} s", path.display(), MOMENT.as_secs()))
                    .kind(ErrorKind::Locked)
                    .hint("see whether another voxpipe of this project hangs or was suspended"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets others share the lock.
    pub(super) fn share(&self) -> Result<()> {
        self.file.lock_shared().with_context(|| "cannot share the project's lock")
    }

    fn taken(tried: Result<(), TryLockError>, path: &Path) -> Result<bool> {
        match tried {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock `{}`", path.display())),
        }
    }

    /// Writes who holds the lock into its file.
    pub(super) fn sign(&mut self, command: &str) -> Result<()> {
        let text = format!("process {} (`{command}`)\n", std::process::id());
        let file = &mut self.file;
        // One write, so that a reader never finds half of it.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .with_context(|| "cannot write who holds the lock")
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is being spawned briefly has a copy of it, which would hold the lock.
        let _ = self.file.unlock();
    }
}

impl ResultClaim {
    /// Claims the result whose lock file is at `path`; none if another process is making it.
    pub(super) fn take(path: &Path, command: &str) -> Result<Option<Self>> {
        loop {
            let Some(mut lock) = FileLock::exclusive(path)? else { return Ok(None) };
            // Whoever held it before may have removed the file after it was opened here: then the lock is one on nothing.
            let named = fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
            let held = lock.file.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
            if named.is_some() && named == held {
                let abandoned = lock.file.metadata().is_ok_and(|meta| meta.len() > 0);
                lock.sign(command)?;
                return Ok(Some(Self { lock, path: path.to_owned(), abandoned }));
            }
        }
    }
}

impl Drop for ResultClaim {
    fn drop(&mut self) {
        // While the lock is still held: no other process can have locked this file.
        let _ = self.lock.file.set_len(0);
        let _ = fs::remove_file(&self.path);
    }
}

/// Who holds the lock at `path`, as its holder signed it; none if nobody does.
///
/// A shared lock fails while another process holds the exclusive one, and is over before anyone minds.
pub(super) fn holder(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let mut who = String::new();
            let _ = file.read_to_string(&mut who);
            let who = who.trim();
            // Empty if the holder is writing its name at this moment.
            Some(if who.is_empty() { "another process".to_owned() } else { who.to_owned() })
        }
        _ => {
            let _ = file.unlock();
            None
        }
    }
}

/// The process id in what a holder signed.
pub(super) fn process(who: &str) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(who.split_whitespace().nth(1)?.parse().ok()?)
}

/// Who is in the way of whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    /// A run of the same pipeline in that of a run.
    SamePipeline,
    /// What needs the project for itself in that of a run.
    Project,
    /// A run in that of what needs the project for itself.
    Run,
}

/// The error of a project or pipeline whose lock others hold.
pub(super) fn held(conflict: Conflict, who: &[String]) -> Error {
    let (who, hold) = match who {
        [] => ("another process".to_owned(), "holds"),
        [one] => (one.clone(), "holds"),
        several => (several.join(", "), "hold"),
    };
    let what = match conflict {
        Conflict::SamePipeline => "this pipeline runs already",
        Conflict::Project => "another command needs this project for itself",
        Conflict::Run => "another run is active in this project",
    };
    // Only `run` and `sweep` can wait.
    let hint = match conflict {
        Conflict::Run => "wait for it to finish, or stop it",
        Conflict::SamePipeline | Conflict::Project => "wait for it to finish (`--wait` does), or stop it",
    };
    Error::new(format!("{what}: {who} {hold} the lock")).kind(ErrorKind::Locked).hint(hint)
}
