//! The report of a sweep: all combinations, the failed ones too, and how the axes go with the metric.

use super::gather::{list, words};
use super::number;
use super::page::STYLE;
use crate::cli::Project;
use crate::cli::summary::Summary;
use crate::cli::sweep;
use crate::data::template::render;
use crate::error::Result;
use crate::plot::parallel::{ParallelAxis, ParallelLine, parallel, scatter};
use crate::report::terminal::duration;
use pipeline::cache::store::Store;
use serde_json::{Value, json};

const TEMPLATE: &str = include_str!("../../../templates/report/sweep.html");

/// The facts of a sweep: its combinations as `sweep --list --json` has them, each with the run that made its result, or else its newest run.
pub(super) fn gather(store: &Store, project: &Project) -> Result<Value> {
    let mut data = sweep::listed(store, project)?;
    for row in data["combinations"].as_array_mut().into_iter().flatten() {
        let Some(run) = row["run"].as_str() else { continue };
        // A log that is damaged is no reason not to report the others.
        let Ok(summary) = Summary::of(store, run) else { continue };
        row["seconds"] = json!(summary.seconds);
        if row["error"].is_string() {
            // All of the error, not only its first line.
            let failed = summary.stages.iter().find(|stage| stage.result == "failed");
            row["error"] = json!(failed.map(|stage| format!("{}: {}", stage.stage, stage.said)));
        }
    }
    Ok(data)
}

/// The names of the axes, in the order of their keys.
fn axes(data: &Value) -> Vec<String> {
    let settings = list(&data["combinations"]).first().and_then(|row| row["settings"].as_object());
    settings.map(|settings| settings.keys().cloned().collect()).unwrap_or_default()
}

/// The report in a few lines.
pub(super) fn text(data: &Value) -> String {
    let mut text = format!("sweep of {}\n", words(&data["pipeline"]));
    let judge = data["judged_by"]["metric"].as_str();
    for row in list(&data["combinations"]) {
        let settings: Vec<String> =
            row["settings"].as_object().into_iter().flatten().map(|(key, value)| format!("{key} = {}", words(value))).collect();
        let metric = judge.map(|judge| format!("  {judge} {}", number(&row["metric"]))).unwrap_or_default();
        let best = if row["best"] == true { "  best" } else { "" };
        let error = row["error"].as_str().map(|error| format!("  {error}")).unwrap_or_default();
        text += &format!("  {}{metric}  {}{best}{error}\n", settings.join(", "), words(&row["result"]));
    }
    text
}

/// The page of a sweep.
pub(super) fn page(data: &Value) -> Result<String> {
    let axes = axes(data);
    let rows = list(&data["combinations"]);
    let judge = data["judged_by"]["metric"].as_str();
    let value = |row: &Value, axis: &String| words(&row["settings"][axis]).to_owned();
    let mut columns: Vec<ParallelAxis> =
        axes.iter().map(|axis| ParallelAxis::of(axis, &rows.iter().map(|row| Some(value(row, axis))).collect::<Vec<_>>())).collect();
    if let Some(judge) = judge {
        columns.push(ParallelAxis::of(
            judge,
            &rows.iter().map(|row| row["metric"].as_f64().map(|metric| metric.to_string())).collect::<Vec<_>>(),
        ));
    }
    let lines: Vec<ParallelLine> = rows
        .iter()
        .map(|row| {
            let mut values: Vec<Option<String>> = axes.iter().map(|axis| Some(value(row, axis))).collect();
            if judge.is_some() {
                values.push(row["metric"].as_f64().map(|metric| metric.to_string()));
            }
            ParallelLine { values, best: row["best"] == true, failed: row["metric"].is_null() && judge.is_some() }
        })
        .collect();
    let drawn = columns.len() > 1 && !lines.is_empty();
    let scatters: Vec<String> = match columns.split_last() {
        Some((metric, settings)) if judge.is_some() && rows.iter().any(|row| row["metric"].is_number()) => {
            (0..settings.len()).map(|place| scatter(&settings[place], metric, place, &lines)).collect()
        }
        _ => Vec::new(),
    };
    let good = |row: &Value| ["fresh", "done", "best"].contains(&words(&row["result"]));
    let shown: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "settings": axes.iter().map(|axis| value(row, axis)).collect::<Vec<_>>(), "metric": number(&row["metric"]),
                "result": row["result"], "best": row["best"], "run": row["run"], "error": row["error"],
                "seconds": row["seconds"].as_f64().map(duration),
                "good": good(row),
            })
        })
        .collect();
    let done = shown.iter().filter(|row| row["good"] == true).count();
    let values = json!({
        "pipeline": data["pipeline"], "axes": axes, "judge": judge, "goal": data["judged_by"]["goal"], "rows": shown, "done": done,
        "best": shown.iter().find(|row| row["best"] == true), "parallel": drawn.then(|| parallel(&columns, &lines)),
        "scatters": scatters, "style": STYLE,
    });
    render("report/sweep.html", TEMPLATE, values)
}
