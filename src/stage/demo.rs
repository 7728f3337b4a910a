//! `demo`: the files of a Space that shows the published model.
//!
//! `static` is one page that needs nothing from anywhere: facts, scores, examples. `gradio` is a small app that loads the
//! published weights, says which, and refuses to start with any others.

use super::{Arity, Complaint, Context, Made, Outcome, Port, Stage};
use crate::artifact::ArtifactKind;
use crate::error::{Doing, Error, Result};
use crate::folder::{self, Target};
use crate::template::render;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// Writes the demo Space of a published model.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Demo {
    /// A folder of yours in which the demo is also placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<PathBuf>,
    /// The page's title; the model's otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What the Space runs.
    pub sdk: Sdk,
    /// The hardware a gradio Space asks for, as the Hub calls it: `l4x1`, `a10g-small`, `zero-a10g`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Whether only its owner may see the Space.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}

/// What a Space runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sdk {
    /// A page with facts, scores and examples; free on the Hub.
    #[default]
    Static,
    /// An app that transcribes; it needs hardware that can hold the model.
    Gradio,
}

/// Marks a folder we placed.
const MARKER: &str = ".voxpipe-demo";
const GRADIO_VERSION: &str = "6.31.0";
const README: &str = include_str!("../../templates/demo/README.md");
const PAGE: &str = include_str!("../../templates/demo/index.html");
const APP: &str = include_str!("../../templates/demo/app.py");
const REQUIREMENTS: &str = include_str!("../../templates/demo/requirements.txt");
/// The longest short description the Hub takes.
const SHORT: usize = 60;

impl Stage for Demo {
    const KIND: &'static str = "demo";
    const ABOUT: &'static str = "writes the demo Space of a published model";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] =
        &[Port { name: "published", kinds: &[ArtifactKind::Published], arity: Arity::One, about: "the model to show" }];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Demo
    }

    fn check(&self) -> Vec<Complaint> {
        let empty = |text: &str| text.trim().is_empty();
        let mut complaints = Vec::new();
        if self.title.as_deref().is_some_and(empty) {
            complaints.push(Complaint::new("title", "the title is empty").hint("leave it out to use the model's"));
        }
        if self.target.as_deref().is_some_and(|target| matches!(target.to_str(), Some("" | "." | "/"))) {
            complaints.push(Complaint::new("target", "this is no folder to fill").hint("write `target = \"published/NAME-demo\"`"));
        }
        let hardware =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        match self.hardware.as_deref() {
            Some(_) if self.sdk == Sdk::Static => complaints
                .push(Complaint::new("hardware", "a static page runs on no hardware").hint("leave it out, or write `sdk = \"gradio\"`")),
            Some(name) if !hardware(name) => complaints.push(
                Complaint::new("hardware", format!("`{name}` is not how the Hub writes hardware"))
                    .hint("write `l4x1`, `a10g-small` or `zero-a10g`"),
            ),
            _ => {}
        }
        complaints
    }

    fn promises(&self) -> Vec<PathBuf> {
        self.target.iter().cloned().collect()
    }

    fn run(&self, cx: &Context) -> Result<Outcome> {
        let artifact = cx.input("published")?;
        let shown = format!("`published.json` of stage `{}`", artifact.stage);
        let text = fs::read_to_string(artifact.path.join("published.json")).doing(|| format!("cannot read {shown}"))?;
        let published: Value =
            serde_json::from_str(&text).map_err(|error| Error::new(format!("{shown}: {error}")).advice("run that stage again"))?;
        let card = published.get("card").filter(|card| card.is_object()).ok_or_else(|| {
            Error::new(format!("{shown} says nothing about its model under `card`"))
                .advice("publish it with a card made by the `card` stage")
        })?;
        let required = |name: &str| {
            card.get(name).filter(|value| !value.is_null()).ok_or_else(|| {
                Error::new(format!("{shown}: `card.{name}` is missing")).advice("publish it with a card made by the `card` stage")
            })
        };
        let title = match &self.title {
            Some(title) => title.clone(),
            None => required("title")?.as_str().unwrap_or_default().to_owned(),
        };
        let languages: Vec<&str> = required("languages")?.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // A bare name has no owner yet, and the Hub would refuse the link.
        let model_id = published.get("repo").and_then(Value::as_str).filter(|repo| repo.contains('/'));
        let values = json!({
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
        let write = |name: &str, text: String| fs::write(cx.out.join(name), text).doing(|| format!("cannot write `{name}`"));
        write("README.md", render("templates/demo/README.md", README, &values)?)?;
        // For whoever makes the Space: what it needs beside its files. The Hub itself does not read it.
        let variables = json!({
            "HF_MODEL_ID": model_id,
            "BASE_MODEL_ID": if values["method"] == "lora" { values["base_model"].clone() } else { Value::Null },
            "MODEL_REVISION": null,
            "LANGUAGE": languages.first(),
        });
        let space = json!({
            "sdk": self.sdk,
            "hardware": self.hardware,
            "private": self.private,
            "variables": if self.sdk == Sdk::Gradio { variables } else { json!({}) },
        });
        write("space.json", serde_json::to_string_pretty(&space)?)?;
        match self.sdk {
            Sdk::Static => write("index.html", render("templates/demo/index.html", PAGE, &values)?)?,
            Sdk::Gradio => {
                let facts = ["title", "model_id", "method", "base_model", "languages"].map(|name| (name.to_owned(), values[name].clone()));
                write("model.json", serde_json::to_string_pretty(&Value::Object(facts.into_iter().collect()))?)?;
                write("app.py", APP.to_owned())?;
                write("requirements.txt", REQUIREMENTS.to_owned())?;
                if model_id.is_none() {
                    cx.warn("the model has no id on the Hub yet: set the variable `HF_MODEL_ID` of the Space to `owner/name`");
                }
            }
        }
        let mut summary = format!("{} demo of `{title}`", if self.sdk == Sdk::Static { "static" } else { "gradio" });
        if let Some(target) = &self.target {
            let (path, written) = (cx.path(target), target.display().to_string());
            folder::place(&folder::named(&cx.out)?, &Target { path: &path, written: &written, marker: MARKER, overwrite: false })?;
            summary = format!("{summary}, in `{written}`");
        }
        Ok(Outcome::Done(Made::new(summary)))
    }
}

fn short_description(languages: &[&str]) -> String {
    let base = "Speech recognition tuned with voxpipe";
    let full = format!("{base} ({})", languages.join(", "));
    if languages.is_empty() || full.chars().count() > SHORT { base.to_owned() } else { full }
}
