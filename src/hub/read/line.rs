//! One question to a server and its answer: redirects, retries, and what a refusal means.
//!
//! The token goes to the Hub's own address and to no other: redirects lead to stores elsewhere, and are followed by hand, without it.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::token::HubToken;
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, HeaderMap, LINK, LOCATION, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// How often a question is asked.
const TRIES: u32 = 5;
/// What is waited before the second try where the server does not say; doubled before each further one.
const PATIENCE: Duration = Duration::from_millis(300);
/// A server that asks for a longer pause than this is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A server that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// How often whoever waits is asked whether to go on.
const BEAT: Duration = Duration::from_millis(200);
const REDIRECTS: u32 = 5;
/// Most bytes of an answer that is no part of a file.
const LONGEST_ANSWER: u64 = 64 << 20;

/// The way to the Hub.
pub(super) struct Line<'a> {
    endpoint: Url,
    token: Option<HubToken>,
    client: Client,
    runtime: Runtime,
    stopped: &'a dyn Fn() -> bool,
}

/// What a server answered.
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    headers: HeaderMap,
}

/// Why there is no answer.
enum Trouble {
    /// Trying again may help, perhaps after a pause the server asked for.
    Passing(Error, Option<Duration>),
    Final(Error),
}

/// The part of a file that is asked for.
#[derive(Clone, Copy)]
struct Part {
    from: u64,
    length: u64,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Answer {
    /// A header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The address of the next page of a list.
    pub(super) fn next(&self) -> Option<String> {
        let links = self.headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok()).flat_map(|links| links.split(','));
        let next = links.filter(|link| link.contains("rel=\"next\"")).find_map(|link| link.split_once('<')?.1.split_once('>'));
        next.map(|(address, _)| address.to_owned())
    }
}

impl<'a> Line<'a> {
    pub(super) fn new(endpoint: &str, token: Option<HubToken>, stopped: &'a dyn Fn() -> bool) -> Result<Self> {
        let endpoint = Url::parse(endpoint).ok().filter(|url| url.has_host()).ok_or_else(|| {
            Error::new(format!("`{endpoint}` cannot be the Hub's address")).environment().hint("set HF_ENDPOINT right, or not at all")
        })?;
        let agent = concat!("voxpipe/", env!("CARGO_PKG_VERSION"));
        let client =
            Client::builder().user_agent(agent).redirect(Policy::none()).connect_timeout(SILENCE / 4).read_timeout(SILENCE).build();
        let client = client.map_err(|error| Error::new(format!("there is no way to the network: {error}")).environment())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().with_context(|| "cannot speak to a server")?;
        Ok(Self { endpoint, token, client, runtime, stopped })
    }

    /// The whole answer to a question.
    pub(super) fn get(&self, address: &str, what: &str) -> Result<Answer> {
        self.ask(address, None, what)
    }

    /// So many bytes of a file from a place on.
    pub(super) fn part(&self, address: &str, from: u64, length: u64, what: &str) -> Result<Vec<u8>> {
        Ok(self.ask(address, Some(Part { from, length }), what)?.body)
    }

    fn ask(&self, address: &str, part: Option<Part>, what: &str) -> Result<Answer> {
        let address = Url::parse(address).map_err(|error| Error::new(format!("`{address}` is no address: {error}")))?;
        let mut patience = PATIENCE;
        let mut body = Vec::new();
        for attempt in 1.. {
            let asked = self.runtime.block_on(self.watched(self.once(address.clone(), part, &mut body, what)))?;
            let (error, pause) = match asked {
                Ok(headers) => return Ok(Answer { body, headers }),
                Err(Trouble::Passing(error, pause)) => (error, pause),
                Err(Trouble::Final(error)) => return Err(self.hidden(error)),
            };
            if attempt == TRIES || pause.is_some_and(|pause| pause > LONGEST_PAUSE) {
                return Err(self.hidden(error));
            }
            tracing::debug!("{what}: try {attempt} failed: {}", error.message);
            self.wait(pause.unwrap_or(patience))?;
            patience *= 2;
            // Of a file, what came stays; of anything else a part is worth nothing.
            if part.is_none() {
                body.clear();
            }
        }
        Err(Error::new(format!("{what} could not be had")))
    }

    /// One try. What comes is added to `body`, so that the next try asks for the rest alone.
    async fn once(&self, mut address: Url, part: Option<Part>, body: &mut Vec<u8>, what: &str) -> Result<HeaderMap, Trouble> {
        let first = address.clone();
        for _ in 0..REDIRECTS {
            let mut question = self.client.get(address.clone());
            if let (true, Some(token)) = (address.origin() == self.endpoint.origin(), &self.token) {
                question = question.header(AUTHORIZATION, format!("Bearer {}", token.secret()));
            }
            let rest = part.map(|part| Part { from: part.from + body.len() as u64, length: part.length - body.len() as u64 });
            if let Some(rest) = rest {
                question = question.header(RANGE, format!("bytes={}-{}", rest.from, rest.from + rest.length.max(1) - 1));
            }
            let response = question.send().await.map_err(|error| self.unreached(&error, &address, what))?;
            let (status, headers) = (response.status(), response.headers().clone());
            if status.is_redirection() {
                let to = headers.get(LOCATION).and_then(|to| address.join(to.to_str().ok()?).ok());
                address = to.ok_or_else(|| Error::new(format!("`{address}` leads nowhere")).environment())?;
                continue;
            }
            if !status.is_success() {
                return Err(self.refused(status, &headers, &first, what));
            }
            return self.receive(response, rest, body, what).await.map(|()| headers);
        }
        Err(Error::new(format!("{what} is sent from one place to the next without end")).environment().into())
    }

    async fn receive(&self, mut response: reqwest::Response, part: Option<Part>, body: &mut Vec<u8>, what: &str) -> Result<(), Trouble> {
        let most = body.len() as u64 + part.map_or(LONGEST_ANSWER, |part| part.length);
        if let Some(part) = part {
            let begins = response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|range| range.to_str().ok())
                .and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok());
            // A server that knows no ranges begins at the beginning; what is behind the part is then not waited for.
            let begins = if response.status() == StatusCode::PARTIAL_CONTENT { begins } else { Some(0) };
            if begins != Some(part.from) {
                return Err(Error::new(format!("the server does not give a part of {what}"))
                    .environment()
                    .hint("name a Hub that does in HF_ENDPOINT")
                    .into());
            }
        }
        loop {
            let piece = response.chunk().await.map_err(|error| self.unreached(&error, &response_address(&response), what))?;
            let Some(piece) = piece else { break };
            let room = usize::try_from(most - body.len() as u64).unwrap_or(usize::MAX);
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            if body.len() as u64 == most {
                break;
            }
        }
        match part {
            Some(_) if (body.len() as u64) < most => {
                let broke = format!("{what} broke off");
                Err(Trouble::Passing(Error::new(broke).environment().hint("run again: what was read stays"), None))
            }
            None if body.len() as u64 == LONGEST_ANSWER => Err(Error::new(format!("{what} is too long to be an answer")).into()),
            _ => Ok(()),
        }
    }

    /// Lets somebody ask between two pieces whether to stop.
    async fn watched<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            match timeout(BEAT, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) if (self.stopped)() => return Err(stopped()),
                Err(_) => {}
            }
        }
    }

    fn wait(&self, pause: Duration) -> Result<()> {
        let begun = Instant::now();
        while let Some(left) = pause.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            if (self.stopped)() {
                return Err(stopped());
            }
            std::thread::sleep(left.min(BEAT));
        }
        Ok(())
    }

    fn unreached(&self, error: &reqwest::Error, address: &Url, what: &str) -> Trouble {
        let place = address.origin().ascii_serialization();
        let (message, hint) = if error.is_connect() {
            (format!("`{place}` cannot be reached"), "check the network and HF_ENDPOINT, then run again")
        } else if error.is_timeout() {
            (format!("`{place}` has sent nothing of {what} for {} s", SILENCE.as_secs()), "check the network, then run again")
        } else {
            (format!("{what} broke off"), "run again: what was read stays")
        };
        Trouble::Passing(Error::new(message).environment().hint(hint), None)
    }

    /// What a status means for the one who asked.
    fn refused(&self, status: StatusCode, headers: &HeaderMap, address: &Url, what: &str) -> Trouble {
        let code = headers.get("X-Error-Code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        let environment = |message: String| Error::new(message).environment();
        let access = "open its page on the Hub and accept its conditions, then set HF_TOKEN to a token that may read it";
        let ours = address.origin() == self.endpoint.origin();
        match status.as_u16() {
            401 if self.token.is_none() || !ours => {
                environment(format!("{what} is private or gated, or there is no such repository, and there is no token to ask with"))
                    .hint(format!("check the name; if it is right, {access}"))
                    .into()
            }
            401 => environment(format!("the Hub does not accept the token for {what}"))
                .hint(format!("check that HF_TOKEN, or the file `hf auth login` wrote, is still valid; {access}"))
                .into(),
            403 => environment(format!("the token may not read {what}: it is gated or private")).hint(access).into(),
            404 => {
                let missing = match code {
                    "RevisionNotFound" => "the repository has no such revision",
                    "EntryNotFound" => "the repository has no such file or folder",
                    _ => "there is no such repository",
                };
                Error::new(format!("{what} is not there: {missing}"))
                    .kind(ErrorKind::InvalidInput)
                    .hint("check the name of the repository and its revision")
                    .into()
            }
            429 => {
                let asked = pause(headers);
                let error = environment(format!("the Hub asks for a pause before it gives {what}"));
                Trouble::Passing(error.hint("wait some minutes, then run again; a token (HF_TOKEN) raises the limit"), asked)
            }
            500..600 | 408 => {
                let error = environment(format!("`{}` answers {} for {what}", address.origin().ascii_serialization(), status.as_u16()));
                Trouble::Passing(error.hint("run again later: what was read stays"), pause(headers))
            }
            other => environment(format!("`{}` answers {other} for {what}", address.origin().ascii_serialization()))
                .hint("check HF_ENDPOINT")
                .into(),
        }
    }

    /// The token is in no message, whatever the server says.
    fn hidden(&self, error: Error) -> Error {
        match &self.token {
            Some(token) => error.redacted(token.secret()),
            None => error,
        }
    }
}

fn response_address(response: &reqwest::Response) -> Url {
    response.url().clone()
}

fn stopped() -> Error {
    Error::new("stopped while reading from the Hub").kind(ErrorKind::Interrupted).hint("run again to go on: what was read stays")
}

/// How long the server wants to be left alone: `Retry-After`, or the reset (`t=`) of `RateLimit`.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let after = headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
    let reset = || text("RateLimit")?.split(';').find_map(|part| part.trim().strip_prefix("t=")?.parse().ok());
    after.or_else(reset).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_read_from_either_header() {
        let headers = |name: &'static str, value: &str| HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        assert_eq!(pause(&headers("retry-after", "7")), Some(Duration::from_secs(7)));
        assert_eq!(pause(&headers("ratelimit", "\"api\";r=0;t=55")), Some(Duration::from_secs(55)));
        assert_eq!(pause(&headers("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")), None);
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        let headers =
            HeaderMap::from_iter([(LINK, "<http://h/a?x=1>; rel=\"prev\", <http://h/b?cursor=2>; rel=\"next\"".parse().unwrap())]);
        assert_eq!(Answer { body: Vec::new(), headers }.next().as_deref(), Some("http://h/b?cursor=2"));
    }
}
