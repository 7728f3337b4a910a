//! When a failed request is tried again, and after how long.

use super::HttpError;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// How often a request is tried, and how long to wait between attempts.
///
/// A pause that the server asks for is kept; otherwise the delay doubles from attempt to attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in total; 1 never tries again.
    pub max_attempts: u32,
    /// Delay before the second attempt.
    pub base_delay: Duration,
    /// Longest delay, where the server does not ask for another.
    pub max_delay: Duration,
    /// Longest pause that a server may ask for; a longer one is an error.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            base_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(30),
            max_retry_after: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// One attempt only, for callers that have a queue to try again from.
    pub fn none() -> Self {
        Self { max_attempts: 1, ..Self::default() }
    }

    /// The delay after so many failed attempts: exponential, up to `max_delay`.
    pub fn backoff(&self, failures: u32) -> Duration {
        let factor = 2_u32.checked_pow(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base_delay.saturating_mul(factor).min(self.max_delay)
    }

    /// How long to wait before the next attempt after `attempt` (the first is 1) failed with this error; `None` to give up.
    pub fn next_delay(&self, attempt: u32, error: &HttpError) -> Option<Duration> {
        if attempt >= self.max_attempts || !error.is_transient() {
            return None;
        }
        match error.retry_after() {
            Some(pause) => (pause <= self.max_retry_after).then_some(pause),
            None => Some(self.backoff(attempt)),
        }
    }
}

/// Whether the next attempt may succeed after this status. 501 and 505 are permanent.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599) && !matches!(status, 501 | 505)
}

/// How long the server asks to wait: `Retry-After` in seconds or as a date, else the reset time of an exhausted rate limit.
///
/// The rate limit is read from `RateLimit: "api";r=0;t=55` (the Hub's form, one or more policies), from the older
/// `RateLimit: limit=100, remaining=0, reset=55`, and from `RateLimit-Remaining` with `RateLimit-Reset`. `now` is used where the
/// response has no `Date`.
pub(super) fn retry_after(status: u16, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(value) = text(RETRY_AFTER.as_str()) {
        let date = |text: &str| httpdate::parse_http_date(text).ok();
        let until = |at: SystemTime| at.duration_since(text(DATE.as_str()).and_then(date).unwrap_or(now)).unwrap_or_default();
        let seconds = value.parse().ok().map(Duration::from_secs);
        if let Some(pause) = seconds.or_else(|| date(value).map(until)) {
            return Some(pause);
        }
    }
    // Where the number of remaining requests is missing, the status decides.
    let is_exhausted = |remaining: Option<u64>| remaining.map_or(status == 429, |remaining| remaining == 0);
    let policies = headers.get_all("ratelimit").iter().filter_map(|value| value.to_str().ok()).flat_map(policies);
    let number = |name: &str| text(name)?.parse::<u64>().ok();
    let separate = number("ratelimit-reset").map(|reset| (number("ratelimit-remaining"), reset));
    let resets = policies.chain(separate).filter(|(remaining, _)| is_exhausted(*remaining)).map(|(_, reset)| reset);
    resets.max().map(Duration::from_secs)
}

/// The policies of a `RateLimit` header: remaining requests, if present, and seconds until the limit is reset.
fn policies(header: &str) -> Vec<(Option<u64>, u64)> {
    // In the older form commas separate the values of one policy, not policies.
    let separator = if header.contains("reset=") { ';' } else { ',' };
    let policy = |text: &str| {
        let value = |short: &str, long: &str| {
            let mut pairs = text.split([',', ';']).filter_map(|pair| pair.trim().split_once('='));
            pairs.find(|(name, _)| *name == short || *name == long)?.1.parse::<u64>().ok()
        };
        Some((value("r", "remaining"), value("t", "reset")?))
    };
    header.split(separator).filter_map(policy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::http::testing::STATUSES;

    #[test]
    fn pauses_are_read_from_every_header_that_asks_for_one() {
        let date = "Wed, 21 Oct 2026 07:28:00 GMT";
        let now = httpdate::parse_http_date("Wed, 21 Oct 2026 07:27:30 GMT").unwrap();
        for (status, headers, pause) in [
            (429, vec![("retry-after", "7")], Some(7)),
            (503, vec![("Retry-After", " 0 ")], Some(0)),
            (503, vec![("retry-after", date)], Some(30)),
            // By the server's own clock, if it sends a `Date`.
            (503, vec![("retry-after", date), ("date", "Wed, 21 Oct 2026 07:26:00 GMT")], Some(120)),
            (503, vec![("retry-after", "Wednesday, 21-Oct-26 07:28:00 GMT")], Some(30)),
            (503, vec![("retry-after", "Wed Oct 21 07:28:00 2026")], Some(30)),
            (503, vec![("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], Some(0)),
            (503, vec![("retry-after", "soon")], None),
            (503, vec![("retry-after", "-1")], None),
            (429, vec![("ratelimit", "\"api\";r=0;t=55")], Some(55)),
            (200, vec![("ratelimit", "\"api\";r=0;t=55")], Some(55)),
            (429, vec![("ratelimit", "\"api\";r=20;t=55")], None),
            (429, vec![("ratelimit", "\"api\";t=55")], Some(55)),
            (500, vec![("ratelimit", "\"api\";t=55")], None),
            (429, vec![("ratelimit", "\"api\";r=3;t=9, \"resolvers\";r=0;t=40, \"pages\";r=0;t=12")], Some(40)),
            (429, vec![("ratelimit", "limit=100, remaining=0, reset=50")], Some(50)),
            (429, vec![("ratelimit", "limit=100, remaining=7, reset=50")], None),
            (429, vec![("ratelimit-limit", "100"), ("ratelimit-remaining", "0"), ("ratelimit-reset", "33")], Some(33)),
            (503, vec![("ratelimit-remaining", "4"), ("ratelimit-reset", "33")], None),
            (429, vec![("ratelimit-policy", "\"api\";q=500;w=300")], None),
            (429, vec![("retry-after", "2"), ("ratelimit", "\"api\";r=0;t=55")], Some(2)),
            (429, vec![("retry-after", "soon"), ("ratelimit", "\"api\";r=0;t=55")], Some(55)),
            (429, vec![], None),
        ] {
            let map = HeaderMap::from_iter(headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())));
            assert_eq!(retry_after(status, &map, now), pause.map(Duration::from_secs), "{status} {headers:?}");
        }
    }

    #[test]
    fn only_transient_failures_are_tried_again() {
        let policy = RetryPolicy::default();
        for (status, transient) in STATUSES {
            let error = HttpError::status(*status, "");
            assert_eq!(policy.next_delay(1, &error), transient.then_some(policy.base_delay), "{status}");
        }
        for error in [HttpError::Connect { origin: String::new() }, HttpError::Disconnected, HttpError::timeout("", Duration::ZERO)] {
            assert_eq!(policy.next_delay(1, &error), Some(policy.base_delay), "{error:?}");
        }
        for error in [HttpError::Cancelled, HttpError::InvalidResponse(String::new()), HttpError::Local(crate::error::Error::new(""))] {
            assert_eq!(policy.next_delay(1, &error), None, "{error:?}");
        }
    }

    #[test]
    fn delays_double_up_to_a_limit_unless_the_server_asks_for_another() {
        let policy = RetryPolicy { max_attempts: 9, ..RetryPolicy::default() };
        let delays: Vec<u64> = (1..10).map_while(|n| Some(policy.next_delay(n, &HttpError::Disconnected)?.as_millis() as u64)).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(policy.backoff(u32::MAX), policy.max_delay);
        assert_eq!(RetryPolicy::none().next_delay(1, &HttpError::Disconnected), None);
        let asks = |seconds| HttpError::status(429, "").asking_for(Some(Duration::from_secs(seconds)));
        assert_eq!(policy.next_delay(3, &asks(0)), Some(Duration::ZERO));
        assert_eq!(policy.next_delay(3, &asks(300)), Some(Duration::from_secs(300)));
        assert_eq!(policy.next_delay(3, &asks(301)), None);
    }
}
