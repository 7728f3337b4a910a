//! What a run leaves beside its log.

use super::files::Durability;
use super::{Store, files};
use crate::error::{Result, ResultExt};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

impl Store {
    /// The manifest of a run, if it has left one.
    pub fn provenance(&self, run: &str) -> Result<Option<Vec<u8>>> {
        let path = self.manifest(run);
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some).with_context(|| format!("cannot read `{}`", path.display())),
        }
    }

    /// Keeps the manifest of a run.
    pub fn keep_provenance(&self, run: &str, bytes: &[u8]) -> Result<()> {
        files::replace(&self.manifest(run), bytes, Durability::Whole)
    }

    fn manifest(&self, run: &str) -> PathBuf {
        self.dir.join("runs").join(run).join("provenance.json")
    }

    /// A new folder in which a run is to be repeated.
    pub fn place_to_repeat(&self, run: &str) -> Result<PathBuf> {
        let folder = self.dir.join("repro");
        let making = || format!("cannot make a folder in `{}`", folder.display());
        fs::create_dir_all(&folder).with_context(making)?;
        let mut number = 1;
        loop {
            let place = folder.join(format!("{run}-{number}"));
            match fs::create_dir(&place) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                made => return made.map(|()| place).with_context(making),
            }
        }
    }

    /// Removes the folder of a repetition.
    pub fn forget_repetition(&self, place: &Path) -> Result<()> {
        files::remove_folder(place)?;
        let _ = fs::remove_dir(self.dir.join("repro"));
        Ok(())
    }

    /// The folder of the project.
    pub fn root(&self) -> &Path {
        match self.dir.parent() {
            Some(root) if root != Path::new("") => root,
            _ => Path::new("."),
        }
    }

    /// Whether the process that took the lock last is still there. If it cannot be known, it is.
    pub fn held(&self) -> bool {
        let Ok(text) = fs::read_to_string(self.dir.join("lock")) else { return false };
        let number = text.split_whitespace().nth(1).and_then(|number| number.parse().ok());
        let Some(process) = number.and_then(rustix::process::Pid::from_raw) else { return true };
        !matches!(rustix::process::test_kill_process(process), Err(rustix::io::Errno::SRCH))
    }

    /// The process of the run that is going on, if one is.
    pub fn runner(&self) -> Option<rustix::process::Pid> {
        let text = fs::read_to_string(self.dir.join("lock")).ok()?;
        let number = text.split_whitespace().nth(1)?.parse().ok()?;
        let file = fs::File::open(self.dir.join("lock")).ok()?;
        // Whoever has the lock for itself is still there; asking to share it takes it from nobody.
        let free = file.try_lock_shared().is_ok();
        let _ = file.unlock();
        rustix::process::Pid::from_raw(number).filter(|_| !free)
    }
}
