//! Repositories of the Hugging Face Hub, by name: `org/name` or `org/name@revision`; those of models here, data sets in [`read`].
//!
//! A folder that exists always wins. A repository is looked for in the cache that all Hugging Face tools share ([`cache`]), and what is
//! there whole is used as it is, without asking anybody. Only what is missing is downloaded (`download`), and only if that is allowed.
//!
//! What a pipeline made is put into a repository by [`publish`], in one commit.
//!
//! The environment is that of the official client: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`,
//! `HF_HUB_OFFLINE`; and `HF_READ_TOKEN` and `HF_WRITE_TOKEN` where no other token is. The crate hf-hub, which downloads models (by Xet
//! where the Hub offers it, else by plain HTTP), is told all of it and reads none itself. Uploads are our own and use plain LFS, in one
//! piece or in parts, which every Hub takes.

pub mod cache;
pub mod client;
mod download;
mod lfs;
pub mod lockfile;
pub mod publish;
pub mod read;
pub mod space;
pub mod token;
pub mod wire;

use crate::error::{Error, ErrorKind, Result};
use cache::Snapshot;
use pipeline::stage::ResolveRevision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// The branch that is meant where no revision is named.
const MAIN: &str = "main";
/// What stands before the names of data sets.
const DATASETS: &str = RepoType::Dataset.prefix();
/// Longest name the Hub gives a repository.
const LONGEST_NAME: usize = 96;

/// What a repository holds. Names of models stand for themselves; others have their kind before them, as in addresses on the Hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RepoType {
    /// A model or an adapter: `org/name`.
    #[default]
    Model,
    /// A dataset: `datasets/org/name`.
    Dataset,
    /// A Space: `spaces/org/name`.
    Space,
}

impl RepoType {
    /// `model`
    pub const fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
            Self::Space => "space",
        }
    }

    /// As the API of the Hub and its cache have it: `models`.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
            Self::Space => "spaces",
        }
    }

    /// What stands before `owner/name` in an address.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
            Self::Space => "spaces/",
        }
    }
}

/// A repository and one of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoRevision {
    /// What it holds.
    pub kind: RepoType,
    /// The user or organisation.
    pub owner: String,
    /// The name below it.
    pub name: String,
    /// A branch, a tag, or a commit.
    pub revision: String,
}

/// Whether the network may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// What is missing is downloaded.
    Allowed,
    /// What is missing is an error.
    Forbidden,
}

/// How far a download is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadProgress {
    /// The repository.
    pub repository: RepoRevision,
    /// The file that is on its way.
    pub file: String,
    /// Bytes that are here, of all files.
    pub done: u64,
    /// Bytes of all files; 0 while they are being listed.
    pub total: u64,
}

/// Hears how far a download is; an error it returns ends the download.
pub type OnDownload<'a> = dyn FnMut(&DownloadProgress) -> Result<()> + 'a;

impl RepoRevision {
    /// Reads `org/name` or `org/name@revision`, or the same behind `datasets/`; nothing if the text cannot be the name of a repository
    /// (a path, say).
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (kind, id) = match id.strip_prefix(DATASETS).filter(|rest| rest.contains('/')) {
            Some(rest) => (RepoType::Dataset, rest),
            None => (RepoType::Model, id),
        };
        let (owner, name) = id.split_once('/')?;
        let part = |part: &str| {
            !part.is_empty()
                && part.len() <= LONGEST_NAME
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
                && !part.contains("--")
                && !part.contains("..")
        };
        let found = part(owner) && part(name) && is_revision(revision);
        found.then(|| Self { kind, owner: owner.to_owned(), name: name.to_owned(), revision: revision.to_owned() })
    }

    /// The data set of that name, `org/name` or `org/name@revision`.
    pub fn dataset(text: &str) -> Option<Self> {
        let text = text.strip_prefix(DATASETS).filter(|rest| rest.contains('/')).unwrap_or(text);
        Self::parse(text).map(|found| Self { kind: RepoType::Dataset, ..found })
    }

    /// `org/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// `org/name`, with the kind before it if it is no model.
    pub fn full_id(&self) -> String {
        format!("{}{}", self.kind.prefix(), self.id())
    }

    /// `org/name@revision`, with the kind before it if it is no model.
    pub fn at_revision(&self) -> String {
        format!("{}@{}", self.full_id(), self.revision)
    }

    /// Whether the revision is a commit, which never changes.
    pub fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }
}

impl fmt::Display for RepoRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full_id())?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl Network {
    /// Allowed, unless the flag or `HF_HUB_OFFLINE` says otherwise.
    pub fn unless(offline: bool) -> Self {
        let told = std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| cache::is_yes(&value));
        if offline || told { Self::Forbidden } else { Self::Allowed }
    }
}

/// The folder that Hugging Face tools share.
pub fn home() -> Result<PathBuf> {
    cache::hugging_face_home()
}

/// The token that opens private and gated repositories, if there is one.
pub fn token() -> Option<String> {
    token::HubToken::for_reading().map(|token| token.secret().to_owned())
}

/// The folder of a model or an adapter.
///
/// `name` is a folder (relative ones start at `root`) or a repository; `revision` is that of a repository, if its name has none. Errors
/// say what to do: exit code 2 where the name is wrong, 4 where the network, a permission or disk space is missing.
pub fn model_folder(root: &Path, name: &str, revision: Option<&str>, network: Network, say: &mut OnDownload) -> Result<PathBuf> {
    let folder = root.join(name);
    if folder.is_dir() {
        return match revision {
            None => Ok(folder),
            Some(_) => Err(Error::new(format!("`{name}` is a folder, which has no revisions"))
                .kind(ErrorKind::InvalidInput)
                .hint("leave the revision out, or name a repository")),
        };
    }
    let repository = repository(name, revision)?;
    let cache = cache::folder()?;
    let missing = match Snapshot::find(&cache, &repository) {
        Some(snapshot) => snapshot.missing(),
        None => vec!["all of it".to_owned()],
    };
    if !missing.is_empty() {
        if network == Network::Forbidden {
            let missing = missing.join(", ");
            return Err(Error::new(format!("`{repository}` is not in the cache `{}` (missing: {missing})", cache.display()))
                .environment()
                .hint("there is no such folder either, and the network is not to be used: go on without --offline and HF_HUB_OFFLINE"));
        }
        download::fetch(&cache, &repository, say)?;
    }
    let found = Snapshot::find(&cache, &repository).filter(|snapshot| snapshot.missing().is_empty());
    found.map(|snapshot| snapshot.folder).ok_or_else(|| {
        Error::new(format!("`{repository}` was downloaded, and yet is not whole in the cache `{}`", cache.display()))
            .environment()
            .hint("another program may be clearing the cache; run again")
    })
}

/// The commit that a repository's revision is now; without the network, what it was when it was downloaded.
pub fn current_commit(repository: &RepoRevision, network: Network) -> Result<String> {
    if repository.is_pinned() {
        return Ok(repository.revision.clone());
    }
    if repository.kind == RepoType::Dataset {
        return read::RepoReader::commit_of(repository, network);
    }
    let cache = cache::folder()?;
    if network == Network::Allowed {
        return download::commit(&cache, repository);
    }
    let found = Snapshot::find(&cache, repository);
    found.and_then(|snapshot| commit_of(&snapshot.folder).map(str::to_owned)).ok_or_else(|| {
        Error::new(format!("`{repository}` is not in the cache `{}`, and the network is not to be used", cache.display()))
            .environment()
            .hint("go on without --offline and HF_HUB_OFFLINE")
    })
}

/// Has the commit of a repository written into the settings that name it; `revision` is the setting for it, where there is one.
pub fn pin(name: &mut String, revision: Option<&mut Option<String>>, pin: &mut ResolveRevision<'_>) {
    let named = revision.as_ref().and_then(|revision| revision.as_deref());
    let Ok(repository) = repository(name, named) else { return };
    if repository.is_pinned() {
        return;
    }
    let Some(commit) = pin(&repository.at_revision()) else { return };
    match revision {
        Some(revision) => (*name, *revision) = (repository.full_id(), Some(commit)),
        None => *name = format!("{}@{commit}", repository.full_id()),
    }
}

/// A resolver of revisions that is told repositories in place of their names.
pub fn by_repository(mut resolve: impl FnMut(&RepoRevision) -> Option<String>) -> impl FnMut(&str) -> Option<String> {
    move |name| resolve(&RepoRevision::parse(name)?)
}

/// Has the commit of a data set written into the setting for its revision.
pub fn pin_dataset(name: &str, revision: &mut Option<String>, pin: &mut ResolveRevision<'_>) {
    let Ok(repository) = dataset(name, revision.as_deref()) else { return };
    if !repository.is_pinned()
        && let Some(commit) = pin(&repository.at_revision())
    {
        *revision = Some(commit);
    }
}

/// The data set of that name at a revision.
pub fn dataset(name: &str, revision: Option<&str>) -> Result<RepoRevision> {
    let wrong = |message: String| Error::new(message).kind(ErrorKind::InvalidInput);
    let mut repository = RepoRevision::dataset(name).filter(|_| !name.contains('@')).ok_or_else(|| {
        wrong(format!("`{name}` is no name of a data set on the Hub"))
            .hint("write it as `owner/name`, and a branch, tag or commit of it as `revision`")
    })?;
    if let Some(revision) = revision {
        if !is_revision(revision) {
            return Err(wrong(format!("`{revision}` cannot be a revision")).hint("give a branch, a tag or a commit"));
        }
        revision.clone_into(&mut repository.revision);
    }
    Ok(repository)
}

/// The commit of a snapshot folder in the cache; none for any other folder.
pub fn commit_of(folder: &Path) -> Option<&str> {
    let commit = folder.file_name()?.to_str().filter(|name| is_commit(name))?;
    (folder.parent()?.file_name()? == "snapshots").then_some(commit)
}

fn repository(name: &str, revision: Option<&str>) -> Result<RepoRevision> {
    let wrong = |message: String| Error::new(message).kind(ErrorKind::InvalidInput);
    let Some(mut repository) = RepoRevision::parse(name).filter(|found| found.kind == RepoType::Model) else {
        return Err(wrong(format!("there is no model folder `{name}`"))
            .hint("give a folder laid out as on the Hub, or the name of a repository like `mistralai/Voxtral-Mini-3B-2507`"));
    };
    if let Some(revision) = revision {
        if name.contains('@') {
            return Err(wrong(format!("`{name}` names a revision, and `{revision}` is another")).hint("keep one of them"));
        }
        if !is_revision(revision) {
            return Err(wrong(format!("`{revision}` cannot be a revision")).hint("give a branch, a tag or a commit"));
        }
        revision.clone_into(&mut repository.revision);
    }
    Ok(repository)
}

/// Whether a text can name a branch, a tag or a commit; it becomes part of a path in the cache.
fn is_revision(text: &str) -> bool {
    let sound = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains("..");
    text.len() <= 255
        && text.split('/').all(sound)
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+'))
}

/// Whether this is the full name of a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_are_told_from_paths() {
        let parsed = RepoRevision::parse("mistralai/Voxtral-Mini-3B-2507@refs/pr/1").unwrap();
        assert_eq!((parsed.id().as_str(), parsed.revision.as_str()), ("mistralai/Voxtral-Mini-3B-2507", "refs/pr/1"));
        assert_eq!(RepoRevision::parse("a/b").unwrap().revision, "main");
        let dataset = RepoRevision::parse("datasets/nvidia/Granary").unwrap();
        assert_eq!(
            (dataset.kind, dataset.id().as_str(), dataset.to_string().as_str()),
            (RepoType::Dataset, "nvidia/Granary", "datasets/nvidia/Granary")
        );
        assert_eq!(RepoRevision::dataset("nvidia/Granary").unwrap(), dataset);
        assert_eq!(RepoRevision::parse("datasets/name").unwrap().kind, RepoType::Model);
        let wrong = [
            "",
            "name",
            "/a/b",
            "./a",
            "a/b/c",
            "../b",
            "a/..",
            "a/b@",
            "a/b@x/../y",
            "a/b@.x",
            "a b/c",
            "a/b@a b",
            "a/b--c",
            "-a/b",
            "a/b.",
            "a/b@/x",
            "a/é",
            "C:\\a/b",
        ];
        for text in wrong {
            assert_eq!(RepoRevision::parse(text), None, "{text}");
        }
        assert!(RepoRevision::parse(&format!("a/{}", "b".repeat(97))).is_none());
    }

    #[test]
    fn a_commit_is_read_off_its_snapshot() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(commit_of(Path::new(&format!("/c/models--a--b/snapshots/{commit}"))), Some(commit));
        assert_eq!(commit_of(Path::new(&format!("/c/{commit}"))), None);
        assert_eq!(commit_of(Path::new("/c/snapshots/main")), None);
    }
}
