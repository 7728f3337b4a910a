//! Results API: dataset rows with audio and corrections, evaluation scores, model card, published locations.

use super::project::StudioProject;
use super::{ApiError, ApiResult, blocking, file_name, json};
use crate::error::ResultExt;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use pipeline::cache::store::Store;
use pipeline::manifest::foreach::name_in_file;
use serde::Deserialize;
use serde_json::{Value, json as value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Component;
use std::sync::{Arc, PoisonError};
use voxpipe_io::jsonl;
use voxpipe_io::write::write_atomic;

/// Default file of corrections, used if the `dataset` stage has no `edits` setting.
const EDITS: &str = "edits.jsonl";

type Shared = State<Arc<StudioProject>>;

pub(super) fn routes() -> Router<Arc<StudioProject>> {
    Router::new()
        .route("/api/dataset", get(dataset))
        .route("/api/sound/{kind}/{*path}", get(sound))
        .route("/api/edits", post(edit))
        .route("/api/scores", get(scores))
        .route("/api/card", get(card))
        .route("/api/published", get(published))
}

impl StudioProject {
    /// A text file of the newest result of a stage kind.
    fn text(&self, kind: &str, name: &str) -> Option<String> {
        fs::read_to_string(self.latest(kind)?.join(name)).ok()
    }

    /// A JSON file of the newest result of a stage kind; null if it is missing.
    fn object(&self, kind: &str, name: &str) -> Value {
        self.text(kind, name).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null)
    }

    /// A JSONL file of the newest result of a stage kind; empty if it is missing.
    fn rows(&self, kind: &str, name: &str) -> Vec<Value> {
        let text = self.text(kind, name).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The clips whose text a model wrote, and which are not in the dataset: nobody has confirmed or excluded them yet.
    fn drafts(&self) -> Vec<Value> {
        let (edits, done) = (self.edits(), self.rows("dataset", "data.jsonl"));
        let name = |row: &Value| row["source"].as_str().or(row["audio_path"].as_str()).unwrap_or_default().to_owned();
        let done: BTreeSet<String> = done.iter().map(name).collect();
        let open = |row: &Value| {
            row["draft"] == true && !done.contains(&name(row)) && edits.get(&name(row)).is_none_or(|edit| edit["exclude"] != true)
        };
        self.rows("uploads", "clips.jsonl").into_iter().filter(open).collect()
    }

    /// The name of the `dataset` stage, and the file of corrections.
    fn edits_file(&self) -> (Option<String>, String) {
        let stage = self.stages("dataset").into_iter().next();
        let named = stage.as_deref().and_then(|stage| self.setting(stage, "edits"));
        (stage, named.unwrap_or_else(|| EDITS.to_owned()))
    }

    /// Corrections by clip name.
    fn edits(&self) -> BTreeMap<String, Value> {
        let text = fs::read_to_string(self.project_root().join(self.edits_file().1)).unwrap_or_default();
        let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        rows.filter_map(|row| Some((row["clip"].as_str()?.to_owned(), row))).collect()
    }
}

/// Returns the dataset: rows, drafts, report, corrections.
async fn dataset(State(project): Shared) -> ApiResult {
    blocking(move || {
        json(value!({
            "rows": project.rows("dataset", "data.jsonl"),
            "drafts": project.drafts(),
            "report": project.object("dataset", "report.json"),
            "edits": project.edits(),
        }))
    })
    .await
}

/// Returns a WAV file of a result. Supports byte ranges, which browsers need to seek.
async fn sound(State(project): Shared, Path((kind, path)): Path<(String, String)>, headers: HeaderMap) -> ApiResult {
    blocking(move || {
        let none = || ApiError::missing("audio file not found");
        let inside = std::path::Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
        if !["dataset", "recordings", "uploads", "import"].contains(&kind.as_str()) || !inside || !path.ends_with(".wav") {
            return Err(none());
        }
        let bytes = fs::read(project.latest(&kind).ok_or_else(none)?.join(&path)).map_err(|_| none())?;
        let kind = [(header::CONTENT_TYPE, "audio/wav"), (header::ACCEPT_RANGES, "bytes")];
        let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
        let Some((from, to)) = range else { return Ok((kind, bytes).into_response()) };
        let last = bytes.len().saturating_sub(1);
        let from: usize = from.parse().unwrap_or(0);
        let to = to.parse().unwrap_or(last).min(last);
        if from > to {
            return Err(ApiError(axum::http::StatusCode::RANGE_NOT_SATISFIABLE, "requested range is not satisfiable".to_owned()));
        }
        let range = [(header::CONTENT_RANGE, format!("bytes {from}-{to}/{}", bytes.len()))];
        Ok((axum::http::StatusCode::PARTIAL_CONTENT, kind, range, bytes[from..=to].to_vec()).into_response())
    })
    .await
}

/// Saves a correction: a new transcript for a clip, or its exclusion from the dataset. The first one also sets `edits` in the pipeline
/// file, so that runs apply the corrections.
async fn edit(State(project): Shared, axum::Json(request): axum::Json<Value>) -> ApiResult {
    blocking(move || {
        let clip = request["clip"].as_str().filter(|clip| !clip.is_empty());
        let clip = clip.ok_or_else(|| ApiError::bad("missing field `clip`"))?.to_owned();
        let text = request["text"].as_str().map(str::trim);
        if text == Some("") {
            return Err(ApiError::bad("the transcript is empty; exclude the clip instead"));
        }
        let _one_at_a_time = project.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (stage, file) = project.edits_file();
        let stage = stage.ok_or_else(|| ApiError::missing("the pipeline has no dataset stage"))?;
        let mut edits = project.edits();
        let mut edit = serde_json::Map::from_iter([("clip".to_owned(), value!(clip))]);
        if let Some(text) = text {
            edit.insert("text".to_owned(), value!(text));
        }
        if request["exclude"] == true {
            edit.insert("exclude".to_owned(), value!(true));
        }
        if edit.len() == 1 {
            drop(edits.remove(&clip))
        } else {
            drop(edits.insert(clip, edit.into()))
        }
        let path = project.project_root().join(&file);
        let scratch = tempfile::NamedTempFile::new().with_context(|| "cannot write the correction")?;
        jsonl::write(scratch.path(), &edits.values().collect::<Vec<_>>())?;
        write_atomic(&path, &fs::read(scratch.path()).with_context(|| "cannot write the correction")?)?;
        if project.setting(&stage, "edits").is_none() {
            let mut document = project.document()?.ok_or_else(|| ApiError::missing("no pipeline.toml yet"))?;
            super::settings::set(&mut document, &format!("stage.{}.with.edits", name_in_file(&stage)), &value!(file))?;
            project.write(&document.to_string())?;
        }
        json(value!({ "edits": edits }))
    })
    .await
}

#[derive(Deserialize)]
struct ScoredModel {
    run: Option<String>,
}

/// Returns the evaluation scores of a run, by default the newest ones.
async fn scores(State(project): Shared, Query(which): Query<ScoredModel>) -> ApiResult {
    blocking(move || {
        let Some(run) = which.run else {
            let (scores, clips) = (project.object("evaluate", "scores.json"), project.rows("evaluate", "clips.jsonl"));
            return json(value!({ "scores": scores, "clips": clips }));
        };
        let shown = project.describe(&["show", file_name(&run)?, project.name(), "--json"])?;
        let kinds = project.stages("evaluate");
        let stages = shown["stages"].as_array().cloned().unwrap_or_default();
        let stage = stages.into_iter().find(|stage| kinds.iter().any(|kind| stage["stage"] == kind.as_str()));
        let Some(stage) = stage.filter(|stage| stage["fingerprint"].is_string()) else {
            return json(value!({ "scores": null, "clips": [] }));
        };
        let store = Store::open_readonly(&project.project_root())?;
        let none = || ApiError::missing(format!("the scores of run {run} are no longer in the cache"));
        let fingerprint = serde_json::from_value(stage["fingerprint"].clone()).map_err(|_| none())?;
        let folder = store.artifact(&store.record(fingerprint).ok_or_else(none)?, "scores").path;
        let read = |name: &str| fs::read_to_string(folder.join(name)).map_err(|_| none());
        let clips: Vec<Value> = read("clips.jsonl")?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        json(value!({ "scores": serde_json::from_str::<Value>(&read("scores.json")?).unwrap_or_default(), "clips": clips }))
    })
    .await
}

/// Returns the model card.
async fn card(State(project): Shared) -> ApiResult {
    blocking(move || json(value!({ "text": project.text("card", "README.md") }))).await
}

/// Returns where the model and its demo Space were published.
async fn published(State(project): Shared) -> ApiResult {
    blocking(move || {
        json(value!({ "published": project.object("publish", "published.json"), "space": project.object("demo", "space.json") }))
    })
    .await
}
