//! Trackio on this machine: small files in a folder that a running dashboard empties into its database.
//!
//! A fragment is written under another name and renamed, so that it is whole when it is seen. The dashboard looks every few seconds and
//! removes what it has read; records it knows by their names are passed over.

use super::canonical;
use super::uploader::{Transport, UploadItem};
use crate::error::{Error, Result, ResultExt};
use pipeline::events::metrics_log;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Where fragments and recordings are left.
pub(super) struct FileSink {
    folder: PathBuf,
    writer: String,
    count: u64,
}

impl FileSink {
    /// For Trackio's data folder.
    pub(super) fn new(folder: PathBuf) -> Self {
        let writer = metrics_log::id(&folder).chars().take(16).collect();
        Self { folder, writer, count: 0 }
    }

    fn media(&self, from: &Path, project: &str, run: &str, step: u64, name: &str) -> Result<()> {
        let place = self.folder.join("media").join(canonical(project)).join(run).join(step.to_string()).join(name);
        if place.components().any(|part| part == Component::ParentDir) {
            return Err(Error::new(format!("`{run}` cannot be the name of a folder")));
        }
        let copying = || format!("cannot copy `{}` to `{}`", from.display(), place.display());
        fs::create_dir_all(place.parent().unwrap_or(&self.folder)).with_context(copying)?;
        // Read and written: a copy would be read-only, as results are.
        fs::read(from).and_then(|bytes| fs::write(&place, bytes)).with_context(copying)
    }
}

impl Transport for FileSink {
    fn deliver(&mut self, parcels: &[UploadItem]) -> Result<usize> {
        let mut lines = Vec::new();
        for parcel in parcels {
            match parcel {
                UploadItem::Record(record) => {
                    serde_json::to_writer(&mut lines, record)?;
                    lines.push(b'\n');
                }
                // Files lie there before the record that names them is seen.
                UploadItem::Media { from, project, run, step, name } => self.media(from, project, run, *step, name)?,
            }
        }
        if lines.is_empty() {
            return Ok(parcels.len());
        }
        let folder = self.folder.join("inbox").join(&self.writer);
        let path = folder.join(format!("{:08}.jsonl", self.count));
        let writing = || format!("cannot write `{}`", path.display());
        // The dashboard removes the folder when it has emptied it.
        fs::create_dir_all(&folder).with_context(writing)?;
        let aside = path.with_extension("tmp");
        fs::write(&aside, lines).with_context(writing)?;
        fs::rename(&aside, &path).with_context(writing)?;
        self.count += 1;
        Ok(parcels.len())
    }
}
