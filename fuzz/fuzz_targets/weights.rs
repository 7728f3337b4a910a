#![no_main]

use libfuzzer_sys::fuzz_target;
use voxpipe_fuzz::{run, weights};

fuzz_target!(|bytes: &[u8]| run(weights::weights, bytes));
