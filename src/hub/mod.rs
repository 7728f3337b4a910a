//! Repositories on the Hugging Face Hub: model downloads, datasets read in parts, and publishing.
//!
//! A repository is named `org/name` or `org/name@revision`. A local folder with that name always wins. Otherwise the cache that all
//! Hugging Face tools share ([`cache`]) is searched first: a complete snapshot there is used without any request, and only missing files
//! are downloaded (`download`), if the network may be used. [`read`] reads parts of datasets; [`publish`] puts what a pipeline made into
//! a repository, in one commit.
//!
//! All requests go through one HTTP client ([`http`]), with one policy for retries, redirects, timeouts and error messages. The only
//! exception is the download of models, which the crate hf-hub does because it knows Xet; retries and messages follow the same policy.
//!
//! The environment variables are those of the official client: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`,
//! `HF_HUB_OFFLINE`. `HF_READ_TOKEN` and `HF_WRITE_TOKEN` are read where no other token is set. hf-hub is given all of them and reads
//! none itself. Uploads use plain LFS, in one piece or in parts, which every Hub accepts.

pub mod cache;
pub mod client;
mod download;
pub mod http;
mod lfs;
pub mod lockfile;
pub mod publish;
pub mod read;
mod repo;
pub mod space;
pub mod token;
pub mod verify;

pub use repo::{RepoId, RepoRevision, RepoType, is_commit};

use crate::error::{Error, ErrorKind, Result};
use cache::Snapshot;
use pipeline::stage::ResolveRevision;
use repo::is_revision;
use std::path::{Path, PathBuf};

/// Shown where something is missing and the network may not be used.
const OFFLINE_HINT: &str = "network access is disabled: run again without --offline and HF_HUB_OFFLINE";

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
    /// The file being downloaded.
    pub file: String,
    /// Bytes downloaded so far, of all files.
    pub done: u64,
    /// Bytes of all files; 0 while they are being listed.
    pub total: u64,
}

/// Called with the progress of a download; an error it returns cancels the download.
pub type OnDownload<'a> = dyn FnMut(&DownloadProgress) -> Result<()> + 'a;

impl Network {
    /// Allowed, unless the flag or `HF_HUB_OFFLINE` forbids it.
    pub fn unless(offline: bool) -> Self {
        let variable = std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| cache::is_yes(&value));
        if offline || variable { Self::Forbidden } else { Self::Allowed }
    }
}

/// The folder that Hugging Face tools share.
pub fn home() -> Result<PathBuf> {
    cache::hugging_face_home()
}

/// The token for reading private and gated repositories, if there is one.
pub fn token() -> Option<String> {
    token::HubToken::for_reading().map(|token| token.secret().to_owned())
}

/// The folder of a model or an adapter, downloaded if necessary.
///
/// `name` is a folder (relative to `root`) or a repository; `revision` is that of the repository, if its name has none. The error kind is
/// [`ErrorKind::InvalidInput`] if the name is wrong, and [`ErrorKind::Environment`] if the network, a permission or disk space is missing.
pub fn model_folder(root: &Path, name: &str, revision: Option<&str>, network: Network, on_download: &mut OnDownload) -> Result<PathBuf> {
    let folder = root.join(name);
    if folder.is_dir() {
        return match revision {
            None => Ok(folder),
            Some(_) => Err(Error::new(format!("`{name}` is a folder, and folders have no revisions"))
                .kind(ErrorKind::InvalidInput)
                .hint("remove the revision, or name a repository")),
        };
    }
    let repository = model(name, revision)?;
    let cache = cache::folder()?;
    let missing = match Snapshot::find(&cache, &repository) {
        Some(snapshot) => snapshot.missing(),
        None => vec!["all files".to_owned()],
    };
    if !missing.is_empty() {
        if network == Network::Forbidden {
            let missing = missing.join(", ");
            return Err(Error::new(format!("`{repository}` is not in the cache `{}` (missing: {missing})", cache.display()))
                .environment()
                .hint(format!("there is no such folder either, and {OFFLINE_HINT}")));
        }
        download::fetch(&cache, &repository, on_download)?;
    }
    let found = Snapshot::find(&cache, &repository).filter(|snapshot| snapshot.missing().is_empty());
    found.map(|snapshot| snapshot.folder).ok_or_else(|| {
        Error::new(format!("`{repository}` was downloaded but is incomplete in the cache `{}`", cache.display()))
            .environment()
            .hint("another program may be clearing the cache; run again")
    })
}

/// The commit that a repository's revision points to now; without the network, the commit it pointed to when it was downloaded.
pub fn current_commit(repository: &RepoRevision, network: Network) -> Result<String> {
    if repository.is_pinned() {
        return Ok(repository.revision.clone());
    }
    if repository.repo.kind == RepoType::Dataset {
        return read::RepoReader::commit_of(repository, network);
    }
    let cache = cache::folder()?;
    if network == Network::Allowed {
        return download::commit(&cache, repository);
    }
    let found = Snapshot::find(&cache, repository);
    found
        .and_then(|snapshot| commit_of(&snapshot.folder).map(str::to_owned))
        .ok_or_else(|| Error::new(format!("`{repository}` is not in the cache `{}`", cache.display())).environment().hint(OFFLINE_HINT))
}

/// Writes the commit of a model repository into the settings that name it; `revision` is the setting for the commit, if there is one.
pub fn pin(name: &mut String, revision: Option<&mut Option<String>>, resolve: &mut ResolveRevision<'_>) {
    let named = revision.as_ref().and_then(|revision| revision.as_deref());
    let Ok(repository) = model(name, named) else { return };
    if repository.is_pinned() {
        return;
    }
    let Some(commit) = resolve(&repository.at_revision()) else { return };
    match revision {
        Some(revision) => (*name, *revision) = (repository.repo.path(), Some(commit)),
        None => *name = format!("{}@{commit}", repository.repo.path()),
    }
}

/// A resolver of revisions that takes repositories instead of their names.
pub fn by_repository(mut resolve: impl FnMut(&RepoRevision) -> Option<String>) -> impl FnMut(&str) -> Option<String> {
    move |name| resolve(&RepoRevision::parse(name)?)
}

/// Writes the commit of a dataset into the setting for its revision.
pub fn pin_dataset(name: &str, revision: &mut Option<String>, resolve: &mut ResolveRevision<'_>) {
    let Ok(repository) = dataset(name, revision.as_deref()) else { return };
    if !repository.is_pinned()
        && let Some(commit) = resolve(&repository.at_revision())
    {
        *revision = Some(commit);
    }
}

/// The dataset with this name, at a revision.
pub fn dataset(name: &str, revision: Option<&str>) -> Result<RepoRevision> {
    let repository = RepoRevision::dataset(name).filter(|_| !name.contains('@')).ok_or_else(|| {
        Error::new(format!("`{name}` is not a valid name for a dataset on the Hub"))
            .kind(ErrorKind::InvalidInput)
            .hint("write it as `owner/name`, and put a branch, tag or commit in `revision`")
    })?;
    at_revision(repository, revision)
}

/// The commit of a snapshot folder in the cache; `None` for any other folder.
pub fn commit_of(folder: &Path) -> Option<&str> {
    let commit = folder.file_name()?.to_str().filter(|name| is_commit(name))?;
    (folder.parent()?.file_name()? == "snapshots").then_some(commit)
}

/// The model repository with this name, at a revision.
fn model(name: &str, revision: Option<&str>) -> Result<RepoRevision> {
    let Some(repository) = RepoRevision::parse(name).filter(|found| found.repo.kind == RepoType::Model) else {
        return Err(Error::new(format!("model not found: `{name}` is neither a folder nor the name of a Hub repository"))
            .kind(ErrorKind::InvalidInput)
            .hint("give a folder with the files of a model, or a repository such as `mistralai/Voxtral-Mini-3B-2507`"));
    };
    if let Some(revision) = revision.filter(|_| name.contains('@')) {
        return Err(Error::new(format!("`{name}` already names a revision, but `{revision}` is given too"))
            .kind(ErrorKind::InvalidInput)
            .hint("keep one of them"));
    }
    at_revision(repository, revision)
}

fn at_revision(mut repository: RepoRevision, revision: Option<&str>) -> Result<RepoRevision> {
    if let Some(revision) = revision {
        if !is_revision(revision) {
            return Err(Error::new(format!("`{revision}` cannot be a revision"))
                .kind(ErrorKind::InvalidInput)
                .hint("give a branch, a tag or a commit"));
        }
        revision.clone_into(&mut repository.revision);
    }
    Ok(repository)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_read_off_its_snapshot() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(commit_of(Path::new(&format!("/c/models--a--b/snapshots/{commit}"))), Some(commit));
        assert_eq!(commit_of(Path::new(&format!("/c/{commit}"))), None);
        assert_eq!(commit_of(Path::new("/c/snapshots/main")), None);
    }
}
