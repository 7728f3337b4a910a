//! Resolves `[cache]`: size limit and sharing of the result cache. Not part of any fingerprint.

use super::resolver::Resolver;
use crate::diagnostics::Diagnostic;
use crate::manifest::{CacheTable, byte_size};
use std::path::PathBuf;

/// `[cache]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheSettings {
    /// Size in bytes that `voxpipe gc` reduces the cache to; results in use are kept even if they exceed it.
    pub max_size: Option<u64>,
    /// Folder of the shared cache, relative to the project root.
    pub shared: Option<PathBuf>,
    /// Whether results are only pulled from the shared cache, never pushed.
    pub read_only: bool,
}

impl Resolver<'_, '_> {
    pub(super) fn cache(&mut self, table: Option<CacheTable>) -> CacheSettings {
        let table = table.unwrap_or_default();
        let max_size = table.max_size.and_then(|written| {
            let bytes = byte_size::parse(written.get_ref());
            if bytes.is_none() {
                let message = format!("\"{}\" is not a size with a unit", written.get_ref());
                self.found.push(Diagnostic::error(written.span(), message).hint(format!("write a size such as {}", byte_size::FORMS)));
            }
            bytes
        });
        let shared = table.shared.and_then(|written| {
            if written.get_ref().trim().is_empty() {
                self.found.push(
                    Diagnostic::error(written.span(), "the path of the shared folder is empty").hint("write a folder, or remove the key"),
                );
                return None;
            }
            Some(PathBuf::from(written.into_inner()))
        });
        CacheSettings { max_size, shared, read_only: table.read_only }
    }
}
