//! Audio ingestion: finds audio files, decodes them in parallel and writes 16 kHz mono WAV clips.
//!
//! An unusable file is not an error: the functions return a reason, which the stages list in their report. Only a failure to write a clip
//! is an error.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use voxtral::audio;
use voxtral::audio::{Channel, LoadOptions};

pub use voxtral::audio::formats::{extensions as decodable_extensions, is_audio};

/// An audio file, or a part of one, that may become a clip.
#[derive(Clone, Debug)]
pub struct AudioCandidate {
    /// Path of the file.
    pub path: PathBuf,
    /// Its name as the user wrote it, for reports and messages.
    pub shown: String,
    /// File name of the clip, without `.wav`.
    pub stem: String,
    /// The part of the file; `None` is the whole file.
    pub span: Option<AudioSpan>,
    /// The channel of the file to read.
    pub channel: Channel,
}

/// Part of an audio file, in seconds from its beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AudioSpan {
    /// Start; at least 0.
    pub start: f64,
    /// End; `None` is the end of the file.
    pub end: Option<f64>,
}

/// A clip that was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IngestedClip {
    /// Duration in seconds, rounded.
    pub seconds: f64,
    /// What was done with its file beyond decoding: a channel that was left out, a header that was corrected. Nothing for most files.
    pub notes: Vec<String>,
}

/// Limits of the duration of a clip.
#[derive(Clone, Copy, Debug)]
pub struct IngestLimits {
    /// Minimum in seconds.
    pub min: f64,
    /// Maximum in seconds.
    pub max: f64,
}

/// Whether a file or folder is one that systems and programs leave behind: hidden files, `Thumbs.db`, `desktop.ini`, `~$…`, `__MACOSX`.
pub fn is_litter(name: &str) -> bool {
    let lower = name.to_lowercase();
    name.starts_with('.') || name.starts_with("~$") || matches!(lower.as_str(), "thumbs.db" | "desktop.ini" | "__macosx" | "ehthumbs.db")
}

/// All regular files below a folder, except hidden ones and those that [`is_litter`], sorted by path. Links to folders are followed; a folder
/// that is reached twice is read once, so the walk always ends. Links that lead nowhere or in a circle, pipes and devices are no files.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    // Real folders before links to them: which of two paths to a folder counts must not depend on the order of the disk.
    let mut links = Vec::new();
    let mut seen = BTreeSet::new();
    while let Some(folder) = folders.pop().or_else(|| {
        links.sort_by(|a, b| Ord::cmp(b, a));
        links.pop()
    }) {
        let doing = || format!("cannot read the folder `{}`", folder.display());
        if !seen.insert(fs::canonicalize(&folder).with_context(doing)?) {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(doing)? {
            let entry = entry.with_context(doing)?;
            if is_litter(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let (path, kind) = (entry.path(), entry.file_type().with_context(doing)?);
            match () {
                () if kind.is_dir() => folders.push(path),
                () if kind.is_symlink() && path.is_dir() => links.push(path),
                () if kind.is_file() || kind.is_symlink() && path.is_file() => found.push(path),
                () => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Writes each candidate as `into/STEM.wav`, in parallel. Returns, in input order, the clip or the reason for rejection.
/// `on_progress` is called with the number of clips done and returns whether to continue.
///
/// A file with several spans is decoded once, as a stream: memory holds the spans that are open at one time, not the recording. So pass
/// all spans of a recording in one call.
pub fn ingest_audio(
    candidates: &[AudioCandidate],
    into: &Path,
    limits: IngestLimits,
    on_progress: impl Fn(usize) -> bool + Sync,
) -> Result<Vec<Result<IngestedClip, String>>> {
    fs::create_dir_all(into)?;
    let mut by_file: BTreeMap<(&Path, Channel), Vec<usize>> = BTreeMap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        by_file.entry((&candidate.path, candidate.channel)).or_default().push(index);
    }
    let done = AtomicUsize::new(0);
    let files: Vec<_> = by_file.into_iter().collect();
    let taken: Vec<Vec<(usize, Result<IngestedClip, String>)>> = files
        .par_iter()
        .map(|((path, channel), indices)| {
            let parts = indices.iter().filter_map(|index| Some((*index, candidates.get(*index)?))).collect();
            Cutter::new(parts, into, limits).cut(path, *channel, &|| on_progress(done.fetch_add(1, Ordering::Relaxed) + 1))
        })
        .collect::<Result<_>>()?;
    let mut results: BTreeMap<usize, Result<IngestedClip, String>> = taken.into_iter().flatten().collect();
    let lost = || Err("was not read".to_owned());
    Ok((0..candidates.len()).map(|index| results.remove(&index).unwrap_or_else(lost)).collect())
}

/// Samples of a number of seconds.
fn samples_of(seconds: f64) -> usize {
    // Float casts saturate, so infinity is the largest number.
    (seconds.max(0.0) * f64::from(audio::SAMPLE_RATE)).round() as usize
}

/// Seconds of a number of samples.
fn seconds_of(samples: usize) -> f64 {
    samples as f64 / f64::from(audio::SAMPLE_RATE)
}

/// How far a span may reach beyond the end of its file, in samples: times in tables are rounded.
const BEYOND: usize = audio::SAMPLE_RATE as usize / 10;

/// The same for a span that begins with its file: its end is often the rounded duration of the file, and then the file is meant.
fn beyond(first: usize, last: usize) -> usize {
    if first == 0 { BEYOND.max(last / 50) } else { BEYOND }
}

/// Cuts the spans of one file out of a stream of its samples.
struct Cutter<'a> {
    /// The spans that have not begun, the next one last. Indices are those of the candidates.
    waiting: Vec<(usize, &'a AudioCandidate)>,
    /// The spans whose samples are being held.
    open: Vec<(usize, &'a AudioCandidate)>,
    /// Spans to the end of the file that have become too long: their samples are counted, not held.
    overlong: Vec<(usize, &'a AudioCandidate)>,
    into: &'a Path,
    limits: IngestLimits,
    /// Samples from `from` on that an open span needs.
    held: Vec<f32>,
    /// Position of the first held sample in the file.
    from: usize,
    results: Vec<(usize, Result<IngestedClip, String>)>,
}

impl<'a> Cutter<'a> {
    fn new(mut parts: Vec<(usize, &'a AudioCandidate)>, into: &'a Path, limits: IngestLimits) -> Self {
        parts.sort_by(|(_, a), (_, b)| Self::first(b).cmp(&Self::first(a)));
        Self { waiting: parts, open: Vec::new(), overlong: Vec::new(), into, limits, held: Vec::new(), from: 0, results: Vec::new() }
    }

    /// First sample of a candidate.
    fn first(candidate: &AudioCandidate) -> usize {
        candidate.span.map_or(0, |span| samples_of(span.start))
    }

    /// The sample after the last one of a candidate; `None` is the end of the file.
    fn last(candidate: &AudioCandidate) -> Option<usize> {
        candidate.span.and_then(|span| span.end).map(samples_of)
    }

    /// Decodes the file and writes its clips. `on_done` is called after each of them and returns whether to continue.
    fn cut(mut self, path: &Path, channel: Channel, on_done: &dyn Fn() -> bool) -> Result<Vec<(usize, Result<IngestedClip, String>)>> {
        // An error of this side, such as a full disk or an interruption, is none of the file.
        let mut failed = None;
        let read = audio::load_blocks(path, &LoadOptions { channel }, &mut |block| {
            failed = self.add(block, on_done).err();
            Ok(failed.is_none() && !self.is_done())
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match read {
            Ok(info) => {
                self.finish(on_done)?;
                for clip in self.results.iter_mut().filter_map(|(_, taken)| taken.as_mut().ok()) {
                    clip.notes.clone_from(&info.notes);
                }
            }
            // Clips that were cut before the damage are whole; all others share its reason.
            Err(error) => {
                let left = [&mut self.waiting, &mut self.open, &mut self.overlong].into_iter().flat_map(std::mem::take);
                for (index, candidate) in left.collect::<Vec<_>>() {
                    // Reasons become part of the result, which must not depend on the location of the project.
                    let reason = error.message.replace(&path.display().to_string(), &candidate.shown);
                    self.done(index, Err(reason), on_done)?;
                }
            }
        }
        Ok(self.results)
    }

    /// Whether no span needs the rest of the file.
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.open.is_empty() && self.overlong.is_empty()
    }

    fn done(&mut self, index: usize, taken: Result<IngestedClip, String>, on_done: &dyn Fn() -> bool) -> Result<()> {
        self.results.push((index, taken));
        if on_done() {
            return Ok(());
        }
        Err(Error::new("stopped while reading the recordings").kind(ErrorKind::Interrupted).hint("run again to resume"))
    }

    /// Takes the next samples of the file and writes the clips that are complete.
    fn add(&mut self, samples: &[f32], on_done: &dyn Fn() -> bool) -> Result<()> {
        self.held.extend_from_slice(samples);
        let end = self.from + self.held.len();
        while let Some((index, candidate)) = self.waiting.pop_if(|(_, candidate)| Self::first(candidate) < end) {
            match Self::last(candidate) {
                // Such a span would be held to be refused.
                Some(last) if seconds_of(last.saturating_sub(Self::first(candidate))) > self.limits.max => {
                    let seconds = seconds_of(last - Self::first(candidate));
                    self.done(index, Err(self.too_long(candidate, seconds)), on_done)?;
                }
                _ => self.open.push((index, candidate)),
            }
        }
        let max = self.limits.max;
        let complete = |(_, candidate): &mut (usize, &AudioCandidate)| {
            let first = Self::first(candidate);
            // Such a span is the whole file if that ends soon after it.
            let wait = |last| if first == 0 { beyond(first, last) } else { 0 };
            Self::last(candidate).is_some_and(|last| last + wait(last) <= end)
        };
        for (index, candidate) in self.open.extract_if(.., complete).collect::<Vec<_>>() {
            let taken = self.write(candidate, Self::last(candidate).unwrap_or(end))?;
            self.done(index, taken, on_done)?;
        }
        // Those with an end were refused before they were held, if they are too long.
        let overlong = |(_, candidate): &mut (usize, &AudioCandidate)| {
            Self::last(candidate).is_none() && seconds_of(end - Self::first(candidate).min(end)) > max
        };
        self.overlong.extend(self.open.extract_if(.., overlong));
        let needed = self.open.iter().map(|(_, candidate)| Self::first(candidate)).min().unwrap_or(end).clamp(self.from, end);
        self.held.drain(..needed - self.from);
        self.from = needed;
        Ok(())
    }

    /// Writes the clips that reach to the end of the file.
    fn finish(&mut self, on_done: &dyn Fn() -> bool) -> Result<()> {
        let end = self.from + self.held.len();
        for (index, candidate) in std::mem::take(&mut self.open) {
            let taken = match Self::last(candidate) {
                Some(last) if last > end + beyond(Self::first(candidate), last) => Err(self.outside(candidate, end)),
                _ => self.write(candidate, end)?,
            };
            self.done(index, taken, on_done)?;
        }
        for (index, candidate) in std::mem::take(&mut self.waiting) {
            self.done(index, Err(self.outside(candidate, end)), on_done)?;
        }
        for (index, candidate) in std::mem::take(&mut self.overlong) {
            self.done(index, Err(self.too_long(candidate, seconds_of(end - Self::first(candidate)))), on_done)?;
        }
        Ok(())
    }

    fn too_long(&self, candidate: &AudioCandidate, seconds: f64) -> String {
        format!("{} is too long: {seconds:.2} s, at most {} s are asked for", candidate.shown, self.limits.max)
    }

    fn outside(&self, candidate: &AudioCandidate, end: usize) -> String {
        let until = candidate.span.and_then(|span| span.end).map_or_else(|| "its end".to_owned(), |end| format!("{} s", rounded(end)));
        let start = candidate.span.map_or(0.0, |span| rounded(span.start));
        format!("{} has {:.2} s, and {start} s to {until} of it are named", candidate.shown, seconds_of(end))
    }

    /// Writes one clip that ends at sample `last` of the file.
    fn write(&self, candidate: &AudioCandidate, last: usize) -> Result<Result<IngestedClip, String>> {
        let first = Self::first(candidate);
        let (shown, limits) = (&candidate.shown, self.limits);
        let Some(samples) = self.held.get(first.saturating_sub(self.from)..last.saturating_sub(self.from)) else {
            return Ok(Err(format!("{shown} has a part that ends before it starts")));
        };
        let seconds = seconds_of(samples.len());
        if seconds < limits.min {
            return Ok(Err(format!("{shown} is too short: {seconds:.2} s, at least {} s are asked for", limits.min)));
        }
        if seconds > limits.max {
            return Ok(Err(self.too_long(candidate, seconds)));
        }
        audio::write_wav16k(&self.into.join(format!("{}.wav", candidate.stem)), samples)?;
        Ok(Ok(IngestedClip { seconds: rounded(seconds), notes: Vec::new() }))
    }
}

/// Duration of an audio file in seconds; `None` if it cannot be decoded.
pub fn duration(path: &Path) -> Option<f64> {
    let info = audio::load_blocks(path, &LoadOptions::default(), &mut |_| Ok(true)).ok()?;
    Some(info.samples as f64 / f64::from(audio::SAMPLE_RATE))
}

/// Notes on files, one line for each kind of note.
pub fn summarized(notes: &BTreeSet<(String, String)>) -> Vec<String> {
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, note) in notes {
        files.entry(note).or_default().push(file);
    }
    files.into_iter().map(|(note, files)| format!("{}: {note}", crate::data::text::first_few(&files, 3))).collect()
}

/// Rounds to three decimals, as durations are stored.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_left_out() {
        use std::os::unix::{fs::symlink, net::UnixListener};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/a.wav"), "").unwrap();
        for (to, from) in
            [("real/a.wav", "alias.wav"), ("nowhere", "broken.wav"), ("round.wav", "round.wav"), ("..", "real/up"), ("real", "link")]
        {
            symlink(to, at(from)).unwrap();
        }
        let _socket = UnixListener::bind(at("pipe.wav")).unwrap();
        let found = files(folder.path()).unwrap();
        assert_eq!(found, [at("alias.wav"), at("real/a.wav")]);
    }

    fn candidate(path: &Path, stem: &str, start: f64, end: Option<f64>) -> AudioCandidate {
        AudioCandidate {
            path: path.to_owned(),
            shown: "talk.wav".to_owned(),
            stem: stem.to_owned(),
            span: Some(AudioSpan { start, end }),
            channel: Channel::Mix,
        }
    }

    /// Ten seconds in which each sample tells its own position.
    fn ramp() -> Vec<f32> {
        (0..10 * audio::SAMPLE_RATE).map(|n| (n % 32_768) as f32 / 32_768.0).collect()
    }

    #[test]
    fn spans_are_cut_sample_exact_in_any_order_and_may_overlap() {
        let folder = tempfile::tempdir().unwrap();
        let (path, into) = (folder.path().join("talk.wav"), folder.path().join("audio"));
        audio::write_wav16k(&path, &ramp()).unwrap();
        let spans = [(7.0, Some(8.5)), (0.0, Some(1.0)), (0.5, Some(2.25)), (9.0, None), (3.0, Some(10.05)), (0.0, None)];
        let candidates: Vec<_> = spans.iter().enumerate().map(|(n, (start, end))| candidate(&path, &n.to_string(), *start, *end)).collect();
        let limits = IngestLimits { min: 0.2, max: 30.0 };
        let taken = ingest_audio(&candidates, &into, limits, |_| true).unwrap();
        for (n, ((start, end), taken)) in spans.iter().zip(taken).enumerate() {
            let (first, last) = (samples_of(*start), samples_of(end.unwrap_or(10.0)).min(160_000));
            assert_eq!(taken.unwrap().seconds, rounded(seconds_of(last - first)), "{n}");
            assert_eq!(audio::read_wav16k(&into.join(format!("{n}.wav"))).unwrap(), ramp()[first..last], "{n}");
        }
    }

    #[test]
    fn a_span_outside_its_file_or_the_limits_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let (path, into) = (folder.path().join("talk.wav"), folder.path().join("audio"));
        audio::write_wav16k(&path, &ramp()).unwrap();
        let rows = [
            (12.0, Some(13.0), "talk.wav has 10.00 s, and 12 s to 13 s of it are named"),
            (9.0, Some(10.2), "talk.wav has 10.00 s, and 9 s to 10.2 s of it are named"),
            (12.0, None, "talk.wav has 10.00 s, and 12 s to its end of it are named"),
            (2.0, Some(1.0), "talk.wav has a part that ends before it starts"),
            (2.0, Some(2.1), "talk.wav is too short: 0.10 s, at least 0.2 s are asked for"),
            (2.0, Some(8.0), "talk.wav is too long: 6.00 s, at most 5 s are asked for"),
        ];
        let candidates: Vec<_> = rows.iter().map(|(start, end, _)| candidate(&path, "x", *start, *end)).collect();
        let taken = ingest_audio(&candidates, &into, IngestLimits { min: 0.2, max: 5.0 }, |_| true).unwrap();
        for ((_, _, reason), taken) in rows.iter().zip(taken) {
            assert_eq!(taken, Err((*reason).to_owned()));
        }
        assert_eq!(fs::read_dir(&into).unwrap().count(), 0, "no clip of a refused span");
    }
}
