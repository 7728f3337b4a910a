//! A hundred publications, each with faults of its own.

use super::*;
use rand::Rng;

#[test]
fn a_hundred_faulty_publications_end_published_or_can_be_resumed() {
    let (mut published, mut resumed) = (0, 0);
    for seed in 0..100 {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let mut bench = Bench::new();
        bench.hub.part_size(MIB / 2);
        bench.files.insert("more.safetensors".to_owned(), noise(seed, MIB + seed as usize));
        let mut told = Vec::new();
        for _ in 0..dice.random_range(1..5) {
            let what = match dice.random_range(0..9) {
                0 => What::Status([401, 402, 403, 404, 409, 412, 416, 429][dice.random_range(0..8)], ""),
                1 => What::Status([500, 502, 503, 504][dice.random_range(0..4)], ""),
                2 => What::RetryAfter(429, 0),
                3 | 4 => What::CutBefore,
                5 => What::CutHalf,
                6 => What::CutAfter,
                7 => What::Slow(Duration::from_millis(1)),
                _ => What::Wrong,
            };
            let paths =
                ["", "whoami", "revision", "create", "/tree/", "preupload", "batch", "/put/", "/part/", "complete", "verify", "/commit/"];
            let path = paths[dice.random_range(0..paths.len())];
            let times = if dice.random_bool(0.2) { usize::MAX } else { dice.random_range(1..4) };
            let fault = Fault::new("", path, what).after(dice.random_range(0..4)).times(times);
            told.push(fault.clone());
            bench.hub.break_with(fault);
        }
        match bench.publish() {
            Ok(done) => {
                published += 1;
                bench.is_published(&done);
            }
            Err(error) => {
                resumed += 1;
                assert!(error.kind == ErrorKind::Environment && !error.message.is_empty(), "{seed}: {error:?} after {told:?}");
                // All of it by one commit, or nothing.
                if !bench.untouched() {
                    let mut there = bench.hub.files("model", REPO);
                    there.remove(MARKER);
                    assert!(there == bench.files && bench.hub.commits("model", REPO).len() == 2, "{seed}: half published after {told:?}");
                }
                bench.hub.mend();
                let done = bench.publish().unwrap_or_else(|error| panic!("{seed}: {error:?} after {told:?}"));
                bench.is_published(&done);
            }
        }
    }
    assert!(published > 10 && resumed > 10, "{published} published, {resumed} resumed: the faults are not what they should be");
}
