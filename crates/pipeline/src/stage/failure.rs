//! Failure kinds of a stage, as used in `retry.on` and `recover.on`.

use crate::error::ErrorKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of stage failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The stage ended with any other error.
    #[default]
    Crash,
    /// CPU or GPU memory was exhausted.
    OutOfMemory,
    /// The stage exceeded its `timeout`.
    Timeout,
    /// The stage reported no progress within its `stall_timeout`.
    Stalled,
    /// Training diverged: the loss, a gradient or a weight became infinite or NaN.
    Diverged,
    /// The disk is full.
    DiskFull,
    /// The GPU or its driver failed.
    LostDevice,
    /// A clip is unusable.
    BadSample,
    /// A person cancelled the stage's cluster job. Retried only if `on` names it.
    Cancelled,
}

impl Failure {
    /// The name used in `pipeline.toml`.
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
            Self::Cancelled => "cancelled",
        }
    }

    /// The corresponding error kind.
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
            Self::Cancelled => ErrorKind::Cancelled,
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
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::Other | ErrorKind::InvalidInput | ErrorKind::Environment | ErrorKind::Locked | ErrorKind::Interrupted => Self::Crash,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_their_serialized_names_and_keep_their_kind() {
        for failure in [
            Failure::Crash,
            Failure::OutOfMemory,
            Failure::Timeout,
            Failure::Stalled,
            Failure::Diverged,
            Failure::DiskFull,
            Failure::LostDevice,
            Failure::BadSample,
            Failure::Cancelled,
        ] {
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.word());
            assert_eq!(Failure::from(failure.kind()), failure);
        }
    }
}
