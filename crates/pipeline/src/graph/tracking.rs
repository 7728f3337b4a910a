//! Where runs are shown beside our own log.

use super::resolver::Resolver;
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::{TrackingTable, TrackioTable};
use toml::Spanned;

/// `[tracking]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackingSettings {
    /// Where Trackio is.
    pub to: TrackerKind,
    /// The project's name there; the pipeline's, if it is left out.
    pub project: Option<String>,
    /// The run's name there.
    pub run: Option<String>,
}

/// Where Trackio is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerKind {
    /// On this machine.
    Here,
    /// At this address.
    Server(String),
}

impl Resolver<'_, '_> {
    pub(super) fn tracking(&mut self, table: Option<TrackingTable>) -> Option<TrackingSettings> {
        let table = table?;
        let mut name = |value: Option<Spanned<String>>, what: &str| {
            let value = value?;
            if value.get_ref().trim().is_empty() || matches!(value.get_ref().as_str(), "." | "..") {
                let message = format!("\"{}\" cannot be the name of a {what}", value.get_ref());
                self.found.push(Diagnostic::error(value.span(), message).hint("write another, or leave it out"));
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
                        format!("\"{address}\" is not the address of a server"),
                        "write `true`, or an address such as \"https://user-space.hf.space\"",
                    )),
                    Some(rest) if rest.contains(['?', '#', '@']) => {
                        // What stands there may be a secret: it is not repeated.
                        let message = "the address of a server has no `?`, `#` or `@` in it".to_owned();
                        Some((message, "give the write token in the environment variable TRACKIO_WRITE_TOKEN"))
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
