//! The pages and what they are made of, inside the program: nothing is fetched from elsewhere.

use crate::data::template;
use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use serde_json::json;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../templates/studio/", $name)))),*]
    };
}

/// Scripts and styles.
const ASSETS: &[(&str, &str)] = files![
    "studio.css",
    "common.js",
    "phrases.js",
    "record.js",
    "uploads.js",
    "dataset.js",
    "training.js",
    "run.js",
    "after.js",
    "demo.js",
    "tryit.js",
    "sound.js",
    "sound-worklet.js",
    "recorder/dom.js",
    "recorder/keys.js",
    "recorder/levels.js",
    "recorder/meter.js",
    "recorder/microphone.js",
    "recorder/options.js",
    "recorder/player.js",
    "recorder/progress.js",
    "recorder/queue.js",
    "recorder/recorder.css",
    "recorder/recorder.js",
    "recorder/report.js",
    "recorder/rows.js",
    "recorder/server.js",
    "recorder/settings.js",
    "recorder/setup.js",
    "recorder/stage.js",
    "recorder/takes.js",
    "recorder/taking.js",
    "recorder/wav.js",
    "recorder/worklet.js",
];
/// What is between the head of a page and its foot.
const BODIES: &[(&str, &str)] =
    files!["phrases.html", "record.html", "uploads.html", "dataset.html", "training.html", "run.html", "after.html", "demo.html",];
const LAYOUT: &str = include_str!("../../templates/studio/layout.html");
/// The road, step by step: path, page, title.
const STEPS: [(&str, &str, &str); 7] = [
    ("/", "phrases", "Language and sentences"),
    ("/record", "record", "Record"),
    ("/uploads", "uploads", "Recordings"),
    ("/dataset", "dataset", "Dataset"),
    ("/training", "training", "Training"),
    ("/run", "run", "Run"),
    ("/after", "after", "Result"),
];

/// All pages of a project.
pub(super) fn studio<S: Clone + Send + Sync + 'static>() -> Router<S> {
    STEPS.iter().fold(assets(), |router, (path, page, title)| router.route(path, get(move || async move { shown(page, title, true) })))
}

/// Only the recorder.
pub(super) fn recorder<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let router = assets().route("/", get(|| async { Redirect::to("/record") }));
    router.route("/record", get(|| async { shown("record", "Record", false) }))
}

/// Only the page on which a model is tried.
pub(super) fn demo<S: Clone + Send + Sync + 'static>() -> Router<S> {
    assets().route("/", get(|| async { shown("demo", "What the model hears", false) }))
}

fn assets<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/assets/{*name}", get(asset))
}

async fn asset(Path(name): Path<String>) -> Response {
    let Some((name, text)) = ASSETS.iter().find(|(known, _)| *known == name) else {
        return super::security::refuse(StatusCode::NOT_FOUND, "there is no such file");
    };
    let kind = if name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
    ([(header::CONTENT_TYPE, kind)], *text).into_response()
}

fn shown(page: &str, title: &str, road: bool) -> Response {
    let file = format!("{page}.html");
    let body = BODIES.iter().find(|(name, _)| *name == file).map_or("", |(_, text)| text);
    let step = |(path, page, title): &(&str, &str, &str)| json!({ "path": path, "page": page, "title": title });
    let steps: Vec<_> = STEPS.iter().filter(|_| road).map(step).collect();
    match template::render("layout.html", LAYOUT, json!({ "page": page, "title": title, "body": body, "steps": steps })) {
        Ok(text) => Html(text).into_response(),
        Err(error) => super::ApiError::from(error).into_response(),
    }
}
