//! Writes that are whole or not there, and folders made safe to keep.

use super::disk;
use crate::error::{Result, ResultExt};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// How much a write has to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Power loss: it is on the disk when this returns.
    Durable,
    /// The end of this process; losing it costs some time, never a result.
    Whole,
}

/// Puts `bytes` at `path` in one step.
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

/// Makes a link at `path` to `target`, unless there is something already. Whether it did.
pub(super) fn new_link(path: &Path, target: &Path) -> Result<bool> {
    let linking = || format!("cannot link `{}`", path.display());
    disk::make_folder(path.parent().unwrap_or(Path::new("."))).with_context(linking)?;
    match disk::link(target, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true).with_context(linking),
    }
}

/// Points the link at `path` to `target` in one step.
pub(super) fn replace_link(path: &Path, target: &Path) -> Result<()> {
    let unfinished = UnfinishedFile::of(path);
    let linking = || format!("cannot link `{}`", path.display());
    disk::remove_file(&unfinished.from).with_context(linking)?;
    disk::link(target, &unfinished.from).with_context(linking)?;
    unfinished.place()
}

/// A file under a temporary name, removed unless it gets the name it is meant to have.
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

    /// Writes what will be at `to`.
    pub(super) fn write(to: &Path, bytes: &[u8]) -> Result<Self> {
        let writing = || format!("cannot write `{}`", to.display());
        disk::make_folder(to.parent().unwrap_or(Path::new("."))).with_context(writing)?;
        let unfinished = Self::of(to);
        disk::write(&unfinished.from, bytes).with_context(writing)?;
        Ok(unfinished)
    }

    /// Gives it its name.
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

/// The files and the folders below a folder, itself among them, each folder before what is in it.
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
    let protect = |path: &PathBuf| disk::protect(path).with_context(|| format!("cannot keep `{}`", path.display()));
    let (files, _) = below(folder)?;
    if files.len() > 100 { files.par_iter().try_for_each(protect) } else { files.iter().try_for_each(protect) }
}

/// Puts a file, or a folder's list of names, on the disk.
pub(super) fn sync(path: &Path) -> Result<()> {
    disk::sync(path).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Puts a folder with everything in it on the disk.
pub(super) fn sync_tree(folder: &Path) -> Result<()> {
    let (files, folders) = below(folder)?;
    sync_all(&[files, folders].concat())
}

/// From this many paths on the whole file system is asked to write what it has: each path for itself waits for the disk once.
#[cfg(target_os = "linux")]
const MANY: usize = 12;

/// Puts all of these on the disk, folders after what is in them.
pub(super) fn sync_all(paths: &[PathBuf]) -> Result<()> {
    #[cfg(target_os = "linux")]
    if let Some(first) = paths.first().filter(|_| paths.len() >= MANY) {
        return disk::sync_everything(first).with_context(|| format!("cannot write `{}`", first.display()));
    }
    paths.iter().try_for_each(|path| sync(path))
}

/// Removes a folder that may not be there.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    disk::remove_folder(folder).with_context(|| format!("cannot remove `{}`", folder.display()))
}
