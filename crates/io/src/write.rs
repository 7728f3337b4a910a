//! Atomic writes: a file has its old content or all of its new one, never a part, whatever happens meanwhile.
//!
//! The bytes go to a temporary file of a unique name in the same folder, which is then renamed. Two writers of one file do not disturb each
//! other: the last one wins.

use crate::error::{Error, Result, ResultExt};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// How the names of temporary files begin.
const DRAFT_PREFIX: &str = ".part-";

/// A temporary file older than this belongs to a process that was killed.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// What a write has to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Power loss: the data is on disk when the call returns.
    PowerLoss,
    /// The end of the process. Power loss may lose the write, but never leaves a part of it under the final name of a file that was there before.
    ProcessEnd,
}

/// Replaces a file atomically and durably; missing folders are created.
///
/// # Errors
/// If the folder or the file cannot be written; the error names the file and nothing has changed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let writing = || format!("cannot write `{}`", path.display());
    write_atomic_with(path, Durability::PowerLoss, |file| file.write_all(bytes).with_context(writing))
}

/// Replaces a file atomically with what `fill` writes.
///
/// # Errors
/// Those of `fill` as they are, and if the folder or the file cannot be written; nothing has changed then.
pub fn write_atomic_with(path: &Path, durability: Durability, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let writing = || format!("cannot write `{}`", path.display());
    let at = |error: Error| error.at(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(writing).map_err(at)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(DRAFT_PREFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As for any new file: what the umask leaves of it.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut draft = builder.tempfile_in(folder).with_context(writing).map_err(at)?;
    fill(draft.as_file_mut()).map_err(at)?;
    if durability == Durability::PowerLoss {
        draft.as_file().sync_all().with_context(writing).map_err(at)?;
    }
    draft.persist(path).map_err(|error| Error::from(error.error).context(writing())).map_err(at)?;
    if durability == Durability::PowerLoss {
        sync_folder(folder).with_context(writing).map_err(at)?;
    }
    Ok(())
}

/// Removes the temporary files that killed processes left in a folder. Those of the last hour may still be written to and stay.
pub fn clear_drafts(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_draft = entry.file_name().to_str().is_some_and(|name| name.starts_with(DRAFT_PREFIX));
        let age = || entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if is_draft && age().is_some_and(|age| age > ABANDONED_AFTER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes renames in a folder durable. Some file systems do not support it; that is no error.
///
/// # Errors
/// If the folder cannot be opened, or its disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_changes_nothing_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/file.txt");
        write_atomic(&path, b"old").unwrap();
        let failed = write_atomic_with(&path, Durability::ProcessEnd, |file| {
            file.write_all(b"half of the n")?;
            Err(Error::new("the source broke off"))
        });
        let error = failed.unwrap_err();
        assert!(error.message.contains("broke off"), "{error}");
        assert_eq!(error.path.as_deref(), Some(path.as_path()));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn writers_of_one_file_do_not_disturb_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::thread::scope(|scope| {
            for writer in 0..8_u8 {
                let path = &path;
                scope
                    .spawn(move || write_atomic_with(path, Durability::ProcessEnd, |file| Ok(file.write_all(&[writer; 10_000])?)).unwrap());
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 10_000 && bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
