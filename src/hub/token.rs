//! Tokens for the Hub: where they come from. Their secret is never shown.

use super::cache;
use std::fmt;

/// A token, and where it was found.
#[derive(Clone)]
pub struct HubToken {
    secret: String,
    /// `HF_TOKEN`, for example, or the path of a file; for messages.
    pub source: String,
}

impl HubToken {
    /// A token with its source.
    pub fn new(secret: impl Into<String>, source: impl Into<String>) -> Self {
        Self { secret: secret.into(), source: source.into() }
    }

    /// The token for publishing: what the official client would use, else `HF_WRITE_TOKEN`.
    pub fn for_writing() -> Option<Self> {
        cache::token().or_else(|| cache::token_in("HF_WRITE_TOKEN"))
    }

    /// The token for reading: what the official client would use, else `HF_READ_TOKEN`.
    pub fn for_reading() -> Option<Self> {
        cache::token().or_else(|| cache::token_in("HF_READ_TOKEN"))
    }

    /// A token that may be given to a Space: only ever `HF_READ_TOKEN`.
    pub(super) fn to_share() -> Option<Self> {
        cache::token_in("HF_READ_TOKEN")
    }

    /// The secret itself.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HubToken(from {})", self.source)
    }
}
