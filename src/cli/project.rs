//! From a file name and some flags to a pipeline.

use super::{Changes, Project, note};
use crate::diagnostic::Diagnostic;
use crate::error::{Doing, Error, Exit, Result};
use crate::overrides::Overrides;
use crate::pipeline::{Parsed, Pipeline};
use crate::store::Store;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

impl Project {
    /// The project of a file, as it is.
    pub(super) fn of(file: PathBuf) -> Self {
        Self { file, changes: Changes::default() }
    }

    /// Reads and parses the file; complaints are left to the caller.
    pub(super) fn parse(&self) -> Result<(String, Parsed)> {
        let reading = || format!("cannot read `{}`", self.file.display());
        let text = fs::read_to_string(&self.file).doing(reading).map_err(|error| {
            error.exit(Exit::Usage).advice("name the pipeline file after the command; without a name it is ./pipeline.toml")
        })?;
        let overrides = Overrides { set: self.changes.set.clone(), profile: self.changes.profile.clone() };
        let parsed = Pipeline::parse(&text, &self.file, &overrides, &|name| std::env::var(name).ok());
        Ok((text, parsed))
    }

    /// The pipeline, or an error after every complaint was printed.
    pub(super) fn pipeline(&self) -> Result<Pipeline> {
        self.load().map(|(_, pipeline)| pipeline)
    }

    /// The state of the pipeline's project, to look at.
    pub(super) fn look(&self, pipeline: &Pipeline) -> Result<Store> {
        Self::share(Store::look(&pipeline.root)?, pipeline)
    }

    /// The state with the folder that the file or the environment shares it in.
    pub(super) fn share(store: Store, pipeline: &Pipeline) -> Result<Store> {
        let told = std::env::var_os("VOXPIPE_SHARED_CACHE");
        let folder = match &told {
            Some(folder) if folder.is_empty() => return Ok(store),
            Some(folder) => std::env::current_dir().doing(|| "cannot find the current folder")?.join(folder),
            None => match &pipeline.cache.shared {
                Some(folder) => pipeline.root.join(folder),
                None => return Ok(store),
            },
        };
        if !folder.is_dir() {
            note(&format!("the shared cache `{}` is not there, so nothing is shared; mount the disk or make the folder", folder.display()));
            return Ok(store);
        }
        let read_only = std::env::var_os("VOXPIPE_SHARED_CACHE_READ_ONLY").is_some_and(|value| !value.is_empty() && value != "0");
        Ok(store.sharing(&folder, read_only || pipeline.cache.read_only))
    }

    /// The pipeline with the text it was read from.
    pub(super) fn load(&self) -> Result<(String, Pipeline)> {
        let (text, parsed) = self.parse()?;
        self.tell(&text, &parsed.diagnostics);
        let errors = parsed.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        match parsed.pipeline {
            Some(pipeline) if errors == 0 => Ok((text, pipeline)),
            _ => Err(Error::new(format!("{} in `{}`; nothing was run", plural(errors, "error"), self.file.display())).exit(Exit::Usage)),
        }
    }

    /// The folder the project's state is in; a file with mistakes in it does not hide the past.
    pub(super) fn root(&self) -> Result<PathBuf> {
        let (_, parsed) = self.parse()?;
        Ok(parsed.pipeline.map_or_else(|| self.file.parent().unwrap_or(Path::new("")).to_owned(), |pipeline| pipeline.root))
    }

    /// Prints complaints to standard error.
    pub(super) fn tell(&self, text: &str, diagnostics: &[Diagnostic]) {
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        for diagnostic in diagnostics {
            let _ = writeln!(io::stderr(), "{}", diagnostic.render(&self.file, text, colour).trim_end());
            let _ = writeln!(io::stderr());
        }
    }
}

/// `1 error`, `2 errors`.
pub(super) fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
