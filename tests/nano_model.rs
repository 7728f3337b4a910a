//! `voxtral-nano`, the base model in the repository: size, valid weights, training words and vocabulary.

use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use voxtral::tokenizer::Tokenizer;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The words of the clips of `datasets/words`, without final punctuation.
fn words() -> Vec<String> {
    let mut table = csv::Reader::from_path(root("datasets/words/transcripts.csv")).unwrap();
    table.records().map(|row| row.unwrap()[1].trim_end_matches(['.', '!', '?']).to_owned()).collect()
}

/// As its model card states: at most 4 million parameters and 8 MB, in bf16, all values finite.
#[test]
fn the_base_is_small_and_whole() {
    let bytes = fs::read(root("pipelines/models/voxtral-nano/model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut parameters = 0;
    for (name, tensor) in tensors.tensors() {
        assert_eq!(tensor.dtype(), Dtype::BF16, "{name}");
        parameters += tensor.shape().iter().product::<usize>();
        let values = tensor.data().chunks_exact(2).map(|pair| half::bf16::from_le_bytes([pair[0], pair[1]]));
        assert!(values.clone().all(|value| value.is_finite()), "{name}");
        assert!(values.clone().any(|value| value != half::bf16::ZERO), "{name} is all zeros");
    }
    let card = fs::read_to_string(root("pipelines/models/voxtral-nano/README.md")).unwrap();
    let millions = format!("{:.2} million parameters", parameters as f64 / 1e6);
    assert!(card.contains(&millions), "the card does not say {millions}");
    assert!(parameters <= 4_000_000 && bytes.len() <= 8_000_000, "{parameters} parameters, {} bytes", bytes.len());
}

/// A word that the base has never seen could not be learned from recordings of the other words.
#[test]
fn the_base_was_taught_every_word_of_the_first_run() {
    let script = fs::read_to_string(root("datasets/make_nano_base.py")).unwrap();
    let taught: BTreeSet<String> =
        script.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    let words = words();
    assert!(words.len() >= 170, "{}", words.len());
    for word in words {
        assert!(taught.contains(&word.to_lowercase()), "`{word}` is not among the words of make_nano_base.py");
    }
}

/// Words are at most two tokens, so that clips need few decoding steps. Encoding is lossless.
#[test]
fn the_vocabulary_has_its_words() {
    let tokenizer = Tokenizer::read(&root("pipelines/models/voxtral-nano/tekken.json")).unwrap();
    assert_eq!(tokenizer.vocab_size(), 1024);
    for word in words() {
        let ids = tokenizer.encode(&word);
        assert!(ids.len() <= 2, "`{word}` is {} tokens", ids.len());
        assert_eq!(tokenizer.decode(&ids), word);
    }
    let other = "Zażółć gęślą jaźń, 12 × 34! 日本";
    assert_eq!(tokenizer.decode(&tokenizer.encode(other)), other);
}
