//! Renders a run as one HTML page: styles, plots and recordings are part of it.

use super::bytes;
use super::gather::{list, words};
use crate::data::template::render;
use crate::error::Result;
use crate::plot;
use crate::plot::{PlotCurve, PlotPanel};
use crate::report::terminal::duration;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path};

const TEMPLATE: &str = include_str!("../../../templates/report/run.html");
pub(super) const STYLE: &str = include_str!("../../../templates/report/style.css");

/// Bytes of recordings on a page, before they are encoded: half an hour at 16 kHz would be too much for a mail.
const MOST_AUDIO: u64 = 6 << 20;
/// Bytes of one recording: half a minute.
const LONGEST_AUDIO: u64 = 1 << 20;

/// The page of a run.
pub(super) fn of_run(data: &Value) -> Result<String> {
    let mut data = data.clone();
    let stages: Vec<Value> = list(&data["stages"]).iter().map(stage).collect();
    let curves: Vec<Value> = figures(list(&data["curves"]));
    let (scores, audio) = with_audio(list(&data["scores"]));
    data["seconds"] = time(&data["seconds"]);
    data["scores"] = scores.into();
    data["audio"] = audio;
    data["attention"] = stages.iter().filter(|stage| stage["good"] == false).cloned().collect();
    data["stages"] = stages.into();
    data["figures"] = curves.into();
    data["style"] = json!(STYLE);
    render("report/run.html", TEMPLATE, &data)
}

/// A stage with times and sizes in words.
fn stage(stage: &Value) -> Value {
    let mut stage = stage.clone();
    let result = words(&stage["result"]).to_owned();
    stage["good"] = json!(["fresh", "done"].contains(&result.as_str()));
    stage["seconds"] = time(&stage["seconds"]);
    stage["peak_memory"] = stage["peak_memory"].as_u64().map(bytes).into();
    stage["metrics"] = stage["metrics"]
        .as_object()
        .map(|metrics| metrics.iter().map(|(name, value)| json!({ "name": name, "value": super::number(value) })).collect::<Vec<_>>())
        .into();
    let short = |value: &Value| value.as_str().map(|digest| digest.chars().take(12).collect::<String>());
    let inputs: Vec<Value> = list(&stage["inputs"])
        .iter()
        .map(|input| {
            json!({ "path": input["path"], "files": input["files"], "size": bytes(input["bytes"].as_u64().unwrap_or_default()),
                "digest": short(&input["digest"]), "whole": input["digest"] })
        })
        .collect();
    stage["inputs"] = inputs.into();
    stage["short_digest"] = short(&stage["digest"]).into();
    let (set, defaults): (Vec<Value>, Vec<Value>) = list(&stage["settings"]).iter().cloned().partition(|row| row["set"] == true);
    (stage["set"], stage["defaults"]) = (set.into(), defaults.into());
    stage
}

fn time(seconds: &Value) -> Value {
    seconds.as_f64().map(duration).into()
}

/// One plot for each metric, with a curve for each training. Loss and validation loss share a plot.
fn figures(curves: &[Value]) -> Vec<Value> {
    let stages: BTreeSet<&str> = curves.iter().map(|curve| words(&curve["stage"])).collect();
    let mut metrics: Vec<&str> = curves.iter().map(|curve| words(&curve["metric"])).collect::<BTreeSet<_>>().into_iter().collect();
    // What everybody looks at first comes first.
    metrics
        .sort_by_key(|metric| (["loss", "eval_loss", "eval_wer", "eval_cer"].iter().position(|name| name == metric).unwrap_or(9), *metric));
    let both = metrics.contains(&"loss") && metrics.contains(&"eval_loss");
    let mut figures = Vec::new();
    for metric in metrics.into_iter().filter(|metric| !(both && *metric == "eval_loss")) {
        let mut shown = Vec::new();
        for curve in curves {
            let name = words(&curve["metric"]);
            if name != metric && !(both && metric == "loss" && name == "eval_loss") {
                continue;
            }
            let steps = list(&curve["steps"]).iter().filter_map(Value::as_f64);
            // A value that is no number is null in JSON; the curve has a gap there.
            let points = steps.zip(list(&curve["values"])).filter_map(|(step, value)| Some((step, value.as_f64()?))).collect();
            let held_out = if name == "eval_loss" && both { " held out" } else { "" };
            shown.push(PlotCurve { name: format!("{}{held_out}", words(&curve["stage"])), points });
        }
        let title = metric.replace('_', " ");
        let alone = stages.len() == 1 && shown.len() == 1;
        figures.push(json!({ "title": title, "alone": alone, "svg": plot::svg(&[PlotPanel { title: title.clone(), curves: shown }]) }));
    }
    figures
}

/// Adds the recordings of the worst clips as data URIs, as far as there is room. Returns the scores and what was left out.
fn with_audio(scores: &[Value]) -> (Vec<Value>, Value) {
    let (mut room, mut embedded, mut too_long, mut no_room, mut missing) = (MOST_AUDIO, 0, 0, 0, 0);
    let mut scores = scores.to_vec();
    for score in &mut scores {
        let folder = score["data"].as_str().map(str::to_owned);
        for clip in score["worst"].as_array_mut().into_iter().flatten() {
            let path = words(&clip["audio_path"]).to_owned();
            // The paths are those of a file of the store, but the file may come from anybody's archive.
            let inside = !path.is_empty() && Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
            let file = folder.as_deref().filter(|_| inside).map(|folder| Path::new(folder).join(&path));
            let size = file.as_ref().and_then(|file| fs::metadata(file).ok()).filter(fs::Metadata::is_file).map(|file| file.len());
            let sound = match (file, size) {
                (_, None) | (None, _) => {
                    missing += 1;
                    None
                }
                (_, Some(size)) if size > LONGEST_AUDIO => {
                    too_long += 1;
                    None
                }
                (_, Some(size)) if size > room => {
                    no_room += 1;
                    None
                }
                (Some(file), Some(_)) => fs::read(file).ok(),
            };
            clip["percent"] = json!(clip["wer"].as_f64().map_or_else(|| "–".to_owned(), |wer| format!("{:.0} %", 100.0 * wer)));
            clip["sound"] = match sound {
                Some(bytes) => {
                    room = room.saturating_sub(bytes.len() as u64);
                    embedded += 1;
                    json!(format!("data:audio/wav;base64,{}", STANDARD.encode(bytes)))
                }
                None => Value::Null,
            };
        }
    }
    let told = json!({ "embedded": embedded, "too_long": too_long, "no_room": no_room, "missing": missing,
        "longest": super::bytes(LONGEST_AUDIO), "most": super::bytes(MOST_AUDIO) });
    (scores, told)
}
