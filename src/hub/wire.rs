//! Requests to the Hub that change something, or prepare it: tried again while that may help, and told what went wrong.
//!
//! The token goes to the Hub's own address and nowhere else. A server that asks for a pause gets it, within bounds; all waiting ends when
//! the run is stopped. Files are streamed from the disk.

use super::token::HubToken;
use crate::error::{Error, ErrorKind, Result, ResultExt};
pub(super) use reqwest::Method;
use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use serde_json::Value;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// How often a request is tried.
const TRIES: u32 = 5;
/// What is waited before the second try; doubled before each further one.
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest pause a server may ask for.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A request that carries nothing large has ended by then.
const SILENCE: Duration = Duration::from_secs(120);
/// The slowest upload that is waited for, in bytes a second.
const SLOWEST: u64 = 32 * 1024;
/// How often the stop flag is looked at.
const BEAT: Duration = Duration::from_millis(100);
/// As much of a server's own words as is passed on.
const WORDS: usize = 300;

/// Where notes and progress go, and how one is told to stop.
pub struct OnProgress<'a> {
    /// Set when the work should end soon.
    pub stop: &'a AtomicBool,
    /// Says something a person should read.
    pub note: &'a dyn Fn(String),
    /// Bytes sent, bytes to send, and of what.
    pub progress: &'a dyn Fn(u64, u64, &str),
}

/// The way to one Hub.
pub struct Wire {
    /// Without a slash at its end.
    pub(super) endpoint: String,
    pub(super) token: Option<HubToken>,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    pub(super) patience: Duration,
}

/// What is asked.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) body: Body<'a>,
}

pub(super) enum Body<'a> {
    None,
    Json(Value),
    /// Some bytes of a file, with what they are.
    File(&'a Path, std::ops::Range<u64>, &'static str),
}

pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server refuses: the status, its own words, and how long to wait if it says so.
    Refused(u16, String, Option<Duration>),
    /// Nobody answers at that address.
    Unreachable(String),
    /// The connection broke off; what was asked may have been done or not.
    Broken(String),
    /// The run was stopped.
    Stopped,
    /// It is our own fault, or the disk's.
    Here(Error),
}

impl Wire {
    /// The way to the Hub at this address. Waits `patience` before the second try of a request, and twice that before each further one.
    pub fn new(endpoint: &str, token: Option<HubToken>, patience: Option<Duration>) -> Result<Self> {
        let environment = |message: String| Error::new(message).environment();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !reqwest::Url::parse(&endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            return Err(environment(format!("`{endpoint}` cannot be the Hub's address")).hint("set HF_ENDPOINT right, or not at all"));
        }
        let agent = concat!("voxpipe/", env!("CARGO_PKG_VERSION"));
        let http = reqwest::Client::builder().user_agent(agent).connect_timeout(Duration::from_secs(30)).build();
        let http = http.map_err(|error| environment(format!("no HTTPS on this machine: {error}")))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().with_context(|| "cannot begin to use the network")?;
        Ok(Self { endpoint, token, http, runtime, patience: patience.unwrap_or(PATIENCE) })
    }

    /// Asks until there is an answer or no more sense in asking.
    pub(super) fn send(&self, ask: &Ask<'_>, voice: &OnProgress<'_>) -> Result<Answer, Trouble> {
        let mut backoff = self.patience;
        for attempt in 1.. {
            let trouble = match self.once(ask, voice) {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            let asked_for = match &trouble {
                Trouble::Refused(408 | 429 | 500..=599, _, pause) => *pause,
                Trouble::Unreachable(_) | Trouble::Broken(_) => None,
                _ => return Err(trouble),
            };
            if attempt == TRIES || asked_for.is_some_and(|pause| pause > LONGEST_PAUSE) {
                return Err(trouble);
            }
            if let Some(pause) = asked_for {
                (voice.note)(format!("the Hub asks for a pause of {} s", pause.as_secs()));
            }
            tracing::debug!("{} {}: try {attempt} failed: {trouble:?}", ask.method, shown(&ask.url));
            self.wait(asked_for.unwrap_or(backoff), voice)?;
            backoff *= 2;
        }
        Err(Trouble::Stopped)
    }

    /// Asks once.
    pub(super) fn once(&self, ask: &Ask<'_>, voice: &OnProgress<'_>) -> Result<Answer, Trouble> {
        self.until_stopped(voice, async {
            let mut request = self.http.request(ask.method.clone(), &ask.url).timeout(self.limit(&ask.body));
            // Addresses that a server hands out may lead anywhere.
            if let Some(token) = self.token.as_ref().filter(|_| ask.url.starts_with(&format!("{}/", self.endpoint))) {
                request = request.header(AUTHORIZATION, format!("Bearer {}", token.secret()));
            }
            let request = filled(request, &ask.body).await.map_err(Trouble::Here)?;
            let answer = request.send().await.map_err(|error| broken(&error))?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = answer.bytes().await.map_err(|error| broken(&error))?.to_vec();
            if status.is_success() { Ok(Answer { headers, body }) } else { Err(self.refusal(status.as_u16(), &headers, &body)) }
        })
    }

    fn limit(&self, body: &Body<'_>) -> Duration {
        let large = if let Body::File(_, range, _) = body { range.end.saturating_sub(range.start) } else { 0 };
        SILENCE + Duration::from_secs(large / SLOWEST)
    }

    /// Waits, unless the run is stopped.
    pub(super) fn wait(&self, pause: Duration, voice: &OnProgress<'_>) -> Result<(), Trouble> {
        self.until_stopped(voice, async {
            tokio::time::sleep(pause).await;
            Ok(())
        })
    }

    fn until_stopped<T>(&self, voice: &OnProgress<'_>, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        self.runtime.block_on(async {
            let mut work = Box::pin(work);
            loop {
                if voice.stop.load(Ordering::Relaxed) {
                    return Err(Trouble::Stopped);
                }
                if let Ok(done) = tokio::time::timeout(BEAT, work.as_mut()).await {
                    return done;
                }
            }
        })
    }

    /// A server's refusal, without the token if it repeats that.
    fn refusal(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Trouble {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let json = || serde_json::from_slice::<Value>(body).ok().and_then(|body| body["error"].as_str().map(str::to_owned));
        let words = header("x-error-message").or_else(json).or_else(|| header("x-error-code")).unwrap_or_default();
        let words: String = words.chars().filter(|c| !c.is_control()).take(WORDS).collect();
        let words = self.token.as_ref().map_or(words.clone(), |token| words.replace(token.secret(), "…"));
        Trouble::Refused(status, words, pause(&header))
    }

    /// What trouble means for the one who asked; `what` is what was to be done: `write to alice/voice`.
    pub(super) fn explain(&self, trouble: Trouble, what: &str) -> Error {
        let environment = |message: String| Error::new(message).environment();
        let endpoint = &self.endpoint;
        let (status, words, pause) = match trouble {
            Trouble::Here(error) => return error,
            Trouble::Stopped => {
                return Error::new(format!("stopped before it could {what}"))
                    .kind(ErrorKind::Interrupted)
                    .hint("run again: it goes on from there");
            }
            Trouble::Unreachable(why) => {
                return environment(format!("cannot {what}: `{endpoint}` cannot be reached ({why})"))
                    .hint("check the network and HF_ENDPOINT, then run again: what was uploaded stays");
            }
            Trouble::Broken(why) => {
                return environment(format!("cannot {what}: the connection broke off ({why})")).hint("run again: what was uploaded stays");
            }
            Trouble::Refused(status, words, pause) => (status, words, pause),
        };
        let said = if words.is_empty() { String::new() } else { format!(" (\"{words}\")") };
        let token =
            self.token.as_ref().map_or_else(|| "there is no token".to_owned(), |token| format!("the token is from {}", token.source));
        let settings = format!("make one that may write at {endpoint}/settings/tokens, and set HF_TOKEN or HF_WRITE_TOKEN to it");
        match status {
            401 if self.token.is_none() => environment(format!("cannot {what}: that needs a token, and there is none")).hint(settings),
            401 => environment(format!("cannot {what}: the Hub does not accept the token; {token}{said}")).hint(settings),
            402 => environment(format!("cannot {what}: the Hub wants to be paid for that{said}"))
                .hint(format!("choose what is free (`sdk = \"static\"` for a Space), or see {endpoint}/pricing")),
            403 => environment(format!("cannot {what}: not allowed; {token}{said}")).hint(settings),
            404 => environment(format!("cannot {what}: there is no such repository, or the token may not see it; {token}{said}"))
                .hint(format!("check the name at {endpoint}")),
            409 => environment(format!("cannot {what}: it is there already, or somebody else is changing it{said}")).hint("run again"),
            412 => environment(format!("cannot {what}: somebody else has changed the repository meanwhile{said}"))
                .hint("run again to publish on top of that"),
            429 => {
                let when = pause.map_or_else(|| "some minutes".to_owned(), |pause| format!("{} s", pause.as_secs()));
                environment(format!("cannot {what}: the Hub asks for a pause of {when}")).hint("run again later: what was uploaded stays")
            }
            500..=599 => {
                environment(format!("cannot {what}: the Hub answers {status}{said}")).hint("run again later: what was uploaded stays")
            }
            _ => {
                environment(format!("cannot {what}: the Hub answers {status}{said}")).hint("run again; if it stays so, look at the message")
            }
        }
    }
}

async fn filled(request: RequestBuilder, body: &Body<'_>) -> Result<RequestBuilder> {
    Ok(match body {
        Body::None => request,
        Body::Json(value) => {
            let kind = "application/json";
            request.header(CONTENT_TYPE, kind).body(serde_json::to_vec(value)?)
        }
        Body::File(path, range, kind) => {
            let reading = || format!("cannot read `{}`", path.display());
            let mut file = tokio::fs::File::open(path).await.with_context(reading)?;
            file.seek(std::io::SeekFrom::Start(range.start)).await.with_context(reading)?;
            let size = range.end - range.start;
            let stream = ReaderStream::with_capacity(file.take(size), 256 << 10);
            // Stores of large files take no body of unknown length.
            request.header(CONTENT_TYPE, *kind).header(CONTENT_LENGTH, size).body(reqwest::Body::wrap_stream(stream))
        }
    })
}

/// How long a server asks to wait: `Retry-After: 5`, or the `t=5` of its rate limit.
fn pause(header: &dyn Fn(&str) -> Option<String>) -> Option<Duration> {
    let seconds = |text: String| text.trim().parse::<u64>().ok().map(Duration::from_secs);
    header("retry-after").and_then(seconds).or_else(|| {
        let limit = header("ratelimit")?;
        let parts: Vec<&str> = limit.split([';', ',']).map(str::trim).collect();
        let spent = parts.contains(&"r=0");
        parts.iter().find_map(|part| part.strip_prefix("t=")).filter(|_| spent).and_then(|part| seconds(part.to_owned()))
    })
}

fn broken(error: &reqwest::Error) -> Trouble {
    if error.is_connect() {
        return Trouble::Unreachable("no connection".to_owned());
    }
    Trouble::Broken((if error.is_timeout() { "it took too long" } else { "it ended too early" }).to_owned())
}

/// An address without its query, which may hold a signature.
fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_read_from_either_header() {
        let of = |name: &'static str, value: &'static str| pause(&move |asked: &str| (asked == name).then(|| value.to_owned()));
        assert_eq!(of("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(of("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(of("ratelimit", "\"api\";r=0;t=55"), Some(Duration::from_secs(55)));
        assert_eq!(of("ratelimit", "\"api\";r=20;t=55"), None);
    }

    #[test]
    fn a_refusal_never_repeats_the_token() {
        let wire = Wire::new("http://127.0.0.1:9", Some(HubToken::new("hf_secret", "a test")), None).unwrap();
        let refused = wire.refusal(403, &HeaderMap::new(), br#"{"error":"hf_secret may not"}"#);
        let told = wire.explain(refused, "write");
        assert!(told.message.contains("may not") && !told.message.contains("hf_secret"), "{}", told.message);
        assert_eq!(told.kind, ErrorKind::Environment);
    }
}
