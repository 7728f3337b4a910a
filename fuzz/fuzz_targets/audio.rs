#![no_main]

use libfuzzer_sys::fuzz_target;
use voxpipe_fuzz::{let_symphonia_panic, run, targets};

fuzz_target!(init: let_symphonia_panic(), |bytes: &[u8]| run(targets::audio, bytes));
