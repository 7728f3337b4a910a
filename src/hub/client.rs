//! What one can do with repositories of a Hub beyond reading a model: who one is, making them, listing them, changing them.
use super::token::HubToken;
use super::wire::{Ask, Body, Method, OnProgress, Trouble, Wire};
use super::{Network, RepoId, RepoType, cache};
use crate::error::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Who a token is.
#[derive(Clone, Debug)]
pub struct HubUser {
    /// The user's name.
    pub name: String,
    /// `read`, `write`, `fineGrained`.
    pub role: String,
    /// Organisations the user belongs to.
    pub organisations: Vec<String>,
    /// What a fine-grained token may write to: users, organisations, repositories.
    scope: Vec<String>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// In bytes.
    pub size: u64,
    /// Its git name.
    pub oid: String,
    /// The SHA-256 of its content, if it is a large file.
    pub sha256: Option<String>,
}

/// A Hub, and who we are there.
pub struct HubClient {
    pub(super) wire: Wire,
}

impl HubClient {
    /// The Hub of the environment, to write to.
    pub fn for_writing() -> Result<Self> {
        if Network::unless(false) == Network::Forbidden {
            return Err(Error::new("the Hub cannot be written to: the network is not to be used")
                .environment()
                .hint("go on without --offline and HF_HUB_OFFLINE, or publish to a folder: `target = \"published/NAME\"`"));
        }
        Self::new(&cache::endpoint(), HubToken::for_writing(), None)
    }

    /// A Hub by its address; see [`Wire::new`].
    pub fn new(endpoint: &str, token: Option<HubToken>, patience: Option<Duration>) -> Result<Self> {
        Ok(Self { wire: Wire::new(endpoint, token, patience)? })
    }

    /// The Hub's address.
    pub fn endpoint(&self) -> &str {
        &self.wire.endpoint
    }

    /// Where a repository can be looked at.
    pub fn page(&self, place: &RepoId) -> String {
        format!("{}/{}", self.wire.endpoint, place.path())
    }

    /// Who the token is.
    pub fn whoami(&self, voice: &OnProgress<'_>) -> Result<HubUser> {
        let what = "ask the Hub who the token is";
        let told = self.json(Method::GET, "/api/whoami-v2", None, voice).map_err(|trouble| self.wire.explain(trouble, what))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let token = &told["auth"]["accessToken"];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let writes = |entry: &Value| list(&entry["permissions"]).iter().any(|may| may == "repo.write");
        Ok(HubUser {
            name: text(&told["name"]),
            role: text(&token["role"]),
            organisations: list(&told["orgs"]).iter().map(|org| text(&org["name"])).collect(),
            scope: list(&token["fineGrained"]["scoped"]).iter().filter(|e| writes(e)).map(|e| text(&e["entity"]["name"])).collect(),
        })
    }

    /// The repository that the settings call `name` or `owner/name`; without an owner it is the user's.
    pub fn repo(&self, kind: RepoType, name: &str, user: &HubUser) -> Result<RepoId> {
        let (owner, below) = name.split_once('/').unwrap_or((&user.name, name));
        RepoId::of(kind, owner, below).ok_or_else(|| {
            Error::new(format!("`{name}` is not a valid repository name"))
                .kind(ErrorKind::InvalidInput)
                .hint("use letters, digits, `-`, `_` and `.`, with at most one `/`")
        })
    }

    /// Whether the token may write to a repository, or make it.
    pub fn may_write(&self, place: &RepoId, user: &HubUser, voice: &OnProgress<'_>) -> Result<()> {
        let source = self.wire.token.as_ref().map_or("nowhere", |token| token.source.as_str());
        let refused = |why: String| {
            let message = format!("the token (from {source}, of `{}`, role {}) may not write to `{}`: {why}", user.name, user.role, place);
            Error::new(message).environment().hint(format!(
                "make a token that may write there at {}/settings/tokens, and set HF_TOKEN to it; or change `repo`",
                self.wire.endpoint
            ))
        };
        let (owner, id) = (&place.owner, place.to_string());
        if user.role == "read" {
            return Err(refused("it may only read".to_owned()));
        }
        if *owner != user.name && !user.organisations.iter().any(|org| org == owner) {
            return Err(refused(format!("`{owner}` is neither that user nor an organisation of theirs")));
        }
        if user.role == "fineGrained" && !user.scope.iter().any(|scope| *scope == id || scope == owner) {
            return Err(refused("that is outside its scope".to_owned()));
        }
        match self.json(Method::GET, &format!("{}/auth-check/write", place.api_path()), None, voice) {
            // It is not there yet, and will be made.
            Ok(_) | Err(Trouble::Refused(404, ..)) => Ok(()),
            Err(Trouble::Refused(403, words, _)) => Err(refused(words)),
            Err(trouble) => Err(self.wire.explain(trouble, &format!("write to `{}`", place))),
        }
    }

    /// Makes a repository; says whether it was not there before.
    pub(super) fn create(&self, place: &RepoId, private: bool, voice: &OnProgress<'_>) -> Result<bool> {
        let asked = json!({ "name": place.name, "organization": place.owner, "type": place.kind.word(), "private": private });
        match self.json(Method::POST, "/api/repos/create", Some(asked), voice) {
            Ok(_) => Ok(true),
            Err(Trouble::Refused(409, ..)) => Ok(false),
            Err(trouble) => Err(self.wire.explain(trouble, &format!("make the repository `{}`", place))),
        }
    }

    /// Whether only its owners can see a repository.
    pub(super) fn is_private(&self, place: &RepoId, voice: &OnProgress<'_>) -> Result<bool> {
        let told = self.json(Method::GET, &place.api_path(), None, voice);
        let told = told.map_err(|trouble| self.wire.explain(trouble, &format!("look at `{}`", place)))?;
        Ok(told["private"] == true)
    }

    /// Whether nothing was put into a repository since it was made.
    pub(super) fn is_new(&self, place: &RepoId, voice: &OnProgress<'_>) -> Result<bool> {
        let told = self.json(Method::GET, &format!("{}/commits/main", place.api_path()), None, voice);
        let told = told.map_err(|trouble| self.wire.explain(trouble, &format!("see what was done to `{}`", place)))?;
        Ok(told.as_array().is_some_and(|commits| commits.len() == 1))
    }

    /// The commit that `main` is; nothing if there is no such repository that the token may see.
    pub(super) fn head(&self, place: &RepoId, voice: &OnProgress<'_>) -> Result<Option<String>> {
        let what = || format!("look at `{}`", place);
        match self.json(Method::GET, &format!("{}/revision/main", place.api_path()), None, voice) {
            Ok(info) => {
                let sha = info["sha"].as_str().filter(|sha| super::is_commit(sha));
                let missing = || Error::new(format!("the Hub does not say which commit `{}` is at", place)).environment();
                Ok(Some(sha.ok_or_else(missing)?.to_owned()))
            }
            Err(Trouble::Refused(404, ..)) => Ok(None),
            Err(trouble) => Err(self.wire.explain(trouble, &what())),
        }
    }

    /// All files of a commit.
    pub(super) fn tree(&self, place: &RepoId, commit: &str, voice: &OnProgress<'_>) -> Result<BTreeMap<String, RemoteFile>> {
        let what = || format!("list the files of `{}`", place);
        let mut files = BTreeMap::new();
        let mut next = Some(format!("{}{}/tree/{commit}?recursive=true", self.wire.endpoint, place.api_path()));
        while let Some(url) = next.take() {
            let ask = Ask { method: Method::GET, url, body: Body::None };
            let answer = self.wire.send(&ask, voice).map_err(|trouble| self.wire.explain(trouble, &what()))?;
            let page: Vec<Value> = serde_json::from_slice(&answer.body).map_err(|error| unreadable(&what(), &error))?;
            for entry in page.iter().filter(|entry| entry["type"] == "file") {
                let remote = RemoteFile {
                    size: entry["size"].as_u64().unwrap_or(0),
                    oid: entry["oid"].as_str().unwrap_or_default().to_owned(),
                    sha256: entry["lfs"]["oid"].as_str().map(str::to_owned),
                };
                files.insert(entry["path"].as_str().unwrap_or_default().to_owned(), remote);
            }
            next = answer.headers.get("link").and_then(|link| link.to_str().ok()).and_then(next_page);
        }
        Ok(files)
    }

    /// The content of a small file.
    pub(super) fn read(&self, place: &RepoId, commit: &str, path: &str, voice: &OnProgress<'_>) -> Result<Vec<u8>> {
        let url = format!("{}/{}/resolve/{commit}/{path}", self.wire.endpoint, place.path());
        let ask = Ask { method: Method::GET, url, body: Body::None };
        let answer = self.wire.send(&ask, voice).map_err(|trouble| self.wire.explain(trouble, &format!("read {path} of `{}`", place)))?;
        Ok(answer.body)
    }

    /// Asks an address of the API.
    pub(super) fn json(&self, method: Method, path: &str, body: Option<Value>, voice: &OnProgress<'_>) -> Result<Value, Trouble> {
        let url = format!("{}{path}", self.wire.endpoint);
        let answer = self.wire.send(&Ask { method, url, body: body.map_or(Body::None, Body::Json) }, voice)?;
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body).map_err(|error| Trouble::Here(unreadable("understand the Hub", &error)))
    }
}

fn unreadable(what: &str, error: &serde_json::Error) -> Error {
    Error::new(format!("cannot {what}: what came is no JSON as expected: {error}"))
        .environment()
        .hint("check HF_ENDPOINT, and whether something between here and the Hub answers in its place")
}

/// The address in `<…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let one = link.split(',').find(|one| one.contains("rel=\"next\""))?;
    Some(one.split_once('<')?.1.split_once('>')?.0.to_owned())
}
