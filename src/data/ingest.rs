//! Audio ingestion: finds audio files, decodes them in parallel and writes 16 kHz mono WAV clips.
//!
//! An unusable file is not an error: the functions return a reason, which the stages list in their report. Only a failure to write a clip
//! is an error.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use rayon::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use voxtral::audio;

/// An audio file that may become a clip.
#[derive(Clone, Debug)]
pub struct AudioCandidate {
    /// Path of the file.
    pub path: PathBuf,
    /// Its name as the user wrote it, for reports and messages.
    pub shown: String,
    /// File name of the clip, without `.wav`.
    pub stem: String,
}

/// Limits of the duration of a clip.
#[derive(Clone, Copy, Debug)]
pub struct IngestLimits {
    /// Minimum in seconds.
    pub min: f64,
    /// Maximum in seconds.
    pub max: f64,
}

/// Extensions of audio files, and whether such files can be decoded; the content decides in the end. Files that cannot be are reported instead of
/// being ignored. Every stage, the studio and `transcribe` use this one table.
const EXTENSIONS: &[(&str, bool)] = &[
    ("wav", true),
    ("wave", true),
    ("flac", true),
    ("mp3", true),
    ("ogg", true),
    ("oga", true),
    ("m4a", true),
    ("m4b", true),
    ("mp4", true),
    ("aac", true),
    ("opus", false),
    ("webm", false),
    ("wma", false),
    ("aif", false),
    ("aiff", false),
    ("amr", false),
];

/// Whether the file extension is one of audio.
pub fn is_audio(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|(known, _)| *known == extension))
}

/// The extensions of audio that can be decoded, for messages.
pub fn decodable_extensions() -> String {
    EXTENSIONS.iter().filter(|(_, decodable)| *decodable).map(|(extension, _)| *extension).collect::<Vec<_>>().join(", ")
}

/// All files below a folder, except hidden files and folders, sorted by path.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let doing = || format!("cannot read the folder `{}`", folder.display());
        for entry in fs::read_dir(&folder).with_context(doing)? {
            let entry = entry.with_context(doing)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            // Symbolic links to folders are not followed, so the walk always ends.
            if entry.file_type().with_context(doing)?.is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    Ok(found)
}

/// Writes each candidate as `into/STEM.wav`, in parallel. Returns, in input order, the duration in seconds or the reason for rejection.
/// `on_progress` is called with the number of files done and returns whether to continue.
pub fn ingest_audio(
    candidates: &[AudioCandidate],
    into: &Path,
    limits: IngestLimits,
    on_progress: impl Fn(usize) -> bool + Sync,
) -> Result<Vec<Result<f64, String>>> {
    fs::create_dir_all(into)?;
    let done = AtomicUsize::new(0);
    candidates
        .par_iter()
        .map(|candidate| {
            let taken = take_part(candidate, None, into, limits)?;
            if on_progress(done.fetch_add(1, Ordering::Relaxed) + 1) {
                Ok(taken)
            } else {
                Err(Error::new("stopped while reading the recordings").kind(ErrorKind::Interrupted).hint("run again to resume"))
            }
        })
        .collect()
}

/// Writes one candidate as `into/STEM.wav`, or only the part `(start, duration)` of it, in seconds; see [`ingest_audio`].
pub fn take_part(candidate: &AudioCandidate, part: Option<(f64, f64)>, into: &Path, limits: IngestLimits) -> Result<Result<f64, String>> {
    let mut samples = match audio::load(&candidate.path) {
        Ok(samples) => samples,
        // Reasons become part of the result, which must not depend on the location of the project.
        Err(error) => return Ok(Err(error.message.replace(&candidate.path.display().to_string(), &candidate.shown))),
    };
    let rate = f64::from(audio::SAMPLE_RATE);
    if let Some((start, duration)) = part {
        let sample = |second: f64| (second.max(0.0) * rate).round() as usize;
        let (begin, end) = (sample(start), sample(start + duration));
        // Durations in tables are rounded, so a part may end up to 0.1 s after the end of the file.
        if begin >= samples.len() || end > samples.len() + audio::SAMPLE_RATE as usize / 10 {
            let whole = samples.len() as f64 / rate;
            return Ok(Err(format!("{} has {whole:.2} s, and {start} to {} s of it are named", candidate.shown, start + duration)));
        }
        samples.truncate(end);
        samples.drain(..begin);
    }
    let seconds = samples.len() as f64 / rate;
    if seconds < limits.min {
        return Ok(Err(format!("{} is too short: {seconds:.2} s, at least {} s are asked for", candidate.shown, limits.min)));
    }
    if seconds > limits.max {
        return Ok(Err(format!("{} is too long: {seconds:.2} s, at most {} s are asked for", candidate.shown, limits.max)));
    }
    audio::write_wav16k(&into.join(format!("{}.wav", candidate.stem)), &samples)?;
    Ok(Ok(rounded(seconds)))
}

/// Rounds to three decimals, as durations are stored.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
