//! Error rates compared with jiwer.

use serde::Deserialize;
use std::path::Path;
use voxpipe_io::jsonl;
use voxtral::metrics::wer::{AlignedPair, EditCounts, ErrorCounts, TextNormalization, align};

#[derive(Deserialize)]
struct Pair {
    reference: String,
    hypothesis: String,
    words: [usize; 2],
    wer: f64,
    characters: [usize; 2],
    cer: f64,
}

fn pairs() -> Vec<Pair> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scoring/pairs.jsonl");
    let pairs = jsonl::read(&path).unwrap();
    assert_eq!(pairs.len(), 200);
    pairs.into_iter().map(|(_, pair)| pair).collect()
}

#[test]
fn rates_are_those_of_jiwer() {
    let mut total = ErrorCounts::default();
    for pair in pairs() {
        let tally = ErrorCounts::of(&pair.reference, &pair.hypothesis, TextNormalization::None);
        assert_eq!([tally.words.errors(), tally.words.reference()], pair.words, "{} / {}", pair.reference, pair.hypothesis);
        assert_eq!([tally.characters.errors(), tally.characters.reference()], pair.characters, "{} / {}", pair.reference, pair.hypothesis);
        let score = tally.score();
        assert!((score.wer - pair.wer).abs() < 1e-12 && (score.cer - pair.cer).abs() < 1e-12, "{score:?}");
        total += tally;
    }
    let errors: usize = pairs().iter().map(|pair| pair.words[0]).sum();
    let words: usize = pairs().iter().map(|pair| pair.words[1]).sum();
    assert_eq!((total.clips, total.score().wer), (200, errors as f64 / words as f64));
}

#[test]
fn an_alignment_agrees_with_the_counts() {
    for pair in pairs() {
        let reference: Vec<&str> = pair.reference.split_whitespace().collect();
        let hypothesis: Vec<&str> = pair.hypothesis.split_whitespace().collect();
        let mut counts = EditCounts::default();
        let (mut said, mut written) = (Vec::new(), Vec::new());
        for step in align(&reference, &hypothesis) {
            match step {
                AlignedPair::Hit(word) => (counts.hits, _) = (counts.hits + 1, (said.push(word), written.push(word))),
                AlignedPair::Substitution(a, b) => (counts.substitutions, _) = (counts.substitutions + 1, (said.push(a), written.push(b))),
                AlignedPair::Insertion(word) => (counts.insertions, _) = (counts.insertions + 1, written.push(word)),
                AlignedPair::Deletion(word) => (counts.deletions, _) = (counts.deletions + 1, said.push(word)),
            }
        }
        assert_eq!((said, written), (reference.clone(), hypothesis.clone()));
        assert_eq!(counts, EditCounts::between(&reference, &hypothesis));
    }
}

#[test]
fn swapping_the_texts_swaps_insertions_and_deletions() {
    for pair in pairs() {
        let there = ErrorCounts::of(&pair.reference, &pair.hypothesis, TextNormalization::Basic).words;
        let back = ErrorCounts::of(&pair.hypothesis, &pair.reference, TextNormalization::Basic).words;
        assert_eq!(back, EditCounts { insertions: there.deletions, deletions: there.insertions, ..there });
    }
}
