//! The audio files that the setting `audio` names.

use crate::data::cues::CueFormat;
use crate::data::file_index::FileIndex;
use crate::data::ingest::{self, is_audio};
use crate::data::table::{LocalFiles, TableFiles, is_archive};
use crate::data::text::first_few;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use pipeline::stage::Context;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use unicode_normalization::UnicodeNormalization;

/// Audio files, and the text files beside them.
pub(super) struct Sounds {
    /// All files, by their paths relative to the project.
    pub(super) files: LocalFiles,
    /// Paths of the audio files, in order.
    pub(super) paths: Vec<String>,
    pub(super) index: FileIndex,
    /// Folders that paths in tables may be relative to, relative to the project.
    pub(super) folders: Vec<String>,
}

impl Sounds {
    /// Finds the audio files.
    pub(super) fn find(entries: &[String], cx: &Context) -> Result<Self> {
        let root = plain(&cx.root);
        let mut files = LocalFiles::new("audio");
        let mut folders = BTreeSet::new();
        let key = |file: &Path| {
            let file = plain(file);
            slashed(file.strip_prefix(&root).unwrap_or(&file))
        };
        for entry in entries {
            let path = cx.path(entry);
            let mut wanted: Vec<PathBuf> = Vec::new();
            if path.is_dir() {
                let archives_before = files.paths().len();
                wanted = ingest::files(&path)?;
                folders.insert(key(&path));
                if !wanted.iter().any(|file| is_audio(file)) {
                    for archive in wanted.iter().filter(|file| is_archive(file)) {
                        files.add_archive(archive, &format!("{}/", key(archive)))?;
                    }
                }
                if files.paths().len() > archives_before {
                    wanted.retain(|file| !is_archive(file));
                }
            } else if path.is_file() && is_archive(&path) {
                files.add_archive(&path, &format!("{}/", key(&path)))?;
                folders.insert(key(&path));
            } else if path.is_file() {
                wanted.push(path.clone());
                wanted.extend(beside(&path));
                folders.extend(path.parent().map(key));
            } else if is_glob(entry) {
                let matches = matches(entry, cx)?;
                if !matches.iter().any(|path| is_audio(path)) && is_pattern(entry) {
                    return Err(Error::new(format!("no audio file matches `{entry}`")).hint("fix the pattern in `audio`"));
                }
                if matches.is_empty() {
                    return Err(
                        Error::new(format!("`{entry}` in `audio` does not exist")).hint("fix the path; it is relative to the project root")
                    );
                }
                for sound in matches.iter().filter(|path| is_audio(path)) {
                    wanted.push(sound.clone());
                    wanted.extend(beside(sound));
                    folders.extend(sound.parent().map(key));
                }
                folders.insert(key(&cx.path(pattern_folder(entry))));
            } else {
                return Err(
                    Error::new(format!("`{entry}` in `audio` does not exist")).hint("fix the path; it is relative to the project root")
                );
            }
            let named = path.is_file();
            for file in wanted {
                if is_audio(&file) || is_text(&file) || named && file == path {
                    files.add(key(&file), plain(&file));
                }
            }
        }
        let named: BTreeSet<String> = entries.iter().map(|entry| key(&cx.path(entry))).collect();
        let is_sound = |path: &&str| is_audio(Path::new(path)) || named.contains(*path);
        let paths: Vec<String> = files.paths().into_iter().filter(is_sound).map(str::to_owned).collect();
        if paths.is_empty() {
            return Err(Error::new(format!("no audio files in {}", first_few(entries, 3)))
                .hint(format!("add audio files ({}), or fix `audio`", ingest::decodable_extensions())));
        }
        let index = FileIndex::new(paths.iter().cloned(), &root);
        Ok(Self { files, paths, index, folders: folders.into_iter().collect() })
    }

    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }

    /// Name of a file for people and results, independent of the file system.
    pub(super) fn shown(&self, number: usize) -> String {
        self.index.path(number).nfc().collect()
    }

    /// File name without its ending.
    pub(super) fn stem(&self, number: usize) -> String {
        let shown = self.shown(number);
        Path::new(&shown).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned()
    }

    /// The file on the disk; one in an archive is written into a folder first.
    pub(super) fn local(&self, number: usize, into: &Path) -> Result<PathBuf> {
        let path = self.index.path(number);
        if let Some(file) = self.files.on_disk(path) {
            return Ok(file.to_owned());
        }
        let ending = Path::new(path).extension().and_then(|ending| ending.to_str()).unwrap_or("wav");
        let file = into.join(format!("{number:06}.{ending}"));
        if !file.exists() {
            fs::create_dir_all(into)?;
            fs::write(&file, self.files.whole(path)?).with_context(|| format!("cannot write `{}`", file.display()))?;
        }
        Ok(file)
    }
}

/// Whether a file may hold transcripts of the recordings beside it.
fn is_text(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    ["txt", "lab", "transcription", "transcript", "json"].contains(&ending.as_str())
        || CueFormat::ENDINGS.iter().any(|cues| cues.eq_ignore_ascii_case(&ending))
}

/// The text files of the name of a recording.
fn beside(sound: &Path) -> Vec<PathBuf> {
    let stem = sound.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let all = sound.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let is_same = |name: &str| name.strip_prefix(&stem).is_some_and(|rest| rest.starts_with('.')) || name.ends_with(".trans.txt");
    let named = all.filter(|entry| is_same(&entry.file_name().to_string_lossy())).map(|entry| entry.path());
    named.filter(|path| is_text(path) && path.is_file()).collect()
}

/// The files that a pattern matches. Folders in front of its first wildcard whose names have brackets are taken as they are.
fn matches(entry: &str, cx: &Context) -> Result<Vec<PathBuf>> {
    let mut pattern = String::new();
    let mut literal = if Path::new(entry).is_absolute() { PathBuf::new() } else { cx.root.clone() };
    if !Path::new(entry).is_absolute() {
        pattern.push_str(&glob::Pattern::escape(&cx.root.to_string_lossy()));
    }
    for part in entry.split('/') {
        if !pattern.is_empty() || part.is_empty() {
            pattern.push('/');
        }
        literal.push(if part.is_empty() { "/" } else { part });
        pattern.push_str(&if literal.exists() { glob::Pattern::escape(part) } else { part.to_owned() });
    }
    let matches = glob::glob(&pattern).map_err(|error| {
        Error::new(format!("`{entry}` is not a valid glob pattern: {error}")).kind(ErrorKind::InvalidInput).hint("`*` matches any name")
    })?;
    let mut found = matches.map(|path| path.map_err(|error| Error::from(std::io::Error::from(error)))).collect::<Result<Vec<_>>>()?;
    let below = cx.path(pattern_folder(entry));
    let is_litter = |path: &Path| {
        let inside = path.strip_prefix(&below).unwrap_or(path);
        inside.components().any(|part| ingest::is_litter(&part.as_os_str().to_string_lossy()))
    };
    found.retain(|path| path.is_file() && !is_litter(path));
    // Links may lead to one file on several ways: the shortest counts.
    found.sort_by_key(|path| (path.components().count(), path.clone()));
    let mut seen = BTreeSet::new();
    found.retain(|path| fs::canonicalize(path).map_or(true, |real| seen.insert(real)));
    found.sort();
    Ok(found)
}

/// Whether an entry has a wildcard, brackets among them.
fn is_glob(entry: &str) -> bool {
    entry.contains(['*', '?', '['])
}

/// Whether an entry is surely a pattern. Brackets alone are not: folders are called `clips [final]`. With an ending they are, as in
/// `clip[0-9].wav`.
pub(super) fn is_pattern(entry: &str) -> bool {
    entry.contains(['*', '?']) || entry.contains('[') && is_audio(Path::new(entry))
}

/// The folder in front of the first wildcard of a pattern.
pub(super) fn pattern_folder(entry: &str) -> PathBuf {
    let has_wildcard = |part: &str| part.contains(['*', '?']) || part.contains('[') && is_audio(Path::new(part));
    let fixed = Path::new(entry).components().take_while(|part| !has_wildcard(&part.as_os_str().to_string_lossy()));
    let folder: PathBuf = fixed.collect();
    if folder.as_os_str().is_empty() { ".".into() } else { folder }
}

/// Resolves `.` and `..` lexically, without accessing the disk.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// The path with `/` as separator.
pub(super) fn slashed(path: &Path) -> String {
    let text = path.to_string_lossy().into_owned();
    if std::path::MAIN_SEPARATOR == '/' { text } else { text.replace(std::path::MAIN_SEPARATOR, "/") }
}
