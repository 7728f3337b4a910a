//! Where a data set is: a folder, or a repository of the Hub, read in parts.

use crate::data::ingest;
use crate::error::{Error, Result, ResultExt};
use crate::hub::read::RepoReader;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The files of a data set, by their paths in it.
pub(super) struct Place<'a> {
    /// As it is named in results.
    pub(super) name: String,
    files: BTreeMap<String, u64>,
    whence: Whence<'a>,
}

enum Whence<'a> {
    Folder(PathBuf),
    Hub(Box<RepoReader<'a>>),
}

impl<'a> Place<'a> {
    /// A folder; `name` is what the user calls it.
    pub(super) fn folder(path: &Path, name: &str) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::new(format!("there is no folder `{name}`")).hint("correct the path; it starts at the project's root"));
        }
        let mut files = BTreeMap::new();
        for file in ingest::files(path)? {
            if let Some(inside) = file.strip_prefix(path).ok().and_then(Path::to_str) {
                files.insert(inside.replace('\\', "/"), fs::metadata(&file).map_or(0, |found| found.len()));
            }
        }
        Ok(Self { name: name.to_owned(), files, whence: Whence::Folder(path.to_owned()) })
    }

    /// A repository.
    pub(super) fn hub(reader: RepoReader<'a>) -> Result<Self> {
        let files = reader.list("", true)?.unwrap_or_default();
        let files = files.into_iter().filter(|entry| !entry.folder).map(|entry| (entry.path, entry.size)).collect();
        Ok(Self { name: reader.name(), files, whence: Whence::Hub(Box::new(reader)) })
    }

    /// The repository, if it is one.
    pub(super) fn reader(&self) -> Option<&RepoReader<'a>> {
        match &self.whence {
            Whence::Hub(reader) => Some(reader),
            Whence::Folder(_) => None,
        }
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    pub(super) fn size(&self, path: &str) -> u64 {
        self.files.get(path).copied().unwrap_or(0)
    }

    /// The file that a row of the table `table` means by a path: beside the table, from the top, or, for a path of another machine, by the
    /// end of it that is here.
    pub(super) fn find(&self, table: &str, meant: &str) -> Option<String> {
        let meant = meant.replace('\\', "/");
        let parts: Vec<&str> = meant.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return None;
        }
        let beside = table.rsplit_once('/').map_or("", |(folder, _)| folder);
        let ends = (0..parts.len()).map(|from| parts[from..].join("/"));
        let mut tried = ends.flat_map(|end| [if beside.is_empty() { end.clone() } else { format!("{beside}/{end}") }, end]);
        tried.find(|path| self.files.contains_key(path))
    }

    /// Where the file is on this machine; one of the Hub is put into `into` first.
    pub(super) fn local(&self, path: &str, into: &Path) -> Result<PathBuf> {
        match &self.whence {
            Whence::Folder(folder) => Ok(folder.join(path)),
            Whence::Hub(reader) => {
                fs::write(into, reader.part(path, 0, self.size(path))?).with_context(|| format!("cannot write `{}`", into.display()))?;
                Ok(into.to_owned())
            }
        }
    }

    /// A part of a file.
    pub(super) fn part(&self, path: &str, from: u64, length: u64) -> Result<Vec<u8>> {
        match &self.whence {
            Whence::Hub(reader) => reader.part(path, from, length),
            Whence::Folder(folder) => {
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

/// Which tables hold the rows: those of the form that tells most, of the split and the configuration that are meant.
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
        let hint = "it needs a metadata.csv or metadata.jsonl, Parquet files, or a manifest of JSON lines; name them with `files`";
        return wrong(format!("there is no table of clips among {} files", all.len()), hint.to_owned());
    }
    let parts = |path: &str| -> BTreeSet<String> { path.split(['/', '-', '_', '.']).map(str::to_owned).collect() };
    if let Some(config) = config {
        found.retain(|path| path.split('/').any(|part| part == config));
        if found.is_empty() {
            return wrong(format!("no table is in a folder `{config}`"), format!("there is: {}", few(&all)));
        }
    }
    let has = |found: &[&str], split: &str| found.iter().any(|path| parts(path).contains(split));
    match split {
        Some(split) if has(&found, split) => found.retain(|path| parts(path).contains(split)),
        Some(split) => {
            let known = SPLITS.iter().copied().filter(|split| has(&found, split)).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "its tables name none: leave `split` out".to_owned() } else { format!("there is: {known}") };
            return wrong(format!("there is no split `{split}`"), known);
        }
        None if patterns.is_empty() && has(&found, "train") => found.retain(|path| parts(path).contains("train")),
        None => {}
    }
    // Several configurations are several data sets; which one is meant, nobody but the user knows.
    let folder = |path: &&str| path.split('/').find(|part| !SPLITS.contains(part) && !["data", "audio"].contains(part)).map(str::to_owned);
    let folders: BTreeSet<String> =
        found.iter().filter(|path| path.contains('/')).filter_map(folder).filter(|part| !part.contains('.')).collect();
    if config.is_none() && patterns.is_empty() && place.reader().is_some() && folders.len() > 1 {
        let known = folders.iter().map(String::as_str).collect::<Vec<_>>();
        return wrong("there are several configurations".to_owned(), format!("name one in `config`: {}", few(&known)));
    }
    Ok(found.into_iter().map(str::to_owned).collect())
}

fn few(names: &[&str]) -> String {
    crate::data::text::first_few(names, 10)
}
