//! Access to the files of a dataset in a folder, an archive or a Hub repository, with partial reads.

use crate::data::table::{LocalFiles, TableFiles};
use crate::error::{Result, ResultExt};
use crate::hub::read::RepoReader;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of a dataset by their relative paths.
pub(super) enum Place<'a> {
    /// A folder or an archive.
    Local(LocalFiles),
    /// A Hub repository: its name, and its files with their sizes.
    Hub { name: String, files: BTreeMap<String, u64>, reader: Box<RepoReader<'a>> },
}

impl<'a> Place<'a> {
    /// Opens a folder or an archive; `name` is its name in messages and results.
    pub(super) fn folder(path: &Path, name: &str) -> Result<Self> {
        LocalFiles::open(path, name).map(Self::Local)
    }

    /// Opens a Hub repository.
    pub(super) fn hub(reader: RepoReader<'a>) -> Result<Self> {
        let files = reader.list("", true)?.unwrap_or_default();
        let files = files.into_iter().filter(|entry| !entry.folder).map(|entry| (entry.path, entry.size)).collect();
        Ok(Self::Hub { name: reader.name(), files, reader: Box::new(reader) })
    }

    /// The reader of the Hub repository; `None` for a folder.
    pub(super) fn reader(&self) -> Option<&RepoReader<'a>> {
        match self {
            Self::Hub { reader, .. } => Some(reader),
            Self::Local(_) => None,
        }
    }

    /// Whether a file can be read where it is.
    pub(super) fn is_on_disk(&self, path: &str) -> bool {
        matches!(self, Self::Local(files) if files.on_disk(path).is_some())
    }

    /// The local path of a file; a file on the Hub or in an archive is first written to `into`.
    pub(super) fn local(&self, path: &str, into: &Path) -> Result<PathBuf> {
        if let Self::Local(files) = self
            && let Some(file) = files.on_disk(path)
        {
            return Ok(file.to_owned());
        }
        fs::write(into, self.whole(path)?).with_context(|| format!("cannot write `{}`", into.display()))?;
        Ok(into.to_owned())
    }
}

impl TableFiles for Place<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Local(files) => files.name(),
            Self::Hub { name, .. } => name,
        }
    }

    fn paths(&self) -> Vec<&str> {
        match self {
            Self::Local(files) => files.paths(),
            Self::Hub { files, .. } => files.keys().map(String::as_str).collect(),
        }
    }

    fn contains(&self, path: &str) -> bool {
        match self {
            Self::Local(files) => files.contains(path),
            Self::Hub { files, .. } => files.contains_key(path),
        }
    }

    fn size(&self, path: &str) -> u64 {
        match self {
            Self::Local(files) => files.size(path),
            Self::Hub { files, .. } => files.get(path).copied().unwrap_or(0),
        }
    }

    fn part(&self, path: &str, from: u64, length: u64) -> Result<Vec<u8>> {
        match self {
            Self::Local(files) => files.part(path, from, length),
            Self::Hub { reader, .. } => reader.part(path, from, length),
        }
    }
}
