//! The functions under test, shared with `tests/fuzzing.rs`, and what libFuzzer needs around them.

#[path = "../../tests/fuzzing/targets.rs"]
pub mod targets;
#[path = "../../tests/fuzzing/weights.rs"]
pub mod weights;

use std::cell::OnceCell;
use std::panic;
use targets::Target;
use tempfile::TempDir;

/// Runs a target in a folder of its own, in memory where the system has such a place.
pub fn run(target: Target, bytes: &[u8]) {
    thread_local!(static FOLDER: OnceCell<TempDir> = const { OnceCell::new() });
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder"));
        target(bytes, folder.path());
        for entry in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            std::fs::remove_file(entry.path()).expect("what a target wrote can be removed");
        }
    });
}

/// libFuzzer aborts at the first panic, also at those that our code catches. Symphonia's arithmetic overflows on absurd headers where
/// overflow is checked; `audio::decode` makes an error of that, so panics inside symphonia are let through to it.
pub fn let_symphonia_panic() {
    let abort = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| place.file().contains("/symphonia")) {
            abort(panic);
        }
    }));
}
