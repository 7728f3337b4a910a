//! What happens after a step has failed.

use crate::error::Error;
use crate::exit::Exit;
use crate::stage::Failure;
use crate::stage::SettingOverrides;
use std::time::Duration;

/// When a step is tried again, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetryPolicy {
    /// How many more times, if the file says.
    pub times: Option<u32>,
    /// After which failures; after any when empty.
    pub on: Vec<Failure>,
    /// How long to wait before the first of them.
    pub backoff: Option<Duration>,
    /// What is changed first, after which failures.
    pub recover: Vec<RecoveryRule>,
}

/// Settings to change after a failure.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveryRule {
    /// After which; after any when left out.
    pub on: Option<Failure>,
    /// The changes.
    pub set: SettingOverrides,
}

/// How often a step with `recover` is tried again where the file does not say.
const TIMES: u32 = 2;
/// The longest wait before a try.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

impl RetryPolicy {
    /// How many more tries there are after the first.
    pub fn times(&self) -> u32 {
        self.times.unwrap_or(if self.recover.is_empty() { 0 } else { TIMES })
    }

    /// How long to wait after the failure of try `number`, counted from 1: twice as long each time.
    pub fn wait(&self, number: u32) -> Option<Duration> {
        let factor = 2u32.checked_pow(number.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff.map(|backoff| backoff.saturating_mul(factor).min(LONGEST_WAIT))
    }

    /// The changes to make after a failure, one after the other until one can be made.
    pub fn recoveries(&self, error: &Error) -> impl Iterator<Item = &SettingOverrides> {
        let failure = Failure::from(error.kind);
        self.recover.iter().filter(move |recovery| recovery.on.is_none_or(|on| on == failure)).map(|recovery| &recovery.set)
    }

    /// Whether it is tried again as it is.
    pub fn repeats(&self, error: &Error) -> bool {
        match self.on.is_empty() {
            // Without a list, what a person has to mend first is not tried again.
            true => Exit::from(error) == Exit::Failed && self.times.is_some(),
            false => self.on.contains(&error.kind.into()),
        }
    }
}
