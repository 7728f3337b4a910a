//! The pages: a project walked through in the browser, or a model to be tried. One server, on the loopback address unless told.
//!
//! The studio has no engine of its own. What it changes is `pipeline.toml` and the folders the file names; what it knows it asks the
//! program (`voxpipe status --json` and the like), and a run is `voxpipe run`, which goes on when the server is gone.

mod data;
mod estimate;
pub mod inference;
mod pages;
mod project;
mod recordings;
mod runs;
mod security;
mod server;
mod settings;
mod uploads;

pub use project::StudioProject;
pub use server::{ServerOptions, serve};

use axum::Router;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Where the newest result of a pipeline file is, of the first of these kinds that has one.
pub fn newest(file: &std::path::Path, kinds: &[&str]) -> Option<std::path::PathBuf> {
    let none = inference::InferenceService::new(Vec::new, Arc::new(|_| Err(crate::error::Error::new("there is no model"))));
    let project = StudioProject::new(file, Arc::new(none)).ok()?;
    kinds.iter().find_map(|kind| project.latest(kind))
}

/// The whole studio for a project.
pub fn studio(project: &Arc<StudioProject>) -> Router {
    let state = Router::new()
        .merge(runs::routes())
        .merge(data::routes())
        .merge(uploads::routes())
        .merge(settings::routes())
        .merge(estimate::routes());
    let state = state.merge(recordings::routes()).with_state(Arc::clone(project));
    pages::studio().merge(state).merge(inference::routes(Arc::clone(&project.speech)))
}

/// Only the recorder of a project.
pub fn recorder(project: &Arc<StudioProject>) -> Router {
    pages::recorder().merge(recordings::routes().merge(runs::routes()).with_state(Arc::clone(project)))
}

/// Only the page on which a model is tried, and the address that clients of OpenAI's know.
pub fn demo(speech: Arc<inference::InferenceService>) -> Router {
    pages::demo().merge(inference::routes(speech))
}

/// An answer in JSON, or an error in words.
type ApiResult = Result<Response, ApiError>;

/// What went wrong, for the one who asked.
#[derive(Debug)]
struct ApiError(axum::http::StatusCode, String);

impl ApiError {
    fn bad(words: impl Into<String>) -> Self {
        Self(axum::http::StatusCode::BAD_REQUEST, words.into())
    }

    fn missing(words: impl Into<String>) -> Self {
        Self(axum::http::StatusCode::NOT_FOUND, words.into())
    }

    fn conflict(words: impl Into<String>) -> Self {
        Self(axum::http::StatusCode::CONFLICT, words.into())
    }
}

impl From<crate::error::Error> for ApiError {
    fn from(error: crate::error::Error) -> Self {
        let hint = error.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        Self(axum::http::StatusCode::INTERNAL_SERVER_ERROR, format!("{}{hint}", error.message))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        security::refuse(self.0, &self.1)
    }
}

fn json(value: impl serde::Serialize) -> ApiResult {
    Ok(axum::Json(value).into_response())
}

/// Does work that waits for disks or processors, without holding up other requests.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(crate::error::Error::new("the work broke off").into()))
}

/// A name that is one file in one folder, and nothing else.
fn plain(name: &str) -> Result<&str, ApiError> {
    let sound = !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && !name.contains(['/', '\\', '\0'])
        && !name.chars().any(char::is_control);
    if sound { Ok(name) } else { Err(ApiError::bad("that is not the name of a file")) }
}
