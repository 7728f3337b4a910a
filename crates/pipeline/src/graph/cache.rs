//! What is kept, and with whom it is shared. Nothing of it enters a fingerprint.

use super::resolver::Resolver;
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::{CacheTable, byte_size};
use std::path::PathBuf;

/// `[cache]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheSettings {
    /// How many bytes `voxpipe gc` leaves, beside what is still needed.
    pub max_size: Option<u64>,
    /// The folder a team shares; relative to the project's root.
    pub shared: Option<PathBuf>,
    /// Whether nothing is put there.
    pub read_only: bool,
}

impl Resolver<'_, '_> {
    pub(super) fn cache(&mut self, table: Option<CacheTable>) -> CacheSettings {
        let table = table.unwrap_or_default();
        let max_size = table.max_size.and_then(|written| {
            let bytes = byte_size::parse(written.get_ref());
            if bytes.is_none() {
                let message = format!("\"{}\" is not a size with its unit", written.get_ref());
                self.found.push(Diagnostic::error(written.span(), message).hint(format!("write it like {}", byte_size::FORMS)));
            }
            bytes
        });
        let shared = table.shared.and_then(|written| {
            if written.get_ref().trim().is_empty() {
                self.found.push(
                    Diagnostic::error(written.span(), "the name of the shared folder is empty").hint("write a folder, or leave it out"),
                );
                return None;
            }
            Some(PathBuf::from(written.into_inner()))
        });
        CacheSettings { max_size, shared, read_only: table.read_only }
    }
}
