//! Publishing to the Hub (`target = "hub"`): uploads the files of a stage to a repository in one commit.

use crate::error::{Error, ErrorKind, Result};
use crate::hub::client::HubClient;
use crate::hub::http::Progress;
use crate::hub::publish::{Publication, Published, publish};
use crate::hub::space::{SpaceSettings, deploy};
use crate::hub::{Network, RepoId, RepoType};
use pipeline::stage::{Context, SettingError};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Target repository and options of an upload.
pub(super) struct PublishRequest<'a> {
    /// Type of the repository.
    pub(super) kind: RepoType,
    /// `owner/name`, or `name` for the token's user.
    pub(super) repo: &'a str,
    /// Whether a newly created repository is private.
    pub(super) private: bool,
    /// Whether to replace files that this stage did not publish.
    pub(super) overwrite: bool,
    /// Commit message; a default one if `None`.
    pub(super) message: Option<&'a str>,
}

/// Uploads files (path in the repository → local file) to a repository.
pub(super) fn send(cx: &Context, order: &PublishRequest<'_>, files: &BTreeMap<String, PathBuf>) -> Result<Published> {
    let client = HubClient::for_writing()?;
    carry(cx, order, files, |publication, progress| publish(&client, publication, progress))
}

/// Uploads files to a Space and waits until it runs. Returns its last known state.
pub(super) fn send_space(
    cx: &Context,
    order: &PublishRequest<'_>,
    files: &BTreeMap<String, PathBuf>,
    space: &SpaceSettings<'_>,
) -> Result<(Published, Option<String>)> {
    let client = HubClient::for_writing()?;
    carry(cx, order, files, |publication, progress| deploy(&client, publication, space, progress))
}

/// Runs an upload with progress, notes and interruption connected to the stage's context.
fn carry<T>(
    cx: &Context,
    order: &PublishRequest<'_>,
    files: &BTreeMap<String, PathBuf>,
    work: impl FnOnce(&Publication<'_>, &Progress<'_>) -> Result<T>,
) -> Result<T> {
    let message = order.message.map_or_else(|| format!("Publish `{}` of the pipeline `{}`", cx.stage, cx.pipeline), str::to_owned);
    let publication = Publication {
        kind: order.kind,
        repo: order.repo,
        files,
        private: order.private,
        overwrite: order.overwrite,
        message: &message,
        by: [&cx.pipeline, &cx.stage],
        scratch: &cx.scratch,
    };
    let progress = Progress {
        cancelled: &|| cx.stopping(),
        note: &|text| cx.note(text),
        bytes: &|done, total, file| cx.progress(done >> 10, total >> 10, "KiB", format!("uploading {file}")),
    };
    work(&publication, &progress)
}

/// Checks that the token may write to a repository. Returns a message with the user and the repository's URL; `None` if the network is
/// not to be used.
pub(super) fn may_write(kind: RepoType, repo: &str, stop: &AtomicBool) -> Result<Option<String>> {
    if Network::unless(false) == Network::Forbidden {
        return Ok(None);
    }
    let client = HubClient::for_writing()?;
    let cancelled = || stop.load(Ordering::Relaxed);
    let progress = Progress::silent(&cancelled);
    let user = client.whoami(&progress)?;
    let repo = client.repo(kind, repo, &user)?;
    client.may_write(&repo, &user, &progress)?;
    Ok(Some(format!("`{}` may write to {}", user.name, client.page(&repo))))
}

/// The error for settings without a repository.
pub(super) fn no_repo() -> Error {
    Error::new("no repository to publish to").kind(ErrorKind::InvalidInput).hint("set `repo = \"NAME\"` or `repo = \"OWNER/NAME\"`")
}

/// The error for an invalid repository name.
pub(super) fn bad_repo(repo: &str) -> Option<SettingError> {
    let (owner, name) = repo.split_once('/').unwrap_or(("owner", repo));
    let hint = "use letters, digits, `-`, `_` and `.`, with at most one `/`";
    RepoId::of(RepoType::Model, owner, name)
        .is_none()
        .then(|| SettingError::new("repo", format!("`{repo}` cannot be the name of a repository")).hint(hint))
}
