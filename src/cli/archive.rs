//! `export` and `import`: a run as one file.

use super::project::plural;
use super::provenance::Provenance;
use super::summary::{Summary, find};
use super::{Project, note, print, print_json};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use clap::Args;
use pipeline::cache::store::Store;
use pipeline::manifest::byte_size;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// Which run to write, and where.
#[derive(Args)]
pub(super) struct Export {
    /// Its id, or `latest`
    run: String,
    /// The archive to write, such as run.tar.zst
    archive: PathBuf,
    /// The pipeline file, by which the project is found
    #[arg(long, default_value = "pipeline.toml")]
    file: PathBuf,
    /// Leave the results out: log, manifest and what is known of the results, enough for `show`, `diff` and `why --vs`
    #[arg(long)]
    no_results: bool,
    /// Replace the archive if it is there
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Which archive to read.
#[derive(Args)]
pub(super) struct Import {
    /// What `voxpipe export` wrote
    archive: PathBuf,
    /// The pipeline file, by which the project is found
    #[arg(long, default_value = "pipeline.toml")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Export {
    /// `voxpipe export`.
    pub(super) fn go(&self) -> Result<()> {
        let store = Store::look(&Project::of(self.file.clone()).root()?)?;
        let run = find(&store, &self.run)?;
        if self.archive.exists() && !self.force {
            return Err(Error::new(format!("`{}` is there already", self.archive.display()))
                .kind(ErrorKind::InvalidInput)
                .hint("name another file, or say `--force` to replace it"));
        }
        let summary = Summary::of(&store, &run)?;
        let records = summary.stages.iter().filter_map(|stage| stage.record(&store));
        let records = records.map(|record| (record.ingredients.fingerprint(), record)).collect();
        let manifest = Provenance::find(&store, &run)?.map(|manifest| serde_json::to_vec(&manifest)).transpose()?;
        let about = store.export(&run, manifest.as_deref(), &records, !self.no_results, &self.archive)?;
        let bytes = fs::metadata(&self.archive).with_context(|| format!("cannot look at `{}`", self.archive.display()))?.len();
        if self.json {
            let (results, archive) = (about.results.len(), &self.archive);
            return print_json(
                json!({ "run": run, "archive": archive, "bytes": bytes, "results": results, "records": about.fingerprints.len() }),
            );
        }
        let results = if self.no_results { "no results".to_owned() } else { plural(about.results.len(), "result") };
        print(&format!("run {run} with {results} in `{}`, {}\n", self.archive.display(), byte_size::words(bytes)))
    }
}

impl Import {
    /// `voxpipe import`.
    pub(super) fn go(&self) -> Result<()> {
        let root = Project::of(self.file.clone()).root()?;
        let store = Store::open(&root, "voxpipe import")?;
        let imported = store.import(&self.archive)?;
        let [results, new] = imported.results;
        if self.json {
            return print_json(json!({ "run": imported.run, "was": imported.was, "results": results, "new": new }));
        }
        if imported.run != imported.was {
            note(&format!("there is another run {} here, so it is called {}", imported.was, imported.run));
        }
        print(&format!(
            "run {} with {}, {new} of them new here; every file is what its digest says\n",
            imported.run,
            plural(results, "result")
        ))
    }
}
