//! `voxpipe check`: validates the pipeline file and reports every error in it.

use super::project::plural;
use super::table::table;
use super::{Project, print, print_json};
use crate::error::Result;
use crate::hub::RepoRevision;
use clap::Args;
use pipeline::exit::Exit;
use pipeline::manifest::matrix::{SweepCombination, SweepMatrix};
use pipeline::manifest::origin;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{self, Write};

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
        let (sources, mut parsed) = project.parse()?;
        // Each axis value is checked once, with the first values of the other axes, so that errors show before the sweep starts.
        let mut more = Vec::new();
        for combination in parsed.matrix.iter().flat_map(covering_combinations) {
            more.extend(project.parse_unpinned(&sources, Some(&combination)).diagnostics);
        }
        for diagnostic in more {
            if !parsed.diagnostics.contains(&diagnostic) {
                parsed.diagnostics.push(diagnostic);
            }
        }
        let origins = if self.show_origin { origin::all(&sources, &project.overrides()) } else { Vec::new() };
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
            missing.extend(step.sources(&root).into_iter().filter(|path| !root.join(path).exists()).map(|path| (step.name.clone(), path)));
        }
        if self.json {
            let diagnostics: Vec<_> =
                parsed.diagnostics.iter().map(|diagnostic| diagnostic.to_json(project.file(), sources.own_text())).collect();
            let missing: Vec<_> = missing.iter().map(|(stage, path)| json!({ "stage": stage, "path": path })).collect();
            let mut value = json!({ "ok": !failed, "diagnostics": diagnostics, "missing": missing, "files": files });
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
                    None => format!("warning: stage `{stage}` reads `{}`, which does not exist", path.display()),
                };
                let _ = writeln!(io::stderr(), "{text}");
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
