//! Kinds of failures of a stage, as `retry.on` and `recover.on` name them.

use crate::error::ErrorKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A way for a stage to fail, as far as something else may be tried after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The stage ended with an error.
    #[default]
    Crash,
    /// The memory of the machine or of its GPU was not enough.
    OutOfMemory,
    /// The stage took longer than its `timeout`.
    Timeout,
    /// The stage reported nothing for as long as its `stall_timeout`.
    Stalled,
    /// The loss, a gradient or a weight became infinite or NaN.
    Diverged,
    /// The disk is full.
    DiskFull,
    /// The GPU or its driver failed.
    LostDevice,
    /// A clip cannot be used.
    BadSample,
}

impl Failure {
    /// As it is written in `pipeline.toml`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::OutOfMemory => "out-of-memory",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::Diverged => "diverged",
            Self::DiskFull => "disk-full",
            Self::LostDevice => "lost-device",
            Self::BadSample => "bad-sample",
        }
    }

    /// The error kind of this failure.
    #[must_use]
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Crash => ErrorKind::Other,
            Self::OutOfMemory => ErrorKind::OutOfMemory,
            Self::Timeout => ErrorKind::Timeout,
            Self::Stalled => ErrorKind::Stalled,
            Self::Diverged => ErrorKind::Diverged,
            Self::DiskFull => ErrorKind::DiskFull,
            Self::LostDevice => ErrorKind::LostDevice,
            Self::BadSample => ErrorKind::BadSample,
        }
    }
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::OutOfMemory => Self::OutOfMemory,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Stalled => Self::Stalled,
            ErrorKind::Diverged => Self::Diverged,
            ErrorKind::DiskFull => Self::DiskFull,
            ErrorKind::LostDevice => Self::LostDevice,
            ErrorKind::BadSample => Self::BadSample,
            ErrorKind::Other | ErrorKind::InvalidInput | ErrorKind::Environment | ErrorKind::Locked | ErrorKind::Interrupted => Self::Crash,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_called_as_they_are_written_and_keep_their_kind() {
        for failure in [
            Failure::Crash,
            Failure::OutOfMemory,
            Failure::Timeout,
            Failure::Stalled,
            Failure::Diverged,
            Failure::DiskFull,
            Failure::LostDevice,
            Failure::BadSample,
        ] {
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.word());
            assert_eq!(Failure::from(failure.kind()), failure);
        }
    }
}
