//! The server that a client talks to: its address, its token, and what its errors can tell the user to change.

use crate::error::{Error, Result};
use crate::hub::token::HubToken;
use reqwest::Url;

/// A server, as requests and error messages know it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name in messages: `the Hub`.
    pub name: &'static str,
    /// Its address, without a slash at the end.
    pub endpoint: String,
    /// Where the user sets the address.
    pub address_setting: &'static str,
    /// Sent to the origin of `endpoint` and nowhere else.
    pub credentials: Option<Credentials>,
    /// How to get permission to read, after "if …,".
    pub read_hint: String,
    /// How to get permission to write.
    pub write_hint: String,
    /// What to do after a failure that may pass.
    pub resume_hint: &'static str,
}

/// A secret and the header that carries it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The name of the header, in lowercase.
    pub header: &'static str,
    /// What comes before the secret in the header: `Bearer `.
    pub prefix: &'static str,
    token: HubToken,
    /// Where the secret was found, for messages.
    pub source: String,
}

impl Credentials {
    /// `Authorization: Bearer …`; `None` for an empty token.
    pub fn bearer(token: HubToken) -> Option<Self> {
        Self::in_header("authorization", "Bearer ", token)
    }

    /// A header with this token after `prefix`; `None` for an empty token.
    pub fn in_header(header: &'static str, prefix: &'static str, token: HubToken) -> Option<Self> {
        let source = token.source.clone();
        (!token.secret().is_empty()).then_some(Self { header, prefix, token, source })
    }

    /// The value of the header.
    pub(super) fn value(&self) -> String {
        format!("{}{}", self.prefix, self.token.secret())
    }
}

impl Service {
    /// A Hub at this address.
    pub fn hub(endpoint: &str, token: Option<HubToken>) -> Self {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self {
            name: "the Hub",
            address_setting: "HF_ENDPOINT",
            read_hint: "accept its conditions on its page on the Hub, then set HF_TOKEN to a token that may read it".to_owned(),
            write_hint: format!("create a token with write access at {endpoint}/settings/tokens, and set HF_TOKEN or HF_WRITE_TOKEN to it"),
            resume_hint: "run again to continue: what was transferred is kept",
            credentials: token.and_then(Credentials::bearer),
            endpoint,
        }
    }

    /// Its address; an error if that is not valid.
    pub(in crate::hub) fn url(&self) -> Result<Url> {
        let url = Url::parse(&self.endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        url.ok_or_else(|| {
            Error::new(format!("{} is not a valid URL: `{}`", self.address_setting, self.endpoint))
                .environment()
                .hint(format!("correct or remove {}", self.address_setting))
        })
    }

    /// The same error without the token: the one place that removes it.
    pub fn redact(&self, error: Error) -> Error {
        match &self.credentials {
            Some(credentials) => error.redacted(credentials.token.secret()),
            None => error,
        }
    }

    /// A text without the token.
    pub fn redact_text(&self, text: &str) -> String {
        self.redact(Error::new(text)).message
    }
}
