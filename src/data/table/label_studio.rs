//! Tasks of Label Studio as its JSON export has them: the text of a whole recording, or of regions in it.

use crate::data::columns::{ColumnRole, Columns};
use crate::data::ingest::is_audio;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Whether an object is a task.
pub(super) fn is_task(object: &Map<String, Value>) -> bool {
    object.get("data").is_some_and(Value::is_object)
        && ["annotations", "completions"].iter().any(|key| object.get(*key).is_some_and(Value::is_array))
}

/// A region of the sound, collected from the results of one id.
#[derive(Debug, Default, PartialEq)]
struct Region {
    start: Option<f64>,
    end: Option<f64>,
    text: Option<String>,
    speaker: Option<String>,
}

/// The rows of a task, or the reason why it has none.
pub(super) fn rows(task: &Map<String, Value>) -> Vec<Result<Map<String, Value>, String>> {
    match read(task) {
        Ok(rows) => rows.into_iter().map(Ok).collect(),
        Err(reason) => vec![Err(reason)],
    }
}

fn read(task: &Map<String, Value>) -> Result<Vec<Map<String, Value>>, String> {
    let columns = Columns::default();
    let data = task.get("data").and_then(Value::as_object).ok_or("its task has no data")?;
    let is_sound =
        |key: &str, value: &str| columns.role(key).is_some_and(|found| found.0 == ColumnRole::Audio) || is_audio(Path::new(value));
    let sound = data.iter().find_map(|(key, value)| value.as_str().filter(|value| is_sound(key, value)));
    let sound = sound.ok_or("its task names no sound")?;
    let sound = sound.split_once("?d=").map_or(sound, |(_, path)| path);

    let annotations = ["annotations", "completions"].iter().find_map(|key| task.get(*key)?.as_array());
    let cancelled = |annotation: &&Value| annotation.get("was_cancelled").and_then(Value::as_bool) == Some(true);
    let mut valid: Vec<&Value> = annotations.into_iter().flatten().filter(|annotation| !cancelled(annotation)).collect();
    if let Some(truth) = valid.iter().find(|annotation| annotation.get("ground_truth").and_then(Value::as_bool) == Some(true)) {
        valid = vec![truth];
    }
    let several: Vec<BTreeMap<String, Region>> = valid.iter().map(|annotation| regions(annotation)).collect();
    let said = |regions: &BTreeMap<String, Region>| regions.values().filter_map(|region| region.text.clone()).collect::<Vec<_>>();
    let regions = several.iter().find(|regions| !said(regions).is_empty()).ok_or("its task has no text")?;
    if several.iter().any(|other| !said(other).is_empty() && said(other) != said(regions)) {
        return Err(format!("its task has {} annotations with different texts", several.len()));
    }

    let mut ordered: Vec<&Region> = regions.values().filter(|region| region.text.is_some()).collect();
    ordered.sort_by(|a, b| a.start.unwrap_or(0.0).total_cmp(&b.start.unwrap_or(0.0)));
    let row = |region: &&Region| {
        let mut row: Map<String, Value> =
            data.iter().filter(|(_, value)| !value.is_object()).map(|(k, v)| (k.clone(), v.clone())).collect();
        row.retain(|key, _| !matches!(columns.role(key), Some((ColumnRole::Audio | ColumnRole::Text | ColumnRole::Duration, ..))));
        row.insert("audio".to_owned(), sound.into());
        row.insert("text".to_owned(), region.text.clone().into());
        let times = [("start", region.start), ("end", region.end)];
        row.extend(times.into_iter().filter_map(|(name, time)| Some((name.to_owned(), format!("{}s", time?).into()))));
        if let Some(speaker) = &region.speaker {
            row.insert("speaker".to_owned(), speaker.as_str().into());
        }
        row
    };
    Ok(ordered.iter().map(row).collect())
}

fn regions(annotation: &Value) -> BTreeMap<String, Region> {
    let mut regions: BTreeMap<String, Region> = BTreeMap::new();
    for result in annotation.get("result").and_then(Value::as_array).into_iter().flatten() {
        let Some(value) = result.get("value") else { continue };
        let id = result.get("id").and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| value.get(name).and_then(Value::as_f64);
        // A text without times belongs to the whole recording, whatever its id.
        let whole = number("start").is_none();
        let region =
            regions.entry(if whole && result.get("type").is_some_and(|kind| kind == "textarea") { "" } else { id }.to_owned()).or_default();
        region.start = region.start.or(number("start"));
        region.end = region.end.or(number("end"));
        match value.get("text") {
            Some(Value::String(text)) => region.text = Some(text.clone()),
            Some(Value::Array(texts)) => {
                region.text = Some(texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
            }
            _ => {}
        }
        let labels = value.get("labels").and_then(Value::as_array);
        if let Some(label) = labels.into_iter().flatten().filter_map(Value::as_str).find(|label| {
            let label = label.to_lowercase();
            label.contains("speaker") || label.starts_with("spk")
        }) {
            region.speaker = Some(label.to_owned());
        }
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_task(task: Value) -> Vec<Result<String, String>> {
        let rows = rows(task.as_object().unwrap());
        rows.into_iter().map(|row| row.map(|row| Value::Object(row).to_string())).collect()
    }

    #[test]
    fn whole_recordings_and_regions_are_rows() {
        let text = |id: &str, text: &str, start: Option<f64>| {
            let mut value = json!({"text": [text]});
            if let Some(start) = start {
                value["start"] = start.into();
                value["end"] = (start + 1.5).into();
            }
            json!({"id": id, "type": "textarea", "value": value})
        };
        let task = |results: Vec<Value>| json!({"data": {"audio": "/data/upload/1/0a1b2c3d-a.wav"}, "annotations": [{"result": results}]});
        assert_eq!(
            read_task(task(vec![text("x", "Hi.", None)])),
            [Ok(r#"{"audio":"/data/upload/1/0a1b2c3d-a.wav","text":"Hi."}"#.to_owned())]
        );
        let speaker = json!({"id": "b", "type": "labels", "value": {"start": 2.0, "end": 3.5, "labels": ["Speaker 1"]}});
        assert_eq!(
            read_task(task(vec![speaker, text("b", "Yo.", Some(2.0)), text("a", "Hi.", Some(0.5))])),
            [
                Ok(r#"{"audio":"/data/upload/1/0a1b2c3d-a.wav","end":"2s","start":"0.5s","text":"Hi."}"#.to_owned()),
                Ok(r#"{"audio":"/data/upload/1/0a1b2c3d-a.wav","end":"3.5s","speaker":"Speaker 1","start":"2s","text":"Yo."}"#.to_owned()),
            ]
        );
        assert_eq!(read_task(task(Vec::new())), [Err("its task has no text".to_owned())]);
        let mut two = task(vec![text("x", "Hi.", None)]);
        two["annotations"].as_array_mut().unwrap().push(json!({"result": [text("x", "Ho.", None)]}));
        assert_eq!(read_task(two.clone()), [Err("its task has 2 annotations with different texts".to_owned())]);
        two["annotations"][1]["ground_truth"] = true.into();
        assert!(read_task(two)[0].as_ref().unwrap().contains("Ho."));
    }
}
