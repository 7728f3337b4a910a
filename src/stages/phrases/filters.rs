//! Which sentences are fit to be read aloud, and why the others are not.

use super::languages::Language;
use super::{SettingError, languages};
use crate::data::text::normalised;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use unicode_normalization::UnicodeNormalization;

/// What a sentence must be like to be chosen. Besides, it must be one whole sentence in the letters of the language, without addresses,
/// brackets and other signs nobody knows how to read, and none that is almost the same may have been chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Filters {
    /// Fewest words.
    pub min_words: usize,
    /// Most words.
    pub max_words: usize,
    /// Fewest characters.
    pub min_chars: usize,
    /// Most characters.
    pub max_chars: usize,
    /// Shortest duration in seconds, where the source tells how long the sentence took to say.
    pub min_seconds: f64,
    /// Longest duration in seconds, where the source tells it.
    pub max_seconds: f64,
    /// Whether digits may be in a sentence; people read them in different ways.
    pub digits: bool,
    /// Most sentences of one recording, where the source tells which recording it is.
    pub per_source: usize,
    /// Words that must not be in a sentence, in small letters.
    pub without: Vec<String>,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            min_words: 3,
            max_words: 20,
            min_chars: 15,
            max_chars: 160,
            min_seconds: 2.0,
            max_seconds: 12.0,
            digits: false,
            per_source: 2,
            without: Vec::new(),
        }
    }
}

/// A sentence that was found, with what its source tells of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) text: String,
    /// Where it is, in words.
    pub(super) place: String,
    pub(super) seconds: Option<f64>,
    pub(super) language: Option<String>,
    /// The recording it is from.
    pub(super) recording: Option<String>,
}

/// Lets the sentences through that are fit, and counts the others.
pub(super) struct FilterStats<'a> {
    filters: &'a Filters,
    code: &'a str,
    language: Option<&'static Language>,
    without: Vec<String>,
    texts: BTreeMap<String, ()>,
    beginnings: BTreeMap<String, ()>,
    /// Which of the kept sentences have three words in a row; and how many such rows each has.
    rows: HashMap<u64, Vec<usize>>,
    sizes: Vec<usize>,
    recordings: BTreeMap<String, usize>,
    rejected: BTreeMap<&'static str, Rejected>,
}

/// What was left out for one reason.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Rejected {
    count: usize,
    /// The first few.
    examples: Vec<String>,
}

/// How many examples are kept of each reason.
const EXAMPLES: usize = 3;
/// From which share of equal rows of three words on two sentences count as almost the same.
const ALIKE: f64 = 0.8;
/// Which share of a sentence has to be letters and spaces.
const LETTERS: f64 = 0.85;

impl Filters {
    /// What cannot work.
    pub(super) fn check(&self, complaints: &mut Vec<SettingError>) {
        let mut wrong = |name: &str, message: String, hint: &str| {
            complaints.push(SettingError::new(&format!("filters.{name}"), message).hint(hint));
        };
        if self.max_words < self.min_words.max(1) {
            wrong("max_words", format!("no sentence has between {} and {} words", self.min_words, self.max_words), "write a larger number");
        }
        if self.max_chars < self.min_chars.max(1) {
            let message = format!("no sentence has between {} and {} characters", self.min_chars, self.max_chars);
            wrong("max_chars", message, "write a larger number");
        }
        if !(self.min_seconds >= 0.0 && self.max_seconds > self.min_seconds) {
            let message = format!("no sentence takes between {} and {} seconds", self.min_seconds, self.max_seconds);
            wrong("max_seconds", message, "write a `max_seconds` above `min_seconds`");
        }
        if self.per_source == 0 {
            wrong("per_source", "no sentence of any recording may be chosen".to_owned(), "write a number above 0");
        }
    }
}

impl<'a> FilterStats<'a> {
    pub(super) fn new(filters: &'a Filters, code: &'a str) -> Self {
        Self {
            filters,
            code,
            language: languages::of(code),
            without: filters.without.iter().map(|word| normalised(word)).filter(|word| !word.is_empty()).collect(),
            texts: BTreeMap::new(),
            beginnings: BTreeMap::new(),
            rows: HashMap::new(),
            sizes: Vec::new(),
            recordings: BTreeMap::new(),
            rejected: BTreeMap::new(),
        }
    }

    /// The sentence in one form, if it is fit.
    pub(super) fn pass(&mut self, found: &Found) -> Option<String> {
        let text = found.text.split_whitespace().collect::<Vec<_>>().join(" ").nfc().collect::<String>();
        match self.looks(&text, found).and_then(|()| self.is_new(&text, found)) {
            Ok(()) => Some(text),
            Err(reason) => {
                self.reject(reason, &text);
                None
            }
        }
    }

    /// Counts something that was left out.
    pub(super) fn reject(&mut self, reason: &'static str, example: &str) {
        let rejected = self.rejected.entry(reason).or_default();
        rejected.count += 1;
        if rejected.examples.len() < EXAMPLES {
            rejected.examples.push(example.chars().take(200).collect());
        }
    }

    /// What was left out, by reason.
    pub(super) fn rejected(&self) -> &BTreeMap<&'static str, Rejected> {
        &self.rejected
    }

    /// The most frequent reasons, in words.
    pub(super) fn reasons(&self) -> String {
        let mut reasons: Vec<_> = self.rejected.iter().map(|(reason, rejected)| (rejected.count, *reason)).collect();
        reasons.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        reasons.iter().take(4).map(|(count, reason)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
    }

    /// Whether the sentence by itself can be read aloud.
    fn looks(&self, text: &str, found: &Found) -> Result<(), &'static str> {
        let filters = self.filters;
        let foreign = |language: &str| {
            let code = language.split(['-', '_']).next().unwrap_or_default();
            code.len() == 2 && !code.eq_ignore_ascii_case(self.code)
        };
        let words: Vec<&str> = text.split(' ').collect();
        let chars = text.chars().count();
        let end = text.trim_end_matches(['"', '”', '»', '’', '\'']);
        let ending =
            |letter: char| ".!?".contains(letter) || self.code == "hi" && letter == '।' || self.code == "el" && ";\u{37e}".contains(letter);
        let letters = |letter: char| letter.is_alphabetic() || unicode_normalization::char::is_combining_mark(letter);
        let share = text.chars().filter(|letter| letters(*letter) || " '’-".contains(*letter)).count() as f64 / chars.max(1) as f64;
        let signs = |letter: char| "[](){}<>@#♪♫*_/\\|=+~^%&$€£§©®™•".contains(letter);
        let checks = [
            (text.is_empty(), "empty"),
            (found.language.as_deref().is_some_and(foreign), "in another language"),
            (words.len() < filters.min_words, "with too few words"),
            (words.len() > filters.max_words, "with too many words"),
            (chars < filters.min_chars, "too short"),
            (chars > filters.max_chars, "too long"),
            (found.seconds.is_some_and(|seconds| seconds < filters.min_seconds), "said too quickly or cut short"),
            (found.seconds.is_some_and(|seconds| seconds > filters.max_seconds), "taking too long to say"),
            (!filters.digits && text.contains(char::is_numeric), "with digits"),
            (text.contains(signs) || text.contains("www.") || text.contains("://"), "with signs or addresses"),
            (!end.ends_with(ending), "without the end of a sentence"),
            (text.chars().find(|letter| letter.is_alphabetic()).is_none_or(char::is_lowercase), "beginning in the middle of a sentence"),
            (several(end, ending), "of several sentences"),
            (share < LETTERS && !(filters.digits && text.contains(char::is_numeric)), "with too few letters"),
            (
                self.language.is_some_and(|language| text.chars().any(|letter| letter.is_alphabetic() && !language.has(letter))),
                "in foreign letters",
            ),
            (words.iter().any(|word| shouted(word)), "in capitals"),
            (self.has_unwanted(text), "with unwanted words"),
        ];
        checks.iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, reason)| Err(reason))
    }

    fn has_unwanted(&self, text: &str) -> bool {
        let padded = format!(" {} ", normalised(text));
        self.without.iter().any(|word| padded.contains(&format!(" {word} ")))
    }

    /// Whether nothing like it was let through before; if so, it counts from now on.
    fn is_new(&mut self, text: &str, found: &Found) -> Result<(), &'static str> {
        let plain = normalised(text);
        let words: Vec<&str> = plain.split_whitespace().collect();
        if self.texts.contains_key(&plain) {
            return Err("repeated");
        }
        let beginning = (words.len() > 6).then(|| words[..6].join(" "));
        if beginning.as_ref().is_some_and(|beginning| self.beginnings.contains_key(beginning)) {
            return Err("beginning like another");
        }
        let mut rows: Vec<u64> = words.windows(3).map(|three| hash(&three.join(" "))).collect();
        rows.sort_unstable();
        rows.dedup();
        let mut shared: BTreeMap<usize, usize> = BTreeMap::new();
        for row in &rows {
            for kept in self.rows.get(row).into_iter().flatten() {
                *shared.entry(*kept).or_default() += 1;
            }
        }
        let alike = |(kept, both): (&usize, &usize)| *both as f64 > ALIKE * (self.sizes[*kept] + rows.len() - both) as f64;
        if shared.iter().any(alike) {
            return Err("almost like another");
        }
        if let Some(recording) = &found.recording {
            let count = self.recordings.entry(recording.clone()).or_default();
            if *count >= self.filters.per_source {
                return Err("from a recording that others are from");
            }
            *count += 1;
        }
        for row in &rows {
            self.rows.entry(*row).or_default().push(self.sizes.len());
        }
        self.sizes.push(rows.len());
        self.beginnings.extend(beginning.map(|beginning| (beginning, ())));
        self.texts.insert(plain, ());
        Ok(())
    }
}

/// Whether a sentence ends before the text does.
fn several(text: &str, ending: impl Fn(char) -> bool) -> bool {
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if ending(letter) && letters.peek().is_some_and(|next| next.is_whitespace()) {
            return true;
        }
    }
    false
}

fn shouted(word: &str) -> bool {
    let letters = || word.chars().filter(|letter| letter.is_alphabetic());
    letters().count() > 4 && letters().all(char::is_uppercase)
}

fn hash(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    hash.as_bytes()[..8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Found {
        Found { text: text.to_owned(), ..Found::default() }
    }

    #[test]
    fn each_reason_has_its_sentence() {
        let filters = Filters { without: vec!["Blasted".into()], ..Filters::default() };
        let mut sieve = FilterStats::new(&filters, "en");
        let long = format!("It {}goes on.", "very very ".repeat(12));
        for (text, reason) in [
            ("  ", "empty"),
            ("Too short.", "with too few words"),
            (long.as_str(), "with too many words"),
            ("So it is.", "too short"),
            ("There are 12 of them here.", "with digits"),
            ("Write to me @ home today.", "with signs or addresses"),
            ("See www.example.com for that.", "with signs or addresses"),
            ("It was a long and", "without the end of a sentence"),
            ("and then we went home.", "beginning in the middle of a sentence"),
            ("We came home. It was late.", "of several sentences"),
            ("Well ,,, ;; ::: -- ,,, ;;; it is.", "with too few letters"),
            ("He says да to everything.", "in foreign letters"),
            ("He told me NEVER to do that.", "in capitals"),
            ("That blasted thing is broken.", "with unwanted words"),
        ] {
            assert_eq!(sieve.pass(&found(text)), None, "{text}");
            let rejected = sieve.rejected().get(reason);
            assert!(rejected.is_some_and(|it| it.examples.last().is_some_and(|it| it == text.trim())), "{text}: {:?}", sieve.rejected());
        }
        assert_eq!(sieve.pass(&found("  The rain\thas stopped now. ")).as_deref(), Some("The rain has stopped now."));
        assert_eq!(sieve.pass(&found("The rain has stopped, now!")), None);
        assert!(sieve.pass(&found("I would not say that it is wrong at all.")).is_some());
        assert_eq!(sieve.pass(&found("I would not say that it rained.")), None);
        assert!(sieve.pass(&found("Is it the cat that sat on the mat by the door of a red house?")).is_some());
        assert_eq!(sieve.pass(&found("So is it the cat that sat on the mat by the door of a red house?")), None);
        let reasons = sieve.rejected();
        for reason in ["repeated", "beginning like another", "almost like another"] {
            assert_eq!(reasons[reason].count, 1, "{reason}: {reasons:?}");
        }
    }

    #[test]
    fn what_the_source_tells_counts() {
        let filters = Filters::default();
        let mut sieve = FilterStats::new(&filters, "de");
        let text = |number: &str| Found { recording: Some("a".into()), ..found(&format!("Heute regnet es {number} in Berlin.")) };
        assert!(sieve.pass(&text("wieder")).is_some() && sieve.pass(&text("kräftig")).is_some());
        assert_eq!(sieve.pass(&text("überall")), None);
        let with = |seconds, language: &str| Found {
            seconds: Some(seconds),
            language: Some(language.into()),
            ..found("Morgen scheint wohl die Sonne.")
        };
        assert_eq!((sieve.pass(&with(1.0, "de")), sieve.pass(&with(40.0, "de")), sieve.pass(&with(3.0, "nl"))), (None, None, None));
        assert!(sieve.pass(&with(3.0, "de-DE")).is_some());
        assert_eq!(sieve.rejected().len(), 4, "{:?}", sieve.rejected());
    }
}
