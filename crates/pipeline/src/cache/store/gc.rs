//! Garbage collection: lists, measures, pins and removes results, scratch folders and cache files.
//!
//! Cache entries (`keys/`, `trees/`) and logs are never removed: they are small, and commands about past runs need them.

use super::files::Durability;
use super::{CacheEntry, Store, files, names, state_folder};
use crate::cache::content::{Content, SymlinkPolicy};
use crate::cache::fingerprint::Fingerprint;
use crate::cache::stat_cache::StatCache;
use crate::error::{Error, Result, ResultExt};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use voxpipe_io::digest::Digest;

/// A recomputable file of a stage.
#[derive(Debug)]
pub struct CachedFile {
    path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// The later of access and modification time.
    used: SystemTime,
}

impl Store {
    /// The digests of all stored results.
    pub fn results(&self) -> Result<Vec<Digest>> {
        Ok(names(&self.dir.join("store"))?.iter().filter_map(|name| digest(name)).collect())
    }

    /// All cache entries, including those whose result was removed.
    pub fn records(&self) -> Result<BTreeMap<Fingerprint, CacheEntry>> {
        let names = names(&self.dir.join("keys"))?;
        let fingerprints = names.iter().filter_map(|name| digest(name.strip_suffix(".json")?).map(Fingerprint));
        Ok(fingerprints.filter_map(|fingerprint| Some((fingerprint, self.record(fingerprint)?))).collect())
    }

    /// The size of a result in bytes.
    pub fn bytes_of(&self, digest: Digest) -> u64 {
        bytes(&self.result(digest))
    }

    /// The working folders of unfinished stages, with their sizes in bytes.
    pub fn unfinished(&self) -> Result<BTreeMap<Fingerprint, u64>> {
        let work = self.dir.join("work");
        let found = names(&work)?;
        Ok(found.iter().filter_map(|name| Some((Fingerprint(digest(name)?), bytes(&work.join(name))))).collect())
    }

    /// Whether any scratch folder of a project has a folder called `name`; without opening its store.
    pub fn has_scratch_folder(root: &Path, name: &str) -> bool {
        let folders = fs::read_dir(state_folder(root).join("work")).into_iter().flatten().flatten();
        folders.into_iter().any(|folder| folder.path().join("scratch").join(name).is_dir())
    }

    /// The folders called `name` in all scratch folders.
    pub fn scratch_folders(&self, name: &str) -> Result<Vec<(Fingerprint, PathBuf)>> {
        let work = self.dir.join("work");
        let found = names(&work)?.into_iter().filter_map(|of| Some((Fingerprint(digest(&of)?), work.join(of).join("scratch").join(name))));
        Ok(found.filter(|(_, folder)| folder.is_dir()).collect())
    }

    /// The files in the cache folder, least recently used first.
    pub fn cache_files(&self) -> Vec<CachedFile> {
        let mut files = Vec::new();
        walk(&self.cache(), &mut |path, meta| {
            let used = [meta.accessed(), meta.modified()].into_iter().flatten().max().unwrap_or(UNIX_EPOCH);
            files.push(CachedFile { path, bytes: meta.len(), used });
        });
        files.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        files
    }

    /// The disk usage of each part of the state, in bytes.
    pub fn usage(&self) -> Vec<(&'static str, u64)> {
        let part = |folders: &[&str]| folders.iter().map(|folder| bytes(&self.dir.join(folder))).sum();
        vec![
            ("results", part(&["store"])),
            ("cache", part(&["cache"])),
            ("unfinished", part(&["work"])),
            ("records", part(&["keys", "trees", "last", "runs", "pins", "stat.idx"])),
            ("damaged", part(&["damaged"])),
            ("repetitions", part(&["repro"])),
            ("trash", part(&["trash"])),
        ]
    }

    /// Removes a result. Its cache entry stays, with its fingerprint inputs.
    pub fn remove_result(&self, digest: Digest) -> Result<()> {
        self.writing()?;
        self.throw_away(&self.result(digest))
    }

    /// Removes the scratch files of an unfinished stage.
    pub fn remove_unfinished(&self, fingerprint: Fingerprint) -> Result<()> {
        self.writing()?;
        self.throw_away(&self.dir.join("work").join(fingerprint.to_string()))
    }

    /// Removes a file of the cache folder.
    pub fn remove_cached(&self, file: &CachedFile) -> Result<()> {
        self.writing()?;
        fs::remove_file(&file.path).with_context(|| format!("cannot remove `{}`", file.path.display()))
    }

    /// Renames a folder into `trash/` and then removes it, so that a kill in between leaves no half of it in place.
    fn throw_away(&self, folder: &Path) -> Result<()> {
        let trash = self.dir.join("trash");
        let removing = || format!("cannot remove `{}`", folder.display());
        fs::create_dir_all(&trash).with_context(removing)?;
        let gone = trash.join(folder.file_name().unwrap_or_default());
        files::remove_folder(&gone)?;
        fs::rename(folder, &gone).with_context(removing)?;
        files::remove_folder(&trash)
    }

    /// Finishes removals that a killed process left in `trash/`.
    pub fn empty_trash(&self) -> Result<()> {
        self.writing()?;
        files::remove_folder(&self.dir.join("trash"))
    }

    /// Verifies a result by hashing every byte, without the stat cache; describes what is wrong with it, if anything.
    pub fn verify(&self, digest: Digest) -> Option<String> {
        let listed = self.tree(digest);
        match (Content::read(&self.result(digest), &StatCache::default(), SymlinkPolicy::Refuse), listed) {
            (Ok(Content::Folder(found)), _) if found.digest() == digest => None,
            (Ok(Content::Folder(found)), Some(listed)) => Some(listed.changes(&found).sentence()),
            (Ok(Content::Folder(_)), None) => Some("its files do not match its digest".to_owned()),
            (Ok(_), _) => Some("it is missing".to_owned()),
            (Err(error), _) => Some(error.message),
        }
    }

    /// Moves a damaged result to `damaged/`, so that the next run recreates it. Returns the new path.
    pub fn set_aside(&self, digest: Digest) -> Result<PathBuf> {
        self.writing()?;
        let place = self.dir.join("damaged").join(digest.to_string());
        let moving = || format!("cannot move `{}` to `damaged/`", self.result(digest).display());
        files::remove_folder(&place)?;
        fs::create_dir_all(self.dir.join("damaged")).and_then(|()| fs::rename(self.result(digest), &place)).with_context(moving)?;
        Ok(place)
    }

    /// The pinned runs.
    pub fn pins(&self) -> Result<BTreeSet<String>> {
        Ok(names(&self.dir.join("pins"))?.into_iter().filter(|name| !name.starts_with('.')).collect())
    }

    /// Pins a run: garbage collection keeps its results until it is unpinned.
    pub fn pin(&self, run: &str) -> Result<()> {
        self.writing()?;
        files::replace(&self.dir.join("pins").join(run), b"", Durability::Durable)
    }

    /// Unpins a run. Returns whether it was pinned.
    pub fn unpin(&self, run: &str) -> Result<bool> {
        self.writing()?;
        let pinned = self.pins()?.contains(run);
        if pinned {
            let pin = self.dir.join("pins").join(run);
            fs::remove_file(&pin).with_context(|| format!("cannot remove `{}`", pin.display()))?;
        }
        Ok(pinned)
    }

    /// Fails if this process does not hold the project lock: nothing may be removed during another run.
    fn writing(&self) -> Result<()> {
        if self.locks.is_some() { Ok(()) } else { Err(Error::new(format!("`{}` was opened read-only", self.dir.display()))) }
    }
}

fn digest(name: &str) -> Option<Digest> {
    serde_json::from_value(name.into()).ok()
}

/// The size of a file or folder in bytes; hard links are counted once.
fn bytes(path: &Path) -> u64 {
    let mut seen = BTreeSet::new();
    let mut sum = 0;
    walk(path, &mut |_, meta| {
        if seen.insert((meta.dev(), meta.ino())) {
            sum += meta.len();
        }
    });
    sum
}

/// Visits all files; skips what cannot be read or disappears meanwhile.
fn walk(path: &Path, visit: &mut impl FnMut(PathBuf, fs::Metadata)) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            walk(&entry.path(), visit);
        }
    } else {
        visit(path.to_owned(), meta);
    }
}
