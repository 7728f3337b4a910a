//! What is done with bytes nobody vouches for. Each function reads them as one of the files that people fetch or bring along; it may
//! refuse them with an error that names the file, and must not do anything else to them: panic, hang, or ask for memory that a
//! number in a header claims. `fuzz/` gives these functions to libFuzzer, `tests/fuzzing.rs` gives them a small corpus.
//!
//! Inputs are files as they are, with two shorthands so that the mutations hit what matters: see [`tokenizer`] and [`weights`].

#![allow(unreachable_pub, reason = "public in the crate of the fuzzers")]

use std::fs;
use std::path::Path;
use voxpipe::data::columns::{Columns, TableClip};
use voxpipe::data::cues::merge::{CueSettings, merged};
use voxpipe::data::cues::{self, Cue, CueFormat};
use voxpipe::data::dataset_card::read_configs;
use voxpipe::data::table::{BadRow, CueReading, LocalFiles, TableFiles, TableOptions, TableRow, read_beside, read_bytes, read_kaldi};
use voxpipe::error::Error;
use voxtral::audio::{decode_built_in, read_wav16k, resample};
use voxtral::model::config::VoxtralConfig;
use voxtral::realtime;
use voxtral::tokenizer::Tokenizer;

/// A function that is given bytes and an empty folder of its own; it says whether they were taken for what they might be.
pub type Target = fn(&[u8], &Path) -> bool;

/// Writes the bytes where the reader looks for them.
pub fn put(folder: &Path, name: &str, bytes: &[u8]) {
    fs::write(folder.join(name), bytes).expect("a temporary file can be written");
}

/// A refusal has to say which file it is about.
pub fn names(error: &Error, name: &str) {
    assert!(error.message.contains(name), "the error does not name {name}: {error}");
}

/// `config.json`, of either kind of model, and Mistral's `params.json`.
pub fn config(bytes: &[u8], folder: &Path) -> bool {
    let mut taken = false;
    for name in ["config.json", "params.json"] {
        put(folder, name, bytes);
        let offline = VoxtralConfig::read(folder).map(|config| {
            assert!(config.audio_config.chunk_frames() > 0 && config.audio_config.chunk_tokens() > 0);
            assert!(config.text_config.theta().is_finite());
        });
        let realtime = realtime::config::RealtimeConfig::read(folder).map(|config| {
            assert!(config.text_config.theta().is_finite() && config.audio_config.theta().is_finite());
        });
        for read in [offline, realtime] {
            taken |= read.is_ok();
            // Of a model of the other kind the folder is named.
            read.unwrap_or_else(|error| names(&error, &folder.display().to_string()));
        }
        fs::remove_file(folder.join(name)).expect("what was written can be removed");
    }
    taken
}

/// A file of timed text, in every format.
pub fn cues(bytes: &[u8], _: &Path) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let own = CueFormat::of_content(&text);
    for format in [CueFormat::Srt, CueFormat::Vtt, CueFormat::Audacity, CueFormat::TextGrid, CueFormat::Elan] {
        for tiers in [Vec::new(), vec!["anna".to_owned()]] {
            match cues::parse(format, &text, "talk", &tiers) {
                Ok(file) => {
                    let possible = |cue: &Cue| cue.start.is_finite() && cue.start >= 0.0 && cue.end > cue.start && !cue.text.is_empty();
                    assert!(file.cues.iter().all(possible), "{file:?}");
                    let settings = CueSettings { padding: 0.2, merge_seconds: 5.0, ..CueSettings::default() };
                    assert!(merged(&file.cues, &file.gaps, &settings, 30.0).iter().all(possible));
                }
                Err(error) => names(&error, "talk"),
            }
        }
    }
    own.is_some_and(|own| cues::parse(own, &text, "talk", &[]).is_ok_and(|file| !file.cues.is_empty()))
}

/// Stands in a `tekken.json` for the 256 entries of the bytes, which every vocabulary begins with.
const BYTES: u8 = 1;

/// `tekken.json` up to the first zero byte, in which a byte 1 stands for the first 256 entries of the vocabulary. What follows is a text
/// to encode, and its bytes are ids to decode, two bytes each.
pub fn tokenizer(bytes: &[u8], folder: &Path) -> bool {
    let (file, rest) = bytes.split_at(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    // Once is enough: a file of a thousand of them would only be slow.
    let file = match file.iter().position(|byte| *byte == BYTES) {
        Some(at) => [&file[..at], byte_entries().as_bytes(), &file[at + 1..]].concat(),
        None => file.to_vec(),
    };
    put(folder, "tekken.json", &file);
    let tokenizer = Tokenizer::read(&folder.join("tekken.json"));
    let taken = tokenizer.is_ok();
    match tokenizer {
        Err(error) => names(&error, "tekken.json"),
        Ok(tokenizer) => encode_and_decode(&tokenizer, rest.get(1..).unwrap_or_default()),
    }
    taken
}

fn byte_entries() -> String {
    use base64::Engine;
    let entry = |byte: u8| {
        let base64 = base64::engine::general_purpose::STANDARD.encode([byte]);
        format!(r#"{{"rank":{byte},"token_bytes":"{base64}","token_str":null}}"#)
    };
    (0..=255).map(entry).collect::<Vec<_>>().join(",")
}

/// Text to ids and back, and ids that no text has.
fn encode_and_decode(tokenizer: &Tokenizer, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let ids = tokenizer.encode(&text);
    let size = tokenizer.vocab_size();
    assert!(ids.iter().all(|id| tokenizer.piece(*id).is_some() && (*id as usize) < size), "{text:?} has special tokens: {ids:?}");
    let pieces: Vec<u8> = ids.iter().filter_map(|id| tokenizer.piece(*id)).flatten().copied().collect();
    // A pattern may leave out some of the text; Voxtral's own does not.
    assert!(pieces.len() <= text.len());
    tokenizer.decode(&ids);
    let ids: Vec<u32> = bytes.as_chunks().0.iter().map(|pair| u32::from(u16::from_le_bytes(*pair))).collect();
    tokenizer.decode(&ids);
}

/// A recording in any format.
pub fn audio(bytes: &[u8], folder: &Path) -> bool {
    put(folder, "clip.bin", bytes);
    let path = folder.join("clip.bin");
    if let Err(error) = read_wav16k(&path) {
        names(&error, "clip.bin");
    }
    // Other programs are not fuzzed.
    let sound = decode_built_in(&path);
    let taken = sound.is_ok();
    match sound {
        Err(error) => names(&error, "clip.bin"),
        Ok(sound) => {
            assert!(!sound.samples.is_empty() && sound.samples.iter().all(|sample| sample.is_finite()));
            // More than this is slow rather than dangerous.
            if sound.samples.len() <= 1 << 20 {
                resample(sound.samples, sound.rate).expect("any rate that was let in can be brought to 16 kHz");
            }
        }
    }
    taken
}

/// Endings of tables, by the first byte of an input.
const TABLES: [&str; 6] = ["csv", "tsv", "jsonl", "json", "xlsx", "txt"];

/// A table of any form. The first byte chooses the ending of its name, the rest is the file.
pub fn table(bytes: &[u8], _: &Path) -> bool {
    let Some((first, bytes)) = bytes.split_first() else { return false };
    let name = format!("t.{}", TABLES[usize::from(*first) % TABLES.len()]);
    let columns = Columns::default();
    let options = TableOptions { columns: &columns, clips: true, known_file: &|name| name.len() == 1 };
    let mut rows = 0;
    let read = read_bytes(&name, bytes, &options, &mut |row| {
        match row {
            Ok(row) => rows += usize::from(TableClip::read(&row, &columns).is_ok()),
            Err(bad) => assert!(bad.place.starts_with(&name), "{bad:?} has no place"),
        }
        Ok(true)
    });
    if let Err(error) = read {
        names(&error, &name);
    }
    read_configs(&String::from_utf8_lossy(bytes));
    rows > 0
}

/// Kaldi's files and texts beside a recording, divided by zero bytes: `text`, `wav.scp`, `segments`, `a.txt`, `a.json`.
pub fn layout(bytes: &[u8], folder: &Path) -> bool {
    let mut files = LocalFiles::new("set");
    for (name, content) in ["text", "wav.scp", "segments", "a.txt", "a.json"].iter().zip(bytes.split(|byte| *byte == 0)) {
        put(folder, name, content);
        files.add((*name).to_owned(), folder.join(name));
    }
    let mut rows = 0;
    let mut take = |row: Result<TableRow, BadRow>| {
        rows += usize::from(row.is_ok_and(|row| TableClip::read(&row, &Columns::default()).is_ok()));
        Ok(true)
    };
    let settings = CueSettings::default();
    let how = CueReading { settings: &settings, longest: 30.0 };
    if files.contains("text") {
        read_kaldi(&files, "text", &mut take).expect("bad lines are bad rows");
    }
    read_beside(&files, &["a.wav"], how, &mut take).expect("bad texts are bad rows");
    rows > 0
}
