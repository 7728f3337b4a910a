//! Every change the store makes on the disk, one small step each: nothing of ours is written, moved or removed in any other way.
//!
//! That makes the order of steps something a test can hold on to. In builds for development, VOXPIPE_FAULT lets step number N fail
//! (`full@N`: no space from there on) or be the last thing the process does (`kill@N`), and VOXPIPE_FAULT_LOG names a file
//! that every finished step is noted in, so that a test can take away what was not on the disk yet. Release builds have none of it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Makes a folder with those above it; it may be there.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    step("make", path, None, || fs::create_dir_all(path))
}

/// Writes a file anew.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    step("write", path, None, || fs::File::create(path)?.write_all(bytes))
}

/// Adds to the end of a file, which need not be there.
pub(super) fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    step("write", path, None, || fs::File::options().create(true).append(true).open(path)?.write_all(bytes))
}

/// Makes a file read-only.
pub(super) fn protect(path: &Path) -> io::Result<()> {
    step("protect", path, None, || {
        let mode = fs::metadata(path)?.permissions().mode();
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o555 | 0o444))
    })
}

/// Puts a file, or a folder's list of names, on the disk.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    step("sync", path, None, || fs::File::open(path)?.sync_all())
}

/// Puts everything of the file system on the disk that `path` is on: for many files it takes less time than one after the other.
#[cfg(target_os = "linux")]
pub(super) fn sync_everything(path: &Path) -> io::Result<()> {
    step("sync-everything", path, None, || Ok(rustix::fs::syncfs(fs::File::open(path)?)?))
}

/// Gives a file or folder another name in one step.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step("rename", from, Some(to), || fs::rename(from, to))
}

/// Makes a symbolic link.
pub(super) fn link(target: &Path, at: &Path) -> io::Result<()> {
    step("link", at, None, || std::os::unix::fs::symlink(target, at))
}

/// Removes a file that may not be there.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    step("remove", path, None, || gone(fs::remove_file(path)))
}

/// Removes a folder with what is in it; it may not be there.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    step("remove", path, None, || gone(fs::remove_dir_all(path)))
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(not(debug_assertions))]
fn step<T>(_: &str, _: &Path, _: Option<&Path>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    act()
}

#[cfg(debug_assertions)]
fn step<T>(name: &str, path: &Path, to: Option<&Path>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    fault::before()?;
    let done = act()?;
    fault::note(name, path, to);
    Ok(done)
}

/// Faults on demand, for tests.
#[cfg(debug_assertions)]
mod fault {
    use std::fs::File;
    use std::io::{self, Write};
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, Mutex, PoisonError};

    enum Fault {
        Kill(u64),
        Full(u64),
    }

    static STEPS: AtomicU64 = AtomicU64::new(0);
    static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| {
        let text = std::env::var("VOXPIPE_FAULT").ok()?;
        let (what, number) = text.split_once('@')?;
        let number = number.parse().ok()?;
        match what {
            "kill" => Some(Fault::Kill(number)),
            "full" => Some(Fault::Full(number)),
            _ => None,
        }
    });
    static LOG: LazyLock<Option<Mutex<File>>> = LazyLock::new(|| {
        let path = std::env::var_os("VOXPIPE_FAULT_LOG")?;
        File::options().create(true).append(true).open(path).ok().map(Mutex::new)
    });

    pub(super) fn before() -> io::Result<()> {
        let number = STEPS.fetch_add(1, Ordering::SeqCst);
        match *FAULT {
            Some(Fault::Kill(last)) if number >= last => {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                // The signal may take a moment to arrive, and nothing may happen in it.
                loop {
                    std::thread::park();
                }
            }
            Some(Fault::Full(first)) if number >= first => Err(rustix::io::Errno::NOSPC.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn note(name: &str, path: &Path, to: Option<&Path>) {
        if let Some(log) = &*LOG {
            let to = to.map(|to| format!("\t{}", to.display())).unwrap_or_default();
            let line = format!("{name}\t{}{to}\n", path.display());
            let _ = log.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        }
    }
}
