//! Atomic and durable file writes.

use super::disk;
use crate::error::{Result, ResultExt};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// What an atomic write has to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Power loss: the data is on disk when the call returns.
    Durable,
    /// The end of this process: power loss may lose it, which costs time but never a result.
    Whole,
}

/// Atomically writes `bytes` to `path`.
pub(super) fn replace(path: &Path, bytes: &[u8], safety: Durability) -> Result<()> {
    let writing = || format!("cannot write `{}`", path.display());
    let unfinished = UnfinishedFile::write(path, bytes)?;
    if safety == Durability::Durable {
        disk::sync(&unfinished.from).with_context(writing)?;
    }
    unfinished.place()?;
    if safety == Durability::Durable {
        sync(path.parent().unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Creates a link at `path` to `target`, unless `path` exists. Returns whether it did.
pub(super) fn new_link(path: &Path, target: &Path) -> Result<bool> {
    let linking = || format!("cannot link `{}`", path.display());
    disk::make_folder(path.parent().unwrap_or(Path::new("."))).with_context(linking)?;
    match disk::link(target, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true).with_context(linking),
    }
}

/// Atomically points the link at `path` to `target`.
pub(super) fn replace_link(path: &Path, target: &Path) -> Result<()> {
    let unfinished = UnfinishedFile::of(path);
    let linking = || format!("cannot link `{}`", path.display());
    disk::remove_file(&unfinished.from).with_context(linking)?;
    disk::link(target, &unfinished.from).with_context(linking)?;
    unfinished.place()
}

/// A file under a temporary name, removed on drop unless it was renamed to its final name.
pub(super) struct UnfinishedFile {
    pub(super) from: PathBuf,
    to: PathBuf,
    placed: bool,
}

impl UnfinishedFile {
    fn of(to: &Path) -> Self {
        let name = format!(".tmp-{}-{}", std::process::id(), to.file_name().unwrap_or_default().to_string_lossy());
        Self { from: to.with_file_name(name), to: to.to_owned(), placed: false }
    }

    /// Writes the temporary file for `to`.
    pub(super) fn write(to: &Path, bytes: &[u8]) -> Result<Self> {
        let writing = || format!("cannot write `{}`", to.display());
        disk::make_folder(to.parent().unwrap_or(Path::new("."))).with_context(writing)?;
        let unfinished = Self::of(to);
        disk::write(&unfinished.from, bytes).with_context(writing)?;
        Ok(unfinished)
    }

    /// Renames the file to its final name.
    pub(super) fn place(mut self) -> Result<()> {
        disk::rename(&self.from, &self.to).with_context(|| format!("cannot write `{}`", self.to.display()))?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        if !self.placed {
            let _ = disk::remove_file(&self.from);
        }
    }
}

/// The files and the folders in a folder, recursively and including itself; each folder comes before its contents.
pub(super) fn below(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        let reading = || format!("cannot read folder `{}`", folder.display());
        for entry in fs::read_dir(&folder).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            if entry.file_type().with_context(reading)?.is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    Ok((files, folders))
}

/// Makes every file in a folder read-only.
pub(super) fn seal(folder: &Path) -> Result<()> {
    let protect = |path: &PathBuf| disk::protect(path).with_context(|| format!("cannot make `{}` read-only", path.display()));
    let (files, _) = below(folder)?;
    if files.len() > 100 { files.par_iter().try_for_each(protect) } else { files.iter().try_for_each(protect) }
}

/// Syncs a file or a folder's directory entries to disk.
pub(super) fn sync(path: &Path) -> Result<()> {
    disk::sync(path).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Syncs a folder and all its contents to disk.
pub(super) fn sync_tree(folder: &Path) -> Result<()> {
    let (files, folders) = below(folder)?;
    sync_all(&[files, folders].concat())
}

/// From this many paths on, sync the whole file system: syncing each path waits for the disk once per path.
#[cfg(target_os = "linux")]
const MANY: usize = 12;

/// Syncs paths to disk in the given order; folders must follow their contents.
pub(super) fn sync_all(paths: &[PathBuf]) -> Result<()> {
    #[cfg(target_os = "linux")]
    if let Some(first) = paths.first().filter(|_| paths.len() >= MANY) {
        return disk::sync_everything(first).with_context(|| format!("cannot write `{}`", first.display()));
    }
    paths.iter().try_for_each(|path| sync(path))
}

/// Removes a folder, if it exists.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    disk::remove_folder(folder).with_context(|| format!("cannot remove `{}`", folder.display()))
}
