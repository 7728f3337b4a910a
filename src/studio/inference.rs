//! Transcription service of the studio and the demo: one worker thread per model, which loads the model once and serves requests in
//! order. The HTTP API includes the transcription endpoint of the OpenAI API.

use super::{ApiError, ApiResult, json};
use crate::error::{Error, ErrorKind, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Multipart, Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use voxtral::audio::load_stream;

/// Maximum length of the audio in a request, in seconds.
const LONGEST: f64 = 600.0;

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Transcription {
    /// The transcript.
    pub text: String,
    /// Whether the model ended it; false if it repeats itself or is longer than speech can be.
    pub finished: bool,
}

/// Transcribes 16 kHz mono samples; the language is an ISO 639-1 code, or `None` to detect it.
pub type TranscribeFn = Box<dyn FnMut(&[f32], Option<&str>) -> Result<Transcription>>;
/// Loads a model by its name in the service.
pub type OpenModel = Arc<dyn Fn(&str) -> Result<TranscribeFn> + Send + Sync>;

/// The available models and their worker threads.
pub struct InferenceService {
    /// Names of the models; the first one is the default.
    names: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    open: OpenModel,
    workers: Mutex<BTreeMap<String, Sender<InferenceRequest>>>,
}

/// A transcription request with the channel for its response.
struct InferenceRequest {
    samples: Vec<f32>,
    language: Option<String>,
    answer: tokio::sync::oneshot::Sender<Result<Transcription>>,
}

impl InferenceService {
    /// A service for the named models; each one is loaded by its first request.
    pub fn new(names: impl Fn() -> Vec<String> + Send + Sync + 'static, open: OpenModel) -> Self {
        Self { names: Box::new(names), open, workers: Mutex::default() }
    }

    /// Unloads all models, because their files may have changed.
    pub fn forget(&self) {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Transcribes samples with a model.
    async fn ask(&self, model: &str, samples: Vec<f32>, language: Option<String>) -> Result<Transcription> {
        let (answer, response) = tokio::sync::oneshot::channel();
        let gone = || Error::new("the model worker stopped without a response").kind(ErrorKind::Other);
        self.worker(model).send(InferenceRequest { samples, language, answer }).map_err(|_| gone())?;
        response.await.map_err(|_| gone())?
    }

    /// The request channel of a model; starts its worker thread if necessary.
    fn worker(&self, model: &str) -> Sender<InferenceRequest> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = workers.get(model) {
            return worker.clone();
        }
        let (sender, requests) = channel();
        let (open, name) = (Arc::clone(&self.open), model.to_owned());
        thread::spawn(move || run_worker(&open, &name, &requests));
        workers.insert(model.to_owned(), sender.clone());
        sender
    }
}

impl std::fmt::Debug for InferenceService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InferenceService").field("models", &(self.names)()).finish_non_exhaustive()
    }
}

/// Worker thread: serves the requests to one model until the channel closes. A model that failed to load is retried by the next request.
fn run_worker(open: &OpenModel, name: &str, requests: &Receiver<InferenceRequest>) {
    let mut transcribe = None;
    for request in requests {
        let opened = match &mut transcribe {
            Some(transcribe) => Ok(transcribe),
            None => open(name).map(|opened| transcribe.insert(opened)),
        };
        let said = opened.and_then(|transcribe| transcribe(&request.samples, request.language.as_deref()));
        let _ = request.answer.send(said);
    }
}

/// Routes for transcription.
pub(super) fn routes(speech: Arc<InferenceService>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/audio/transcriptions", post(transcriptions))
        .route("/api/transcribe/{model}", post(try_it))
        .with_state(speech)
}

/// Lists the models as the OpenAI API does.
async fn models(State(speech): State<Arc<InferenceService>>) -> ApiResult {
    let one = |name: String| serde_json::json!({ "id": name, "object": "model", "created": 0, "owned_by": "voxpipe" });
    json(serde_json::json!({ "object": "list", "data": (speech.names)().into_iter().map(one).collect::<Vec<_>>() }))
}

#[derive(Deserialize)]
struct Said {
    language: Option<String>,
}

/// Transcribes an audio file with one model; used by the pages.
async fn try_it(
    State(speech): State<Arc<InferenceService>>,
    Path(model): Path<String>,
    Query(said): Query<Said>,
    body: Bytes,
) -> ApiResult {
    if !(speech.names)().contains(&model) {
        return Err(ApiError::missing(format!("model not found: `{model}`")));
    }
    let samples = decoded("recording.wav".to_owned(), body.to_vec()).await?;
    let language = language(said.language)?;
    let Transcription { text, finished } = speech.ask(&model, samples, language).await?;
    json(serde_json::json!({ "model": model, "text": text, "finished": finished }))
}

/// The transcription endpoint of the OpenAI API: multipart form with `file`, `model`, `language` and `response_format`.
async fn transcriptions(State(speech): State<Arc<InferenceService>>, mut form: Multipart) -> ApiResult {
    let wrong = |error: axum::extract::multipart::MultipartError| ApiError(error.status(), error.body_text());
    let mut fields = BTreeMap::new();
    let mut file = None;
    while let Some(field) = form.next_field().await.map_err(wrong)? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            let called = field.file_name().unwrap_or("audio.wav").to_owned();
            file = Some((called, field.bytes().await.map_err(wrong)?.to_vec()));
        } else {
            fields.insert(name, field.text().await.map_err(wrong)?);
        }
    }
    let (called, bytes) = file.ok_or_else(|| ApiError::bad("missing form field `file`"))?;
    let names = (speech.names)();
    let asked = fields.get("model").cloned().unwrap_or_default();
    // Clients written for other services send foreign model names such as `whisper-1`: those get the default model.
    let model = names.iter().find(|name| **name == asked).or_else(|| names.first()).cloned();
    let model = model.ok_or_else(|| ApiError::missing("no model available yet"))?;
    let format = fields.get("response_format").map_or("json", String::as_str);
    if !["json", "text", "verbose_json"].contains(&format) {
        return Err(ApiError::bad(format!("unsupported response_format `{format}`: use json, text or verbose_json")));
    }
    if fields.get("stream").is_some_and(|stream| stream == "true") {
        return Err(ApiError::bad("streaming is not supported; remove `stream`"));
    }
    let language = language(fields.get("language").cloned())?;
    let samples = decoded(called, bytes).await?;
    let seconds = samples.len() as f64 / f64::from(voxtral::audio::SAMPLE_RATE);
    // The API of OpenAI has no such field; its clients leave unknown ones aside.
    let Transcription { text, finished } = speech.ask(&model, samples, language.clone()).await?;
    match format {
        "text" => Ok(format!("{text}\n").into_response()),
        "verbose_json" => json(serde_json::json!({
            "task": "transcribe", "language": language.unwrap_or_default(), "duration": seconds, "text": text, "finished": finished,
            "segments": [{ "id": 0, "start": 0.0, "end": seconds, "text": text }],
        })),
        _ => json(serde_json::json!({ "text": text, "finished": finished })),
    }
}

/// Validates a language code; empty and `auto` mean detection.
fn language(code: Option<String>) -> Result<Option<String>, ApiError> {
    let code = code.filter(|code| !code.is_empty() && code != "auto");
    if let Some(code) = &code {
        voxtral::tokenizer::prompt::check_language(code).map_err(|error| ApiError::bad(error.message))?;
    }
    Ok(code)
}

/// Decodes an audio file to 16 kHz mono samples.
async fn decoded(name: String, bytes: Vec<u8>) -> Result<Vec<f32>, ApiError> {
    let unusable = |words: String| ApiError(StatusCode::UNSUPPORTED_MEDIA_TYPE, words);
    super::blocking(move || {
        let name = FilePath::new(&name).file_name().map_or_else(|| FilePath::new("audio.wav"), FilePath::new);
        let samples = load_stream(name, bytes).map_err(|error| unusable(error.message))?;
        let seconds = samples.len() as f64 / f64::from(voxtral::audio::SAMPLE_RATE);
        if seconds > LONGEST {
            return Err(ApiError(StatusCode::PAYLOAD_TOO_LARGE, format!("audio is {seconds:.0} s long; the maximum is {LONGEST:.0} s")));
        }
        Ok(samples)
    })
    .await
}

/// Names of the available models.
pub(super) fn names(speech: &InferenceService) -> Vec<String> {
    (speech.names)()
}
