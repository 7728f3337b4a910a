//! File transport for a local Trackio: JSONL fragments in its `inbox` folder, which the dashboard imports into its database.
//!
//! Each fragment is written to a temporary name and renamed, so the dashboard never reads a partial file. The dashboard polls every few
//! seconds, deletes imported fragments and skips records whose ids it already has.

use super::canonical;
use super::uploader::{Transport, UploadItem};
use crate::error::{Error, Result, ResultExt};
use pipeline::events::metrics_log;
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use voxpipe_io::write::{Durability, write_atomic_with};

/// Writes fragments and media files to Trackio's data folder.
pub(super) struct FileSink {
    folder: PathBuf,
    writer: String,
    count: u64,
}

impl FileSink {
    /// A sink for Trackio's data folder. Each sink writes to an inbox subfolder of its own.
    pub(super) fn new(folder: PathBuf) -> Self {
        let writer = metrics_log::id(&folder).chars().take(16).collect();
        Self { folder, writer, count: 0 }
    }

    /// Copies a media file to `media/PROJECT/RUN/STEP/NAME`.
    fn media(&self, from: &Path, project: &str, run: &str, step: u64, name: &str) -> Result<()> {
        let place = self.folder.join("media").join(canonical(project)).join(run).join(step.to_string()).join(name);
        if place.components().any(|part| part == Component::ParentDir) {
            return Err(Error::new(format!("the run name `{run}` cannot be used as a folder name")));
        }
        let copying = || format!("cannot copy `{}` to `{}`", from.display(), place.display());
        fs::create_dir_all(place.parent().unwrap_or(&self.folder)).with_context(copying)?;
        // `fs::copy` would also copy the read-only permission of cached results.
        fs::read(from).and_then(|bytes| fs::write(&place, bytes)).with_context(copying)
    }
}

impl Transport for FileSink {
    fn deliver(&mut self, items: &[UploadItem]) -> Result<usize> {
        let mut lines = Vec::new();
        for item in items {
            match item {
                UploadItem::Record(record) => {
                    serde_json::to_writer(&mut lines, record)?;
                    lines.push(b'\n');
                }
                // Media files must exist before the record that refers to them is imported.
                UploadItem::Media { from, project, run, step, name } => self.media(from, project, run, *step, name)?,
            }
        }
        if lines.is_empty() {
            return Ok(items.len());
        }
        let folder = self.folder.join("inbox").join(&self.writer);
        let path = folder.join(format!("{:08}.jsonl", self.count));
        let writing = || format!("cannot write `{}`", path.display());
        // The dashboard removes the folder once it is empty.
        write_atomic_with(&path, Durability::ProcessEnd, |file| file.write_all(lines.as_ref()).with_context(writing))?;
        self.count += 1;
        Ok(items.len())
    }
}
