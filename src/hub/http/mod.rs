//! The HTTP client for the Hub and for Trackio servers: one policy for retries, redirects, timeouts, cancellation and error messages.
//!
//! - Retries: see [`RetryPolicy`]. A part of a file that was interrupted continues where it broke off.
//! - Redirects are followed by hand. The token goes to the origin of [`Service::endpoint`] and to no other; a body that may hold a secret
//!   stays with the origin it was sent to; and no redirect leads from HTTPS to HTTP.
//! - Timeouts: see [`Timeouts`].
//! - Cancellation: [`Progress::cancelled`] is asked about ten times a second, also while waiting for the next attempt.
//! - Errors: [`HttpError::explain`] says what each failure means, and removes the token from every message.

mod error;
mod redirect;
mod request;
mod retry;
mod service;
#[cfg(test)]
pub(crate) mod testing;

pub use error::{Action, HttpError};
pub use request::{Body, Progress, Request, Response};
pub use reqwest::Method;
pub use retry::RetryPolicy;
pub use service::{Credentials, Service};

use crate::error::{Error, Result, ResultExt};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{RequestBuilder, StatusCode, Url};
use serde_json::Value;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

/// Sent with every request.
pub(in crate::hub) const USER_AGENT: &str = concat!("voxpipe/", env!("CARGO_PKG_VERSION"));
/// How often [`Progress::cancelled`] is asked.
const POLL: Duration = Duration::from_millis(100);
/// Redirects of one request that are followed.
const MAX_REDIRECTS: usize = 5;
/// Largest response that is not part of a file.
const MAX_RESPONSE: u64 = 64 << 20;
/// Most pages of a list; a server that has more is assumed to send the same ones again and again.
const MAX_PAGES: usize = 1000;
/// As much of a server's message as is shown.
const MAX_MESSAGE: usize = 300;
/// Bytes of a file that are read at once.
const FILE_BLOCK: usize = 256 << 10;

/// A blocking HTTP client for one service.
pub struct HttpClient {
    /// The server.
    pub service: Service,
    /// When requests are tried again.
    pub retry: RetryPolicy,
    timeouts: Timeouts,
    endpoint: Url,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

/// How long a server may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To establish a connection.
    pub connect: Duration,
    /// Without a byte of the response. A request with a body has longer to its first byte: see `min_upload_rate`.
    pub idle: Duration,
    /// Slowest upload that is waited for, in bytes per second.
    pub min_upload_rate: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(15), idle: Duration::from_secs(120), min_upload_rate: 32 << 10 }
    }
}

impl HttpClient {
    /// A client for a service.
    pub fn new(service: Service, retry: RetryPolicy, timeouts: Timeouts) -> Result<Self> {
        let endpoint = service.url()?;
        let builder = reqwest::Client::builder().user_agent(USER_AGENT).redirect(reqwest::redirect::Policy::none());
        let client = builder.connect_timeout(timeouts.connect).build();
        let client = client.map_err(|error| Error::new(format!("cannot create an HTTP client: {error}")).environment())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.with_context(|| "cannot create an HTTP client")?;
        Ok(Self { service, retry, timeouts, endpoint, client, runtime })
    }

    /// A client for a Hub.
    pub fn for_hub(service: Service, retry: RetryPolicy) -> Result<Self> {
        Self::new(service, retry, Timeouts::default())
    }

    /// Sends a request, and tries again as the retry policy says.
    pub fn send(&self, request: &Request<'_>, progress: &Progress<'_>) -> Result<Response, HttpError> {
        let mut body = Vec::new();
        for attempt in 1.. {
            let error = match self.attempt(request, &mut body, progress) {
                Ok(headers) => return Ok(Response { body, headers }),
                Err(error) => error,
            };
            let Some(delay) = self.retry.next_delay(attempt, &error) else { return Err(error) };
            // Without the query, which may hold a signature.
            let address = request.url.split('?').next().unwrap_or_default();
            tracing::debug!("{} {address}: attempt {attempt} failed, the next one is in {delay:?}: {error:?}", request.method);
            if error.retry_after().is_some_and(|pause| !pause.is_zero()) {
                (progress.note)(format!("{} asks to wait {} s", self.service.name, delay.as_secs()));
            }
            self.wait(delay, progress)?;
            // A part of a file is kept and continued; any other response is only useful as a whole.
            if request.range.is_none() {
                body.clear();
            }
        }
        Err(HttpError::Cancelled)
    }

    /// Sends a request once.
    pub fn send_once(&self, request: &Request<'_>, progress: &Progress<'_>) -> Result<Response, HttpError> {
        let mut body = Vec::new();
        let headers = self.attempt(request, &mut body, progress)?;
        Ok(Response { body, headers })
    }

    /// The entries of a list in pages.
    pub fn list(&self, url: String, progress: &Progress<'_>) -> Result<Vec<Value>, HttpError> {
        let mut entries = Vec::new();
        let mut next = Some(url);
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { return Ok(entries) };
            let response = self.send(&Request::get(&url), progress)?;
            let page: Vec<Value> = serde_json::from_slice(&response.body)
                .map_err(|error| HttpError::InvalidResponse(format!("not the expected JSON: {error}")))?;
            entries.extend(page);
            next = match response.next_page() {
                Some(page) => Some(self.next_page(&url, page)?),
                None => None,
            };
        }
        Err(HttpError::InvalidResponse(format!("a list with more than {MAX_PAGES} pages")))
    }

    /// A page may only lead to another one of the same server.
    fn next_page(&self, from: &str, to: &str) -> Result<String, HttpError> {
        let from = parse(from)?;
        let to = from.join(to).ok().filter(|to| to.origin() == from.origin());
        let to = to.ok_or_else(|| HttpError::InvalidResponse("the next page of a list is on another server".to_owned()))?;
        Ok(to.into())
    }

    /// Waits, unless cancelled.
    pub fn wait(&self, delay: Duration, progress: &Progress<'_>) -> Result<(), HttpError> {
        self.until_cancelled(progress, async {
            tokio::time::sleep(delay).await;
            Ok(())
        })
    }

    /// What a failure means for the user; see [`HttpError::explain`].
    pub fn explain(&self, error: HttpError, action: Action<'_>) -> Error {
        error.explain(action, &self.service)
    }

    fn until_cancelled<T>(&self, progress: &Progress<'_>, work: impl Future<Output = Result<T, HttpError>>) -> Result<T, HttpError> {
        self.runtime.block_on(async {
            let mut work = pin!(work);
            loop {
                if (progress.cancelled)() {
                    return Err(HttpError::Cancelled);
                }
                if let Ok(done) = timeout(POLL, &mut work).await {
                    return done;
                }
            }
        })
    }

    /// One attempt. The response is appended to `body`; of a file, only the missing rest is requested.
    fn attempt(&self, request: &Request<'_>, body: &mut Vec<u8>, progress: &Progress<'_>) -> Result<HeaderMap, HttpError> {
        let begun = Instant::now();
        self.until_cancelled(progress, async {
            let mut url = parse(&request.url)?;
            for _ in 0..=MAX_REDIRECTS {
                let rest = request.range.as_ref().map(|range| range.start + body.len() as u64..range.end);
                let response = self.exchange(request, &url, rest.as_ref()).await?;
                let status = response.status();
                if redirect::is_redirect(status) {
                    url = redirect::target(request, &url, status, response.headers().get(LOCATION))?;
                    continue;
                }
                if !status.is_success() {
                    return Err(self.refusal(response).await);
                }
                let limit = request.time_limit.map(|limit| limit.saturating_sub(begun.elapsed()));
                return self.receive(response, rest, body, limit).await;
            }
            Err(HttpError::InvalidResponse(format!("more than {MAX_REDIRECTS} redirects")))
        })
    }

    /// One request, until the headers of its response are there.
    async fn exchange(&self, request: &Request<'_>, url: &Url, rest: Option<&Range<u64>>) -> Result<reqwest::Response, HttpError> {
        let mut builder = self.client.request(request.method.clone(), url.clone());
        if let Some(credentials) = self.service.credentials.as_ref().filter(|_| self.is_own(url)) {
            let value = HeaderValue::from_str(&credentials.value());
            let mut value = value
                .map_err(|_| HttpError::Local(Error::new(format!("the token from {} is malformed", credentials.source)).environment()))?;
            value.set_sensitive(true);
            builder = if credentials.header == "authorization" {
                builder.header(AUTHORIZATION, value)
            } else {
                builder.header(credentials.header, value)
            };
        }
        if let Some(rest) = rest {
            builder = builder.header(RANGE, format!("bytes={}-{}", rest.start, rest.end.max(rest.start + 1) - 1));
        }
        let builder = with_body(builder, &request.body).await.map_err(HttpError::Local)?;
        let limit = self.timeouts.idle + Duration::from_secs(request.body.size() / self.timeouts.min_upload_rate.max(1));
        match timeout(limit, builder.send()).await {
            Ok(sent) => sent.map_err(|error| self.transport(&error, url)),
            Err(_) => Err(HttpError::timeout(origin(url), limit)),
        }
    }

    async fn receive(
        &self,
        mut response: reqwest::Response,
        range: Option<Range<u64>>,
        body: &mut Vec<u8>,
        limit: Option<Duration>,
    ) -> Result<HeaderMap, HttpError> {
        let url = response.url().clone();
        let headers = response.headers().clone();
        if let Some(range) = &range
            && first_byte(response.status(), &headers) != Some(range.start)
        {
            return Err(HttpError::InvalidResponse("not the requested part of the file".to_owned()));
        }
        let end = body.len() as u64 + range.as_ref().map_or(MAX_RESPONSE, |range| range.end.saturating_sub(range.start));
        let deadline = limit.map(|limit| Instant::now() + limit);
        while (body.len() as u64) < end {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let piece = match timeout(left.unwrap_or(self.timeouts.idle), response.chunk()).await {
                Ok(piece) => piece.map_err(|error| self.transport(&error, &url))?,
                Err(_) if left.is_some() => return Ok(headers),
                Err(_) => return Err(HttpError::timeout(origin(&url), self.timeouts.idle)),
            };
            let Some(piece) = piece else { break };
            // A server that does not know ranges sends the file to its end.
            let room = usize::try_from(end - body.len() as u64).unwrap_or(usize::MAX);
            body.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        match range {
            Some(_) if (body.len() as u64) < end => Err(HttpError::Disconnected),
            None if body.len() as u64 == MAX_RESPONSE => Err(HttpError::InvalidResponse(format!("more than {} MiB", MAX_RESPONSE >> 20))),
            _ => Ok(headers),
        }
    }

    /// The error that a server's refusal is.
    async fn refusal(&self, response: reqwest::Response) -> HttpError {
        let (status, url, headers) = (response.status().as_u16(), response.url().clone(), response.headers().clone());
        let mut body = Vec::new();
        // The status is known; a body that does not arrive changes nothing.
        let _ = self.receive(response, None, &mut body, Some(self.timeouts.idle)).await;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(|text| self.service.redact_text(text));
        let json = || serde_json::from_slice::<Value>(&body).ok().and_then(|body| Some(self.service.redact_text(body["error"].as_str()?)));
        let code = header("x-error-code").unwrap_or_default();
        let message = header("x-error-message").or_else(json).unwrap_or_else(|| code.clone());
        // Cut only now: a part of the token would not be recognized.
        let message = message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
        let origin = if self.is_own(&url) { String::new() } else { origin(&url) };
        let retry_after = retry::retry_after(status, &headers, SystemTime::now());
        HttpError::Status { status, code, message, retry_after, origin }
    }

    fn transport(&self, error: &reqwest::Error, url: &Url) -> HttpError {
        if error.is_connect() {
            HttpError::Connect { origin: origin(url) }
        } else if error.is_builder() {
            HttpError::Local(Error::new(format!("cannot send a request to `{}`", origin(url))))
        } else {
            HttpError::Disconnected
        }
    }

    /// Whether an address is the service's own.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }
}

async fn with_body(builder: RequestBuilder, body: &Body<'_>) -> Result<RequestBuilder> {
    Ok(match body {
        Body::Empty => builder,
        Body::Json(value) => builder.header(CONTENT_TYPE, "application/json").body(serde_json::to_vec(value)?),
        Body::Bytes(bytes, kind) => builder.header(CONTENT_TYPE, kind).body(bytes.clone()),
        Body::File(path, range, kind) => {
            let reading = || format!("cannot read `{}`", path.display());
            let mut file = tokio::fs::File::open(path).await.with_context(reading)?;
            file.seek(std::io::SeekFrom::Start(range.start)).await.with_context(reading)?;
            let stream = ReaderStream::with_capacity(file.take(body.size()), FILE_BLOCK);
            // Stores of large files accept no body of unknown length.
            builder.header(CONTENT_TYPE, *kind).header(CONTENT_LENGTH, body.size()).body(reqwest::Body::wrap_stream(stream))
        }
    })
}

fn parse(url: &str) -> Result<Url, HttpError> {
    Url::parse(url).map_err(|error| HttpError::InvalidResponse(format!("an address that is not valid: {error}")))
}

/// The position in the file of the first byte of a body. A server that does not know ranges begins at the beginning.
fn first_byte(status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    if status != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// Scheme, host and port.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use super::testing::{Server, reply};
    use super::*;
    use crate::error::ErrorKind;
    use crate::hub::token::HubToken;
    use std::cell::{Cell, RefCell};

    const FAST: RetryPolicy = RetryPolicy {
        max_attempts: 4,
        base_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(4),
        max_retry_after: Duration::from_secs(2),
    };

    fn client(endpoint: &str) -> HttpClient {
        HttpClient::for_hub(Service::hub(endpoint, Some(HubToken::new("hf_secret", "a test"))), FAST).unwrap()
    }

    fn quiet() -> Progress<'static> {
        Progress::silent(&|| false)
    }

    #[test]
    fn the_token_follows_no_redirect_to_another_origin() {
        // The same machine by another port is another origin.
        let store = Server::start(|_| reply(200, &[], b"bytes"));
        let (away, back) = (format!("{}/signed?key=1", store.address), "/moved".to_owned());
        let hub = Server::start(move |request| match request.path.as_str() {
            "/file" => reply(302, &[("Location", &away)], b""),
            "/old" => reply(307, &[("Location", &back)], b""),
            _ => reply(200, &[], b"moved"),
        });
        let client = client(&hub.address);
        assert_eq!(client.send(&Request::get(format!("{}/file", hub.address)), &quiet()).unwrap().body, b"bytes");
        assert_eq!(client.send(&Request::get(format!("{}/old", hub.address)), &quiet()).unwrap().body, b"moved");
        assert!(hub.seen().iter().all(|seen| seen.header("authorization") == Some("Bearer hf_secret")));
        assert!(store.seen().iter().all(|seen| seen.header("authorization").is_none()) && store.seen().len() == 1);
        // Nor is it sent to an address that a server hands out.
        client.send(&Request::get(format!("{}/other", store.address)), &quiet()).unwrap();
        assert!(store.seen().iter().all(|seen| seen.header("authorization").is_none()));
    }

    #[test]
    fn redirects_in_a_circle_end() {
        let circle = Server::start(|_| reply(302, &[("Location", "/again")], b""));
        let error = client(&circle.address).send(&Request::get(&circle.address), &quiet()).unwrap_err();
        assert!(matches!(&error, HttpError::InvalidResponse(why) if why.contains("more than 5 redirects")), "{error:?}");
    }

    #[test]
    fn an_interrupted_range_continues_where_it_broke_off() {
        let content: Vec<u8> = (0..=255).collect();
        let whole = content.clone();
        let server = Server::start(move |request| {
            let range = request.header("range").unwrap().strip_prefix("bytes=").unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let (from, to) = (from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap());
            let told = format!("bytes {from}-{to}/256");
            // Half of what is still missing, under a promise of all.
            reply(206, &[("Content-Range", &told)], &whole[from..=to]).cut((to + 1 - from).div_ceil(2))
        });
        let client = HttpClient { retry: RetryPolicy { max_attempts: 20, ..FAST }, ..client(&server.address) };
        let response = client.send(&Request::get(&server.address).range(10..110), &quiet()).unwrap();
        assert_eq!(response.body, content[10..110]);
        let asked: Vec<String> = server.seen().iter().map(|seen| seen.header("range").unwrap().to_owned()).collect();
        assert_eq!(&asked[..3], ["bytes=10-109", "bytes=60-109", "bytes=85-109"]);

        // A server that does not know ranges serves for the start of a file, and for nothing else.
        let whole = content.clone();
        let server = Server::start(move |_| reply(200, &[], &whole));
        let client = self::client(&server.address);
        assert_eq!(client.send(&Request::get(&server.address).range(0..9), &quiet()).unwrap().body, content[..9]);
        let error = client.send(&Request::get(&server.address).range(1..9), &quiet()).unwrap_err();
        assert!(matches!(error, HttpError::InvalidResponse(_)), "{error:?}");
    }

    #[test]
    fn a_pause_that_the_server_asks_for_is_kept_and_reported() {
        let server = Server::start_counting(|_, n| if n == 0 { reply(429, &[("Retry-After", "1")], b"") } else { reply(200, &[], b"{}") });
        let (notes, begun) = (RefCell::new(Vec::new()), Instant::now());
        let progress = Progress { note: &|text| notes.borrow_mut().push(text), ..quiet() };
        client(&server.address).send(&Request::get(&server.address), &progress).unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert_eq!(notes.take(), ["the Hub asks to wait 1 s"]);
        let server = Server::start(|_| reply(429, &[("RateLimit", "\"api\";r=0;t=3")], b"{\"error\":\"hf_secret is too fast\"}"));
        let client = client(&server.address);
        let error = client.send(&Request::get(&server.address), &quiet()).unwrap_err();
        assert_eq!((server.seen().len(), error.retry_after()), (1, Some(Duration::from_secs(3))), "a longer pause is not waited for");
        assert!(!format!("{error:?}").contains("hf_secret"));
    }

    #[test]
    fn a_long_message_is_cut_but_never_within_the_token() {
        let text = format!("{}hf_secret", "x".repeat(MAX_MESSAGE - 4));
        let body = format!("{{\"error\":\"{text}\"}}");
        let server = Server::start(move |_| reply(400, &[("X-Error-Code", "hf_secret")], body.as_bytes()));
        let error = client(&server.address).send(&Request::get(&server.address), &quiet()).unwrap_err();
        assert!(matches!(&error, HttpError::Status { message, .. } if message.ends_with("x…")), "{error:?}");
        assert!(!format!("{error:?}").contains("hf_"), "{error:?}");
    }

    #[test]
    fn cancelling_ends_the_wait() {
        let server = Server::start(|_| reply(503, &[("Retry-After", "2")], b""));
        let asked = Cell::new(0);
        let begun = Instant::now();
        let cancelled = || {
            asked.set(asked.get() + 1);
            begun.elapsed() > Duration::from_millis(300)
        };
        let error = client(&server.address).send(&Request::get(&server.address), &Progress::silent(&cancelled)).unwrap_err();
        assert!(matches!(error, HttpError::Cancelled) && begun.elapsed() < Duration::from_secs(1), "{error:?}");
        assert!(asked.get() > 2);
        let told = client(&server.address).explain(error, Action::Write("publish"));
        assert_eq!((told.kind, told.message.as_str()), (ErrorKind::Interrupted, "stopped before it could publish"));
    }

    #[test]
    fn a_silent_server_times_out_and_an_endless_stream_is_cut() {
        let server = Server::start(|_| reply(200, &[], b"a few bytes").stalled_after(5));
        let timeouts = Timeouts { idle: Duration::from_millis(200), ..Timeouts::default() };
        let client = HttpClient { timeouts, retry: RetryPolicy::none(), ..client(&server.address) };
        let error = client.send(&Request::get(&server.address), &quiet()).unwrap_err();
        assert!(matches!(error, HttpError::Timeout { .. }), "{error:?}");
        let request = Request::get(&server.address).time_limit(Duration::from_millis(300));
        assert_eq!(client.send(&request, &quiet()).unwrap().body, b"a few");
    }

    #[test]
    fn a_list_is_read_to_its_last_page_on_the_same_server() {
        let server = Server::start(|request| match request.path.as_str() {
            "/list" => reply(200, &[("Link", "</list?cursor=0>; rel=\"prev\", </list?cursor=2>; rel=\"next\"")], b"[1, 2]"),
            "/list?cursor=2" => reply(200, &[], b"[3]"),
            "/away" => reply(200, &[("Link", "<http://192.0.2.1/list>; rel=\"next\"")], b"[1]"),
            _ => reply(200, &[], b"{}"),
        });
        let client = client(&server.address);
        let list = |path: &str| client.list(format!("{}{path}", server.address), &quiet());
        assert_eq!(list("/list").unwrap(), [1, 2, 3]);
        for (path, why) in [("/away", "another server"), ("/object", "not the expected JSON")] {
            let error = list(path).unwrap_err();
            assert!(matches!(&error, HttpError::InvalidResponse(text) if text.contains(why)), "{error:?}");
        }
    }

    #[test]
    fn an_invalid_address_is_refused_at_once() {
        for endpoint in ["no address", "ftp://host", "http://", ""] {
            let error = HttpClient::for_hub(Service::hub(endpoint, None), FAST).err().expect(endpoint);
            assert_eq!(
                (error.message, error.kind),
                (format!("HF_ENDPOINT is not a valid URL: `{}`", endpoint.trim_end_matches('/')), ErrorKind::Environment)
            );
        }
    }
}
