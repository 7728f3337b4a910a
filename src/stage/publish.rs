//! `publish`: a model with its card, laid out as a model repository of the Hub, in a folder or on the Hub itself.
//!
//! The folder appears whole or not at all and is read back afterwards; one that we did not make ourselves is never touched.

pub mod hub;

use super::{Arity, Complaint, Context, Made, Outcome, Port, Stage};
use crate::artifact::ArtifactKind;
use crate::error::{Doing, Error, Result};
use crate::folder::{self, Target};
use crate::hub::client::RepoType;
use crate::voxtral::weights;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Publishes a model with its card.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The folder to fill, laid out as a model repository; or `hub`.
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
}

/// Marks a folder we published.
const MARKER: &str = ".voxpipe-published";

impl Stage for Publish {
    const KIND: &'static str = "publish";
    const ABOUT: &'static str = "publishes a model with its card";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port { name: "model", kinds: &[ArtifactKind::Model], arity: Arity::One, about: "the model to publish" },
        Port { name: "card", kinds: &[ArtifactKind::Card], arity: Arity::One, about: "its card" },
    ];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Published
    }

    fn check(&self) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        if matches!(self.target.trim(), "" | "." | "/") {
            complaints.push(
                Complaint::new("target", format!("`{}` is no folder to fill", self.target)).hint("write `target = \"published/NAME\"`"),
            );
        }
        let tidy = |repo: &str| {
            let parts: Vec<&str> = repo.split('/').collect();
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            parts.len() <= 2 && parts.iter().all(|part| !part.is_empty() && !part.starts_with(['.', '-']) && part.bytes().all(allowed))
        };
        if let Some(repo) = self.repo.as_deref().filter(|repo| !tidy(repo)) {
            let message = format!("`{repo}` cannot be the name of a repository");
            complaints.push(Complaint::new("repo", message).hint("use letters, digits, `-`, `_` and `.`, with at most one `/`"));
        }
        if self.target == "hub" && self.repo.is_none() {
            complaints.push(Complaint::new("target", "the Hub needs the name of a repository").hint("write `repo = \"OWNER/NAME\"` too"));
        }
        complaints
    }

    fn reaches_out(&self) -> bool {
        self.target == "hub"
    }

    fn preflight(&self, stop: &AtomicBool) -> Result<Option<String>> {
        let repo = self.repo.as_deref().ok_or_else(hub::no_repo)?;
        hub::may(RepoType::Model, repo, stop)
    }

    fn promises(&self) -> Vec<PathBuf> {
        if self.target == "hub" { Vec::new() } else { vec![self.target.clone().into()] }
    }

    fn run(&self, cx: &Context) -> Result<Outcome> {
        let (model, card) = (cx.input("model")?, cx.input("card")?);
        let mut files = BTreeMap::new();
        let mut left_out = Vec::new();
        for (name, path) in folder::named(&model.path)? {
            if belongs(&name) {
                files.insert(name, path);
            } else {
                left_out.push(name);
            }
        }
        files.insert("README.md".to_owned(), card.path.join("README.md"));
        let kind = complete(&files)?;
        if self.target == "hub" {
            return self.send(cx, &files, kind, &left_out);
        }
        let path = cx.path(&self.target);
        let placed = folder::place(&files, &Target { path: &path, written: &self.target, marker: MARKER, overwrite: self.overwrite })?;
        let bytes: u64 = placed.iter().map(|file| file.size).sum();
        let published = json!({
            "target": "folder",
            "location": self.target,
            "repo": self.repo,
            "kind": kind,
            "files": placed,
            "left_out": left_out,
            "base_model": card.facts.get("base_model"),
            "card": card.facts,
        });
        fs::write(cx.out.join("published.json"), serde_json::to_vec_pretty(&published)?)?;
        let made = Made::new(format!("{} files, {:.1} MB, in `{}`", placed.len(), bytes as f64 / 1e6, self.target));
        Ok(Outcome::Done(made.metric("files", placed.len() as f64).metric("bytes", bytes as f64).fact("location", self.target.clone())))
    }
}

impl Publish {
    fn send(&self, cx: &Context, files: &BTreeMap<String, PathBuf>, kind: &str, left_out: &[String]) -> Result<Outcome> {
        let repo = self.repo.as_deref().ok_or_else(hub::no_repo)?;
        let message = self.message.as_deref();
        let order = hub::Order { kind: RepoType::Model, repo, private: self.private, overwrite: self.overwrite, message };
        let sent = hub::send(cx, &order, files)?;
        let card = &cx.input("card")?.facts;
        let published = json!({
            "target": "hub",
            "location": sent.url,
            "url": sent.url,
            "repo": sent.repo,
            "revision": sent.revision,
            "kind": kind,
            "files": sent.files,
            "left_out": left_out,
            "base_model": card.get("base_model"),
            "card": card,
        });
        fs::write(cx.out.join("published.json"), serde_json::to_vec_pretty(&published)?)?;
        let bytes: u64 = sent.files.iter().map(|file| file.size).sum();
        let how = if sent.changed { "" } else { ", which were there already" };
        let made = Made::new(format!("{} files, {:.1} MB, at {}{how}", sent.files.len(), bytes as f64 / 1e6, sent.url));
        let made = made.metric("files", sent.files.len() as f64).metric("bytes", bytes as f64);
        Ok(Outcome::Done(made.fact("location", sent.url).fact("repo", sent.repo).fact("revision", sent.revision)))
    }
}

/// Whether a file of a model's folder is for others: checkpoints and hidden files are not.
fn belongs(name: &str) -> bool {
    let private =
        |part: &str| part.starts_with('.') || part.starts_with("checkpoint") || part.starts_with("optimizer") || part.ends_with(".part");
    !name.split('/').any(private)
}

/// What the folder is, an adapter or a model; weights that are missing or cut off are found before anybody downloads them.
fn complete(files: &BTreeMap<String, PathBuf>) -> Result<&'static str> {
    let (kind, needed) = if files.contains_key("adapter_config.json") {
        ("adapter", ["adapter_config.json", "adapter_model.safetensors", "training.json"])
    } else {
        ("model", ["config.json", weights::SINGLE, "training.json"])
    };
    let sharded = !files.contains_key(weights::SINGLE) && files.contains_key(weights::INDEX);
    let mut needed: Vec<String> = needed.into_iter().filter(|name| !sharded || *name != weights::SINGLE).map(str::to_owned).collect();
    if sharded {
        needed.push(weights::INDEX.to_owned());
        needed.extend(shards(files)?);
    }
    for name in &needed {
        let path = files.get(name.as_str()).ok_or_else(|| {
            Error::new(format!("the {kind} has no `{name}`, so nobody could load it"))
                .advice("see what the stage named in `from.model` made")
        })?;
        let bad = |what: String| Error::new(format!("`{name}` of the {kind}: {what}")).advice("run the stage that made it again");
        if name.ends_with(".json") {
            let text = fs::read_to_string(path).doing(|| format!("cannot read `{name}`"))?;
            serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| bad(error.to_string()))?;
        } else {
            whole(path).map_err(|error| bad(error.message))?;
        }
    }
    Ok(kind)
}

/// The weights files that the index of a large model names.
fn shards(files: &BTreeMap<String, PathBuf>) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let name = weights::INDEX;
    let Some(path) = files.get(name) else { return Ok(BTreeSet::new()) };
    let text = fs::read_to_string(path).doing(|| format!("cannot read `{name}`"))?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| Error::new(format!("`{name}` of the model: {error}")).advice("run the stage that made it again"))?;
    Ok(index.weight_map.into_values().collect())
}

/// The part of a safetensors header that says how much must follow; `__metadata__` has none.
#[derive(Deserialize)]
struct Tensor {
    data_offsets: Option<[u64; 2]>,
}

/// Whether a safetensors file has all the bytes its header promises.
fn whole(path: &Path) -> Result<()> {
    use std::io::Read;
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| Error::new(format!("{size} bytes are too few for a header")))?;
    let header = u64::from_le_bytes(length);
    if header > size.saturating_sub(8) {
        return Err(Error::new(format!("it is cut off: the header alone should have {header} bytes, the file has {size}")));
    }
    let mut text = Vec::new();
    file.take(header).read_to_end(&mut text)?;
    let tensors: BTreeMap<String, Tensor> =
        serde_json::from_slice(&text).map_err(|error| Error::new(format!("its header is broken: {error}")))?;
    let end = tensors.values().filter_map(|tensor| tensor.data_offsets).map(|offsets| offsets[1]).max().unwrap_or(0);
    let promised = end.saturating_add(8 + header);
    if size == promised {
        Ok(())
    } else {
        Err(Error::new(format!("it is cut off or has more than it should: {promised} bytes are promised, {size} are there")))
    }
}
