//! `publish`: publishes a model with its card, or a dataset, in the layout of a Hub repository, to a local folder or to the Hub.
//!
//! A folder is replaced atomically and verified by reading it back; folders not created by voxpipe are never touched. [`crate::release`]
//! decides which files are published.

use super::hub_publish::{PublishRequest, bad_repo, may_write, no_repo, send};
use super::is_license;
use crate::data::managed_dir;
use crate::data::managed_dir::ManagedDir;
use crate::data::scored_model::{ModelMatch, ScoredModel};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::RepoType;
use crate::hub::verify::verify;
use crate::release::{DatasetInfo, DatasetRelease, Release, ReleaseProvenance};
use pipeline::artifact::{Artifact, ArtifactKind};
use pipeline::stage::{Arity, Context, Port, PublicationState, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Publish a model with its card, or a dataset.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Destination: a folder, which gets the layout of a Hub repository, or `hub` to upload to the Hub.
    pub target: String,
    /// Name of the Hub repository: `owner/accent-fr`, or `accent-fr` for one of the token's user. Required with `target = "hub"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Overwrite changes: in a folder created by voxpipe, files that were modified since; on the Hub, files that this stage did not
    /// publish. Default: refuse.
    #[serde(default)]
    pub overwrite: bool,
    /// Create the Hub repository as private. An existing repository keeps its visibility.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// Commit message on the Hub. Default: a message with the names of the stage and the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Title of a dataset. Default: the name of the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Author of a dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// License of a dataset, as a Hub license identifier: `cc-by-4.0`, `cc0-1.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// What the speakers in a dataset consented to, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<String>,
    /// Also publish a dataset as Parquet files with embedded audio, which the Hub's dataset viewer can show and play. Doubles the size.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parquet: bool,
}

/// Marker file in folders created by this stage.
const MARKER: &str = ".voxpipe-published";

impl Stage for Publish {
    const KIND: &'static str = "publish";
    const ABOUT: &'static str = "publishes a model with its card, or a dataset";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[
        Port { name: "model", kinds: &[ArtifactKind::Model], arity: Arity::Optional, about: "the model to publish" },
        Port { name: "card", kinds: &[ArtifactKind::Card], arity: Arity::Optional, about: "the model card" },
        Port {
            name: "dataset",
            kinds: &[ArtifactKind::Dataset],
            arity: Arity::Optional,
            about: "the dataset to publish, instead of a model",
        },
    ];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Published
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        if matches!(self.target.trim(), "" | "." | "/") {
            errors.push(
                SettingError::new("target", format!("`{}` cannot be a target folder", self.target))
                    .hint("write `target = \"published/NAME\"`"),
            );
        }
        errors.extend(self.repo.as_deref().and_then(bad_repo));
        if self.target == "hub" && self.repo.is_none() {
            errors.push(SettingError::new("target", "`target = \"hub\"` needs a repository name").hint("add `repo = \"OWNER/NAME\"`"));
        }
        if let Some(license) = self.license.as_deref().filter(|license| !is_license(license)) {
            let message = format!("`{license}` is not a Hub license identifier");
            errors.push(SettingError::new("license", message).hint("write an identifier such as `cc-by-4.0`, `cc0-1.0` or `other`"));
        }
        errors
    }

    fn uses_network(&self) -> bool {
        self.target == "hub"
    }

    fn preflight(&self, given: &[&str], stop: &AtomicBool) -> Result<Option<String>> {
        let repo = self.repo.as_deref().ok_or_else(no_repo)?;
        may_write(if given.contains(&"dataset") { RepoType::Dataset } else { RepoType::Model }, repo, stop)
    }

    fn records_pipeline_name(&self) -> bool {
        true
    }

    fn records_upstream(&self) -> bool {
        true
    }

    fn port_conflicts(&self, given: &[&str]) -> Option<(String, String)> {
        let [model, card, dataset] = ["model", "card", "dataset"].map(|port| given.contains(&port));
        let conflict = |message: &str, hint: &str| Some((message.to_owned(), hint.to_owned()));
        match (model, card, dataset) {
            (false, _, false) => conflict(
                "has nothing to publish",
                "write `from = { model = \"…\", card = \"…\" }` for a model, `from = { dataset = \"…\" }` for a dataset",
            ),
            (true, _, true) => conflict("publishes a model or a dataset, not both", "use two stages, each with its own `target`"),
            (true, false, _) => conflict("needs a model card as `card`", "add `card = \"…\"` to `from`"),
            (false, true, true) => {
                conflict("has a model card for a dataset", "leave `card` out: the card of a dataset is generated from its rows")
            }
            _ if model && self.parquet => conflict("sets `parquet` for a model", "leave `parquet` out: it is for datasets only"),
            _ if model && [&self.title, &self.author, &self.license, &self.consent].iter().any(|setting| setting.is_some()) => conflict(
                "sets for a model what belongs in its card",
                "set `title`, `author` and `license` in the `card` stage; `consent` is for datasets only",
            ),
            _ => None,
        }
    }

    fn port_warnings(&self, given: &[&str]) -> Option<(String, String)> {
        (given.contains(&"dataset") && self.license.is_none()).then(|| {
            let hint = "set `license = \"cc-by-4.0\"`, or another license that the speakers agreed to, and `consent = \"…\"`";
            ("publishes a dataset without a license, so nobody may use it".to_owned(), hint.to_owned())
        })
    }

    fn external_outputs(&self) -> Vec<PathBuf> {
        if self.target == "hub" { Vec::new() } else { vec![self.target.clone().into()] }
    }

    fn publishes(&self) -> bool {
        self.target == "hub"
    }

    fn verify(&self, result: &Artifact, connect: bool, stop: &AtomicBool) -> PublicationState {
        verify(&result.path.join("published.json"), connect, stop)
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let release = self.release(cx)?;
        if self.target == "hub" {
            return self.send(cx, &release);
        }
        let path = cx.path(&self.target);
        let placed = managed_dir::place(
            &release.files,
            &ManagedDir { path: &path, written: &self.target, marker: MARKER, overwrite: self.overwrite },
        )?;
        let bytes: u64 = placed.iter().map(|file| file.size).sum();
        let mut published = json!({
            "target": "folder",
            "location": self.target,
            "repo": self.repo,
            "kind": release.kind,
            "files": placed,
            "left_out": release.left_out,
        });
        tell_card(&mut published, cx);
        fs::write(cx.out.join("published.json"), serde_json::to_vec_pretty(&published)?)?;
        let made = StageResult::new(format!("{} files, {:.1} MB, in `{}`", placed.len(), bytes as f64 / 1e6, self.target));
        Ok(StageOutcome::Done(
            made.metric("files", placed.len() as f64).metric("bytes", bytes as f64).fact("location", self.target.clone()),
        ))
    }
}

impl Publish {
    /// Uploads the release to the Hub.
    fn send(&self, cx: &Context, release: &Release) -> Result<StageOutcome> {
        let repo = self.repo.as_deref().ok_or_else(no_repo)?;
        let order = PublishRequest {
            kind: release.repository,
            repo,
            private: self.private,
            overwrite: self.overwrite,
            message: self.message.as_deref(),
        };
        let sent = send(cx, &order, &release.files)?;
        let mut published = json!({
            "target": "hub",
            "location": sent.url,
            "url": sent.url,
            "endpoint": sent.endpoint,
            "user": sent.user,
            "repo_type": release.repository.word(),
            "repo": sent.repo,
            "revision": sent.revision,
            "kind": release.kind,
            "files": sent.files,
            "left_out": release.left_out,
        });
        tell_card(&mut published, cx);
        fs::write(cx.out.join("published.json"), serde_json::to_vec_pretty(&published)?)?;
        let bytes: u64 = sent.files.iter().map(|file| file.size).sum();
        let how = if sent.changed { "" } else { " (already up to date)" };
        let made = StageResult::new(format!("{} files, {:.1} MB, at {}{how}", sent.files.len(), bytes as f64 / 1e6, sent.url));
        let made = made.metric("files", sent.files.len() as f64).metric("bytes", bytes as f64);
        Ok(StageOutcome::Done(made.fact("location", sent.url).fact("repo", sent.repo).fact("revision", sent.revision)))
    }

    /// Collects the files to publish. Generated files are written to the stage's scratch folder.
    pub(super) fn release(&self, cx: &Context) -> Result<Release> {
        let folder = cx.scratch.join("release");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot clear `{}`", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let (mut release, results) = if let Some(artifact) = cx.optional("dataset") {
            let about = DatasetInfo {
                title: self.title.clone().unwrap_or_else(|| cx.pipeline.clone()),
                author: self.author.clone(),
                license: self.license.clone(),
                consent: self.consent.clone(),
                parquet: self.parquet,
            };
            (DatasetRelease { artifact, about: &about, upstream: &cx.upstream }.release(&folder)?, vec![artifact])
        } else {
            let (model, card) = (cx.input("model")?, cx.input("card")?);
            check_card(cx, model, card)?;
            (Release::model(&model.path, &card.path.join("README.md"))?, vec![model, card])
        };
        ReleaseProvenance { pipeline: &cx.pipeline, upstream: &cx.upstream, results }.add_to(&mut release, &folder)?;
        Ok(release)
    }
}

/// An error if the card describes another model.
fn check_card(cx: &Context, model: &Artifact, card: &Artifact) -> Result<()> {
    #[derive(Deserialize)]
    struct About {
        model: ScoredModel,
    }
    let path = card.path.join("card.json");
    if !path.is_file() {
        cx.note(format!("stage `{}` does not say which model its card describes, so this was not checked", card.stage));
        return Ok(());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `card.json` of stage `{}`", card.stage))?;
    let about: About = serde_json::from_str(&text).with_context(|| format!("`card.json` of stage `{}`", card.stage))?;
    if about.model.compare(model)? == ModelMatch::Same {
        return Ok(());
    }
    Err(Error::new(format!("the card of stage `{}` describes another model than stage `{}` made", card.stage, model.stage))
        .kind(ErrorKind::InvalidInput)
        .hint(format!("write the card of that model: `from = {{ model = \"{}\", … }}` in stage `{}`", model.stage, card.stage)))
}

/// Adds the facts of the card, which a `demo` stage reads.
fn tell_card(published: &mut Value, cx: &Context) {
    if let Some(card) = cx.optional("card") {
        published["base_model"] = json!(card.facts.get("base_model"));
        published["card"] = json!(card.facts);
    }
}
