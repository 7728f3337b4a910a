//! Large files, put where a Hub's LFS server says: in one piece, or in parts.
//!
//! What the server has already is not sent. Parts that arrived are noted in a folder of ours, so that an upload that was cut goes on with
//! the next part; the note holds signed addresses, so only its owner can read it, and it goes when the file is there.

use super::RepoId;
use super::client::HubClient;
use super::publish::LocalFile;
use super::wire::{Ask, Body, Method, OnProgress, Trouble};
use crate::error::{Error, Result, ResultExt};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Files in one question.
const AT_ONCE: usize = 100;
const BINARY: &str = "application/octet-stream";

/// An upload in parts under way.
#[derive(Debug, Serialize, Deserialize)]
struct Parts {
    /// Where it is said that all parts are there.
    href: String,
    size: u64,
    /// Where each part goes.
    to: Vec<String>,
    /// The store's name for each part that arrived, by its number, from 1.
    stored: BTreeMap<usize, String>,
    verify: Option<String>,
}

impl HubClient {
    /// Sees to it that the server has these files; returns the bytes it was sent.
    pub(super) fn upload(&self, place: &RepoId, files: &[&LocalFile], notes: &Path, voice: &OnProgress<'_>) -> Result<u64> {
        let total = files.iter().map(|file| file.size).sum();
        let (mut done, mut sent) = (0, 0);
        for chunk in files.chunks(AT_ONCE) {
            for file in chunk.iter().copied() {
                if let Some(parts) = Parts::read(&note(notes, file)) {
                    // Signed addresses grow old; then it is asked anew.
                    match self.parts(file, parts, notes, voice, (done, total)) {
                        Ok(bytes) => sent += bytes,
                        Err(Trouble::Refused(..)) => drop(fs::remove_file(note(notes, file))),
                        Err(trouble) => return Err(self.failed(trouble, file, place)),
                    }
                }
            }
            for object in self.batch(place, chunk, voice)? {
                let oid = object["oid"].as_str().unwrap_or_default();
                let Some(file) = chunk.iter().copied().find(|file| file.sha256 == oid) else { continue };
                if let Some(words) = object["error"]["message"].as_str() {
                    let code = object["error"]["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(422);
                    return Err(self.failed(Trouble::Refused(code, words.to_owned(), None), file, place));
                }
                (voice.progress)(done, total, &file.path);
                if object["actions"]["upload"].is_object() {
                    sent += self.twice(place, file, &object["actions"], notes, voice, (done, total))?;
                }
                done += file.size;
                (voice.progress)(done, total, &file.path);
            }
        }
        Ok(sent)
    }

    /// Sends a file; if it is refused, asks once more what is to be done: the answer that it had arrived may have been lost, or its
    /// address has grown old.
    fn twice(
        &self,
        place: &RepoId,
        file: &LocalFile,
        actions: &Value,
        notes: &Path,
        voice: &OnProgress<'_>,
        so_far: (u64, u64),
    ) -> Result<u64> {
        match self.one(file, actions, notes, voice, so_far) {
            Ok(bytes) => return Ok(bytes),
            Err(Trouble::Refused(400..=499, ..)) => drop(fs::remove_file(note(notes, file))),
            Err(trouble) => return Err(self.failed(trouble, file, place)),
        }
        match self.batch(place, &[file], voice)?.first() {
            Some(object) if object["actions"]["upload"].is_object() => {
                self.one(file, &object["actions"], notes, voice, so_far).map_err(|trouble| self.failed(trouble, file, place))
            }
            _ => Ok(file.size),
        }
    }

    fn failed(&self, trouble: Trouble, file: &LocalFile, place: &RepoId) -> Error {
        self.wire.explain(trouble, &format!("upload {} to `{}`", file.path, place))
    }

    /// What the server wants done with each file.
    fn batch(&self, place: &RepoId, files: &[&LocalFile], voice: &OnProgress<'_>) -> Result<Vec<Value>> {
        let objects: Vec<Value> = files.iter().map(|file| json!({ "oid": file.sha256, "size": file.size })).collect();
        let asked = json!({ "operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, "hash_algo": "sha256" });
        let path = format!("/{}.git/info/lfs/objects/batch", place.path());
        let what = || format!("upload large files to `{}`", place);
        let told = self.json(Method::POST, &path, Some(asked), voice).map_err(|trouble| self.wire.explain(trouble, &what()))?;
        let objects = told["objects"].as_array().filter(|objects| objects.len() == files.len()).cloned();
        objects.ok_or_else(|| {
            Error::new(format!("cannot {}: the server does not say what to do with each of {} files", what(), files.len())).environment()
        })
    }

    /// Sends a file as the server asked; says how many bytes.
    fn one(&self, file: &LocalFile, actions: &Value, notes: &Path, voice: &OnProgress<'_>, so_far: (u64, u64)) -> Result<u64, Trouble> {
        let upload = &actions["upload"];
        let href = upload["href"].as_str().unwrap_or_default().to_owned();
        let verify = actions["verify"]["href"].as_str().map(str::to_owned);
        let header = &upload["header"];
        let size = header["chunk_size"].as_str().and_then(|size| size.parse().ok()).or_else(|| header["chunk_size"].as_u64());
        let Some(size) = size.filter(|size| *size > 0) else {
            let ask = Ask { method: Method::PUT, url: href, body: Body::File(&file.from, 0..file.size, BINARY) };
            self.wire.send(&ask, voice)?;
            self.verify(file, verify, voice)?;
            return Ok(file.size);
        };
        let numbered =
            header.as_object().into_iter().flatten().filter_map(|(name, url)| Some((name.parse::<usize>().ok()?, url.as_str()?)));
        let to: BTreeMap<usize, &str> = numbered.collect();
        let parts = Parts { href, size, to: to.into_values().map(str::to_owned).collect(), stored: BTreeMap::new(), verify };
        self.parts(file, parts, notes, voice, so_far)
    }

    fn parts(&self, file: &LocalFile, mut parts: Parts, notes: &Path, voice: &OnProgress<'_>, so_far: (u64, u64)) -> Result<u64, Trouble> {
        let note = note(notes, file);
        if parts.to.len() as u64 != file.size.div_ceil(parts.size) {
            let wrong =
                format!("{} has {} bytes, and the server asks for {} parts of {}", file.path, file.size, parts.to.len(), parts.size);
            return Err(Trouble::Here(Error::new(wrong).environment()));
        }
        let mut sent = 0;
        for (number, url) in parts.to.clone().into_iter().enumerate().map(|(at, url)| (at + 1, url)) {
            let from = (number as u64 - 1) * parts.size;
            let range = from..(from + parts.size).min(file.size);
            if parts.stored.contains_key(&number) {
                continue;
            }
            let ask = Ask { method: Method::PUT, url, body: Body::File(&file.from, range.clone(), BINARY) };
            let answer = self.wire.send(&ask, voice)?;
            let tag = answer.headers.get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
            sent += range.end - range.start;
            (voice.progress)(so_far.0 + range.end, so_far.1, &file.path);
            parts.stored.insert(number, tag);
            parts.write(&note).map_err(Trouble::Here)?;
        }
        let stored: Vec<Value> = parts.stored.iter().map(|(number, tag)| json!({ "partNumber": number, "etag": tag })).collect();
        let body = Body::Json(json!({ "oid": file.sha256, "parts": stored }));
        self.wire.send(&Ask { method: Method::POST, url: parts.href, body }, voice)?;
        self.verify(file, parts.verify, voice)?;
        let _ = fs::remove_file(note);
        Ok(sent)
    }

    fn verify(&self, file: &LocalFile, href: Option<String>, voice: &OnProgress<'_>) -> Result<(), Trouble> {
        let Some(url) = href else { return Ok(()) };
        let body = Body::Json(json!({ "oid": file.sha256, "size": file.size }));
        self.wire.send(&Ask { method: Method::POST, url, body }, voice).map(drop)
    }
}

fn note(notes: &Path, file: &LocalFile) -> PathBuf {
    notes.join(format!("{}.parts", file.sha256))
}

impl Parts {
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    fn write(&self, path: &Path) -> Result<()> {
        let doing = || format!("cannot write `{}`", path.display());
        let part = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).with_context(doing)?;
        file.write_all(&serde_json::to_vec(self)?).with_context(doing)?;
        fs::rename(&part, path).with_context(doing)
    }
}
