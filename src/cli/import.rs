//! `voxpipe import`: reads a run from an archive written by `voxpipe export`.

use super::project::plural;
use super::{Project, note, print, print_json};
use crate::error::Result;
use clap::Args;
use pipeline::cache::store::Store;
use serde_json::json;
use std::path::PathBuf;

/// Options of `voxpipe import`.
#[derive(Args)]
pub(super) struct Import {
    /// Archive written by `voxpipe export`
    archive: PathBuf,
    /// Pipeline file of the project
    #[arg(long, default_value = "pipeline.toml")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Import {
    /// Adds the run, its cache entries and its results to the project's store.
    pub(super) fn go(&self) -> Result<()> {
        let root = Project::of(self.file.clone()).root()?;
        let store = Store::open(&root, "voxpipe import")?;
        let imported = store.import(&self.archive)?;
        let [results, new] = imported.results;
        if self.json {
            return print_json(json!({ "run": imported.run, "was": imported.was, "results": results, "new": new }));
        }
        if imported.run != imported.was {
            note(&format!("this project has another run {}; the imported run is named {}", imported.was, imported.run));
        }
        print(&format!("imported run {} with {}, {new} new; all digests verified\n", imported.run, plural(results, "result")))
    }
}
