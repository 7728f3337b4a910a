//! File system operations of the store, with fault injection for tests.
//!
//! Every write, move and removal of the store goes through these functions, one step each, so tests can check their order. In debug
//! builds, VOXPIPE_FAULT makes step N and all later ones fail with "no space" (`full@N`) or kills the process at step N (`kill@N`), and
//! VOXPIPE_FAULT_LOG names a file that logs every finished step, so a test can undo steps not yet synced. Release builds have none of this.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Creates a folder and its parents, unless it exists.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    step("make", path, None, || fs::create_dir_all(path))
}

/// Creates a folder. Returns whether it did: false if it exists.
pub(super) fn make_new_folder(path: &Path) -> io::Result<bool> {
    step("make", path, None, || match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true),
    })
}

/// Creates or truncates a file and writes it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    step("write", path, None, || fs::File::create(path)?.write_all(bytes))
}

/// Appends to a file; creates it if needed.
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

/// Syncs a file or a folder's directory entries to disk (fsync).
pub(super) fn sync(path: &Path) -> io::Result<()> {
    step("sync", path, None, || fs::File::open(path)?.sync_all())
}

/// Syncs the whole file system that holds `path` (syncfs): for many files faster than one fsync per file.
#[cfg(target_os = "linux")]
pub(super) fn sync_everything(path: &Path) -> io::Result<()> {
    step("sync-everything", path, None, || Ok(rustix::fs::syncfs(fs::File::open(path)?)?))
}

/// Renames a file or folder atomically.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step("rename", from, Some(to), || fs::rename(from, to))
}

/// Creates a symbolic link.
pub(super) fn link(target: &Path, at: &Path) -> io::Result<()> {
    step("link", at, None, || std::os::unix::fs::symlink(target, at))
}

/// Removes a file, if it exists.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    step("remove", path, None, || gone(fs::remove_file(path)))
}

/// Removes a folder and its contents, if it exists.
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

/// Fault injection for tests.
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
                // The signal may take a moment to arrive; do nothing until then.
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
