//! Access to the files of a dataset in a folder or a Hub repository, with partial reads.

use crate::data::ingest;
use crate::error::{Error, Result, ResultExt};
use crate::hub::read::RepoReader;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The files of a dataset by their relative paths.
pub(super) struct Place<'a> {
    /// Name in results.
    pub(super) name: String,
    files: BTreeMap<String, u64>,
    source: Source<'a>,
}

enum Source<'a> {
    Folder(PathBuf),
    Hub(Box<RepoReader<'a>>),
}

impl<'a> Place<'a> {
    /// Opens a folder; `name` is its name in messages and results.
    pub(super) fn folder(path: &Path, name: &str) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::new(format!("folder `{name}` not found")).hint("fix the path; it is relative to the project root"));
        }
        let mut files = BTreeMap::new();
        for file in ingest::files(path)? {
            if let Some(inside) = file.strip_prefix(path).ok().and_then(Path::to_str) {
                files.insert(inside.replace('\\', "/"), fs::metadata(&file).map_or(0, |found| found.len()));
            }
        }
        Ok(Self { name: name.to_owned(), files, source: Source::Folder(path.to_owned()) })
    }

    /// Opens a Hub repository.
    pub(super) fn hub(reader: RepoReader<'a>) -> Result<Self> {
        let files = reader.list("", true)?.unwrap_or_default();
        let files = files.into_iter().filter(|entry| !entry.folder).map(|entry| (entry.path, entry.size)).collect();
        Ok(Self { name: reader.name(), files, source: Source::Hub(Box::new(reader)) })
    }

    /// The reader of the Hub repository; `None` for a folder.
    pub(super) fn reader(&self) -> Option<&RepoReader<'a>> {
        match &self.source {
            Source::Hub(reader) => Some(reader),
            Source::Folder(_) => None,
        }
    }

    /// Paths of all files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Size of a file in bytes; 0 if it does not exist.
    pub(super) fn size(&self, path: &str) -> u64 {
        self.files.get(path).copied().unwrap_or(0)
    }

    /// Resolves the path in a row of `table`: relative to the table, relative to the root, or, for a path from another machine, by the
    /// longest suffix that exists.
    pub(super) fn find(&self, table: &str, meant: &str) -> Option<String> {
        let meant = meant.replace('\\', "/");
        let parts: Vec<&str> = meant.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return None;
        }
        let folder = table.rsplit_once('/').map_or("", |(folder, _)| folder);
        let ends = (0..parts.len()).map(|from| parts[from..].join("/"));
        let mut tried = ends.flat_map(|end| [if folder.is_empty() { end.clone() } else { format!("{folder}/{end}") }, end]);
        tried.find(|path| self.files.contains_key(path))
    }

    /// The local path of a file; a file on the Hub is first downloaded to `into`.
    pub(super) fn local(&self, path: &str, into: &Path) -> Result<PathBuf> {
        match &self.source {
            Source::Folder(folder) => Ok(folder.join(path)),
            Source::Hub(reader) => {
                fs::write(into, reader.part(path, 0, self.size(path))?).with_context(|| format!("cannot write `{}`", into.display()))?;
                Ok(into.to_owned())
            }
        }
    }

    /// Reads `length` bytes at offset `from` of a file.
    pub(super) fn part(&self, path: &str, from: u64, length: u64) -> Result<Vec<u8>> {
        match &self.source {
            Source::Hub(reader) => reader.part(path, from, length),
            Source::Folder(folder) => {
                let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
                let mut read = || -> std::io::Result<()> {
                    let mut file = File::open(folder.join(path))?;
                    file.seek(SeekFrom::Start(from))?;
                    file.read_exact(&mut bytes)
                };
                read().with_context(|| format!("cannot read `{}/{path}`", self.name))?;
                Ok(bytes)
            }
        }
    }
}

const METADATA: &[&str] = &["metadata.jsonl", "metadata.csv", "metadata.tsv"];
const SPLITS: &[&str] = &["train", "validation", "valid", "val", "dev", "test", "eval"];

/// Selects the tables that hold the rows: the richest format present, restricted to the split and configuration.
pub(super) fn tables(place: &Place, patterns: &[String], config: Option<&str>, split: Option<&str>) -> Result<Vec<String>> {
    let wrong = |message: String, hint: String| Err(Error::new(format!("{message} in `{}`", place.name)).hint(hint));
    let all: Vec<&str> = place.paths().collect();
    let of = |is: &dyn Fn(&str) -> bool| -> Vec<&str> { all.iter().copied().filter(|path| is(path)).collect() };
    let file = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let ends = |path: &str, endings: &[&str]| endings.iter().any(|ending| path.ends_with(ending));
    let mut found = if patterns.is_empty() {
        let forms: [&dyn Fn(&str) -> bool; 4] = [
            &|path| METADATA.contains(&file(path).as_str()),
            &|path| ends(path, &[".parquet"]),
            &|path| ends(path, &[".jsonl", ".ndjson"]) || ends(path, &[".json"]) && file(path).contains("manifest"),
            &|path| ends(path, &[".csv", ".tsv"]),
        ];
        forms.iter().map(|form| of(*form)).find(|found| !found.is_empty()).unwrap_or_default()
    } else {
        let patterns: Vec<glob::Pattern> = patterns.iter().filter_map(|pattern| glob::Pattern::new(pattern).ok()).collect();
        of(&|path| patterns.iter().any(|pattern| pattern.matches(path)))
    };
    if found.is_empty() {
        let hint = "expected metadata.csv or metadata.jsonl, Parquet files or a JSON Lines manifest; name other tables in `files`";
        return wrong(format!("no table of clips among {} files", all.len()), hint.to_owned());
    }
    let parts = |path: &str| -> BTreeSet<String> { path.split(['/', '-', '_', '.']).map(str::to_owned).collect() };
    if let Some(config) = config {
        found.retain(|path| path.split('/').any(|part| part == config));
        if found.is_empty() {
            return wrong(format!("no table in a folder `{config}`"), format!("files: {}", few(&all)));
        }
    }
    let has = |found: &[&str], split: &str| found.iter().any(|path| parts(path).contains(split));
    match split {
        Some(split) if has(&found, split) => found.retain(|path| parts(path).contains(split)),
        Some(split) => {
            let known = SPLITS.iter().copied().filter(|split| has(&found, split)).collect::<Vec<_>>().join(", ");
            let known =
                if known.is_empty() { "its tables have no splits: remove `split`".to_owned() } else { format!("available: {known}") };
            return wrong(format!("no split `{split}`"), known);
        }
        None if patterns.is_empty() && has(&found, "train") => found.retain(|path| parts(path).contains("train")),
        None => {}
    }
    // Several configurations are several datasets; only the user knows which one is wanted.
    let folder = |path: &&str| path.split('/').find(|part| !SPLITS.contains(part) && !["data", "audio"].contains(part)).map(str::to_owned);
    let folders: BTreeSet<String> =
        found.iter().filter(|path| path.contains('/')).filter_map(folder).filter(|part| !part.contains('.')).collect();
    if config.is_none() && patterns.is_empty() && place.reader().is_some() && folders.len() > 1 {
        let known = folders.iter().map(String::as_str).collect::<Vec<_>>();
        return wrong("several configurations".to_owned(), format!("set `config` to one of: {}", few(&known)));
    }
    Ok(found.into_iter().map(str::to_owned).collect())
}

fn few(names: &[&str]) -> String {
    crate::data::text::first_few(names, 10)
}
