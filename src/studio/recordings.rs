//! What is read aloud: the sentences, and the takes of each in the folder of the recordings.
//!
//! A take is kept as it came, under the name that the `recordings` stage looks for: `en-0001.wav`, then `en-0001.2.wav`. Nothing is ever
//! deleted: takes that nobody could learn from, and those that were taken away, lie in hidden folders beside the others.

use super::project::{StudioProject, replace};
use super::{ApiError, ApiResult, aside, json, plain};
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
use voxtral::audio::quality::{ClipQuality, QualityVerdict};
use voxtral::audio::wav::load_stream;

/// Languages that are written from the right.
const FROM_THE_RIGHT: [&str; 8] = ["ar", "dv", "fa", "he", "ks", "ps", "ur", "yi"];
/// Most that is said of what is wrong with a sentence.
const WORDS: usize = 200;

type Shared = State<Arc<StudioProject>>;

pub(super) fn routes() -> Router<Arc<StudioProject>> {
    Router::new()
        .route("/api/phrases", get(phrases))
        .route("/api/phrases/{id}/report", post(report))
        .route("/api/takes/{name}", get(sound).post(save))
        .route("/api/takes/{name}/use", post(choose))
        .route("/api/takes/{name}/remove", post(remove))
}

async fn phrases(State(project): Shared) -> ApiResult {
    aside(move || {
        let phrases = project.phrases()?;
        let told = |phrase: &PhraseRow| {
            let direction = if FROM_THE_RIGHT.contains(&phrase.language.as_str()) { "rtl" } else { "ltr" };
            Ok(value!({
                "id": phrase.id, "text": phrase.text, "language": phrase.language, "direction": direction, "source": phrase.source,
                "takes": project.takes(phrase)?,
            }))
        };
        let told = phrases.iter().map(told).collect::<Result<Vec<_>, ApiError>>()?;
        json(value!({ "phrases": told, "minimum": project.minimum(), "speaker": project.speaker(), "project": project.root.display().to_string() }))
    })
    .await
}

/// Takes in a recording.
async fn save(State(project): Shared, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> ApiResult {
    aside(move || {
        let phrase = project.phrase(&id)?;
        let sha256 = format!("{:x}", Sha256::digest(&body));
        let asked = headers.get("x-sha256").and_then(|asked| asked.to_str().ok()).unwrap_or(&sha256);
        if !asked.eq_ignore_ascii_case(&sha256) {
            return Err(ApiError::bad("the recording was damaged on the way: its SHA-256 is another"));
        }
        if !body.starts_with(b"RIFF") {
            return Err(ApiError(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a take is a WAV file".to_owned()));
        }
        let samples = load_stream(std::path::Path::new("the take"), body.to_vec())
            .map_err(|error| ApiError(StatusCode::UNSUPPORTED_MEDIA_TYPE, error.message))?;
        let quality = ClipQuality::of(&samples, &phrase.text);
        let _one_at_a_time = project.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever lost our answer sends it again.
        if let Some(there) = project.takes(&phrase)?.into_iter().find(|take| take["sha256"] == sha256.as_str()) {
            return json(there);
        }
        let folder = project.recordings();
        if quality.verdict == QualityVerdict::Reject {
            let file = format!("{}.{}.wav", phrase.id, &sha256[..12]);
            replace(&folder.join(".rejected").join(&file), &body)?;
            return json(told(&quality, &file, 0, &sha256));
        }
        let number = 1 + numbers(&folder, &phrase.id).into_iter().max().unwrap_or(0);
        let file = if number == 1 { format!("{}.wav", phrase.id) } else { format!("{}.{number}.wav", phrase.id) };
        replace(&folder.join(&file), &body)?;
        let mut take = told(&quality, &file, number, &sha256);
        take["used"] = value!(true);
        json(take)
    })
    .await
}

async fn sound(State(project): Shared, Path(name): Path<String>) -> ApiResult {
    aside(move || {
        let bytes = fs::read(project.recordings().join(plain(&name)?)).map_err(|_| ApiError::missing("there is no such take"))?;
        Ok(([(header::CONTENT_TYPE, "audio/wav")], bytes).into_response())
    })
    .await
}

/// Makes a take the newest, which is the one that counts.
async fn choose(State(project): Shared, Path(name): Path<String>) -> ApiResult {
    aside(move || {
        let phrase = project.phrase_of(&name)?;
        let _one_at_a_time = project.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = project.recordings();
        let newest = numbers(&folder, &phrase.id).into_iter().max().unwrap_or(0);
        let to = folder.join(format!("{}.{}.wav", phrase.id, newest + 1));
        fs::rename(folder.join(&name), to).with_context(|| "cannot make that take the newest")?;
        json(project.takes(&phrase)?)
    })
    .await
}

/// Puts a take aside.
async fn remove(State(project): Shared, Path(name): Path<String>) -> ApiResult {
    aside(move || {
        let phrase = project.phrase_of(&name)?;
        let _one_at_a_time = project.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, aside) = (project.recordings().join(&name), project.recordings().join(".removed"));
        fs::create_dir_all(&aside).with_context(|| "cannot make the folder for takes that are put aside")?;
        let free = (1..).map(|number| aside.join(format!("{number}-{name}"))).find(|path| !path.exists());
        fs::rename(from, free.unwrap_or_else(|| aside.join(&name))).with_context(|| "cannot put that take aside")?;
        json(project.takes(&phrase)?)
    })
    .await
}

/// Notes that something is wrong with a sentence.
async fn report(State(project): Shared, Path(id): Path<String>, axum::Json(said): axum::Json<Value>) -> ApiResult {
    aside(move || {
        let phrase = project.phrase(&id)?;
        let reason: String = said["reason"].as_str().unwrap_or_default().chars().filter(|c| !c.is_control()).take(WORDS).collect();
        let folder = project.recordings();
        let noting = || "cannot write down the report";
        fs::create_dir_all(&folder).with_context(noting)?;
        let mut file = fs::File::options().create(true).append(true).open(folder.join(".reports.jsonl")).with_context(noting)?;
        writeln!(file, "{}", value!({ "id": phrase.id, "text": phrase.text, "reason": reason })).with_context(noting)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}

impl StudioProject {
    fn phrases(&self) -> Result<Vec<PhraseRow>, ApiError> {
        let Some(folder) = self.latest("phrases") else { return Ok(Vec::new()) };
        Ok(PhraseRow::read_all(&folder.join("phrases.jsonl"))?)
    }

    fn phrase(&self, id: &str) -> Result<PhraseRow, ApiError> {
        self.phrases()?.into_iter().find(|phrase| phrase.id == id).ok_or_else(|| ApiError::missing("there is no such sentence"))
    }

    /// The sentence that a take's name tells.
    fn phrase_of(&self, name: &str) -> Result<PhraseRow, ApiError> {
        let stem = plain(name)?.strip_suffix(".wav").ok_or_else(|| ApiError::missing("there is no such take"))?;
        let of = |phrase: &PhraseRow| number(stem, &phrase.id).is_some();
        let phrase = self.phrases()?.into_iter().find(of).ok_or_else(|| ApiError::missing("there is no such take"))?;
        if self.recordings().join(name).is_file() { Ok(phrase) } else { Err(ApiError::missing("there is no such take")) }
    }

    /// The folder of the recordings.
    fn recordings(&self) -> PathBuf {
        let stage = self.stages("recordings").into_iter().next();
        self.root.join(stage.and_then(|stage| self.setting(&stage, "folder")).unwrap_or_else(|| "recordings".to_owned()))
    }

    fn minimum(&self) -> u64 {
        let stage = self.stages("recordings").into_iter().next();
        let document = self.document().ok().flatten();
        let told = stage.zip(document).and_then(|(stage, document)| document["stage"][&stage].get("with")?.get("min_clips")?.as_integer());
        told.and_then(|told| u64::try_from(told).ok()).unwrap_or(40)
    }

    fn speaker(&self) -> Option<String> {
        self.setting(self.stages("recordings").first()?, "speaker")
    }

    /// The takes of a sentence, the oldest first; the last one counts.
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

    /// What a take is like; nothing if it cannot be read.
    fn measure(&self, folder: &std::path::Path, file: &str, number: u32, text: &str) -> Option<Value> {
        let path = folder.join(file);
        let about = fs::metadata(&path).ok()?;
        let stamp = (about.len(), about.modified().ok()?);
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((size, time, take)) = measured.get(file)
            && (*size, *time) == stamp
        {
            return Some(take.clone());
        }
        let bytes = fs::read(&path).ok()?;
        let sha256 = format!("{:x}", Sha256::digest(&bytes));
        let take = told(&ClipQuality::of(&load_stream(&path, bytes).ok()?, text), file, number, &sha256);
        measured.insert(file.to_owned(), (stamp.0, stamp.1, take.clone()));
        Some(take)
    }
}

fn told(quality: &ClipQuality, file: &str, number: u32, sha256: &str) -> Value {
    let mut told = value!(quality);
    told["file"] = value!(file);
    told["number"] = value!(number);
    told["sha256"] = value!(sha256);
    told
}

/// The numbers of the takes of a sentence that are there.
fn numbers(folder: &std::path::Path, id: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| number(entry.file_name().to_str()?.strip_suffix(".wav")?, id)).collect()
}

/// `en-0001` is the first take of `en-0001`, and `en-0001.2` the second.
fn number(stem: &str, id: &str) -> Option<u32> {
    match stem.strip_prefix(id)? {
        "" => Some(1),
        rest => rest.strip_prefix('.')?.parse().ok().filter(|number| *number > 1),
    }
}
