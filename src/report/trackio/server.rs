//! Delivery to Trackio over HTTP: to a self-hosted server, or to a Space on the Hub.
//!
//! Records are sent in the order in which they came, consecutive ones of the same kind in one request. Media files are uploaded before the
//! record that names them. The server sets the time of metrics to the time they arrive.
//!
//! A request is tried once: the queue in [`super::uploader`] tries again. A pause that the server asks for is kept here.

use super::TrackioToken;
use super::uploader::{Transport, UploadItem};
use crate::error::{Error, Result, ResultExt};
use crate::hub::http::{Action, Body, Credentials, HttpClient, HttpError, Method, Progress, Request, RetryPolicy, Service, Timeouts};
use crate::hub::token::HubToken;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The version of Trackio's API that is supported.
const API_VERSION: u64 = 1;
/// A server that sends nothing for so long is considered away: the end of a run waits for it.
const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(5), idle: Duration::from_secs(10), min_upload_rate: 32 << 10 };
/// As much of the server's words as is shown.
const MAX_MESSAGE: usize = 200;

/// A Trackio server.
pub(super) struct Server {
    service: Service,
    /// The token of a Space, which is also sent in the body.
    body_token: Option<String>,
    /// What helps if the server refuses to write.
    token_hint: &'static str,
    http: Option<HttpClient>,
    is_compatible: bool,
    /// When the pause ends that the server asked for, and its error until then.
    pause: Option<(Instant, Error)>,
}

impl Server {
    pub(super) fn new(address: String, token: Option<TrackioToken>) -> Self {
        let endpoint = address.trim_end_matches('/').to_owned();
        let is_space = endpoint.ends_with(".hf.space");
        let token_hint =
            if is_space { "set HF_TOKEN to a token that may write there" } else { "set TRACKIO_WRITE_TOKEN to the server's write token" };
        let secret = token.map(|TrackioToken(secret)| secret).filter(|secret| !secret.is_empty());
        let credentials = secret.clone().and_then(|secret| {
            if is_space {
                Credentials::bearer(HubToken::new(secret, "HF_TOKEN"))
            } else {
                Credentials::in_header("x-trackio-write-token", "", HubToken::new(secret, "TRACKIO_WRITE_TOKEN"))
            }
        });
        let service = Service {
            name: "Trackio",
            address_setting: "`tracking.trackio`",
            read_hint: token_hint.to_owned(),
            write_hint: token_hint.to_owned(),
            resume_hint: "see whether the server is up",
            credentials,
            endpoint,
        };
        Self { service, body_token: secret.filter(|_| is_space), token_hint, http: None, is_compatible: false, pause: None }
    }

    fn connect(&mut self) -> Result<()> {
        if self.http.is_none() {
            self.http = Some(HttpClient::new(self.service.clone(), RetryPolicy::none(), TIMEOUTS)?);
        }
        if !self.is_compatible {
            let endpoint = self.service.endpoint.clone();
            let version = self.send(&Request::get(format!("{endpoint}/version")), "connect to Trackio")?;
            match version.get("api_version").and_then(Value::as_u64) {
                Some(API_VERSION) => {}
                Some(other) => {
                    return Err(Error::new(format!(
                        "the Trackio server `{endpoint}` has version {other} of the API, but only {API_VERSION} is supported"
                    ))
                    .hint("use a voxpipe made for it, or another version of Trackio"));
                }
                None => return Err(Error::new(format!("`{endpoint}` is not a Trackio server")).hint("check `tracking.trackio`")),
            }
            self.is_compatible = true;
        }
        Ok(())
    }

    /// Sends a request once; its error is the server's, or that of the connection.
    fn send(&mut self, request: &Request<'_>, action: &str) -> Result<Value> {
        if let Some((until, error)) = &self.pause
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        self.pause = None;
        let Some(http) = &self.http else { return Err(Error::new("there is no connection")) };
        let explain = |error: HttpError| {
            // A server refuses a wrong token with 400.
            let is_refused = matches!(error, HttpError::Status { status: 400..=499, .. });
            let error = http.explain(error, Action::Write(action));
            if is_refused { error.hint(self.token_hint) } else { error }
        };
        let response = match http.send(request, &Progress::silent(&|| false)) {
            Ok(response) => response,
            Err(error) => {
                let pause = error.retry_after().filter(|_| error.is_transient()).map(|pause| pause.min(http.retry.max_retry_after));
                let error = explain(error);
                self.pause = pause.map(|pause| (Instant::now() + pause, error.clone()));
                return Err(error);
            }
        };
        let value = response.json().map_err(explain)?;
        match value.get("error").filter(|error| !error.is_null()) {
            None => Ok(value),
            Some(error) => {
                let said = http.service.redact_text(error.as_str().unwrap_or_default());
                let said: String = said.trim_end_matches('.').chars().take(MAX_MESSAGE).collect();
                Err(Error::new(format!("cannot {action}: Trackio reports \"{said}\"")).hint(self.token_hint))
            }
        }
    }

    fn post(&mut self, path: &str, key: &str, entries: &[Value]) -> Result<()> {
        let body = Body::Json(json!({ key: entries, "hf_token": self.body_token }));
        let request = Request::new(Method::POST, format!("{}/api/{path}", self.service.endpoint), body);
        self.send(&request, &format!("send {key} to Trackio")).map(drop)
    }

    fn upload(&mut self, from: &Path, project: &str, run: &str, step: u64, name: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read `{}`", from.display()))?;
        let boundary = format!("voxpipe-{}", blake3::hash(&bytes).to_hex());
        let escaped: String =
            name.chars().map(|letter| if letter.is_control() || matches!(letter, '"' | '\\') { '_' } else { letter }).collect();
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"files\"; filename=\"{escaped}\"\r\nContent-Type: audio/wav\r\n\r\n"
        );
        let body = [head.as_bytes(), &bytes, format!("\r\n--{boundary}--\r\n").as_bytes()].concat();
        let body = Body::Bytes(body, format!("multipart/form-data; boundary={boundary}"));
        let request = Request::new(Method::POST, format!("{}/api/upload", self.service.endpoint), body);
        let uploaded = self.send(&request, &format!("upload `{name}` to Trackio"))?;
        let path = uploaded.pointer("/paths/0").and_then(Value::as_str);
        let path = path.ok_or_else(|| Error::new(format!("`{}` does not say where it stored `{name}`", self.service.endpoint)))?;
        let entry = json!({
            "project": project, "run": run, "step": step, "relative_path": null,
            "uploaded_file": { "path": path, "meta": { "_type": "gradio.FileData" }, "orig_name": name },
        });
        self.post("bulk_upload_media", "uploads", &[entry])
    }
}

impl Transport for Server {
    fn deliver(&mut self, items: &[UploadItem]) -> Result<usize> {
        self.connect()?;
        let kind = |item: &UploadItem| match item {
            UploadItem::Record(record) => record.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned(),
            UploadItem::Media { .. } => String::new(),
        };
        let Some(first) = items.first() else { return Ok(0) };
        if let UploadItem::Media { from, project, run, step, name } = first {
            return self.upload(from, project, run, *step, name).map(|()| 1);
        }
        let kind_of_first = kind(first);
        let mut entries = Vec::new();
        for item in items.iter().take_while(|item| kind(item) == kind_of_first) {
            if let UploadItem::Record(record) = item {
                entries.push(record.clone());
            }
        }
        let (path, key) = match kind_of_first.as_str() {
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
        self.post(path, key, &entries)?;
        Ok(entries.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::http::testing::{STATUSES, Server as TestServer, reply};

    const SECRET: &str = "a-secret";

    fn server(address: &str) -> Server {
        Server::new(address.to_owned(), Some(TrackioToken::new(SECRET.to_owned())))
    }

    fn metric() -> [UploadItem; 1] {
        [UploadItem::Record(json!({ "kind": "metric", "step": 1 }))]
    }

    #[test]
    fn delivery_tries_once_and_keeps_a_pause_where_the_retry_policy_would() {
        for (status, transient) in STATUSES.iter().copied() {
            let away = TestServer::start(move |_| reply(status, &[("Retry-After", "1")], b"{\"error\":\"a-secret is paused.\"}"));
            let mut server = server(&away.address);
            let error = server.deliver(&metric()).unwrap_err();
            assert!(!format!("{error:?}").contains(SECRET) && error.hint.is_some(), "{status}: {error:?}");
            let again = server.deliver(&metric()).unwrap_err();
            assert_eq!((again.message, away.seen().len()), (error.message, if transient { 1 } else { 2 }), "{status}");
        }
    }

    #[test]
    fn the_token_goes_to_the_server_and_follows_no_redirect() {
        let other = TestServer::start(|_| reply(200, &[], b"{}"));
        let elsewhere = format!("{}/api/bulk_log", other.address);
        let trackio = TestServer::start(move |request| match request.path.as_str() {
            "/version" => reply(200, &[], b"{\"api_version\":1}"),
            _ => reply(307, &[("Location", &elsewhere)], b""),
        });
        let error = server(&trackio.address).deliver(&metric()).unwrap_err();
        assert!(error.message.contains("redirects to another server"), "{error}");
        assert!(other.seen().is_empty() && trackio.seen().iter().all(|seen| seen.header("x-trackio-write-token") == Some(SECRET)));
    }

    #[test]
    fn an_error_in_a_successful_response_is_an_error() {
        let trackio = TestServer::start(|request| match request.path.as_str() {
            "/version" => reply(200, &[], b"{\"api_version\":1}"),
            _ => reply(200, &[], b"{\"error\":\"a-secret is wrong.\"}"),
        });
        let error = server(&trackio.address).deliver(&metric()).unwrap_err();
        assert_eq!(error.message, "cannot send logs to Trackio: Trackio reports \"… is wrong\"");
        let other = TestServer::start(|_| reply(200, &[], b"{\"api_version\":2}"));
        assert!(server(&other.address).deliver(&metric()).unwrap_err().message.contains("has version 2 of the API"));
    }
}
