//! Folders outside the store that we fill for the user: put in place whole or not at all, and never over somebody's work.
//!
//! What is to be placed is first copied beside the target, checked, and then swapped in by a rename. A hidden marker lists
//! every file with its digest: only a folder with our marker is ever replaced, and only while what is in it is still what we
//! wrote.

use crate::data::text::first_few;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};
use voxpipe_io::digest::Digest;

/// A file of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedFile {
    /// Relative to the folder, with `/`.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Of its content.
    pub digest: Digest,
}

/// Where a folder goes, and how we recognise it later as ours.
#[derive(Debug)]
pub struct ManagedDir<'a> {
    /// The folder.
    pub path: &'a Path,
    /// The folder as the user wrote it, for messages.
    pub written: &'a str,
    /// The name of the hidden file that marks it as ours.
    pub marker: &'a str,
    /// Whether to replace it even when files in it were added or changed since.
    pub overwrite: bool,
}

/// Every file below a folder, sorted by path.
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

/// A file, read piece by piece: weights may be larger than the memory.
fn file(path: &Path, name: String) -> Result<ManagedFile> {
    let doing = || format!("cannot read `{}`", path.display());
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path).with_context(doing)?).with_context(doing)?;
    Ok(ManagedFile { path: name, size: hasher.count(), digest: Digest(*hasher.finalize().as_bytes()) })
}

/// Makes `target` a folder of exactly these files (name in it → where it lies now), and returns what is there afterwards
/// (without the marker).
pub fn place(made: &BTreeMap<String, PathBuf>, target: &ManagedDir) -> Result<Vec<ManagedFile>> {
    let shown = target.written;
    // A link stays a link: what it points to is replaced.
    let path = fs::canonicalize(target.path).or_else(|_| std::path::absolute(target.path))?;
    let wanted = made.iter().map(|(name, path)| file(path, name.clone())).collect::<Result<Vec<_>>>()?;
    let marker = Marker { made_by: "voxpipe".to_owned(), files: wanted };
    let taken = match standing(&path, target)? {
        Standing::Nothing => false,
        Standing::Same(files) if files == marker.files => return Ok(marker.files),
        Standing::Same(_) | Standing::Empty => true,
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(format!("`{shown}` is not a folder that can be replaced"))
            .kind(ErrorKind::InvalidInput)
            .hint("name a folder inside another"));
    };
    let doing = || format!("cannot write the folder `{shown}`");
    fs::create_dir_all(parent).map_err(environment).with_context(doing)?;
    let part = PartialDir(parent.join(format!(".{}.voxpipe-part", name.to_string_lossy())));
    part.clear().map_err(environment).with_context(doing)?;
    fs::create_dir(&part.0).map_err(environment).with_context(doing)?;
    for (name, source) in made {
        let source = fs::File::open(source).with_context(|| format!("cannot read `{name}`"))?;
        write(&part.0.join(name), source).map_err(environment).with_context(doing)?;
    }
    write(&part.0.join(target.marker), serde_json::to_vec_pretty(&marker)?.as_slice()).map_err(environment).with_context(doing)?;
    let mut there = list(&part.0)?;
    there.retain(|file| file.path != target.marker);
    if there != marker.files {
        return Err(Error::new(format!("what was written to `{shown}` reads back differently"))
            .environment()
            .hint("check the disk and run again"));
    }
    swap(&part.0, &path, taken).map_err(environment).with_context(doing)?;
    sync(parent);
    Ok(there)
}

/// The files of a folder as [`place`] takes them.
pub fn named(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    Ok(list(folder)?.into_iter().map(|file| (file.path.clone(), folder.join(file.path))).collect())
}

/// What lies inside a marked folder.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    made_by: String,
    files: Vec<ManagedFile>,
}

enum Standing {
    Nothing,
    Empty,
    /// Ours, and as we left it.
    Same(Vec<ManagedFile>),
}

fn standing(path: &Path, target: &ManagedDir) -> Result<Standing> {
    let shown = target.written;
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Nothing),
        Err(error) => return Err(environment(error).context(format!("cannot look at `{shown}`"))),
        Ok(metadata) if !metadata.is_dir() => {
            return Err(Error::new(format!("`{shown}` exists and is not a folder"))
                .environment()
                .hint("choose another place, or move the file away"));
        }
        Ok(_) => {}
    }
    let foreign = || {
        Error::new(format!("the folder `{shown}` exists and was not made by voxpipe"))
            .environment()
            .hint("choose another folder, or move this one away; nothing in it was touched")
    };
    let marker: Marker = match fs::read(path.join(target.marker)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| foreign())?,
        Err(_) if fs::read_dir(path)?.next().is_none() => return Ok(Standing::Empty),
        Err(_) => return Err(foreign()),
    };
    let mut files = list(path)?;
    files.retain(|file| file.path != target.marker);
    let strange: Vec<&str> = files.iter().filter(|file| !marker.files.contains(file)).map(|file| file.path.as_str()).collect();
    if !strange.is_empty() && !target.overwrite {
        return Err(Error::new(format!("in `{shown}`, {} changed or came in after voxpipe wrote the folder", first_few(&strange, 3)))
            .environment()
            .hint("move these files away, choose another folder, or set `overwrite = true` to lose them"));
    }
    Ok(Standing::Same(files))
}

/// A folder being filled beside its target; removed when we leave early, and so is what a swap put into its place.
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

fn write(path: &Path, mut content: impl io::Read) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = fs::File::create_new(path)?;
    io::copy(&mut content, &mut file)?;
    file.sync_all()
}

/// Gives `part` the name `path`; what was there has the name `part` afterwards.
#[cfg(target_os = "linux")]
fn swap(part: &Path, path: &Path, taken: bool) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if taken && renameat_with(CWD, part, CWD, path, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    swap_in_two(part, path, taken)
}

#[cfg(not(target_os = "linux"))]
fn swap(part: &Path, path: &Path, taken: bool) -> io::Result<()> {
    swap_in_two(part, path, taken)
}

/// For file systems that cannot exchange two names: the old folder steps aside and comes back if the new one cannot move in.
fn swap_in_two(part: &Path, path: &Path, taken: bool) -> io::Result<()> {
    if !taken {
        return fs::rename(part, path);
    }
    let aside = PartialDir(part.with_extension("voxpipe-old"));
    aside.clear()?;
    fs::rename(path, &aside.0)?;
    fs::rename(part, path).inspect_err(|_| {
        let _ = fs::rename(&aside.0, path);
    })
}

/// Makes a rename last. Some file systems do not know how; the content is safe without it.
fn sync(folder: &Path) {
    if let Ok(folder) = fs::File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Whatever keeps us from writing where the user wants it is for the user to change.
fn environment(error: io::Error) -> Error {
    let error = Error::from(error).environment();
    match error.hint {
        Some(_) => error,
        None => error.hint("choose another folder, or see why this one cannot be written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target<'a>(path: &'a Path, overwrite: bool) -> ManagedDir<'a> {
        ManagedDir { path, written: "there", marker: ".mark", overwrite }
    }

    #[test]
    fn a_folder_is_replaced_only_while_it_is_ours() {
        let temp = tempfile::tempdir().unwrap();
        let (made, there) = (temp.path().join("made"), temp.path().join("a/there"));
        fs::create_dir_all(made.join("sub")).unwrap();
        fs::write(made.join("sub/x"), "one").unwrap();
        assert_eq!(place(&named(&made).unwrap(), &target(&there, false)).unwrap(), list(&made).unwrap());
        fs::write(made.join("sub/x"), "two").unwrap();
        fs::write(made.join("y"), "new").unwrap();
        place(&named(&made).unwrap(), &target(&there, false)).unwrap();
        assert_eq!(fs::read_to_string(there.join("sub/x")).unwrap(), "two");

        fs::write(there.join("notes.txt"), "mine").unwrap();
        fs::write(made.join("y"), "newer").unwrap();
        let error = place(&named(&made).unwrap(), &target(&there, false)).unwrap_err();
        assert!(error.message.contains("`notes.txt`"), "{error}");
        assert_eq!(fs::read_to_string(there.join("y")).unwrap(), "new");
        place(&named(&made).unwrap(), &target(&there, true)).unwrap();
        assert!(!there.join("notes.txt").exists());

        fs::remove_file(there.join(".mark")).unwrap();
        let error = place(&named(&made).unwrap(), &target(&there, true)).unwrap_err();
        assert!(error.message.contains("was not made by voxpipe"), "{error}");
        assert_eq!(fs::read_dir(temp.path().join("a")).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn the_old_folder_comes_back_when_the_new_one_cannot_move_in() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("there");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "old").unwrap();
        assert!(swap_in_two(&temp.path().join("missing.part"), &path, true).is_err());
        assert_eq!(fs::read_to_string(path.join("x")).unwrap(), "old");
    }

    #[test]
    fn a_full_disk_is_for_the_user_to_change() {
        let error = environment(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(pipeline::exit::Exit::from(&error), pipeline::exit::Exit::Environment);
        assert!(error.hint.is_some_and(|hint| hint.contains("space")));
    }
}
