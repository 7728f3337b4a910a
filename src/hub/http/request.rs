//! Requests, their responses, and how their progress is reported.

use super::HttpError;
use reqwest::Method;
use reqwest::header::{HeaderMap, LINK};
use serde_json::Value;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// Where a request reports to, and how it learns that it should stop.
pub struct Progress<'a> {
    /// Whether to stop.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Called with messages for the user.
    pub note: &'a dyn Fn(String),
    /// Called with bytes sent, bytes to send, and the file.
    pub bytes: &'a dyn Fn(u64, u64, &str),
}

impl<'a> Progress<'a> {
    /// Reports nothing.
    pub fn silent(cancelled: &'a dyn Fn() -> bool) -> Self {
        Self { cancelled, note: &|_| (), bytes: &|_, _, _| () }
    }
}

/// What is asked of a server.
pub struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) body: Body<'a>,
    pub(super) range: Option<Range<u64>>,
    pub(super) time_limit: Option<Duration>,
}

/// What a request carries.
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// A JSON value.
    Json(Value),
    /// Bytes of this content type.
    Bytes(Vec<u8>, String),
    /// Bytes of a file, of this content type; read from the disk as they are sent.
    File(&'a Path, Range<u64>, &'static str),
}

/// A successful response.
#[derive(Debug)]
pub struct Response {
    /// The body, or the requested part of a file.
    pub body: Vec<u8>,
    pub(super) headers: HeaderMap,
}

impl<'a> Request<'a> {
    /// Asks for the content of an address.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::GET, url, Body::Empty)
    }

    /// Any request.
    pub fn new(method: Method, url: impl Into<String>, body: Body<'a>) -> Self {
        Self { method, url: url.into(), body, range: None, time_limit: None }
    }

    /// Only these bytes of a file; all of them must exist.
    #[must_use]
    pub fn range(mut self, range: Range<u64>) -> Self {
        self.range = Some(range);
        self
    }

    /// After so long, whatever has arrived of the body is the response: for streams that do not end.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }
}

impl Body<'_> {
    /// How many bytes there are to send, apart from small JSON.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Empty | Self::Json(_) => 0,
            Self::Bytes(bytes, _) => bytes.len() as u64,
            Self::File(_, range, _) => range.end.saturating_sub(range.start),
        }
    }
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; `null` if it is empty.
    pub fn json(&self) -> Result<Value, HttpError> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).map_err(|error| HttpError::InvalidResponse(format!("not the expected JSON: {error}")))
    }

    /// The address of the next page of a list: `<…>; rel="next"`.
    pub(super) fn next_page(&self) -> Option<&str> {
        let links = self.headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok()).flat_map(|links| links.split(','));
        let next = links.filter(|link| link.contains("rel=\"next\"")).find_map(|link| link.split_once('<')?.1.split_once('>'));
        next.map(|(address, _)| address)
    }
}
