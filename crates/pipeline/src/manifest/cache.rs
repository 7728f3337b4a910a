//! `[cache]`: what is kept, and with whom it is shared.

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

/// `[cache]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheTable {
    /// How much `voxpipe gc` leaves, "20GB"; what is still needed stays even if it is more. Without it nothing stays but what is needed.
    #[schemars(with = "Option<String>", example = &"20GB")]
    pub max_size: Option<Spanned<String>>,
    /// A folder that a team shares: results are taken from it and put into it. The environment variable VOXPIPE_SHARED_CACHE says otherwise
    /// if it is set, and with an empty value that nothing is shared.
    #[schemars(with = "Option<String>", example = &"/mnt/team/voxpipe")]
    pub shared: Option<Spanned<String>>,
    /// Take results from the shared folder, but put none into it. VOXPIPE_SHARED_CACHE_READ_ONLY=1 says the same.
    #[serde(default)]
    pub read_only: bool,
}
