//! Request checks for the studio server.
//!
//! Any page open in the browser can send requests to a loopback server. Every request must therefore pass these checks:
//!
//! - `Host` names this server (protects against DNS rebinding).
//! - `Origin`, if present, is this server (rejects cross-origin requests).
//! - A request that changes state under `/api/` carries the header `X-Voxpipe` (protects against CSRF: HTML forms cannot send it).
//! - The body does not exceed the size limit.
//! - On a non-loopback address, the request carries the access token from the printed URL.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SET_COOKIE};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Header required for requests that change state; forms and links on other pages cannot send it.
pub(super) const OWN: HeaderName = HeaderName::from_static("x-voxpipe");
/// Name of the cookie that holds the access token.
const COOKIE_NAME: &str = "voxpipe_token";
/// Limit on concurrent requests.
const MAX_CONCURRENT: usize = 256;
/// Time limit from the request line to the response headers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Settings and state of the request checks.
#[derive(Debug)]
pub(super) struct RequestGuard {
    /// The address the server is bound to.
    pub(super) address: IpAddr,
    /// The port the server is bound to.
    pub(super) port: u16,
    /// Required access token; `None` on a loopback address or with `--public`.
    pub(super) token: Option<String>,
    /// Number of requests being processed.
    pub(super) busy: AtomicUsize,
}

/// Middleware: checks a request, passes it on or rejects it, and adds the security headers to the response.
pub(super) async fn watch(State(guard): State<Arc<RequestGuard>>, request: Request, next: Next) -> Response {
    let _slot = match RequestSlot::take(&guard.busy) {
        Some(slot) => slot,
        None => return with_security_headers(refuse(StatusCode::SERVICE_UNAVAILABLE, "too many concurrent requests")),
    };
    if let Err(refused) = guard.admit(&request) {
        return with_security_headers(*refused);
    }
    // A valid token in the query string is stored in a cookie, so that pages need not pass it on.
    let cookie = guard
        .token
        .as_deref()
        .filter(|token| in_query(&request).as_deref() == Some(*token))
        .map(|token| HeaderValue::from_str(&format!("{COOKIE_NAME}={token}; HttpOnly; SameSite=Strict; Path=/")));
    // The limit ends with the response headers: streamed bodies such as server-sent events have no time limit.
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    let mut response = with_security_headers(answer.unwrap_or_else(|_| refuse(StatusCode::REQUEST_TIMEOUT, "request timed out")));
    if let Some(Ok(cookie)) = cookie {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// An error response: `{"error": words}`.
pub(super) fn refuse(status: StatusCode, words: &str) -> Response {
    (status, axum::Json(serde_json::json!({ "error": words }))).into_response()
}

/// A slot for one of the concurrent requests; dropping it frees the slot.
struct RequestSlot<'a>(&'a AtomicUsize);

impl<'a> RequestSlot<'a> {
    fn take(busy: &'a AtomicUsize) -> Option<Self> {
        let slot = Self(busy);
        (busy.fetch_add(1, Ordering::Relaxed) < MAX_CONCURRENT).then_some(slot)
    }
}

impl Drop for RequestSlot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RequestGuard {
    /// Applies the checks; the error is the response to send.
    fn admit(&self, request: &Request) -> Result<(), Box<Response>> {
        let headers = request.headers();
        let reject = |status, words: &str| Err(Box::new(refuse(status, words)));
        let host = text(headers, &HOST);
        if !self.is_own_host(host) {
            return reject(StatusCode::MISDIRECTED_REQUEST, "unknown Host header");
        }
        let origin = text(headers, &ORIGIN);
        // A reverse proxy in front of a non-loopback server may terminate TLS.
        let same_origin = origin == format!("http://{host}") || !self.address.is_loopback() && origin == format!("https://{host}");
        if headers.contains_key(ORIGIN) && !same_origin {
            return reject(StatusCode::FORBIDDEN, "cross-origin request rejected");
        }
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
        if changes && request.uri().path().starts_with("/api/") && !headers.contains_key(OWN) {
            return reject(StatusCode::FORBIDDEN, "missing header X-Voxpipe");
        }
        let size = text(headers, &CONTENT_LENGTH).parse::<u64>().unwrap_or(0);
        let limit = if request.uri().path().starts_with("/api/uploads/") { super::uploads::LARGEST } else { super::server::BODY as u64 };
        if size > limit {
            return reject(StatusCode::PAYLOAD_TOO_LARGE, &format!("request body exceeds {} MiB", limit >> 20));
        }
        match &self.token {
            Some(token) if ![bearer(headers), in_cookie(headers), in_query(request)].iter().flatten().any(|given| equal(given, token)) => {
                reject(StatusCode::UNAUTHORIZED, "missing or wrong token: open the URL that `voxpipe` printed, or send a bearer token")
            }
            _ => Ok(()),
        }
    }

    /// Whether a `Host` header names this server. A foreign name that resolves to a loopback address is DNS rebinding.
    fn is_own_host(&self, host: &str) -> bool {
        // On other addresses any name is allowed: access requires the token, unless the server is public.
        if !self.address.is_loopback() {
            return true;
        }
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let local = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        port == self.port.to_string() && local
    }
}

/// A header as text; empty if it is missing or not ASCII.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Token from `Authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Option<String> {
    Some(text(headers, &AUTHORIZATION).strip_prefix("Bearer ")?.to_owned())
}

/// Token from the cookie.
fn in_cookie(headers: &HeaderMap) -> Option<String> {
    let mut cookies = text(headers, &COOKIE).split(';').filter_map(|cookie| cookie.trim().split_once('='));
    cookies.find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value.to_owned())
}

/// Token from `?token=TOKEN`.
fn in_query(request: &Request) -> Option<String> {
    let mut parts = request.uri().query().unwrap_or_default().split('&').filter_map(|part| part.split_once('='));
    parts.find(|(name, _)| *name == "token").map(|(_, value)| value.to_owned())
}

/// Compares tokens of equal length in constant time.
fn equal(given: &str, token: &str) -> bool {
    given.len() == token.len() && given.bytes().zip(token.bytes()).fold(0, |wrong, (a, b)| wrong | (a ^ b)) == 0
}

/// Adds the security headers: a content security policy (own resources only), no framing, no referrer, no caching.
fn with_security_headers(mut response: Response<Body>) -> Response {
    let policy = "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; object-src 'none'; \
                  base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    for (name, value) in [
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_pass_the_host_check() {
        let guard = |address: &str| RequestGuard { address: address.parse().unwrap(), port: 7860, token: None, busy: AtomicUsize::new(0) };
        let local = guard("127.0.0.1");
        assert!(["localhost:7860", "127.0.0.1:7860", "[::1]:7860"].iter().all(|host| local.is_own_host(host)));
        assert!(["evil.example:7860", "localhost", "localhost:1", "", "10.0.0.1:7860"].iter().all(|host| !local.is_own_host(host)));
        assert!(guard("0.0.0.0").is_own_host("studio.lan:7860"));
    }

    #[test]
    fn tokens_must_match_completely() {
        assert!(equal("abc", "abc") && !equal("ab", "abc") && !equal("abd", "abc") && !equal("", "abc"));
    }
}
