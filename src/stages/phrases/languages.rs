//! Languages of phrases: codes, names, scripts and embedded packs.

use crate::data::text::closest;
use serde_json::{Value, json};

/// A language.
pub(super) struct Language {
    /// ISO 639-1 code.
    pub(super) code: &'static str,
    /// Names that users may type instead of the code: the English name first, then the native one.
    names: &'static [&'static str],
    script: Script,
    /// Original sentences written for this program, if there are any.
    pub(super) pack: Option<Pack>,
}

/// Embedded sentences.
#[derive(Clone, Copy)]
pub(super) struct Pack {
    /// One sentence per line.
    pub(super) text: &'static str,
    /// Version number, raised when the sentences change; results record it.
    pub(super) version: u32,
}

/// Script of a language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Latin,
    Cyrillic,
    Greek,
    Devanagari,
}

macro_rules! languages {
    ($($code:literal $script:ident $names:expr, $version:tt;)*) => {
        &[$(Language {
            code: $code,
            names: &$names,
            script: Script::$script,
            pack: pack!($code $version),
        }),*]
    };
}

/// Version 0 means no pack.
macro_rules! pack {
    ($code:literal 0) => {
        None
    };
    ($code:literal $version:literal) => {
        Some(Pack { text: include_str!(concat!("../../../templates/phrases/", $code, ".txt")), version: $version })
    };
}

/// The languages of Granary, and Hindi. The number is the version of the pack.
pub(super) const LANGUAGES: &[Language] = languages! {
    "bg" Cyrillic ["bulgarian", "български"], 1;
    "cs" Latin ["czech", "čeština", "česky"], 1;
    "da" Latin ["danish", "dansk"], 1;
    "de" Latin ["german", "deutsch"], 1;
    "el" Greek ["greek", "ελληνικά"], 1;
    "en" Latin ["english"], 1;
    "es" Latin ["spanish", "español", "castellano"], 1;
    "et" Latin ["estonian", "eesti"], 1;
    "fi" Latin ["finnish", "suomi"], 1;
    "fr" Latin ["french", "français"], 1;
    "hi" Devanagari ["hindi", "हिन्दी", "हिंदी"], 1;
    "hr" Latin ["croatian", "hrvatski"], 1;
    "hu" Latin ["hungarian", "magyar"], 1;
    "it" Latin ["italian", "italiano"], 1;
    "lt" Latin ["lithuanian", "lietuvių"], 1;
    "lv" Latin ["latvian", "latviešu"], 1;
    "mt" Latin ["maltese", "malti"], 1;
    "nl" Latin ["dutch", "nederlands"], 1;
    "pl" Latin ["polish", "polski"], 1;
    "pt" Latin ["portuguese", "português"], 1;
    "ro" Latin ["romanian", "română"], 1;
    "ru" Cyrillic ["russian", "русский"], 1;
    "sk" Latin ["slovak", "slovenčina", "slovensky"], 1;
    "sl" Latin ["slovenian", "slovene", "slovenščina"], 1;
    "sv" Latin ["swedish", "svenska"], 1;
    "uk" Cyrillic ["ukrainian", "українська"], 1;
};

/// Looks up a language by code.
pub(super) fn of(code: &str) -> Option<&'static Language> {
    LANGUAGES.iter().find(|language| language.code == code)
}

/// The pack of a language, if there is one.
pub(super) fn pack(code: &str) -> Option<Pack> {
    of(code)?.pack
}

/// Codes of all languages with a pack, comma-separated.
pub(super) fn packs() -> String {
    let packs = LANGUAGES.iter().filter(|language| language.pack.is_some());
    packs.map(|language| language.code).collect::<Vec<_>>().join(", ")
}

/// The language code for a text such as `English` or `en-GB`, for suggestions.
pub(super) fn meant(typed: &str) -> Option<&'static str> {
    let typed = typed.to_lowercase();
    if let Some(language) = typed.split(['-', '_']).next().and_then(of) {
        return Some(language.code);
    }
    let name = closest(&typed, LANGUAGES.iter().flat_map(|language| language.names.iter().copied()))?;
    LANGUAGES.iter().find(|language| language.names.contains(&name)).map(|language| language.code)
}

impl Language {
    /// The language as JSON for the studio.
    pub(super) fn describe(&self) -> Value {
        let title = |name: &str| name.chars().take(1).flat_map(char::to_uppercase).chain(name.chars().skip(1)).collect::<String>();
        let (name, native) = (self.names.first().unwrap_or(&self.code), self.names.get(1).or(self.names.first()).unwrap_or(&self.code));
        let pack = self.pack.map_or(0, |pack| pack.text.lines().count());
        // Granary has European languages only.
        json!({ "code": self.code, "name": title(name), "native": title(native), "pack": pack, "granary": self.script != Script::Devanagari })
    }

    /// Whether a letter belongs to the language's script.
    pub(super) fn has(&self, letter: char) -> bool {
        let ranges: &[(char, char)] = match self.script {
            Script::Latin => &[('A', 'Z'), ('a', 'z'), ('\u{aa}', '\u{24f}'), ('\u{2b0}', '\u{2ff}'), ('\u{1e00}', '\u{1eff}')],
            Script::Cyrillic => &[('\u{400}', '\u{52f}'), ('\u{2bc}', '\u{2bc}')],
            Script::Greek => &[('\u{370}', '\u{3ff}'), ('\u{1f00}', '\u{1fff}')],
            Script::Devanagari => &[('\u{900}', '\u{97f}')],
        };
        ranges.iter().any(|(first, last)| (*first..=*last).contains(&letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::text::normalized;
    use std::collections::{BTreeMap, BTreeSet};
    use unicode_normalization::{UnicodeNormalization, is_nfc};

    #[test]
    fn packs_are_fit_to_be_read_aloud() {
        for (language, pack) in LANGUAGES.iter().filter_map(|language| Some((language, language.pack?))) {
            let code = language.code;
            let lines: Vec<&str> = pack.text.lines().collect();
            assert!(lines.len() >= 100, "{code}: {} sentences", lines.len());
            let mut seen = BTreeMap::new();
            let mut letters = BTreeSet::new();
            let asks = |line: &str| line.ends_with('?') || code == "el" && line.ends_with([';', '\u{37e}']);
            for (index, line) in lines.iter().enumerate() {
                let place = format!("{code}:{}", index + 1);
                let words = line.split_whitespace().count();
                assert!((4..=14).contains(&words), "{place}: {words} words");
                assert!(line.chars().count() <= 110, "{place}: {} characters", line.chars().count());
                let ends = line.ends_with(['.', '?', '!']) || asks(line) || code == "hi" && line.ends_with('।');
                assert!(ends && !line.contains(|it: char| it.is_numeric() || "\"“”„«»()[]{}@#/\\".contains(it)), "{place}: {line}");
                assert!(is_nfc(line) && *line == line.split_whitespace().collect::<Vec<_>>().join(" "), "{place}: {line}");
                let first = line.chars().find(|letter| letter.is_alphabetic()).unwrap();
                assert!(!first.is_lowercase(), "{place} begins small: {line}");
                let foreign = line.chars().find(|letter| letter.is_alphabetic() && !language.has(*letter));
                assert_eq!(foreign, None, "{place}: {line}");
                assert_eq!(seen.insert(normalized(line), index), None, "{place} is repeated");
                letters.extend(line.to_lowercase().nfc().filter(|letter| letter.is_alphabetic()));
            }
            assert!(lines.iter().filter(|line| asks(line)).count() >= 10, "{code}: few questions");
            assert!(letters.len() >= 20, "{code}: only the letters {letters:?}");
        }
    }

    #[test]
    fn people_may_type_names() {
        for language in LANGUAGES {
            for name in language.names {
                assert_eq!(meant(name), Some(language.code), "{name}");
                assert_eq!(meant(&name.to_uppercase()), Some(language.code), "{name}");
            }
            assert_eq!(meant(&format!("{}-XX", language.code)), Some(language.code));
        }
        assert_eq!(meant("klingon"), None);
        let names: Vec<_> = LANGUAGES.iter().flat_map(|language| language.names).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }
}
