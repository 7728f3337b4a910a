//! Managed folders: output folders outside the cache that voxpipe writes atomically and never overwrites if the user changed them.
//!
//! The new content is copied to a temporary folder next to the target, verified and swapped in by a rename. A hidden marker file lists
//! every file with its digest. Only a folder with this marker is replaced, and only if its files are unchanged.

use crate::data::text::first_few;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};
use voxpipe_io::digest::Digest;

/// A file in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedFile {
    /// Path relative to the folder, with `/` as separator.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Digest of the content.
    pub digest: Digest,
}

/// A target folder and how to recognize it as managed.
#[derive(Debug)]
pub struct ManagedDir<'a> {
    /// The folder.
    pub path: &'a Path,
    /// The folder as the user wrote it, for messages.
    pub written: &'a str,
    /// Name of the hidden marker file.
    pub marker: &'a str,
    /// Whether to replace it even if files in it were added or changed.
    pub overwrite: bool,
}

/// All files below a folder, sorted by path.
pub fn list(folder: &Path) -> Result<Vec<ManagedFile>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read the folder `{}`", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| {
                Error::new(format!("the name `{}` in `{}` is not valid UTF-8", name.to_string_lossy(), folder.display()))
                    .hint("rename the file")
            })?;
            let (path, name) = (entry.path(), format!("{prefix}{name}"));
            if fs::metadata(&path).with_context(|| format!("cannot read `{}`", path.display()))?.is_dir() {
                folders.push((path, format!("{name}/")));
            } else {
                files.insert(name.clone(), file(&path, name)?);
            }
        }
    }
    Ok(files.into_values().collect())
}

/// Hashes a file as a stream: weights may be larger than memory.
fn file(path: &Path, name: String) -> Result<ManagedFile> {
    let doing = || format!("cannot read `{}`", path.display());
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path).with_context(doing)?).with_context(doing)?;
    Ok(ManagedFile { path: name, size: hasher.count(), digest: Digest(*hasher.finalize().as_bytes()) })
}

/// Replaces `target` by a folder with exactly these files (name in the folder → source path). Returns the files written, without the
/// marker.
pub fn place(content: &BTreeMap<String, PathBuf>, target: &ManagedDir) -> Result<Vec<ManagedFile>> {
    let shown = target.written;
    // A symbolic link is kept: the folder it points to is replaced.
    let path = fs::canonicalize(target.path).or_else(|_| std::path::absolute(target.path))?;
    let wanted = content.iter().map(|(name, path)| file(path, name.clone())).collect::<Result<Vec<_>>>()?;
    let marker = Marker { made_by: "voxpipe".to_owned(), files: wanted };
    let exists = match target_state(&path, target)? {
        TargetState::Nothing => false,
        TargetState::Same(files) if files == marker.files => return Ok(marker.files),
        TargetState::Same(_) | TargetState::Empty => true,
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(format!("cannot replace `{shown}`: it has no parent folder"))
            .kind(ErrorKind::InvalidInput)
            .hint("choose a folder inside another folder"));
    };
    let doing = || format!("cannot write the folder `{shown}`");
    fs::create_dir_all(parent).map_err(environment).with_context(doing)?;
    let part = PartialDir(parent.join(format!(".{}.voxpipe-part", name.to_string_lossy())));
    part.clear().map_err(environment).with_context(doing)?;
    fs::create_dir(&part.0).map_err(environment).with_context(doing)?;
    for (name, source) in content {
        let source = fs::File::open(source).with_context(|| format!("cannot read `{name}`"))?;
        write(&part.0.join(name), source).map_err(environment).with_context(doing)?;
    }
    write(&part.0.join(target.marker), serde_json::to_vec_pretty(&marker)?.as_slice()).map_err(environment).with_context(doing)?;
    let mut written = list(&part.0)?;
    written.retain(|file| file.path != target.marker);
    if written != marker.files {
        return Err(Error::new(format!("verification failed: files in `{shown}` differ from what was written"))
            .environment()
            .hint("check the disk and run again"));
    }
    swap(&part.0, &path, exists).map_err(environment).with_context(doing)?;
    sync(parent);
    Ok(written)
}

/// The files of a folder, as a map for [`place`].
pub fn named(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    Ok(list(folder)?.into_iter().map(|file| (file.path.clone(), folder.join(file.path))).collect())
}

/// Content of the marker file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    made_by: String,
    files: Vec<ManagedFile>,
}

/// State of the target folder.
enum TargetState {
    Nothing,
    Empty,
    /// Managed; its files are unchanged, or may be overwritten.
    Same(Vec<ManagedFile>),
}

/// Checks whether the target may be replaced.
fn target_state(path: &Path, target: &ManagedDir) -> Result<TargetState> {
    let shown = target.written;
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(TargetState::Nothing),
        Err(error) => return Err(environment(error).context(format!("cannot read `{shown}`"))),
        Ok(metadata) if !metadata.is_dir() => {
            return Err(Error::new(format!("`{shown}` exists and is not a folder"))
                .environment()
                .hint("choose another folder, or move the file away"));
        }
        Ok(_) => {}
    }
    let unmanaged = || {
        Error::new(format!("the folder `{shown}` exists and was not made by voxpipe"))
            .environment()
            .hint("choose another folder, or move this one away; nothing in it was changed")
    };
    let marker: Marker = match fs::read(path.join(target.marker)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| unmanaged())?,
        Err(_) if fs::read_dir(path)?.next().is_none() => return Ok(TargetState::Empty),
        Err(_) => return Err(unmanaged()),
    };
    let mut files = list(path)?;
    files.retain(|file| file.path != target.marker);
    let changed: Vec<&str> = files.iter().filter(|file| !marker.files.contains(file)).map(|file| file.path.as_str()).collect();
    if !changed.is_empty() && !target.overwrite {
        let files = first_few(&changed, 3);
        return Err(Error::new(format!("files in `{shown}` were changed or added after voxpipe wrote the folder: {files}"))
            .environment()
            .hint("move these files away, choose another folder, or set `overwrite = true` to discard them"));
    }
    Ok(TargetState::Same(files))
}

/// A temporary folder next to the target. Dropping it removes whatever has its name: a partial copy, or the old folder after a swap.
struct PartialDir(PathBuf);

impl PartialDir {
    fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for PartialDir {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// Writes a new file and syncs it to disk.
fn write(path: &Path, mut content: impl io::Read) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = fs::File::create_new(path)?;
    io::copy(&mut content, &mut file)?;
    file.sync_all()
}

/// Renames `part` to `path`, atomically exchanging the two if `path` exists (`renameat2` with `RENAME_EXCHANGE`).
#[cfg(target_os = "linux")]
fn swap(part: &Path, path: &Path, exists: bool) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if exists && renameat_with(CWD, part, CWD, path, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    swap_in_two(part, path, exists)
}

#[cfg(not(target_os = "linux"))]
fn swap(part: &Path, path: &Path, exists: bool) -> io::Result<()> {
    swap_in_two(part, path, exists)
}

/// Fallback for file systems without exchange: moves the old folder away, and restores it if the new one cannot be renamed.
fn swap_in_two(part: &Path, path: &Path, exists: bool) -> io::Result<()> {
    if !exists {
        return fs::rename(part, path);
    }
    let aside = PartialDir(part.with_extension("voxpipe-old"));
    aside.clear()?;
    fs::rename(path, &aside.0)?;
    fs::rename(part, path).inspect_err(|_| {
        let _ = fs::rename(&aside.0, path);
    })
}

/// Syncs a folder, so that a rename in it is durable. Errors are ignored: some file systems do not support this.
fn sync(folder: &Path) {
    if let Ok(folder) = fs::File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Marks an I/O error at the target as an environment error, with a hint.
fn environment(error: io::Error) -> Error {
    let error = Error::from(error).environment();
    match error.hint {
        Some(_) => error,
        None => error.hint("choose another folder, or check the permissions of this one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target<'a>(path: &'a Path, overwrite: bool) -> ManagedDir<'a> {
        ManagedDir { path, written: "there", marker: ".mark", overwrite }
    }

    #[test]
    fn a_folder_is_replaced_only_if_managed_and_unchanged() {
        let temp = tempfile::tempdir().unwrap();
        let (content, written) = (temp.path().join("made"), temp.path().join("a/there"));
        fs::create_dir_all(content.join("sub")).unwrap();
        fs::write(content.join("sub/x"), "one").unwrap();
        assert_eq!(place(&named(&content).unwrap(), &target(&written, false)).unwrap(), list(&content).unwrap());
        fs::write(content.join("sub/x"), "two").unwrap();
        fs::write(content.join("y"), "new").unwrap();
        place(&named(&content).unwrap(), &target(&written, false)).unwrap();
        assert_eq!(fs::read_to_string(written.join("sub/x")).unwrap(), "two");

        fs::write(written.join("notes.txt"), "mine").unwrap();
        fs::write(content.join("y"), "newer").unwrap();
        let error = place(&named(&content).unwrap(), &target(&written, false)).unwrap_err();
        assert!(error.message.contains("`notes.txt`"), "{error}");
        assert_eq!(fs::read_to_string(written.join("y")).unwrap(), "new");
        place(&named(&content).unwrap(), &target(&written, true)).unwrap();
        assert!(!written.join("notes.txt").exists());

        fs::remove_file(written.join(".mark")).unwrap();
        let error = place(&named(&content).unwrap(), &target(&written, true)).unwrap_err();
        assert!(error.message.contains("was not made by voxpipe"), "{error}");
        assert_eq!(fs::read_dir(temp.path().join("a")).unwrap().count(), 1, "no temporary folder remains");
    }

    #[test]
    fn the_old_folder_is_restored_if_the_rename_fails() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("there");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "old").unwrap();
        assert!(swap_in_two(&temp.path().join("missing.part"), &path, true).is_err());
        assert_eq!(fs::read_to_string(path.join("x")).unwrap(), "old");
    }

    #[test]
    fn a_full_disk_is_an_environment_error() {
        let error = environment(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(pipeline::exit::Exit::from(&error), pipeline::exit::Exit::Environment);
        assert!(error.hint.is_some_and(|hint| hint.contains("space")));
    }
}
