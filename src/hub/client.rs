//! The Hub with a token: who the user is, and creating, listing and changing repositories.
use super::http::{Action, Body, HttpClient, HttpError, Method, Progress, Request, RetryPolicy, Service, Timeouts};
use super::token::HubToken;
use super::{Network, OFFLINE_HINT, RepoId, RepoType, cache};
use crate::error::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The user that a token belongs to.
#[derive(Clone, Debug)]
pub struct HubUser {
    /// The user's name.
    pub name: String,
    /// `read`, `write`, `fineGrained`.
    pub role: String,
    /// Organizations the user belongs to.
    pub organizations: Vec<String>,
    /// What a fine-grained token may write to: users, organizations, repositories.
    scope: Vec<String>,
}

/// A file in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// In bytes.
    pub size: u64,
    /// The hash that git has for it.
    pub oid: String,
    /// The SHA-256 of its content, if it is a large file.
    pub sha256: Option<String>,
}

/// A client for one Hub, with the token of one user.
pub struct HubClient {
    pub(super) http: HttpClient,
}

impl HubClient {
    /// The Hub that the environment names, for writing.
    pub fn for_writing() -> Result<Self> {
        if Network::unless(false) == Network::Forbidden {
            return Err(Error::new("cannot write to the Hub")
                .environment()
                .hint(format!("{OFFLINE_HINT}; or publish to a folder: `target = \"published/NAME\"`")));
        }
        Self::new(&cache::endpoint(), HubToken::for_writing(), RetryPolicy::default())
    }

    /// A Hub at this address.
    pub fn new(endpoint: &str, token: Option<HubToken>, retry: RetryPolicy) -> Result<Self> {
        Self::with_timeouts(endpoint, token, retry, Timeouts::default())
    }

    /// A Hub at this address that has this long to answer.
    pub(super) fn with_timeouts(endpoint: &str, token: Option<HubToken>, retry: RetryPolicy, timeouts: Timeouts) -> Result<Self> {
        Ok(Self { http: HttpClient::new(Service::hub(endpoint, token), retry, timeouts)? })
    }

    /// The Hub's address, without a slash at the end.
    pub fn endpoint(&self) -> &str {
        &self.http.service.endpoint
    }

    /// The address of a repository's page.
    pub fn page(&self, repo: &RepoId) -> String {
        format!("{}/{}", self.endpoint(), repo.path())
    }

    /// The user that the token belongs to.
    pub fn whoami(&self, progress: &Progress<'_>) -> Result<HubUser> {
        let user = self.get("/api/whoami-v2", progress).map_err(|error| self.cannot("identify the user of the token", error))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let token = &user["auth"]["accessToken"];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let writes = |entry: &Value| list(&entry["permissions"]).iter().any(|permission| permission == "repo.write");
        Ok(HubUser {
            name: text(&user["name"]),
            role: text(&token["role"]),
            organizations: list(&user["orgs"]).iter().map(|org| text(&org["name"])).collect(),
            scope: list(&token["fineGrained"]["scoped"]).iter().filter(|e| writes(e)).map(|e| text(&e["entity"]["name"])).collect(),
        })
    }

    /// The repository that the settings call `name` or `owner/name`; without an owner, it is the user's.
    pub fn repo(&self, kind: RepoType, name: &str, user: &HubUser) -> Result<RepoId> {
        let (owner, below) = name.split_once('/').unwrap_or((&user.name, name));
        RepoId::of(kind, owner, below).ok_or_else(|| invalid_repo(name))
    }

    /// Checks that the token may write to a repository, or create it.
    pub fn may_write(&self, repo: &RepoId, user: &HubUser, progress: &Progress<'_>) -> Result<()> {
        let source = self.http.service.credentials.as_ref().map_or("nowhere", |credentials| credentials.source.as_str());
        let refused = |why: String| {
            let message = format!("the token (from {source}, of `{}`, role {}) may not write to `{repo}`: {why}", user.name, user.role);
            Error::new(message).environment().hint(format!(
                "create a token with write access to it at {}/settings/tokens, and set HF_TOKEN to it; or change `repo`",
                self.endpoint()
            ))
        };
        let (owner, id) = (&repo.owner, repo.to_string());
        if user.role == "read" {
            return Err(refused("it may only read".to_owned()));
        }
        if *owner != user.name && !user.organizations.iter().any(|org| org == owner) {
            return Err(refused(format!("`{owner}` is neither this user nor one of their organizations")));
        }
        if user.role == "fineGrained" && !user.scope.iter().any(|scope| *scope == id || scope == owner) {
            return Err(refused("it is outside the token's scope".to_owned()));
        }
        match self.get(&format!("{}/auth-check/write", repo.api_path()), progress) {
            // It does not exist yet, and will be created.
            Ok(_) | Err(HttpError::Status { status: 404, .. }) => Ok(()),
            Err(HttpError::Status { status: 403, message, .. }) => Err(refused(message)),
            Err(error) => Err(self.cannot(&format!("write to `{repo}`"), error)),
        }
    }

    /// Creates a repository, unless it exists.
    pub(super) fn create(&self, repo: &RepoId, private: bool, progress: &Progress<'_>) -> Result<()> {
        let settings = json!({ "name": repo.name, "organization": repo.owner, "type": repo.kind.word(), "private": private });
        self.create_with(settings, progress).map_err(|error| self.cannot(&format!("create the repository `{repo}`"), error))
    }

    /// Creates a repository with these settings, unless it exists.
    pub(super) fn create_with(&self, settings: Value, progress: &Progress<'_>) -> Result<(), HttpError> {
        match self.post("/api/repos/create", settings, progress) {
            Ok(_) | Err(HttpError::Status { status: 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether only its owners can see a repository.
    pub(super) fn is_private(&self, repo: &RepoId, progress: &Progress<'_>) -> Result<bool> {
        let info = self.get(&repo.api_path(), progress).map_err(|error| self.cannot(&format!("look up `{repo}`"), error))?;
        Ok(info["private"] == true)
    }

    /// Whether nothing was put into a repository since it was created.
    pub(super) fn is_new(&self, repo: &RepoId, progress: &Progress<'_>) -> Result<bool> {
        let commits = self.get(&format!("{}/commits/main", repo.api_path()), progress);
        let commits = commits.map_err(|error| self.cannot(&format!("list the commits of `{repo}`"), error))?;
        Ok(commits.as_array().is_some_and(|commits| commits.len() == 1))
    }

    /// The commit that `main` points to; `None` if there is no such repository, or the token cannot see it.
    pub(super) fn head(&self, repo: &RepoId, progress: &Progress<'_>) -> Result<Option<String>> {
        match self.get(&format!("{}/revision/main", repo.api_path()), progress) {
            Ok(info) => {
                let sha = info["sha"].as_str().filter(|sha| super::is_commit(sha));
                let missing = || Error::new(format!("the Hub does not say which commit `main` of `{repo}` is")).environment();
                Ok(Some(sha.ok_or_else(missing)?.to_owned()))
            }
            Err(HttpError::Status { status: 404, .. }) => Ok(None),
            Err(error) => Err(self.cannot(&format!("look up `{repo}`"), error)),
        }
    }

    /// All files of a commit.
    pub(super) fn tree(&self, repo: &RepoId, commit: &str, progress: &Progress<'_>) -> Result<BTreeMap<String, RemoteFile>> {
        let url = format!("{}{}/tree/{commit}?recursive=true", self.endpoint(), repo.api_path());
        let entries = self.http.list(url, progress).map_err(|error| self.cannot(&format!("list the files of `{repo}`"), error))?;
        let files = entries.iter().filter(|entry| entry["type"] == "file").map(|entry| {
            let file = RemoteFile {
                size: entry["size"].as_u64().unwrap_or(0),
                oid: entry["oid"].as_str().unwrap_or_default().to_owned(),
                sha256: entry["lfs"]["oid"].as_str().map(str::to_owned),
            };
            (entry["path"].as_str().unwrap_or_default().to_owned(), file)
        });
        Ok(files.collect())
    }

    /// The content of a small file.
    pub(super) fn read(&self, repo: &RepoId, commit: &str, path: &str, progress: &Progress<'_>) -> Result<Vec<u8>> {
        let request = Request::get(format!("{}/resolve/{commit}/{path}", self.page(repo)));
        let response = self.http.send(&request, progress);
        Ok(response.map_err(|error| self.cannot(&format!("read {path} of `{repo}`"), error))?.body)
    }

    /// Asks a path of the API.
    pub(super) fn get(&self, path: &str, progress: &Progress<'_>) -> Result<Value, HttpError> {
        self.http.send(&Request::get(format!("{}{path}", self.endpoint())), progress)?.json()
    }

    /// Sends JSON to a path of the API.
    pub(super) fn post(&self, path: &str, body: Value, progress: &Progress<'_>) -> Result<Value, HttpError> {
        let request = Request::new(Method::POST, format!("{}{path}", self.endpoint()), Body::Json(body));
        self.http.send(&request, progress)?.json()
    }

    /// What a failure means; `action` is what was to be done: `write to alice/voice`.
    pub(super) fn cannot(&self, action: &str, error: HttpError) -> Error {
        self.http.explain(error, Action::Write(action))
    }
}

/// The error for a name that the Hub would not accept.
pub(super) fn invalid_repo(name: &str) -> Error {
    Error::new(format!("`{name}` is not a valid repository name"))
        .kind(ErrorKind::InvalidInput)
        .hint("use letters, digits, `-`, `_` and `.`, with at most one `/`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::http::testing::{STATUSES, Server, reply};
    use std::time::Duration;

    #[test]
    fn writing_follows_the_retry_policy() {
        let retry = RetryPolicy { max_attempts: 3, base_delay: Duration::from_millis(1), ..RetryPolicy::default() };
        for (status, transient) in STATUSES.iter().copied() {
            let server = Server::start(move |_| reply(status, &[], b"{\"error\":\"hf_secret\"}"));
            let client = HubClient::new(&server.address, Some(HubToken::new("hf_secret", "a test")), retry).unwrap();
            let error = client.post("/api/repos/create", json!({}), &Progress::silent(&|| false)).unwrap_err();
            assert_eq!(server.seen().len(), if transient { 3 } else { 1 }, "{status}");
            assert!(matches!(&error, HttpError::Status { status: told, message, .. } if *told == status && message == "…"), "{error:?}");
        }
    }
}
