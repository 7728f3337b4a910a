//! Why a request failed, and what that means for the user.

use super::retry;
use super::service::Service;
use crate::error::{Error, ErrorKind};
use std::fmt;
use std::time::Duration;

/// Why a request has no successful response.
#[derive(Debug)]
pub enum HttpError {
    /// The server answered with an error.
    Status {
        /// The HTTP status.
        status: u16,
        /// `X-Error-Code`, such as `RevisionNotFound`; empty if there is none.
        code: String,
        /// The server's own words, without the token; may be empty.
        message: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// Scheme, host and port of the server that answered; a redirect may have led elsewhere. Empty for the service itself.
        origin: String,
    },
    /// No connection could be made.
    Connect {
        /// Scheme, host and port.
        origin: String,
    },
    /// The server sent nothing for too long.
    Timeout {
        /// Scheme, host and port.
        origin: String,
        /// The time limit.
        limit: Duration,
    },
    /// The connection was lost. The server may have done what was asked, or not.
    Disconnected,
    /// The transfer of a file failed, for this reason; as `Disconnected` otherwise.
    Transfer(String),
    /// The response cannot be used: the wrong format, or a redirect that must not be followed.
    InvalidResponse(String),
    /// The caller asked to stop.
    Cancelled,
    /// Not the server's fault: a file cannot be read, for example.
    Local(Error),
}

/// What a request is for, as its errors name it.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Reading this, such as the name of a dataset.
    Read(&'a str),
    /// Doing this, which may change something: a phrase that begins with a verb.
    Write(&'a str),
}

impl fmt::Display for Action<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(what) => write!(f, "read {what}"),
            Self::Write(doing) => f.write_str(doing),
        }
    }
}

impl HttpError {
    /// An error status of the service itself, with the server's own words.
    pub fn status(status: u16, message: impl Into<String>) -> Self {
        Self::Status { status, code: String::new(), message: message.into(), retry_after: None, origin: String::new() }
    }

    /// The same error with the server's error code, if it is an error status.
    #[must_use]
    pub fn coded(mut self, with: &str) -> Self {
        if let Self::Status { code, .. } = &mut self {
            with.clone_into(code);
        }
        self
    }

    /// The same error with the pause that the server asks for, if it is an error status.
    #[must_use]
    pub fn asking_for(mut self, pause: Option<Duration>) -> Self {
        if let Self::Status { retry_after, .. } = &mut self {
            *retry_after = pause;
        }
        self
    }

    pub(super) fn timeout(origin: impl Into<String>, limit: Duration) -> Self {
        Self::Timeout { origin: origin.into(), limit }
    }

    /// Whether the next attempt may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => retry::is_transient(*status),
            Self::Connect { .. } | Self::Timeout { .. } | Self::Disconnected | Self::Transfer(_) => true,
            Self::InvalidResponse(_) | Self::Cancelled | Self::Local(_) => false,
        }
    }

    /// How long the server asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Status { retry_after, .. } = self { *retry_after } else { None }
    }

    /// What the failure means for the user: what could not be done, why, and what to do next. The token is in no message.
    pub fn explain(self, action: Action<'_>, service: &Service) -> Error {
        let Service { name, address_setting, resume_hint, .. } = service;
        let failed = |why: String| Error::new(format!("cannot {action}: {why}")).environment();
        let error = match self {
            Self::Status { status, code, message, retry_after, origin } => {
                explain_status(action, service, (status, &code, &message), retry_after, &origin)
            }
            Self::Connect { origin } => {
                failed(format!("`{origin}` cannot be reached")).hint(format!("check the network and {address_setting}, then run again"))
            }
            Self::Timeout { origin, limit } => {
                failed(format!("`{origin}` sent nothing for {} s", limit.as_secs())).hint(format!("check the network; {resume_hint}"))
            }
            Self::Disconnected => failed("the connection was lost".to_owned()).hint(*resume_hint),
            Self::Transfer(why) => failed(format!("the transfer failed: {why}")).hint(*resume_hint),
            Self::InvalidResponse(why) => failed(format!("{name} sent an invalid response: {why}"))
                .hint(format!("check {address_setting}, and whether a proxy answers in place of {name}")),
            Self::Cancelled => {
                Error::new(format!("stopped before it could {action}")).kind(ErrorKind::Interrupted).hint("run again to continue")
            }
            Self::Local(error) => error,
        };
        service.redact(error)
    }
}

/// The one place that says what a status means.
fn explain_status(
    action: Action<'_>,
    service: &Service,
    (status, code, message): (u16, &str, &str),
    retry_after: Option<Duration>,
    origin: &str,
) -> Error {
    let Service { name, address_setting, resume_hint, .. } = service;
    let token = service.credentials.as_ref().map(|credentials| format!("the token from {}", credentials.source));
    let said = if message.is_empty() { String::new() } else { format!(" (\"{message}\")") };
    let failed = |why: String| Error::new(format!("cannot {action}: {why}{said}")).environment();
    let is_read = matches!(action, Action::Read(_));
    let access = if is_read { &service.read_hint } else { &service.write_hint };
    let returned = |who: &str| failed(format!("{who} returned {}", status_name(status)));
    match (status, &token) {
        // The token is only ever sent to the service itself, so what another server refuses has nothing to do with it.
        (..500, _) if !origin.is_empty() && !matches!(status, 408 | 429) => {
            let kind = if is_read && status == 404 { ErrorKind::InvalidInput } else { ErrorKind::Environment };
            returned(&format!("`{origin}`")).kind(kind).hint(*resume_hint)
        }
        (401, None) if is_read => failed("it is private or gated, or it does not exist, and no token is set".to_owned())
            .hint(format!("check the name; if it is right, {access}")),
        (401, None) => failed("this needs a token, and none is set".to_owned()).hint(access),
        (401, Some(token)) => failed(format!("{name} does not accept {token}")).hint(format!("check that the token is valid, or {access}")),
        (402, _) => failed(format!("{name} asks for payment"))
            .hint(format!("choose what is free (`sdk = \"static\"` for a Space), or see {}/pricing", service.endpoint)),
        (403, Some(token)) if is_read => failed(format!("{token} may not read it: it is gated or private")).hint(access),
        (403, Some(token)) => failed(format!("{token} does not allow this")).hint(access),
        (403, None) => failed("access denied, and no token is set".to_owned()).hint(access),
        (404, _) if is_read => {
            let missing = match code {
                "RevisionNotFound" => "the repository has no such revision",
                "EntryNotFound" => "the repository has no such file or folder",
                _ => "there is no such repository",
            };
            // Running again cannot help.
            Error::new(format!("cannot {action}: {missing}"))
                .kind(ErrorKind::InvalidInput)
                .hint("check the name of the repository and its revision")
        }
        (404, Some(token)) => {
            failed(format!("there is no such repository, or {token} cannot see it")).hint(format!("check the name at {}", service.endpoint))
        }
        (404, None) => failed("there is no such repository".to_owned()).hint(format!("check {address_setting} and the name")),
        (409, _) => failed("it already exists, or another change is in progress".to_owned()).hint("run again"),
        (412, _) => failed("the repository was changed by someone else in the meantime".to_owned())
            .hint("run again to publish on top of that change"),
        (413, _) => failed(format!("{name} does not accept so much data in one request")).hint("send fewer or smaller files"),
        (429, _) => {
            let when = retry_after.map_or_else(|| "a few minutes".to_owned(), |pause| format!("{} s", pause.as_secs()));
            let raise = if token.is_none() && is_read { "; a token (HF_TOKEN) raises the limit" } else { "" };
            failed(format!("{name} limits the request rate; try again in {when}")).hint(format!("wait, then {resume_hint}{raise}"))
        }
        (408 | 500.., _) => {
            let who = if origin.is_empty() { (*name).to_owned() } else { format!("`{origin}`") };
            returned(&who).hint(*resume_hint)
        }
        _ => returned(name).hint(format!("check {address_setting}; if it is right, the server's message says more")),
    }
}

/// `503 Service Unavailable`
fn status_name(status: u16) -> String {
    let known = reqwest::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    known.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::token::HubToken;

    #[test]
    fn every_status_says_why_and_what_to_do() {
        let with = Service::hub("http://h", Some(HubToken::new("hf_secret", "a test")));
        let without = Service::hub("http://h", None);
        let (read, write) = (Action::Read("`a/b`"), Action::Write("publish to `a/b`"));
        for (status, code, action, service, message, kind) in [
            (
                401,
                "",
                read,
                &without,
                "cannot read `a/b`: it is private or gated, or it does not exist, and no token is set",
                ErrorKind::Environment,
            ),
            (401, "", read, &with, "cannot read `a/b`: the Hub does not accept the token from a test", ErrorKind::Environment),
            (401, "", write, &without, "cannot publish to `a/b`: this needs a token, and none is set", ErrorKind::Environment),
            (402, "", write, &with, "cannot publish to `a/b`: the Hub asks for payment", ErrorKind::Environment),
            (
                403,
                "GatedRepo",
                read,
                &with,
                "cannot read `a/b`: the token from a test may not read it: it is gated or private",
                ErrorKind::Environment,
            ),
            (403, "", write, &with, "cannot publish to `a/b`: the token from a test does not allow this", ErrorKind::Environment),
            (404, "RepoNotFound", read, &with, "cannot read `a/b`: there is no such repository", ErrorKind::InvalidInput),
            (404, "RevisionNotFound", read, &with, "cannot read `a/b`: the repository has no such revision", ErrorKind::InvalidInput),
            (404, "EntryNotFound", read, &with, "cannot read `a/b`: the repository has no such file or folder", ErrorKind::InvalidInput),
            (
                404,
                "",
                write,
                &with,
                "cannot publish to `a/b`: there is no such repository, or the token from a test cannot see it",
                ErrorKind::Environment,
            ),
            (409, "", write, &with, "cannot publish to `a/b`: it already exists, or another change is in progress", ErrorKind::Environment),
            (
                412,
                "",
                write,
                &with,
                "cannot publish to `a/b`: the repository was changed by someone else in the meantime",
                ErrorKind::Environment,
            ),
            (413, "", write, &with, "cannot publish to `a/b`: the Hub does not accept so much data in one request", ErrorKind::Environment),
            (
                429,
                "",
                read,
                &without,
                "cannot read `a/b`: the Hub limits the request rate; try again in a few minutes",
                ErrorKind::Environment,
            ),
            (503, "", write, &with, "cannot publish to `a/b`: the Hub returned 503 Service Unavailable", ErrorKind::Environment),
            (418, "", write, &with, "cannot publish to `a/b`: the Hub returned 418 I'm a teapot", ErrorKind::Environment),
        ] {
            let error = HttpError::status(status, "").coded(code).explain(action, service);
            assert_eq!((error.message.as_str(), error.kind), (message, kind), "{status} {code}");
            assert!(error.hint.is_some_and(|hint| !hint.is_empty()), "{status}");
        }
        let limited = HttpError::status(429, "").asking_for(Some(Duration::from_secs(55))).explain(write, &with);
        assert!(limited.message.ends_with("try again in 55 s"), "{limited}");
    }

    #[test]
    fn no_message_repeats_the_token() {
        let service = Service::hub("http://h", Some(HubToken::new("hf_secret", "a test")));
        let local = Error::new("hf_secret in a message").hint("hf_secret in a hint");
        for error in
            [HttpError::status(403, "hf_secret may not"), HttpError::InvalidResponse("hf_secret".to_owned()), HttpError::Local(local)]
        {
            let explained = error.explain(Action::Write("write"), &service);
            assert!(explained.message.contains('…') && !format!("{explained:?}").contains("hf_secret"), "{explained:?}");
        }
        // A secret that is empty is no secret: redacting it would put a mark between all letters.
        let service = Service::hub("http://h", Some(HubToken::new("", "nothing")));
        assert_eq!(service.redact(Error::new("as it is")).message, "as it is");
    }
}
