//! `demo`: generates a Hugging Face Space that shows the published model.
//!
//! `static` is a self-contained page with facts, scores and examples. `gradio` is a small app that loads the published weights, shows which
//! they are, and refuses to start with any others. `docker` is this program with the model in a container. The Space is written to a folder
//! or created on the Hub; then the stage waits until it runs.

mod examples;

use super::hub_publish::{PublishRequest, bad_repo, may_write, send_space};
use crate::data::managed_dir;
use crate::data::managed_dir::ManagedDir;
use crate::data::template::render;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::RepoType;
use crate::hub::space::SpaceSettings;
use crate::hub::verify::verify;
use pipeline::artifact::{Artifact, ArtifactKind};
use pipeline::stage::{Arity, Context, Port, PublicationState, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Generate a demo Space of a published model.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Demo {
    /// Destination: a folder to also write the demo to, or `hub` to create the Space on the Hub. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Name of the Space on the Hub: `accent-fr-demo` or `owner/accent-fr-demo`. Default: the model's id followed by `-demo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Overwrite files that this stage did not write. Default: refuse.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub overwrite: bool,
    /// Title of the page. Default: the model's title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Type of the Space.
    pub sdk: Sdk,
    /// Hardware to request for the Space (not for `static`), by its Hub name: `l4x1`, `a10g-small`, `zero-a10g`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Create the Space as private. An existing Space keeps its visibility.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// Maximum time in seconds to wait until the Space on the Hub runs; 0 does not wait. A build takes minutes. Default: 1800.
    #[serde(skip_serializing_if = "is_default_patience")]
    pub wait_seconds: Patience,
}

/// Waiting time in seconds; half an hour by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Patience(u64);

impl Default for Patience {
    fn default() -> Self {
        Self(1800)
    }
}

fn is_default_patience(patience: &Patience) -> bool {
    *patience == Patience::default()
}

/// Type of a Space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sdk {
    /// Static page with facts, scores and examples; free on the Hub.
    #[default]
    Static,
    /// Gradio app that transcribes; needs hardware with enough memory for the model.
    Gradio,
    /// Container with this program and the model; needs no Python.
    Docker,
}

/// The value of `target` for a Space on the Hub.
const HUB: &str = "hub";
/// File with the settings of the Space that are not part of its files.
const SPACE: &str = "space.json";
/// Marker file in folders created by this stage.
const MARKER: &str = ".voxpipe-demo";
const GRADIO_VERSION: &str = "6.31.0";
const README: &str = include_str!("../../../templates/demo/README.md");
const PAGE: &str = include_str!("../../../templates/demo/index.html");
const APP: &str = include_str!("../../../templates/demo/app.py");
const DOCKERFILE: &str = include_str!("../../../templates/demo/Dockerfile");
const REQUIREMENTS: &str = include_str!("../../../templates/demo/requirements.txt");
/// Maximum length of a Space's short description on the Hub, in characters.
const SHORT: usize = 60;

impl Stage for Demo {
    const KIND: &'static str = "demo";
    const ABOUT: &'static str = "generates a demo Space of a published model";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[
        Port { name: "published", kinds: &[ArtifactKind::Published], arity: Arity::One, about: "the published model to show" },
        Port {
            name: "data",
            kinds: &[ArtifactKind::Dataset],
            arity: Arity::Optional,
            about: "the dataset with the scored clips, to play them on the page",
        },
    ];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Demo
    }

    fn check(&self) -> Vec<SettingError> {
        let empty = |text: &str| text.trim().is_empty();
        let mut errors = Vec::new();
        if self.title.as_deref().is_some_and(empty) {
            errors.push(SettingError::new("title", "the title is empty").hint("leave it out to use the model's"));
        }
        if self.target.as_deref().is_some_and(|target| matches!(target.trim(), "" | "." | "/")) {
            let hint = "write `target = \"published/NAME-demo\"`, or `target = \"hub\"`";
            errors.push(SettingError::new("target", "this cannot be a target folder").hint(hint));
        }
        errors.extend(self.repo.as_deref().and_then(bad_repo));
        let hardware =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        match self.hardware.as_deref() {
            Some(_) if self.sdk == Sdk::Static => errors.push(
                SettingError::new("hardware", "a static Space needs no hardware").hint("leave `hardware` out, or write `sdk = \"gradio\"`"),
            ),
            Some(name) if !hardware(name) => errors.push(
                SettingError::new("hardware", format!("`{name}` is not a Hub hardware name"))
                    .hint("write a name such as `l4x1`, `a10g-small` or `zero-a10g`"),
            ),
            _ => {}
        }
        errors
    }

    fn external_outputs(&self) -> Vec<PathBuf> {
        self.target.iter().filter(|target| *target != HUB).map(PathBuf::from).collect()
    }

    fn publishes(&self) -> bool {
        self.target.as_deref() == Some(HUB)
    }

    fn verify(&self, result: &Artifact, connect: bool, stop: &AtomicBool) -> PublicationState {
        verify(&result.path.join(SPACE), connect, stop)
    }

    fn records_pipeline_name(&self) -> bool {
        self.target.as_deref() == Some(HUB)
    }

    fn uses_network(&self) -> bool {
        self.target.as_deref() == Some(HUB)
    }

    fn preflight(&self, _given: &[&str], stop: &AtomicBool) -> Result<Option<String>> {
        may_write(RepoType::Space, self.repo.as_deref().unwrap_or("demo"), stop)
    }

    fn port_conflicts(&self, given: &[&str]) -> Option<(String, String)> {
        (given.contains(&"data") && self.sdk != Sdk::Static).then(|| {
            ("has clips to play, which only a static page can do".to_owned(), "leave `data` out, or write `sdk = \"static\"`".to_owned())
        })
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let artifact = cx.input("published")?;
        let shown = format!("`published.json` of stage `{}`", artifact.stage);
        let text = fs::read_to_string(artifact.path.join("published.json")).with_context(|| format!("cannot read {shown}"))?;
        let published: Value =
            serde_json::from_str(&text).map_err(|error| Error::new(format!("{shown}: {error}")).hint("run that stage again"))?;
        let card = published.get("card").filter(|card| card.is_object()).ok_or_else(|| {
            Error::new(format!("{shown} has no card facts (`card`)")).hint("publish it with a card made by the `card` stage")
        })?;
        let required = |name: &str| {
            card.get(name).filter(|value| !value.is_null()).ok_or_else(|| {
                Error::new(format!("{shown}: `card.{name}` is missing")).hint("publish it with a card made by the `card` stage")
            })
        };
        let title = match &self.title {
            Some(title) => title.clone(),
            None => required("title")?.as_str().unwrap_or_default().to_owned(),
        };
        let languages: Vec<&str> = required("languages")?.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // The Hub refuses links to a repository name without an owner.
        let model_id = published.get("repo").and_then(Value::as_str).filter(|repo| repo.contains('/'));
        let mut values = json!({
            "title": title,
            "sdk": self.sdk,
            "gradio_version": GRADIO_VERSION,
            "model_id": model_id,
            "method": required("method")?,
            "base_model": card.get("base_model"),
            "license": card.get("license"),
            "languages": languages,
            "data": card.get("data"),
            "scores": card.get("scores"),
            "short_description": short_description(&languages),
            "hardware": self.hardware,
        });
        if let Some(data) = cx.optional("data") {
            examples::add_sounds(&mut values["scores"], data, &cx.out)?;
        }
        let write = |name: &str, text: String| fs::write(cx.out.join(name), text).with_context(|| format!("cannot write `{name}`"));
        write("README.md", render("templates/demo/README.md", README, &values)?)?;
        // Settings for creating the Space by hand; the Hub does not read this file.
        let variables = json!({
            "HF_MODEL_ID": model_id,
            "BASE_MODEL_ID": if values["method"] == "lora" { values["base_model"].clone() } else { Value::Null },
            "MODEL_REVISION": published.get("revision"),
            "LANGUAGE": languages.first(),
        });
        let space = json!({
            "sdk": self.sdk,
            "hardware": self.hardware,
            "private": self.private,
            "variables": if self.sdk == Sdk::Gradio { variables } else { json!({}) },
        });
        write(SPACE, serde_json::to_string_pretty(&space)?)?;
        match self.sdk {
            Sdk::Static => write("index.html", render("templates/demo/index.html", PAGE, &values)?)?,
            Sdk::Docker => {
                let model = model_id.ok_or_else(|| {
                    Error::new("the model has no Hub id, so a container cannot load it")
                        .kind(ErrorKind::InvalidInput)
                        .hint("publish the model with `repo = \"owner/name\"`, or write `sdk = \"static\"`")
                })?;
                if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
                    return Err(Error::new("a container needs the Linux x86-64 build of this program; this is another build")
                        .environment()
                        .hint("run this stage on Linux x86-64, or write `sdk = \"gradio\"`"));
                }
                let revision = published.get("revision").and_then(Value::as_str).map_or_else(String::new, |commit| format!("@{commit}"));
                let base = if values["method"] == "lora" { values["base_model"].clone() } else { Value::Null };
                let container = json!({ "model": format!("{model}{revision}"), "base": base });
                write("Dockerfile", render("templates/demo/Dockerfile", DOCKERFILE, &container)?)?;
                let program = std::env::current_exe().with_context(|| "cannot find the path of this program")?;
                fs::copy(program, cx.out.join("voxpipe")).with_context(|| "cannot copy this program")?;
            }
            Sdk::Gradio => {
                let facts = ["title", "model_id", "method", "base_model", "languages"].map(|name| (name.to_owned(), values[name].clone()));
                write("model.json", serde_json::to_string_pretty(&Value::Object(facts.into_iter().collect()))?)?;
                write("app.py", APP.to_owned())?;
                write("requirements.txt", REQUIREMENTS.to_owned())?;
                if model_id.is_none() {
                    if self.uses_network() {
                        return Err(Error::new("the model is not on the Hub, so a Space on the Hub cannot load it")
                            .environment()
                            .hint("set `target = \"hub\"` in the stage that publishes the model, or write `sdk = \"static\"`"));
                    }
                    cx.warn("the model has no Hub id yet: set the variable `HF_MODEL_ID` of the Space to `owner/name`");
                }
            }
        }
        let mut summary = format!("{} demo of `{title}`", self.sdk.word());
        let mut files = managed_dir::named(&cx.out)?;
        match self.target.as_deref() {
            None => Ok(StageOutcome::Done(StageResult::new(summary))),
            Some(HUB) => {
                files.remove(SPACE);
                self.deploy(cx, &files, space, &summary, model_id)
            }
            Some(target) => {
                let path = cx.path(target);
                managed_dir::place(&files, &ManagedDir { path: &path, written: target, marker: MARKER, overwrite: self.overwrite })?;
                summary = format!("{summary}, in `{target}`");
                Ok(StageOutcome::Done(StageResult::new(summary).fact("location", target)))
            }
        }
    }
}

impl Demo {
    /// Creates or updates the Space on the Hub.
    fn deploy(
        &self,
        cx: &Context,
        files: &BTreeMap<String, PathBuf>,
        mut space: Value,
        summary: &str,
        model: Option<&str>,
    ) -> Result<StageOutcome> {
        let repo = self.repo.clone().or_else(|| model.map(|model| format!("{model}-demo"))).ok_or_else(|| {
            Error::new("the Space has no name").kind(ErrorKind::InvalidInput).hint("set `repo = \"NAME\"` or `repo = \"OWNER/NAME\"`")
        })?;
        let variables = space["variables"].as_object().into_iter().flatten();
        let variables = variables.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
        let needs = SpaceSettings {
            sdk: self.sdk.word(),
            hardware: self.hardware.as_deref(),
            variables: &variables,
            model: model.filter(|_| self.sdk != Sdk::Static),
            patience: Duration::from_secs(self.wait_seconds.0),
        };
        let order = PublishRequest { kind: RepoType::Space, repo: &repo, private: self.private, overwrite: self.overwrite, message: None };
        let (sent, stage) = send_space(cx, &order, files, &needs)?;
        space["repo"] = json!(sent.repo);
        space["revision"] = json!(sent.revision);
        space["url"] = json!(sent.url);
        space["endpoint"] = json!(sent.endpoint);
        space["user"] = json!(sent.user);
        space["repo_type"] = json!(RepoType::Space.word());
        space["files"] = json!(sent.files);
        fs::write(cx.out.join(SPACE), serde_json::to_string_pretty(&space)?).with_context(|| format!("cannot write `{SPACE}`"))?;
        let how = stage.map_or_else(|| "not waited for".to_owned(), |stage| stage.to_lowercase());
        let made = StageResult::new(format!("{summary}, at {} ({how})", sent.url));
        Ok(StageOutcome::Done(made.fact("location", sent.url).fact("repo", sent.repo).fact("revision", sent.revision)))
    }
}

impl Sdk {
    /// The name on the Hub.
    const fn word(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Gradio => "gradio",
            Self::Docker => "docker",
        }
    }
}

/// The Space's short description, with the languages if they fit.
fn short_description(languages: &[&str]) -> String {
    let base = "Speech recognition tuned with voxpipe";
    let full = format!("{base} ({})", languages.join(", "));
    if languages.is_empty() || full.chars().count() > SHORT { base.to_owned() } else { full }
}
