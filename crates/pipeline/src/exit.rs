//! Exit codes of a program that runs pipelines. The numbers are part of the interface: scripts rely on them.

use crate::error::{Error, ErrorKind};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// A stage failed.
    Failed = 1,
    /// The file or the command line is wrong.
    Usage = 2,
    /// Another run holds the lock.
    Locked = 3,
    /// The environment lacks something: disk space, a permission, a device, a program.
    Environment = 4,
    /// The run waits for a person.
    Parked = 10,
    /// A stage took longer than its `timeout`.
    TimedOut = 11,
    /// A `require` gate was not met.
    Gate = 12,
    /// `repro` made other bytes than the run it repeated.
    Differs = 13,
    /// `plan --exit-code`: a run would have something to do.
    Pending = 14,
    /// Interrupted by a signal; running again continues from here.
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
            ErrorKind::Other | ErrorKind::OutOfMemory | ErrorKind::Diverged | ErrorKind::LostDevice | ErrorKind::BadSample => Self::Failed,
        }
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        error.kind.into()
    }
}
