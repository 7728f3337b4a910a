//! Inputs of a transcription: files, folders, glob patterns and standard input, in a fixed order.

use crate::cli::project::plural;
use crate::data::ingest::{self, decodable_extensions, is_audio};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maximum bytes read from standard input.
const MAX_STREAM: u64 = 1 << 30;

/// An input to transcribe.
#[derive(Debug)]
pub(super) struct Input {
    /// Name in messages and results.
    pub(super) name: PathBuf,
    /// Path of its result below the output folder, with the extension of the audio file.
    pub(super) below: PathBuf,
    pub(super) source: Source,
    /// Length in samples; 0 until it is decoded.
    pub(super) length: AtomicUsize,
}

/// Where the bytes of an input are.
#[derive(Debug)]
pub(super) enum Source {
    File,
    /// Standard input, after it is read.
    Stream(Mutex<Vec<u8>>),
}

/// All inputs of a transcription.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) list: Vec<Input>,
    /// Whether text output has the file name in front of each transcript.
    pub(super) several: bool,
}

impl Input {
    fn file(name: PathBuf, below: PathBuf) -> Self {
        Self { name, below, source: Source::File, length: AtomicUsize::new(0) }
    }

    /// Duration in seconds, after it is decoded.
    pub(super) fn seconds(&self) -> f64 {
        self.length.load(Ordering::Relaxed) as f64 / f64::from(voxtral::audio::SAMPLE_RATE)
    }
}

impl Inputs {
    /// Reads standard input if it is among the inputs.
    pub(super) fn read_stream(&mut self) -> Result<()> {
        for input in &mut self.list {
            if let Source::Stream(bytes) = &mut input.source {
                let bytes = bytes.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
                io::stdin().lock().take(MAX_STREAM + 1).read_to_end(bytes).with_context(|| "cannot read standard input")?;
                if bytes.len() as u64 > MAX_STREAM {
                    return Err(Error::new(format!("standard input is longer than {MAX_STREAM} bytes"))
                        .kind(ErrorKind::InvalidInput)
                        .hint("write it to a file and pass the file name"));
                }
            }
        }
        Ok(())
    }
}

/// Lists the inputs that the command line names. Other files in folders are counted and reported.
pub(super) fn gather(paths: &[String]) -> Result<Inputs> {
    let mut list = Vec::new();
    let mut several = paths.len() > 1;
    for text in paths {
        let path = Path::new(text);
        if text == "-" {
            if list.iter().any(|input: &Input| matches!(input.source, Source::Stream(_))) {
                return Err(Error::new("standard input can be read only once").kind(ErrorKind::InvalidInput).hint("remove the second `-`"));
            }
            let (name, below) = (PathBuf::from("-"), PathBuf::from("stdin"));
            list.push(Input { name, below, source: Source::Stream(Mutex::default()), length: AtomicUsize::new(0) });
        } else if path.is_dir() {
            several = true;
            list.extend(folder(path)?);
        } else if !path.exists() && text.contains(['*', '?', '[']) {
            several = true;
            list.extend(pattern(text)?);
        } else {
            // A missing file is reported like an unreadable one, while the others are transcribed.
            list.push(Input::file(path.to_owned(), file_name(path)));
        }
    }
    if list.is_empty() {
        return Err(Error::new("no audio files to transcribe")
            .kind(ErrorKind::InvalidInput)
            .hint(format!("supported extensions: {}", decodable_extensions())));
    }
    Ok(Inputs { list, several })
}

/// The audio files of a folder and its subfolders, sorted by name.
fn folder(root: &Path) -> Result<Vec<Input>> {
    let (files, others): (Vec<PathBuf>, Vec<PathBuf>) = ingest::files(root)?.into_iter().partition(|path| is_audio(path) && path.is_file());
    if let Some(first) = others.first() {
        let (skipped, root, first) = (plural(others.len(), "file"), root.display(), first.display());
        let _ = writeln!(io::stderr(), "note: skipped {skipped} in `{root}` without an audio extension, such as `{first}`");
    }
    let input = |path: PathBuf| {
        let below = path.strip_prefix(root).map(Path::to_owned).unwrap_or_else(|_| file_name(&path));
        Input::file(path, below)
    };
    Ok(files.into_iter().map(input).collect())
}

/// The files that match a glob pattern, sorted by name.
fn pattern(text: &str) -> Result<Vec<Input>> {
    let wrong = |message: String| Error::new(message).kind(ErrorKind::InvalidInput);
    let found = glob::glob(text)
        .map_err(|error| wrong(format!("invalid pattern `{text}`: {error}")).hint("write a pattern such as `clips/**/*.wav`"))?;
    let mut files = BTreeSet::new();
    for path in found {
        let path = path.map_err(|error| wrong(format!("`{text}`: {error}")))?;
        if path.is_file() {
            files.insert(path);
        }
    }
    if files.is_empty() {
        return Err(wrong(format!("no file matches the pattern `{text}`")).hint("check the pattern; `**` matches folders at any depth"));
    }
    Ok(files.into_iter().map(|path| (path.clone(), file_name(&path))).map(|(path, below)| Input::file(path, below)).collect())
}

fn file_name(path: &Path) -> PathBuf {
    path.file_name().map_or_else(|| path.to_owned(), PathBuf::from)
}
