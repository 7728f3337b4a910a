//! Speech written down while somebody waits: models are opened once, each in a thread of its own, and asked in turn.

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
use voxtral::audio::wav::load_stream;

/// Longest sound that is written down while somebody waits, in seconds.
const LONGEST: f64 = 600.0;

/// Something that hears: 16 kHz samples and a language to text.
pub type TranscribeFn = Box<dyn FnMut(&[f32], Option<&str>) -> Result<String>>;
/// Opens a model by the name it has here.
pub type OpenModel = Arc<dyn Fn(&str) -> Result<TranscribeFn> + Send + Sync>;

/// The models that can be asked.
pub struct InferenceService {
    /// Their names, the one that is meant where none is named first.
    names: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    open: OpenModel,
    workers: Mutex<BTreeMap<String, Sender<InferenceRequest>>>,
}

/// A question with the way to answer it.
struct InferenceRequest {
    samples: Vec<f32>,
    language: Option<String>,
    answer: tokio::sync::oneshot::Sender<Result<String>>,
}

impl InferenceService {
    /// Models by their names; each is opened when it is first asked.
    pub fn new(names: impl Fn() -> Vec<String> + Send + Sync + 'static, open: OpenModel) -> Self {
        Self { names: Box::new(names), open, workers: Mutex::default() }
    }

    /// Closes all models: what they are has changed.
    pub fn forget(&self) {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Writes down what is said.
    async fn ask(&self, model: &str, samples: Vec<f32>, language: Option<String>) -> Result<String> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let gone = || Error::new("the model ended without an answer").kind(ErrorKind::Other);
        self.worker(model).send(InferenceRequest { samples, language, answer }).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    fn worker(&self, model: &str) -> Sender<InferenceRequest> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread that could not open its model has ended: the next question tries again.
        if let Some(worker) = workers.get(model) {
            return worker.clone();
        }
        let (sender, questions) = channel();
        let (open, name) = (Arc::clone(&self.open), model.to_owned());
        thread::spawn(move || listen(&open, &name, &questions));
        workers.insert(model.to_owned(), sender.clone());
        sender
    }
}

impl std::fmt::Debug for InferenceService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speech").field("models", &(self.names)()).finish_non_exhaustive()
    }
}

/// Answers questions to one model until nobody can ask any more.
fn listen(open: &OpenModel, name: &str, questions: &Receiver<InferenceRequest>) {
    let mut hear = None;
    for question in questions {
        let opened = match &mut hear {
            Some(hear) => Ok(hear),
            None => open(name).map(|opened| hear.insert(opened)),
        };
        let said = opened.and_then(|hear| hear(&question.samples, question.language.as_deref()));
        let _ = question.answer.send(said);
    }
}

/// The addresses at which sounds are written down.
pub(super) fn routes(speech: Arc<InferenceService>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/audio/transcriptions", post(transcriptions))
        .route("/api/transcribe/{model}", post(try_it))
        .with_state(speech)
}

async fn models(State(speech): State<Arc<InferenceService>>) -> ApiResult {
    let one = |name: String| serde_json::json!({ "id": name, "object": "model", "created": 0, "owned_by": "voxpipe" });
    json(serde_json::json!({ "object": "list", "data": (speech.names)().into_iter().map(one).collect::<Vec<_>>() }))
}

#[derive(Deserialize)]
struct Said {
    language: Option<String>,
}

/// What the pages send: a sound, to one model.
async fn try_it(
    State(speech): State<Arc<InferenceService>>,
    Path(model): Path<String>,
    Query(said): Query<Said>,
    body: Bytes,
) -> ApiResult {
    if !(speech.names)().contains(&model) {
        return Err(ApiError::missing(format!("there is no model `{model}` here")));
    }
    let samples = decoded("recording.wav".to_owned(), body.to_vec()).await?;
    let language = language(said.language)?;
    json(serde_json::json!({ "model": model, "text": speech.ask(&model, samples, language).await? }))
}

/// What OpenAI's clients send.
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
    let (called, bytes) = file.ok_or_else(|| ApiError::bad("there is no `file` in the form"))?;
    let names = (speech.names)();
    let asked = fields.get("model").cloned().unwrap_or_default();
    // Programs that were written for others name a model of theirs; what is heard here is what `voxpipe demo` was given.
    let model = names.iter().find(|name| **name == asked).or_else(|| names.first()).cloned();
    let model = model.ok_or_else(|| ApiError::missing("there is no model here yet"))?;
    let format = fields.get("response_format").map_or("json", String::as_str);
    if !["json", "text", "verbose_json"].contains(&format) {
        return Err(ApiError::bad(format!("the format `{format}` is not known here: json, text or verbose_json")));
    }
    if fields.get("stream").is_some_and(|stream| stream == "true") {
        return Err(ApiError::bad("transcripts do not come in pieces here: leave `stream` out"));
    }
    let language = language(fields.get("language").cloned())?;
    let samples = decoded(called, bytes).await?;
    let seconds = samples.len() as f64 / f64::from(voxtral::audio::SAMPLE_RATE);
    let text = speech.ask(&model, samples, language.clone()).await?;
    match format {
        "text" => Ok(format!("{text}\n").into_response()),
        "verbose_json" => json(serde_json::json!({
            "task": "transcribe", "language": language.unwrap_or_default(), "duration": seconds, "text": text,
            "segments": [{ "id": 0, "start": 0.0, "end": seconds, "text": text }],
        })),
        _ => json(serde_json::json!({ "text": text })),
    }
}

fn language(code: Option<String>) -> Result<Option<String>, ApiError> {
    let code = code.filter(|code| !code.is_empty() && code != "auto");
    if let Some(code) = &code {
        voxtral::tokenizer::prompt::check_language(code).map_err(|error| ApiError::bad(error.message))?;
    }
    Ok(code)
}

/// A sound file as samples.
async fn decoded(name: String, bytes: Vec<u8>) -> Result<Vec<f32>, ApiError> {
    let unusable = |words: String| ApiError(StatusCode::UNSUPPORTED_MEDIA_TYPE, words);
    super::aside(move || {
        let name = FilePath::new(&name).file_name().map_or_else(|| FilePath::new("audio.wav"), FilePath::new);
        let samples = load_stream(name, bytes).map_err(|error| unusable(error.message))?;
        let seconds = samples.len() as f64 / f64::from(voxtral::audio::SAMPLE_RATE);
        if seconds > LONGEST {
            return Err(ApiError(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the sound has {seconds:.0} s; at most {LONGEST:.0} s are taken here"),
            ));
        }
        Ok(samples)
    })
    .await
}

/// The names of the models.
pub(super) fn names(speech: &InferenceService) -> Vec<String> {
    (speech.names)()
}
