//! Collects the facts of a run.

use super::settings::Origins;
use super::{bytes, number};
use crate::cli::plot;
use crate::cli::provenance::Provenance;
use crate::cli::summary::{StageSummary, Summary, outcome_words};
use crate::data::clip_row::ClipRow;
use crate::data::trained_on::Overlap;
use crate::error::Result;
use crate::report::terminal::duration;
use pipeline::artifact::ArtifactKind;
use pipeline::cache::content::Content;
use pipeline::cache::store::{CacheEntry, Store};
use pipeline::events::{Event, jsonl as log};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Lines of the log that are shown of a stage that did not succeed.
const LAST_LINES: usize = 20;

/// What the event log says of a stage beside its summary.
#[derive(Default)]
struct Logged {
    kind: String,
    attempts: u32,
    hint: Option<String>,
    lines: Vec<String>,
    warnings: Vec<String>,
    /// Peak memory of the programs it started, and of voxpipe itself meanwhile.
    memory: BTreeMap<String, u64>,
}

/// The facts of a run.
pub(super) fn of_run(store: &Store, run: &str) -> Result<Value> {
    let summary = Summary::of(store, run)?;
    let provenance = Provenance::find(store, run)?;
    let origins = Origins::of(provenance.as_ref());
    let logged = logged(store, run)?;
    let records: Vec<Option<CacheEntry>> = summary.stages.iter().map(|stage| stage.record(store)).collect();
    let nothing = Logged::default();
    let stages: Vec<Value> = summary
        .stages
        .iter()
        .zip(&records)
        .map(|(stage, record)| of_stage(stage, record.as_ref(), logged.get(&stage.stage).unwrap_or(&nothing), &origins))
        .collect();
    let made = || summary.stages.iter().zip(&records).filter_map(|(stage, record)| Some((stage, record.as_ref()?)));
    let data: Vec<Value> = made()
        .filter(|(_, record)| record.kind == ArtifactKind::Dataset)
        .filter_map(|(stage, record)| of_data(store, stage, record))
        .collect();
    let scores: Vec<Value> = made()
        .filter(|(_, record)| record.kind == ArtifactKind::Scores)
        .filter_map(|(stage, record)| of_scores(store, &summary, stage, record))
        .collect();
    Ok(json!({
        "run": run,
        "pipeline": summary.pipeline,
        "started": summary.started,
        "exit": summary.exit,
        "outcome": outcome_words(store, &summary),
        "seconds": summary.seconds,
        "stages": stages,
        "data": data,
        "scores": scores,
        "curves": curves(store, run, made())?,
        "provenance": provenance.map(|provenance| json!({
            "voxpipe": provenance.voxpipe, "system": provenance.system, "file": provenance.file, "profiles": provenance.profiles,
            "set": provenance.set.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>(),
            "force": provenance.force, "env": provenance.env, "lock": provenance.lock, "text": provenance.text,
            "included": provenance.included,
        })),
    }))
}

fn logged(store: &Store, run: &str) -> Result<BTreeMap<String, Logged>> {
    let mut stages: BTreeMap<String, Logged> = BTreeMap::new();
    for line in log::read(&store.log(run))? {
        match line.event {
            Event::StageStarted { stage, kind, attempt, .. } => {
                let stage = stages.entry(stage).or_default();
                (stage.kind, stage.attempts) = (kind, attempt);
            }
            Event::Note { stage, message } => stages.entry(stage).or_default().lines.push(message),
            Event::Warning { stage, message } => {
                let stage = stages.entry(stage).or_default();
                stage.lines.push(format!("warning: {message}"));
                stage.warnings.push(message);
            }
            Event::StageFailed { stage, hint, .. } => stages.entry(stage).or_default().hint = hint,
            Event::PeakMemory { stage, process, bytes } => {
                let peak = stages.entry(stage).or_default().memory.entry(process).or_default();
                *peak = bytes.max(*peak);
            }
            _ => {}
        }
    }
    Ok(stages)
}

fn of_stage(stage: &StageSummary, record: Option<&CacheEntry>, logged: &Logged, origins: &Origins) -> Value {
    let ingredients = record.map(|record| &record.ingredients);
    let kind = ingredients.map_or(logged.kind.as_str(), |ingredients| ingredients.kind.as_str());
    let failed = !["fresh", "done"].contains(&stage.result.as_str());
    let lines = if failed { &logged.lines[logged.lines.len().saturating_sub(LAST_LINES)..] } else { &[] };
    let inputs: Vec<Value> = ingredients
        .iter()
        .flat_map(|ingredients| &ingredients.sources)
        .map(|source| {
            let (files, size, digest) = match &source.content {
                Content::Missing => (0, 0, None),
                Content::File(file) => (1, file.size, Some(file.digest.to_string())),
                Content::Folder(tree) => (tree.0.len(), tree.0.values().map(|file| file.size).sum(), Some(tree.digest().to_string())),
            };
            json!({ "path": source.path, "files": files, "bytes": size, "digest": digest })
        })
        .collect();
    let from: Vec<Value> = ingredients
        .iter()
        .flat_map(|ingredients| &ingredients.inputs)
        .flat_map(|(port, upstream)| upstream.iter().map(move |upstream| (port, upstream)))
        .map(|(port, upstream)| json!({ "port": port, "stage": upstream.stage, "digest": upstream.digest.to_string() }))
        .collect();
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "stage": stage.stage, "kind": kind, "result": stage.result, "why": stage.why, "summary": stage.said,
        "seconds": stage.seconds.or_else(|| record.filter(|_| stage.result == "fresh").map(|record| record.seconds)),
        "made_by": record.map(|record| record.run.clone()),
        // Programs are what takes the memory of a stage that starts some; what voxpipe had meanwhile says nothing about them.
        "peak_memory": logged.memory.get("program").or_else(|| logged.memory.get("voxpipe").filter(|_| kind != "command")),
        "attempts": logged.attempts, "hint": logged.hint, "log": lines, "warnings": logged.warnings,
        "metrics": record.map_or(&stage.metrics, |record| &record.metrics),
        "settings": origins.rows(&stage.stage, ingredients.map(|ingredients| &ingredients.settings)),
        "seed": ingredients.map(|ingredients| ingredients.seed),
        "numerics": ingredients.and_then(|ingredients| ingredients.numerics.clone()),
        "inputs": inputs, "from": from,
        "fingerprint": text(&stage.kept.fingerprint), "digest": text(&stage.kept.digest),
    })
}

/// The clips of a dataset; none if its files are gone.
fn of_data(store: &Store, stage: &StageSummary, record: &CacheEntry) -> Option<Value> {
    let folder = store.artifact(record, &stage.stage).path;
    let rows = ClipRow::read_all(&folder.join("data.jsonl")).ok()?;
    let seconds = |rows: &[ClipRow]| rows.iter().filter_map(|row| row.duration).fold(0.0, |sum, seconds| sum + seconds);
    let report = object(&folder.join("report.json"));
    let splits: Vec<Value> = ["train", "validation", "test"]
        .iter()
        .filter_map(|split| Some((split, ClipRow::read_all(&folder.join(format!("{split}.jsonl"))).ok()?)))
        .map(|(split, rows)| json!({ "split": split, "clips": rows.len(), "hours": seconds(&rows) / 3600.0 }))
        .collect();
    let mut languages: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        *languages.entry(row.language.as_deref().unwrap_or("not given")).or_default() += 1;
    }
    let speakers: BTreeSet<&str> = rows.iter().filter_map(|row| row.speaker.as_deref()).collect();
    let listed = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    Some(json!({
        "stage": stage.stage, "clips": rows.len(), "hours": seconds(&rows) / 3600.0, "splits": splits, "languages": languages,
        "speakers": speakers.len(), "rejected": listed("rejected"), "odd": listed("odd"),
    }))
}

/// Scores of a model with the clips it got most wrong; none if the files are gone or not those of `evaluate`.
fn of_scores(store: &Store, summary: &Summary, stage: &StageSummary, record: &CacheEntry) -> Option<Value> {
    let scores = object(&store.artifact(record, &stage.stage).path.join("scores.json"));
    scores["tuned"]["wer"].as_f64()?;
    let model = |key: &str, name: &str| {
        let score = &scores[key];
        score["wer"].is_number().then(|| {
            json!({ "model": name, "wer": score["wer"], "cer": score["cer"], "substitutions": score["substitutions"],
                "insertions": score["insertions"], "deletions": score["deletions"], "unfinished": score["unfinished"] })
        })
    };
    let models = [model("base", "base"), model("tuned", "this model"), model("train", "this model, on clips of the train split")];
    // The recordings are in the dataset that was scored.
    let data = record.ingredients.inputs.get("data").and_then(|inputs| inputs.first());
    let folder = data.and_then(|data| {
        let record = summary.stage(&data.stage)?.record(store)?;
        (record.digest == data.digest).then(|| store.artifact(&record, "").path)
    });
    let worst: Vec<Value> = scores["worst"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|clip| {
            json!({ "audio_path": clip["audio_path"], "reference": clip["reference"], "base": clip["base"], "tuned": clip["tuned"],
                "wer": clip["wer"], "finished": clip.get("finished").cloned().unwrap_or(json!(true)) })
        })
        .collect();
    Some(json!({
        "stage": stage.stage, "overlap": Overlap::recorded(&scores).sentence(), "split": scores["split"], "clips": scores["clips"], "words": scores["words"],
        "normalisation": scores["normalisation"], "models": models.into_iter().flatten().collect::<Vec<_>>(), "worst": worst,
        "data": folder.map(|folder| folder.display().to_string()),
    }))
}

/// The metrics of the trainings of a run, also of those that were up to date.
fn curves<'a>(store: &Store, run: &str, made: impl Iterator<Item = (&'a StageSummary, &'a CacheEntry)>) -> Result<Vec<Value>> {
    let mut trainings = plot::stages_of_run(store, &store.runs()?, run)?;
    for (stage, record) in made.filter(|(_, record)| record.kind == ArtifactKind::Model) {
        if !trainings.contains_key(&stage.stage) {
            let rows = plot::rows_of_result(&store.artifact(record, "").path)?;
            trainings.insert(stage.stage.clone(), rows);
        }
    }
    let mut curves = Vec::new();
    for (stage, rows) in trainings {
        let names: BTreeSet<&String> = rows.iter().flat_map(|row| row.values.keys()).collect();
        for name in names.into_iter().filter(|name| *name != "epoch") {
            let (steps, values): (Vec<u64>, Vec<f64>) = rows.iter().filter_map(|row| Some((row.step, *row.values.get(name)?))).unzip();
            curves.push(json!({ "stage": stage, "metric": name, "steps": steps, "values": values }));
        }
    }
    Ok(curves)
}

fn object(path: &Path) -> Value {
    fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null)
}

/// Words for a field that may be missing.
pub(super) fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The report in a few lines.
pub(super) fn text(data: &Value) -> String {
    let time = |value: &Value| value.as_f64().map(|seconds| format!(" ({})", duration(seconds))).unwrap_or_default();
    let mut text = format!("run {} of {}, started {}: ", words(&data["run"]), words(&data["pipeline"]), words(&data["started"]));
    text += &format!("{}{}\n", words(&data["outcome"]), time(&data["seconds"]));
    let provenance = &data["provenance"];
    if provenance.is_object() {
        text += &format!("voxpipe {} on {}\n", words(&provenance["voxpipe"]), words(&provenance["system"]));
    }
    text += "\nstages\n";
    for stage in list(&data["stages"]) {
        let memory = stage["peak_memory"].as_u64().map(|peak| format!(", {}", bytes(peak))).unwrap_or_default();
        text += &format!(
            "  {}  {}  {}{}{memory}\n",
            words(&stage["stage"]),
            words(&stage["result"]),
            words(&stage["summary"]),
            time(&stage["seconds"])
        );
        for line in list(&stage["log"]) {
            text += &format!("      | {}\n", words(line));
        }
        if let Some(hint) = stage["hint"].as_str() {
            text += &format!("      = {hint}\n");
        }
        let set: Vec<String> = list(&stage["settings"])
            .iter()
            .filter(|row| row["set"] == true)
            .map(|row| format!("{} = {}", words(&row["name"]), words(&row["value"])))
            .collect();
        if !set.is_empty() {
            text += &format!("      {}\n", set.join(", "));
        }
    }
    for data in list(&data["data"]) {
        let splits: Vec<String> =
            list(&data["splits"]).iter().map(|split| format!("{} {}", split["clips"], words(&split["split"]))).collect();
        let hours = data["hours"].as_f64().unwrap_or_default();
        text += &format!(
            "\ndata of {}: {} clips, {hours:.2} h ({}), {} left out, {} suspicious\n",
            words(&data["stage"]),
            data["clips"],
            splits.join(", "),
            list(&data["rejected"]).len(),
            list(&data["odd"]).len()
        );
    }
    for scores in list(&data["scores"]) {
        text += &format!("\nscores of {} on {} clips of {}\n", words(&scores["stage"]), scores["clips"], words(&scores["split"]));
        text += &format!("  {}\n", words(&scores["overlap"]));
        for model in list(&scores["models"]) {
            let percent = |key: &str| model[key].as_f64().map_or_else(|| "–".to_owned(), |rate| format!("{:.2} %", 100.0 * rate));
            let unfinished = model["unfinished"].as_u64().filter(|count| *count > 0).map(|count| format!(", {count} unfinished"));
            text += &format!(
                "  {}: WER {}, CER {}{}\n",
                words(&model["model"]),
                percent("wer"),
                percent("cer"),
                unfinished.unwrap_or_default()
            );
        }
        for clip in list(&scores["worst"]).iter().take(3) {
            text +=
                &format!("  worst: {} instead of {} (WER {})\n", words(&clip["tuned"]), words(&clip["reference"]), number(&clip["wer"]));
        }
    }
    text
}
