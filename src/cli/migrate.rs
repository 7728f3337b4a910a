//! `voxpipe migrate`: updates a pipeline file to the current schema version.

use super::{Project, print, print_json};
use crate::error::{Error, Result, ResultExt};
use clap::Args;
use pipeline::exit::Exit;
use pipeline::manifest::migration;
use pipeline::manifest::migration::MigratedFile;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use voxpipe_io::write::{Durability, write_atomic_with};

/// Options of `voxpipe migrate`.
#[derive(Args)]
pub(super) struct Migrate {
    /// Pipeline file
    #[arg(default_value = "pipeline.toml")]
    file: PathBuf,
    /// Only check: exit code 2 if a file needs migration
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Migrate {
    /// Rewrites the pipeline file and its includes where needed, and returns the exit code.
    pub(super) fn go(self) -> Result<u8> {
        let sources = Project::of(self.file.clone()).sources()?;
        let mut changes = Vec::new();
        let mut texts = Vec::new();
        // All files are read before the first is written.
        for (position, (path, text)) in sources.texts().enumerate() {
            // Only the main file declares the schema version.
            match migration::migrate(text, position == 0).map_err(|error| error.context(path.display()))? {
                MigratedFile::Current => {}
                MigratedFile::Changed { text, from, steps } => {
                    changes.push(json!({ "file": path, "from": from, "to": pipeline::manifest::SCHEMA, "steps": steps }));
                    texts.push((path.to_owned(), text));
                }
            }
        }
        let exit = if self.check && !texts.is_empty() { Exit::Usage } else { Exit::Done };
        let mut lines = String::new();
        for (path, text) in &texts {
            if self.check {
                lines.push_str(&format!("{}: needs migration; run `voxpipe migrate`\n", path.display()));
                continue;
            }
            let writing = || format!("cannot write `{}`", path.display());
            let permissions = fs::metadata(path).with_context(writing).map_err(Error::environment)?.permissions();
            write_atomic_with(path, Durability::PowerLoss, |file| {
                file.set_permissions(permissions).and_then(|()| file.write_all(text.as_bytes())).with_context(writing)
            })
            .map_err(Error::environment)?;
            lines.push_str(&format!("{}: migrated to schema {}\n", path.display(), pipeline::manifest::SCHEMA));
        }
        if self.json {
            print_json(json!({ "files": changes, "written": !self.check }))?;
        } else if texts.is_empty() {
            print(&format!("{}: already uses schema {}\n", self.file.display(), pipeline::manifest::SCHEMA))?;
        } else {
            print(&lines)?;
        }
        Ok(exit as u8)
    }
}
