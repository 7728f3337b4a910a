//! Which request is which, and who may send it.

use super::http::{Request, Response, decoded};
use super::{BOB, FINE, READ, State, WRITE};
use serde_json::json;

/// Who a token is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum User {
    Nobody,
    Unknown,
    Known(&'static str, &'static str),
}

type Answer = Result<Response, Response>;

impl State {
    pub(super) fn answer(&mut self, request: &Request, is_hub: bool) -> Response {
        let path = request.path.clone();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let answer = if is_hub { self.hub(request, &parts) } else { self.large(request, &parts) };
        answer.unwrap_or_else(|refused| refused)
    }

    pub(super) fn user(request: &Request) -> User {
        match request.header("authorization").map(|value| value.trim_start_matches("Bearer ").to_owned()).as_deref() {
            None => User::Nobody,
            Some(WRITE) => User::Known("alice", "write"),
            Some(READ) => User::Known("alice", "read"),
            Some(FINE) => User::Known("alice", "fineGrained"),
            Some(BOB) => User::Known("bob", "write"),
            Some(_) => User::Unknown,
        }
    }

    /// The user's name; a refusal if nobody known asks.
    pub(super) fn known(request: &Request) -> Result<&'static str, Response> {
        match Self::user(request) {
            User::Nobody => Err(Response::refuse(401, "", "Invalid username or password.")),
            User::Unknown => Err(Response::refuse(401, "", "Invalid credentials in Authorization header")),
            User::Known(name, _) => Ok(name),
        }
    }

    /// Whether the one who asks may write to what is named `id`.
    pub(super) fn may_write(request: &Request, id: &str) -> Result<(), Response> {
        let name = Self::known(request)?;
        let owner = id.split('/').next().unwrap_or_default();
        let at_home = owner == name || (owner == "acme" && name == "alice");
        match Self::user(request) {
            User::Known(_, "read") => Err(Response::refuse(403, "", "Forbidden: this token may only read")),
            User::Known(_, "fineGrained") if id != "alice/allowed" => Err(Response::refuse(403, "", "Forbidden: not in the token's scope")),
            _ if !at_home => Err(Response::refuse(403, "", &format!("You don't have the rights to write under the namespace \"{owner}\""))),
            _ => Ok(()),
        }
    }

    /// The key of a repository that the one who asks may see.
    pub(super) fn visible(&self, request: &Request, kind: &str, id: &str) -> Result<(String, String), Response> {
        let user = Self::user(request);
        if user == User::Unknown {
            return Err(Response::refuse(401, "", "Invalid credentials in Authorization header"));
        }
        let key = (kind.to_owned(), id.to_owned());
        let owner = id.split('/').next().unwrap_or_default();
        let seen = self.repos.get(&key).is_some_and(|repo| !repo.private || matches!(user, User::Known(name, _) if name == owner));
        match (seen, user) {
            (true, _) => Ok(key),
            (false, User::Nobody) => Err(Response::refuse(401, "RepoNotFound", "Invalid username or password.")),
            (false, _) => Err(Response::refuse(404, "RepoNotFound", "Repository not found")),
        }
    }

    fn hub(&mut self, request: &Request, parts: &[&str]) -> Answer {
        let method = request.method.as_str();
        match (method, parts) {
            ("GET", ["api", "whoami-v2"]) => Self::whoami(request),
            ("POST", ["api", "repos", "create"]) => self.create(request),
            ("GET", ["rows"]) => self.rows(request),
            ("DELETE", ["api", "repos", "delete"]) => self.delete(request),
            ("POST", ["api", "validate-yaml"]) => Ok(Self::validate(request)),
            ("POST", ["api", "complete_multipart"]) => self.complete(request),
            (_, ["api", kinds @ ("models" | "datasets" | "spaces"), owner, name, rest @ ..]) => {
                let (kind, id) = (kinds.trim_end_matches('s'), format!("{owner}/{name}"));
                let key = self.visible(request, kind, &id)?;
                self.api(request, &key, rest)
            }
            (_, [kinds @ ("datasets" | "spaces"), rest @ ..]) => self.files_of(request, kinds.trim_end_matches('s'), rest),
            (_, rest) => self.files_of(request, "model", rest),
        }
    }

    fn api(&mut self, request: &Request, key: &(String, String), rest: &[&str]) -> Answer {
        let writes = |answer: fn(&mut Self, &Request, &(String, String), &str) -> Answer, state: &mut Self, name: &str| {
            Self::may_write(request, &key.1)?;
            answer(state, request, key, name)
        };
        match (request.method.as_str(), rest) {
            ("GET" | "HEAD", []) => self.info(key, "main"),
            ("GET" | "HEAD", ["revision", revision]) => self.info(key, &decoded(revision)),
            ("GET", ["tree", revision, path @ ..]) => self.listing(request, key, &decoded(revision), &decoded(&path.join("/"))),
            ("POST", ["paths-info", revision]) => self.paths(request, key, &decoded(revision)),
            ("GET", ["refs"]) => self.refs(key),
            ("GET", ["commits", revision]) => self.log(key, &decoded(revision)),
            ("GET", ["auth-check"]) => Ok(Response::json(json!({ "ok": true }))),
            ("GET", ["auth-check", "write"]) => Self::may_write(request, &key.1).map(|()| Response::json(json!({ "ok": true }))),
            ("POST", ["preupload", revision]) => writes(Self::preupload, self, revision),
            ("POST", ["commit", revision]) => writes(Self::commit, self, revision),
            ("POST", ["branch", revision]) => writes(Self::branch, self, revision),
            ("POST", ["tag", revision]) => writes(Self::tag, self, revision),
            (_, [what]) if key.0 == "space" => {
                if *what != "runtime" {
                    Self::may_write(request, &key.1)?;
                }
                self.space(request, key, what)
            }
            ("GET", ["logs", _]) if key.0 == "space" => Ok(Response::bytes(200, "data: {\"data\":\"built by the test hub\"}\n\n")),
            _ => Err(Response::refuse(404, "", "there is nothing here")),
        }
    }

    fn files_of(&mut self, request: &Request, kind: &str, rest: &[&str]) -> Answer {
        match (request.method.as_str(), rest) {
            ("GET" | "HEAD", [owner, name, "resolve", revision, path @ ..]) => {
                let key = self.visible(request, kind, &format!("{owner}/{name}"))?;
                self.resolve(request, &key, &decoded(revision), &decoded(&path.join("/")))
            }
            ("POST", [owner, name, "info", "lfs", "objects", what]) => {
                let id = format!("{owner}/{}", name.trim_end_matches(".git"));
                self.visible(request, kind, &id)?;
                Self::may_write(request, &id)?;
                if *what == "batch" { self.batch(request, kind, &id) } else { self.verify(request) }
            }
            _ => Err(Response::refuse(404, "", "there is nothing here")),
        }
    }
}
