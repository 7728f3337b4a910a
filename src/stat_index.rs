//! Digests of files seen before, so that a file that did not change need not be read again.
//!
//! A file counts as unchanged when device, inode, size, modification time *and* status change time are what they were when it
//! was hashed: the last one moves even when somebody puts the modification time back. A file that had changed just before it was
//! hashed is not remembered at all: a second change within the same tick of the file system's clock would leave no trace.

use crate::artifact::Digest;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is known of files, by device and inode. It decides nothing alone: without it everything is hashed again.
#[derive(Debug, Default)]
pub struct StatIndex(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    entries: BTreeMap<(u64, u64), Entry>,
    news: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    modified: i128,
    changed: i128,
    digest: Digest,
    /// Whether this process asked for it; others may be leftovers of files long gone.
    used: bool,
}

impl StatIndex {
    /// The digest of a file that has not changed since it was hashed.
    pub fn known(&self, meta: &Metadata) -> Option<Digest> {
        let mut known = self.lock();
        let entry = known.entries.get_mut(&(meta.dev(), meta.ino()))?;
        let same = entry.size == meta.len() && (entry.modified, entry.changed) == times(meta);
        entry.used |= same;
        same.then_some(entry.digest)
    }

    /// Remembers a digest; `meta` and `now` were taken before the file was read.
    pub fn learn(&self, meta: &Metadata, digest: Digest, now: SystemTime) {
        let (modified, changed) = times(meta);
        // File systems that keep whole seconds need a longer pause to tell two changes apart.
        let tick = if modified % 1_000_000_000 == 0 { Duration::from_secs(2) } else { Duration::from_millis(50) };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let settled = i128::try_from(now.saturating_sub(tick).as_nanos()).unwrap_or(0);
        if modified < settled && changed < settled {
            self.learn_settled(meta, digest);
        }
    }

    /// Remembers the digest of a file nobody else can be writing.
    pub fn learn_settled(&self, meta: &Metadata, digest: Digest) {
        let (modified, changed) = times(meta);
        let mut known = self.lock();
        known.entries.insert((meta.dev(), meta.ino()), Entry { size: meta.len(), modified, changed, digest, used: true });
        known.news = true;
    }

    /// The bytes to keep, if there is anything new in them.
    pub fn to_save(&self) -> Option<Vec<u8>> {
        let mut known = self.lock();
        if !std::mem::take(&mut known.news) {
            return None;
        }
        let crowded = known.entries.len() > MOST_ENTRIES;
        let mut body = Vec::with_capacity(known.entries.len() * ENTRY);
        for ((device, inode), entry) in known.entries.iter().filter(|(_, entry)| entry.used || !crowded) {
            body.extend_from_slice(&device.to_le_bytes());
            body.extend_from_slice(&inode.to_le_bytes());
            body.extend_from_slice(&entry.size.to_le_bytes());
            body.extend_from_slice(&entry.modified.to_le_bytes());
            body.extend_from_slice(&entry.changed.to_le_bytes());
            body.extend_from_slice(&entry.digest.0);
        }
        Some([HEAD, Digest::of(&body).0.as_slice(), &body].concat())
    }

    /// Reads what [`StatIndex::to_save`] gave; whatever is not exactly that counts as nothing.
    pub fn load(bytes: &[u8]) -> Self {
        let body = bytes.strip_prefix(HEAD).and_then(|rest| rest.split_at_checked(32));
        let Some((sum, body)) = body else { return Self::default() };
        if Digest::of(body).0 != sum {
            return Self::default();
        }
        let entries = body.chunks_exact(ENTRY).filter_map(|mut bytes| {
            let key = (u64::from_le_bytes(take(&mut bytes)?), u64::from_le_bytes(take(&mut bytes)?));
            let size = u64::from_le_bytes(take(&mut bytes)?);
            let modified = i128::from_le_bytes(take(&mut bytes)?);
            let changed = i128::from_le_bytes(take(&mut bytes)?);
            Some((key, Entry { size, modified, changed, digest: Digest(take(&mut bytes)?), used: false }))
        });
        Self(Mutex::new(Known { entries: entries.collect(), news: false }))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const HEAD: &[u8] = b"voxpipe stat index 1\n";
const ENTRY: usize = 8 * 3 + 16 * 2 + 32;
/// Above this, entries nobody asked for are dropped.
const MOST_ENTRIES: usize = 200_000;

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn times(meta: &Metadata) -> (i128, i128) {
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    (nanoseconds(meta.mtime(), meta.mtime_nsec()), nanoseconds(meta.ctime(), meta.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_settled_files_are_remembered_and_any_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.wav");
        fs::write(&path, "aaaa").unwrap();
        let index = StatIndex::default();
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
        let index = StatIndex::default();
        index.learn_settled(&meta, Digest::of(b"x"));
        let bytes = index.to_save().unwrap();
        assert_eq!(index.to_save(), None, "nothing new since");
        assert_eq!(StatIndex::load(&bytes).known(&meta), Some(Digest::of(b"x")));
        for damage in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[damage] ^= 1;
            assert_eq!(StatIndex::load(&bad).known(&meta), None, "byte {damage}");
            assert_eq!(StatIndex::load(&bytes[..damage]).known(&meta), None, "cut at {damage}");
        }
    }
}
