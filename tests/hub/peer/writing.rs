//! Making repositories and changing them.

use super::api::User;
use super::http::{Request, Response, decoded};
use super::repos::{Content, Entry, Repo, is_large, pointer};
use super::{State, git_oid};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;

type Key = (String, String);
type Answer = Result<Response, Response>;

fn bad(message: &str) -> Response {
    Response::refuse(400, "", message)
}

impl State {
    pub(super) fn whoami(request: &Request) -> Answer {
        let name = Self::known(request)?;
        let User::Known(_, role) = Self::user(request) else { return Err(bad("nobody")) };
        let mut token = json!({ "displayName": "t", "role": role, "createdAt": "2026-01-01T00:00:00.000Z" });
        if role == "fineGrained" {
            token["fineGrained"] = json!({ "canReadGatedRepos": false, "global": [], "scoped": [
                { "entity": { "_id": "1", "type": "model", "name": "alice/allowed" }, "permissions": ["repo.content.read", "repo.write"] },
            ] });
        }
        let orgs = if name == "alice" {
            json!([{ "type": "org", "id": "o1", "name": "acme", "fullname": "Acme", "roleInOrg": "write" }])
        } else {
            json!([])
        };
        Ok(Response::json(json!({
            "type": "user", "id": format!("u-{name}"), "name": name, "fullname": name, "email": format!("{name}@example.org"),
            "emailVerified": true, "isPro": false, "canPay": false, "avatarUrl": "", "periodEnd": null, "orgs": orgs,
            "auth": { "type": "access_token", "accessToken": token },
        })))
    }

    pub(super) fn create(&mut self, request: &Request) -> Answer {
        let asked = request.json();
        let user = Self::known(request)?;
        let owner = asked["organization"].as_str().unwrap_or(user);
        let name = asked["name"].as_str().unwrap_or_default();
        let id = if name.contains('/') { name.to_owned() } else { format!("{owner}/{name}") };
        Self::may_write(request, &id)?;
        let name = id.rsplit('/').next().unwrap_or_default();
        let sound = !name.is_empty() && name.len() <= 96 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !sound || name.contains("..") || name.contains("--") {
            return Err(bad("Invalid repo name"));
        }
        let kind = asked["type"].as_str().unwrap_or("model");
        let key = (kind.to_owned(), id.clone());
        if let Some(repo) = self.repos.get(&key) {
            let mut answer = Response::refuse(409, "", "You already created this repo");
            answer.body = json!({ "error": "You already created this repo", "url": repo.url(&self.address) }).to_string().into_bytes();
            return Err(answer);
        }
        let sdk = asked["sdk"].as_str().map(str::to_owned);
        if kind == "space" {
            match sdk.as_deref() {
                None => return Err(bad("\"sdk\" is required")),
                Some("static") => {}
                Some(_) if self.free_user => return Err(Response::refuse(402, "", "Payment required: a PRO subscription is needed")),
                Some(_) => {}
            }
        }
        let private = asked["visibility"].as_str().map_or_else(|| asked["private"] == true, |visibility| visibility == "private");
        // Every new Space has a page that says how to fill it.
        let mut tree = BTreeMap::new();
        if let Some(sdk) = &sdk {
            tree.insert("README.md".to_owned(), self.store("README.md", format!("---\nsdk: {sdk}\n---\n").into_bytes().into()));
        }
        let mut repo = Repo::new(kind, &id, private, sdk, tree);
        if let Some(hardware) = asked["hardware"].as_str() {
            hardware.clone_into(&mut repo.hardware);
        }
        let url = repo.url(&self.address);
        self.repos.insert(key, repo);
        Ok(Response::json(json!({ "url": url, "name": id, "id": format!("id-{id}") })))
    }

    pub(super) fn delete(&mut self, request: &Request) -> Answer {
        let asked = request.json();
        let user = Self::known(request)?;
        let id = format!("{}/{}", asked["organization"].as_str().unwrap_or(user), asked["name"].as_str().unwrap_or_default());
        Self::may_write(request, &id)?;
        let gone = self.repos.remove(&(asked["type"].as_str().unwrap_or("model").to_owned(), id));
        gone.map(|_| Response::bytes(200, "")).ok_or_else(|| Response::refuse(404, "RepoNotFound", "Repository not found"))
    }

    /// As much of YAML as a mistake in it shows: a front matter whose lines have no colon.
    pub(super) fn validate(request: &Request) -> Response {
        let asked = request.json();
        let text = asked["content"].as_str().unwrap_or_default();
        let errors = if text.starts_with("---\n") { json!([]) } else { json!([{ "message": "there is no metadata" }]) };
        Response::json(json!({ "errors": errors, "warnings": [] }))
    }

    pub(super) fn preupload(&mut self, request: &Request, key: &Key, revision: &str) -> Answer {
        let repo = &self.repos[key];
        let sha = repo.revision(&decoded(revision)).ok_or_else(|| Response::refuse(404, "RevisionNotFound", "Invalid rev id"))?;
        let tree = repo.tree(&sha);
        let mut files = Vec::new();
        for file in request.json()["files"].as_array().into_iter().flatten() {
            let (path, size) = (file["path"].as_str().unwrap_or_default(), file["size"].as_u64().unwrap_or(0));
            let sample = file["sample"].as_str().and_then(|sample| STANDARD.decode(sample).ok());
            sample.ok_or_else(|| bad("no sample"))?;
            let large = (is_large(path) || size > self.lfs_from) && size > 0;
            let oid = tree.get(path).map(|entry| entry.oid.clone());
            files.push(json!({ "path": path, "uploadMode": if large { "lfs" } else { "regular" }, "shouldIgnore": false, "oid": oid }));
        }
        Ok(Response::json(json!({ "files": files, "commitOid": sha })))
    }

    pub(super) fn commit(&mut self, request: &Request, key: &Key, revision: &str) -> Answer {
        let branch = decoded(revision);
        let Some(before) = self.repos[key].branches.get(&branch).cloned() else {
            return Err(Response::refuse(404, "RevisionNotFound", "Invalid rev id"));
        };
        if !request.header("content-type").is_some_and(|kind| kind.starts_with("application/x-ndjson")) {
            return Err(bad("content type must be application/x-ndjson"));
        }
        let old = self.repos[key].tree(&before);
        let (mut tree, mut header) = (old.clone(), Value::Null);
        for line in request.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).map_err(|_| bad("a line is no JSON"))?;
            let value = &line["value"];
            let path = value["path"].as_str().unwrap_or_default().to_owned();
            match line["key"].as_str() {
                Some("header") => header = value.clone(),
                Some("file") => {
                    let text = value["content"].as_str().unwrap_or_default();
                    let bytes = if value["encoding"] == "base64" {
                        STANDARD.decode(text).map_err(|_| bad("no base64"))?
                    } else {
                        text.as_bytes().to_vec()
                    };
                    if is_large(&path) && !bytes.is_empty() {
                        return Err(bad("Your push was rejected because it contains binary files"));
                    }
                    let oid = git_oid(&bytes);
                    let size = bytes.len() as u64;
                    self.blobs.insert(oid.clone(), Content::from(bytes));
                    tree.insert(path, Entry { oid, size, lfs: None });
                }
                Some("lfsFile") => {
                    let lfs = value["oid"].as_str().unwrap_or_default().to_owned();
                    let size = self.lfs.get(&lfs).ok_or_else(|| bad("LFS pointer pointed to a file that does not exist"))?.size();
                    tree.insert(path, Entry { oid: git_oid(pointer(&lfs, size).as_bytes()), size, lfs: Some(lfs) });
                }
                Some("deletedFile") => {
                    tree.remove(&path).ok_or_else(|| Response::refuse(404, "EntryNotFound", "entry not found"))?;
                }
                Some("deletedFolder") => tree.retain(|other, _| !other.starts_with(&format!("{}/", path.trim_end_matches('/')))),
                _ => return Err(bad("what is that")),
            }
        }
        let summary = header["summary"].as_str().filter(|summary| !summary.is_empty()).ok_or_else(|| bad("missing header"))?;
        if header["parentCommit"].as_str().is_some_and(|parent| parent != before) {
            return Err(Response::refuse(412, "", "A commit has happened since. Please refresh and try again."));
        }
        let colour_is_wrong = |text: &str| {
            let known = ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"];
            text.lines().filter_map(|line| line.strip_prefix("colorFrom:")).any(|colour| !known.contains(&colour.trim()))
        };
        if key.0 == "space"
            && let Some(card) = tree.get("README.md")
            && colour_is_wrong(&String::from_utf8_lossy(&self.content(card).all()))
        {
            return Err(bad("\"colorFrom\" must be one of [red, yellow, green, blue, indigo, purple, pink, gray]"));
        }
        let repo = self.repo(&key.0, &key.1);
        let sha = if tree == old { before } else { repo.commit(&branch, tree, summary) };
        if repo.kind == "space" && repo.stages.len() == 1 {
            repo.stages = vec!["BUILDING".to_owned(), "RUNNING".to_owned()];
        }
        let url = format!("{}/commit/{sha}", self.repos[key].url(&self.address));
        Ok(Response::json(json!({ "success": true, "commitOid": sha, "commitUrl": url, "hookOutput": "" })))
    }

    pub(super) fn branch(&mut self, request: &Request, key: &Key, name: &str) -> Answer {
        let from = request.json()["startingPoint"].as_str().unwrap_or("main").to_owned();
        let repo = self.repo(&key.0, &key.1);
        let sha = repo.revision(&from).ok_or_else(|| Response::refuse(404, "RevisionNotFound", "Invalid rev id"))?;
        let name = decoded(name);
        if repo.branches.contains_key(&name) {
            return Err(Response::refuse(409, "", "the reference already exists"));
        }
        repo.branches.insert(name, sha);
        Ok(Response::bytes(200, ""))
    }

    pub(super) fn tag(&mut self, request: &Request, key: &Key, revision: &str) -> Answer {
        let repo = self.repo(&key.0, &key.1);
        let sha = repo.revision(&decoded(revision)).ok_or_else(|| Response::refuse(404, "RevisionNotFound", "Invalid rev id"))?;
        let name = request.json()["tag"].as_str().unwrap_or_default().to_owned();
        if repo.tags.contains_key(&name) {
            return Err(Response::refuse(409, "", "Tag already exists"));
        }
        repo.tags.insert(name, sha);
        Ok(Response::bytes(200, ""))
    }
}
