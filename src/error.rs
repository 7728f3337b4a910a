//! The one error of the program: what stopped us, what to do about it, and which exit code it becomes.
//!
//! A message is a lowercase sentence that names the file, the line or the tensor; the advice says what to do next.

use std::fmt;
use std::io;

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
    /// Interrupted by a signal; running again goes on from here.
    Interrupted = 75,
}

/// What stopped us.
#[derive(Clone, Debug)]
pub struct Error {
    /// The exit code this error becomes when nobody handles it.
    pub exit: Exit,
    /// What happened and where, in one sentence.
    pub message: String,
    /// What the reader can do about it.
    pub advice: Option<String>,
}

impl Error {
    /// An error that ends a stage; see [`Error::exit`] for the other kinds.
    pub fn new(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into(), advice: None }
    }

    /// The same error with another exit code.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
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
        let new = Self::new(error.to_string());
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
pub trait Doing<T> {
    /// Puts `doing()` in front of the error's message.
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(doing()))
    }
}
