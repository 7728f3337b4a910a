//! Retry policy of a step: retries, exponential backoff, and setting overrides after particular failures.

use crate::error::{Error, ErrorKind};
use crate::exit::Exit;
use crate::stage::{Failure, SettingOverrides};
use std::time::Duration;

/// When and how a failed step is retried.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageRetry {
    /// Number of retries, if the file sets it.
    pub times: Option<u32>,
    /// Failures to retry after; if empty, see [`StageRetry::repeats`].
    pub on: Vec<Failure>,
    /// Delay before the first retry.
    pub backoff: Option<Duration>,
    /// Setting overrides after particular failures.
    pub recover: Vec<RecoveryRule>,
}

/// Setting overrides for a retry.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveryRule {
    /// The failure they apply to; `None` for any.
    pub on: Option<Failure>,
    /// The overrides.
    pub set: SettingOverrides,
}

/// Default number of retries of a step with `recover`.
const DEFAULT_RECOVERIES: u32 = 2;
/// The maximum delay before a retry.
const MAX_DELAY: Duration = Duration::from_secs(60 * 60);

impl StageRetry {
    /// The number of retries after the first attempt.
    pub fn times(&self) -> u32 {
        self.times.unwrap_or(if self.recover.is_empty() { 0 } else { DEFAULT_RECOVERIES })
    }

    /// The delay after attempt `number` (from 1) failed: exponential backoff, doubling up to the maximum.
    pub fn wait(&self, number: u32) -> Option<Duration> {
        let factor = 2u32.checked_pow(number.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff.map(|backoff| backoff.saturating_mul(factor).min(MAX_DELAY))
    }

    /// The overrides that apply after a failure, in file order; the first that can be applied is used.
    pub fn recoveries(&self, error: &Error) -> impl Iterator<Item = &SettingOverrides> + use<'_> {
        let kind = error.kind;
        self.recover.iter().filter(move |recovery| recovery.on.is_none_or(|on| is(kind, on))).map(|recovery| &recovery.set)
    }

    /// Whether the step is retried with unchanged settings.
    pub fn repeats(&self, error: &Error) -> bool {
        match self.on.is_empty() {
            // Without a list, failures that a person has to fix first are not retried, nor what a person cancelled.
            true => Exit::from(error) == Exit::Failed && error.kind != ErrorKind::Cancelled && self.times.is_some(),
            false => self.on.iter().any(|on| is(error.kind, *on)),
        }
    }
}

/// Whether an error of a kind is this failure. Invalid input, a lock and an interruption are no crashes: the same attempt would end the same.
fn is(kind: ErrorKind, failure: Failure) -> bool {
    let kinds = [ErrorKind::InvalidInput, ErrorKind::Locked, ErrorKind::Interrupted];
    Failure::from(kind) == failure && (failure != Failure::Crash || !kinds.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_that_may_pass_is_a_crash() {
        let retry = StageRetry { times: Some(1), on: vec![Failure::Crash], ..StageRetry::default() };
        let recover = |on| StageRetry { recover: vec![RecoveryRule { on, set: SettingOverrides::new() }], ..StageRetry::default() };
        for (kind, again) in
            [(ErrorKind::Other, true), (ErrorKind::InvalidInput, false), (ErrorKind::Locked, false), (ErrorKind::OutOfMemory, false)]
        {
            let error = Error::new("failed").kind(kind);
            assert_eq!(retry.repeats(&error), again, "{kind:?}");
            assert_eq!(recover(Some(Failure::Crash)).recoveries(&error).count(), usize::from(again), "{kind:?}");
            assert_eq!(recover(None).recoveries(&error).count(), 1);
        }
    }
}
