//! Filters for sentences to read aloud: length, characters, completeness and near-duplicates, with rejection statistics.

use super::languages::Language;
use super::{SettingError, languages};
use crate::data::text::normalized;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use unicode_normalization::UnicodeNormalization;

/// Criteria for sentences. In addition, a sentence must be complete, in the script of the language, without addresses, brackets or other
/// symbols that cannot be read aloud, and not a near-duplicate of an accepted one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Filters {
    /// Minimum number of words.
    pub min_words: usize,
    /// Maximum number of words.
    pub max_words: usize,
    /// Minimum number of characters.
    pub min_chars: usize,
    /// Maximum number of characters.
    pub max_chars: usize,
    /// Minimum duration in seconds, if the source gives the duration of the spoken sentence.
    pub min_seconds: f64,
    /// Maximum duration in seconds, if the source gives it.
    pub max_seconds: f64,
    /// Allow digits. Default: reject them, because they can be read in several ways.
    pub digits: bool,
    /// Maximum number of sentences from one recording, if the source names the recording.
    pub per_source: usize,
    /// Words that must not appear in a sentence; case does not matter.
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

/// A candidate sentence with facts from its source.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) text: String,
    /// Location in the source, for results.
    pub(super) place: String,
    /// Duration in seconds.
    pub(super) seconds: Option<f64>,
    pub(super) language: Option<String>,
    /// Id of the recording it is from.
    pub(super) recording: Option<String>,
}

/// Applies the filters and counts rejected sentences by reason.
pub(super) struct FilterStats<'a> {
    filters: &'a Filters,
    code: &'a str,
    language: Option<&'static Language>,
    without: Vec<String>,
    texts: BTreeMap<String, ()>,
    beginnings: BTreeMap<String, ()>,
    /// Word trigram (hashed) → indices of the accepted sentences that contain it.
    rows: HashMap<u64, Vec<usize>>,
    /// Number of distinct trigrams of each accepted sentence.
    sizes: Vec<usize>,
    recordings: BTreeMap<String, usize>,
    rejected: BTreeMap<&'static str, Rejected>,
}

/// Sentences rejected for one reason.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Rejected {
    count: usize,
    /// The first few.
    examples: Vec<String>,
}

/// Number of examples kept per reason.
const EXAMPLES: usize = 3;
/// Jaccard similarity of word trigrams above which two sentences are near-duplicates.
const ALIKE: f64 = 0.8;
/// Minimum fraction of letters and spaces in a sentence.
const LETTERS: f64 = 0.85;

impl Filters {
    /// Checks the criteria.
    pub(super) fn check(&self, errors: &mut Vec<SettingError>) {
        let mut wrong = |name: &str, message: String, hint: &str| {
            errors.push(SettingError::new(&format!("filters.{name}"), message).hint(hint));
        };
        if self.max_words < self.min_words.max(1) {
            wrong(
                "max_words",
                format!("`min_words` {} and `max_words` {} exclude every sentence", self.min_words, self.max_words),
                "write a larger number",
            );
        }
        if self.max_chars < self.min_chars.max(1) {
            let message = format!("`min_chars` {} and `max_chars` {} exclude every sentence", self.min_chars, self.max_chars);
            wrong("max_chars", message, "write a larger number");
        }
        if !(self.min_seconds >= 0.0 && self.max_seconds > self.min_seconds) {
            let message = format!("`min_seconds` {} and `max_seconds` {} exclude every sentence", self.min_seconds, self.max_seconds);
            wrong("max_seconds", message, "set `max_seconds` above `min_seconds`");
        }
        if self.per_source == 0 {
            wrong("per_source", "`per_source` must be at least 1".to_owned(), "write a number above 0");
        }
    }
}

impl<'a> FilterStats<'a> {
    /// Starts without accepted sentences; `code` is the language code.
    pub(super) fn new(filters: &'a Filters, code: &'a str) -> Self {
        Self {
            filters,
            code,
            language: languages::of(code),
            without: filters.without.iter().map(|word| normalized(word)).filter(|word| !word.is_empty()).collect(),
            texts: BTreeMap::new(),
            beginnings: BTreeMap::new(),
            rows: HashMap::new(),
            sizes: Vec::new(),
            recordings: BTreeMap::new(),
            rejected: BTreeMap::new(),
        }
    }

    /// Returns the sentence with normalized whitespace and in NFC if it passes all filters; otherwise counts the rejection.
    pub(super) fn pass(&mut self, found: &Found) -> Option<String> {
        let text = found.text.split_whitespace().collect::<Vec<_>>().join(" ").nfc().collect::<String>();
        match self.check_sentence(&text, found).and_then(|()| self.check_new(&text, found)) {
            Ok(()) => Some(text),
            Err(reason) => {
                self.reject(reason, &text);
                None
            }
        }
    }

    /// Counts a rejection.
    pub(super) fn reject(&mut self, reason: &'static str, example: &str) {
        let rejected = self.rejected.entry(reason).or_default();
        rejected.count += 1;
        if rejected.examples.len() < EXAMPLES {
            rejected.examples.push(example.chars().take(200).collect());
        }
    }

    /// Rejected sentences by reason.
    pub(super) fn rejected(&self) -> &BTreeMap<&'static str, Rejected> {
        &self.rejected
    }

    /// The most frequent rejection reasons, for a message.
    pub(super) fn reasons(&self) -> String {
        let mut reasons: Vec<_> = self.rejected.iter().map(|(reason, rejected)| (rejected.count, *reason)).collect();
        reasons.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        reasons.iter().take(4).map(|(count, reason)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
    }

    /// Checks a sentence on its own. The error is the reason for rejection.
    fn check_sentence(&self, text: &str, found: &Found) -> Result<(), &'static str> {
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
        let padded = format!(" {} ", normalized(text));
        self.without.iter().any(|word| padded.contains(&format!(" {word} ")))
    }

    /// Checks that a sentence is no (near-)duplicate of an accepted one, and accepts it.
    fn check_new(&mut self, text: &str, found: &Found) -> Result<(), &'static str> {
        let plain = normalized(text);
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

/// Whether the text has more than one sentence.
fn several(text: &str, ending: impl Fn(char) -> bool) -> bool {
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if ending(letter) && letters.peek().is_some_and(|next| next.is_whitespace()) {
            return true;
        }
    }
    false
}

/// Whether a word of more than four letters is in capitals.
fn shouted(word: &str) -> bool {
    let letters = || word.chars().filter(|letter| letter.is_alphabetic());
    letters().count() > 4 && letters().all(char::is_uppercase)
}

/// First 8 bytes of the BLAKE3 hash.
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
        let mut filter = FilterStats::new(&filters, "en");
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
            assert_eq!(filter.pass(&found(text)), None, "{text}");
            let rejected = filter.rejected().get(reason);
            assert!(rejected.is_some_and(|it| it.examples.last().is_some_and(|it| it == text.trim())), "{text}: {:?}", filter.rejected());
        }
        assert_eq!(filter.pass(&found("  The rain\thas stopped now. ")).as_deref(), Some("The rain has stopped now."));
        assert_eq!(filter.pass(&found("The rain has stopped, now!")), None);
        assert!(filter.pass(&found("I would not say that it is wrong at all.")).is_some());
        assert_eq!(filter.pass(&found("I would not say that it rained.")), None);
        assert!(filter.pass(&found("Is it the cat that sat on the mat by the door of a red house?")).is_some());
        assert_eq!(filter.pass(&found("So is it the cat that sat on the mat by the door of a red house?")), None);
        let reasons = filter.rejected();
        for reason in ["repeated", "beginning like another", "almost like another"] {
            assert_eq!(reasons[reason].count, 1, "{reason}: {reasons:?}");
        }
    }

    #[test]
    fn what_the_source_tells_counts() {
        let filters = Filters::default();
        let mut filter = FilterStats::new(&filters, "de");
        let text = |number: &str| Found { recording: Some("a".into()), ..found(&format!("Heute regnet es {number} in Berlin.")) };
        assert!(filter.pass(&text("wieder")).is_some() && filter.pass(&text("kräftig")).is_some());
        assert_eq!(filter.pass(&text("überall")), None);
        let with = |seconds, language: &str| Found {
            seconds: Some(seconds),
            language: Some(language.into()),
            ..found("Morgen scheint wohl die Sonne.")
        };
        assert_eq!((filter.pass(&with(1.0, "de")), filter.pass(&with(40.0, "de")), filter.pass(&with(3.0, "nl"))), (None, None, None));
        assert!(filter.pass(&with(3.0, "de-DE")).is_some());
        assert_eq!(filter.rejected().len(), 4, "{:?}", filter.rejected());
    }
}
