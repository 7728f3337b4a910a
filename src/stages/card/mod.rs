//! `card`: writes the model card (`README.md`) from measured values only.
//!
//! Every value comes from files of upstream stages: `training.json`, `scores.json` and the rows of the dataset. The template decides
//! whether a missing value is left out (it tests for the value) or an error. Scores of another model are refused. `card.json` says which
//! model the card describes.

mod dataset_name;

use super::{is_hub_id, is_license};
use crate::data::clip_row::ClipRow;
use crate::data::ingest::rounded;
use crate::data::scored_model::{ModelMatch, ScoredModel};
use crate::data::template;
use crate::data::trained_on::Overlap;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use pipeline::artifact::{Artifact, ArtifactKind};
use pipeline::stage::{Arity, Context, Port, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe_io::digest::Digest;

/// Write the model card.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Card {
    /// Title of the model. Default: the name of the pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// License of the model, as a Hub license identifier: `apache-2.0`, `cc-by-4.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Author of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Hub id of the base model (`mistralai/Voxtral-Mini-3B-2507`) when the base was a local copy of it. Default: the id recorded by the
    /// training, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Hub ids of the datasets it was trained on, such as `me/accent-fr`. Name only datasets that exist on the Hub.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<String>,
    /// Path of a custom minijinja template. Default: the built-in template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<PathBuf>,
}

const TEMPLATE: &str = include_str!("../../../templates/model_card.md");
/// Number of worst clips shown by a card, and of best clips shown by a demo.
const EXAMPLES: usize = 5;

impl Stage for Card {
    const KIND: &'static str = "card";
    const ABOUT: &'static str = "writes the model card";
    const VERSION: u32 = 3;
    const INPUTS: &'static [Port] = &[
        Port { name: "model", kinds: &[ArtifactKind::Model], arity: Arity::One, about: "the model to describe" },
        Port { name: "scores", kinds: &[ArtifactKind::Scores], arity: Arity::Optional, about: "its scores" },
        Port { name: "data", kinds: &[ArtifactKind::Dataset], arity: Arity::Optional, about: "the dataset it was trained on" },
    ];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Card
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        if let Some(license) = self.license.as_deref().filter(|license| !is_license(license)) {
            let message = format!("`{license}` is not a Hub license identifier");
            errors.push(SettingError::new("license", message).hint("write an identifier such as `apache-2.0`, `cc-by-4.0` or `other`"));
        }
        if let Some(id) = self.base_model.as_deref().filter(|id| !is_hub_id(id)) {
            let message = format!("`{id}` is not a Hub model id");
            errors.push(SettingError::new("base_model", message).hint("write `owner/name`, or leave it out"));
        }
        for (index, id) in self.datasets.iter().enumerate().filter(|(_, id)| !is_hub_id(id)) {
            let message = format!("`{id}` is not a Hub dataset id");
            errors.push(SettingError::new(&format!("datasets.{index}"), message).hint("write `owner/name`, or leave it out"));
        }
        if self.title.as_deref().is_some_and(|title| title.trim().is_empty()) {
            errors.push(SettingError::new("title", "the title is empty").hint("leave it out to use the pipeline's name"));
        }
        errors
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.template.iter().cloned().collect()
    }

    fn records_pipeline_name(&self) -> bool {
        true
    }

    fn records_upstream(&self) -> bool {
        true
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let model = cx.input("model")?;
        let training: Training = read(model, "training.json")?;
        let scores: Option<Scores> = cx.optional("scores").map(|scores| read(scores, "scores.json")).transpose()?;
        let checked = match (&scores, cx.optional("scores")) {
            (Some(scores), Some(artifact)) => Some(checked(model, artifact, scores)?),
            _ => None,
        };
        let data = cx.optional("data").map(|data| Data::of(data, &training, scores.as_ref())).transpose()?;
        self.warn(cx, checked.as_ref(), data.as_ref());
        let languages = match &data {
            Some(data) if training.languages.is_empty() => data.languages.clone(),
            _ => training.languages.clone(),
        };
        let title = self.title.clone().unwrap_or_else(|| cx.pipeline.clone());
        let base_model = self.base_model.clone().or_else(|| training.base.hub.clone());
        let worst = scores.iter().flat_map(|scores| &scores.worst).take(EXAMPLES).cloned().collect::<Vec<_>>();
        // A merged adapter is used like any full model.
        let method = if training.merged { "merged" } else { training.method.as_str() };
        let mut values = json!({
            "title": title,
            "pipeline": cx.pipeline,
            "author": self.author,
            "license": self.license,
            "datasets": self.datasets,
            "base_model": base_model,
            "relation": if method == "lora" { "adapter" } else { "finetune" },
            "library": if method == "lora" { "peft" } else { "transformers" },
            "method": method,
            "variant": variant(&training.settings),
            "languages": languages,
            "training": training,
            "settings": settings(&training.settings),
            "scores": scores,
            "checked": checked,
            "scored_dataset": scores.as_ref().map(|scores| dataset_name::of(cx, scores, &training, &self.datasets)),
            "data": data,
        });
        if scores.is_some() {
            values["scores"]["worst"] = json!(worst);
        }
        let (name, source) = match &self.template {
            Some(file) => {
                let name = file.display().to_string();
                let source = fs::read_to_string(cx.path(file)).with_context(|| format!("cannot read `{name}`"))?;
                (name, source)
            }
            None => ("templates/model_card.md".to_owned(), TEMPLATE.to_owned()),
        };
        let text = template::render(&name, &source, &values)?;
        if !text.starts_with("---\n") {
            cx.warn(format!("{name}: the card has no front matter, so the Hub will show no metadata for the model"));
        }
        fs::write(cx.out.join("README.md"), text).with_context(|| "cannot write the card")?;
        let known = scores.as_ref().and_then(|scores| scores.model.clone()).filter(|scored| scored.digest == model.digest);
        let about = known.map_or_else(|| ScoredModel::of(model, None), Ok)?;
        let about = json!({ "model": about, "scores": cx.optional("scores").map(|scores| scores.digest) });
        fs::write(cx.out.join("card.json"), serde_json::to_vec_pretty(&about)?).with_context(|| "cannot write `card.json`")?;

        let what = match &scores {
            Some(scores) => {
                let seen =
                    checked.as_ref().and_then(|checked| checked.warning.as_deref()).map_or(String::new(), |seen| format!(" ({seen})"));
                format!("card of `{title}`, WER {:.1} % on {} clips{seen}", scores.tuned.wer * 100.0, scores.clips)
            }
            None => format!("card of `{title}`, without scores"),
        };
        let mut made = StageResult::new(what);
        for name in ["title", "pipeline", "license", "base_model", "method", "library", "languages", "data"] {
            made.facts.insert(name.to_owned(), values[name].clone());
        }
        if let (Some(scores), Some(artifact)) = (&scores, cx.optional("scores")) {
            let mut short = json!(scores);
            short["worst"] = json!(worst);
            short["best"] = json!(best(artifact, scores)?);
            short["warning"] = json!(checked.as_ref().and_then(|checked| checked.warning.as_deref()));
            short["caveats"] = json!(checked.as_ref().map_or_else(Vec::new, |checked| checked.caveats(scores)));
            made.facts.insert("scores".to_owned(), short);
        }
        Ok(StageOutcome::Done(made))
    }
}

impl Card {
    /// Tells in the terminal what the card tells about its scores.
    fn warn(&self, cx: &Context, checked: Option<&Checked>, data: Option<&Data>) {
        if let Some(checked) = checked {
            if let Some(warning) = &checked.warning {
                cx.warn(format!("{warning}; the card says so"));
            }
            if let Overlap::NotChecked { why } = &checked.overlap {
                cx.warn(format!("whether the scored clips were trained on was not checked: {why}"));
            }
            if let Some(choice) = &checked.choice {
                cx.warn(format!("{choice}; the card says so"));
            }
            if let Some(other) = &checked.other_precision {
                cx.warn(format!("the scores were {other}; the card says so"));
            }
            if checked.model.is_none() {
                cx.warn("the scores do not say which model they are of, so this was not checked");
            }
        }
        if data.is_some_and(|data| data.trained_on == Some(false)) {
            cx.warn("the dataset in `from.data` is not the one that the model was trained on; the card says so");
        }
    }
}

/// What was checked about the scores of a card.
#[derive(Serialize)]
struct Checked {
    /// Whether they are of this model; none if they do not say.
    model: Option<ModelMatch>,
    /// Which of the scored clips were trained on.
    overlap: Overlap,
    /// The overlap as a sentence, if there is one.
    warning: Option<String>,
    /// Scored clips that chose the kept step, as a sentence, if there are any.
    choice: Option<String>,
    /// In which precision the scores were computed, if it is not the one in which the model is stored.
    other_precision: Option<String>,
    /// What the name of the entry in `model-index` says of the scores.
    marks: Vec<String>,
    /// Whether the scores may be listed in `model-index`: not if a scored clip was trained on.
    listed: bool,
}

/// An error if the scores are of another model.
fn checked(model: &Artifact, artifact: &Artifact, scores: &Scores) -> Result<Checked> {
    let matched = scores.model.as_ref().map(|scored| scored.compare(model)).transpose()?;
    let wrong = |what: &str| {
        let message = format!("the scores of stage `{}` are of another model than stage `{}` made: {what}", artifact.stage, model.stage);
        let hint = format!("add a stage with `uses = \"evaluate\"` and `from = {{ model = \"{}\", data = \"…\" }}`", model.stage);
        Err(Error::new(message).kind(ErrorKind::InvalidInput).hint(format!("{hint}, and name it in `from.scores`")))
    };
    match matched {
        Some(ModelMatch::Other) => return wrong("the weights differ"),
        Some(ModelMatch::MergedRounded) => return wrong("merging the adapter rounded its weights or stored them in another type"),
        Some(ModelMatch::Same | ModelMatch::Merged) | None => {}
    }
    let overlap = Overlap::recorded(&json!({ "overlap": scores.overlap }));
    let same_clip = matches!(overlap, Overlap::Checked { same_clip, .. } if same_clip > 0);
    let (warning, choice, other_precision) = (overlap.warning(), overlap.choice(), scores.other_precision());
    let unchecked = matches!(overlap, Overlap::NotChecked { .. }).then(|| "not compared with the training data".to_owned());
    let marks = [warning.clone(), unchecked, choice.clone(), scores.unfinished(), other_precision.clone()];
    let marks = marks.into_iter().flatten().collect();
    Ok(Checked { model: matched, warning, choice, other_precision, marks, overlap, listed: !same_clip })
}

impl Checked {
    /// What limits the scores, beside the warning, as sentences: a page that shows them shows these too.
    fn caveats(&self, scores: &Scores) -> Vec<String> {
        let mut caveats = Vec::new();
        match &self.overlap {
            Overlap::NotChecked { why } => caveats.push(format!("Whether these clips were trained on was not checked: {why}.")),
            Overlap::Checked { unknown, .. } if !unknown.is_empty() => {
                caveats.push(format!("What {} was trained on before is not known and was not compared.", unknown.join(", ")));
            }
            Overlap::Checked { .. } => {}
        }
        if let Some(choice) = &self.choice {
            caveats.push(format!("Warning: {choice}, so the scores on them are better than on new ones."));
        }
        if let Some(unfinished) = scores.unfinished() {
            caveats.push(format!("This model left {unfinished}; they are scored as far as they go."));
        }
        if let Some(other) = &self.other_precision {
            caveats.push(format!("The scores were {other}."));
        }
        if self.model.is_none() {
            caveats.push("The scores do not say which model they are of; that they are this model's was not checked.".to_owned());
        }
        caveats
    }
}

impl Scores {
    /// How many transcripts the model did not end, if there are any.
    fn unfinished(&self) -> Option<String> {
        (self.tuned.unfinished > 0).then(|| format!("{} of {} transcripts unfinished", self.tuned.unfinished, self.clips))
    }

    /// In which precision the scores were computed, if it is not the one in which the model is stored.
    fn other_precision(&self) -> Option<String> {
        let (computed, stored) = (self.precision.as_deref()?, self.stored_precision.as_deref()?);
        (computed != stored).then(|| format!("computed in {computed}, while the model is stored in {stored}"))
    }
}

/// `training.json`. Unknown fields are passed on to custom templates.
#[derive(Serialize, Deserialize)]
struct Training {
    method: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    merged: bool,
    base: Base,
    parameters: u64,
    trainable_parameters: u64,
    settings: Value,
    steps: u64,
    epochs: f64,
    examples: u64,
    audio_seconds: f64,
    first_loss: f64,
    final_loss: f64,
    device: String,
    precision: String,
    languages: Vec<String>,
    seed: u64,
    /// The dataset; absent in older files.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    data: Option<DataDigest>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Base {
    name: String,
    init: String,
    /// The Hub id, if the weights came from the Hub. `name` alone does not tell: `models/tiny` may be a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hub: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// `scores.json`.
#[derive(Serialize, Deserialize)]
struct Scores {
    normalisation: String,
    clips: u64,
    words: u64,
    characters: u64,
    split: String,
    base: Option<Score>,
    tuned: Score,
    train: Option<Score>,
    worst: Vec<ScoredClip>,
    /// The model; absent in files of other programs and older ones, as are the next two.
    #[serde(default, deserialize_with = "lenient")]
    model: Option<ScoredModel>,
    #[serde(default, deserialize_with = "lenient")]
    data: Option<DataDigest>,
    #[serde(default)]
    overlap: Value,
    /// Precision in which the scores were computed, and that in which the model is stored; absent in older files.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    precision: Option<String>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    stored_precision: Option<String>,
}

/// A value as voxpipe writes it; none in place of what another program writes under the same name.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// A dataset, by the digest of the result that it is.
#[derive(Clone, Serialize, Deserialize)]
struct DataDigest {
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct Score {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clips: Option<u64>,
    /// Number of transcripts that the model did not end; 0 in the scores of former versions, which did not count them.
    #[serde(default)]
    unfinished: u64,
    /// Of the train split: how many of the clips were trained on, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trained_on: Option<u64>,
    wer: f64,
    cer: f64,
    substitutions: u64,
    insertions: u64,
    deletions: u64,
}

/// A clip with its reference text and transcripts.
#[derive(Clone, Serialize, Deserialize)]
struct ScoredClip {
    audio_path: String,
    #[serde(default, skip_serializing)]
    split: Option<String>,
    reference: String,
    base: Option<String>,
    tuned: String,
    wer: f64,
}

/// The clips with the lowest WER, longest text first among equals.
fn best(artifact: &Artifact, scores: &Scores) -> Result<Vec<ScoredClip>> {
    let rows: Vec<(usize, ScoredClip)> = voxpipe_io::jsonl::read(&artifact.path.join("clips.jsonl"))?;
    let mut rows: Vec<ScoredClip> =
        rows.into_iter().map(|(_, row)| row).filter(|row| row.split.as_deref() == Some(&scores.split)).collect();
    let shown: BTreeSet<&str> = scores.worst.iter().take(EXAMPLES).map(|row| row.audio_path.as_str()).collect();
    rows.retain(|row| !shown.contains(row.audio_path.as_str()));
    rows.sort_by(|a, b| a.wer.total_cmp(&b.wer).then(b.reference.len().cmp(&a.reference.len())).then(a.audio_path.cmp(&b.audio_path)));
    rows.truncate(EXAMPLES);
    Ok(rows)
}

/// Statistics of a dataset.
#[derive(Serialize)]
struct Data {
    clips: usize,
    minutes: f64,
    splits: BTreeMap<String, usize>,
    rejected: usize,
    languages: Vec<String>,
    speakers: BTreeSet<String>,
    /// Speakers in both the train split and the scored split, if both are of this dataset.
    shared_speakers: BTreeSet<String>,
    /// Whether the model was trained on this dataset, and scored on it; none if its files do not say.
    trained_on: Option<bool>,
    scored_on: Option<bool>,
    /// Number of scored clips that were trained on, as a recording or as a sentence; none if that was not checked.
    seen: Option<usize>,
}

impl Data {
    /// Reads a dataset of a model with these facts and scores.
    fn of(artifact: &Artifact, training: &Training, scores: Option<&Scores>) -> Result<Self> {
        let scored = scores.map_or("test", |scores| &scores.split);
        let is = |data: Option<&DataDigest>| data.map(|data| data.digest == artifact.digest);
        let (trained_on, scored_on) = (is(training.data.as_ref()), is(scores.and_then(|scores| scores.data.as_ref())));
        let records = ClipRow::read_all(&artifact.path.join("data.jsonl"))?;
        let split = |record: &ClipRow| record.rest.get("split").and_then(Value::as_str).map(str::to_owned);
        let of_split = |name: &str| records.iter().filter(|record| split(record).as_deref() == Some(name)).collect::<Vec<_>>();
        let both = trained_on != Some(false) && scored_on != Some(false);
        let (train, held_out) = if both { (of_split("train"), of_split(scored)) } else { (Vec::new(), Vec::new()) };
        let speakers = |rows: &[&ClipRow]| -> BTreeSet<String> { rows.iter().filter_map(|record| record.speaker.clone()).collect() };
        let mut splits = BTreeMap::new();
        for record in &records {
            if let Some(split) = split(record) {
                *splits.entry(split).or_default() += 1;
            }
        }
        let seconds: f64 = records.iter().filter_map(|record| record.duration).sum();
        let report = artifact.path.join("report.json");
        let report: Value = if report.exists() { read(artifact, "report.json")? } else { Value::Null };
        Ok(Self {
            clips: records.len(),
            minutes: rounded(seconds / 60.0),
            splits,
            rejected: report["rejected"].as_array().map_or(0, Vec::len),
            languages: records.iter().filter_map(|record| record.language.clone()).collect::<BTreeSet<_>>().into_iter().collect(),
            speakers: records.iter().filter_map(|record| record.speaker.clone()).collect(),
            shared_speakers: speakers(&train).intersection(&speakers(&held_out)).cloned().collect(),
            trained_on,
            scored_on,
            seen: scores.and_then(|scores| Overlap::recorded(&json!({ "overlap": scores.overlap })).trained_on()),
        })
    }
}

/// Reads a JSON file of an upstream stage.
fn read<T: DeserializeOwned>(artifact: &Artifact, name: &str) -> Result<T> {
    let shown = format!("`{name}` of stage `{}`", artifact.stage);
    let text = fs::read_to_string(artifact.path.join(Path::new(name))).with_context(|| format!("cannot read {shown}"))?;
    serde_json::from_str(&text).map_err(|error| Error::new(format!("{shown}: {error}")).hint("rerun that stage, or fix the file it writes"))
}

/// Name of the LoRA variant in the settings; none for plain LoRA.
fn variant(settings: &Value) -> Option<&'static str> {
    let set = |key: &str| settings["lora"][key] == Value::Bool(true);
    match (set("dora"), set("rslora")) {
        (false, false) => None,
        (false, true) => Some("rank-stabilised"),
        (true, false) => Some("DoRA"),
        (true, true) => Some("DoRA, rank-stabilised"),
    }
}

/// Flattens nested settings to `lora.r` → `8`; unset ones are left out.
fn settings(value: &Value) -> BTreeMap<String, String> {
    fn walk(prefix: &str, value: &Value, found: &mut BTreeMap<String, String>) {
        match value {
            Value::Null => {}
            Value::Object(object) => {
                for (key, value) in object {
                    walk(&if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") }, value, found);
                }
            }
            Value::String(text) => {
                found.insert(prefix.to_owned(), text.clone());
            }
            other => {
                found.insert(prefix.to_owned(), other.to_string());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk("", value, &mut found);
    if found.contains_key("max_steps") {
        // Overridden: it did not decide how long the training was.
        found.remove("epochs");
    }
    found
}
