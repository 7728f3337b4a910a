//! `publish`: a model with its card, or a dataset, laid out as a repository of the Hub, in a folder or on the Hub itself.
//!
//! The folder appears whole or not at all and is read back afterwards; one that we did not make ourselves is never touched. What is in
//! it is the matter of [`crate::release`].

use super::hub_publish::{PublishRequest, bad_repo, may_write, no_repo, send};
use super::is_license;
use crate::data::managed_dir;
use crate::data::managed_dir::ManagedDir;
use crate::error::{Result, ResultExt};
use crate::hub::RepoType;
use crate::release::{DatasetInfo, DatasetRelease, Release, ReleaseProvenance};
use pipeline::artifact::ArtifactKind;
use pipeline::stage::{Arity, Context, Port, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Publishes a model with its card, or a dataset.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The folder to fill, laid out as a repository; or `hub`.
    pub target: String,
    /// The repository's name on the Hub: `accent-fr` or `owner/accent-fr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Whether to replace a folder made by voxpipe even when its files were changed since; on the Hub, whether to replace files that were
    /// not put there by this stage.
    #[serde(default)]
    pub overwrite: bool,
    /// Whether a repository that is made on the Hub is private; one that is there stays as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// What the commit on the Hub is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What a dataset is called; the pipeline's name otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Who made a dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The licence of a dataset as the Hub writes it: `cc-by-4.0`, `cc0-1.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// What those who speak in a dataset agreed to, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<String>,
    /// Whether a dataset is there as Parquet files with the sounds inside, too: the Hub shows and plays those. It takes the space twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parquet: bool,
}

/// Marks a folder we published.
const MARKER: &str = ".voxpipe-published";

impl Stage for Publish {
    const KIND: &'static str = "publish";
    const ABOUT: &'static str = "publishes a model with its card, or a dataset";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[
        Port { name: "model", kinds: &[ArtifactKind::Model], arity: Arity::Optional, about: "the model to publish" },
        Port { name: "card", kinds: &[ArtifactKind::Card], arity: Arity::Optional, about: "the model's card" },
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
        let mut complaints = Vec::new();
        if matches!(self.target.trim(), "" | "." | "/") {
            complaints.push(
                SettingError::new("target", format!("`{}` is no folder to fill", self.target)).hint("write `target = \"published/NAME\"`"),
            );
        }
        complaints.extend(self.repo.as_deref().and_then(bad_repo));
        if self.target == "hub" && self.repo.is_none() {
            complaints
                .push(SettingError::new("target", "the Hub needs the name of a repository").hint("write `repo = \"OWNER/NAME\"` too"));
        }
        if let Some(license) = self.license.as_deref().filter(|license| !is_license(license)) {
            let message = format!("`{license}` is not how the Hub writes a licence");
            complaints.push(SettingError::new("license", message).hint("write its identifier: `cc-by-4.0`, `cc0-1.0`, `other`"));
        }
        complaints
    }

    fn reaches_out(&self) -> bool {
        self.target == "hub"
    }

    fn preflight(&self, given: &[&str], stop: &AtomicBool) -> Result<Option<String>> {
        let repo = self.repo.as_deref().ok_or_else(no_repo)?;
        may_write(if given.contains(&"dataset") { RepoType::Dataset } else { RepoType::Model }, repo, stop)
    }

    fn names_pipeline(&self) -> bool {
        true
    }

    fn tells_upstream(&self) -> bool {
        true
    }

    fn refuses(&self, given: &[&str]) -> Option<(String, String)> {
        let [model, card, dataset] = ["model", "card", "dataset"].map(|port| given.contains(&port));
        let said = |message: &str, hint: &str| Some((message.to_owned(), hint.to_owned()));
        match (model, card, dataset) {
            (false, _, false) => said(
                "is given nothing to publish",
                "write `from = { model = \"…\", card = \"…\" }` for a model, `from = { dataset = \"…\" }` for a dataset",
            ),
            (true, _, true) => said("publishes a model or a dataset, not both", "make two stages of it, each with its own `target`"),
            (true, false, _) => said("needs a card as `card`", "from = { card = \"…\" }"),
            (false, true, true) => {
                said("is given a model's card for a dataset", "leave `card` out: the card of a dataset is made of its rows")
            }
            _ if model && self.parquet => said("publishes a model, which is no table", "leave `parquet` out: it is for datasets"),
            _ if model && [&self.title, &self.author, &self.license, &self.consent].iter().any(|setting| setting.is_some()) => said(
                "says of a model what its card says",
                "write `title`, `author` and `license` in the `card` stage; `consent` is for datasets",
            ),
            _ => None,
        }
    }

    fn advises(&self, given: &[&str]) -> Option<(String, String)> {
        (given.contains(&"dataset") && self.license.is_none()).then(|| {
            let hint = "write `license = \"cc-by-4.0\"`, or another that the speakers agreed to, and `consent = \"…\"`";
            ("publishes a dataset without a licence, so nobody may use it".to_owned(), hint.to_owned())
        })
    }

    fn external_outputs(&self) -> Vec<PathBuf> {
        if self.target == "hub" { Vec::new() } else { vec![self.target.clone().into()] }
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
    /// Puts it on the Hub.
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
            "repo": sent.repo,
            "revision": sent.revision,
            "kind": release.kind,
            "files": sent.files,
            "left_out": release.left_out,
        });
        tell_card(&mut published, cx);
        fs::write(cx.out.join("published.json"), serde_json::to_vec_pretty(&published)?)?;
        let bytes: u64 = sent.files.iter().map(|file| file.size).sum();
        let how = if sent.changed { "" } else { ", which were there already" };
        let made = StageResult::new(format!("{} files, {:.1} MB, at {}{how}", sent.files.len(), bytes as f64 / 1e6, sent.url));
        let made = made.metric("files", sent.files.len() as f64).metric("bytes", bytes as f64);
        Ok(StageOutcome::Done(made.fact("location", sent.url).fact("repo", sent.repo).fact("revision", sent.revision)))
    }

    /// What goes into the repository. What is written for it lies in the stage's scratch folder.
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
            (Release::model(&model.path, &card.path.join("README.md"))?, vec![model, card])
        };
        ReleaseProvenance { pipeline: &cx.pipeline, upstream: &cx.upstream, results }.add_to(&mut release, &folder)?;
        Ok(release)
    }
}

/// A demo is made of what the card says.
fn tell_card(published: &mut Value, cx: &Context) {
    if let Some(card) = cx.optional("card") {
        published["base_model"] = json!(card.facts.get("base_model"));
        published["card"] = json!(card.facts);
    }
}
