//! Resolves `[tracking]`: experiment tracking with Trackio.

use super::resolver::Resolver;
use crate::diagnostics::Diagnostic;
use crate::manifest::{TrackingTable, TrackioTable};
use toml::Spanned;

/// `[tracking]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackingSettings {
    /// Where Trackio runs.
    pub to: TrackerKind,
    /// Trackio project; `None` for the pipeline's name.
    pub project: Option<String>,
    /// Trackio run name; `None` for the stage's name and start time.
    pub run: Option<String>,
}

/// Where Trackio runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerKind {
    /// On this machine.
    Here,
    /// On a server with this URL.
    Server(String),
}

impl Resolver<'_, '_> {
    pub(super) fn tracking(&mut self, table: Option<TrackingTable>) -> Option<TrackingSettings> {
        let table = table?;
        let mut name = |value: Option<Spanned<String>>, what: &str| {
            let value = value?;
            if value.get_ref().trim().is_empty() || matches!(value.get_ref().as_str(), "." | "..") {
                let message = format!("\"{}\" cannot be the name of a {what}", value.get_ref());
                self.found.push(Diagnostic::error(value.span(), message).hint("use another name, or remove the key"));
            }
            Some(value.into_inner())
        };
        let (project, run) = (name(table.project, "project"), name(table.run, "run"));
        let place = table.trackio?;
        let span = place.span();
        let to = match place.into_inner() {
            TrackioTable::Here(true) => TrackerKind::Here,
            TrackioTable::Here(false) => return None,
            TrackioTable::Server(address) => {
                let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
                let complaint = match rest {
                    None | Some("") => Some((
                        format!("\"{address}\" is not the URL of a server"),
                        "write `true`, or a URL such as \"https://user-space.hf.space\"",
                    )),
                    Some(rest) if rest.contains(['?', '#', '@']) => {
                        // It may contain a secret, so the message does not repeat it.
                        let message = "the URL of a server must not contain `?`, `#` or `@`".to_owned();
                        Some((message, "set the write token in the environment variable TRACKIO_WRITE_TOKEN"))
                    }
                    Some(_) => None,
                };
                if let Some((message, hint)) = complaint {
                    self.found.push(Diagnostic::error(span, message).hint(hint));
                    return None;
                }
                TrackerKind::Server(address)
            }
        };
        Some(TrackingSettings { to, project, run })
    }
}
