//! `[cache]`: size limit and sharing of the result cache.

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

/// `[cache]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheTable {
    /// Size that `voxpipe gc` reduces the cache to, such as "20GB". Results in use are kept even if they exceed it. Default: `gc` removes
    /// every result that is not in use.
    #[schemars(with = "Option<String>", example = &"20GB")]
    pub max_size: Option<Spanned<String>>,
    /// Folder of a shared (team) cache: results are pulled from it and pushed to it. The environment variable VOXPIPE_SHARED_CACHE
    /// overrides it; an empty value turns sharing off.
    #[schemars(with = "Option<String>", example = &"/mnt/team/voxpipe")]
    pub shared: Option<Spanned<String>>,
    /// Pull results from the shared cache but never push to it (default false). VOXPIPE_SHARED_CACHE_READ_ONLY=1 does the same.
    #[serde(default)]
    pub read_only: bool,
}
