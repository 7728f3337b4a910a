//! One run at a time in a project: the kernel holds the lock, so it ends with the process that has it, however that ends.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// The lock, held as long as this lives. The file itself is never removed: two processes could then lock two different files.
#[derive(Debug)]
pub(super) struct ProjectLock {
    file: File,
}

impl ProjectLock {
    /// Takes the lock, or says who has it.
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
        // Closing the file would not do: a program that is being started has a copy of it for a moment, which would hold the lock.
        let _ = self.file.unlock();
    }
}

fn held(file: &mut File) -> Error {
    let mut who = String::new();
    // The holder may be writing its name just now; then it stays unknown.
    let _ = file.read_to_string(&mut who);
    let who = who.trim();
    let who = if who.is_empty() { "another process" } else { who };
    Error::new(format!("another run is going on in this project: {who} holds the lock"))
        .kind(ErrorKind::Locked)
        .hint("wait for it to end, or stop it")
}
