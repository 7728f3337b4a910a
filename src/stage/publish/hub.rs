//! `target = "hub"`: the same files as in a folder, put into a repository by one commit.

use super::super::Context;
use crate::error::{Error, Exit, Result};
use crate::hub::client::{Client, RepoType};
use crate::hub::publish::{Publication, Published, publish};
use crate::hub::wire::Voice;
use crate::hub::{Network, client};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Where to, and how.
pub struct Order<'a> {
    /// What kind of repository.
    pub kind: RepoType,
    /// `owner/name`, or `name` for the token's user.
    pub repo: &'a str,
    /// Whether a repository that is made is private.
    pub private: bool,
    /// Whether to replace what we did not put there.
    pub overwrite: bool,
    /// What the commit is called.
    pub message: Option<&'a str>,
}

/// Puts files (path in the repository → file here) into a repository.
pub fn send(cx: &Context, order: &Order<'_>, files: &BTreeMap<String, PathBuf>) -> Result<Published> {
    let client = Client::for_writing()?;
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
    let voice = Voice {
        stop: &cx.stop,
        note: &|words| cx.note(words),
        progress: &|done, total, file| cx.progress(done >> 10, total >> 10, "KiB", format!("uploading {file}")),
    };
    publish(&client, &what, &voice)
}

/// Whether the token may write to a repository; says who it is and where the repository is or will be. Nothing without the network.
pub fn may(kind: RepoType, repo: &str, stop: &AtomicBool) -> Result<Option<String>> {
    if Network::unless(false) == Network::Forbidden {
        return Ok(None);
    }
    let client = Client::for_writing()?;
    let voice = Voice { stop, note: &|_| (), progress: &|_, _, _| () };
    let user = client.whoami(&voice)?;
    let place: client::Place = client.place(kind, repo, &user);
    client.may_write(&place, &user, &voice)?;
    Ok(Some(format!("`{}` may write to {}", user.name, client.page(&place))))
}

/// What is said where the settings name no repository.
pub(super) fn no_repo() -> Error {
    Error::new("there is no repository to publish to").exit(Exit::Usage).advice("write `repo = \"NAME\"` or `repo = \"OWNER/NAME\"`")
}
