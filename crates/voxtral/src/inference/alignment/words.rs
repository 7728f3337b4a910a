//! Units of text that are matched with each other, and the best match of two sequences of them.

use std::ops::Range;

/// A word of a text; in scripts without spaces, a character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// Where it stands in the text, in bytes, with the punctuation around it.
    pub(super) place: Range<usize>,
    /// What is compared: lower case, without punctuation.
    pub(super) key: String,
}

/// Splits a text into units. Punctuation alone belongs to the unit before it, or to the first one.
pub(super) fn units(text: &str) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut at = 0;
    let mut opening: Option<usize> = None;
    for part in text.split_inclusive(char::is_whitespace) {
        let start = at;
        at += part.len();
        for piece in split_script(part.trim_end(), start) {
            let said = text.get(piece.clone()).unwrap_or_default();
            let key: String =
                said.chars().filter(|letter| letter.is_alphanumeric() || is_mark(*letter)).flat_map(char::to_lowercase).collect();
            match (key.is_empty(), units.last_mut()) {
                (true, Some(last)) => last.place.end = piece.end,
                (true, None) => opening = opening.or(Some(piece.start)),
                (false, _) => units.push(Unit { place: opening.take().unwrap_or(piece.start)..piece.end, key }),
            }
        }
    }
    units
}

/// Combining marks, which carry vowels in many scripts.
fn is_mark(letter: char) -> bool {
    unicode_normalization::char::is_combining_mark(letter)
}

/// The parts of a word that starts at byte `start`: single characters where the script has no spaces, otherwise the whole word.
fn split_script(word: &str, start: usize) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut joins = false;
    for (offset, letter) in word.char_indices() {
        let place = start + offset..start + offset + letter.len_utf8();
        let alone = has_no_spaces(letter);
        match parts.last_mut() {
            Some(last) if joins && !alone || !letter.is_alphanumeric() => last.end = place.end,
            _ => parts.push(place),
        }
        joins = !alone;
    }
    parts
}

/// Whether a letter belongs to a script that is written without spaces: Han, Kana, Thai, Lao, Khmer, Myanmar.
fn has_no_spaces(letter: char) -> bool {
    matches!(u32::from(letter), 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x3400..=0x9fff | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff)
}

/// Points of a match; one less for each unit without a partner, and for each pair that differs.
const MATCH: i32 = 2;

/// The pairs of equal units in the best alignment of two sequences, as positions in both, in order.
///
/// Hirschberg's algorithm: time `a · b`, memory `a + b`, so that hours of speech fit.
pub(super) fn matches(a: &[u32], b: &[u32]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    divide(a, b, 0, 0, &mut pairs);
    pairs
}

fn divide(a: &[u32], b: &[u32], a_from: usize, b_from: usize, pairs: &mut Vec<(usize, usize)>) {
    // Equal ends need no search, which makes the usual case, mostly right transcripts, fast.
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    pairs.extend((0..head).map(|at| (a_from + at, b_from + at)));
    let (a, b, a_from, b_from) = (&a[head..], &b[head..], a_from + head, b_from + head);
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, a_tail) = a.split_at(a.len() - tail);
    let (b, b_tail) = b.split_at(b.len() - tail);
    match (a, b) {
        ([], _) | (_, []) => {}
        ([one], _) => pairs.extend(b.iter().position(|other| other == one).map(|at| (a_from, b_from + at))),
        (_, [one]) => pairs.extend(a.iter().position(|other| other == one).map(|at| (a_from + at, b_from))),
        _ => {
            let (first, second) = a.split_at(a.len() / 2);
            let forth = scores(first.iter(), b.iter());
            let back = scores(second.iter().rev(), b.iter().rev());
            let total = |cut: usize| forth.get(cut).copied().unwrap_or(0) + back.get(b.len() - cut).copied().unwrap_or(0);
            let cut = (0..=b.len()).max_by_key(|cut| total(*cut)).unwrap_or(0);
            let (before, after) = b.split_at(cut);
            divide(first, before, a_from, b_from, pairs);
            divide(second, after, a_from + first.len(), b_from + cut, pairs);
        }
    }
    debug_assert_eq!(a_tail, b_tail);
    pairs.extend((0..tail).map(|at| (a_from + a.len() + at, b_from + b.len() + at)));
}

/// The score of the best alignment of all of `a` with each beginning of `b`.
fn scores<'a>(a: impl Iterator<Item = &'a u32>, b: impl Iterator<Item = &'a u32> + Clone) -> Vec<i32> {
    let length = b.clone().count();
    let mut row: Vec<i32> = (0..=length).map(|skipped| -(skipped as i32)).collect();
    for one in a {
        let mut diagonal = row[0];
        row[0] -= 1;
        for (at, other) in b.clone().enumerate() {
            let both = diagonal + if one == other { MATCH } else { -1 };
            diagonal = row[at + 1];
            row[at + 1] = both.max(row[at] - 1).max(diagonal - 1);
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        units(text).into_iter().map(|unit| unit.key).collect()
    }

    #[test]
    fn units_are_words_or_characters_and_cover_the_text() {
        assert_eq!(keys("Well — it’s “late”, at 5:30!"), ["well", "its", "late", "at", "530"]);
        assert_eq!(keys("今天很好,我 ok 吗"), ["今", "天", "很", "好", "我", "ok", "吗"]);
        assert_eq!(keys("(…) और कि"), ["और", "कि"]);
        assert_eq!(keys(" ?! "), Vec::<String>::new());
        let text = "« Ah ! » dit-il – bon.";
        let places: Vec<&str> = units(text).iter().map(|unit| &text[unit.place.clone()]).collect();
        assert_eq!(places, ["« Ah ! »", "dit-il –", "bon."]);
    }

    /// The most matches that any alignment has, by trying all.
    fn best(a: &[u32], b: &[u32]) -> i32 {
        match (a, b) {
            ([], rest) | (rest, []) => -(rest.len() as i32),
            ([x, a_rest @ ..], [y, b_rest @ ..]) => {
                let both = best(a_rest, b_rest) + if x == y { MATCH } else { -1 };
                both.max(best(a_rest, b) - 1).max(best(a, b_rest) - 1)
            }
        }
    }

    #[test]
    fn the_best_match_is_found() {
        let mut state = 7_u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        for _ in 0..300 {
            let a: Vec<u32> = (0..random(7)).map(|_| random(3)).collect();
            let b: Vec<u32> = (0..random(7)).map(|_| random(3)).collect();
            let pairs = matches(&a, &b);
            assert!(
                pairs.iter().all(|(x, y)| a[*x] == b[*y]) && pairs.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1)
            );
            // Between two matches, as many units as possible are paired although they differ.
            let mut ends = pairs.clone();
            ends.push((a.len(), b.len()));
            let (mut score, mut from) = (MATCH * pairs.len() as i32, (0, 0));
            for (x, y) in ends {
                score -= (x - from.0).max(y - from.1) as i32;
                from = (x + 1, y + 1);
            }
            assert_eq!(score, best(&a, &b), "{a:?} {b:?} {pairs:?}");
        }
    }
}
