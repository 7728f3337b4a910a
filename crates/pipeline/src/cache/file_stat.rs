//! What a file system tells of a file without opening it: enough to see that nothing changed, and whether that can be trusted.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Device, inode, size and both times. A file with an equal stamp was neither written to, nor replaced, nor had its modification time
/// put back: the status change time moves with each of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatKey {
    device: u64,
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970. A year beyond 2262 counts as the last moment there is.
    modified: i64,
    changed: i64,
}

/// Something that was looked at, with its stamp; without one it was not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedPath {
    /// Where it is.
    pub path: PathBuf,
    /// Its stamp.
    pub stamp: Option<StatKey>,
}

impl StatKey {
    /// How many bytes [`StatKey::write`] makes.
    pub const BYTES: usize = 40;

    /// The stamp of what was looked at.
    pub fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            changed: nanoseconds(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// The stamp of a path now, links followed; none if nothing is there or it cannot be looked at.
    pub fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }

    /// The same, of a name in an open folder.
    pub fn below(folder: &impl std::os::fd::AsFd, name: &str) -> Option<Self> {
        let stat = rustix::fs::statat(folder, name, rustix::fs::AtFlags::empty()).ok()?;
        Some(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: nanoseconds(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            changed: nanoseconds(stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
        })
    }

    /// Device and inode.
    pub fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether a further change would give another stamp. `now` was taken before the stamp: what had changed just then could change
    /// again within the same tick of the file system's clock and leave no trace.
    pub fn settled(&self, now: SystemTime) -> bool {
        // File systems that keep whole seconds need a longer pause to tell two changes apart.
        let tick = if self.modified % 1_000_000_000 == 0 { Duration::from_secs(2) } else { Duration::from_millis(50) };
        let before = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(tick);
        let before = i64::try_from(before.as_nanos()).unwrap_or(0);
        self.modified < before && self.changed < before
    }

    /// Appends the stamp.
    pub fn write(&self, to: &mut Vec<u8>) {
        for number in [self.device, self.inode, self.size] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        for time in [self.modified, self.changed] {
            to.extend_from_slice(&time.to_le_bytes());
        }
    }

    /// Takes a stamp off the front.
    pub fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut next = || {
            let (head, rest) = bytes.split_first_chunk::<8>()?;
            *bytes = rest;
            Some(*head)
        };
        Some(Self {
            device: u64::from_le_bytes(next()?),
            inode: u64::from_le_bytes(next()?),
            size: u64::from_le_bytes(next()?),
            modified: i64::from_le_bytes(next()?),
            changed: i64::from_le_bytes(next()?),
        })
    }
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
