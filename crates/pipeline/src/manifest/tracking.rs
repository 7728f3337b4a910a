//! `[tracking]`: where runs are shown beside our own log.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use toml::Spanned;

/// `[tracking]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrackingTable {
    /// Show trainings in Trackio while they run: `true` for the one on this machine, or the address of a server or a Space. The write token is
    /// taken from TRACKIO_WRITE_TOKEN, for a Space from HF_TOKEN.
    #[schemars(with = "Option<TrackioTable>")]
    pub trackio: Option<Spanned<TrackioTable>>,
    /// The project there; the pipeline's name if left out.
    #[schemars(with = "Option<String>")]
    pub project: Option<Spanned<String>>,
    /// What the run is called there; the stage and when it began if left out.
    #[schemars(with = "Option<String>")]
    pub run: Option<Spanned<String>>,
}

/// On this machine or not at all, or an address.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum TrackioTable {
    /// Whether it is shown on this machine.
    Here(bool),
    /// The address of a server.
    Server(String),
}

impl<'de> Deserialize<'de> for TrackioTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Place;
        impl Visitor<'_> for Place {
            type Value = TrackioTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or the address of a server")
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
