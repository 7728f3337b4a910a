//! `voxpipe check`: validates the pipeline file and reports every error in it; of a folder of recordings, it says what would be read.

use super::axes::{ComparedCombination, idle_axes};
use super::plan::{missing_json, missing_text};
use super::project::plural;
use super::table::table;
use super::{Project, check_folder, print, print_json};
use crate::error::Result;
use crate::hub::RepoRevision;
use clap::Args;
use pipeline::diagnostics::Diagnostic;
use pipeline::exit::Exit;
use pipeline::manifest::matrix::{SweepCombination, SweepMatrix};
use pipeline::manifest::origin;
use pipeline::scheduler::missing_resources;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

/// Endings of files that stages read; a repository on the Hub is not called like that.
const FILE_ENDINGS: [&str; 8] = ["csv", "tsv", "jsonl", "json", "txt", "parquet", "wav", "flac"];

/// Options of `voxpipe check`.
#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    project: Project,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show the file, profile or argument that sets each value
    #[arg(long)]
    show_origin: bool,
}

impl Check {
    /// Prints all diagnostics and returns the exit code.
    pub(super) fn print(&self) -> Result<u8> {
        let project = &self.project;
        if project.file().is_dir() && !project.file().join("pipeline.toml").exists() {
            return check_folder::go(project.file(), self.json);
        }
        let (sources, mut parsed) = project.parse()?;
        // Each axis value is checked once, with the first values of the other axes, so that errors show before the sweep starts.
        let mut more = Vec::new();
        let mut compared = Vec::new();
        for profile in sources.profile_names().into_iter().filter(|name| !project.changes.profiles.contains(name)) {
            let mut with_profile = project.clone();
            with_profile.changes.profiles.push(profile);
            more.extend(with_profile.parse_unpinned(&sources, None).diagnostics);
        }
        if let Some(root) = parsed.pipeline.as_ref().map(|pipeline| &pipeline.root)
            && !root.as_os_str().is_empty()
            && !root.is_dir()
        {
            let message = format!("the project root `{}` is not a folder", root.display());
            let mut missing = Diagnostic::error(sources.root_place().unwrap_or(0..0), message).hint("create it, or correct `root`");
            sources.place(&mut missing);
            more.push(missing);
        }
        for combination in parsed.matrix.iter().flat_map(covering_combinations) {
            let parsed_combination = project.parse_unpinned(&sources, Some(&combination));
            more.extend(parsed_combination.diagnostics);
            if let Some(whole) = parsed_combination.pipeline {
                let part = match parsed.matrix.as_ref().and_then(|matrix| matrix.best.as_ref()) {
                    Some(best) => whole.up_to(&best.stage),
                    None => whole,
                };
                compared.push(ComparedCombination::new(&combination, &part));
            }
        }
        if let Some(matrix) = parsed.matrix.as_ref().filter(|_| more.iter().all(|diagnostic| !diagnostic.is_error())) {
            more.extend(idle_axes(matrix, &compared, &sources));
        }
        for diagnostic in more {
            if !parsed.diagnostics.contains(&diagnostic) {
                parsed.diagnostics.push(diagnostic);
            }
        }
        // A secret may be spelled so that only its value shows it.
        let has_secret = parsed.diagnostics.iter().any(|diagnostic| diagnostic.secret);
        let origins = if self.show_origin && !has_secret { origin::all(&sources, &project.overrides()) } else { Vec::new() };
        let files: Vec<String> = sources.files().map(|file| file.display().to_string()).collect();
        let errors = parsed.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        let failed = errors > 0 || parsed.pipeline.is_none();
        let mut missing = Vec::new();
        // Stages in which every Hub repository is pinned to a commit.
        let mut pinned_stages: BTreeSet<String> = BTreeSet::new();
        for step in parsed.pipeline.iter_mut().flat_map(|pipeline| &mut pipeline.steps) {
            let mut pinned = true;
            step.stage.pin(&mut |_| {
                pinned = false;
                None
            });
            pinned_stages.extend(pinned.then(|| step.name.clone()));
        }
        for step in parsed.pipeline.iter().flat_map(|pipeline| &pipeline.steps) {
            let root = parsed.pipeline.as_ref().map(|pipeline| pipeline.root.clone()).unwrap_or_default();
            // uv works without it.
            let optional = |path: &PathBuf| path.file_name().is_some_and(|name| name == ".python-version");
            // Programs that are missing are told with what else this machine lacks.
            let absent: Vec<PathBuf> =
                step.stage.sources().into_iter().filter(|path| !optional(path) && !root.join(path).exists()).collect();
            // What lies in a folder that is missing need not be named as well.
            let inside = |path: &PathBuf| absent.iter().any(|folder| path != folder && path.starts_with(folder));
            missing.extend(absent.iter().filter(|path| !inside(path)).map(|path| (step.name.clone(), path.clone())));
        }
        let lacking: Vec<_> = parsed.pipeline.iter().flat_map(|pipeline| missing_resources(pipeline, None)).collect();
        if self.json {
            let diagnostics: Vec<_> =
                parsed.diagnostics.iter().map(|diagnostic| diagnostic.to_json(project.file(), sources.own_text())).collect();
            let missing: Vec<_> = missing.iter().map(|(stage, path)| json!({ "stage": stage, "path": path })).collect();
            let mut value = json!({ "ok": !failed, "diagnostics": diagnostics, "missing": missing, "files": files });
            value["machine"] = lacking.iter().map(missing_json).collect();
            if self.show_origin {
                value["origins"] = json!(origins);
            }
            print_json(value)?;
        } else {
            project.print_diagnostics(&sources, &parsed.diagnostics);
            for (stage, path) in &missing {
                // `recordings/transcripts.csv` could name a repository, but a table or an audio file is meant.
                let names_file = path.extension().is_some_and(|ending| FILE_ENDINGS.iter().any(|known| ending == *known));
                let text = match path.to_str().and_then(RepoRevision::parse).filter(|_| !names_file) {
                    Some(repository) => {
                        // The commit is in the pipeline file or comes from the lockfile.
                        let pinned = repository.is_pinned() || pinned_stages.contains(stage);
                        let hint = if pinned { "" } else { "; run `voxpipe lock` to pin its commit" };
                        format!("note: stage `{stage}` reads `{repository}` from the Hub (no folder has that name){hint}")
                    }
                    None => format!("warning: stage `{stage}` reads `{}`, which does not exist yet", path.display()),
                };
                let _ = writeln!(io::stderr(), "{text}");
            }
            for lacking in &lacking {
                let _ = writeln!(io::stderr(), "warning: {}", missing_text(lacking));
            }
            print(&table(origins.iter().map(|origin| (origin.key.as_str(), origin.value.as_str(), origin.place.clone()))))?;
            match &parsed.pipeline {
                Some(pipeline) if !failed => {
                    print(&format!("{}: {}, no errors\n", files.join(" + "), plural(pipeline.steps.len(), "stage")))?;
                }
                _ => drop(writeln!(io::stderr(), "{}", plural(errors, "error"))),
            }
        }
        Ok(if failed { Exit::Usage } else { Exit::Done } as u8)
    }
}

/// The fewest leading combinations that contain every value of every axis.
fn covering_combinations(matrix: &SweepMatrix) -> Vec<SweepCombination> {
    let mut seen = BTreeSet::new();
    let mut new = |combination: &SweepCombination| {
        let pairs: Vec<(usize, usize)> = combination.0.iter().copied().enumerate().collect();
        pairs.into_iter().filter(|pair| seen.insert(*pair)).count() > 0
    };
    matrix.combinations.iter().filter(|combination| new(combination)).cloned().collect()
}
