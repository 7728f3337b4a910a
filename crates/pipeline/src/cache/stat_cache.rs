//! Digests of files seen before, so that a file that did not change need not be read again.
//!
//! A file counts as unchanged when device, inode, size, modification time *and* status change time are what they were when it
//! was hashed: the last one moves even when somebody puts the modification time back. A file that had changed just before it was
//! hashed is not remembered at all: a second change within the same tick of the file system's clock would leave no trace.

use crate::cache::file_stat::{StatKey, WatchedPath};
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use voxpipe_io::digest::Digest;

/// What is known of files, by device and inode. It decides nothing alone: without it everything is hashed again.
#[derive(Debug, Default)]
pub struct StatCache {
    known: Mutex<CachedDigest>,
    /// Whether what is looked at is noted.
    watching: AtomicBool,
    watched: Mutex<Vec<WatchedPath>>,
}

#[derive(Debug, Default)]
struct CachedDigest {
    entries: BTreeMap<(u64, u64), Entry>,
    news: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    stamp: StatKey,
    digest: Digest,
    /// Whether this process asked for it; others may be leftovers of files long gone.
    used: bool,
}

impl StatCache {
    /// The digest of a file that has not changed since it was hashed.
    pub fn known(&self, meta: &Metadata) -> Option<Digest> {
        let mut known = self.lock();
        let stamp = StatKey::of(meta);
        let entry = known.entries.get_mut(&stamp.file())?;
        let same = entry.stamp == stamp;
        entry.used |= same;
        same.then_some(entry.digest)
    }

    /// Remembers a digest; `meta` and `now` were taken before the file was read.
    pub fn learn(&self, meta: &Metadata, digest: Digest, now: SystemTime) {
        if StatKey::of(meta).settled(now) {
            self.learn_settled(meta, digest);
        }
    }

    /// Remembers the digest of a file nobody else can be writing.
    pub fn learn_settled(&self, meta: &Metadata, digest: Digest) {
        let stamp = StatKey::of(meta);
        let mut known = self.lock();
        known.entries.insert(stamp.file(), Entry { stamp, digest, used: true });
        known.news = true;
    }

    /// Begins to note everything that is looked at.
    pub fn watch(&self) {
        self.noted().clear();
        self.watching.store(true, Ordering::Relaxed);
    }

    /// Ends [`StatCache::watch`] and gives what was looked at.
    pub fn watched(&self) -> Vec<WatchedPath> {
        self.watching.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.noted())
    }

    /// Whether somebody wants to know what is looked at.
    pub fn watching(&self) -> bool {
        self.watching.load(Ordering::Relaxed)
    }

    /// Notes that something was looked at, or looked for and not found.
    pub fn saw(&self, path: &Path, meta: Option<&Metadata>) {
        if self.watching() {
            self.noted().push(WatchedPath { path: path.to_owned(), stamp: meta.map(StatKey::of) });
        }
    }

    /// The bytes to keep, if there is anything new in them.
    pub fn to_save(&self) -> Option<Vec<u8>> {
        let mut known = self.lock();
        if !std::mem::take(&mut known.news) {
            return None;
        }
        let crowded = known.entries.len() > MOST_ENTRIES;
        let mut body = Vec::with_capacity(known.entries.len() * ENTRY);
        for entry in known.entries.values().filter(|entry| entry.used || !crowded) {
            entry.stamp.write(&mut body);
            body.extend_from_slice(&entry.digest.0);
        }
        Some([HEAD, Digest::of(&body).0.as_slice(), &body].concat())
    }

    /// Reads what [`StatCache::to_save`] gave; whatever is not exactly that counts as nothing.
    pub fn load(bytes: &[u8]) -> Self {
        let body = bytes.strip_prefix(HEAD).and_then(|rest| rest.split_at_checked(32));
        let Some((sum, body)) = body else { return Self::default() };
        if Digest::of(body).0 != sum {
            return Self::default();
        }
        let entries = body.chunks_exact(ENTRY).filter_map(|mut bytes| {
            let stamp = StatKey::read(&mut bytes)?;
            let (digest, _) = bytes.split_first_chunk()?;
            Some((stamp.file(), Entry { stamp, digest: Digest(*digest), used: false }))
        });
        Self { known: Mutex::new(CachedDigest { entries: entries.collect(), news: false }), ..Self::default() }
    }

    fn noted(&self) -> MutexGuard<'_, Vec<WatchedPath>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, CachedDigest> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const HEAD: &[u8] = b"voxpipe stat index 2\n";
const ENTRY: usize = StatKey::BYTES + 32;
/// Above this, entries nobody asked for are dropped.
const MOST_ENTRIES: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    #[test]
    fn only_settled_files_are_remembered_and_any_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.wav");
        fs::write(&path, "aaaa").unwrap();
        let index = StatCache::default();
        let (before, digest) = (fs::metadata(&path).unwrap(), Digest::of(b"aaaa"));
        index.learn(&before, digest, SystemTime::now());
        assert_eq!(index.known(&before), None, "written a moment ago: a second write could go unseen");
        index.learn(&before, digest, SystemTime::now() + Duration::from_secs(3));
        assert_eq!(index.known(&before), Some(digest));

        // The same size and the modification time put back: the status change time gives it away.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&path, "bbbb").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(before.modified().unwrap()).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.len(), after.modified().unwrap()), (before.len(), before.modified().unwrap()));
        assert_eq!(index.known(&after), None);
    }

    #[test]
    fn a_damaged_index_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "x").unwrap();
        let meta = fs::metadata(&path).unwrap();
        let index = StatCache::default();
        index.learn_settled(&meta, Digest::of(b"x"));
        let bytes = index.to_save().unwrap();
        assert_eq!(index.to_save(), None, "nothing new since");
        assert_eq!(StatCache::load(&bytes).known(&meta), Some(Digest::of(b"x")));
        for damage in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[damage] ^= 1;
            assert_eq!(StatCache::load(&bad).known(&meta), None, "byte {damage}");
            assert_eq!(StatCache::load(&bytes[..damage]).known(&meta), None, "cut at {damage}");
        }
    }
}
