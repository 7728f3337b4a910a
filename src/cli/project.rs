//! Loading a pipeline: reads the pipeline file, applies command-line changes and the lockfile, prints diagnostics.

use super::{Changes, Project, note, twins};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::lockfile::Lockfile;
use crate::stages::STAGES;
use pipeline::cache::reads;
use pipeline::cache::store::Store;
use pipeline::diagnostics::Diagnostic;
use pipeline::graph::{ParsedPipeline, Pipeline};
use pipeline::manifest::include::ManifestSources;
use pipeline::manifest::include_files::{read, read_included};
use pipeline::manifest::matrix::{SweepCombination, SweepMatrix};
use pipeline::manifest::overrides::CommandLineOverrides;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The name of a pipeline file that need not be named.
const PIPELINE_FILE: &str = "pipeline.toml";

impl Project {
    /// The project of a pipeline file with command-line changes.
    pub(super) fn new(named: Option<PathBuf>, changes: Changes) -> Self {
        Self { named, found: OnceLock::new(), changes }
    }

    /// The project of a pipeline file, without changes.
    pub(super) fn of(file: PathBuf) -> Self {
        Self::at(Some(file))
    }

    /// The project of a pipeline file that was named or has to be found, without changes.
    pub(super) fn at(named: Option<PathBuf>) -> Self {
        Self::new(named, Changes::default())
    }

    /// The pipeline file: the one named, the one in the current folder, or the one in the nearest folder above.
    pub(super) fn file(&self) -> &Path {
        match &self.named {
            Some(file) => file,
            None => self.found.get_or_init(|| {
                let here = PathBuf::from(PIPELINE_FILE);
                if here.exists() {
                    return here;
                }
                let Some(above) = file_above() else { return here };
                note(&format!("no `{PIPELINE_FILE}` in this folder: using `{}`", above.display()));
                above
            }),
        }
    }

    /// Reads and parses the pipeline file. Diagnostics are returned, not printed.
    pub(super) fn parse(&self) -> Result<(ManifestSources, ParsedPipeline)> {
        let sources = self.sources()?;
        let parsed = self.parse_combination(&sources, None)?;
        Ok((sources, parsed))
    }

    /// Parses the pipeline for one combination of its `[matrix]`, with Hub repositories pinned by the lockfile.
    pub(super) fn parse_combination(&self, sources: &ManifestSources, combination: Option<&SweepCombination>) -> Result<ParsedPipeline> {
        let mut parsed = self.parse_unpinned(sources, combination);
        if let Some(pipeline) = &mut parsed.pipeline {
            self.pin(pipeline)?;
        }
        Ok(parsed)
    }

    /// Like [`Project::parse_combination`], but does not apply the lockfile.
    pub(super) fn parse_unpinned(&self, sources: &ManifestSources, combination: Option<&SweepCombination>) -> ParsedPipeline {
        let overrides = CommandLineOverrides { combination: combination.cloned(), ..self.overrides() };
        let mut parsed =
            Pipeline::parse_sources(STAGES, sources, self.file(), &overrides, &|name| reads::variable(name)?.into_string().ok());
        let twins = |pipeline: &Pipeline| reads::unrecorded(|| twins::warning(sources, pipeline));
        parsed.diagnostics.extend(parsed.pipeline.as_ref().and_then(twins));
        parsed
    }

    fn pin(&self, pipeline: &mut Pipeline) -> Result<()> {
        let file = Lockfile::beside(self.file());
        let pins = Lockfile::read(&file)?;
        let mut unpinned = None;
        for step in &mut pipeline.steps {
            let (name, root) = (&step.name, &pipeline.root);
            step.stage.pin(&mut crate::hub::by_repository(|repository| {
                let commit = pins.commit(repository).map(str::to_owned);
                if commit.is_none() && !root.join(repository.id()).is_dir() {
                    unpinned = unpinned.take().or_else(|| Some((name.clone(), repository.clone())));
                }
                commit
            }));
        }
        match unpinned.filter(|_| self.changes.locked) {
            None => Ok(()),
            Some((stage, repository)) => {
                Err(Error::new(format!("stage `{stage}` reads `{repository}`, which `{}` does not pin", file.display()))
                    .kind(ErrorKind::InvalidInput)
                    .hint("run `voxpipe lock`, or write a commit in the pipeline file"))
            }
        }
    }

    /// The pipeline file with its includes.
    pub(super) fn sources(&self) -> Result<ManifestSources> {
        let text = read(self.file()).map_err(|message| {
            let error = Error::new(message).kind(ErrorKind::InvalidInput);
            let hint = "pass the pipeline file after the command (the default is pipeline.toml in this folder or in one above), or write one with `voxpipe init`";
            if self.file().is_file() { error } else { error.hint(hint) }
        })?;
        Ok(ManifestSources::gather(&text, self.file(), &read_included))
    }

    /// The command-line changes as manifest overrides.
    pub(super) fn overrides(&self) -> CommandLineOverrides {
        CommandLineOverrides { set: self.changes.set.clone(), profiles: self.changes.profiles.clone(), combination: None }
    }

    /// The command-line changes as arguments.
    pub(super) fn changes(&self) -> Vec<String> {
        let profiles = self.changes.profiles.iter().map(|name| format!("-p {name}"));
        profiles.chain(self.changes.set.iter().map(|(key, value)| format!("--set {key}={value}"))).collect()
    }

    /// The sources of the pipeline in words; none if it is only the pipeline file.
    pub(super) fn read_from(&self, sources: &ManifestSources) -> Option<String> {
        let files = sources.files().map(|file| file.display().to_string());
        let all: Vec<String> = files.chain(self.changes()).collect();
        (all.len() > 1).then(|| all.join(" + "))
    }

    /// Loads the pipeline. Prints all diagnostics; any error among them is an error.
    pub(super) fn pipeline(&self) -> Result<Pipeline> {
        self.with_sources().map(|(_, pipeline)| pipeline)
    }

    /// Opens the store of the pipeline's project read-only, with its shared cache.
    pub(super) fn read_store(&self, pipeline: &Pipeline) -> Result<Store> {
        Self::share(Store::open_readonly(&pipeline.root)?, pipeline)
    }

    /// Adds the shared cache that the environment or the pipeline file configures.
    pub(super) fn share(store: Store, pipeline: &Pipeline) -> Result<Store> {
        let variable = std::env::var_os("VOXPIPE_SHARED_CACHE");
        let folder = match &variable {
            Some(folder) if folder.is_empty() => return Ok(store),
            Some(folder) => std::env::current_dir().with_context(|| "cannot find the current folder")?.join(folder),
            None => match &pipeline.cache.shared {
                Some(folder) => pipeline.root.join(folder),
                None => return Ok(store),
            },
        };
        if !folder.is_dir() {
            note(&format!("shared cache `{}` does not exist and is not used; mount the disk or create the folder", folder.display()));
            return Ok(store);
        }
        let read_only = std::env::var_os("VOXPIPE_SHARED_CACHE_READ_ONLY").is_some_and(|value| !value.is_empty() && value != "0");
        Ok(store.sharing(&folder, read_only || pipeline.cache.read_only))
    }

    /// Loads the pipeline, with its source texts.
    pub(super) fn with_sources(&self) -> Result<(ManifestSources, Pipeline)> {
        let sources = self.sources()?;
        let pipeline = self.pipeline_of(&sources)?;
        Ok((sources, pipeline))
    }

    /// The pipeline of sources that were read already.
    pub(super) fn pipeline_of(&self, sources: &ManifestSources) -> Result<Pipeline> {
        let parsed = self.parse_combination(sources, None)?;
        self.validated(sources, parsed.pipeline, &parsed.diagnostics)
    }

    /// Loads the pipeline without the lockfile, with its source texts and its matrix.
    pub(super) fn unpinned(&self) -> Result<(ManifestSources, Pipeline, Option<SweepMatrix>)> {
        let sources = self.sources()?;
        let parsed = self.parse_unpinned(&sources, None);
        let pipeline = self.validated(&sources, parsed.pipeline, &parsed.diagnostics)?;
        Ok((sources, pipeline, parsed.matrix))
    }

    /// Prints the diagnostics and returns the pipeline if there are no errors.
    fn validated(&self, sources: &ManifestSources, pipeline: Option<Pipeline>, diagnostics: &[Diagnostic]) -> Result<Pipeline> {
        self.print_diagnostics(sources, diagnostics);
        let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        match pipeline {
            Some(pipeline) if errors == 0 => Ok(pipeline),
            _ => Err(Error::new(format!("{} in `{}`; nothing was run", plural(errors, "error"), self.file().display()))
                .kind(ErrorKind::InvalidInput)),
        }
    }

    /// The project root, which holds the state folder. Errors in the pipeline file are ignored, so that past runs stay accessible.
    pub(super) fn root(&self) -> Result<PathBuf> {
        let (_, parsed) = self.parse()?;
        Ok(parsed.pipeline.map_or_else(|| self.file().parent().unwrap_or(Path::new("")).to_owned(), |pipeline| pipeline.root))
    }

    /// Prints diagnostics to standard error.
    pub(super) fn print_diagnostics(&self, sources: &ManifestSources, diagnostics: &[Diagnostic]) {
        let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        for diagnostic in diagnostics {
            let _ = writeln!(io::stderr(), "{}", diagnostic.render(self.file(), sources.own_text(), color).trim_end());
            let _ = writeln!(io::stderr());
        }
    }
}

/// The pipeline file in the nearest folder above the current one. Files of other users are passed over: a pipeline runs programs.
fn file_above() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    let user = rustix::process::geteuid().as_raw();
    let ours = |file: &PathBuf| fs::metadata(file).is_ok_and(|meta| meta.is_file() && (meta.uid() == user || meta.uid() == 0));
    here.ancestors().skip(1).map(|folder| folder.join(PIPELINE_FILE)).find(ours)
}

/// A count with its noun: `1 error`, `2 errors`.
pub(super) fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
