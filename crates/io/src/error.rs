//! The error type of the workspace: kind, message, hint and path.
//!
//! A message is a lowercase sentence fragment that names the file, line or tensor; the hint says what to do next.

use std::any::Any;
use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

/// Shorthand for results with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an [`Error`], for code that handles it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorKind {
    /// None of the other kinds.
    #[default]
    Other,
    /// A file, setting or argument is invalid; a retry cannot help.
    InvalidInput,
    /// The environment lacks something: a permission, device, program or network.
    Environment,
    /// Another process holds a lock.
    Locked,
    /// Stopped on request; running again continues.
    Interrupted,
    /// Out of CPU or GPU memory.
    OutOfMemory,
    /// A time limit expired.
    Timeout,
    /// No progress for the stall timeout.
    Stalled,
    /// The loss, a gradient or a weight became infinite or NaN.
    Diverged,
    /// The disk is full.
    DiskFull,
    /// The GPU or its driver failed.
    LostDevice,
    /// A clip cannot be used.
    BadSample,
    /// Somebody else cancelled it.
    Cancelled,
}

impl ErrorKind {
    /// Classifies a panic message: burn panics when a device fails.
    #[must_use]
    pub fn of_panic(message: &str) -> Self {
        let message = message.to_lowercase();
        let contains = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if contains(&["out of memory", "out_of_memory", "outofmemory", "memory allocation of"]) {
            Self::OutOfMemory
        } else if contains(&["cuda_error", "device lost", "device is lost", "cudaerror", "driver error"]) {
            Self::LostDevice
        } else {
            Self::Other
        }
    }

    /// Whether the kind is more specific than [`ErrorKind::Environment`].
    fn is_specific(self) -> bool {
        !matches!(self, Self::Other | Self::InvalidInput | Self::Environment)
    }
}

/// An error with kind, message, hint, path and source.
#[derive(Clone, Debug)]
pub struct Error {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// What happened and where, in one sentence.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
    /// The file or folder concerned, if any.
    pub path: Option<PathBuf>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of kind [`ErrorKind::Other`]; see [`Error::kind`].
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::default(), message: message.into(), hint: None, path: None, source: None }
    }

    /// Sets the kind.
    #[must_use]
    pub fn kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets the kind to [`ErrorKind::Environment`], unless it is more specific already, such as a full disk.
    #[must_use]
    pub fn environment(mut self) -> Self {
        if !self.kind.is_specific() {
            self.kind = ErrorKind::Environment;
        }
        self
    }

    /// Sets the hint: what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the file or folder concerned; the message should name it too.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.path = Some(path.as_ref().to_owned());
        self
    }

    /// Replaces a secret by `…` in message and hint, and drops the source, which may contain it.
    #[must_use]
    pub fn redacted(mut self, secret: &str) -> Self {
        self.message = self.message.replace(secret, "…");
        self.hint = self.hint.map(|hint| hint.replace(secret, "…"));
        self.source = None;
        self
    }

    /// Prepends context to the message: `what: message`.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let (kind, hint) = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (ErrorKind::DiskFull, Some("free some space, then run again: what was finished is kept"))
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                (ErrorKind::Environment, Some("choose a folder you may write to, or change its permissions"))
            }
            io::ErrorKind::OutOfMemory => (ErrorKind::OutOfMemory, None),
            _ => (ErrorKind::Other, None),
        };
        let message = error.to_string();
        Self { kind, message, hint: hint.map(str::to_owned), path: None, source: Some(Arc::new(error)) }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        let message = error.to_string();
        Self { source: Some(Arc::new(error)), ..Self::new(message) }
    }
}

/// Adds context to errors.
pub trait ResultExt<T> {
    /// Prepends `what()` to the error message.
    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(what()))
    }
}

/// The message of a panic.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_of_devices_are_told_apart() {
        let cases = [
            ("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", ErrorKind::OutOfMemory),
            ("memory allocation of 17179869184 bytes failed", ErrorKind::OutOfMemory),
            ("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered", ErrorKind::LostDevice),
            ("index out of bounds: the len is 3 but the index is 4", ErrorKind::Other),
        ];
        for (message, kind) in cases {
            assert_eq!(ErrorKind::of_panic(message), kind, "{message}");
        }
    }

    #[test]
    fn io_errors_keep_their_source_and_a_full_disk_stays_one() {
        let full = Error::from(io::Error::from(io::ErrorKind::StorageFull)).environment();
        assert_eq!(full.kind, ErrorKind::DiskFull);
        assert!(full.hint.is_some() && full.source().is_some_and(|source| source.is::<io::Error>()));
        assert_eq!(Error::new("no such device").environment().kind, ErrorKind::Environment);
        let json: Error = serde_json::from_str::<u32>("x").unwrap_err().into();
        assert!(json.message.contains("line 1") && json.source().is_some());
    }
}
