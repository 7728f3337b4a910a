//! `target = "hub"` of a stage: the same files as in a folder, put into a repository by one commit.

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

/// Where to, and how.
pub(super) struct PublishRequest<'a> {
    /// What kind of repository.
    pub(super) kind: RepoType,
    /// `owner/name`, or `name` for the token's user.
    pub(super) repo: &'a str,
    /// Whether a repository that is made is private.
    pub(super) private: bool,
    /// Whether to replace what we did not put there.
    pub(super) overwrite: bool,
    /// What the commit is called.
    pub(super) message: Option<&'a str>,
}

/// Puts files (path in the repository → file here) into a repository.
pub(super) fn send(cx: &Context, order: &PublishRequest<'_>, files: &BTreeMap<String, PathBuf>) -> Result<Published> {
    let client = HubClient::for_writing()?;
    carry(cx, order, files, |what, progress| publish(&client, what, progress))
}

/// Puts files into a Space, and sees to it that it runs; returns the stage it was last seen in.
pub(super) fn send_space(
    cx: &Context,
    order: &PublishRequest<'_>,
    files: &BTreeMap<String, PathBuf>,
    space: &SpaceSettings<'_>,
) -> Result<(Published, Option<String>)> {
    let client = HubClient::for_writing()?;
    carry(cx, order, files, |what, progress| deploy(&client, what, space, progress))
}

fn carry<T>(
    cx: &Context,
    order: &PublishRequest<'_>,
    files: &BTreeMap<String, PathBuf>,
    work: impl FnOnce(&Publication<'_>, &Progress<'_>) -> Result<T>,
) -> Result<T> {
    let message = order.message.map_or_else(|| format!("Publish `{}` of the pipeline `{}`", cx.stage, cx.pipeline), str::to_owned);
    let what = Publication {
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
    work(&what, &progress)
}

/// Whether the token may write to a repository; says who it is and where the repository is or will be. Nothing without the network.
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

/// What is said where the settings name no repository.
pub(super) fn no_repo() -> Error {
    Error::new("there is no repository to publish to")
        .kind(ErrorKind::InvalidInput)
        .hint("write `repo = \"NAME\"` or `repo = \"OWNER/NAME\"`")
}

/// What is wrong with the name of a repository.
pub(super) fn bad_repo(repo: &str) -> Option<SettingError> {
    let (owner, name) = repo.split_once('/').unwrap_or(("owner", repo));
    let hint = "use letters, digits, `-`, `_` and `.`, with at most one `/`";
    RepoId::of(RepoType::Model, owner, name)
        .is_none()
        .then(|| SettingError::new("repo", format!("`{repo}` cannot be the name of a repository")).hint(hint))
}
