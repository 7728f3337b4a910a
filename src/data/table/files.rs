//! The files of a dataset by their relative paths, on the disk or inside of tar and zip archives.

use crate::data::ingest;
use crate::error::{Error, Result, ResultExt};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use zip::ZipArchive;

/// Access to the files of a dataset, with partial reads.
pub trait TableFiles {
    /// Name of the dataset, for messages.
    fn name(&self) -> &str;

    /// Relative paths of all files, in order.
    fn paths(&self) -> Vec<&str>;

    /// Whether there is such a file.
    fn contains(&self, path: &str) -> bool;

    /// Size of a file in bytes; 0 if it does not exist.
    fn size(&self, path: &str) -> u64;

    /// Reads `length` bytes at offset `from` of a file.
    fn part(&self, path: &str, from: u64, length: u64) -> Result<Vec<u8>>;

    /// Reads a whole file.
    fn whole(&self, path: &str) -> Result<Vec<u8>> {
        self.part(path, 0, self.size(path))
    }
}

/// Files on this machine.
#[derive(Default)]
pub struct LocalFiles {
    name: String,
    /// With the size of those in archives.
    files: BTreeMap<String, (Content, u64)>,
}

/// Where a file is.
enum Content {
    Disk(PathBuf),
    /// Offset in a tar archive.
    Tar(PathBuf, u64),
    /// Index in a zip archive.
    Zip(Arc<Mutex<ZipArchive<BufReader<File>>>>, usize),
}

impl LocalFiles {
    /// No files yet; see [`LocalFiles::add`].
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), files: BTreeMap::new() }
    }

    /// Opens a folder or an archive; `name` is its name in messages. Archives in a folder are opened if all its sound is in them.
    pub fn open(path: &Path, name: &str) -> Result<Self> {
        let mut files = Self::new(name);
        if path.is_file() && is_archive(path) {
            files.add_archive(path, "")?;
            return Ok(files);
        }
        if !path.is_dir() {
            return Err(Error::new(format!("folder `{name}` not found")).hint("fix the path; it is relative to the project root"));
        }
        let mut archives = Vec::new();
        let mut has_sound = false;
        for file in ingest::files(path)? {
            let Some(inside) = file.strip_prefix(path).ok().and_then(Path::to_str) else { continue };
            let inside = inside.replace('\\', "/");
            has_sound |= ingest::is_audio(&file);
            if is_archive(&file) {
                archives.push((inside.clone(), file.clone()));
            }
            files.add(inside, file);
        }
        if !has_sound {
            for (inside, file) in archives {
                files.files.remove(&inside);
                files.add_archive(&file, &format!("{inside}/"))?;
            }
        }
        Ok(files)
    }

    /// Adds a file under a relative path.
    pub fn add(&mut self, path: String, file: PathBuf) {
        self.files.insert(path, (Content::Disk(file), 0));
    }

    /// Adds the files in a tar or zip archive, their paths preceded by `before`.
    pub fn add_archive(&mut self, archive: &Path, before: &str) -> Result<()> {
        let shown = if before.is_empty() { self.name.clone() } else { before.trim_end_matches('/').to_owned() };
        let damaged = |error: &dyn std::fmt::Display| {
            Error::new(format!("`{shown}` cannot be read as an archive: {error}")).hint("unpack it, and name the folder instead")
        };
        let file = File::open(archive).with_context(|| format!("cannot read `{shown}`"))?;
        let mut found: Vec<(String, Content, u64)> = Vec::new();
        if archive.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip")) {
            let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| damaged(&error))?;
            let (length, zip) = (zip.len(), Arc::new(Mutex::new(zip)));
            for index in 0..length {
                let mut open = zip.lock().unwrap_or_else(PoisonError::into_inner);
                let member = open.by_index(index).map_err(|error| damaged(&error))?;
                if let Some(path) = member.enclosed_name().filter(|_| member.is_file()).and_then(|path| path.to_str().map(str::to_owned)) {
                    found.push((path, Content::Zip(Arc::clone(&zip), index), member.size()));
                }
            }
        } else {
            let size = file.metadata().map_or(0, |about| about.len());
            let mut tar = tar::Archive::new(BufReader::new(file));
            for member in tar.entries_with_seek().map_err(|error| damaged(&error))? {
                let member = member.map_err(|error| damaged(&error))?;
                let at = member.raw_file_position();
                let path = member.path().ok().and_then(|path| path.to_str().map(str::to_owned));
                if let Some(path) = path.filter(|_| member.header().entry_type().is_file()) {
                    if at.saturating_add(member.size()) > size {
                        return Err(damaged(&format!("`{path}` ends after the archive")));
                    }
                    found.push((path, Content::Tar(archive.to_owned(), at), member.size()));
                }
            }
        }
        for (path, content, size) in found {
            let path = path.replace('\\', "/");
            let path = path.trim_start_matches("./");
            let parts = || path.split('/');
            if path.starts_with('/') || parts().any(|part| part == ".." || ingest::is_litter(part)) {
                continue;
            }
            self.files.insert(format!("{before}{path}"), (content, size));
        }
        Ok(())
    }

    /// The file on the disk; `None` for a file in an archive.
    pub fn on_disk(&self, path: &str) -> Option<&Path> {
        match self.files.get(path) {
            Some((Content::Disk(file), _)) => Some(file),
            _ => None,
        }
    }
}

/// Whether a file is an archive that can be read without unpacking it.
pub fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tar") || ending.eq_ignore_ascii_case("zip"))
}

impl TableFiles for LocalFiles {
    fn name(&self) -> &str {
        &self.name
    }

    fn paths(&self) -> Vec<&str> {
        self.files.keys().map(String::as_str).collect()
    }

    fn contains(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    fn size(&self, path: &str) -> u64 {
        match self.files.get(path) {
            // Asked for when needed: most files of a dataset are recordings, whose size nobody asks.
            Some((Content::Disk(file), _)) => fs::metadata(file).map_or(0, |found| found.len()),
            Some((_, size)) => *size,
            None => 0,
        }
    }

    fn part(&self, path: &str, from: u64, length: u64) -> Result<Vec<u8>> {
        let shown = || format!("cannot read `{}/{path}`", self.name);
        let Some((content, _)) = self.files.get(path) else { return Err(Error::new(shown())) };
        let mut bytes = Vec::new();
        let mut read = || -> std::io::Result<u64> {
            match content {
                Content::Disk(file) => {
                    let mut file = File::open(file)?;
                    file.seek(SeekFrom::Start(from))?;
                    file.take(length).read_to_end(&mut bytes)
                }
                Content::Tar(archive, at) => {
                    let mut file = File::open(archive)?;
                    file.seek(SeekFrom::Start(at + from))?;
                    file.take(length).read_to_end(&mut bytes)
                }
                Content::Zip(zip, index) => {
                    let mut zip = zip.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut member = zip.by_index(*index)?;
                    std::io::copy(&mut (&mut member).take(from), &mut std::io::sink())?;
                    member.take(length).read_to_end(&mut bytes)
                }
            }
            .map(|read| read as u64)
        };
        let read = read().with_context(shown)?;
        if read < length {
            return Err(Error::new(format!("{}: it has {} bytes, not {}", shown(), from + read, from + length)).hint("get the file again"));
        }
        Ok(bytes)
    }
}
