//! Finds the recording that a row of a table names, and never another one.
//!
//! In this order: the path as it is, relative to the table, the project or the folders of recordings; without a foreign beginning that all
//! rows of the table share (`/home/bob/corpus/`); and by file name, if the row names no folder that the file is not in. In each step the
//! ending may be another one or missing, and names that differ in case or in their Unicode form are equal unless two files do.

use crate::data::ingest::is_audio;
use crate::data::text::first_few;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use unicode_normalization::UnicodeNormalization;

/// A form in which equal names are equal: NFC and lowercase.
pub fn folded(name: &str) -> String {
    name.nfc().collect::<String>().to_lowercase()
}

/// Of several files whose names are equal when [`folded`], the one that is meant: the name as it is first, then in the same case. `None` if
/// that is not decided.
pub fn meant<'a, T: Copy>(name: &str, among: impl IntoIterator<Item = (&'a str, T)>) -> Option<T> {
    let among: Vec<(&str, T)> = among.into_iter().collect();
    let mut exact = among.iter().filter(|(other, _)| *other == name);
    if let Some((_, one)) = exact.next() {
        // Several of exactly this name differ in what is not compared: their folders or their endings.
        return exact.next().is_none().then_some(*one);
    }
    let composed: String = name.nfc().collect();
    let mut same = among.iter().filter(|(other, _)| other.nfc().collect::<String>() == composed);
    match (same.next(), same.next(), among.as_slice()) {
        (Some((_, one)), None, _) | (None, _, [(_, one)]) => Some(*one),
        _ => None,
    }
}

/// The beginning of paths that is left out in a whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignPrefix {
    parts: Vec<String>,
    /// Files that rows with other beginnings would claim too.
    contested: BTreeSet<usize>,
}

impl ForeignPrefix {
    /// As it was written, for reports.
    pub fn shown(&self) -> String {
        self.parts.join("/").replacen("//", "/", 1)
    }
}

/// Recordings by their paths.
#[derive(Debug, Default)]
pub struct FileIndex {
    files: Vec<String>,
    paths: BTreeMap<String, Vec<usize>>,
    bare_paths: BTreeMap<String, Vec<usize>>,
    names: BTreeMap<String, Vec<usize>>,
    stems: BTreeMap<String, Vec<usize>>,
    /// Absolute path of the folder that all paths are relative to.
    root: String,
}

/// A path in a row, in parts. The first one of an absolute path is `/` or a drive.
fn parts(path: &str) -> Vec<String> {
    let path = path.trim().replace('\\', "/");
    let path = path.strip_prefix("file://").unwrap_or(&path);
    let mut parts: Vec<String> = Vec::new();
    if path.starts_with('/') {
        parts.push("/".to_owned());
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| last != ".." && last != "/") => {
                parts.pop();
            }
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

fn join(base: &str, parts: &[String]) -> String {
    let rest = parts.join("/").replacen("//", "/", 1);
    if base.is_empty() || rest.starts_with('/') { rest } else { format!("{base}/{rest}") }
}

/// A path without its ending.
fn bare(path: &str) -> &str {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    path.get(name..).and_then(|file| file.rfind('.')).filter(|dot| *dot > 0).and_then(|dot| path.get(..name + dot)).unwrap_or(path)
}

/// A name as it is, without the escapes of URLs, and without the digits that Label Studio puts before the names of uploads.
fn variants(name: &str) -> Vec<String> {
    let mut found = vec![name.to_owned()];
    if let Some(decoded) = unescaped(name) {
        found.push(decoded);
    }
    let (folder, file) = name.rsplit_once(['/', '\\']).map_or(("", name), |(folder, file)| (folder, file));
    if let Some((hash, rest)) = file.split_at_checked(8)
        && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
        && let Some(rest) = rest.strip_prefix('-')
    {
        found.push(if folder.contains("upload") { rest.to_owned() } else { format!("{folder}/{rest}") });
    }
    found
}

fn unescaped(name: &str) -> Option<String> {
    if !name.contains('%') {
        return None;
    }
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok().filter(|decoded| decoded != name)
}

impl FileIndex {
    /// An index of files, by paths with `/` relative to `root`, which is an absolute path.
    pub fn new(files: impl IntoIterator<Item = String>, root: &Path) -> Self {
        let mut index = Self { files: files.into_iter().collect(), root: root.to_string_lossy().replace('\\', "/"), ..Self::default() };
        for (number, file) in index.files.iter().enumerate() {
            let path = folded(file);
            let name = path.rsplit('/').next().unwrap_or(&path);
            for (map, key) in [
                (&mut index.bare_paths, bare(&path)),
                (&mut index.names, name),
                (&mut index.stems, bare(name)),
                (&mut index.paths, path.as_str()),
            ] {
                map.entry(key.to_owned()).or_default().push(number);
            }
        }
        index
    }

    /// The path of a file.
    pub fn path(&self, number: usize) -> &str {
        self.files.get(number).map_or("", String::as_str)
    }

    /// Whether a text is the name of a file, with or without its folder and ending.
    pub fn knows(&self, name: &str) -> bool {
        let parts = parts(name);
        let Some(last) = parts.last() else { return false };
        let name = folded(last);
        self.names.contains_key(&name)
            || self.stems.contains_key(&name)
            || is_audio(Path::new(last)) && self.stems.contains_key(bare(&name))
    }

    /// One of several files with equal names.
    fn choose(&self, key: &str, found: &[usize], is_bare: bool) -> Option<Result<usize, String>> {
        match found {
            [] => None,
            [one] => Some(Ok(*one)),
            several => {
                let names = several.iter().map(|number| {
                    let path = self.path(*number);
                    (if is_bare { bare(path) } else { path }, *number)
                });
                Some(meant(key, names).ok_or_else(|| self.ambiguous(several)))
            }
        }
    }

    fn ambiguous(&self, several: &[usize]) -> String {
        let names: Vec<&str> = several.iter().map(|number| self.path(*number)).collect();
        format!("fits {} files: {}", names.len(), first_few(&names, 3))
    }

    /// The file at a path below one of the bases; the first group of bases that has one counts.
    fn at(&self, parts: &[String], bases: &[Vec<String>], without_ending: bool) -> Option<Result<usize, String>> {
        let map = if without_ending { &self.bare_paths } else { &self.paths };
        for group in bases {
            let mut found: BTreeMap<usize, String> = BTreeMap::new();
            let mut wrong = None;
            for base in group {
                let mut path = join(base, parts);
                if path.contains("/../") || path.starts_with("../") {
                    path = join("", &self::parts(&path));
                }
                let path = if without_ending && is_audio(Path::new(&path)) { bare(&path).to_owned() } else { path };
                let hits = map.get(&folded(&path)).map_or(&[][..], Vec::as_slice);
                match self.choose(&path, hits, without_ending) {
                    Some(Ok(number)) => drop(found.insert(number, path)),
                    Some(Err(reason)) => wrong = Some(Err(reason)),
                    None => {}
                }
            }
            if wrong.is_some() {
                return wrong;
            }
            let found: Vec<usize> = found.into_keys().collect();
            match found.as_slice() {
                [] => {}
                [one] => return Some(Ok(*one)),
                several => return Some(Err(self.ambiguous(several))),
            }
        }
        None
    }

    fn at_any(&self, parts: &[String], bases: &[Vec<String>]) -> Option<Result<usize, String>> {
        self.at(parts, bases, false).or_else(|| self.at(parts, bases, true))
    }

    /// The parts of a path, relative to the root if it is below it.
    fn relative(&self, name: &str) -> Vec<String> {
        let all = parts(name);
        let root = parts(&self.root);
        if !self.root.is_empty() && all.len() > root.len() && all.starts_with(&root) { all[root.len()..].to_vec() } else { all }
    }

    /// The beginning that the paths of a table have too much, if that is so for most of them.
    pub fn foreign_prefix<'a>(&self, names: impl Iterator<Item = &'a str> + Clone, bases: &[Vec<String>]) -> Option<ForeignPrefix> {
        let (mut direct, mut all) = (0_usize, 0_usize);
        let mut votes: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        for name in names.clone() {
            let parts = self.relative(name);
            all += 1;
            if matches!(self.at_any(&parts, bases), Some(Ok(_))) {
                direct += 1;
                continue;
            }
            for cut in 1..parts.len() {
                if matches!(self.at_any(&parts[cut..], bases), Some(Ok(_))) {
                    *votes.entry(parts[..cut].to_vec()).or_default() += 1;
                }
            }
        }
        let (prefix, number) = votes.into_iter().max_by_key(|(prefix, number)| (*number, std::cmp::Reverse(prefix.len())))?;
        let starts = |name: &str| self.relative(name).starts_with(&prefix);
        let covered = names.clone().filter(|name| starts(name)).count();
        if number <= direct || covered * 2 <= all {
            return None;
        }
        let mut found = ForeignPrefix { parts: prefix.clone(), contested: BTreeSet::new() };
        if covered < all {
            let claimed = |parts: &[String]| match self.at_any(parts, bases) {
                Some(Ok(number)) => Some(number),
                _ => None,
            };
            let own: BTreeSet<usize> =
                names.clone().filter(|name| starts(name)).filter_map(|name| claimed(&self.relative(name)[prefix.len()..])).collect();
            for name in names.filter(|name| !starts(name)) {
                let parts = self.relative(name);
                if claimed(&parts).is_none() {
                    found.contested.extend((1..parts.len()).filter_map(|cut| claimed(&parts[cut..])).filter(|number| own.contains(number)));
                }
            }
        }
        Some(found)
    }

    /// The file that a row names, or the reason why there is no such file or no single one. `bases` are the folders that paths may be
    /// relative to, in groups of equal rank.
    pub fn find(&self, name: &str, bases: &[Vec<String>], prefix: Option<&ForeignPrefix>) -> Result<usize, String> {
        let mut reason = None;
        for variant in variants(name) {
            match self.find_as_written(&variant, bases, prefix) {
                Ok(number) => return Ok(number),
                Err(why) => reason = reason.or(Some(why)),
            }
        }
        Err(reason.unwrap_or_else(|| "no file of that name".to_owned()))
    }

    fn find_as_written(&self, name: &str, bases: &[Vec<String>], prefix: Option<&ForeignPrefix>) -> Result<usize, String> {
        let all = self.relative(name);
        let Some(file) = all.last() else { return Err("no file of that name".to_owned()) };
        let stripped = prefix.filter(|prefix| all.len() > prefix.parts.len() && all.starts_with(&prefix.parts));
        let rest = stripped.map_or(&all[..], |prefix| &all[prefix.parts.len()..]);
        let is_own = |number: usize| match stripped {
            Some(prefix) if prefix.contested.contains(&number) => Err(format!("rows with other folders name `{}` too", self.path(number))),
            _ => Ok(number),
        };
        for without_ending in [false, true] {
            if let Some(found) = self.at(&all, bases, without_ending) {
                return found;
            }
            if let Some(found) = self.at(rest, bases, without_ending).filter(|_| stripped.is_some()) {
                return found.and_then(is_own);
            }
        }
        let folders = &rest[..rest.len() - 1];
        let stem = if is_audio(Path::new(file)) { bare(file) } else { file.as_str() };
        let mut elsewhere = None;
        for (map, key, is_bare) in [(&self.names, file.as_str(), false), (&self.stems, stem, true)] {
            let hits = map.get(&folded(key)).map_or(&[][..], Vec::as_slice);
            elsewhere = elsewhere.or(hits.first());
            let inside: Vec<usize> = hits.iter().copied().filter(|number| self.is_in(*number, folders)).collect();
            let names = inside.iter().map(|number| {
                let name = self.path(*number).rsplit('/').next().unwrap_or_default();
                (if is_bare { bare(name) } else { name }, *number)
            });
            // Files of one name in several folders are not told apart by their case.
            let same = names.clone().filter(|(name, _)| *name == key).count();
            match inside.as_slice() {
                [] => {}
                [one] => return is_own(*one),
                several if same > 1 => return Err(self.ambiguous(several)),
                several => return meant(key, names).ok_or_else(|| self.ambiguous(several)),
            }
        }
        Err(match elsewhere {
            Some(other) => format!("no file of that name in its folder; `{}` is in another folder", self.path(*other)),
            None => "no file of that name".to_owned(),
        })
    }

    /// Whether the folders of a file end with these.
    fn is_in(&self, number: usize, folders: &[String]) -> bool {
        let path = parts(self.path(number));
        let own = &path[..path.len().saturating_sub(1)];
        let same = |(a, b): (&String, &String)| folded(a) == folded(b);
        folders.len() <= own.len() && own.iter().rev().zip(folders.iter().rev()).all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each row of a table finds, in a project with a table at its root and recordings in `clips`.
    fn found(files: &[&str], rows: &[&str]) -> Vec<String> {
        let index = FileIndex::new(files.iter().map(|file| (*file).to_owned()), Path::new("/home/me/project"));
        let bases = [vec![String::new()], vec!["clips".to_owned()]];
        let prefix = index.foreign_prefix(rows.iter().copied(), &bases);
        let find = |row: &&str| match index.find(row, &bases, prefix.as_ref()) {
            Ok(number) => index.path(number).to_owned(),
            Err(reason) => format!("! {reason}"),
        };
        rows.iter().map(find).collect()
    }

    #[test]
    fn a_row_finds_its_file_and_no_other() {
        let elsewhere = |file: &str| format!("! no file of that name in its folder; `{file}` is in another folder");
        let none = "! no file of that name".to_owned();
        for (files, rows, expected) in [
            (&["clips/spkA/001.wav"][..], &["spkB/001.wav"][..], &[elsewhere("clips/spkA/001.wav")][..]),
            (&["clips/spkA/001.wav"], &["001.wav"], &["clips/spkA/001.wav".to_owned()]),
            (&["clips/x/spkA/001.wav"], &["spkA/001.wav", "spkA/1"], &["clips/x/spkA/001.wav".to_owned(), none.clone()]),
            (&["clips/a.wav", "clips/x/a.wav"], &["a.wav"], &["clips/a.wav".to_owned()]),
            (
                &["clips/x/a.wav", "clips/y/a.wav"],
                &["a.wav", "x/a"],
                &["! fits 2 files: `clips/x/a.wav`, `clips/y/a.wav`".to_owned(), "clips/x/a.wav".to_owned()],
            ),
            // One foreign beginning for the whole table.
            (
                &["clips/001.wav", "clips/spkA/001.wav"],
                &["/data/corpus/spkA/001.wav", "/data/corpus/spkB/001.wav"],
                &["clips/spkA/001.wav".to_owned(), elsewhere("clips/001.wav")],
            ),
            (
                &["clips/a.wav", "clips/b.wav"],
                &["C:\\data\\a.wav", "C:\\data\\b.mp3", "c:\\other\\a.wav"],
                &["! rows with other folders name `clips/a.wav` too".to_owned(), "clips/b.wav".to_owned(), elsewhere("clips/a.wav")],
            ),
            (&["clips/001.wav"], &["spkA/001.wav", "spkB/001.wav"], &[elsewhere("clips/001.wav"), elsewhere("clips/001.wav")]),
            (
                &["clips/001.wav", "clips/spkA/2.wav"],
                &["spkA/2.wav", "spkB/001.wav"],
                &["clips/spkA/2.wav".to_owned(), elsewhere("clips/001.wav")],
            ),
            (&["clips/a.wav"], &["/home/me/project/clips/a.wav", "../x/a.wav"], &["clips/a.wav".to_owned(), elsewhere("clips/a.wav")]),
            // Endings, Unicode and case.
            (
                &["clips/a.wav", "clips/a.flac"],
                &["a.mp3", "a.flac"],
                &["! fits 2 files: `clips/a.wav`, `clips/a.flac`".to_owned(), "clips/a.flac".to_owned()],
            ),
            (
                &["clips/e\u{301}t\u{e9}.wav"],
                &["\u{e9}te\u{301}", "ÉTÉ.WAV"],
                &["clips/e\u{301}t\u{e9}.wav".to_owned(), "clips/e\u{301}t\u{e9}.wav".to_owned()],
            ),
            (&["clips/A.wav", "clips/a.wav"], &["a.wav", "A.wav"], &["clips/a.wav".to_owned(), "clips/A.wav".to_owned()]),
            (&["clips/Ab.wav", "clips/aB.wav"], &["ab.wav"], &["! fits 2 files: `clips/Ab.wav`, `clips/aB.wav`".to_owned()]),
            (&["clips/a b.wav"], &["a%20b.wav", "clips/a%20b"], &["clips/a b.wav".to_owned(), "clips/a b.wav".to_owned()]),
            (&["clips/50%20x.wav"], &["50%20x.wav"], &["clips/50%20x.wav".to_owned()]),
            (&["clips/a.wav"], &["/data/upload/1/0a1b2c3d-a.wav"], &["clips/a.wav".to_owned()]),
            (&["clips/v1.2.wav"], &["v1.2", "v1.2.wav"], &["clips/v1.2.wav".to_owned(), "clips/v1.2.wav".to_owned()]),
            (&["clips/a.wav"], &["", "/", ".."], &[none.clone(), none.clone(), none]),
        ] {
            assert_eq!(found(files, rows), expected, "{rows:?} in {files:?}");
        }
    }
}
