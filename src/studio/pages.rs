//! HTML pages, scripts and styles, embedded in the program. Pages load nothing from other servers.

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
/// HTML bodies of the pages; the layout is shared.
const BODIES: &[(&str, &str)] =
    files!["phrases.html", "record.html", "uploads.html", "dataset.html", "training.html", "run.html", "after.html", "demo.html",];
const LAYOUT: &str = include_str!("../../templates/studio/layout.html");
/// Pages of the studio in the order of the workflow: path, page, title.
const STEPS: [(&str, &str, &str); 7] = [
    ("/", "phrases", "Language and sentences"),
    ("/record", "record", "Record"),
    ("/uploads", "uploads", "Upload recordings"),
    ("/dataset", "dataset", "Dataset"),
    ("/training", "training", "Training"),
    ("/run", "run", "Run"),
    ("/after", "after", "Result"),
];

/// All pages of the studio.
pub(super) fn studio<S: Clone + Send + Sync + 'static>() -> Router<S> {
    STEPS
        .iter()
        .fold(assets(), |router, (path, page, title)| router.route(path, get(move || async move { render_page(page, title, true) })))
}

/// The recorder page only.
pub(super) fn recorder<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let router = assets().route("/", get(|| async { Redirect::to("/record") }));
    router.route("/record", get(|| async { render_page("record", "Record", false) }))
}

/// The demo page only.
pub(super) fn demo<S: Clone + Send + Sync + 'static>() -> Router<S> {
    assets().route("/", get(|| async { render_page("demo", "Transcribe", false) }))
}

/// Routes of scripts and styles.
fn assets<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/assets/{*name}", get(asset))
}

async fn asset(Path(name): Path<String>) -> Response {
    let Some((name, text)) = ASSETS.iter().find(|(known, _)| *known == name) else {
        return super::security::refuse(StatusCode::NOT_FOUND, "file not found");
    };
    let kind = if name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
    ([(header::CONTENT_TYPE, kind)], *text).into_response()
}

/// Renders a page; `with_steps` adds the navigation.
fn render_page(page: &str, title: &str, with_steps: bool) -> Response {
    let file = format!("{page}.html");
    let body = BODIES.iter().find(|(name, _)| *name == file).map_or("", |(_, text)| text);
    let step = |(path, page, title): &(&str, &str, &str)| json!({ "path": path, "page": page, "title": title });
    let steps: Vec<_> = STEPS.iter().filter(|_| with_steps).map(step).collect();
    match template::render("layout.html", LAYOUT, json!({ "page": page, "title": title, "body": body, "steps": steps })) {
        Ok(text) => Html(text).into_response(),
        Err(error) => super::ApiError::from(error).into_response(),
    }
}
