//! Stat cache: digests of files by their metadata, so that unchanged files are not hashed again (as in git's index).
//!
//! A file is unchanged if device, inode, size, mtime *and* ctime are the same as when it was hashed; ctime changes even when mtime is
//! reset. A file modified just before it was hashed is not cached: a second modification within the same tick of the file system's
//! clock would go undetected.

use crate::cache::file_stat::StatKey;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use voxpipe_io::digest::Digest;

/// File digests by device and inode. Losing the cache only costs time: every file is hashed again.
#[derive(Debug, Default)]
pub struct StatCache {
    known: Mutex<CachedDigest>,
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
    /// Whether this process looked it up; other entries may belong to deleted files.
    used: bool,
}

impl StatCache {
    /// The cached digest of a file that has not changed since it was hashed.
    pub fn known(&self, meta: &Metadata) -> Option<Digest> {
        let mut known = self.lock();
        let stamp = StatKey::of(meta);
        let entry = known.entries.get_mut(&stamp.file())?;
        let same = entry.stamp == stamp;
        entry.used |= same;
        same.then_some(entry.digest)
    }

    /// Caches a digest if the file is settled; `meta` and `now` must be taken before the file is read.
    pub fn learn(&self, meta: &Metadata, digest: Digest, now: SystemTime) {
        if StatKey::of(meta).settled(now) {
            self.learn_settled(meta, digest);
        }
    }

    /// Caches the digest of a file that no other process can be writing.
    pub fn learn_settled(&self, meta: &Metadata, digest: Digest) {
        let stamp = StatKey::of(meta);
        let mut known = self.lock();
        known.entries.insert(stamp.file(), Entry { stamp, digest, used: true });
        known.news = true;
    }

    /// The serialized cache, if it changed since it was saved.
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

    /// Reads the bytes of [`StatCache::to_save`]; invalid or damaged bytes give an empty cache.
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
        Self { known: Mutex::new(CachedDigest { entries: entries.collect(), news: false }) }
    }

    fn lock(&self) -> MutexGuard<'_, CachedDigest> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const HEAD: &[u8] = b"voxpipe stat index 2\n";
const ENTRY: usize = StatKey::BYTES + 32;
/// Above this many entries, unused ones are dropped when the cache is saved.
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

        // Same size and mtime reset: ctime still reveals the change.
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
