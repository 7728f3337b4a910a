//! Greedy selection of sentences for letter-bigram coverage: a few sentences that cover many sounds, with letters as a proxy for sounds.

use crate::data::phrase::PhraseRow;
use std::collections::BTreeSet;

/// Greedily selects `count` phrases: each adds the most letter pairs not covered yet. Returns sorted indices.
pub(super) fn choose(phrases: &[PhraseRow], count: usize) -> Vec<usize> {
    let mut left: Vec<(usize, BTreeSet<(char, char)>)> = phrases.iter().map(|phrase| pairs(&phrase.text)).enumerate().collect();
    let mut covered = BTreeSet::new();
    let mut chosen = Vec::new();
    while chosen.len() < count && !left.is_empty() {
        // Ties go to the first phrase: the list is in a seeded random order.
        let new_pairs = |pairs: &BTreeSet<(char, char)>| pairs.difference(&covered).count();
        let best = left.iter().enumerate().map(|(place, (_, pairs))| (new_pairs(pairs), std::cmp::Reverse(place))).max();
        let Some((_, std::cmp::Reverse(place))) = best else { break };
        let (index, pairs) = left.remove(place);
        covered.extend(pairs);
        chosen.push(index);
    }
    chosen.sort_unstable();
    chosen
}

/// The letter bigrams of a text, including word starts and ends.
fn pairs(text: &str) -> BTreeSet<(char, char)> {
    let letter = |letter: char| if letter.is_alphabetic() { letter } else { ' ' };
    let letters: Vec<char> = std::iter::once(' ').chain(text.to_lowercase().chars().map(letter)).collect();
    letters.windows(2).filter(|pair| pair[0] != ' ' || pair[1] != ' ').map(|pair| (pair[0], pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_with_new_bigrams_are_selected() {
        let phrase = |text: &str| PhraseRow { id: String::new(), text: text.into(), language: "en".into(), source: String::new() };
        let phrases = ["aba ab", "abab ba", "xyz uvw"].map(phrase);
        assert_eq!(choose(&phrases, 2), [1, 2]);
        assert_eq!(choose(&phrases, 9), [0, 1, 2]);
    }
}
