//! What a repository has: its revisions, its listings, its files.

use super::State;
use super::http::{Request, Response};
use super::repos::{Content, told};
use serde_json::{Value, json};
use std::collections::BTreeSet;

type Key = (String, String);
type Answer = Result<Response, Response>;

fn no_revision() -> Response {
    Response::refuse(404, "RevisionNotFound", "Invalid rev id")
}

impl State {
    pub(super) fn info(&mut self, key: &Key, revision: &str) -> Answer {
        let repo = &self.repos[key];
        let sha = repo.revision(revision).ok_or_else(no_revision)?;
        let siblings: Vec<Value> = repo.tree(&sha).keys().map(|path| json!({ "rfilename": path })).collect();
        let when = "2026-01-01T00:00:00.000Z";
        let mut info = json!({
            "_id": "1", "id": repo.id, "author": repo.id.split('/').next(), "sha": sha, "private": repo.private, "gated": false,
            "disabled": false, "lastModified": when, "createdAt": when, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings,
        });
        if let Some(card) = repo.tree(&sha).get("README.md") {
            let text = String::from_utf8_lossy(&self.content(card).all()).into_owned();
            let licence = text.lines().find_map(|line| line.strip_prefix("license: "));
            info["cardData"] = json!({ "license": licence });
        }
        if repo.kind == "model" {
            info["modelId"] = json!(repo.id);
        }
        if repo.kind == "space" {
            info["sdk"] = json!(repo.sdk);
        }
        Ok(Response::json(info))
    }

    pub(super) fn listing(&mut self, request: &Request, key: &Key, revision: &str, folder: &str) -> Answer {
        let repo = &self.repos[key];
        let sha = repo.revision(revision).ok_or_else(no_revision)?;
        let all = repo.tree(&sha);
        let within = if folder.is_empty() { String::new() } else { format!("{}/", folder.trim_matches('/')) };
        let deep = request.asks("recursive").is_some_and(|value| ["1", "true"].contains(&value.to_ascii_lowercase().as_str()));
        let (mut items, mut folders) = (Vec::new(), BTreeSet::new());
        for (path, entry) in all.iter().filter(|(path, _)| path.starts_with(&within)) {
            let rest = &path[within.len()..];
            for (at, _) in rest.match_indices('/').take(if deep { usize::MAX } else { 1 }) {
                let folder = format!("{within}{}", &rest[..at]);
                if folders.insert(folder.clone()) {
                    items.push(json!({ "type": "directory", "oid": super::sha256(folder.as_bytes())[..40], "size": 0, "path": folder }));
                }
            }
            if deep || !rest.contains('/') {
                items.push(told(path, entry));
            }
        }
        if items.is_empty() && !within.is_empty() {
            return Err(Response::refuse(404, "EntryNotFound", "Entry not found"));
        }
        let number = |name: &str| request.asks(name).and_then(|value| value.parse::<usize>().ok());
        let (from, count) = (number("cursor").unwrap_or(0), number("limit").unwrap_or(self.page).min(self.page));
        let page: Vec<Value> = items.iter().skip(from).take(count).cloned().collect();
        let answer = Response::json(Value::Array(page));
        if from + count >= items.len() {
            return Ok(answer);
        }
        let next = format!("<{}{}?recursive={deep}&cursor={}>; rel=\"next\"", self.address, request.path, from + count);
        Ok(answer.with("Link", next))
    }

    pub(super) fn paths(&mut self, request: &Request, key: &Key, revision: &str) -> Answer {
        let repo = &self.repos[key];
        let sha = repo.revision(revision).ok_or_else(no_revision)?;
        let tree = repo.tree(&sha);
        let paths: Vec<String> = match request.json().get("paths") {
            Some(Value::Array(paths)) => paths.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => request.form("paths"),
        };
        let told: Vec<Value> = paths
            .iter()
            .filter_map(|path| {
                let folder = format!("{}/", path.trim_end_matches('/'));
                let is_folder = || tree.keys().any(|other| other.starts_with(&folder));
                let one = tree.get(path).map(|entry| told(path, entry));
                one.or_else(|| is_folder().then(|| json!({ "type": "directory", "oid": "0".repeat(40), "size": 0, "path": path })))
            })
            .collect();
        Ok(Response::json(Value::Array(told)))
    }

    pub(super) fn refs(&mut self, key: &Key) -> Answer {
        let named = |(name, sha): (&String, &String)| json!({ "name": name, "ref": format!("refs/heads/{name}"), "targetCommit": sha });
        let repo = &self.repos[key];
        let branches: Vec<Value> = repo.branches.iter().map(named).collect();
        let tags: Vec<Value> = repo.tags.iter().map(named).collect();
        Ok(Response::json(json!({ "branches": branches, "tags": tags, "converts": [], "pullRequests": [] })))
    }

    pub(super) fn log(&mut self, key: &Key, revision: &str) -> Answer {
        let repo = &self.repos[key];
        repo.revision(revision).ok_or_else(no_revision)?;
        let told = |sha: &String| {
            let title = &repo.commits[sha].message;
            json!({ "id": sha, "title": title, "message": "", "authors": [{ "user": "alice" }], "date": "2026-01-01T00:00:00.000Z" })
        };
        Ok(Response::json(repo.history().iter().map(told).collect()))
    }

    pub(super) fn resolve(&mut self, request: &Request, key: &Key, revision: &str, path: &str) -> Answer {
        let sha = self.repos[key].revision(revision).ok_or_else(no_revision)?;
        let Some(entry) = self.repos[key].tree(&sha).get(path).cloned() else {
            return Err(Response::refuse(404, "EntryNotFound", "Entry not found").with("X-Repo-Commit", sha));
        };
        let content = self.content(&entry);
        match &entry.lfs {
            Some(lfs) => Ok(Response::bytes(302, "")
                .with("X-Repo-Commit", sha)
                .with("X-Linked-Etag", format!("\"{lfs}\""))
                .with("X-Linked-Size", entry.size.to_string())
                .with("ETag", format!("\"{lfs}\""))
                .with("Location", format!("{}/cdn/{lfs}/{path}?Expires=1", self.store).replace(' ', "%20"))),
            None => Ok(ranged(request, &content).with("X-Repo-Commit", sha).with("ETag", format!("\"{}\"", entry.oid))),
        }
    }
}

/// A file's content, or the part of it that was asked for.
pub(super) fn ranged(request: &Request, content: &Content) -> Response {
    let size = content.size();
    let Some(range) = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        // A length without the bytes, for a content that nobody could send.
        let body = if request.method == "HEAD" { vec![0; size.min(1 << 30) as usize] } else { content.all() };
        return Response::bytes(200, body).with("Accept-Ranges", "bytes");
    };
    let (from, to) = match (range.0.parse::<u64>(), range.1.parse::<u64>()) {
        (Ok(from), Ok(to)) => (from, (to + 1).min(size)),
        (Ok(from), Err(_)) => (from, size),
        (Err(_), Ok(last)) => (size.saturating_sub(last), size),
        _ => (0, size),
    };
    if from >= size || from >= to {
        return Response::bytes(416, "").with("Content-Range", format!("bytes */{size}"));
    }
    Response::bytes(206, content.slice(from..to))
        .with("Content-Range", format!("bytes {from}-{}/{size}", to - 1))
        .with("Accept-Ranges", "bytes")
}
