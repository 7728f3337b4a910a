//! Remote cache: push and pull of results through a folder shared by a team.
//!
//! `FOLDER/voxpipe-1/` has the same `store/`, `trees/` and `keys/` as a project. Pulled results are copied into the project and hashed
//! there; a result that does not match its digest is rejected. Cache entries are trusted: everyone who may write to the folder decides
//! which result belongs to a fingerprint.

use super::files::Durability;
use super::{CacheEntry, Store, files, parse};
use crate::cache::content::FileTree;
use crate::cache::fingerprint::Fingerprint;
use crate::error::{Error, Result, ResultExt};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use voxpipe_io::digest::Digest;

/// The remote cache of a project.
#[derive(Debug)]
pub(super) struct SharedCache {
    dir: PathBuf,
    read_only: bool,
    /// Fingerprints whose pull failed.
    refused: Mutex<BTreeSet<Fingerprint>>,
}

/// The versioned subfolder of the layout.
const LAYOUT: &str = "voxpipe-1";

impl Store {
    /// Sets the remote cache folder, which must exist.
    #[must_use]
    pub fn sharing(mut self, folder: &Path, read_only: bool) -> Self {
        self.shared = Some(SharedCache { dir: folder.join(LAYOUT), read_only, refused: Mutex::default() });
        self
    }

    /// Whether there is a remote cache.
    pub fn shares(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether the project has a result.
    pub fn keeps(&self, digest: Digest) -> bool {
        self.result(digest).is_dir()
    }

    /// The cache entry of a result that can be pulled from the remote cache.
    pub fn lent(&self, fingerprint: Fingerprint) -> Option<CacheEntry> {
        let shared = self.shared.as_ref()?;
        if shared.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&fingerprint) {
            return None;
        }
        let record: CacheEntry = parse(&shared.dir.join("keys").join(format!("{fingerprint}.json")))?;
        let valid = record.ingredients.fingerprint() == fingerprint && shared.tree(record.digest).is_some();
        (valid && shared.result(record.digest).is_dir()).then_some(record)
    }

    /// Pulls a result from the remote cache if the project does not have it. Returns whether it did.
    pub fn pull(&self, fingerprint: Fingerprint) -> Result<bool> {
        let Some(shared) = &self.shared else { return Ok(false) };
        if self.record(fingerprint).is_some_and(|record| self.keeps(record.digest)) {
            return Ok(false);
        }
        let Some(record) = self.lent(fingerprint) else { return Ok(false) };
        let taken = self.take(shared, fingerprint, &record);
        if taken.is_err() {
            shared.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(fingerprint);
        }
        taken.map(|()| true)
    }

    fn take(&self, shared: &SharedCache, fingerprint: Fingerprint, record: &CacheEntry) -> Result<()> {
        let from = shared.result(record.digest);
        if !self.keeps(record.digest) {
            let tree = shared.tree(record.digest).unwrap_or_default();
            let space = self.workspace(fingerprint, &format!("shared-{}", std::process::id()), 0, false)?;
            let kept = copy(&tree, &from, &space.out).and_then(|()| self.keep(&space));
            match kept {
                Ok(digest) if digest == record.digest => {}
                Ok(digest) => {
                    files::remove_folder(&self.result(digest))?;
                    return Err(Error::new(format!("`{}` is damaged: its files do not match its digest", from.display()))
                        .hint("remove it; the next run that makes this result pushes it again"));
                }
                Err(error) => {
                    self.discard(&space)?;
                    return Err(error);
                }
            }
        }
        self.commit(record)
    }

    /// Pushes a result to the remote cache, unless that is read-only.
    pub fn push(&self, record: &CacheEntry) -> Result<()> {
        let Some(shared) = self.shared.as_ref().filter(|shared| !shared.read_only) else { return Ok(()) };
        let Some(tree) = self.tree(record.digest) else { return Ok(()) };
        let place = shared.result(record.digest);
        if !place.is_dir() {
            let pushing = || format!("cannot push to `{}`", place.display());
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            let unfinished = shared.dir.join("unfinished").join(format!("{}-{}-{now}", record.digest.short(), std::process::id()));
            let copied = copy(&tree, &self.result(record.digest), &unfinished)
                .and_then(|()| files::seal(&unfinished))
                .and_then(|()| files::sync_tree(&unfinished))
                .and_then(|()| fs::create_dir_all(shared.dir.join("store")).with_context(pushing))
                .and_then(|()| match fs::rename(&unfinished, &place) {
                    // Another process pushed the same bytes first.
                    Err(_) if place.is_dir() => Ok(()),
                    renamed => renamed.with_context(pushing),
                });
            files::remove_folder(&unfinished)?;
            let _ = fs::remove_dir(shared.dir.join("unfinished"));
            copied?;
            files::sync(&shared.dir.join("store"))?;
        }
        files::replace(&shared.listing(record.digest), &serde_json::to_vec(&tree)?, Durability::Durable)?;
        let key = shared.dir.join("keys").join(format!("{}.json", record.ingredients.fingerprint()));
        files::replace(&key, &serde_json::to_vec(record)?, Durability::Durable)
    }
}

impl SharedCache {
    fn result(&self, digest: Digest) -> PathBuf {
        self.dir.join("store").join(digest.to_string())
    }

    fn listing(&self, digest: Digest) -> PathBuf {
        self.dir.join("trees").join(format!("{digest}.json"))
    }

    /// The file list of a result. The list is untrusted: it is rejected if a name leads outside the folder.
    fn tree(&self, digest: Digest) -> Option<FileTree> {
        let tree: FileTree = parse(&self.listing(digest))?;
        (tree.digest() == digest && tree.0.keys().all(|name| stays_inside(name))).then_some(tree)
    }
}

/// Whether a path is relative and stays inside its folder.
pub(super) fn stays_inside(name: &str) -> bool {
    !name.is_empty()
        && !name.ends_with('/')
        && !name.contains('\0')
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

fn copy(tree: &FileTree, from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create `{}`", to.display()))?;
    for name in tree.0.keys() {
        let (from, to) = (from.join(name), to.join(name));
        let copying = || format!("cannot copy `{}`", from.display());
        to.parent().map_or(Ok(()), fs::create_dir_all).with_context(copying)?;
        // A symbolic link could point to any file of this machine.
        if !fs::symlink_metadata(&from).with_context(copying)?.is_file() {
            return Err(Error::new(format!("`{}` is not a regular file", from.display())));
        }
        fs::copy(&from, &to).with_context(copying)?;
    }
    Ok(())
}
