//! Languages as tables name them: codes, locales, English and native names, all brought to ISO 639-1.

use isolang::Language;
use voxtral::tokenizer::prompt::check_language;

/// Bibliographic codes of ISO 639-2, and codes of single languages that a two-letter code stands for.
const ALIASES: &[(&str, &str)] = &[
    ("alb", "sq"),
    ("arb", "ar"),
    ("arm", "hy"),
    ("azj", "az"),
    ("baq", "eu"),
    ("bur", "my"),
    ("castilian", "es"),
    ("chi", "zh"),
    ("cmn", "zh"),
    ("cze", "cs"),
    ("dut", "nl"),
    ("ekk", "et"),
    ("farsi", "fa"),
    ("flemish", "nl"),
    ("fre", "fr"),
    ("geo", "ka"),
    ("ger", "de"),
    ("gre", "el"),
    ("greek", "el"),
    ("ice", "is"),
    ("iw", "he"),
    ("khk", "mn"),
    ("lvs", "lv"),
    ("mac", "mk"),
    ("malay", "ms"),
    ("mandarin", "zh"),
    ("mandarin chinese", "zh"),
    ("mao", "mi"),
    ("may", "ms"),
    ("npi", "ne"),
    ("ory", "or"),
    ("pbt", "ps"),
    ("per", "fa"),
    ("pes", "fa"),
    ("prs", "fa"),
    ("punjabi", "pa"),
    ("rum", "ro"),
    ("slo", "sk"),
    ("swahili", "sw"),
    ("swh", "sw"),
    ("tib", "bo"),
    ("uzn", "uz"),
    ("wel", "cy"),
    ("zsm", "ms"),
];

/// What stands for "no language named".
const NONE: &[&str] = &["", "-", "auto", "mul", "n/a", "nan", "none", "null", "und", "unknown", "zxx"];

/// The ISO 639-1 code of what a table calls a language: `de`, `de-DE`, `DE_at`, `deu`, `ger`, `German` or `Deutsch`. `None` if it names no
/// language (empty, `und`); an error with the text if it is not known.
pub fn language_code(named: &str) -> Result<Option<String>, String> {
    let word = named.trim().to_lowercase();
    if NONE.contains(&word.as_str()) {
        return Ok(None);
    }
    // A name in full first: `Old-fashioned` is no locale.
    let code = code_of(&word).or_else(|| code_of(word.split(['-', '_', '.', '@', '(', ' ']).next().unwrap_or_default()));
    code.map(Some).ok_or_else(|| named.trim().to_owned())
}

fn code_of(word: &str) -> Option<String> {
    if check_language(word).is_ok() {
        return Some(word.to_owned());
    }
    if let Some((_, code)) = ALIASES.iter().find(|(name, _)| *name == word) {
        return Some((*code).to_owned());
    }
    let found = match word.len() {
        0..=2 => None,
        3 => Language::from_639_3(word),
        _ => None,
    };
    let with_code = |language: &Language| language.to_639_1().is_some();
    // Macrolanguages such as Norwegian have several members of that name: one with a two-letter code is meant.
    let named = || {
        isolang::languages().filter(with_code).find(|language| {
            let english = language.to_name().split(';').any(|name| plain(name) == word);
            english || language.to_autonym().is_some_and(|native| native.split([',', ';', '/']).any(|name| plain(name) == word))
        })
    };
    let code = found.filter(with_code).or_else(named)?.to_639_1()?;
    check_language(code).is_ok().then(|| code.to_owned())
}

/// A name without its qualifier: `Modern Greek (1453-)` is `modern greek`.
fn plain(name: &str) -> String {
    name.split(" (").next().unwrap_or_default().trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_locales_and_names_are_one_language() {
        for (named, code) in [
            ("en", "en"),
            ("EN", "en"),
            ("English", "en"),
            ("eng", "en"),
            ("en_US", "en"),
            ("en-GB.UTF-8", "en"),
            ("sv-SE", "sv"),
            ("Svenska", "sv"),
            ("Deutsch", "de"),
            ("german", "de"),
            ("deu", "de"),
            ("ger", "de"),
            ("zh-CN", "zh"),
            ("cmn_hans_cn", "zh"),
            ("Chinese", "zh"),
            ("français", "fr"),
            ("fre", "fr"),
            ("русский", "ru"),
            ("Spanish", "es"),
            ("Español", "es"),
            ("norwegian", "no"),
            ("Portuguese (Brazil)", "pt"),
            ("Dutch", "nl"),
            ("हिन्दी", "hi"),
            ("Greek", "el"),
            ("nob", "nb"),
        ] {
            assert_eq!(language_code(named), Ok(Some(code.to_owned())), "{named}");
        }
        for none in ["", " ", "und", "Unknown", "auto"] {
            assert_eq!(language_code(none), Ok(None), "{none}");
        }
        for unknown in ["Klingon", "xx", "qqq", "yes", "1"] {
            assert_eq!(language_code(unknown), Err(unknown.to_owned()));
        }
    }
}
