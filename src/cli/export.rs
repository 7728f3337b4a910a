//! `voxpipe export`: writes a run to a tar.zst archive.

use super::project::plural;
use super::provenance::Provenance;
use super::summary::{Summary, find};
use super::{Project, print, print_json};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use clap::Args;
use pipeline::cache::store::Store;
use pipeline::manifest::byte_size;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// Options of `voxpipe export`.
#[derive(Args)]
pub(super) struct Export {
    /// Run id or `latest`
    run: String,
    /// Archive to write, such as run.tar.zst
    archive: PathBuf,
    /// Pipeline file of the project [default: pipeline.toml in this folder, or in the nearest folder above]
    #[arg(long)]
    file: Option<PathBuf>,
    /// Export only log, provenance and cache entries without result files; enough for `show`, `diff` and `why --vs`
    #[arg(long)]
    no_results: bool,
    /// Overwrite an existing archive
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Export {
    /// Writes the archive.
    pub(super) fn go(&self) -> Result<()> {
        let store = Store::open_readonly(&Project::at(self.file.clone()).root()?)?;
        let run = find(&store, &self.run)?;
        if self.archive.exists() && !self.force {
            return Err(Error::new(format!("`{}` already exists", self.archive.display()))
                .kind(ErrorKind::InvalidInput)
                .hint("choose another file name, or overwrite it with `--force`"));
        }
        let summary = Summary::of(&store, &run)?;
        let records = summary.stages.iter().filter_map(|stage| stage.record(&store));
        let records = records.map(|record| (record.ingredients.fingerprint(), record)).collect();
        let provenance = Provenance::find(&store, &run)?.map(|provenance| serde_json::to_vec(&provenance)).transpose()?;
        let about = store.export(&run, provenance.as_deref(), &records, !self.no_results, &self.archive)?;
        let bytes = fs::metadata(&self.archive).with_context(|| format!("cannot read the size of `{}`", self.archive.display()))?.len();
        if self.json {
            let (results, archive) = (about.results.len(), &self.archive);
            return print_json(
                json!({ "run": run, "archive": archive, "bytes": bytes, "results": results, "records": about.fingerprints.len() }),
            );
        }
        let results = if self.no_results { "no results".to_owned() } else { plural(about.results.len(), "result") };
        print(&format!("exported run {run} with {results} to `{}` ({})\n", self.archive.display(), byte_size::words(bytes)))
    }
}
