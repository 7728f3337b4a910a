//! `voxpipe lock`: writes down which commit each repository of the Hub is.

use super::{Project, print, print_json};
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::hub::lockfile::Lockfile;
use crate::hub::{Network, RepoRevision, RepoType};
use clap::Args;
use pipeline::graph::Pipeline;
use pipeline::manifest::diagnostic::{did_you_mean, list};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// What to pin.
#[derive(Args)]
pub(super) struct Lock {
    #[command(flatten)]
    project: Project,
    /// Ask anew which commit this repository is, or that of this stage, or `all`; may be repeated
    #[arg(long, value_name = "NAME")]
    update: Vec<String>,
    /// Leave out what this pipeline does not name
    #[arg(long)]
    prune: bool,
    /// Do not use the network: pin what was downloaded
    #[arg(long)]
    offline: bool,
    /// Print what is pinned as JSON
    #[arg(long)]
    json: bool,
}

impl Lock {
    /// Writes the lock file.
    pub(super) fn go(self) -> Result<()> {
        let path = Lockfile::beside(&self.project.file);
        let mut pins = Lockfile::read(&path)?;
        let before = pins.clone();
        let named = self.named()?;
        let wanted: Vec<RepoRevision> = named.values().map(|(repository, _)| repository.clone()).collect();
        let update = self.updated(&named)?;
        let network = Network::unless(self.offline);
        let mut told = Vec::new();
        for (name, (repository, stages)) in &named {
            let was = pins.commit(repository).map(str::to_owned);
            let commit = match &was {
                Some(commit) if !update.contains(name) => commit.clone(),
                _ => hub::current_commit(repository, network)?,
            };
            pins.set(repository, commit.clone());
            told.push((name, stages, commit, was));
        }
        let out = if self.prune { pins.keep_only(&wanted) } else { Vec::new() };
        // A file that would say the same is left as it is.
        if pins != before || !path.exists() && !named.is_empty() {
            pins.write(&path)?;
        }
        if self.json {
            let entry = |(repository, revision, commit)| json!({ "repository": repository, "revision": revision, "commit": commit });
            let all: Vec<_> = pins.all().map(entry).collect();
            return print_json(json!({ "file": path, "pins": all, "changed": pins != before, "removed": out }));
        }
        let mut text = String::new();
        for (name, stages, commit, was) in told {
            let news = match was {
                None => "new".to_owned(),
                Some(was) if was == commit => "as before".to_owned(),
                Some(was) => format!("was {was}"),
            };
            text.push_str(&format!("  {name}  {commit}  {news}, for {}\n", list(stages.iter().map(String::as_str))));
        }
        out.iter().for_each(|name| text.push_str(&format!("  {name}  left out\n")));
        text.push_str(&match (named.is_empty(), pins != before) {
            (true, _) => "no stage names a repository of the Hub that is not pinned already\n".to_owned(),
            (_, true) => format!("`{}` is written: keep it with the pipeline\n", path.display()),
            (_, false) => format!("`{}` stays as it is\n", path.display()),
        });
        print(&text)
    }

    /// The repositories that any combination of the pipeline names, with the stages that do.
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

    /// The repositories whose commit is asked for anew.
    fn updated(&self, named: &BTreeMap<String, (RepoRevision, BTreeSet<String>)>) -> Result<BTreeSet<String>> {
        let mut update = BTreeSet::new();
        for wanted in &self.update {
            let means = |name: &str, repository: &RepoRevision, stages: &BTreeSet<String>| {
                wanted == "all" || wanted == name || *wanted == repository.id() || stages.contains(wanted)
            };
            let meant: Vec<&String> =
                named.iter().filter(|(name, (repository, stages))| means(name, repository, stages)).map(|(name, _)| name).collect();
            if meant.is_empty() && wanted != "all" {
                let names: BTreeSet<&str> =
                    named.iter().flat_map(|(name, (_, stages))| stages.iter().chain([name])).map(String::as_str).collect();
                let known = if names.is_empty() {
                    "there is nothing to pin".to_owned()
                } else {
                    format!("there is {}", list(names.iter().copied()))
                };
                return Err(Error::new(format!("no repository and no stage that names one is called `{wanted}`"))
                    .kind(ErrorKind::InvalidInput)
                    .hint(did_you_mean(wanted, names.iter().copied()).unwrap_or(known)));
            }
            update.extend(meant.into_iter().cloned());
        }
        Ok(update)
    }
}

fn collect(pipeline: &mut Pipeline, named: &mut BTreeMap<String, (RepoRevision, BTreeSet<String>)>) {
    let root = pipeline.root.clone();
    for step in &mut pipeline.steps {
        let stage = step.name.clone();
        step.stage.pin(&mut crate::hub::by_repository(|repository| {
            // A folder of that name is what would be read.
            if repository.repo.kind == RepoType::Dataset || !root.join(repository.id()).is_dir() {
                let name = repository.to_string();
                named.entry(name).or_insert_with(|| (repository.clone(), BTreeSet::new())).1.insert(stage.clone());
            }
            None
        }));
    }
}
