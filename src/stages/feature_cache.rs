//! Opens the feature cache: outputs of a frozen audio encoder, stored in the project's cache.

use pipeline::stage::Context;
use std::path::Path;
use voxtral::device::SelectedDevice;
use voxtral::inference::encoder_cache::FeatureCache;
use voxtral::inference::transcriber::Transcriber;
use voxtral::weights::precision::Precision;

/// Opens the feature cache of a model for `chunks` chunks of audio. `identity` identifies its weights. If the disk has too little free
/// space or the cache is not `wanted`, the returned cache stores nothing.
pub(super) fn open(
    cx: &Context,
    recognizer: &Transcriber,
    identity: &str,
    chosen: &SelectedDevice,
    chunks: usize,
    wanted: bool,
) -> FeatureCache {
    let precision = recognizer.loaded.precision;
    let halved = precision != Precision::F32;
    if !wanted {
        return FeatureCache::none(halved);
    }
    let class = chosen.name.split(':').next().unwrap_or_default();
    let config = &recognizer.config;
    let numbers = chunks * config.audio_config.chunk_tokens() * config.text_config.hidden_size;
    let bytes = (numbers * if halved { 2 } else { 4 }) as u64;
    match free(&cx.root) {
        // Leave half of the free space free.
        Some(free) if bytes > free / 2 => {
            cx.note(format!(
                "feature cache disabled: it needs {} MiB and {} MiB are free on the disk; encoder features are recomputed each time",
                bytes >> 20,
                free >> 20
            ));
            FeatureCache::none(halved)
        }
        _ => FeatureCache::new(&cx.cache, &format!("{identity} {precision} {class}"), halved),
    }
}

/// Warns about errors of a feature cache.
pub(super) fn warn_about_cache(cx: &Context, memory: &FeatureCache) {
    if let Some(warning) = memory.warning() {
        cx.warn(format!("{warning}; encoder features were recomputed instead, which is slower but gives the same result"));
    }
}

/// Free bytes on the file system of a folder, for unprivileged users.
fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
