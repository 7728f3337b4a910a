//! The name of the dataset that was scored, for `model-index`.

use super::{Scores, Training};
use pipeline::stage::Context;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// The dataset that was scored.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct DatasetName {
    /// Its id on the Hub, or the name of the stage that made it.
    id: String,
    /// Its name for readers.
    name: String,
    /// Whether `id` is an id on the Hub.
    hub: bool,
    /// Configuration of the dataset on the Hub.
    config: Option<String>,
}

/// Names the dataset behind the scores: the Hub dataset that its clips were imported from, the dataset that the card names if the model was
/// trained on the same one, and otherwise the stage that made it.
pub(super) fn of(cx: &Context, scores: &Scores, training: &Training, named: &[String]) -> DatasetName {
    let shown = |name: &str| format!("{name}, {} split, {} clips", scores.split, scores.clips);
    let stage = cx.optional("scores").and_then(|scores| inputs(cx, &scores.stage, Some("data")).into_iter().next());
    let imported: BTreeSet<(String, Option<String>)> = stage.as_deref().and_then(|stage| imports(cx, stage)).unwrap_or_default();
    if let Some((repo, config)) = imported.first().filter(|_| imported.len() == 1) {
        // The split is one that the pipeline made of it, not the one of that name on the Hub.
        return DatasetName { id: repo.clone(), name: shown(repo), hub: true, config: config.clone() };
    }
    let same = scores.data.as_ref().zip(training.data.as_ref()).is_some_and(|(scored, trained)| scored.digest == trained.digest);
    if let ([only], true) = (named, same) {
        return DatasetName { id: only.clone(), name: shown(only), hub: true, config: None };
    }
    let stage = stage.unwrap_or_else(|| cx.optional("data").map_or_else(|| cx.pipeline.clone(), |data| data.stage.clone()));
    let digest = scores.data.as_ref().map_or(String::new(), |data| format!(", digest {}", data.digest.short()));
    let name = format!("{} of {} (not on the Hub){digest}", shown(&stage), cx.pipeline);
    DatasetName { id: stage, name, hub: false, config: None }
}

/// The stages that a stage reads from, of one port or of all.
fn inputs(cx: &Context, stage: &str, port: Option<&str>) -> Vec<String> {
    let from = cx.upstream.get(stage).and_then(|described| described["from"].as_object());
    let ports = from.into_iter().flatten().filter(|(name, _)| port.is_none_or(|port| port == name.as_str()));
    let names = ports.flat_map(|(_, stages)| stages.as_array().into_iter().flatten());
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The Hub datasets that all clips of a stage were imported from; none if some have another origin.
fn imports(cx: &Context, stage: &str) -> Option<BTreeSet<(String, Option<String>)>> {
    let described = cx.upstream.get(stage)?;
    if described["uses"] == "import" {
        let with = &described["with"];
        let config = with["config"].as_str().map(str::to_owned);
        return Some(BTreeSet::from([(with["repo"].as_str()?.to_owned(), config)]));
    }
    if described["uses"] != "dataset" {
        return None;
    }
    let mut found = BTreeSet::new();
    for input in inputs(cx, stage, None) {
        found.extend(imports(cx, &input)?);
    }
    Some(found)
}
