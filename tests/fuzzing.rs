//! Every fuzz target on its seeds and on random mutations of them: a short version of `cargo fuzz` for CI, see `fuzz/README.md`.

mod targets;
mod weights;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use targets::Target;

/// Runs a target on its seeds and on `changed` mutations of each; a panic reports the file that reproduces it. The seeds named in `whole`
/// must be accepted: a target that rejects everything tests nothing.
fn survives(name: &str, target: Target, changed: usize, whole: &str) {
    let seeds = seeds(name);
    let mut taken = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    let run = |seed: &Path, bytes: &[u8], change: usize| {
        let Ok(taken) = catch_unwind(AssertUnwindSafe(|| target(bytes, folder.path()))) else {
            let kept = std::env::temp_dir().join(format!("voxpipe-{name}-{}", blake3::hash(bytes).to_hex()));
            fs::write(&kept, bytes).unwrap();
            panic!("{name}: change {change} of {} panics; the input is saved as {}", seed.display(), kept.display());
        };
        for entry in fs::read_dir(folder.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        taken
    };
    let mut random = ChaCha8Rng::seed_from_u64(23);
    for (number, (path, seed)) in seeds.iter().enumerate() {
        if run(path, seed, 0) {
            taken.push(path.file_name().unwrap().to_str().unwrap());
        }
        for change in 1..=changed {
            let (_, other) = &seeds[(number + change) % seeds.len()];
            run(path, &mutated(seed, other, &mut random), change);
        }
    }
    assert_eq!(taken.join(" "), whole);
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzzing").join("seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    seeds.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// One to four small mutations, of the kinds that find the most bugs.
fn mutated(seed: &[u8], other: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    const NUMBERS: [&[u8]; 12] = [
        &[0xff; 4],
        &[0; 4],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0x7f],
        &[0xff; 8],
        b"-1",
        b"0",
        b"18446744073709551616",
        b"1e999",
        b"null",
        b"\"\"",
        b"[]",
    ];
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..=8)).min(bytes.len());
        match random.random_range(0..7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(at..end, [])),
            2 => drop(bytes.splice(at..at, (0..4).map(|_| random.random::<u8>()).collect::<Vec<_>>())),
            3 => drop(bytes.splice(at..end, NUMBERS[random.random_range(0..NUMBERS.len())].iter().copied())),
            // A single flipped bit or digit keeps the rest readable.
            4 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            5 if !other.is_empty() => {
                let from = random.random_range(0..other.len());
                let to = (from + random.random_range(0..64)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            _ => bytes.extend_from_within(at..end),
        }
    }
    bytes
}

#[test]
fn configs_are_survived() {
    survives(
        "config",
        targets::config,
        1000,
        "defaults.json params.json realtime-params.json realtime.json transformers-4.json transformers-5.json",
    );
}

#[test]
fn tokenizers_are_survived() {
    survives(
        "tokenizer",
        targets::tokenizer,
        60,
        "backtracking.json empty-matches.json look-around.json many-specials.json text.json v11.json v13.json v3.json v7.json",
    );
}

#[test]
fn recordings_are_survived() {
    let whole = "aac.m4a alac.caf alac.m4a alaw.wav bare.aac bare.mp3 big.aiff claims-gigabytes.wav f32.wav f64.wav fast.flac \
                 flac.ogg ima.wav list.wav long.wav mono.flac ms.wav mulaw.au mulaw.caf mulaw.wav opus.mp4 opus.ogg opus.webm \
                 parts.mp4 s16.mov s16.wav s24.au s24.wav s32.wav six.opus six.wav speech.ogg stereo.flac tags.wav u8.wav \
                 vorbis.mka xing.mp3";
    survives("audio", targets::audio, 100, whole);
}

#[test]
fn checkpoints_are_survived() {
    survives("weights", weights::weights, 100, "bf16 f16 f32 mistral new-names shards");
}

#[test]
fn timed_texts_are_survived() {
    survives("cues", targets::cues, 300, "labels.txt long.TextGrid talk.eaf talk.srt talk.vtt");
}

#[test]
fn tables_are_survived() {
    let whole =
        "array.json comma.csv conversation.jsonl headerless.csv labels.json lines.jsonl quoted.tsv semicolon.csv sheet.xlsx utf16.csv";
    survives("table", targets::table, 300, whole);
}

#[test]
fn layouts_are_survived() {
    survives("layout", targets::layout, 300, "beside kaldi webdataset");
}
