//! As much of HTTP as clients of the Hub need: one request per connection.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Result};
use std::net::TcpStream;

pub(super) struct Request {
    pub(super) method: String,
    /// As it was sent: a slash in a revision stays `%2F`.
    pub(super) path: String,
    pub(super) query: String,
    headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn read(stream: &TcpStream) -> Result<Option<Self>> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let mut body = Vec::new();
        if headers.get("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            loop {
                let mut size = String::new();
                reader.read_line(&mut size)?;
                let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
                let at = body.len();
                body.resize(at + size, 0);
                reader.read_exact(&mut body[at..])?;
                reader.read_line(&mut String::new())?;
                if size == 0 {
                    break;
                }
            }
        } else {
            body = vec![0; headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
            reader.read_exact(&mut body)?;
        }
        Ok(Some(Self { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), headers, body }))
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.headers.remove(name);
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A field of the query.
    pub(super) fn asks(&self, name: &str) -> Option<String> {
        pairs(&self.query).find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The values of a field of a form.
    pub(super) fn form(&self, name: &str) -> Vec<String> {
        let body = String::from_utf8_lossy(&self.body).into_owned();
        pairs(&body).filter(|(key, _)| key == name).map(|(_, value)| value).collect()
    }
}

impl Response {
    pub(super) fn bytes(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(super) fn json(body: Value) -> Self {
        Self::bytes(200, body.to_string()).with("Content-Type", "application/json")
    }

    /// A refusal, as the Hub words it.
    pub(super) fn refuse(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "error": message }).to_string();
        let refused = Self::bytes(status, body).with("Content-Type", "application/json").with("X-Error-Message", message);
        if code.is_empty() { refused } else { refused.with("X-Error-Code", code) }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (decoded(key), decoded(&value.replace('+', " "))))
}

/// Undoes `%20`.
pub(super) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(code, 16).ok())).flatten();
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}
