//! The content of a file or a folder as a value: relative paths, sizes and digests, and nothing else.
//!
//! Neither clock, owner nor place enters: two folders with the same names and bytes are the same [`FileTree`].

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

/// The folder every project keeps its state in; never part of a content.
pub const STATE_FOLDER: &str = ".voxpipe";

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// Nothing.
    Missing,
    /// A file.
    File(FileContent),
    /// A folder.
    Folder(FileTree),
}

/// A folder's files by relative path, `/` separated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileTree(pub BTreeMap<String, FileContent>);

/// A file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// Its length in bytes.
    pub size: u64,
    /// The digest of its bytes.
    pub digest: Digest,
}

/// What is different between two contents, file by file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentDiff {
    /// Only in the newer one.
    pub added: Vec<String>,
    /// Only in the older one.
    pub removed: Vec<String>,
    /// In both, with other bytes.
    pub changed: Vec<String>,
}

/// What to do about symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymlinkPolicy {
    /// Look at what they point to: for things a person keeps.
    Follow,
    /// They are an error: for results, which must stand on their own.
    Refuse,
}

impl Content {
    /// Reads what is at `path`, hashing only what the index does not know already.
    pub fn read(path: &Path, index: &StatCache, links: SymlinkPolicy) -> Result<Self> {
        Self::read_some(path, index, links, &|_| true)
    }

    /// The same, of a folder only the files that `counts` accepts by their path in it.
    pub fn read_some(path: &Path, index: &StatCache, links: SymlinkPolicy, counts: &dyn Fn(&str) -> bool) -> Result<Self> {
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                index.saw(path, None);
                return Ok(Self::Missing);
            }
            Err(error) => return Err(error).with_context(|| format!("cannot look at `{}`", path.display())),
        };
        if meta.is_dir() {
            return FileTree::read_some(path, index, links, counts).map(Self::Folder);
        }
        index.saw(path, Some(&meta));
        let mut files = vec![regular(String::new(), path.to_owned(), meta)?];
        let leaf = hash_all(&mut files, index)?.0.remove("");
        Ok(leaf.map_or(Self::Missing, Self::File))
    }

    /// The digest that stands for the content in a fingerprint.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Missing => None,
            Self::File(leaf) => Some(leaf.digest),
            Self::Folder(tree) => Some(tree.digest()),
        }
    }

    /// What changed from this content to a newer one; a lone file is named by `name`.
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
    /// Reads a folder.
    pub fn read(folder: &Path, index: &StatCache, links: SymlinkPolicy) -> Result<Self> {
        Self::read_some(folder, index, links, &|_| true)
    }

    fn read_some(folder: &Path, index: &StatCache, links: SymlinkPolicy, counts: &dyn Fn(&str) -> bool) -> Result<Self> {
        let mut files = Vec::new();
        Walk { index, links, counts }.through(folder, "", &mut Vec::new(), &mut files)?;
        hash_all(&mut files, index)
    }

    /// The digest of the whole: every relative path in order, each with the digest of its bytes.
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

    /// What changed from this tree to a newer one.
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
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// The changes in words: `2 added (a.wav, b.wav), 1 changed (c.wav)`.
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

/// A file met on the walk, not hashed yet.
struct Found {
    name: String,
    path: PathBuf,
    meta: Metadata,
}

fn regular(name: String, path: PathBuf, meta: Metadata) -> Result<Found> {
    if meta.is_file() {
        return Ok(Found { name, path, meta });
    }
    // Reading a pipe or a device could wait for ever.
    Err(Error::new(format!("`{}` is neither a file nor a folder", path.display()))
        .hint("move it elsewhere: only files and folders can be hashed"))
}

impl SymlinkPolicy {
    /// What is known of an entry; nothing of a link that cannot be followed, or must not be.
    fn look(self, entry: &fs::DirEntry) -> Result<Option<Metadata>> {
        let looking = || format!("cannot look at `{}`", entry.path().display());
        // Anything but a link is looked up in the open folder, which takes half as long as by its path.
        if !entry.file_type().with_context(looking)?.is_symlink() {
            return entry.metadata().map(Some).with_context(looking);
        }
        match (self, fs::metadata(entry.path())) {
            (SymlinkPolicy::Refuse, _) => Ok(None),
            (SymlinkPolicy::Follow, Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            (SymlinkPolicy::Follow, meta) => meta.map(Some).with_context(looking),
        }
    }
}

/// How a folder is walked.
struct Walk<'a> {
    index: &'a StatCache,
    links: SymlinkPolicy,
    counts: &'a dyn Fn(&str) -> bool,
}

impl Walk<'_> {
    fn through(&self, folder: &Path, prefix: &str, above: &mut Vec<(u64, u64)>, files: &mut Vec<Found>) -> Result<()> {
        let looking = || format!("cannot read folder `{}`", folder.display());
        // Before its names are read: a name that comes or goes meanwhile gives the folder another stamp.
        let here = fs::metadata(folder).with_context(looking)?;
        self.index.saw(folder, Some(&here));
        let here = (here.dev(), here.ino());
        if above.contains(&here) {
            return Err(Error::new(format!("`{}` is a link to a folder that contains it", folder.display())).hint("remove the link"));
        }
        above.push(here);
        let ours = |entry: &io::Result<fs::DirEntry>| entry.as_ref().is_ok_and(|entry| entry.file_name() == STATE_FOLDER);
        let entries = fs::read_dir(folder).with_context(looking)?.filter(|entry| !ours(entry));
        let entries = entries.collect::<io::Result<Vec<_>>>().with_context(looking)?;
        let links = self.links;
        let look = |entry| -> Result<_> { Ok((links.look(&entry)?, entry)) };
        let looked: Vec<_> = if entries.len() > WORTH_THREADS.1 {
            entries.into_par_iter().map(look).collect::<Result<_>>()?
        } else {
            entries.into_iter().map(look).collect::<Result<_>>()?
        };
        for (meta, entry) in looked {
            let (path, file_name) = (entry.path(), entry.file_name());
            let Some(file_name) = file_name.to_str() else {
                return Err(Error::new(format!("the name of `{}` is not UTF-8", path.display())).hint("rename it"));
            };
            let name = format!("{prefix}{file_name}");
            let Some(meta) = meta else {
                return Err(match self.links {
                    SymlinkPolicy::Refuse => Error::new(format!("`{name}` in the result is a symbolic link"))
                        .hint("copy the file: a result has to stand on its own"),
                    SymlinkPolicy::Follow => {
                        Error::new(format!("`{}` is a link to nothing", path.display())).hint("remove the link or bring its target back")
                    }
                });
            };
            if meta.is_dir() {
                self.through(&path, &format!("{name}/"), above, files)?;
            } else if (self.counts)(&name) {
                self.index.saw(&path, Some(&meta));
                files.push(regular(name, path, meta)?);
            }
        }
        above.pop();
        Ok(())
    }
}

/// Below this many bytes, or files, there is less to gain from more threads than starting them costs.
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

/// Up to this many bytes a file is read at once.
const SMALL: u64 = 16 << 10;

fn hash_file(path: &Path, length: u64) -> Result<Digest> {
    let reading = || format!("cannot read `{}`", path.display());
    // A file nobody lets us read is a matter of the machine, whatever stage asked.
    let file = fs::File::open(path).with_context(reading).map_err(|error| error.environment())?;
    // Some file systems call files empty that are not: these are read piece by piece.
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
