//! Writes that are whole or not there, and folders made safe to keep.

use crate::error::{Doing, Result};
use rayon::prelude::*;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How much a write has to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safety {
    /// Power loss: it is on the disk when this returns.
    Durable,
    /// The end of this process; losing it costs some time, never a result.
    Whole,
}

/// Puts `bytes` at `path` in one step.
pub(super) fn replace(path: &Path, bytes: &[u8], safety: Safety) -> Result<()> {
    let writing = || format!("cannot write `{}`", path.display());
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).doing(writing)?;
    let unfinished =
        Unfinished(folder.join(format!(".tmp-{}-{}", std::process::id(), path.file_name().unwrap_or_default().to_string_lossy())));
    let mut file = fs::File::create(&unfinished.0).doing(writing)?;
    file.write_all(bytes).doing(writing)?;
    if safety == Safety::Durable {
        file.sync_all().doing(writing)?;
    }
    fs::rename(&unfinished.0, path).doing(writing)?;
    if safety == Safety::Durable {
        sync_folder(folder)?;
    }
    Ok(())
}

/// Points the link at `path` to `target` in one step.
pub(super) fn replace_link(path: &Path, target: &Path) -> Result<()> {
    let linking = || format!("cannot link `{}`", path.display());
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).doing(linking)?;
    let unfinished = Unfinished(folder.join(format!(".tmp-{}-link", std::process::id())));
    let _ = fs::remove_file(&unfinished.0);
    std::os::unix::fs::symlink(target, &unfinished.0).doing(linking)?;
    fs::rename(&unfinished.0, path).doing(linking)
}

/// Removes a temporary file unless it was renamed away.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes every file read-only and puts files and folders on the disk.
pub(super) fn seal(folder: &Path) -> Result<()> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        let reading = || format!("cannot read folder `{}`", folder.display());
        for entry in fs::read_dir(&folder).doing(reading)? {
            let entry = entry.doing(reading)?;
            if entry.file_type().doing(reading)?.is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    let seal_file = |path: &PathBuf| -> Result<()> {
        let sealing = || format!("cannot keep `{}`", path.display());
        let file = fs::File::open(path).doing(sealing)?;
        let mode = file.metadata().doing(sealing)?.permissions().mode();
        file.set_permissions(fs::Permissions::from_mode(mode & 0o555 | 0o444)).doing(sealing)?;
        file.sync_all().doing(sealing)
    };
    // Waiting for the disk is the slow part, and it can wait for many files at once.
    if files.len() > 8 {
        files.par_iter().try_for_each(seal_file)?
    } else {
        files.iter().try_for_each(seal_file)?
    }
    folders.iter().rev().try_for_each(|folder| sync_folder(folder))
}

/// Puts a folder's list of names on the disk.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let syncing = || format!("cannot write folder `{}`", folder.display());
    fs::File::open(folder).and_then(|folder| folder.sync_all()).doing(syncing)
}

/// Removes a folder that may not be there.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).doing(|| format!("cannot remove `{}`", folder.display())),
        _ => Ok(()),
    }
}
