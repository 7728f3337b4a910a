//! Whether what a frozen audio tower makes of clips is kept in the project's cache.

use pipeline::stage::Context;
use std::path::Path;
use voxtral::device::SelectedDevice;
use voxtral::inference::encoder_cache::FeatureCache;
use voxtral::inference::transcriber::Transcriber;
use voxtral::model::precision::Precision;

/// The memory of a model for so many chunks of audio. `identity` says which weights it has. With too little room on the disk, or
/// where it is not `wanted`, one that remembers nothing.
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
        // Half of what is free stays free.
        Some(free) if bytes > free / 2 => {
            cx.note(format!(
                "the audio tower's output is computed anew each time: it would take {} MiB, and {} MiB are free on the disk",
                bytes >> 20,
                free >> 20
            ));
            FeatureCache::none(halved)
        }
        _ => FeatureCache::new(&cx.cache, &format!("{identity} {precision} {class}"), halved),
    }
}

/// Says what went wrong with a memory.
pub(super) fn tell_trouble(cx: &Context, memory: &FeatureCache) {
    if let Some(trouble) = memory.trouble() {
        cx.warn(format!("{trouble}; clips were heard anew instead, which only takes longer"));
    }
}

/// Bytes an ordinary user may still write.
fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
