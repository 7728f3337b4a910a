//! Deploying a Space: its files by one commit, its settings, and waiting until it runs.
//!
//! Variables and secrets are set before the commit, so that the first build has them. A Space counts as running when it runs *this* commit.
use super::client::{HubClient, invalid_repo};
use super::http::{HttpError, Progress, Request};
use super::publish::{Publication, Published, publish};
use super::token::HubToken;
use super::{RepoId, RepoType};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest interval between status requests while a Space is being built.
const MAX_POLL: Duration = Duration::from_secs(15);
/// Lines of a log that are shown.
const LOG_LINES: usize = 12;
/// How long a log is read: the server keeps the stream open.
const LOG_TIME: Duration = Duration::from_secs(10);

/// The settings of a Space.
#[derive(Debug)]
pub struct SpaceSettings<'a> {
    /// `static`, `gradio` or `docker`.
    pub sdk: &'a str,
    /// The Hub's name for it; `None` leaves it as it is.
    pub hardware: Option<&'a str>,
    /// Variables; anyone can read them.
    pub variables: &'a BTreeMap<String, String>,
    /// The model it shows. If it is private, the Space gets a token that may read it.
    pub model: Option<&'a str>,
    /// How long to wait until it runs; zero does not wait.
    pub patience: Duration,
}

/// Creates or updates a Space, and waits until it runs. Also returns the last known stage.
pub fn deploy(
    client: &HubClient,
    files: &Publication<'_>,
    space: &SpaceSettings<'_>,
    progress: &Progress<'_>,
) -> Result<(Published, Option<String>)> {
    let user = client.whoami(progress)?;
    let repo = client.repo(RepoType::Space, files.repo, &user)?;
    client.may_write(&repo, &user, progress)?;
    let job = Job { client, repo: &repo, progress };
    if client.head(&repo, progress)?.is_none() {
        job.create(space, files.private)?;
    }
    for (name, value) in space.variables {
        job.set("variables", name, value)?;
    }
    job.share_token(space)?;
    let published = publish(client, files, progress)?;
    if let Some(hardware) = space.hardware {
        job.request_hardware(hardware)?;
    }
    let stage = if space.patience.is_zero() { None } else { Some(job.wait(&published.revision, space.patience)?) };
    Ok((published, stage))
}

struct Job<'a> {
    client: &'a HubClient,
    repo: &'a RepoId,
    progress: &'a Progress<'a>,
}

impl Job<'_> {
    fn create(&self, space: &SpaceSettings<'_>, private: bool) -> Result<()> {
        let RepoId { owner, name, .. } = self.repo;
        let mut settings = json!({ "name": name, "organization": owner, "type": "space", "private": private, "sdk": space.sdk });
        if let Some(hardware) = space.hardware {
            settings["hardware"] = json!(hardware);
        }
        let created = self.client.create_with(settings, self.progress);
        created.map_err(|error| self.client.cannot(&format!("create the {} Space `{}`", space.sdk, self.repo), error))
    }

    /// Sets a variable or a secret; `kind` is the Hub's name for that list.
    fn set(&self, kind: &str, name: &str, value: &str) -> Result<()> {
        let path = format!("{}/{kind}", self.repo.api_path());
        let response = self.client.post(&path, json!({ "key": name, "value": value }), self.progress);
        response.map(drop).map_err(|error| self.client.cannot(&format!("set {name} in the {kind} of `{}`", self.repo), error))
    }

    /// A private model can only be shown with a token. The Space gets HF_READ_TOKEN, and never a token that may write.
    fn share_token(&self, space: &SpaceSettings<'_>) -> Result<()> {
        let Some(model) = space.model else { return Ok(()) };
        let id = RepoId::parse(RepoType::Model, model).ok_or_else(|| invalid_repo(model))?;
        if space.sdk == "static" || !self.client.is_private(&id, self.progress)? {
            return Ok(());
        }
        let refuse = |why: &str| {
            let message = format!("the model `{model}` is private, so its Space needs a token that may read it{why}");
            let hint = format!(
                "create a read-only token at {}/settings/tokens, and set HF_READ_TOKEN to it; or make the model public",
                self.client.endpoint()
            );
            Err(Error::new(message).environment().hint(hint))
        };
        let Some(token) = HubToken::to_share() else { return refuse("") };
        let user = HubClient::new(self.client.endpoint(), Some(token.clone()), self.client.http.retry)?.whoami(self.progress)?;
        if user.role == "write" {
            return refuse(", and HF_READ_TOKEN may write everything");
        }
        self.set("secrets", "HF_TOKEN", token.secret())
    }

    fn request_hardware(&self, hardware: &str) -> Result<()> {
        let what = || format!("run `{}` on {hardware}", self.repo);
        if self.runtime()?["hardware"]["requested"] == hardware {
            return Ok(());
        }
        match self.client.post(&format!("{}/hardware", self.repo.api_path()), json!({ "flavor": hardware }), self.progress) {
            Ok(_) => Ok(()),
            Err(error @ HttpError::Status { status: 402, .. }) => Err(self.client.cannot(&what(), error).hint(format!(
                "the files are uploaded. Add a payment method at {}/settings/billing, or choose free hardware, or `sdk = \"static\"`",
                self.client.endpoint()
            ))),
            Err(error) => Err(self.client.cannot(&what(), error)),
        }
    }

    fn runtime(&self) -> Result<Value> {
        let runtime = self.client.get(&format!("{}/runtime", self.repo.api_path()), self.progress);
        runtime.map_err(|error| self.client.cannot(&format!("get the status of `{}`", self.repo), error))
    }

    /// Waits until this commit runs.
    fn wait(&self, revision: &str, patience: Duration) -> Result<String> {
        let begun = Instant::now();
        let mut pause = self.client.http.retry.base_delay;
        let mut before = String::new();
        loop {
            let runtime = self.runtime()?;
            let stage = runtime["stage"].as_str().unwrap_or_default();
            let ours = runtime["sha"].as_str().is_none_or(|sha| sha == revision);
            if stage != before {
                (self.progress.note)(format!("the Space `{}` is {stage}", self.repo));
                stage.clone_into(&mut before);
            }
            match stage {
                "RUNNING" if ours => return Ok(stage.to_owned()),
                "BUILD_ERROR" | "CONFIG_ERROR" | "RUNTIME_ERROR" | "NO_APP_FILE" => return Err(self.failed(stage, &runtime)),
                "PAUSED" | "STOPPED" | "DELETING" => {
                    return Err(Error::new(format!("the Space `{}` is {stage}", self.repo))
                        .environment()
                        .hint(format!("its files are uploaded; start it at {}", self.client.page(self.repo))));
                }
                // It wakes up when someone opens its page.
                "SLEEPING" if ours => return Ok(stage.to_owned()),
                _ => {}
            }
            if begun.elapsed() >= patience {
                let message = format!("the Space `{}` is not running after {} s; it is {stage}", self.repo, patience.as_secs());
                return Err(Error::new(message).environment().hint(format!(
                    "its files are uploaded: look at {}, raise `wait_seconds`, or run again to continue waiting",
                    self.client.page(self.repo)
                )));
            }
            let rest = patience.saturating_sub(begun.elapsed());
            let stopped = |error| self.client.cannot(&format!("wait for `{}`", self.repo), error);
            self.client.http.wait(pause.min(rest), self.progress).map_err(stopped)?;
            pause = (pause * 2).min(MAX_POLL);
        }
    }

    /// The error for a Space that failed, with the end of its log.
    fn failed(&self, stage: &str, runtime: &Value) -> Error {
        let which = if stage == "RUNTIME_ERROR" { "run" } else { "build" };
        let mut message = format!("the Space `{}` failed: {stage}", self.repo);
        if let Some(words) = runtime["errorMessage"].as_str() {
            message = format!("{message}: {words}");
        }
        for line in self.log(which) {
            message = format!("{message}\n  | {line}");
        }
        Error::new(message).environment().hint(format!("look at {}; when it is fixed, run again", self.client.page(self.repo)))
    }

    /// The last lines of a log, which is sent as server-sent events of one line each; nothing if it cannot be read.
    fn log(&self, which: &str) -> Vec<String> {
        let url = format!("{}{}/logs/{which}", self.client.endpoint(), self.repo.api_path());
        let Ok(response) = self.client.http.send_once(&Request::get(url).time_limit(LOG_TIME), self.progress) else { return Vec::new() };
        let text = String::from_utf8_lossy(&response.body).into_owned();
        let said = |line: &str| {
            let event: Value = serde_json::from_str(line.strip_prefix("data:")?.trim()).ok()?;
            Some(event["data"].as_str()?.trim_end().chars().filter(|c| !c.is_control()).collect::<String>())
        };
        let lines: Vec<String> = text.lines().filter_map(said).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].to_vec()
    }
}
