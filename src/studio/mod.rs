//! Web UI: the studio for a project, the recorder, and the demo of a model. One local server, bound to a loopback address by default.
//!
//! The studio is a front end for the command line. It edits `pipeline.toml` and the folders named in it, reads state from commands such
//! as `voxpipe status --json`, and starts runs as `voxpipe run` processes, which outlive the server.

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

/// Folder of the newest result of a pipeline, for the first of these stage kinds that has one.
pub fn newest(file: &std::path::Path, kinds: &[&str]) -> Option<std::path::PathBuf> {
    let none = inference::InferenceService::new(Vec::new, Arc::new(|_| Err(crate::error::Error::new("no model available"))));
    let project = StudioProject::new(file, Arc::new(none)).ok()?;
    kinds.iter().find_map(|kind| project.latest(kind))
}

/// Router of the studio: all pages and APIs of a project.
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

/// Router of the recorder only.
pub fn recorder(project: &Arc<StudioProject>) -> Router {
    pages::recorder().merge(recordings::routes().merge(runs::routes()).with_state(Arc::clone(project)))
}

/// Router of the demo: a page to try one model, and an API compatible with OpenAI clients.
pub fn demo(speech: Arc<inference::InferenceService>) -> Router {
    pages::demo().merge(inference::routes(speech))
}

/// Result of a request handler.
type ApiResult = Result<Response, ApiError>;

/// An HTTP status and an error message.
#[derive(Debug)]
struct ApiError(axum::http::StatusCode, String);

impl ApiError {
    /// 400 Bad Request.
    fn bad(words: impl Into<String>) -> Self {
        Self(axum::http::StatusCode::BAD_REQUEST, words.into())
    }

    /// 404 Not Found.
    fn missing(words: impl Into<String>) -> Self {
        Self(axum::http::StatusCode::NOT_FOUND, words.into())
    }

    /// 409 Conflict.
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

/// A JSON response.
fn json(value: impl serde::Serialize) -> ApiResult {
    Ok(axum::Json(value).into_response())
}

/// Runs blocking work (disk or CPU) on a separate thread, so that it does not delay other requests.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(crate::error::Error::new("the request handler panicked").into()))
}

/// Validates a file name: not hidden, no path separators, no control characters, at most 200 bytes.
fn file_name(name: &str) -> Result<&str, ApiError> {
    let valid = !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && !name.contains(['/', '\\', '\0'])
        && !name.chars().any(char::is_control);
    if valid { Ok(name) } else { Err(ApiError::bad("invalid file name")) }
}
