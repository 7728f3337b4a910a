//! Few sentences that together have as many different sounds as can be had, as far as letters tell sounds.

use crate::data::phrase::PhraseRow;
use std::collections::BTreeSet;

/// So many phrases, each chosen because it has the most pairs of letters that those before it lack; by their places in the list.
pub(super) fn choose(phrases: &[PhraseRow], count: usize) -> Vec<usize> {
    let mut left: Vec<(usize, BTreeSet<(char, char)>)> = phrases.iter().map(|phrase| pairs(&phrase.text)).enumerate().collect();
    let mut covered = BTreeSet::new();
    let mut chosen = Vec::new();
    while chosen.len() < count && !left.is_empty() {
        // Of those with as many, the first: the list is in a seeded order.
        let news = |pairs: &BTreeSet<(char, char)>| pairs.difference(&covered).count();
        let best = left.iter().enumerate().map(|(place, (_, pairs))| (news(pairs), std::cmp::Reverse(place))).max();
        let Some((_, std::cmp::Reverse(place))) = best else { break };
        let (index, pairs) = left.remove(place);
        covered.extend(pairs);
        chosen.push(index);
    }
    chosen.sort_unstable();
    chosen
}

/// The pairs of neighbouring letters, beginnings and ends of words among them.
fn pairs(text: &str) -> BTreeSet<(char, char)> {
    let letter = |letter: char| if letter.is_alphabetic() { letter } else { ' ' };
    let letters: Vec<char> = std::iter::once(' ').chain(text.to_lowercase().chars().map(letter)).collect();
    letters.windows(2).filter(|pair| pair[0] != ' ' || pair[1] != ' ').map(|pair| (pair[0], pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_yet_is_chosen() {
        let phrase = |text: &str| PhraseRow { id: String::new(), text: text.into(), language: "en".into(), source: String::new() };
        let phrases = ["aba ab", "abab ba", "xyz uvw"].map(phrase);
        assert_eq!(choose(&phrases, 2), [1, 2]);
        assert_eq!(choose(&phrases, 9), [0, 1, 2]);
    }
}
