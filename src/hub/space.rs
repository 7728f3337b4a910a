//! A Space: its files by one commit like any repository's, and beside them what it needs to run; then waiting until it does.
//!
//! Variables and secrets are set before the commit, so that the first build has them. A Space that runs is one that runs *this* commit.
use super::client::HubClient;
use super::publish::{Publication, Published, publish};
use super::token::HubToken;
use super::wire::{Ask, Body, Method, OnProgress, Trouble};
use super::{RepoId, RepoType};
use crate::error::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The longest time between two looks at a Space that is being built.
const LOOK: Duration = Duration::from_secs(15);
/// As many lines of a log as are passed on.
const LINES: usize = 12;

/// What a Space needs beside its files.
#[derive(Debug)]
pub struct SpaceSettings<'a> {
    /// `static`, `gradio` or `docker`.
    pub sdk: &'a str,
    /// As the Hub calls it; what the Space has already if none is given.
    pub hardware: Option<&'a str>,
    /// For everybody to read.
    pub variables: &'a BTreeMap<String, String>,
    /// The model it shows: if that is private, the Space is given a token that may read it.
    pub model: Option<&'a str>,
    /// How long to wait until it runs; not at all if zero.
    pub patience: Duration,
}

/// Makes the Space, or brings it up to date, and waits until it runs. Returns also the stage it was last seen in.
pub fn deploy(
    client: &HubClient,
    files: &Publication<'_>,
    space: &SpaceSettings<'_>,
    voice: &OnProgress<'_>,
) -> Result<(Published, Option<String>)> {
    let user = client.whoami(voice)?;
    let place = client.repo(RepoType::Space, files.repo, &user)?;
    client.may_write(&place, &user, voice)?;
    let job = Job { client, place: &place, voice };
    if client.head(&place, voice)?.is_none() {
        job.create(space, files.private)?;
    }
    for (name, value) in space.variables {
        job.set("variables", name, value)?;
    }
    job.share_reading(space)?;
    let published = publish(client, files, voice)?;
    if let Some(hardware) = space.hardware {
        job.ask_for(hardware)?;
    }
    let stage = if space.patience.is_zero() { None } else { Some(job.wait(&published.revision, space.patience)?) };
    Ok((published, stage))
}

struct Job<'a> {
    client: &'a HubClient,
    place: &'a RepoId,
    voice: &'a OnProgress<'a>,
}

impl Job<'_> {
    fn create(&self, space: &SpaceSettings<'_>, private: bool) -> Result<()> {
        let mut asked =
            json!({ "name": self.place.name, "organization": self.place.owner, "type": "space", "private": private, "sdk": space.sdk });
        if let Some(hardware) = space.hardware {
            asked["hardware"] = json!(hardware);
        }
        match self.client.json(Method::POST, "/api/repos/create", Some(asked), self.voice) {
            Ok(_) | Err(Trouble::Refused(409, ..)) => Ok(()),
            Err(trouble) => Err(self.client.wire.explain(trouble, &format!("make the {} Space `{}`", space.sdk, self.place))),
        }
    }

    fn set(&self, what: &str, name: &str, value: &str) -> Result<()> {
        let path = format!("{}/{what}", self.place.api_path());
        let done = self.client.json(Method::POST, &path, Some(json!({ "key": name, "value": value })), self.voice);
        let doing = || format!("set {name} among the {what} of `{}`", self.place);
        done.map(drop).map_err(|trouble| self.client.wire.explain(trouble, &doing()))
    }

    /// A private model can only be shown with a token. It is one that may read and that was given for that: never the one that publishes.
    fn share_reading(&self, space: &SpaceSettings<'_>) -> Result<()> {
        let Some(model) = space.model else { return Ok(()) };
        let id = RepoId::parse(RepoType::Model, model)
            .ok_or_else(|| Error::new(format!("`{model}` is not a valid repository name")).kind(ErrorKind::InvalidInput))?;
        if space.sdk == "static" || !self.client.is_private(&id, self.voice)? {
            return Ok(());
        }
        let refuse = |why: &str| {
            let message = format!("the model `{model}` is private, so its Space needs a token that may read it{why}");
            let hint = format!(
                "make one that may only read at {}/settings/tokens, and set HF_READ_TOKEN to it; or make the model public",
                self.client.endpoint()
            );
            Err(Error::new(message).environment().hint(hint))
        };
        let Some(token) = HubToken::to_share() else { return refuse("") };
        let theirs = HubClient::new(self.client.endpoint(), Some(token.clone()), Some(self.client.wire.patience))?.whoami(self.voice)?;
        if theirs.role == "write" {
            return refuse(", and HF_READ_TOKEN may write everything");
        }
        self.set("secrets", "HF_TOKEN", token.secret())
    }

    fn ask_for(&self, hardware: &str) -> Result<()> {
        let what = || format!("run `{}` on {hardware}", self.place);
        if self.runtime()?["hardware"]["requested"] == hardware {
            return Ok(());
        }
        let asked = Some(json!({ "flavor": hardware }));
        match self.client.json(Method::POST, &format!("{}/hardware", self.place.api_path()), asked, self.voice) {
            Ok(_) => Ok(()),
            Err(trouble @ Trouble::Refused(402, ..)) => Err(self.client.wire.explain(trouble, &what()).hint(format!(
                "the files are there. Add a way to pay at {}/settings/billing, or choose hardware that is free to you, or `sdk = \"static\"`",
                self.client.endpoint()
            ))),
            Err(trouble) => Err(self.client.wire.explain(trouble, &what())),
        }
    }

    fn runtime(&self) -> Result<Value> {
        let told = self.client.json(Method::GET, &format!("{}/runtime", self.place.api_path()), None, self.voice);
        told.map_err(|trouble| self.client.wire.explain(trouble, &format!("ask how `{}` does", self.place)))
    }

    /// Waits until this commit runs.
    fn wait(&self, revision: &str, patience: Duration) -> Result<String> {
        let begun = Instant::now();
        let mut pause = self.client.wire.patience;
        let mut before = String::new();
        loop {
            let runtime = self.runtime()?;
            let stage = runtime["stage"].as_str().unwrap_or_default();
            let ours = runtime["sha"].as_str().is_none_or(|sha| sha == revision);
            if stage != before {
                (self.voice.note)(format!("the Space `{}` is {stage}", self.place));
                stage.clone_into(&mut before);
            }
            match stage {
                "RUNNING" if ours => return Ok(stage.to_owned()),
                "BUILD_ERROR" | "CONFIG_ERROR" | "RUNTIME_ERROR" | "NO_APP_FILE" => return Err(self.failed(stage, &runtime)),
                "PAUSED" | "STOPPED" | "DELETING" => {
                    return Err(Error::new(format!("the Space `{}` is {stage}", self.place))
                        .environment()
                        .hint(format!("its files are there; start it at {}", self.client.page(self.place))));
                }
                // It wakes up when somebody looks at it.
                "SLEEPING" if ours => return Ok(stage.to_owned()),
                _ => {}
            }
            if begun.elapsed() >= patience {
                let message = format!("the Space `{}` does not run after {} s; it is {stage}", self.place, patience.as_secs());
                return Err(Error::new(message).environment().hint(format!(
                    "its files are there: look at {}, raise `wait_seconds`, or run again to go on waiting",
                    self.client.page(self.place)
                )));
            }
            let rest = patience.saturating_sub(begun.elapsed());
            let stopped = |trouble| self.client.wire.explain(trouble, &format!("see whether `{}` runs", self.place));
            self.client.wire.wait(pause.min(rest), self.voice).map_err(stopped)?;
            pause = (pause * 2).min(LOOK);
        }
    }

    /// Why it does not run, with the end of the log that says so.
    fn failed(&self, stage: &str, runtime: &Value) -> Error {
        let which = if stage == "RUNTIME_ERROR" { "run" } else { "build" };
        let mut message = format!("the Space `{}` does not run: {stage}", self.place);
        if let Some(words) = runtime["errorMessage"].as_str() {
            message = format!("{message}: {words}");
        }
        for line in self.log(which) {
            message = format!("{message}\n  | {line}");
        }
        Error::new(message).environment().hint(format!("look at {}; when it is mended, run again", self.client.page(self.place)))
    }

    /// The last lines of a log: server-sent events with one line each. What cannot be had is left out.
    fn log(&self, which: &str) -> Vec<String> {
        let url = format!("{}{}/logs/{which}", self.client.wire.endpoint, self.place.api_path());
        let Ok(answer) = self.client.wire.once(&Ask { method: Method::GET, url, body: Body::None }, self.voice) else { return Vec::new() };
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let said = |line: &str| {
            let event: Value = serde_json::from_str(line.strip_prefix("data:")?.trim()).ok()?;
            Some(event["data"].as_str()?.trim_end().chars().filter(|c| !c.is_control()).collect::<String>())
        };
        let lines: Vec<String> = text.lines().filter_map(said).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(LINES)..].to_vec()
    }
}
