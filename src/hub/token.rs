//! The secret that says to the Hub who asks: where it comes from, and never what it is.

use super::cache;
use std::fmt;

/// A token with the place it was found in.
#[derive(Clone)]
pub struct HubToken {
    secret: String,
    /// `HF_TOKEN`, say, or the path of a file; for people.
    pub source: String,
}

impl HubToken {
    /// A token from somewhere.
    pub fn new(secret: impl Into<String>, source: impl Into<String>) -> Self {
        Self { secret: secret.into(), source: source.into() }
    }

    /// The token to publish with: what the official client would take, else `HF_WRITE_TOKEN`.
    pub fn for_writing() -> Option<Self> {
        cache::token().or_else(|| cache::token_in("HF_WRITE_TOKEN"))
    }

    /// The token to read with: what the official client would take, else `HF_READ_TOKEN`.
    pub fn for_reading() -> Option<Self> {
        cache::token().or_else(|| cache::token_in("HF_READ_TOKEN"))
    }

    /// A token given for others to read with: only ever `HF_READ_TOKEN`.
    pub(super) fn to_share() -> Option<Self> {
        cache::token_in("HF_READ_TOKEN")
    }

    /// The secret itself, for a header.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.source)
    }
}
