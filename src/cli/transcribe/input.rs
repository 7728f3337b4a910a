//! What to transcribe: files, folders, patterns and standard input, as a list in a fixed order.

use crate::cli::project::plural;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Names of files that are taken from a folder: what we can decode, and what its owner certainly thinks of as audio.
const AUDIO: &[&str] = &["wav", "wave", "flac", "mp3", "ogg", "oga", "opus", "m4a", "m4b", "mp4", "aac"];
/// Most bytes that are read from standard input.
const LONGEST_STREAM: u64 = 1 << 30;

/// Something to transcribe.
#[derive(Debug)]
pub(super) struct Input {
    /// As messages and results call it.
    pub(super) name: PathBuf,
    /// Where its result goes below an output folder, still with the extension of the audio.
    pub(super) below: PathBuf,
    pub(super) source: Source,
    /// Samples it turned out to have.
    pub(super) length: AtomicUsize,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Source {
    File,
    /// Standard input, once it was read.
    Stream(Mutex<Vec<u8>>),
}

/// All there is to transcribe.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) list: Vec<Input>,
    /// Whether results must say which file they are of.
    pub(super) several: bool,
}

impl Input {
    fn file(name: PathBuf, below: PathBuf) -> Self {
        Self { name, below, source: Source::File, length: AtomicUsize::new(0) }
    }

    /// How long it is, once it was decoded.
    pub(super) fn seconds(&self) -> f64 {
        self.length.load(Ordering::Relaxed) as f64 / f64::from(voxtral::audio::SAMPLE_RATE)
    }
}

impl Inputs {
    /// Reads standard input, if it is asked for.
    pub(super) fn read_stream(&mut self) -> Result<()> {
        for input in &mut self.list {
            if let Source::Stream(bytes) = &mut input.source {
                let bytes = bytes.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
                io::stdin().lock().take(LONGEST_STREAM + 1).read_to_end(bytes).with_context(|| "cannot read standard input")?;
                if bytes.len() as u64 > LONGEST_STREAM {
                    return Err(Error::new(format!("standard input is longer than {LONGEST_STREAM} bytes"))
                        .kind(ErrorKind::InvalidInput)
                        .hint("write it to a file and give its name"));
                }
            }
        }
        Ok(())
    }
}

/// Makes a list of what the command line names. What a folder holds beside audio is counted and said.
pub(super) fn gather(paths: &[String]) -> Result<Inputs> {
    let mut list = Vec::new();
    let mut several = paths.len() > 1;
    for text in paths {
        let path = Path::new(text);
        if text == "-" {
            if list.iter().any(|input: &Input| matches!(input.source, Source::Stream(_))) {
                return Err(Error::new("standard input can be read only once")
                    .kind(ErrorKind::InvalidInput)
                    .hint("leave the second `-` out"));
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
            // One that is not there is a file that cannot be read, like a damaged one.
            list.push(Input::file(path.to_owned(), file_name(path)));
        }
    }
    if list.is_empty() {
        return Err(Error::new("there is no audio file to transcribe")
            .kind(ErrorKind::InvalidInput)
            .hint(format!("names of audio files end in {}", AUDIO.join(", "))));
    }
    Ok(Inputs { list, several })
}

/// The audio files of a folder and the folders in it, by name.
fn folder(root: &Path) -> Result<Vec<Input>> {
    let (mut files, mut others) = (BTreeSet::new(), BTreeSet::new());
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let reading = || format!("cannot read folder `{}`", folder.display());
        for entry in fs::read_dir(&folder).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let path = entry.path();
            let audio = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
            // A link to a folder is not followed: it may lead back here.
            if entry.file_type().with_context(reading)?.is_dir() {
                folders.push(path);
            } else if audio.is_some_and(|extension| AUDIO.contains(&extension.as_str())) && path.is_file() {
                files.insert(path);
            } else {
                others.insert(path);
            }
        }
    }
    if let Some(first) = others.first() {
        let left_out = plural(others.len(), "file");
        let _ =
            writeln!(io::stderr(), "note: left out {left_out} in `{}` not named as audio, such as `{}`", root.display(), first.display());
    }
    let input = |path: PathBuf| {
        let below = path.strip_prefix(root).map(Path::to_owned).unwrap_or_else(|_| file_name(&path));
        Input::file(path, below)
    };
    Ok(files.into_iter().map(input).collect())
}

/// The files that a pattern fits, by name.
fn pattern(text: &str) -> Result<Vec<Input>> {
    let wrong = |message: String| Error::new(message).kind(ErrorKind::InvalidInput);
    let found =
        glob::glob(text).map_err(|error| wrong(format!("`{text}` is no pattern: {error}")).hint("patterns are like `clips/**/*.wav`"))?;
    let mut files = BTreeSet::new();
    for path in found {
        let path = path.map_err(|error| wrong(format!("`{text}`: {error}")))?;
        if path.is_file() {
            files.insert(path);
        }
    }
    if files.is_empty() {
        return Err(wrong(format!("no file fits the pattern `{text}`")).hint("check its spelling; `**` stands for folders at any depth"));
    }
    Ok(files.into_iter().map(|path| (path.clone(), file_name(&path))).map(|(path, below)| Input::file(path, below)).collect())
}

fn file_name(path: &Path) -> PathBuf {
    path.file_name().map_or_else(|| path.to_owned(), PathBuf::from)
}
