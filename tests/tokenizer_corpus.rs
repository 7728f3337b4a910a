//! Tokenizer compared with mistral-common: more than 10,000 strings in 30 languages and in none, ids that no text encodes to, and every
//! file version.
//!
//! `tests/voxtral/make_strings.py` generates them. A part is committed, with ids of the small vocabulary. If mistral-common is installed,
//! all of them are compared, with its own 130,072 pieces.

use crate::support::skipped;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use voxpipe_io::jsonl;
use voxtral::tokenizer::Tokenizer;

#[derive(Deserialize)]
struct Row {
    text: Option<String>,
    ids: Vec<u32>,
    decoded: Option<String>,
}

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Number of rows with texts, and with ids.
fn hold(tokenizer: &Tokenizer, specials: u32, rows: impl IntoIterator<Item = Row>) -> (usize, usize) {
    let (mut texts, mut noises) = (0, 0);
    for row in rows {
        if let Some(text) = &row.text {
            texts += 1;
            assert_eq!(tokenizer.encode(text), row.ids, "{text:?}");
            assert!(row.ids.iter().all(|id| *id >= specials), "{text:?} has special tokens");
            if !text.starts_with("lang:") {
                assert_eq!(tokenizer.decode(&row.ids), *text);
            }
        }
        if let Some(decoded) = &row.decoded {
            noises += 1;
            assert_eq!(tokenizer.decode(&row.ids), *decoded, "{:?}", row.ids);
        }
    }
    (texts, noises)
}

#[test]
fn the_committed_strings_are_encoded_as_mistral_common_does() {
    let nano = Tokenizer::read(&at("pipelines/models/nano-first-run/tekken.json")).unwrap();
    let rows = jsonl::read::<Row>(&at("tests/voxtral/strings.jsonl")).unwrap();
    let (texts, noises) = hold(&nano, 100, rows.into_iter().map(|(_, row)| row));
    assert!(texts >= 400 && noises >= 50, "{texts} texts, {noises} rows of ids");
}

#[test]
fn all_strings_are_encoded_as_mistral_common_does() {
    let pythons = std::env::var("VOXPIPE_TEST_PYTHON").map_or_else(|_| vec!["python3".into(), "python".into()], |python| vec![python]);
    let imports = "import mistral_common; print(mistral_common.__path__[0])";
    let found = pythons.iter().find_map(|python| {
        let output = Command::new(python).args(["-c", imports]).output().ok()?;
        output.status.success().then(|| (python, PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())))
    });
    let Some((python, package)) = found else {
        return skipped("12,000 strings", "no Python with the mistral-common package was found (name one in VOXPIPE_TEST_PYTHON)");
    };
    let full = Tokenizer::read(&package.join("data/tekken_240911.json")).unwrap();
    let script = at("tests/voxtral/make_strings.py");
    let output = Command::new(python).arg("-B").arg(&script).arg("--all").output().unwrap();
    assert!(output.status.success(), "{} failed:\n{}", script.display(), String::from_utf8_lossy(&output.stderr));
    let rows = std::str::from_utf8(&output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap());
    let (texts, noises) = hold(&full, 1000, rows);
    assert!(texts >= 10_000 && noises >= 1000, "{texts} texts, {noises} rows of ids");
}

#[derive(Deserialize)]
struct Version {
    name: String,
    change: BTreeMap<String, Value>,
    specials: Option<BTreeMap<String, Option<u32>>>,
}

#[test]
fn every_version_of_the_file_has_the_special_tokens_of_mistral_common() {
    let tiny: Value = serde_json::from_slice(&fs::read(at("tests/voxtral/tiny/tekken.json")).unwrap()).unwrap();
    let encoded = Tokenizer::read(&at("tests/voxtral/tiny/tekken.json")).unwrap().encode("Hello, world");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tekken.json");
    let versions = jsonl::read::<Version>(&at("tests/voxtral/versions.jsonl")).unwrap();
    assert_eq!(versions.len(), 7 * 6);
    for (_, Version { name, change, specials }) in versions {
        let mut file = tiny.clone();
        for (key, value) in change {
            match key.as_str() {
                "config" => file["config"]["version"] = value["version"].clone(),
                "special_tokens" => {
                    let kept = value.as_u64().unwrap() as usize;
                    let listed = file["special_tokens"].as_array().unwrap()[..kept].to_vec();
                    file["special_tokens"] = if kept == 0 { Value::Null } else { json!(listed) };
                }
                _ => file[key] = value,
            }
        }
        fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
        match (Tokenizer::read(&path), specials) {
            (Ok(tokenizer), Some(specials)) => {
                assert_eq!((tokenizer.vocab_size(), tokenizer.encode("Hello, world")), (512, encoded.clone()), "{name}");
                for (special, id) in specials {
                    assert_eq!(tokenizer.special(&special).ok(), id, "{name}: {special}");
                }
            }
            (Err(_), None) => {}
            (found, expected) => panic!("{name}: {found:?}, where mistral-common has {expected:?}"),
        }
    }
}
