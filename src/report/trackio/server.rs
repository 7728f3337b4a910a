//! Trackio somewhere else: a server of one's own, or a Space on the Hub.
//!
//! Records go in the order they came, those of a kind together in one request; recordings are uploaded before the record that names
//! them. The server stamps metrics with the time they arrive.

use super::TrackioToken;
use super::uploader::{Transport, UploadItem};
use crate::error::{Error, Result, ResultExt};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The version of the interface that is spoken.
const API: u64 = 1;
/// A server that does not answer for so long is away.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A server with the way to it.
pub(super) struct Server {
    address: String,
    token: Option<TrackioToken>,
    line: Option<(Client, Runtime)>,
    greeted: bool,
}

impl Server {
    pub(super) fn new(address: String, token: Option<TrackioToken>) -> Self {
        Self { address: address.trim_end_matches('/').to_owned(), token, line: None, greeted: false }
    }

    /// Space or server of one's own: they want their token in other places.
    fn is_space(&self) -> bool {
        self.address.ends_with(".hf.space")
    }

    fn connect(&mut self) -> Result<()> {
        if self.line.is_none() {
            let agent = concat!("voxpipe/", env!("CARGO_PKG_VERSION"));
            let client = Client::builder().user_agent(agent).timeout(TIMEOUT).connect_timeout(TIMEOUT / 2).build();
            let client = client.map_err(|error| Error::new(format!("there is no way to the network: {error}")))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().with_context(|| "cannot speak to a server")?;
            self.line = Some((client, runtime));
        }
        if !self.greeted {
            let version = self.ask(|client, address| client.get(format!("{address}/version")))?;
            match version.get("api_version").and_then(Value::as_u64) {
                Some(API) => self.greeted = true,
                Some(other) => {
                    return Err(Error::new(format!(
                        "`{}` speaks version {other} of Trackio's interface, and we speak {API}",
                        self.address
                    ))
                    .hint("use a voxpipe made for it, or another version of Trackio there"));
                }
                None => {
                    return Err(Error::new(format!("`{}` does not say that it is Trackio", self.address)).hint("check `tracking.trackio`"));
                }
            }
        }
        Ok(())
    }

    /// A question and its answer. The token is in no message, whatever the server says.
    fn ask(&self, question: impl FnOnce(&Client, &str) -> RequestBuilder) -> Result<Value> {
        let Some((client, runtime)) = &self.line else { return Err(Error::new("there is no connection")) };
        let mut question = question(client, &self.address);
        if let Some(TrackioToken(token)) = &self.token {
            question = if self.is_space() { question.bearer_auth(token) } else { question.header("X-Trackio-Write-Token", token) };
        }
        let hidden = |text: String| match &self.token {
            Some(TrackioToken(token)) if !token.is_empty() => text.replace(token.as_str(), "…"),
            _ => text,
        };
        let answered = runtime.block_on(async {
            let response: Response = question.send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.text().await?))
        });
        let (status, text) = answered.map_err(|error| {
            let why = if error.is_timeout() {
                "does not answer"
            } else if error.is_connect() {
                "cannot be reached"
            } else {
                "broke off"
            };
            Error::new(format!("`{}` {why}", self.address)).hint("check the address and the network")
        })?;
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() && value.get("error").is_none_or(Value::is_null) {
            return Ok(value);
        }
        let said = value.get("error").and_then(Value::as_str).unwrap_or_default();
        let hint = if self.is_space() {
            "set HF_TOKEN to a token that may write there"
        } else {
            "set TRACKIO_WRITE_TOKEN to the server's write token"
        };
        let said: String = hidden(said.trim_end_matches('.').to_owned()).chars().take(200).collect();
        Err(Error::new(format!("`{}` answers {}: {said}", self.address, status.as_u16()).trim_end_matches(": ").to_owned()).hint(hint))
    }

    fn post(&self, what: &str, key: &str, entries: &[Value]) -> Result<()> {
        let token = self.token.as_ref().filter(|_| self.is_space()).map(|TrackioToken(token)| token);
        let body = json!({ key: entries, "hf_token": token }).to_string();
        self.ask(|client, address| client.post(format!("{address}/api/{what}")).header("Content-Type", "application/json").body(body))
            .map(drop)
    }

    fn upload(&self, from: &Path, project: &str, run: &str, step: u64, name: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read `{}`", from.display()))?;
        let edge = format!("voxpipe-{}", blake3::hash(&bytes).to_hex());
        let plain: String =
            name.chars().map(|letter| if letter.is_control() || matches!(letter, '"' | '\\') { '_' } else { letter }).collect();
        let head =
            format!("--{edge}\r\nContent-Disposition: form-data; name=\"files\"; filename=\"{plain}\"\r\nContent-Type: audio/wav\r\n\r\n");
        let body = [head.as_bytes(), &bytes, format!("\r\n--{edge}--\r\n").as_bytes()].concat();
        let kind = format!("multipart/form-data; boundary={edge}");
        let answer = self.ask(|client, address| client.post(format!("{address}/api/upload")).header("Content-Type", kind).body(body))?;
        let path = answer.pointer("/paths/0").and_then(Value::as_str);
        let path = path.ok_or_else(|| Error::new(format!("`{}` does not say where it put `{name}`", self.address)))?;
        let entry = json!({
            "project": project, "run": run, "step": step, "relative_path": null,
            "uploaded_file": { "path": path, "meta": { "_type": "gradio.FileData" }, "orig_name": name },
        });
        self.post("bulk_upload_media", "uploads", &[entry])
    }
}

impl Transport for Server {
    fn deliver(&mut self, parcels: &[UploadItem]) -> Result<usize> {
        self.connect()?;
        let kind = |parcel: &UploadItem| match parcel {
            UploadItem::Record(record) => record.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned(),
            UploadItem::Media { .. } => String::new(),
        };
        let Some(first) = parcels.first() else { return Ok(0) };
        if let UploadItem::Media { from, project, run, step, name } = first {
            return self.upload(from, project, run, *step, name).map(|()| 1);
        }
        let kind_of_first = kind(first);
        let mut entries = Vec::new();
        for parcel in parcels.iter().take_while(|parcel| kind(parcel) == kind_of_first) {
            if let UploadItem::Record(record) = parcel {
                entries.push(record.clone());
            }
        }
        let (what, key) = match kind_of_first.as_str() {
            "metric" => ("bulk_log", "logs"),
            "system_metric" => ("bulk_log_system", "logs"),
            _ => ("bulk_alert", "alerts"),
        };
        for entry in &mut entries {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("v");
                entry.remove("kind");
            }
        }
        self.post(what, key, &entries)?;
        Ok(entries.len())
    }
}
