//! The arguments of `run` and `plan`: the pipeline file, the stages to run, and changes to the file.

use super::{Changes, Project};
use crate::error::{Error, ErrorKind, Result};
use clap::Args;
use pipeline::graph::{Pipeline, StageSelection};
use pipeline::manifest::foreach::name_in_file;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Pipeline file, stages and changes.
#[derive(Args, Clone)]
pub(super) struct SelectedArgs {
    /// Stages to run, with everything they need [default: all stages], and the pipeline file. What contains a dot or a slash is the file
    /// [default: pipeline.toml in this folder, or in the nearest folder above]
    #[arg(value_name = "FILE|STAGE")]
    names: Vec<String>,
    /// Run up to this stage: it and everything it needs; repeatable
    #[arg(long, value_name = "STAGE")]
    until: Vec<String>,
    /// Run from this stage on: it and everything that depends on it; what else these need must be up to date; repeatable
    #[arg(long, value_name = "STAGE")]
    from: Vec<String>,
    /// Run these stages alone; what they need must be up to date
    #[arg(long, value_name = "STAGE", num_args = 1.., conflicts_with_all = ["until", "from", "except"])]
    only: Vec<String>,
    /// Leave out these stages and everything that depends on them
    #[arg(long, value_name = "STAGE", num_args = 1..)]
    except: Vec<String>,
    #[command(flatten)]
    changes: Changes,
}

impl SelectedArgs {
    /// The project and the selection. The file may stand anywhere among the stages.
    pub(super) fn resolved(&self) -> Result<(Project, StageSelection)> {
        let mut files: Vec<String> = Vec::new();
        let mut stages = |names: &[String]| -> Vec<String> {
            let (named, others): (Vec<String>, Vec<String>) = names.iter().cloned().partition(|name| is_stage(name));
            files.extend(others);
            named
        };
        // The file may also follow `--only a b`.
        let (mut until, only, except) = (stages(&self.names), stages(&self.only), stages(&self.except));
        let usage = |message: String| Error::new(message).kind(ErrorKind::InvalidInput);
        if let Some(stage) = until.first().filter(|_| !self.only.is_empty()) {
            return Err(usage(format!("`{stage}` and `--only` cannot be used together"))
                .hint("`--only` runs nothing but the stages named after it"));
        }
        for (option, given, left) in [("--only", &self.only, &only), ("--except", &self.except, &except)] {
            if left.is_empty() && !given.is_empty() {
                return Err(usage(format!("`{option}` names no stage")).hint(format!("write `{option} STAGE`")));
            }
        }
        if let [first, second, ..] = files.as_slice() {
            return Err(usage(format!("two pipeline files are named: `{first}` and `{second}`"))
                .hint("name one file; the name of a stage has no dot and no slash"));
        }
        until.extend(self.until.iter().cloned());
        let project = Project::new(files.first().map(PathBuf::from), self.changes.clone());
        Ok((project, StageSelection { until, from: self.from.clone(), only, except }))
    }
}

/// Whether an argument has the form of a stage's name: letters, digits, `-` and `_`, with an entry of a `foreach` in brackets. All else is the
/// pipeline file.
fn is_stage(argument: &str) -> bool {
    let stage = name_in_file(argument);
    !stage.is_empty() && stage.chars().all(|character| character.is_ascii_alphanumeric() || character == '-' || character == '_')
}

/// The selected part of a pipeline.
pub(super) fn selected(project: &Project, pipeline: Pipeline, selection: &StageSelection) -> Result<Pipeline> {
    let names = || selection.until.iter().chain(&selection.from).chain(&selection.only).chain(&selection.except);
    let unknown = names().find(|name| pipeline.steps_named(name).is_err()).cloned();
    pipeline.select(selection).map_err(|error| match unknown {
        // A pipeline file may have any name.
        Some(name) if project.named.is_none() && Path::new(&name).is_file() => {
            error.hint(format!("if you mean the pipeline file, write `./{name}`"))
        }
        _ => error,
    })
}

/// The steps that `--force` names.
pub(super) fn forced(pipeline: &Pipeline, names: &[String]) -> Result<BTreeSet<String>> {
    let mut forced = BTreeSet::new();
    for name in names {
        for step in pipeline.steps_named(name)? {
            if pipeline.held.contains(step) || pipeline.step(step).is_none() {
                return Err(Error::new(format!("`--force {name}`: this stage is left out of the run"))
                    .kind(ErrorKind::InvalidInput)
                    .hint("select it too, or omit `--force`"));
            }
            forced.insert(step.to_owned());
        }
    }
    Ok(forced)
}

/// Checks that one stage of this name exists.
pub(super) fn require_stage(pipeline: &Pipeline, stage: &str) -> Result<()> {
    match pipeline.steps_named(stage)?.as_slice() {
        [one, ..] if *one != stage => Err(Error::new(format!("`{stage}` is one stage for each entry of its `foreach`"))
            .kind(ErrorKind::InvalidInput)
            .hint(format!("name one of them, such as `{one}`"))),
        _ => Ok(()),
    }
}
