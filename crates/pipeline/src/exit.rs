//! Exit codes. The numbers are a stable interface for scripts.

use crate::error::{Error, ErrorKind};

/// Exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Success.
    Done = 0,
    /// A stage failed.
    Failed = 1,
    /// The pipeline file or the command line is invalid.
    Usage = 2,
    /// Another run holds the lock.
    Locked = 3,
    /// The environment lacks something, such as disk space, a permission, a device or a program.
    Environment = 4,
    /// The run is parked: a stage waits for a person.
    Parked = 10,
    /// A stage exceeded its `timeout` or `stall_timeout`.
    TimedOut = 11,
    /// A gate (`require`) failed.
    Gate = 12,
    /// `repro` produced different bytes than the original run.
    Differs = 13,
    /// `plan --exit-code`: some stages are not up to date.
    Pending = 14,
    /// Interrupted by a signal; the next run continues from here.
    Interrupted = 75,
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput => Self::Usage,
            ErrorKind::Environment | ErrorKind::DiskFull => Self::Environment,
            ErrorKind::Locked => Self::Locked,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::Timeout | ErrorKind::Stalled => Self::TimedOut,
            ErrorKind::Other
            | ErrorKind::OutOfMemory
            | ErrorKind::Diverged
            | ErrorKind::LostDevice
            | ErrorKind::BadSample
            | ErrorKind::Cancelled => Self::Failed,
        }
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        error.kind.into()
    }
}
