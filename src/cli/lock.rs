//! `voxpipe lock`: pins the commit of every Hub repository in pipeline.lock.

use super::{Project, print, print_json};
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::hub::lockfile::Lockfile;
use crate::hub::{Network, RepoRevision, RepoType};
use clap::Args;
use pipeline::diagnostics::{did_you_mean, list};
use pipeline::graph::Pipeline;
use pipeline::manifest::foreach::name_in_file;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Options of `voxpipe lock`.
#[derive(Args)]
pub(super) struct Lock {
    #[command(flatten)]
    project: Project,
    /// Update the pin of a repository, of the repositories of a stage, or `all`; repeatable
    #[arg(long, value_name = "NAME")]
    update: Vec<String>,
    /// Remove pins that this pipeline does not use
    #[arg(long)]
    prune: bool,
    /// Do not use the network: pin the downloaded commits
    #[arg(long)]
    offline: bool,
    /// Print the pins as JSON
    #[arg(long)]
    json: bool,
}

impl Lock {
    /// Resolves the commits and writes the lockfile.
    pub(super) fn go(self) -> Result<()> {
        let path = Lockfile::beside(self.project.file());
        let mut pins = Lockfile::read(&path)?;
        let before = pins.clone();
        let named = self.named()?;
        let wanted: Vec<RepoRevision> = named.values().map(|(repository, _)| repository.clone()).collect();
        let update = self.updated(&named)?;
        let network = Network::unless(self.offline);
        let mut rows = Vec::new();
        for (name, (repository, stages)) in &named {
            let was = pins.commit(repository).map(str::to_owned);
            let commit = match &was {
                Some(commit) if !update.contains(name) => commit.clone(),
                _ => hub::current_commit(repository, network)?,
            };
            pins.set(repository, commit.clone());
            rows.push((name, stages, commit, was));
        }
        let removed = if self.prune { pins.keep_only(&wanted) } else { Vec::new() };
        // An unchanged lockfile is not rewritten.
        if pins != before || !path.exists() && !named.is_empty() {
            pins.write(&path)?;
        }
        if self.json {
            let entry = |(repository, revision, commit)| json!({ "repository": repository, "revision": revision, "commit": commit });
            let all: Vec<_> = pins.all().map(entry).collect();
            return print_json(json!({ "file": path, "pins": all, "changed": pins != before, "removed": removed }));
        }
        let mut text = String::new();
        for (name, stages, commit, was) in rows {
            let news = match was {
                None => "new".to_owned(),
                Some(was) if was == commit => "unchanged".to_owned(),
                Some(was) => format!("was {was}"),
            };
            text.push_str(&format!("  {name}  {commit}  {news}, for {}\n", list(stages.iter().map(String::as_str))));
        }
        removed.iter().for_each(|name| text.push_str(&format!("  {name}  removed\n")));
        text.push_str(&match (named.is_empty(), pins != before) {
            (true, _) => "nothing to pin: no stage uses a Hub repository without a commit\n".to_owned(),
            (_, true) => format!("wrote `{}`; commit it with the pipeline file\n", path.display()),
            (_, false) => format!("`{}` is unchanged\n", path.display()),
        });
        print(&text)
    }

    /// The unpinned repositories of all sweep combinations, with the stages that use them.
    fn named(&self) -> Result<BTreeMap<String, (RepoRevision, BTreeSet<String>)>> {
        let (sources, mut pipeline, matrix) = self.project.unpinned()?;
        let mut named = BTreeMap::new();
        collect(&mut pipeline, &mut named);
        for combination in matrix.iter().flat_map(|matrix| &matrix.combinations) {
            if let Some(mut pipeline) = self.project.parse_unpinned(&sources, Some(combination)).pipeline {
                collect(&mut pipeline, &mut named);
            }
        }
        Ok(named)
    }

    /// The repositories selected by `--update`.
    fn updated(&self, named: &BTreeMap<String, (RepoRevision, BTreeSet<String>)>) -> Result<BTreeSet<String>> {
        let mut update = BTreeSet::new();
        for wanted in &self.update {
            let matches = |name: &str, repository: &RepoRevision, stages: &BTreeSet<String>| {
                wanted == "all"
                    || wanted == name
                    || *wanted == repository.id()
                    || stages.contains(wanted)
                    || stages.iter().any(|stage| name_in_file(stage) == wanted)
            };
            let selected: Vec<&String> =
                named.iter().filter(|(name, (repository, stages))| matches(name, repository, stages)).map(|(name, _)| name).collect();
            if selected.is_empty() && wanted != "all" {
                let names: BTreeSet<&str> =
                    named.iter().flat_map(|(name, (_, stages))| stages.iter().chain([name])).map(String::as_str).collect();
                let known = if names.is_empty() {
                    "this pipeline has nothing to pin".to_owned()
                } else {
                    format!("known names: {}", list(names.iter().copied()))
                };
                return Err(Error::new(format!("`--update {wanted}` matches no repository and no stage that uses one"))
                    .kind(ErrorKind::InvalidInput)
                    .hint(did_you_mean(wanted, names.iter().copied()).unwrap_or(known)));
            }
            update.extend(selected.into_iter().cloned());
        }
        Ok(update)
    }
}

fn collect(pipeline: &mut Pipeline, named: &mut BTreeMap<String, (RepoRevision, BTreeSet<String>)>) {
    let root = pipeline.root.clone();
    for step in &mut pipeline.steps {
        let stage = step.name.clone();
        step.stage.pin(&mut crate::hub::by_repository(|repository| {
            // A local folder of that name takes precedence over the Hub.
            if repository.repo.kind == RepoType::Dataset || !root.join(repository.id()).is_dir() {
                let name = repository.to_string();
                named.entry(name).or_insert_with(|| (repository.clone(), BTreeSet::new())).1.insert(stage.clone());
            }
            None
        }));
    }
}
