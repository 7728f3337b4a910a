//! Content hashing of files and folders: relative paths, sizes and BLAKE3 digests.
//!
//! Times, owners and absolute paths are ignored: two folders with the same names and bytes have the same [`FileTree`].

use crate::cache::reads;
use crate::cache::stat_cache::StatCache;
use crate::error::{Error, Result, ResultExt};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use voxpipe_io::digest::Digest;

/// The state folder of a project; content hashing skips it.
pub const STATE_FOLDER: &str = ".voxpipe";

/// The content found at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// The path does not exist.
    Missing,
    /// A file.
    File(FileContent),
    /// A folder.
    Folder(FileTree),
}

/// The files of a folder by relative path, separated by `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileTree(pub BTreeMap<String, FileContent>);

/// Size and digest of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// Length in bytes.
    pub size: u64,
    /// Digest of the bytes.
    pub digest: Digest,
}

/// The differences between two contents, by file name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentDiff {
    /// Files that only the newer content has.
    pub added: Vec<String>,
    /// Files that only the older content has.
    pub removed: Vec<String>,
    /// Files with different bytes.
    pub changed: Vec<String>,
}

/// How to treat symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymlinkPolicy {
    /// Follow them: for the user's source files.
    Follow,
    /// Reject them: results must be self-contained.
    Refuse,
}

impl Content {
    /// Reads the content at `path`; hashes only files whose digest is not in the stat cache.
    pub fn read(path: &Path, index: &StatCache, links: SymlinkPolicy) -> Result<Self> {
        Self::read_some(path, index, links, &|_| true)
    }

    /// Like [`Content::read`], but includes only the files and folders in a folder whose relative
    /// path `counts` accepts; the path of a folder ends with `/`.
    pub fn read_some(path: &Path, index: &StatCache, links: SymlinkPolicy, counts: &dyn Fn(&str) -> bool) -> Result<Self> {
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                reads::saw(path, None);
                return Ok(Self::Missing);
            }
            Err(error) => return Err(error).with_context(|| format!("cannot access `{}`", path.display())),
        };
        if meta.is_dir() {
            return FileTree::read_some(path, index, links, counts).map(Self::Folder);
        }
        reads::saw(path, Some(&meta));
        let mut files = vec![regular(String::new(), path.to_owned(), meta)?];
        let leaf = hash_all(&mut files, index)?.0.remove("");
        Ok(leaf.map_or(Self::Missing, Self::File))
    }

    /// The digest that represents the content in a fingerprint; `None` if the path does not exist.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Missing => None,
            Self::File(leaf) => Some(leaf.digest),
            Self::Folder(tree) => Some(tree.digest()),
        }
    }

    /// The changes from this content to a newer one; `name` names a single file.
    pub fn changes(&self, newer: &Self, name: &str) -> ContentDiff {
        self.listing(name).changes(&newer.listing(name))
    }

    fn listing(&self, name: &str) -> FileTree {
        match self {
            Self::Missing => FileTree::default(),
            Self::File(leaf) => FileTree(BTreeMap::from([(name.to_owned(), *leaf)])),
            Self::Folder(tree) => tree.clone(),
        }
    }
}

impl FileTree {
    /// Reads and hashes a folder.
    pub fn read(folder: &Path, index: &StatCache, links: SymlinkPolicy) -> Result<Self> {
        Self::read_some(folder, index, links, &|_| true)
    }

    fn read_some(folder: &Path, index: &StatCache, links: SymlinkPolicy, counts: &dyn Fn(&str) -> bool) -> Result<Self> {
        let mut files = Vec::new();
        Walk { links, counts }.through(folder, "", &mut Vec::new(), &mut files)?;
        hash_all(&mut files, index)
    }

    /// The digest of the folder: every relative path in sorted order, each with the digest of its bytes.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"voxpipe tree 1\n");
        for (path, leaf) in &self.0 {
            hasher.update(&(path.len() as u64).to_le_bytes());
            hasher.update(path.as_bytes());
            hasher.update(&leaf.digest.0);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// The changes from this tree to a newer one.
    pub fn changes(&self, newer: &Self) -> ContentDiff {
        let only_in = |a: &Self, b: &Self| a.0.keys().filter(|path| !b.0.contains_key(*path)).cloned().collect();
        ContentDiff {
            added: only_in(newer, self),
            removed: only_in(self, newer),
            changed: self
                .0
                .iter()
                .filter(|(path, leaf)| newer.0.get(*path).is_some_and(|new| new.digest != leaf.digest))
                .map(|(path, _)| path.clone())
                .collect(),
        }
    }
}

impl ContentDiff {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// Describes the changes: `2 added (a.wav, b.wav), 1 changed (c.wav)`.
    pub fn sentence(&self) -> String {
        let part = |paths: &[String], what: &str| {
            let shown = paths.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = if paths.len() > 3 { ", …" } else { "" };
            (!paths.is_empty()).then(|| format!("{} {what} ({shown}{more})", paths.len()))
        };
        [part(&self.added, "added"), part(&self.removed, "removed"), part(&self.changed, "changed")]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// A file found by the walk, not hashed yet.
struct Found {
    name: String,
    path: PathBuf,
    meta: Metadata,
}

fn regular(name: String, path: PathBuf, meta: Metadata) -> Result<Found> {
    if meta.is_file() {
        return Ok(Found { name, path, meta });
    }
    // Reading a pipe or a device could block forever.
    Err(Error::new(format!("`{}` is neither a file nor a folder", path.display()))
        .hint("move it elsewhere: only files and folders can be hashed"))
}

impl SymlinkPolicy {
    /// The metadata of an entry; `None` for a link that is broken or not allowed.
    fn metadata(self, entry: &fs::DirEntry) -> Result<Option<Metadata>> {
        let accessing = || format!("cannot access `{}`", entry.path().display());
        // For anything but a link, `DirEntry::metadata` uses the open folder, which takes half as long as a lookup by path.
        if !entry.file_type().with_context(accessing)?.is_symlink() {
            return entry.metadata().map(Some).with_context(accessing);
        }
        match (self, fs::metadata(entry.path())) {
            (SymlinkPolicy::Refuse, _) => Ok(None),
            (SymlinkPolicy::Follow, Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            (SymlinkPolicy::Follow, meta) => meta.map(Some).with_context(accessing),
        }
    }
}

/// A recursive folder walk.
struct Walk<'a> {
    links: SymlinkPolicy,
    counts: &'a dyn Fn(&str) -> bool,
}

impl Walk<'_> {
    fn through(&self, folder: &Path, prefix: &str, above: &mut Vec<(u64, u64)>, files: &mut Vec<Found>) -> Result<()> {
        let reading = || format!("cannot read folder `{}`", folder.display());
        // Taken before the names are read: adding or removing a name meanwhile changes the folder's stat key.
        let here = fs::metadata(folder).with_context(reading)?;
        reads::saw(folder, Some(&here));
        let here = (here.dev(), here.ino());
        if above.contains(&here) {
            return Err(Error::new(format!("symbolic link cycle: `{}` points to a folder that contains it", folder.display()))
                .hint("remove the link"));
        }
        above.push(here);
        let ours = |entry: &io::Result<fs::DirEntry>| entry.as_ref().is_ok_and(|entry| entry.file_name() == STATE_FOLDER);
        let entries = fs::read_dir(folder).with_context(reading)?.filter(|entry| !ours(entry));
        let entries = entries.collect::<io::Result<Vec<_>>>().with_context(reading)?;
        let links = self.links;
        let stat = |entry| -> Result<_> { Ok((links.metadata(&entry)?, entry)) };
        let entries: Vec<_> = if entries.len() > WORTH_THREADS.1 {
            entries.into_par_iter().map(stat).collect::<Result<_>>()?
        } else {
            entries.into_iter().map(stat).collect::<Result<_>>()?
        };
        for (meta, entry) in entries {
            let (path, file_name) = (entry.path(), entry.file_name());
            let Some(file_name) = file_name.to_str() else {
                return Err(Error::new(format!("the file name of `{}` is not valid UTF-8", path.display())).hint("rename it"));
            };
            let name = format!("{prefix}{file_name}");
            // Editors leave links that lead nowhere as locks (`.#name`).
            if meta.is_none() && self.links == SymlinkPolicy::Follow && !(self.counts)(&name) {
                continue;
            }
            let Some(meta) = meta else {
                return Err(match self.links {
                    SymlinkPolicy::Refuse => Error::new(format!("`{name}` in the result is a symbolic link"))
                        .hint("copy the file instead: a result must be self-contained"),
                    SymlinkPolicy::Follow => {
                        Error::new(format!("`{}` is a broken symbolic link", path.display())).hint("remove the link or restore its target")
                    }
                });
            };
            if meta.is_dir() {
                let inside = format!("{name}/");
                if (self.counts)(&inside) {
                    self.through(&path, &inside, above, files)?;
                }
            } else if (self.counts)(&name) {
                reads::saw(&path, Some(&meta));
                files.push(regular(name, path, meta)?);
            }
        }
        above.pop();
        Ok(())
    }
}

/// Use several threads only above this many bytes or files: below, starting them costs more than it saves.
const WORTH_THREADS: (u64, usize) = (4 << 20, 200);

fn hash_all(files: &mut Vec<Found>, index: &StatCache) -> Result<FileTree> {
    let mut tree = BTreeMap::new();
    let mut unknown = Vec::new();
    for file in files.drain(..) {
        match index.known(&file.meta) {
            Some(digest) => drop(tree.insert(file.name, FileContent { size: file.meta.len(), digest })),
            None => unknown.push(file),
        }
    }
    let hash = |file: Found| -> Result<(String, FileContent)> {
        let now = SystemTime::now();
        let digest = hash_file(&file.path, file.meta.len())?;
        index.learn(&file.meta, digest, now);
        Ok((file.name, FileContent { size: file.meta.len(), digest }))
    };
    let bytes: u64 = unknown.iter().map(|file| file.meta.len()).sum();
    let hashed: Vec<_> = if unknown.len() > 1 && (bytes > WORTH_THREADS.0 || unknown.len() > WORTH_THREADS.1) {
        unknown.into_par_iter().map(hash).collect::<Result<_>>()?
    } else {
        unknown.into_iter().map(hash).collect::<Result<_>>()?
    };
    tree.extend(hashed);
    Ok(FileTree(tree))
}

/// Files of up to this many bytes are read with a single call.
const SMALL: u64 = 16 << 10;

fn hash_file(path: &Path, length: u64) -> Result<Digest> {
    let reading = || format!("cannot read `{}`", path.display());
    // An unreadable file is an environment error, whichever stage asked.
    let file = fs::File::open(path).with_context(reading).map_err(|error| error.environment())?;
    // Some file systems (such as /proc) report size 0 for files that are not empty: these take the streaming path.
    if (1..=SMALL).contains(&length) {
        let mut bytes = Vec::with_capacity(length as usize);
        (&file).read_to_end(&mut bytes).with_context(reading)?;
        return Ok(Digest::of(&bytes));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).with_context(reading)?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Result<Content> {
        Content::read(path, &StatCache::default(), SymlinkPolicy::Follow)
    }

    #[test]
    fn names_and_bytes_are_all_that_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for folder in [&a, &b] {
            fs::create_dir_all(folder.join("sub")).unwrap();
            fs::write(folder.join("sub/x"), "1").unwrap();
            fs::write(folder.join("y"), "2").unwrap();
        }
        fs::create_dir(b.join(STATE_FOLDER)).unwrap();
        fs::write(b.join(STATE_FOLDER).join("lock"), "me").unwrap();
        assert_eq!(read(&a).unwrap(), read(&b).unwrap());
        fs::rename(b.join("y"), b.join("z")).unwrap();
        let (old, new) = (read(&a).unwrap(), read(&b).unwrap());
        assert_ne!(old.digest(), new.digest());
        assert_eq!(old.changes(&new, "").sentence(), "1 added (z), 1 removed (y)");
        assert_eq!(read(&dir.path().join("none")).unwrap(), Content::Missing);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_claims_to_be_empty_is_read_all_the_same() {
        let path = Path::new("/proc/version");
        let bytes = fs::read(path).unwrap();
        assert!(!bytes.is_empty() && fs::metadata(path).unwrap().len() == 0, "the test shows nothing");
        assert_eq!(read(path).unwrap().digest(), Some(Digest::of(&bytes)));
    }

    #[test]
    fn paths_cannot_be_shifted_into_each_other() {
        let leaf = FileContent { size: 0, digest: Digest::of(b"") };
        let one = FileTree(BTreeMap::from([("a\nb".to_owned(), leaf)]));
        let two = FileTree(BTreeMap::from([("a".to_owned(), leaf), ("b".to_owned(), leaf)]));
        assert_ne!(one.digest(), two.digest());
    }

    #[test]
    fn what_cannot_be_hashed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("up")).unwrap();
        let round = read(dir.path()).unwrap_err();
        assert!(round.message.contains("up"), "{round}");
        let refused = FileTree::read(dir.path(), &StatCache::default(), SymlinkPolicy::Refuse).unwrap_err();
        assert!(refused.message.contains("`up` in the result is a symbolic link"), "{refused}");
        assert!(read(Path::new("/dev/null")).unwrap_err().message.contains("neither a file nor a folder"));
    }
}
