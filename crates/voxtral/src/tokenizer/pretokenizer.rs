//! Pre-tokenizer: splits a text into the parts that BPE encodes separately.
//!
//! A vocabulary comes with a regular expression; all of Mistral's vocabularies so far use the same one ([`TEKKEN`]), which is implemented
//! by hand here. As a regular expression it needs look-ahead, which no automaton supports, and it covers so much of Unicode that an
//! automaton would be rebuilt for every text. Character classes come from the tables of the regex crate. Any other pattern runs as a
//! regular expression.

use fancy_regex::{Regex, RegexBuilder};
use std::sync::{LazyLock, OnceLock};

/// Mistral's pattern. The first alternative that matches: a word with one optional leading other character, which ends before the next
/// capital; a word in capitals; a digit; punctuation with an optional leading space and trailing line breaks; spaces up to a line break;
/// spaces, the last of which stays with the following word.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Size limit of any other compiled pattern, in bytes.
const LARGEST: usize = 2 << 20;
/// Backtracking limit of such a pattern per part.
const FARTHEST: usize = 100_000;

/// A pre-tokenization pattern, usable from any number of threads.
pub(super) enum Pretokenizer {
    /// Mistral's pattern, implemented by hand.
    Tekken,
    /// Any other pattern, as a regular expression.
    Pattern(Box<Regex>),
}

impl Pretokenizer {
    /// Compiles a pattern, or returns what is wrong with it.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        if pattern == TEKKEN {
            return Ok(Self::Tekken);
        }
        let regex = RegexBuilder::new(pattern).delegate_size_limit(LARGEST).backtrack_limit(FARTHEST).build();
        Ok(Self::Pattern(Box::new(regex.map_err(|error| error.to_string())?)))
    }

    /// Calls `part` for each part of a text in order. Text that the pattern does not match is left out, as in the reference; Mistral's
    /// pattern leaves out nothing. If a pattern exceeds the backtracking limit, the rest of the text is one part.
    pub(super) fn each<'t>(&self, text: &'t str, mut part: impl FnMut(&'t str)) {
        let mut rest = text;
        match self {
            Self::Tekken => {
                while !rest.is_empty() {
                    let (first, after) = rest.split_at(part_length(rest));
                    part(first);
                    rest = after;
                }
            }
            Self::Pattern(regex) => {
                let mut end = 0;
                for found in regex.find_iter(text) {
                    let Ok(found) = found else { return part(&text[end..]) };
                    part(found.as_str());
                    end = found.end();
                }
            }
        }
    }
}

/// Length in bytes of the first part of a text. Never 0: every character is a letter, a number, a space or something else.
fn part_length(text: &str) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    let kinds = kinds(first);
    let after = &text[first.len_utf8()..];
    // The character before a word is optional: try with it first, then without.
    let before = kinds & (LETTER | NUMBER) == 0 && !is_line_break(first);
    let words = [before.then_some(after), Some(text)];
    let length = |rest: &str, word: usize| text.len() - rest.len() + word;
    for rest in words.into_iter().flatten() {
        if let Some(word) = word_length(rest) {
            return length(rest, word);
        }
    }
    for rest in words.into_iter().flatten() {
        let capitals = run(rest, |kinds| kinds & CAPITAL != 0);
        if capitals > 0 {
            return length(rest, capitals + run(&rest[capitals..], |kinds| kinds & SMALL != 0));
        }
    }
    if kinds & NUMBER != 0 {
        return first.len_utf8();
    }
    let rest = if first == ' ' { after } else { text };
    let other = run(rest, |kinds| kinds & (SPACE | LETTER | NUMBER) == 0);
    if other > 0 {
        let after = &rest[other..];
        let breaks = after.len() - after.trim_start_matches(['\r', '\n', '/']).len();
        return length(rest, other + breaks);
    }
    let spaces = run(text, |kinds| kinds & SPACE != 0);
    if let Some(last) = text[..spaces].rfind(['\r', '\n']) {
        return last + 1;
    }
    // The last of several spaces is left to the next part.
    let last = text[..spaces].chars().next_back().map_or(0, char::len_utf8);
    if spaces == text.len() || spaces == last { spaces } else { spaces - last }
}

/// Length in bytes of `[capitals]*[small]+` at the start of a text. Letters without case, such as 語, and marks belong to both classes.
fn word_length(text: &str) -> Option<usize> {
    let capitals = run(text, |kinds| kinds & CAPITAL != 0);
    let small = run(&text[capitals..], |kinds| kinds & SMALL != 0);
    if small > 0 {
        return Some(capitals + small);
    }
    // Backtrack: no small letter follows, so the last capital that is also in the small class ends the match.
    let (at, last) = text[..capitals].char_indices().rev().find(|(_, character)| kinds(*character) & SMALL != 0)?;
    Some(at + last.len_utf8())
}

/// Length in bytes of the leading characters that match.
fn run(text: &str, wanted: impl Fn(u8) -> bool) -> usize {
    text.char_indices().find(|(_, character)| !wanted(kinds(*character))).map_or(text.len(), |(at, _)| at)
}

fn is_line_break(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const CAPITAL: u8 = 1;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
const SMALL: u8 = 2;
/// `\p{L}`
const LETTER: u8 = 4;
/// `\p{N}`
const NUMBER: u8 = 8;
/// `\s`
const SPACE: u8 = 16;

/// Classes of a character, one bit each.
fn kinds(character: char) -> u8 {
    static BLOCKS: [OnceLock<Box<[u8; 256]>>; 0x1100] = [const { OnceLock::new() }; 0x1100];
    let (block, place) = (character as usize / 256, character as usize % 256);
    BLOCKS[block].get_or_init(|| Box::new(kinds_of_block(block as u32)))[place]
}

/// Classes of 256 characters, computed when one of them is first needed.
fn kinds_of_block(block: u32) -> [u8; 256] {
    static CLASSES: LazyLock<Vec<(u8, Regex)>> = LazyLock::new(|| {
        let classes = [
            (CAPITAL, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
            (SMALL, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
            (LETTER, r"\p{L}"),
            (NUMBER, r"\p{N}"),
            (SPACE, r"\s"),
        ];
        classes.into_iter().filter_map(|(kind, class)| Some((kind, Regex::new(class).ok()?))).collect()
    });
    let mut kinds = [0; 256];
    let characters: String = (0..256).filter_map(|place| char::from_u32(256 * block + place)).collect();
    for (kind, class) in CLASSES.iter() {
        for found in class.find_iter(&characters).flatten().flat_map(|found| found.as_str().chars()) {
            kinds[found as usize % 256] |= kind;
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn parts(splitter: &Pretokenizer, text: &str) -> Vec<String> {
        let mut parts = Vec::new();
        splitter.each(text, |part| parts.push(part.to_owned()));
        parts
    }

    #[test]
    fn by_hand_it_is_split_as_by_the_pattern() {
        let by_hand = Pretokenizer::new(TEKKEN).unwrap();
        // The same pattern with an alternative that never matches, so that it is not recognized.
        let pattern = Pretokenizer::new(&format!("{TEKKEN}|(?!)")).unwrap();
        assert!(matches!((&by_hand, &pattern), (Pretokenizer::Tekken, Pretokenizer::Pattern(_))));
        assert_eq!(parts(&by_hand, "two  spaces \n \n x\t"), ["two", " ", " spaces", " \n \n", " x", "\t"]);
        // A few characters of every class, and of those in two classes.
        let alphabet: Vec<char> =
            "  \t\n\r\u{85}\u{a0}\u{2003}\u{3000}\u{b}\u{1c}\u{200b}\u{feff}aBéÉǅʰªका\u{301}\u{20dd}ſ1٣½Ⅷ.,/-'€👩\u{200d}日\u{0}\u{e000}\u{10ffff}".chars().collect();
        let mut random = ChaCha8Rng::seed_from_u64(3);
        for round in 0..6000 {
            // Every other round uses only three of them, so that every order occurs.
            let few: Vec<char> = (0..3).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect();
            let letters = if round % 2 == 0 { &alphabet } else { &few };
            let text: String = (0..random.random_range(0..12)).map(|_| letters[random.random_range(0..letters.len())]).collect();
            let found = parts(&by_hand, &text);
            assert_eq!(found, parts(&pattern, &text), "{text:?}");
            assert_eq!(found.concat(), text);
        }
    }

    #[test]
    fn any_pattern_comes_to_an_end() {
        let of = |pattern: &str, text: &str| parts(&Pretokenizer::new(pattern).unwrap(), text);
        assert_eq!(of("x*", "axxé").concat(), "xx");
        assert_eq!(of("b", "abcb"), ["b", "b"]);
        assert_eq!(of(r"(a|aa|a)+(?=b)\1", &"a".repeat(100)), ["a".repeat(100)], "tried back too often");
        assert!(Pretokenizer::new("(").is_err());
        assert!(Pretokenizer::new(r"(?:\p{L}{1000}){1000}").is_err(), "too large");
    }
}
