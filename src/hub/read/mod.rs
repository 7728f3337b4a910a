//! Data sets on the Hub, read in parts: which commit a revision is, what files there are, and bytes from the middle of one.
//!
//! What was read of a commit is kept (`$HF_HOME/voxpipe/`), for a commit never changes: the next time nobody is asked, and with the
//! network forbidden what is there still serves. A branch is asked for once and is what it was then, until `voxpipe lock --update`.

mod line;

use super::token::HubToken;
use super::{Network, RepoRevision, RepoType, cache};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use line::{Answer, Line};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::{Cell, OnceCell};
use std::fs;
use std::path::PathBuf;

/// Pages of a list; a server that has more is taken for one that goes round in circles.
const PAGES: usize = 1000;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoEntry {
    /// Where it is in the repository.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Whether it is a folder.
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
    line: OnceCell<Line<'a>>,
    stopped: &'a dyn Fn() -> bool,
    read: Cell<u64>,
}

impl<'a> RepoReader<'a> {
    /// Opens a repository at the commit that its revision is. `stopped` is asked now and then whether to give up.
    pub fn open(repository: &RepoRevision, network: Network, stopped: &'a dyn Fn() -> bool) -> Result<Self> {
        let mut reader = Self::new(repository, network, stopped)?;
        reader.repository.revision = reader.remembered().map_or_else(|| reader.current(), Ok)?;
        Ok(reader)
    }

    /// The commit that a revision is now; without the network, what it was when it was last asked for.
    pub(super) fn commit_of(repository: &RepoRevision, network: Network) -> Result<String> {
        let reader = Self::new(repository, network, &|| false)?;
        match network {
            Network::Allowed => reader.current(),
            Network::Forbidden => reader.remembered().ok_or_else(|| reader.forbidden("which commit it is")),
        }
    }

    fn new(repository: &RepoRevision, network: Network, stopped: &'a dyn Fn() -> bool) -> Result<Self> {
        let home = cache::hugging_face_home()?.join("voxpipe");
        let home = home.join(repository.repo.cache_name());
        let (repository, endpoint) = (repository.clone(), cache::endpoint());
        Ok(Self { repository, network, endpoint, home, line: OnceCell::new(), stopped, read: Cell::new(0) })
    }

    /// The commit that is read.
    pub fn commit(&self) -> &str {
        &self.repository.revision
    }

    /// The repository and its commit, as it is named in results.
    pub fn name(&self) -> String {
        format!("{}@{}", self.repository.id(), self.commit())
    }

    /// How many bytes of files came over the network so far.
    pub fn read(&self) -> u64 {
        self.read.get()
    }

    /// What the repository's card says its licence is.
    pub fn licence(&self) -> Result<Option<String>> {
        let info = self.kept("info.json", || self.info(self.commit()).map(|answer| answer.body), "its card")?;
        let info: Value = serde_json::from_slice(&info).unwrap_or_default();
        let licence = &info["cardData"]["license"];
        let several = licence.as_array().map(|all| all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
        Ok(licence.as_str().map(str::to_owned).or(several).filter(|licence| !licence.is_empty()))
    }

    /// The files of a folder, sorted by path; nothing if there is no such folder. Those below it too if `deep`.
    pub fn list(&self, folder: &str, deep: bool) -> Result<Option<Vec<RepoEntry>>> {
        let what = if folder.is_empty() { "the list of its files".to_owned() } else { format!("the list of `{folder}`") };
        let name = format!("lists/{}.json", key(&format!("{folder} {deep}")));
        let found = self.kept(&name, || Ok(serde_json::to_vec(&self.listed(folder, deep)?)?), &what)?;
        serde_json::from_slice(&found).with_context(|| format!("{what} of `{}` is damaged: remove `{}`", self.name(), self.home.display()))
    }

    /// So many bytes of a file from a place on; they must be there.
    pub fn part(&self, path: &str, from: u64, length: u64) -> Result<Vec<u8>> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let what = format!("{path} of `{}`", self.name());
        let name = format!("parts/{}-{from}-{length}", key(path));
        let address = format!("{}/{}/resolve/{}/{}", self.endpoint, self.repository.repo.path(), self.commit(), escaped(path));
        let part = self.kept(&name, || self.line()?.part(&address, from, length, &what), &what)?;
        if part.len() as u64 != length {
            let name = self.home.join(self.commit()).join(name);
            return Err(
                Error::new(format!("`{}` has {} bytes and not {length}", name.display(), part.len())).hint("remove it, and run again")
            );
        }
        Ok(part)
    }

    /// Rows of a data set as the viewer of the Hub (datasets-server) has them, with the commit that it has, if it says so.
    pub fn rows(&self, server: &str, config: &str, split: &str, offset: u64, length: u64) -> Result<(Value, Option<String>)> {
        let query = [("dataset", self.repository.id().as_str()), ("config", config), ("split", split)]
            .map(|(name, value)| format!("{name}={}", escaped(value).replace('/', "%2F")))
            .join("&");
        let address = format!("{}/rows?{query}&offset={offset}&length={length}", server.trim_end_matches('/'));
        let what = format!("rows {offset} to {} of `{}` (`{config}`, `{split}`)", offset + length, self.repository.id());
        let name = format!("rows/{}.json", key(&address));
        let found = self.kept(
            &name,
            || {
                let answer = self.line()?.get(&address, &what)?;
                let rows: Value =
                    serde_json::from_slice(&answer.body).with_context(|| format!("`{server}` does not answer with JSON for {what}"))?;
                Ok(serde_json::to_vec(&(rows, answer.header("X-Revision")))?)
            },
            &what,
        )?;
        Ok(serde_json::from_slice(&found)?)
    }

    /// The commit that the branch or tag was when it was last asked for.
    fn remembered(&self) -> Option<String> {
        if self.repository.is_pinned() {
            return Some(self.repository.revision.clone());
        }
        let commit = fs::read_to_string(self.home.join("refs").join(&self.repository.revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| super::is_commit(commit))
    }

    /// Asks which commit the revision is, and remembers it.
    fn current(&self) -> Result<String> {
        if self.repository.is_pinned() {
            return Ok(self.repository.revision.clone());
        }
        if self.network == Network::Forbidden {
            return Err(self.forbidden("which commit it is"));
        }
        let answer = self.info(&self.repository.revision)?;
        let info: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let commit = info["sha"]
            .as_str()
            .filter(|sha| super::is_commit(sha))
            .ok_or_else(|| Error::new(format!("`{}` does not say which commit `{}` is", self.endpoint, self.repository)).environment())?;
        cache::keep(&self.home.join("refs").join(&self.repository.revision), commit.as_bytes())?;
        cache::keep(&self.home.join(commit).join("info.json"), &answer.body)?;
        Ok(commit.to_owned())
    }

    fn info(&self, revision: &str) -> Result<Answer> {
        let revision = escaped(revision).replace('/', "%2F");
        let address = format!("{}{}/revision/{revision}", self.endpoint, self.repository.repo.api_path());
        self.line()?.get(&address, &self.shown())
    }

    fn listed(&self, folder: &str, deep: bool) -> Result<Option<Vec<RepoEntry>>> {
        let base = format!("{}{}/tree/{}", self.endpoint, self.repository.repo.api_path(), self.commit());
        let folder = if folder.is_empty() { String::new() } else { format!("/{}", escaped(folder)) };
        let mut next = Some(format!("{base}{folder}?recursive={deep}"));
        let mut found = Vec::new();
        for _ in 0..PAGES {
            let Some(address) = next else { break };
            // A page may only lead to another of the same list.
            if !address.starts_with(&self.endpoint) {
                return Err(Error::new(format!("`{}` sends its list on to `{address}`", self.endpoint)).environment());
            }
            let answer = match self.line()?.get(&address, &format!("the list of files of {}", self.shown())) {
                Err(error) if error.kind == ErrorKind::InvalidInput && error.message.ends_with("no such file or folder") => {
                    return Ok(None);
                }
                answered => answered?,
            };
            let page: Vec<Value> = serde_json::from_slice(&answer.body)
                .map_err(|error| Error::new(format!("`{address}` is no list of files: {error}")).environment())?;
            found.extend(page.iter().filter_map(entry));
            next = answer.next();
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Some(found))
    }

    /// What is kept under a name, or what `ask` gives, which is kept then.
    fn kept(&self, name: &str, ask: impl FnOnce() -> Result<Vec<u8>>, what: &str) -> Result<Vec<u8>> {
        let path = self.home.join(self.commit()).join(name);
        if let Ok(found) = fs::read(&path) {
            return Ok(found);
        }
        if self.network == Network::Forbidden {
            return Err(self.forbidden(what));
        }
        let found = ask()?;
        if name.starts_with("parts/") {
            self.read.set(self.read.get() + found.len() as u64);
        }
        cache::keep(&path, &found)?;
        Ok(found)
    }

    fn line(&self) -> Result<&Line<'a>> {
        if let Some(line) = self.line.get() {
            return Ok(line);
        }
        let line = Line::new(&self.endpoint, HubToken::for_reading(), self.stopped)?;
        Ok(self.line.get_or_init(|| line))
    }

    /// As it is named in messages.
    fn shown(&self) -> String {
        let kind = if self.repository.repo.kind == RepoType::Dataset { "data set" } else { "model" };
        format!("the {kind} `{}`", self.repository)
    }

    fn forbidden(&self, what: &str) -> Error {
        Error::new(format!("{what}: not in the cache `{}` for {}", self.home.display(), self.shown()))
            .environment()
            .hint("the network is not to be used: go on without --offline and HF_HUB_OFFLINE")
    }
}

fn entry(value: &Value) -> Option<RepoEntry> {
    let path = value["path"].as_str()?.to_owned();
    // Paths become places in messages and names of files.
    let sound = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != ".." && part != ".");
    let size = value["size"].as_u64().or_else(|| value["lfs"]["size"].as_u64()).unwrap_or(0);
    sound.then(|| RepoEntry { path, size, folder: value["type"] == "directory" })
}

/// A name for what is kept of a path, as long for every path.
fn key(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..24].to_owned()
}

/// A path as it stands in an address.
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
}
