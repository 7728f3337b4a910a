//! Word error rate (WER) and character error rate (CER).
//!
//! Reference and hypothesis are normalized ([`TextNormalization`]), split into words or characters, and aligned (Levenshtein). Of the
//! alignments with the fewest errors, the one with the most hits is taken, so the counts do not depend on the search order. A corpus is
//! scored as the sum of all errors over the sum of all reference words: long clips weigh more than short ones.
//!
//! Words are separated by spaces. In Japanese, Chinese and other scripts without spaces, one "word" is a whole clause: use the character
//! error rate there.
//!
//! For an empty reference the rate is undefined. Here it is 0 if the hypothesis is empty too, and 1 otherwise.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::ops::{Add, AddAssign};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Error rates of a set of clips, as written to `scores.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorRates {
    /// Word error rate: 0.1 is one error per ten reference words. It can exceed 1.
    pub wer: f64,
    /// Character error rate.
    pub cer: f64,
    /// Substituted words.
    pub substitutions: usize,
    /// Inserted words: only in the hypothesis.
    pub insertions: usize,
    /// Deleted words: only in the reference.
    pub deletions: usize,
}

/// Edit counts summed over clips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorCounts {
    /// Number of clips.
    pub clips: usize,
    /// Edits of the words.
    pub words: EditCounts,
    /// Edits of the characters; a run of spaces counts as one.
    pub characters: EditCounts,
}

impl ErrorCounts {
    /// Compares one hypothesis with its reference.
    pub fn of(reference: &str, hypothesis: &str, normalization: TextNormalization) -> Self {
        let (reference, hypothesis) = (normalization.apply(reference), normalization.apply(hypothesis));
        let words = |text: &str| -> Vec<String> { text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect() };
        let characters = |text: &str| -> Vec<char> { text.chars().collect() };
        Self {
            clips: 1,
            words: EditCounts::between(&words(&reference), &words(&hypothesis)),
            characters: EditCounts::between(&characters(&reference), &characters(&hypothesis)),
        }
    }

    /// Error rates and word edits.
    pub fn score(&self) -> ErrorRates {
        let EditCounts { substitutions, insertions, deletions, .. } = self.words;
        ErrorRates { wer: self.words.rate(), cer: self.characters.rate(), substitutions, insertions, deletions }
    }
}

impl Add for ErrorCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { clips: self.clips + other.clips, words: self.words + other.words, characters: self.characters + other.characters }
    }
}

impl AddAssign for ErrorCounts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for ErrorCounts {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), Add::add)
    }
}

/// Text normalization before scoring. Its name is stored with every score: scores under different normalizations cannot be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TextNormalization {
    /// Unicode NFC and single spaces only: case and punctuation count as errors.
    #[serde(rename = "none")]
    None,
    /// Ignores case, punctuation and symbols: NFKC, lowercase, and a space for everything but letters, marks and digits, except apostrophes
    /// inside a word (all written `'`). Invisible characters (joiners, soft hyphens) are removed.
    #[default]
    #[serde(rename = "basic-1", alias = "basic")]
    Basic,
}

impl TextNormalization {
    /// Name stored with a score; it changes whenever the rules do.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic => "basic-1",
        }
    }

    /// Normalized text: words separated by single spaces.
    pub fn apply(self, text: &str) -> String {
        let text = match self {
            Self::None => text.nfc().collect(),
            Self::Basic => basic(text),
        };
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn basic(text: &str) -> String {
    let lower = text.nfkc().collect::<String>().to_lowercase();
    let characters: Vec<char> = lower.nfkc().filter(|&c| !is_invisible(c)).collect();
    let in_word = |index: Option<usize>| index.and_then(|index| characters.get(index)).is_some_and(|&c| is_word(c));
    characters
        .iter()
        .enumerate()
        .map(|(index, &c)| match c {
            '\'' | '\u{2019}' | '\u{02bc}' | '\u{02bb}' if in_word(index.checked_sub(1)) && in_word(Some(index + 1)) => '\'',
            '\u{02bc}' | '\u{02bb}' => ' ',
            _ if is_word(c) => c,
            _ => ' ',
        })
        .collect()
}

/// Letters, digits and combining marks, including the vowel signs of Indic scripts.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || is_combining_mark(c)
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{00ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Edit counts of an alignment of a reference and a hypothesis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditCounts {
    /// Equal items.
    pub hits: usize,
    /// Substituted items.
    pub substitutions: usize,
    /// Inserted items: only in the hypothesis.
    pub insertions: usize,
    /// Deleted items: only in the reference.
    pub deletions: usize,
}

impl EditCounts {
    /// Counts the edits of the best alignment. Needs memory for one row of the table only: long clips have thousands of characters.
    pub fn between<T: PartialEq>(reference: &[T], hypothesis: &[T]) -> Self {
        let mut row: Vec<Self> = (0..=hypothesis.len()).map(|insertions| Self { insertions, ..Self::default() }).collect();
        for expected in reference {
            let mut diagonal = row[0];
            row[0].deletions += 1;
            for (index, found) in hypothesis.iter().enumerate() {
                let (left, above) = (row[index], row[index + 1]);
                row[index + 1] = best(
                    if expected == found {
                        Self { hits: diagonal.hits + 1, ..diagonal }
                    } else {
                        Self { substitutions: diagonal.substitutions + 1, ..diagonal }
                    },
                    Self { deletions: above.deletions + 1, ..above },
                    Self { insertions: left.insertions + 1, ..left },
                );
                diagonal = above;
            }
        }
        row[hypothesis.len()]
    }

    /// Substitutions, insertions and deletions.
    pub fn errors(&self) -> usize {
        self.substitutions + self.insertions + self.deletions
    }

    /// Number of items in the reference.
    pub fn reference(&self) -> usize {
        self.hits + self.substitutions + self.deletions
    }

    /// Errors per reference item.
    pub fn rate(&self) -> f64 {
        match (self.errors(), self.reference()) {
            (0, 0) => 0.0,
            (_, 0) => 1.0,
            (errors, reference) => errors as f64 / reference as f64,
        }
    }

    fn cost(&self) -> (usize, Reverse<usize>) {
        (self.errors(), Reverse(self.hits))
    }
}

fn best(diagonal: EditCounts, deletion: EditCounts, insertion: EditCounts) -> EditCounts {
    let mut best = diagonal;
    for other in [deletion, insertion] {
        if other.cost() < best.cost() {
            best = other;
        }
    }
    best
}

impl Add for EditCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            substitutions: self.substitutions + other.substitutions,
            insertions: self.insertions + other.insertions,
            deletions: self.deletions + other.deletions,
        }
    }
}

/// One position of an alignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlignedPair<T> {
    /// In both.
    Hit(T),
    /// Reference item, and the hypothesis item in its place.
    Substitution(T, T),
    /// Only in the hypothesis.
    Insertion(T),
    /// Only in the reference.
    Deletion(T),
}

/// The best alignment itself, to show the errors; its counts equal those of [`EditCounts::between`].
pub fn align<T: PartialEq + Clone>(reference: &[T], hypothesis: &[T]) -> Vec<AlignedPair<T>> {
    let width = hypothesis.len() + 1;
    let mut table = vec![EditCounts::default(); (reference.len() + 1) * width];
    for i in 0..=reference.len() {
        for j in 0..width {
            let at = |i: usize, j: usize| table[i * width + j];
            table[i * width + j] = match (i, j) {
                (0, _) => EditCounts { insertions: j, ..EditCounts::default() },
                (_, 0) => EditCounts { deletions: i, ..EditCounts::default() },
                _ => {
                    let mut diagonal = at(i - 1, j - 1);
                    let (mut above, mut left) = (at(i - 1, j), at(i, j - 1));
                    if reference[i - 1] == hypothesis[j - 1] {
                        diagonal.hits += 1
                    } else {
                        diagonal.substitutions += 1
                    }
                    above.deletions += 1;
                    left.insertions += 1;
                    best(diagonal, above, left)
                }
            };
        }
    }
    let (mut i, mut j) = (reference.len(), hypothesis.len());
    let mut steps = Vec::with_capacity(i.max(j));
    while i > 0 || j > 0 {
        let here = table[i * width + j];
        let came_from = |i: usize, j: usize, step: EditCounts| table[i * width + j] + step == here;
        let one = EditCounts::default();
        if i > 0 && j > 0 && reference[i - 1] == hypothesis[j - 1] && came_from(i - 1, j - 1, EditCounts { hits: 1, ..one }) {
            steps.push(AlignedPair::Hit(reference[i - 1].clone()));
            (i, j) = (i - 1, j - 1);
        } else if i > 0 && j > 0 && reference[i - 1] != hypothesis[j - 1] && came_from(i - 1, j - 1, EditCounts { substitutions: 1, ..one })
        {
            steps.push(AlignedPair::Substitution(reference[i - 1].clone(), hypothesis[j - 1].clone()));
            (i, j) = (i - 1, j - 1);
        } else if i > 0 && came_from(i - 1, j, EditCounts { deletions: 1, ..one }) {
            steps.push(AlignedPair::Deletion(reference[i - 1].clone()));
            i -= 1;
        } else {
            steps.push(AlignedPair::Insertion(hypothesis[j - 1].clone()));
            j -= 1;
        }
    }
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(reference: &str, hypothesis: &str) -> EditCounts {
        ErrorCounts::of(reference, hypothesis, TextNormalization::None).words
    }

    #[test]
    fn counts_by_hand() {
        // Reference, hypothesis, hits, substitutions, insertions, deletions.
        for (reference, hypothesis, counts) in [
            ("a b c", "a b c", [3, 0, 0, 0]),
            ("a b c", "a x c", [2, 1, 0, 0]),
            ("a b c", "a c", [2, 0, 0, 1]),
            ("a b c", "a b x c", [3, 0, 1, 0]),
            ("a b", "b a", [1, 0, 1, 1]),
            ("a b c d", "x y", [0, 2, 0, 2]),
            ("a", "b c d", [0, 1, 2, 0]),
            ("", "b c", [0, 0, 2, 0]),
            ("a b", "", [0, 0, 0, 2]),
            ("", "", [0, 0, 0, 0]),
            ("please press one now", "pleas press one one now", [3, 1, 1, 0]),
        ] {
            let [hits, substitutions, insertions, deletions] = counts;
            assert_eq!(
                words(reference, hypothesis),
                EditCounts { hits, substitutions, insertions, deletions },
                "{reference:?} / {hypothesis:?}"
            );
        }
    }

    #[test]
    fn rates_by_hand() {
        for (reference, hypothesis, wer, cer) in [
            ("the cat sat", "the cat sat", 0.0, 0.0),
            ("the cat sat", "the bat sat", 1.0 / 3.0, 1.0 / 11.0),
            ("the  cat\tsat ", "the cat sat", 0.0, 0.0),
            ("thecat", "the cat", 2.0, 1.0 / 6.0),
            ("", "", 0.0, 0.0),
            ("", "hello", 1.0, 1.0),
            ("hello", "", 1.0, 1.0),
            ("caf\u{e9}", "cafe\u{301}", 0.0, 0.0),
        ] {
            let score = ErrorCounts::of(reference, hypothesis, TextNormalization::None).score();
            assert_eq!((score.wer, score.cer), (wer, cer), "{reference:?} / {hypothesis:?}");
        }
    }

    #[test]
    fn a_corpus_is_the_sum_of_its_clips() {
        let pairs = [("one two three four", "one two three four"), ("five", "six"), ("", "um")];
        let total: ErrorCounts = pairs.iter().map(|(a, b)| ErrorCounts::of(a, b, TextNormalization::None)).sum();
        assert_eq!((total.clips, total.words.reference()), (3, 5));
        assert_eq!(total.score(), ErrorRates { wer: 2.0 / 5.0, cer: 5.0 / 22.0, substitutions: 1, insertions: 1, deletions: 0 });
        assert_eq!(ErrorCounts::default().score().wer, 0.0);
    }

    #[test]
    fn basic_normalization() {
        for (text, normal) in [
            ("Hello, World!", "hello world"),
            ("don't DON\u{2019}T 'quoted' rock 'n' roll", "don't don't quoted rock n roll"),
            ("L\u{2019}\u{e9}t\u{e9} \u{ab}chaud\u{bb}\u{2026}", "l'\u{e9}t\u{e9} chaud"),
            ("\u{bf}D\u{f3}nde est\u{e1}?", "d\u{f3}nde est\u{e1}"),
            ("e-mail  2.5 \u{20ac}", "e mail 2 5"),
            ("cafe\u{301} \u{fb01}n \u{ff21}\u{ff22}", "caf\u{e9} fin ab"),
            (
                "\u{915}\u{94d}\u{937}\u{93f} \u{926}\u{941}\u{928}\u{93f}\u{92f}\u{93e}\u{964}",
                "\u{915}\u{94d}\u{937}\u{93f} \u{926}\u{941}\u{928}\u{93f}\u{92f}\u{93e}",
            ),
            ("\u{96fb}\u{8eca}\u{306f}\u{3001}\u{4e03}\u{6642}\u{3002}", "\u{96fb}\u{8eca}\u{306f} \u{4e03}\u{6642}"),
            ("zero\u{200b}width soft\u{ad}hyphen", "zerowidth softhyphen"),
            ("  \n\t ", ""),
            ("...", ""),
        ] {
            assert_eq!(TextNormalization::Basic.apply(text), normal, "{text:?}");
            assert_eq!(TextNormalization::Basic.apply(normal), normal, "it should be stable: {normal:?}");
        }
        assert_eq!(ErrorCounts::of("Please, press ONE.", "please press one", TextNormalization::Basic).words.errors(), 0);
        assert_eq!(ErrorCounts::of("Please, press ONE.", "please press one", TextNormalization::None).words.errors(), 2);
    }

    #[test]
    fn names_are_what_is_serialized() {
        for normalization in [TextNormalization::None, TextNormalization::Basic] {
            assert_eq!(serde_json::to_value(normalization).unwrap(), normalization.name());
        }
        let score = ErrorCounts::of("a b", "a c", TextNormalization::Basic).score();
        assert_eq!(
            serde_json::to_value(score).unwrap(),
            serde_json::json!({"wer": 0.5, "cer": 1.0 / 3.0, "substitutions": 1, "insertions": 0, "deletions": 0})
        );
    }

    #[test]
    fn an_alignment_shows_what_went_wrong() {
        use AlignedPair::*;
        let split = |text: &'static str| text.split(' ').collect::<Vec<_>>();
        assert_eq!(
            align(&split("press one for tea now"), &split("please press two for now")),
            [Insertion("please"), Hit("press"), Substitution("one", "two"), Hit("for"), Deletion("tea"), Hit("now")]
        );
    }
}
