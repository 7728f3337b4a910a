//! Uploads of existing audio and transcript files: each request body is streamed into the folder that the `uploads` stage reads.

use super::project::StudioProject;
use super::{ApiError, ApiResult, blocking, file_name, json};
use crate::data::ingest;
use crate::error::ResultExt;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::json as value;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_stream::StreamExt;

/// Maximum size of an uploaded file, in bytes (4 GiB).
pub(super) const LARGEST: u64 = 4 << 30;
/// Maximum size of a file that is sent for preview, in bytes (64 MiB).
const MAX_PREVIEW: u64 = 64 << 20;
/// File extensions of transcripts.
const TRANSCRIPT_EXTENSIONS: [&str; 5] = ["csv", "tsv", "jsonl", "txt", "json"];

type Shared = State<Arc<StudioProject>>;

pub(super) fn routes() -> Router<Arc<StudioProject>> {
    Router::new()
        .route("/api/uploads", get(list))
        .route("/api/uploads/{name}", get(file).post(ingest_audio).layer(DefaultBodyLimit::disable()))
        .route("/api/uploads/{name}/remove", post(remove))
}

impl StudioProject {
    /// Folder for uploads: `audio` of the `uploads` stage, or `uploads`.
    fn uploads(&self) -> PathBuf {
        let stage = self.stages("uploads").into_iter().next();
        self.project_root().join(stage.and_then(|stage| self.setting(&stage, "audio")).unwrap_or_else(|| "uploads".to_owned()))
    }
}

/// Lists the uploaded files, with the report of the last `uploads` result.
async fn list(State(project): Shared) -> ApiResult {
    blocking(move || {
        let mut files = Vec::new();
        for entry in fs::read_dir(project.uploads()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_file() && !name.starts_with('.') {
                let sound = ingest::is_audio(&entry.path());
                files.push(value!({ "name": name, "size": entry.metadata().map_or(0, |about| about.len()), "sound": sound }));
            }
        }
        files.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        // The stage's report: how audio files and transcripts were matched in the last run.
        let report = project.latest("uploads").and_then(|folder| fs::read_to_string(folder.join("report.json")).ok());
        let report = report.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
        json(value!({ "files": files, "report": report }))
    })
    .await
}

/// Returns an uploaded file for preview.
async fn file(State(project): Shared, Path(name): Path<String>) -> ApiResult {
    blocking(move || {
        let none = |_| ApiError::missing("file not found");
        let path = project.uploads().join(file_name(&name)?);
        if fs::metadata(&path).map_err(none)?.len() > MAX_PREVIEW {
            return Err(ApiError(StatusCode::PAYLOAD_TOO_LARGE, "file too large to preview".to_owned()));
        }
        Ok(([(header::CONTENT_TYPE, "application/octet-stream")], fs::read(&path).map_err(none)?).into_response())
    })
    .await
}

/// Streams an upload to disk. The write is atomic: a failed upload leaves no file.
async fn ingest_audio(State(project): Shared, Path(name): Path<String>, request: Request) -> ApiResult {
    let path = PathBuf::from(file_name(&name)?);
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_lowercase();
    if !ingest::is_audio(&path) && !TRANSCRIPT_EXTENSIONS.contains(&extension.as_str()) {
        let words = format!(
            "unsupported file type `{name}`: expected audio (WAV, FLAC, MP3, Ogg, M4A, WebM …) or transcripts (CSV, TSV, JSONL, TXT)"
        );
        return Err(ApiError(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
    }
    let folder = project.uploads();
    let writing = || format!("cannot write `{name}`");
    fs::create_dir_all(&folder).with_context(writing)?;
    let mut file = tempfile::Builder::new().prefix(".part-").tempfile_in(&folder).with_context(writing)?;
    let mut chunks = request.into_body().into_data_stream();
    let mut size = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| ApiError::bad("upload interrupted"))?;
        size += chunk.len() as u64;
        if size > LARGEST {
            return Err(ApiError(StatusCode::PAYLOAD_TOO_LARGE, format!("`{name}` is larger than 4 GiB")));
        }
        file.write_all(&chunk).with_context(writing)?;
    }
    file.as_file().sync_all().with_context(writing)?;
    file.persist(folder.join(&path)).map_err(|error| error.error).with_context(writing)?;
    json(value!({ "name": name, "size": size }))
}

/// Moves a file to the hidden folder `.removed`; nothing is deleted.
async fn remove(State(project): Shared, Path(name): Path<String>) -> ApiResult {
    blocking(move || {
        let folder = project.uploads();
        let blocking = folder.join(".removed");
        fs::create_dir_all(&blocking).with_context(|| "cannot create the folder for removed files")?;
        fs::rename(folder.join(file_name(&name)?), blocking.join(&name)).map_err(|_| ApiError::missing("file not found"))?;
        json(value!({}))
    })
    .await
}
