//! Fuzz targets, shared with `tests/fuzzing.rs`, and the glue for libFuzzer.

#[path = "../../tests/fuzzing/targets.rs"]
pub mod targets;
#[path = "../../tests/fuzzing/weights.rs"]
pub mod weights;

use std::cell::OnceCell;
use std::panic;
use targets::Target;
use tempfile::TempDir;

/// Runs a target in its own temporary folder, in memory if the system has `/dev/shm`.
pub fn run(target: Target, bytes: &[u8]) {
    thread_local!(static FOLDER: OnceCell<TempDir> = const { OnceCell::new() });
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder"));
        target(bytes, folder.path());
        for entry in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            std::fs::remove_file(entry.path()).expect("files written by a target can be removed");
        }
    });
}

/// libFuzzer aborts at the first panic, even at those our code catches. The arithmetic of symphonia overflows on absurd headers if overflow
/// is checked, and `audio::decode` turns that panic into an error. So panics inside symphonia do not abort.
pub fn let_symphonia_panic() {
    let abort = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| place.file().contains("/symphonia")) {
            abort(panic);
        }
    }));
}
