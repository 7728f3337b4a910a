//! Stat keys: detect that a file is unchanged from its metadata, without opening it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Device, inode, size, mtime and ctime of a file.
///
/// A file with an equal key was not written to or replaced, and its mtime was not reset: each of these changes the ctime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatKey {
    device: u64,
    inode: u64,
    size: u64,
    /// mtime in nanoseconds since 1970; saturates in the year 2262.
    modified: i64,
    /// ctime in nanoseconds since 1970.
    changed: i64,
}

/// A path that was accessed, with its stat key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedPath {
    /// The path.
    pub path: PathBuf,
    /// The stat key; `None` if the path did not exist.
    pub stamp: Option<StatKey>,
}

impl StatKey {
    /// The length in bytes of a key written by [`StatKey::write`].
    pub const BYTES: usize = 40;

    /// The key of a file's metadata.
    pub fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            changed: nanoseconds(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// The current key of a path, with links followed; `None` if it does not exist or cannot be accessed.
    pub fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }

    /// Like [`StatKey::at`], for a name in an open folder.
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

    /// Whether a later change is certain to change the key.
    ///
    /// `now` must be taken before the key. A file modified just before `now` could be modified again within the same tick of the file
    /// system's clock, which would leave the key unchanged.
    pub fn settled(&self, now: SystemTime) -> bool {
        // File systems with timestamps in whole seconds need a longer interval to distinguish two changes.
        let tick = if self.modified % 1_000_000_000 == 0 { Duration::from_secs(2) } else { Duration::from_millis(50) };
        let before = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(tick);
        let before = i64::try_from(before.as_nanos()).unwrap_or(0);
        self.modified < before && self.changed < before
    }

    /// Appends the key in its binary form.
    pub fn write(&self, to: &mut Vec<u8>) {
        for number in [self.device, self.inode, self.size] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        for time in [self.modified, self.changed] {
            to.extend_from_slice(&time.to_le_bytes());
        }
    }

    /// Reads a key and advances `bytes` past it.
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
