//! `[tracking]`: experiment tracking with Trackio, in addition to the local log.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use toml::Spanned;

/// `[tracking]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrackingTable {
    /// Log training runs to Trackio live: `true` for Trackio on this machine, or the URL of a server or a Space. The write token is read
    /// from TRACKIO_WRITE_TOKEN, for a Space from HF_TOKEN.
    #[schemars(with = "Option<TrackioTable>")]
    pub trackio: Option<Spanned<TrackioTable>>,
    /// Trackio project. Default: the pipeline's name.
    #[schemars(with = "Option<String>")]
    pub project: Option<Spanned<String>>,
    /// Trackio run name. Default: the stage's name and the start time.
    #[schemars(with = "Option<String>")]
    pub run: Option<Spanned<String>>,
}

/// Whether to log to Trackio on this machine, or the URL of a server.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum TrackioTable {
    /// Whether to log to Trackio on this machine.
    Here(bool),
    /// The URL of a server.
    Server(String),
}

impl<'de> Deserialize<'de> for TrackioTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Place;
        impl Visitor<'_> for Place {
            type Value = TrackioTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or the URL of a server")
            }

            fn visit_bool<E: de::Error>(self, here: bool) -> Result<TrackioTable, E> {
                Ok(TrackioTable::Here(here))
            }

            fn visit_str<E: de::Error>(self, address: &str) -> Result<TrackioTable, E> {
                Ok(TrackioTable::Server(address.to_owned()))
            }
        }
        deserializer.deserialize_any(Place)
    }
}
