//! Project lock: one run at a time. The kernel releases it when the process ends, however it ends.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// The held lock. The file is never removed: otherwise two processes could lock two different files.
#[derive(Debug)]
pub(super) struct ProjectLock {
    file: File,
}

impl ProjectLock {
    /// Takes the lock; fails with the name of the holder if another process has it.
    pub(super) fn take(path: &Path, command: &str) -> Result<Self> {
        let locking = || format!("cannot lock `{}`", path.display());
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path).with_context(locking)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(&mut file)),
            Err(TryLockError::Error(error)) => return Err(error).with_context(locking),
        }
        file.set_len(0).and_then(|()| file.rewind()).with_context(locking)?;
        writeln!(file, "process {} (`{command}`)", std::process::id()).with_context(locking)?;
        Ok(Self { file })
    }
}

impl Drop for ProjectLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is being spawned briefly has a copy of it, which would hold the lock.
        let _ = self.file.unlock();
    }
}

fn held(file: &mut File) -> Error {
    let mut who = String::new();
    // Empty if the holder is writing its name at this moment.
    let _ = file.read_to_string(&mut who);
    let who = who.trim();
    let who = if who.is_empty() { "another process" } else { who };
    Error::new(format!("another run is active in this project: {who} holds the lock"))
        .kind(ErrorKind::Locked)
        .hint("wait for it to finish, or stop it")
}
