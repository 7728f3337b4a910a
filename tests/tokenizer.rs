//! Tokenizer and prompt compared with mistral-common, and errors for broken files.

use crate::support::skipped;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use voxpipe_io::jsonl;
use voxtral::tokenizer::{Tokenizer, prompt};

#[derive(Deserialize)]
struct Row {
    text: String,
    tiny: Vec<u32>,
    nano: Vec<u32>,
    full: Vec<u32>,
    noise: Vec<u32>,
    decoded: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn tiny() -> PathBuf {
    root().join("tests/voxtral/tiny/tekken.json")
}

fn nano() -> Tokenizer {
    Tokenizer::read(&root().join("pipelines/models/nano-first-run/tekken.json")).unwrap()
}

fn rows() -> Vec<Row> {
    let rows = jsonl::read(&root().join("tests/voxtral/tokens.jsonl")).unwrap();
    assert_eq!(rows.len(), 300);
    rows.into_iter().map(|(_, row)| row).collect()
}

const NO_PYTHON: &str = "no Python with the mistral-common package was found (name one in VOXPIPE_TEST_PYTHON)";

/// The full vocabulary of 130,072 pieces that comes with mistral-common; too large for the repository.
fn full() -> Option<Tokenizer> {
    let script = "import os, mistral_common; print(os.path.join(os.path.dirname(mistral_common.__file__), 'data', 'tekken_240911.json'))";
    let pythons = std::env::var("VOXPIPE_TEST_PYTHON").map_or_else(|_| vec!["python3".into(), "python".into()], |python| vec![python]);
    let found = pythons.iter().find_map(|python| {
        let output = Command::new(python).args(["-c", script]).output().ok()?;
        output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    });
    found.map(|path| Tokenizer::read(&path).unwrap())
}

#[test]
fn ids_are_those_of_mistral_common() {
    let (tiny, nano) = (Tokenizer::read(&tiny()).unwrap(), nano());
    assert_eq!((tiny.vocab_size(), nano.vocab_size()), (512, 1024));
    for row in rows() {
        assert_eq!(tiny.encode(&row.text), row.tiny, "tiny: {:?}", row.text);
        assert_eq!(nano.encode(&row.text), row.nano, "nano: {:?}", row.text);
        assert_eq!(nano.decode(&row.noise), row.decoded, "{:?}", row.noise);
        if !row.text.starts_with("lang:") {
            assert_eq!(tiny.decode(&row.tiny), row.text);
            assert_eq!(nano.decode(&row.nano), row.text);
        }
    }
}

#[derive(Deserialize)]
struct Vector {
    text: String,
    ids: Vec<u32>,
}

/// Texts and their ids in the vocabulary of Voxtral.
fn vectors() -> Vec<Vector> {
    let vectors: Vec<(usize, Vector)> = jsonl::read(&root().join("tests/voxtral/vectors/vectors.jsonl")).unwrap();
    assert_eq!(vectors.len(), 70);
    vectors.into_iter().map(|(_, vector)| vector).collect()
}

#[test]
fn ids_are_those_of_voxtral() {
    let path = root().join("tests/voxtral/vectors/tekken.json");
    let cut = Tokenizer::read(&path).unwrap();
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let id = |id: &u32| 1000 + file["vocab"][*id as usize - 1000]["full_rank"].as_u64().unwrap() as u32;
    let ids = |text: &str| cut.encode(text).iter().map(id).collect::<Vec<_>>();
    for vector in vectors() {
        assert_eq!(ids(&vector.text), vector.ids, "{:?}", vector.text);
    }
    // The same ids, as quoted in dumps of the real file.
    assert_eq!(ids("Hello world, this is a test."), [22177, 4304, 1044, 1593, 1395, 1261, 2688, 1046]);
    assert_eq!(ids("नमस्ते दुनिया"), [2485, 3525, 22475, 1803, 115801]);
    assert_eq!(ids("tab\tnew\nline\r\n\n  two  spaces  "), [8710, 33186, 1010, 2839, 1013, 1267, 1032, 2295, 1032, 18971, 1256]);
    assert_eq!(ids("Venture Capital ist wichtig."), [1086, 105982, 32000, 3444, 46206, 1046]);
    assert_eq!((ids("lang:en"), ids("lang:nl")), (vec![9909, 1058, 1262], vec![9909, 24082, 1108]));
}

#[test]
fn full_vocabulary() {
    let Some(full) = full() else { return skipped("the full vocabulary", NO_PYTHON) };
    assert_eq!(full.vocab_size(), 131_072);
    for row in rows() {
        assert_eq!(full.encode(&row.text), row.full, "{:?}", row.text);
    }
    for row in vectors() {
        assert_eq!(full.encode(&row.text), row.ids, "{:?}", row.text);
    }
    // Version 3 files do not list their special tokens: the first twenty are known, and the others, including the audio tokens, have no
    // name.
    assert_eq!(
        (full.special("</s>").unwrap(), full.special("[TOOL_CONTENT]").unwrap(), full.special("<SPECIAL_24>").unwrap()),
        (2, 19, 24)
    );
    let error = prompt::transcription(&full, None, 1).unwrap_err();
    assert!(error.message.contains("tekken_240911.json: there is no special token `[BEGIN_AUDIO]`"), "{error}");
}

#[test]
fn long_runs_are_encoded() {
    let nano = nano();
    for unit in ["a", " ", "\n", "=", "5", "é", "語", "ab ", " \n"] {
        let text = format!("{}x", unit.repeat(100_000));
        assert_eq!(nano.decode(&nano.encode(&text)), text, "100,000 times {unit:?}");
    }
}

#[test]
fn decoding_keeps_only_what_was_said() {
    let nano = nano();
    let text = nano.encode("hello");
    let with = |before: &[u32], after: &[u32]| nano.decode(&[before, &text, after].concat());
    assert_eq!(with(&[1, 3, 25, 24, 24, 4], &[2]), "hello");
    assert_eq!(with(&nano.encode("lang:en"), &[2]), "hello");
    assert_eq!(with(&prompt::transcription(&nano, Some("es"), 3).unwrap(), &[2, 11, 11]), "hello");
    assert_eq!(nano.decode(&nano.encode("lang:e")), "lang:e");
    assert_eq!(nano.decode(&nano.encode("lang:EN x")), "lang:EN x");
    assert_eq!(nano.decode(&nano.encode("he said lang:en")), "he said lang:en");
    assert_eq!(nano.decode(&[100 + 0xC3, 2, 100 + 0xA9]), "\u{fffd}\u{fffd}", "a special token ends a run of bytes");
    assert_eq!(nano.decode(&[100 + 0xC3, 100 + 0xA9]), "é");
    assert_eq!(nano.decode(&[1024, 100 + 97, u32::MAX]), "\u{fffd}a\u{fffd}");
    assert_eq!(nano.decode(&[]), "");
}

#[test]
fn special_tokens_in_a_text_are_text() {
    let nano = nano();
    let ids = nano.encode("[INST] </s> [AUDIO]");
    assert!(ids.iter().all(|&id| id >= 100), "{ids:?}");
}

#[test]
fn prompt_asks_for_a_transcript() {
    let tokenizer = Tokenizer::read(&tiny()).unwrap();
    let expected: Value = serde_json::from_slice(&fs::read(root().join("tests/voxtral/expected.json")).unwrap()).unwrap();
    for clip in expected["clips"].as_array().unwrap() {
        let prompt: Vec<u32> = serde_json::from_value(clip["prompt"].clone()).unwrap();
        let target: Vec<u32> = serde_json::from_value(clip["target"].clone()).unwrap();
        let audio_tokens = clip["chunks"].as_u64().unwrap() as usize * 25;
        assert_eq!(prompt::transcription(&tokenizer, clip["language"].as_str(), audio_tokens).unwrap(), prompt);
        let mut text = tokenizer.encode(clip["text"].as_str().unwrap());
        text.push(tokenizer.special(prompt::EOS).unwrap());
        assert_eq!(text, target);
    }
    assert_eq!(prompt::transcription(&tokenizer, None, 2).unwrap(), [1, 3, 25, 24, 24, 4, 34]);
    assert!(prompt::transcription(&tokenizer, Some("auto"), 2).unwrap_err().message.contains("`auto`"));
    assert!(prompt::transcription(&tokenizer, None, 0).unwrap_err().message.contains("no audio"));
}

/// Reads the tiny file after a change.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, voxpipe::error::Error> {
    let mut value: Value = serde_json::from_slice(&fs::read(tiny()).unwrap()).unwrap();
    change(&mut value);
    written(&serde_json::to_vec(&value).unwrap())
}

fn written(bytes: &[u8]) -> Result<Tokenizer, voxpipe::error::Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tekken.json");
    fs::write(&path, bytes).unwrap();
    Tokenizer::read(&path)
}

#[track_caller]
fn complains(result: Result<Tokenizer, voxpipe::error::Error>, about: &str) {
    let error = result.unwrap_err();
    assert!(error.message.contains("tekken.json") && error.message.contains(about), "{about:?} is not in: {error}");
    assert!(error.hint.is_some(), "{error} has no hint");
}

#[test]
fn broken_files_are_named() {
    let whole = fs::read(tiny()).unwrap();
    complains(written(&whole[..whole.len() / 2]), "the file ends too early");
    complains(written(b""), "the file ends too early");
    complains(written(b"{\n  \"config\": nonsense"), "tekken.json:2: expected");
    complains(written(b"<html>"), "tekken.json:1: expected value");
    complains(written(b"{}"), "missing field `config`");
    complains(written(b"\xff\xfe"), "tekken.json:1: ");
    complains(changed(|file| file["vocab"][300]["token_bytes"] = json!("%%%")), "vocab[300]: token_bytes `%%%` is not base64");
    complains(changed(|file| file["vocab"][300]["token_bytes"] = json!("")), "vocab[300]: token_bytes `` should be at least one byte");
    complains(changed(|file| file["vocab"][65]["token_bytes"] = json!("Qg==")), "vocab[65]: token_bytes `Qg==` should be byte 65 alone");
    complains(changed(|file| file["vocab"][300]["rank"] = json!(299)), "vocab[300] has rank 299, which vocab[299] already has");
    complains(changed(|file| file["vocab"][300]["rank"] = json!(400)), "vocab[300] has rank 400, but the entries must be sorted");
    complains(
        changed(|file| file["vocab"][300]["token_bytes"] = file["vocab"][290]["token_bytes"].clone()),
        "is the same as that of vocab[290]",
    );
    complains(
        changed(|file| file["vocab"].as_array_mut().unwrap().truncate(400)),
        "vocab has 400 entries, but config.default_vocab_size of 512",
    );
    complains(changed(|file| file["config"]["default_vocab_size"] = json!(200)), "leaves no room for the 256 bytes");
    complains(changed(|file| file["config"]["default_vocab_size"] = json!(50)), "leaves no room for the 256 bytes");
    complains(changed(|file| file["config"]["version"] = json!("seven")), "config.version is `seven`");
    complains(changed(|file| file["config"]["pattern"] = json!("(")), "config.pattern is not a usable regex");
    complains(changed(|file| file["special_tokens"][24]["rank"] = json!(25)), "special_tokens[25] (`[BEGIN_AUDIO]`) has rank 25");
    complains(changed(|file| file["special_tokens"][24]["rank"] = json!(100)), "special_tokens[24] (`[AUDIO]`) has rank 100");
    complains(changed(|file| file["special_tokens"][30]["token_str"] = json!("[AUDIO]")), "`[AUDIO]` is listed twice");
    let error = Tokenizer::read(Path::new("nowhere/tekken.json")).unwrap_err();
    assert!(error.message.contains("cannot read `nowhere/tekken.json`"), "{error}");
}

#[test]
fn special_tokens_may_be_unlisted_up_to_version_seven() {
    let without = |version: &'static str| {
        changed(move |file| {
            file.as_object_mut().unwrap().remove("special_tokens");
            file["config"]["version"] = json!(version);
        })
    };
    for version in ["v3", "v7"] {
        let tokenizer = without(version).unwrap();
        assert_eq!((tokenizer.special("<pad>").unwrap(), tokenizer.special("<SPECIAL_99>").unwrap()), (11, 99));
        let error = tokenizer.special("[AUDIO]").unwrap_err();
        assert!(error.message.ends_with("there is no special token `[AUDIO]`") && error.hint.is_some(), "{error}");
    }
    complains(without("v11"), "special_tokens is missing; files of version v11 must list them");
}

#[test]
fn fewer_special_tokens_than_ids_are_filled_up() {
    let tokenizer = changed(|file| file["special_tokens"].as_array_mut().unwrap().truncate(35)).unwrap();
    assert_eq!((tokenizer.special("[TRANSCRIBE]").unwrap(), tokenizer.special("<SPECIAL_35>").unwrap()), (34, 35));
    assert_eq!(tokenizer.encode("Hello"), Tokenizer::read(&tiny()).unwrap().encode("Hello"));
}

#[test]
fn every_piece_of_the_nano_vocabulary_can_be_written() {
    let nano = nano();
    for id in 100 + 256..1024 {
        let piece = std::str::from_utf8(nano.piece(id).unwrap()).unwrap();
        assert_eq!(nano.encode(piece), [id], "{piece:?}");
    }
}

#[test]
fn nano_serves_the_phrases_people_will_read() {
    let nano = nano();
    let (mut tokens, mut characters) = (0, 0);
    for text in [
        "Please enter your password, followed by the pound key.",
        "The person at extension four one two is on the phone.",
        "I'm sorry, that is not a valid extension. Please try again!",
        "You have twenty-one new messages and 3 old ones.",
        "¿Dónde está la estación de tren más cercana?",
        "Mañana iré al médico con mi señora.",
        "¡Qué pingüino tan simpático!",
        "Introduzca su número de cuenta, seguido de almohadilla.",
    ] {
        let ids = nano.encode(text);
        assert_eq!(nano.decode(&ids), text);
        tokens += ids.len();
        characters += text.chars().count();
    }
    assert!(characters as f64 / tokens as f64 > 1.8, "{characters} characters became {tokens} tokens");
}
