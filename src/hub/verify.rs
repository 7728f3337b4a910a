//! Whether a publication lies on the Hub as its result says: at the same address, by the same user, with the same content.
//!
//! Asked are the user, the newest commit and its list of files with their digests: three small requests, and no file is downloaded.

use super::client::HubClient;
use super::http::{Progress, RetryPolicy, Timeouts};
use super::publish::LocalFile;
use super::token::HubToken;
use super::{Network, RepoId, RepoType, cache};
use crate::data::text::first_few;
use crate::error::{Error, Result};
use pipeline::stage::PublicationState;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a result tells about the publication it made.
#[derive(Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// The address of the Hub.
    pub endpoint: String,
    /// The user whose token published it.
    pub user: String,
    /// `model`, `dataset` or `space`.
    pub repo_type: String,
    /// `owner/name`
    pub repo: String,
    /// The published files.
    pub files: Vec<LocalFile>,
}

/// Compares a publication with the receipt in a JSON file of its result. Without `connect`, only the address of the Hub is compared.
pub fn verify(receipt: &Path, connect: bool, stop: &AtomicBool) -> PublicationState {
    let read = std::fs::read(receipt).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(receipt): Option<Receipt> = read else {
        return PublicationState::Changed("its result does not tell by whom and where it was published".to_owned());
    };
    let endpoint = cache::endpoint();
    if receipt.endpoint != endpoint {
        return PublicationState::Changed(format!("it was published at {}, and the Hub is now {endpoint}", receipt.endpoint));
    }
    if !connect {
        return PublicationState::NotChecked("`run` and `--check-remote` ask the Hub".to_owned());
    }
    if Network::unless(false) == Network::Forbidden {
        return PublicationState::NotChecked("the network is not to be used".to_owned());
    }
    let Some(token) = HubToken::for_writing() else {
        return PublicationState::NotChecked("there is no token to ask the Hub with; set HF_TOKEN".to_owned());
    };
    // Impatient: a Hub that does not answer must not hold up a run that has nothing else to do with it.
    let retry = RetryPolicy { max_attempts: 2, max_retry_after: Duration::from_secs(5), ..RetryPolicy::default() };
    let timeouts = Timeouts { connect: Duration::from_secs(5), idle: Duration::from_secs(20), ..Timeouts::default() };
    let cancelled = || stop.load(Ordering::Relaxed);
    let state = HubClient::with_timeouts(&endpoint, Some(token), retry, timeouts)
        .and_then(|client| compare(&client, &receipt, &Progress::silent(&cancelled)));
    state.unwrap_or_else(|error| PublicationState::NotChecked(error.message))
}

/// Asks the Hub. An error means that it did not answer.
fn compare(client: &HubClient, receipt: &Receipt, progress: &Progress<'_>) -> Result<PublicationState> {
    let user = client.whoami(progress)?;
    if user.name != receipt.user {
        return Ok(PublicationState::Changed(format!("`{}` published it, and the token is now of `{}`", receipt.user, user.name)));
    }
    let kind = [RepoType::Model, RepoType::Dataset, RepoType::Space].into_iter().find(|kind| kind.word() == receipt.repo_type);
    let id = kind
        .and_then(|kind| RepoId::parse(kind, &receipt.repo))
        .ok_or_else(|| Error::new(format!("`{}` is not a repository", receipt.repo)))?;
    let Some(head) = client.head(&id, progress)? else {
        return Ok(PublicationState::Changed(format!("`{id}` does not exist any more")));
    };
    let remote = client.tree(&id, &head, progress)?;
    let same = |file: &&LocalFile| remote.get(&file.path).is_some_and(|found| file.matches(found));
    let wrong: Vec<String> = receipt.files.iter().filter(|file| !same(file)).map(|file| file.path.clone()).collect();
    Ok(match wrong.len() {
        0 => PublicationState::Unchanged,
        count => {
            let are = if count == 1 { "is" } else { "are" };
            PublicationState::Changed(format!("{} of `{id}` {are} missing or changed", first_few(&wrong, 3)))
        }
    })
}
