//! Uploads of large files by Git LFS: in one piece, or in parts, as the server asks.
//!
//! Files that the server already has are not sent. Finished parts are recorded in a file, so that an interrupted upload continues with the
//! next part. That file holds signed addresses, so only its owner can read it; it is removed when the upload is complete.

use super::RepoId;
use super::client::HubClient;
use super::http::{Body, HttpError, Method, Progress, Request};
use super::publish::LocalFile;
use crate::error::{Error, Result, ResultExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use voxpipe_io::write::{Durability, write_atomic_with};

/// Files in one `batch` request.
const BATCH: usize = 100;
const BINARY: &str = "application/octet-stream";

/// The state of an upload in parts.
#[derive(Debug, Serialize, Deserialize)]
struct Parts {
    /// The address to report to when all parts are uploaded.
    href: String,
    size: u64,
    /// The address for each part.
    to: Vec<String>,
    /// The ETag of each uploaded part, by its number, from 1.
    stored: BTreeMap<usize, String>,
    verify: Option<String>,
}

impl HubClient {
    /// Uploads the files that the server lacks; returns the number of bytes sent.
    pub(super) fn upload(&self, repo: &RepoId, files: &[&LocalFile], state_dir: &Path, progress: &Progress<'_>) -> Result<u64> {
        let total = files.iter().map(|file| file.size).sum();
        let (mut done, mut sent) = (0, 0);
        for chunk in files.chunks(BATCH) {
            for file in chunk.iter().copied() {
                if let Some(parts) = Parts::read(&state_file(state_dir, file)) {
                    // Signed addresses expire; then new ones are requested below.
                    match self.upload_parts(file, parts, state_dir, progress, (done, total)) {
                        Ok(bytes) => sent += bytes,
                        Err(HttpError::Status { .. }) => drop(fs::remove_file(state_file(state_dir, file))),
                        Err(error) => return Err(self.failed(error, file, repo)),
                    }
                }
            }
            for object in self.batch(repo, chunk, progress)? {
                let oid = object["oid"].as_str().unwrap_or_default();
                let Some(file) = chunk.iter().copied().find(|file| file.sha256 == oid) else { continue };
                if let Some(message) = object["error"]["message"].as_str() {
                    let code = object["error"]["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(422);
                    return Err(self.failed(HttpError::status(code, message), file, repo));
                }
                (progress.bytes)(done, total, &file.path);
                if object["actions"]["upload"].is_object() {
                    sent += self.upload_one(repo, file, &object["actions"], state_dir, progress, (done, total))?;
                }
                done += file.size;
                (progress.bytes)(done, total, &file.path);
            }
        }
        Ok(sent)
    }

    /// Uploads a file. If it is refused, asks once more what to do: the response to an earlier upload may have been lost, or the address
    /// may have expired.
    fn upload_one(
        &self,
        repo: &RepoId,
        file: &LocalFile,
        actions: &Value,
        state_dir: &Path,
        progress: &Progress<'_>,
        done: (u64, u64),
    ) -> Result<u64> {
        match self.try_upload(file, actions, state_dir, progress, done) {
            Ok(bytes) => return Ok(bytes),
            Err(HttpError::Status { status: 400..=499, .. }) => drop(fs::remove_file(state_file(state_dir, file))),
            Err(error) => return Err(self.failed(error, file, repo)),
        }
        match self.batch(repo, &[file], progress)?.first() {
            Some(object) if object["actions"]["upload"].is_object() => {
                self.try_upload(file, &object["actions"], state_dir, progress, done).map_err(|error| self.failed(error, file, repo))
            }
            _ => Ok(file.size),
        }
    }

    fn failed(&self, error: HttpError, file: &LocalFile, repo: &RepoId) -> Error {
        self.cannot(&format!("upload {} to `{repo}`", file.path), error)
    }

    /// What the server asks to do with each file.
    fn batch(&self, repo: &RepoId, files: &[&LocalFile], progress: &Progress<'_>) -> Result<Vec<Value>> {
        let objects: Vec<Value> = files.iter().map(|file| json!({ "oid": file.sha256, "size": file.size })).collect();
        let asked = json!({ "operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, "hash_algo": "sha256" });
        let path = format!("/{}.git/info/lfs/objects/batch", repo.path());
        let what = || format!("upload large files to `{repo}`");
        let response = self.post(&path, asked, progress).map_err(|error| self.cannot(&what(), error))?;
        let objects = response["objects"].as_array().filter(|objects| objects.len() == files.len()).cloned();
        objects
            .ok_or_else(|| Error::new(format!("cannot {}: the server does not list each of {} files", what(), files.len())).environment())
    }

    /// Uploads a file as the server asks; returns the number of bytes sent.
    fn try_upload(
        &self,
        file: &LocalFile,
        actions: &Value,
        state_dir: &Path,
        progress: &Progress<'_>,
        done: (u64, u64),
    ) -> Result<u64, HttpError> {
        let upload = &actions["upload"];
        let href = upload["href"].as_str().unwrap_or_default().to_owned();
        let verify = actions["verify"]["href"].as_str().map(str::to_owned);
        let header = &upload["header"];
        let size = header["chunk_size"].as_str().and_then(|size| size.parse().ok()).or_else(|| header["chunk_size"].as_u64());
        let Some(size) = size.filter(|size| *size > 0) else {
            let request = Request::new(Method::PUT, href, Body::File(&file.from, 0..file.size, BINARY));
            self.http.send(&request, progress)?;
            self.verify(file, verify, progress)?;
            return Ok(file.size);
        };
        let numbered =
            header.as_object().into_iter().flatten().filter_map(|(name, url)| Some((name.parse::<usize>().ok()?, url.as_str()?)));
        let to: BTreeMap<usize, &str> = numbered.collect();
        let parts = Parts { href, size, to: to.into_values().map(str::to_owned).collect(), stored: BTreeMap::new(), verify };
        self.upload_parts(file, parts, state_dir, progress, done)
    }

    fn upload_parts(
        &self,
        file: &LocalFile,
        mut parts: Parts,
        state_dir: &Path,
        progress: &Progress<'_>,
        done: (u64, u64),
    ) -> Result<u64, HttpError> {
        let state = state_file(state_dir, file);
        if parts.to.len() as u64 != file.size.div_ceil(parts.size) {
            let wrong =
                format!("{} has {} bytes, and the server asks for {} parts of {}", file.path, file.size, parts.to.len(), parts.size);
            return Err(HttpError::Local(Error::new(wrong).environment()));
        }
        let mut sent = 0;
        for (number, url) in parts.to.clone().into_iter().enumerate().map(|(at, url)| (at + 1, url)) {
            let from = (number as u64 - 1) * parts.size;
            let range = from..(from + parts.size).min(file.size);
            if parts.stored.contains_key(&number) {
                continue;
            }
            let request = Request::new(Method::PUT, url, Body::File(&file.from, range.clone(), BINARY));
            let response = self.http.send(&request, progress)?;
            let tag = response.header("etag").unwrap_or_default().to_owned();
            sent += range.end - range.start;
            (progress.bytes)(done.0 + range.end, done.1, &file.path);
            parts.stored.insert(number, tag);
            parts.write(&state).map_err(HttpError::Local)?;
        }
        let stored: Vec<Value> = parts.stored.iter().map(|(number, tag)| json!({ "partNumber": number, "etag": tag })).collect();
        let body = Body::Json(json!({ "oid": file.sha256, "parts": stored }));
        self.http.send(&Request::new(Method::POST, parts.href, body), progress)?;
        self.verify(file, parts.verify, progress)?;
        let _ = fs::remove_file(state);
        Ok(sent)
    }

    fn verify(&self, file: &LocalFile, href: Option<String>, progress: &Progress<'_>) -> Result<(), HttpError> {
        let Some(url) = href else { return Ok(()) };
        let body = Body::Json(json!({ "oid": file.sha256, "size": file.size }));
        self.http.send(&Request::new(Method::POST, url, body), progress).map(drop)
    }
}

fn state_file(state_dir: &Path, file: &LocalFile) -> PathBuf {
    state_dir.join(format!("{}.parts", file.sha256))
}

impl Parts {
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    fn write(&self, path: &Path) -> Result<()> {
        let writing = || format!("cannot write `{}`", path.display());
        let state = serde_json::to_vec(self)?;
        write_atomic_with(path, Durability::ProcessEnd, |file| {
            // The addresses in it let anybody upload for a while.
            file.set_permissions(fs::Permissions::from_mode(0o600)).and_then(|()| file.write_all(&state)).with_context(writing)
        })
    }
}
