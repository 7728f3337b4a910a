//! Reading parts of datasets on the Hub: the commit of a revision, lists of files, and ranges of bytes.
//!
//! What was read of a commit is cached in `$HF_HOME/voxpipe/`. A commit never changes, so nothing is requested twice, and cached parts can
//! be used without the network. A branch is resolved once and stays at that commit until `voxpipe lock --update`.

use super::http::{Action, HttpClient, HttpError, Progress, Request, Response, RetryPolicy, Service};
use super::token::HubToken;
use super::{Network, OFFLINE_HINT, RepoRevision, RepoType, cache};
use crate::error::{Error, Result, ResultExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::{Cell, OnceCell};
use std::fs;
use std::path::PathBuf;

/// A file or a folder in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoEntry {
    /// Its path in the repository.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Whether this is a folder.
    #[serde(default)]
    pub folder: bool,
}

/// One commit of a repository, open for reading.
pub struct RepoReader<'a> {
    /// With the commit as its revision.
    repository: RepoRevision,
    network: Network,
    endpoint: String,
    home: PathBuf,
    retry: RetryPolicy,
    http: OnceCell<HttpClient>,
    stopped: &'a dyn Fn() -> bool,
    received: Cell<u64>,
}

impl<'a> RepoReader<'a> {
    /// Opens a repository at the commit of its revision. `stopped` is asked now and then whether to stop.
    pub fn open(repository: &RepoRevision, network: Network, stopped: &'a dyn Fn() -> bool) -> Result<Self> {
        let mut reader = Self::new(repository, network, stopped)?;
        reader.repository.revision = reader.remembered().map_or_else(|| reader.current(), Ok)?;
        Ok(reader)
    }

    /// The commit of a revision now; without the network, the commit when it was last requested.
    pub(super) fn commit_of(repository: &RepoRevision, network: Network) -> Result<String> {
        let reader = Self::new(repository, network, &|| false)?;
        match network {
            Network::Allowed => reader.current(),
            Network::Forbidden => reader.remembered().ok_or_else(|| reader.offline("its commit")),
        }
    }

    fn new(repository: &RepoRevision, network: Network, stopped: &'a dyn Fn() -> bool) -> Result<Self> {
        let home = cache::hugging_face_home()?.join("voxpipe").join(repository.repo.cache_name());
        let (repository, endpoint, retry) = (repository.clone(), cache::endpoint(), RetryPolicy::default());
        Ok(Self { repository, network, endpoint, home, retry, http: OnceCell::new(), stopped, received: Cell::new(0) })
    }

    /// The commit.
    pub fn commit(&self) -> &str {
        &self.repository.revision
    }

    /// The repository and its commit, as results name it.
    pub fn name(&self) -> String {
        format!("{}@{}", self.repository.id(), self.commit())
    }

    /// Bytes of files received over the network so far.
    pub fn read(&self) -> u64 {
        self.received.get()
    }

    /// The license that the repository's card names.
    pub fn license(&self) -> Result<Option<String>> {
        let info = self.cached("info.json", || self.info(self.commit()).map(|response| response.body), "its card")?;
        let info: Value = serde_json::from_slice(&info).unwrap_or_default();
        let license = &info["cardData"]["license"];
        let several = license.as_array().map(|all| all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
        Ok(license.as_str().map(str::to_owned).or(several).filter(|license| !license.is_empty()))
    }

    /// The entries of a folder, sorted by path, including subfolders if `recursive`; `None` if there is no such folder.
    pub fn list(&self, folder: &str, recursive: bool) -> Result<Option<Vec<RepoEntry>>> {
        let what = if folder.is_empty() { "the list of its files".to_owned() } else { format!("the list of `{folder}`") };
        let name = format!("lists/{}.json", key(&format!("{folder} {recursive}")));
        let found = self.cached(&name, || Ok(serde_json::to_vec(&self.listed(folder, recursive)?)?), &what)?;
        serde_json::from_slice(&found).with_context(|| format!("{what} of `{}` is corrupt: remove `{}`", self.name(), self.home.display()))
    }

    /// Reads exactly `length` bytes of a file at `offset`.
    pub fn part(&self, path: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let what = format!("{path} of `{}`", self.name());
        let name = format!("parts/{}-{offset}-{length}", key(path));
        let address = format!("{}/{}/resolve/{}/{}", self.endpoint, self.repository.repo.path(), self.commit(), escaped(path));
        let part = self.cached(&name, || Ok(self.send(&Request::get(&address).range(offset..offset + length), &what)?.body), &what)?;
        if part.len() as u64 != length {
            let name = self.home.join(self.commit()).join(name);
            return Err(
                Error::new(format!("`{}` has {} bytes instead of {length}", name.display(), part.len())).hint("remove it and run again")
            );
        }
        Ok(part)
    }

    /// Rows of a dataset from a datasets-server, the Hub's viewer, with the commit they belong to, if it says so.
    pub fn rows(&self, server: &str, config: &str, split: &str, offset: u64, length: u64) -> Result<(Value, Option<String>)> {
        let query = [("dataset", self.repository.id().as_str()), ("config", config), ("split", split)]
            .map(|(name, value)| format!("{name}={}", escaped(value).replace('/', "%2F")))
            .join("&");
        let address = format!("{}/rows?{query}&offset={offset}&length={length}", server.trim_end_matches('/'));
        let what = format!("rows {offset} to {} of `{}` (`{config}`, `{split}`)", offset + length, self.repository.id());
        let name = format!("rows/{}.json", key(&address));
        let found = self.cached(
            &name,
            || {
                let response = self.send(&Request::get(&address), &what)?;
                let rows: Value = serde_json::from_slice(&response.body).with_context(|| format!("`{server}` sent no JSON for {what}"))?;
                Ok(serde_json::to_vec(&(rows, response.header("X-Revision")))?)
            },
            &what,
        )?;
        Ok(serde_json::from_slice(&found)?)
    }

    /// The commit of the branch or tag when it was last requested.
    fn remembered(&self) -> Option<String> {
        if self.repository.is_pinned() {
            return Some(self.repository.revision.clone());
        }
        let commit = fs::read_to_string(self.home.join("refs").join(&self.repository.revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| super::is_commit(commit))
    }

    /// Requests the commit of the revision, and remembers it.
    fn current(&self) -> Result<String> {
        if self.repository.is_pinned() {
            return Ok(self.repository.revision.clone());
        }
        if self.network == Network::Forbidden {
            return Err(self.offline("its commit"));
        }
        let response = self.info(&self.repository.revision)?;
        let info: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let commit = info["sha"]
            .as_str()
            .filter(|sha| super::is_commit(sha))
            .ok_or_else(|| Error::new(format!("`{}` does not name the commit of `{}`", self.endpoint, self.repository)).environment())?;
        cache::write(&self.home.join("refs").join(&self.repository.revision), commit.as_bytes())?;
        cache::write(&self.home.join(commit).join("info.json"), &response.body)?;
        Ok(commit.to_owned())
    }

    fn info(&self, revision: &str) -> Result<Response> {
        let revision = escaped(revision).replace('/', "%2F");
        let address = format!("{}{}/revision/{revision}", self.endpoint, self.repository.repo.api_path());
        self.send(&Request::get(address), &self.shown())
    }

    fn listed(&self, folder: &str, recursive: bool) -> Result<Option<Vec<RepoEntry>>> {
        let folder = if folder.is_empty() { String::new() } else { format!("/{}", escaped(folder)) };
        let base = format!("{}{}/tree/{}", self.endpoint, self.repository.repo.api_path(), self.commit());
        let http = self.http()?;
        let entries = match http.list(format!("{base}{folder}?recursive={recursive}"), &Progress::silent(self.stopped)) {
            Ok(entries) => entries,
            Err(HttpError::Status { status: 404, code, .. }) if code == "EntryNotFound" => return Ok(None),
            Err(error) => return Err(http.explain(error, Action::Read(&format!("the list of files of {}", self.shown())))),
        };
        let mut found: Vec<RepoEntry> = entries.iter().filter_map(entry).collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Some(found))
    }

    /// What is cached under a name; otherwise what `request` returns, which is then cached.
    fn cached(&self, name: &str, request: impl FnOnce() -> Result<Vec<u8>>, what: &str) -> Result<Vec<u8>> {
        let path = self.home.join(self.commit()).join(name);
        if let Ok(found) = fs::read(&path) {
            return Ok(found);
        }
        if self.network == Network::Forbidden {
            return Err(self.offline(what));
        }
        let found = request()?;
        if name.starts_with("parts/") {
            self.received.set(self.received.get() + found.len() as u64);
        }
        cache::write(&path, &found)?;
        Ok(found)
    }

    fn http(&self) -> Result<&HttpClient> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        let http = HttpClient::for_hub(Service::hub(&self.endpoint, HubToken::for_reading()), self.retry)?;
        Ok(self.http.get_or_init(|| http))
    }

    fn send(&self, request: &Request<'_>, what: &str) -> Result<Response> {
        let http = self.http()?;
        http.send(request, &Progress::silent(self.stopped)).map_err(|error| http.explain(error, Action::Read(what)))
    }

    /// As messages name it.
    fn shown(&self) -> String {
        let kind = if self.repository.repo.kind == RepoType::Dataset { "dataset" } else { "model" };
        format!("the {kind} `{}`", self.repository)
    }

    fn offline(&self, what: &str) -> Error {
        Error::new(format!("{what}: not in the cache `{}` for {}", self.home.display(), self.shown())).environment().hint(OFFLINE_HINT)
    }
}

fn entry(value: &Value) -> Option<RepoEntry> {
    let path = value["path"].as_str()?.to_owned();
    // Paths become names of files.
    let valid = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != ".." && part != ".");
    let size = value["size"].as_u64().or_else(|| value["lfs"]["size"].as_u64()).unwrap_or(0);
    valid.then(|| RepoEntry { path, size, folder: value["type"] == "directory" })
}

/// The name of a cached file; it has the same length for every path.
fn key(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..24].to_owned()
}

/// A path, percent-encoded for an address.
fn escaped(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_hold_any_path() {
        assert_eq!(escaped("de/voxpopuli/a b#é.jsonl"), "de/voxpopuli/a%20b%23%C3%A9.jsonl");
    }

    #[test]
    fn entries_that_lead_out_are_no_entries() {
        let read = |path: &str| entry(&serde_json::json!({ "type": "file", "path": path, "size": 3 }));
        assert_eq!(read("a/b"), Some(RepoEntry { path: "a/b".into(), size: 3, folder: false }));
        assert!(["", "../a", "/a", "a/../b"].iter().all(|path| read(path).is_none()));
    }

    #[test]
    fn reading_follows_the_retry_policy() {
        use crate::hub::http::testing::{STATUSES, Server, reply};
        let home = tempfile::tempdir().unwrap();
        let repository = RepoRevision::parse("datasets/a/b@0123456789abcdef0123456789abcdef01234567").unwrap();
        let retry = RetryPolicy { max_attempts: 3, base_delay: std::time::Duration::from_millis(1), ..RetryPolicy::default() };
        for (status, transient) in STATUSES.iter().copied() {
            let server = Server::start(move |_| reply(status, &[], b""));
            let (endpoint, home, http, received) = (server.address.clone(), home.path().to_owned(), OnceCell::new(), Cell::new(0));
            let (repository, network) = (repository.clone(), Network::Allowed);
            let reader = RepoReader { repository, network, endpoint, home, retry, http, stopped: &|| false, received };
            let attempts = if transient { 3 } else { 1 };
            assert!(reader.part("x.jsonl", 0, 9).is_err() && server.seen().len() == attempts, "{status}");
            assert!(reader.list("", true).is_err() && server.seen().len() == 2 * attempts, "{status}");
        }
    }
}
