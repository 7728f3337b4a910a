//! The one error of the program: what stopped us, what to do about it, and which exit code it becomes.
//!
//! A message is a lowercase sentence that names the file, the line or the tensor; the advice says what to do next.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::{fmt, io};

/// Shorthand used all over the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How the program ends. The numbers are part of the interface: scripts rely on them.
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
    /// Interrupted by a signal; running again goes on from here.
    Interrupted = 75,
}

/// A way for a stage to fail, as far as something else may be tried after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The stage ended with an error.
    #[default]
    Crash,
    /// The memory of the machine or of its GPU did not suffice.
    OutOfMemory,
    /// The stage took longer than its `timeout`.
    Timeout,
    /// The stage said nothing for as long as its `stall`.
    Stalled,
    /// The loss, a gradient or a weight became infinite or no number.
    Diverged,
    /// The disk is full.
    DiskFull,
    /// The GPU or its driver gave up.
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

    /// What a panic's message speaks of: burn panics where a device fails.
    #[must_use]
    pub fn of_panic(message: &str) -> Self {
        let message = message.to_lowercase();
        let speaks_of = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if speaks_of(&["out of memory", "out_of_memory", "outofmemory", "memory allocation of"]) {
            Self::OutOfMemory
        } else if speaks_of(&["cuda_error", "device lost", "device is lost", "cudaerror", "driver error"]) {
            Self::LostDevice
        } else {
            Self::Crash
        }
    }
}

/// What stopped us.
#[derive(Clone, Debug)]
pub struct Error {
    /// The exit code this error becomes when nobody handles it.
    pub exit: Exit,
    /// What kind of failure it is of a stage.
    pub failure: Failure,
    /// What happened and where, in one sentence.
    pub message: String,
    /// What the reader can do about it.
    pub advice: Option<String>,
}

impl Error {
    /// An error that ends a stage; see [`Error::exit`] for the other kinds.
    pub fn new(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, failure: Failure::default(), message: message.into(), advice: None }
    }

    /// The same error with another exit code.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The same error as a failure of another kind.
    pub fn failure(mut self, failure: Failure) -> Self {
        self.failure = failure;
        self
    }

    /// Adds what the reader can do about it.
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Puts what we were doing, or where, in front of the message: `doing: message`.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some("free some space, then run again: what was finished is kept"),
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Some("choose a folder you may write to, or change its permissions")
            }
            _ => None,
        };
        let failure = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::DiskFull,
            io::ErrorKind::OutOfMemory => Failure::OutOfMemory,
            _ => Failure::Crash,
        };
        let new = Self::new(error.to_string()).failure(failure);
        match advice {
            Some(advice) => new.exit(Exit::Environment).advice(advice),
            None => new,
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// Says what we were doing when something failed.
pub trait ResultExt<T> {
    /// Puts `doing()` in front of the error's message.
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(doing()))
    }
}

/// What a panic said.
pub fn said(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_of_devices_are_told_apart() {
        let cases = [
            ("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", Failure::OutOfMemory),
            ("memory allocation of 17179869184 bytes failed", Failure::OutOfMemory),
            ("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered", Failure::LostDevice),
            ("index out of bounds: the len is 3 but the index is 4", Failure::Crash),
        ];
        for (message, failure) in cases {
            assert_eq!(Failure::of_panic(message), failure, "{message}");
        }
        let full = Error::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!((full.failure, full.exit), (Failure::DiskFull, Exit::Environment));
    }

    #[test]
    fn failures_are_called_as_they_are_written() {
        for failure in [
            Failure::Crash,
            Failure::OutOfMemory,
            Failure::Timeout,
            Failure::Stalled,
            Failure::Diverged,
            Failure::DiskFull,
            Failure::LostDevice,
        ] {
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.word());
        }
    }
}
