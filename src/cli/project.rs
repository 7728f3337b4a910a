//! From a file name and some flags to a pipeline.

use super::{Changes, Project, note};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::lockfile::Lockfile;
use crate::stages::STAGES;
use pipeline::cache::store::Store;
use pipeline::graph::{ParsedPipeline, Pipeline};
use pipeline::manifest::diagnostic::Diagnostic;
use pipeline::manifest::include::ManifestSources;
use pipeline::manifest::include_files::read_included;
use pipeline::manifest::matrix::{SweepCombination, SweepMatrix};
use pipeline::manifest::overrides::CommandLineOverrides;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

impl Project {
    /// The project of a file, as it is.
    pub(super) fn of(file: PathBuf) -> Self {
        Self { file, changes: Changes::default() }
    }

    /// Reads and parses the file; complaints are left to the caller.
    pub(super) fn parse(&self) -> Result<(ManifestSources, ParsedPipeline)> {
        let sources = self.sources()?;
        let parsed = self.parse_combination(&sources, None)?;
        Ok((sources, parsed))
    }

    /// Parses the file with a choice of values from its `[matrix]`; repositories of the Hub are pinned as the lock file says.
    pub(super) fn parse_combination(&self, sources: &ManifestSources, combination: Option<&SweepCombination>) -> Result<ParsedPipeline> {
        let mut parsed = self.parse_unpinned(sources, combination);
        if let Some(pipeline) = &mut parsed.pipeline {
            self.pin(pipeline)?;
        }
        Ok(parsed)
    }

    /// As [`Project::parse_combination`], with repositories as the file names them.
    pub(super) fn parse_unpinned(&self, sources: &ManifestSources, combination: Option<&SweepCombination>) -> ParsedPipeline {
        let overrides = CommandLineOverrides { combination: combination.cloned(), ..self.overrides() };
        Pipeline::parse_sources(STAGES, sources, &self.file, &overrides, &|name| std::env::var(name).ok())
    }

    fn pin(&self, pipeline: &mut Pipeline) -> Result<()> {
        let file = Lockfile::beside(&self.file);
        let pins = Lockfile::read(&file)?;
        let mut lacking = None;
        for step in &mut pipeline.steps {
            let (name, root) = (&step.name, &pipeline.root);
            step.stage.pin(&mut crate::hub::by_repository(|repository| {
                let commit = pins.commit(repository).map(str::to_owned);
                if commit.is_none() && !root.join(repository.id()).is_dir() {
                    lacking = lacking.take().or_else(|| Some((name.clone(), repository.clone())));
                }
                commit
            }));
        }
        match lacking.filter(|_| self.changes.locked) {
            None => Ok(()),
            Some((stage, repository)) => {
                Err(Error::new(format!("stage `{stage}` reads `{repository}`, which `{}` does not pin", file.display()))
                    .kind(ErrorKind::InvalidInput)
                    .hint("`voxpipe lock` writes down its commit; or name one in the pipeline"))
            }
        }
    }

    /// The file with everything it includes.
    pub(super) fn sources(&self) -> Result<ManifestSources> {
        let reading = || format!("cannot read `{}`", self.file.display());
        let text = fs::read_to_string(&self.file).with_context(reading).map_err(|error| {
            error.kind(ErrorKind::InvalidInput).hint("name the pipeline file after the command; without a name it is ./pipeline.toml")
        })?;
        Ok(ManifestSources::gather(&text, &self.file, &read_included))
    }

    /// The changes that the command line makes.
    pub(super) fn overrides(&self) -> CommandLineOverrides {
        CommandLineOverrides { set: self.changes.set.clone(), profiles: self.changes.profiles.clone(), combination: None }
    }

    /// The changes of the command line as they are written there.
    pub(super) fn changes(&self) -> Vec<String> {
        let profiles = self.changes.profiles.iter().map(|name| format!("-p {name}"));
        profiles.chain(self.changes.set.iter().map(|(key, value)| format!("--set {key}={value}"))).collect()
    }

    /// What a pipeline was read from, in words, where that is more than its file.
    pub(super) fn read_from(&self, sources: &ManifestSources) -> Option<String> {
        let files = sources.files().map(|file| file.display().to_string());
        let all: Vec<String> = files.chain(self.changes()).collect();
        (all.len() > 1).then(|| all.join(" + "))
    }

    /// The pipeline, or an error after every complaint was printed.
    pub(super) fn pipeline(&self) -> Result<Pipeline> {
        self.with_sources().map(|(_, pipeline)| pipeline)
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
            Some(folder) => std::env::current_dir().with_context(|| "cannot find the current folder")?.join(folder),
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

    /// The pipeline with the texts it was read from.
    pub(super) fn with_sources(&self) -> Result<(ManifestSources, Pipeline)> {
        let sources = self.sources()?;
        let pipeline = self.pipeline_of(&sources)?;
        Ok((sources, pipeline))
    }

    /// The pipeline of texts that were read already.
    pub(super) fn pipeline_of(&self, sources: &ManifestSources) -> Result<Pipeline> {
        let parsed = self.parse_combination(sources, None)?;
        self.sound(sources, parsed.pipeline, &parsed.diagnostics)
    }

    /// The pipeline with repositories as the file names them, its texts, and its matrix.
    pub(super) fn unpinned(&self) -> Result<(ManifestSources, Pipeline, Option<SweepMatrix>)> {
        let sources = self.sources()?;
        let parsed = self.parse_unpinned(&sources, None);
        let pipeline = self.sound(&sources, parsed.pipeline, &parsed.diagnostics)?;
        Ok((sources, pipeline, parsed.matrix))
    }

    fn sound(&self, sources: &ManifestSources, pipeline: Option<Pipeline>, diagnostics: &[Diagnostic]) -> Result<Pipeline> {
        self.tell(sources, diagnostics);
        let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        match pipeline {
            Some(pipeline) if errors == 0 => Ok(pipeline),
            _ => Err(Error::new(format!("{} in `{}`; nothing was run", plural(errors, "error"), self.file.display()))
                .kind(ErrorKind::InvalidInput)),
        }
    }

    /// The folder the project's state is in; a file with mistakes in it does not hide the past.
    pub(super) fn root(&self) -> Result<PathBuf> {
        let (_, parsed) = self.parse()?;
        Ok(parsed.pipeline.map_or_else(|| self.file.parent().unwrap_or(Path::new("")).to_owned(), |pipeline| pipeline.root))
    }

    /// Prints complaints to standard error.
    pub(super) fn tell(&self, sources: &ManifestSources, diagnostics: &[Diagnostic]) {
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        for diagnostic in diagnostics {
            let _ = writeln!(io::stderr(), "{}", diagnostic.render(&self.file, sources.own_text(), colour).trim_end());
            let _ = writeln!(io::stderr());
        }
    }
}

/// `1 error`, `2 errors`.
pub(super) fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
