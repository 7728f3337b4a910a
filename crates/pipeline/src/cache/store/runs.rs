//! Provenance files and folders of reproduced runs.

use super::files::Durability;
use super::{Store, files};
use crate::error::{Result, ResultExt};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

impl Store {
    /// The provenance of a run, if it has one.
    pub fn provenance(&self, run: &str) -> Result<Option<Vec<u8>>> {
        let path = self.manifest(run);
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some).with_context(|| format!("cannot read `{}`", path.display())),
        }
    }

    /// Writes the provenance of a run.
    pub fn keep_provenance(&self, run: &str, bytes: &[u8]) -> Result<()> {
        files::replace(&self.manifest(run), bytes, Durability::Whole)
    }

    fn manifest(&self, run: &str) -> PathBuf {
        self.dir.join("runs").join(run).join("provenance.json")
    }

    /// Creates a new folder in which a run is reproduced.
    pub fn place_to_repeat(&self, run: &str) -> Result<PathBuf> {
        let folder = self.dir.join("repro");
        let making = || format!("cannot create a folder in `{}`", folder.display());
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

    /// Removes the folder of a reproduced run.
    pub fn forget_repetition(&self, place: &Path) -> Result<()> {
        files::remove_folder(place)?;
        let _ = fs::remove_dir(self.dir.join("repro"));
        Ok(())
    }

    /// The project folder.
    pub fn root(&self) -> &Path {
        match self.dir.parent() {
            Some(root) if root != Path::new("") => root,
            _ => Path::new("."),
        }
    }
}
