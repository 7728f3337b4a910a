//! Sound files of people on their way to being clips: found, decoded in parallel, and written as 16 kHz mono WAV.
//!
//! A file that cannot be used is no error here but a reason, to be listed; only a result that cannot be written is one.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use rayon::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use voxtral::audio;

/// A file that may become a clip.
#[derive(Clone, Debug)]
pub struct AudioCandidate {
    /// The file.
    pub path: PathBuf,
    /// Its name as the user knows it, for lists and messages.
    pub shown: String,
    /// The name the clip is to have, without `.wav`.
    pub stem: String,
}

/// How long a clip may be.
#[derive(Clone, Copy, Debug)]
pub struct IngestLimits {
    /// In seconds.
    pub min: f64,
    /// In seconds.
    pub max: f64,
}

/// Endings of files that are meant as sound, including those we can only refuse with a reason.
const ENDINGS: &[&str] = &["wav", "wave", "flac", "mp3", "ogg", "oga", "m4a", "mp4", "aac", "opus", "webm", "wma", "aif", "aiff", "amr"];

/// Whether a file's name says that it is sound.
pub fn is_audio(path: &Path) -> bool {
    path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending.to_lowercase().as_str()))
}

/// Every file below a folder that is not hidden, sorted by path.
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
            // A link to a folder is not followed, so that no walk is endless.
            if entry.file_type().with_context(doing)?.is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    Ok(found)
}

/// Writes each candidate as `into/STEM.wav` and says how many seconds it has, or why it cannot be used, in their order.
/// `went_on` hears how many are done and answers whether to go on.
pub fn take_in(
    candidates: &[AudioCandidate],
    into: &Path,
    limits: IngestLimits,
    went_on: impl Fn(usize) -> bool + Sync,
) -> Result<Vec<Result<f64, String>>> {
    fs::create_dir_all(into)?;
    let done = AtomicUsize::new(0);
    candidates
        .par_iter()
        .map(|candidate| {
            let taken = take_part(candidate, None, into, limits)?;
            if went_on(done.fetch_add(1, Ordering::Relaxed) + 1) {
                Ok(taken)
            } else {
                Err(Error::new("stopped while reading the recordings").kind(ErrorKind::Interrupted).hint("run again to go on"))
            }
        })
        .collect()
}

/// Writes one candidate, or the part of it that begins at a second and has so many, as `into/STEM.wav`; see [`take_in`].
pub fn take_part(candidate: &AudioCandidate, part: Option<(f64, f64)>, into: &Path, limits: IngestLimits) -> Result<Result<f64, String>> {
    let mut samples = match audio::load(&candidate.path) {
        Ok(samples) => samples,
        // The list is part of the result, which must not depend on where the project lies.
        Err(error) => return Ok(Err(error.message.replace(&candidate.path.display().to_string(), &candidate.shown))),
    };
    let rate = f64::from(audio::SAMPLE_RATE);
    if let Some((begins, lasts)) = part {
        let sample = |second: f64| (second.max(0.0) * rate).round() as usize;
        let (begin, end) = (sample(begins), sample(begins + lasts));
        // Durations are rounded: a part may end a little behind the file.
        if begin >= samples.len() || end > samples.len() + audio::SAMPLE_RATE as usize / 10 {
            let whole = samples.len() as f64 / rate;
            return Ok(Err(format!("{} has {whole:.2} s, and {begins} to {} s of it are named", candidate.shown, begins + lasts)));
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

/// Rounded to three digits, as durations are written.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
