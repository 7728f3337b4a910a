//! Who is let in. A page on the loopback address can be reached by every other page that a browser has open, so each request has to
//! name this server as its host, come from its own pages if it comes from a page, and carry a header that forms cannot send if it changes
//! something. Bound to an address that others reach, the server also wants the token that is in the address it printed.

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

/// What requests that change something carry: no form and no link of another page can.
pub(super) const OWN: HeaderName = HeaderName::from_static("x-voxpipe");
/// What the token is called in a cookie.
const COOKIE_NAME: &str = "voxpipe_token";
/// Requests that are answered at once.
const AT_ONCE: usize = 256;
/// Longest that a request may take to arrive and be answered.
const SLOWEST: Duration = Duration::from_secs(600);

/// What the guard knows.
#[derive(Debug)]
pub(super) struct RequestGuard {
    /// Where the server listens.
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// What others have to know; nothing on the loopback address.
    pub(super) token: Option<String>,
    pub(super) busy: AtomicUsize,
}

/// Lets a request through, or refuses it.
pub(super) async fn watch(State(guard): State<Arc<RequestGuard>>, request: Request, next: Next) -> Response {
    let _turn = match Turn::take(&guard.busy) {
        Some(turn) => turn,
        None => return finish(refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once")),
    };
    if let Err(refused) = guard.admit(&request) {
        return finish(*refused);
    }
    // The token goes from the address into a cookie, so that pages need not pass it on.
    let cookie = guard
        .token
        .as_deref()
        .filter(|token| in_query(&request).as_deref() == Some(*token))
        .map(|token| HeaderValue::from_str(&format!("{COOKIE_NAME}={token}; HttpOnly; SameSite=Strict; Path=/")));
    // What is streamed afterwards, events say, may take as long as it likes.
    let answer = tokio::time::timeout(SLOWEST, next.run(request)).await;
    let mut response = finish(answer.unwrap_or_else(|_| refuse(StatusCode::REQUEST_TIMEOUT, "that took too long")));
    if let Some(Ok(cookie)) = cookie {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// A refusal in words.
pub(super) fn refuse(status: StatusCode, words: &str) -> Response {
    (status, axum::Json(serde_json::json!({ "error": words }))).into_response()
}

/// One of the requests that are answered at once.
struct Turn<'a>(&'a AtomicUsize);

impl<'a> Turn<'a> {
    fn take(busy: &'a AtomicUsize) -> Option<Self> {
        let turn = Self(busy);
        (busy.fetch_add(1, Ordering::Relaxed) < AT_ONCE).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RequestGuard {
    fn admit(&self, request: &Request) -> Result<(), Box<Response>> {
        let headers = request.headers();
        let no = |status, words: &str| Err(Box::new(refuse(status, words)));
        let host = text(headers, &HOST);
        if !self.is_us(host) {
            return no(StatusCode::MISDIRECTED_REQUEST, "this server is not called that");
        }
        let origin = text(headers, &ORIGIN);
        // Before a server that others reach there may be one that speaks TLS.
        let ours = origin == format!("http://{host}") || !self.address.is_loopback() && origin == format!("https://{host}");
        if headers.contains_key(ORIGIN) && !ours {
            return no(StatusCode::FORBIDDEN, "the request comes from a page of somebody else");
        }
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
        if changes && request.uri().path().starts_with("/api/") && !headers.contains_key(OWN) {
            return no(StatusCode::FORBIDDEN, "the request lacks the header X-Voxpipe, which the pages of this server send");
        }
        let size = text(headers, &CONTENT_LENGTH).parse::<u64>().unwrap_or(0);
        let most = if request.uri().path().starts_with("/api/uploads/") { super::uploads::LARGEST } else { super::server::BODY as u64 };
        if size > most {
            return no(StatusCode::PAYLOAD_TOO_LARGE, &format!("at most {} MiB are taken here", most >> 20));
        }
        match &self.token {
            Some(token) if ![bearer(headers), in_cookie(headers), in_query(request)].iter().flatten().any(|given| same(given, token)) => {
                no(StatusCode::UNAUTHORIZED, "open the address with the token that `voxpipe` printed, or send it as a bearer token")
            }
            _ => Ok(()),
        }
    }

    /// Whether a `Host` is ours: names of other hosts that lead here are somebody's trick.
    fn is_us(&self, host: &str) -> bool {
        // Whoever reaches an address that is not the loopback one under another name has to know the token, or is welcome.
        if !self.address.is_loopback() {
            return true;
        }
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let local = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        port == self.port.to_string() && local
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    Some(text(headers, &AUTHORIZATION).strip_prefix("Bearer ")?.to_owned())
}

fn in_cookie(headers: &HeaderMap) -> Option<String> {
    let mut cookies = text(headers, &COOKIE).split(';').filter_map(|cookie| cookie.trim().split_once('='));
    cookies.find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value.to_owned())
}

fn in_query(request: &Request) -> Option<String> {
    let mut parts = request.uri().query().unwrap_or_default().split('&').filter_map(|part| part.split_once('='));
    parts.find(|(name, _)| *name == "token").map(|(_, value)| value.to_owned())
}

/// Compares without telling by the time it takes how much is right.
fn same(given: &str, token: &str) -> bool {
    given.len() == token.len() && given.bytes().zip(token.bytes()).fold(0, |wrong, (a, b)| wrong | (a ^ b)) == 0
}

/// What every answer says to browsers: nothing from elsewhere, in no frame, kept nowhere.
fn finish(mut response: Response<Body>) -> Response {
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
    fn names_that_lead_here_are_told_apart() {
        let guard = |address: &str| RequestGuard { address: address.parse().unwrap(), port: 7860, token: None, busy: AtomicUsize::new(0) };
        let local = guard("127.0.0.1");
        assert!(["localhost:7860", "127.0.0.1:7860", "[::1]:7860"].iter().all(|host| local.is_us(host)));
        assert!(["evil.example:7860", "localhost", "localhost:1", "", "10.0.0.1:7860"].iter().all(|host| !local.is_us(host)));
        assert!(guard("0.0.0.0").is_us("studio.lan:7860"));
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same("abc", "abc") && !same("ab", "abc") && !same("abd", "abc") && !same("", "abc"));
    }
}
