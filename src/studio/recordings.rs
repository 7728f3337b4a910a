//! The recorder API: sentences to read, and the takes (recordings) of each sentence.
//!
//! A take is stored unchanged under the name that the `recordings` stage expects: `en-0001.wav`, then `en-0001.2.wav`. The take with the
//! highest number is used. Nothing is deleted: takes that fail the quality check go to the hidden folder `.rejected`, removed ones to
//! `.removed`.

use super::project::StudioProject;
use super::{ApiError, ApiResult, blocking, file_name, json};
use crate::data::phrase::PhraseRow;
use crate::error::ResultExt;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::{Value, json as value};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use voxpipe_io::write::write_atomic;
use voxtral::audio::decode_bytes;
use voxtral::audio::quality::{ClipQuality, QualityVerdict};

/// The number of takes to ask for while the pipeline file cannot be read.
const DEFAULT_MINIMUM: u64 = 40;

/// Languages written right to left.
const RTL_LANGUAGES: [&str; 8] = ["ar", "dv", "fa", "he", "ks", "ps", "ur", "yi"];
/// Maximum length of a problem report, in characters.
const MAX_REPORT: usize = 200;

type Shared = State<Arc<StudioProject>>;

pub(super) fn routes() -> Router<Arc<StudioProject>> {
    Router::new()
        .route("/api/phrases", get(phrases))
        .route("/api/phrases/{id}/report", post(report))
        .route("/api/takes/{name}", get(sound).post(save))
        .route("/api/takes/{name}/use", post(choose))
        .route("/api/takes/{name}/remove", post(remove))
}

/// Lists the sentences with their takes.
async fn phrases(State(project): Shared) -> ApiResult {
    blocking(move || {
        let phrases = project.phrases()?;
        let row = |phrase: &PhraseRow| {
            let direction = if RTL_LANGUAGES.contains(&phrase.language.as_str()) { "rtl" } else { "ltr" };
            Ok(value!({
                "id": phrase.id, "text": phrase.text, "language": phrase.language, "direction": direction, "source": phrase.source,
                "takes": project.takes(phrase)?,
            }))
        };
        let rows = phrases.iter().map(row).collect::<Result<Vec<_>, ApiError>>()?;
        json(value!({ "phrases": rows, "minimum": project.minimum(), "speaker": project.speaker(), "project": project.root.display().to_string() }))
    })
    .await
}

/// Stores a take. The request is idempotent: a take with the same SHA-256 is not stored again.
async fn save(State(project): Shared, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> ApiResult {
    blocking(move || {
        let phrase = project.phrase(&id)?;
        let sha256 = format!("{:x}", Sha256::digest(&body));
        let expected = headers.get("x-sha256").and_then(|expected| expected.to_str().ok()).unwrap_or(&sha256);
        if !expected.eq_ignore_ascii_case(&sha256) {
            return Err(ApiError::bad("upload corrupted: SHA-256 mismatch"));
        }
        if !body.starts_with(b"RIFF") {
            return Err(ApiError(StatusCode::UNSUPPORTED_MEDIA_TYPE, "recordings must be WAV files".to_owned()));
        }
        let quality = quality(std::path::Path::new("recording"), body.to_vec(), &phrase.text)
            .map_err(|error| ApiError(StatusCode::UNSUPPORTED_MEDIA_TYPE, error.message))?;
        let _one_at_a_time = project.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // A client that lost the response retries the upload.
        if let Some(existing) = project.takes(&phrase)?.into_iter().find(|take| take["sha256"] == sha256.as_str()) {
            return json(existing);
        }
        let folder = project.recordings();
        if quality.verdict == QualityVerdict::Reject {
            let file = format!("{}.{}.wav", phrase.id, &sha256[..12]);
            write_atomic(&folder.join(".rejected").join(&file), &body)?;
            return json(take_json(&quality, &file, 0, &sha256));
        }
        let number = 1 + numbers(&folder, &phrase.id).into_iter().max().unwrap_or(0);
        let file = if number == 1 { format!("{}.wav", phrase.id) } else { format!("{}.{number}.wav", phrase.id) };
        write_atomic(&folder.join(&file), &body)?;
        let mut take = take_json(&quality, &file, number, &sha256);
        take["used"] = value!(true);
        json(take)
    })
    .await
}

/// Returns the WAV file of a take.
async fn sound(State(project): Shared, Path(name): Path<String>) -> ApiResult {
    blocking(move || {
        let bytes = fs::read(project.recordings().join(file_name(&name)?)).map_err(|_| ApiError::missing("recording not found"))?;
        Ok(([(header::CONTENT_TYPE, "audio/wav")], bytes).into_response())
    })
    .await
}

/// Selects a take: gives it the highest number, so that it is the one used.
async fn choose(State(project): Shared, Path(name): Path<String>) -> ApiResult {
    blocking(move || {
        let phrase = project.phrase_of(&name)?;
        let _one_at_a_time = project.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = project.recordings();
        let newest = numbers(&folder, &phrase.id).into_iter().max().unwrap_or(0);
        let to = folder.join(format!("{}.{}.wav", phrase.id, newest + 1));
        fs::rename(folder.join(&name), to).with_context(|| "cannot select the recording")?;
        json(project.takes(&phrase)?)
    })
    .await
}

/// Moves a take to the hidden folder `.removed`.
async fn remove(State(project): Shared, Path(name): Path<String>) -> ApiResult {
    blocking(move || {
        let phrase = project.phrase_of(&name)?;
        let _one_at_a_time = project.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, blocking) = (project.recordings().join(&name), project.recordings().join(".removed"));
        fs::create_dir_all(&blocking).with_context(|| "cannot create the folder for removed recordings")?;
        let free = (1..).map(|number| blocking.join(format!("{number}-{name}"))).find(|path| !path.exists());
        fs::rename(from, free.unwrap_or_else(|| blocking.join(&name))).with_context(|| "cannot remove the recording")?;
        json(project.takes(&phrase)?)
    })
    .await
}

/// Appends a problem report about a sentence to `.reports.jsonl`.
async fn report(State(project): Shared, Path(id): Path<String>, axum::Json(said): axum::Json<Value>) -> ApiResult {
    blocking(move || {
        let phrase = project.phrase(&id)?;
        let reason: String = said["reason"].as_str().unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_REPORT).collect();
        let folder = project.recordings();
        let writing = || "cannot write the report";
        fs::create_dir_all(&folder).with_context(writing)?;
        let mut file = fs::File::options().create(true).append(true).open(folder.join(".reports.jsonl")).with_context(writing)?;
        writeln!(file, "{}", value!({ "id": phrase.id, "text": phrase.text, "reason": reason })).with_context(writing)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}

impl StudioProject {
    /// The sentences of the newest `phrases` result; empty if there is none.
    fn phrases(&self) -> Result<Vec<PhraseRow>, ApiError> {
        let Some(folder) = self.latest("phrases") else { return Ok(Vec::new()) };
        Ok(PhraseRow::read_all(&folder.join("phrases.jsonl"))?)
    }

    /// A sentence by its id.
    fn phrase(&self, id: &str) -> Result<PhraseRow, ApiError> {
        self.phrases()?.into_iter().find(|phrase| phrase.id == id).ok_or_else(|| ApiError::missing("sentence not found"))
    }

    /// The sentence that a take belongs to, by the name of its file.
    fn phrase_of(&self, name: &str) -> Result<PhraseRow, ApiError> {
        let stem = file_name(name)?.strip_suffix(".wav").ok_or_else(|| ApiError::missing("recording not found"))?;
        let of = |phrase: &PhraseRow| number(stem, &phrase.id).is_some();
        let phrase = self.phrases()?.into_iter().find(of).ok_or_else(|| ApiError::missing("recording not found"))?;
        if self.recordings().join(name).is_file() { Ok(phrase) } else { Err(ApiError::missing("recording not found")) }
    }

    /// Folder of the takes: `folder` of the `recordings` stage, or `recordings`.
    fn recordings(&self) -> PathBuf {
        let stage = self.stages("recordings").into_iter().next();
        self.project_root().join(stage.and_then(|stage| self.setting(&stage, "folder")).unwrap_or_else(|| "recordings".to_owned()))
    }

    /// `min_clips` of the `recordings` stage: how many takes it needs.
    fn minimum(&self) -> u64 {
        let pipeline = self.pipeline();
        let stage = pipeline.stages.iter().find(|stage| stage.kind == "recordings");
        stage.and_then(|stage| stage.settings["min_clips"].as_u64()).unwrap_or(DEFAULT_MINIMUM)
    }

    /// `speaker` of the `recordings` stage.
    fn speaker(&self) -> Option<String> {
        self.setting(self.stages("recordings").first()?, "speaker")
    }

    /// The takes of a sentence in order of their numbers; the last one is used.
    fn takes(&self, phrase: &PhraseRow) -> Result<Vec<Value>, ApiError> {
        let folder = self.recordings();
        let mut numbers = numbers(&folder, &phrase.id);
        numbers.sort_unstable();
        let name = |number: &u32| if *number == 1 { format!("{}.wav", phrase.id) } else { format!("{}.{number}.wav", phrase.id) };
        let mut takes: Vec<Value> =
            numbers.iter().filter_map(|number| self.measure(&folder, &name(number), *number, &phrase.text)).collect();
        if let Some(newest) = takes.last_mut() {
            newest["used"] = value!(true);
        }
        Ok(takes)
    }

    /// Quality metrics of a take, cached by file size and modification time; `None` if the file cannot be read.
    fn measure(&self, folder: &std::path::Path, file: &str, number: u32, text: &str) -> Option<Value> {
        let path = folder.join(file);
        let metadata = fs::metadata(&path).ok()?;
        let stamp = (metadata.len(), metadata.modified().ok()?);
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((size, time, take)) = measured.get(file)
            && (*size, *time) == stamp
        {
            return Some(take.clone());
        }
        let bytes = fs::read(&path).ok()?;
        let sha256 = format!("{:x}", Sha256::digest(&bytes));
        let take = take_json(&quality(&path, bytes, text).ok()?, file, number, &sha256);
        measured.insert(file.to_owned(), (stamp.0, stamp.1, take.clone()));
        Some(take)
    }
}

/// Measures and rates a take at its own sample rate: resampling rounds the flat tops of clipping.
fn quality(name: &std::path::Path, bytes: Vec<u8>, text: &str) -> crate::error::Result<ClipQuality> {
    let decoded = decode_bytes(name, bytes)?;
    ClipQuality::of_recording(&decoded.samples, decoded.rate, text)
}

/// The JSON of a take: its quality metrics, file name, number and SHA-256.
fn take_json(quality: &ClipQuality, file: &str, number: u32, sha256: &str) -> Value {
    let mut take = value!(quality);
    take["file"] = value!(file);
    take["number"] = value!(number);
    take["sha256"] = value!(sha256);
    take
}

/// Numbers of the existing takes of a sentence.
fn numbers(folder: &std::path::Path, id: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| number(entry.file_name().to_str()?.strip_suffix(".wav")?, id)).collect()
}

/// Number of a take from its file stem: `en-0001` is take 1 of `en-0001`, `en-0001.2` is take 2.
fn number(stem: &str, id: &str) -> Option<u32> {
    match stem.strip_prefix(id)? {
        "" => Some(1),
        rest => rest.strip_prefix('.')?.parse().ok().filter(|number| *number > 1),
    }
}
