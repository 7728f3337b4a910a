//! Checks of the transcripts: characters that nobody speaks, markup, the wrong script, and texts that cannot belong to their sound.

use super::{Clip, Sound};
use crate::data::text::{count, normalized};
use pipeline::stage::SettingError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use voxtral::audio::quality::LIMITS;

/// What to do with clips that a check finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckAction {
    /// Correct the text, and tell it.
    Fix,
    /// Keep the clip, and tell it.
    Warn,
    /// Leave the clip out, and tell it.
    Reject,
    /// Keep the clip; do not check.
    Keep,
}

use CheckAction::{Fix, Keep, Reject, Warn};

/// What to do with clips whose text is odd: `warn`, `reject` or `keep`, and `fix` where a text can be corrected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextChecks {
    /// Control characters, such as a bell or a null. `fix` removes them; a tab or a line break becomes a space.
    pub control_characters: CheckAction,
    /// Characters without width, marks of the writing direction and soft hyphens. `fix` removes them, except joiners within scripts that
    /// are written with them.
    pub invisible_characters: CheckAction,
    /// U+FFFD, which stands for a letter that was lost.
    pub replacement_characters: CheckAction,
    /// HTML tags and entities. `fix` removes the tags and writes common entities as characters.
    pub html: CheckAction,
    /// Texts without a letter or digit.
    pub empty: CheckAction,
    /// Texts most of whose letters are of a script that their language is not written in.
    pub script: CheckAction,
    /// More letters a second than anyone can speak (60).
    pub letters_per_second: CheckAction,
    /// Clips with the same samples and different texts.
    pub two_texts: CheckAction,
    /// Clips of one speaker with the same text.
    pub repeats: CheckAction,
    /// All clips have the same text.
    pub one_text: CheckAction,
}

impl Default for TextChecks {
    fn default() -> Self {
        Self {
            control_characters: Fix,
            invisible_characters: Fix,
            replacement_characters: Reject,
            html: Reject,
            empty: Reject,
            script: Warn,
            letters_per_second: Reject,
            two_texts: Reject,
            repeats: Warn,
            one_text: Warn,
        }
    }
}

impl TextChecks {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Vec<SettingError> {
        let unfixable = [
            ("replacement_characters", self.replacement_characters),
            ("empty", self.empty),
            ("script", self.script),
            ("letters_per_second", self.letters_per_second),
            ("two_texts", self.two_texts),
            ("repeats", self.repeats),
            ("one_text", self.one_text),
        ];
        let wrong = unfixable.into_iter().filter(|(_, action)| *action == Fix);
        wrong
            .map(|(name, _)| {
                SettingError::new(&format!("checks.{name}"), "a text cannot be corrected here").hint("write `warn`, `reject` or `keep`")
            })
            .chain(
                (self.one_text == Reject)
                    .then(|| SettingError::new("checks.one_text", "all clips would be left out").hint("write `warn` or `keep`")),
            )
            .collect()
    }
}

/// Clips that the checks found, by the name of the check.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<&'static str, Found>);

/// Clips that one check found.
#[derive(Debug)]
struct Found {
    action: CheckAction,
    /// The clips, each with a detail.
    clips: Vec<(String, String)>,
}

impl Findings {
    fn add(&mut self, check: &'static str, action: CheckAction, clip: &str, detail: impl Into<String>) {
        let found = self.0.entry(check).or_insert_with(|| Found { action, clips: Vec::new() });
        found.clips.push((clip.to_owned(), detail.into()));
    }

    /// One line for each check.
    pub(super) fn lines(&self) -> Vec<String> {
        let what = |check: &str| CHECKS.iter().find(|(name, _)| *name == check).map_or("", |(_, what)| *what);
        self.0.iter().map(|(check, found)| found.line(what(check))).collect()
    }

    /// For `report.json`: each check with its number of clips, what was done, and the clips.
    pub(super) fn json(&self) -> Value {
        let entry = |(check, found): (&&str, &Found)| {
            let clips: Vec<Value> = found.clips.iter().map(|(clip, detail)| json!({"clip": clip, "detail": detail})).collect();
            ((*check).to_owned(), json!({"count": found.clips.len(), "action": found.action, "clips": clips}))
        };
        Value::Object(self.0.iter().map(entry).collect())
    }
}

impl Found {
    fn line(&self, what: &str) -> String {
        let done = match self.action {
            Fix => ", corrected",
            Reject => ", left out",
            Warn | Keep => "",
        };
        let examples: Vec<String> = self.clips.iter().take(3).map(|(clip, detail)| format!("{clip} ({detail})")).collect();
        let more = match self.clips.len().saturating_sub(3) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{} {what}{done}: {}{more}", count(self.clips.len(), "clip"), examples.join(", "))
    }
}

/// The checks, and how a number of clips that one found is told.
const CHECKS: [(&str, &str); 10] = [
    ("control_characters", "with control characters in the text"),
    ("invisible_characters", "with invisible characters in the text"),
    ("replacement_characters", "with lost letters (U+FFFD) in the text"),
    ("html", "with HTML in the text"),
    ("empty", "without a letter in the text"),
    ("script", "with a text in a script that its language is not written in"),
    ("letters_per_second", "with more text than can be spoken in the time"),
    ("two_texts", "with the same sound and different texts"),
    ("repeats", "with a text that its speaker has already said"),
    ("one_text", "all with the same text"),
];

impl TextChecks {
    /// Checks the text of one clip, and corrects it. Returns the reason why the clip is left out.
    pub(super) fn clip(&self, clip: &mut Clip, findings: &mut Findings) -> Option<String> {
        let mut reject = None;
        let text = clip.record.text.clone();
        let shown = clip.shown.clone();
        let mut note = |check, action, found: Option<String>, fixed: Option<String>, record: &mut String| {
            let Some(detail) = found.filter(|_| action != Keep) else { return };
            if action == Reject {
                reject.get_or_insert_with(|| format!("has a text {detail}"));
            } else if let (Fix, Some(fixed)) = (action, fixed) {
                *record = fixed;
            }
            findings.add(check, action, &shown, detail);
        };
        let current = &mut clip.record.text;
        let controls: String = text.chars().filter(|c| is_control(*c)).take(3).map(|c| format!(" U+{:04X}", c as u32)).collect();
        if !controls.is_empty() {
            let fixed = squeezed(current.chars().filter_map(|c| if c.is_whitespace() { Some(' ') } else { (!is_control(c)).then_some(c) }));
            note("control_characters", self.control_characters, Some(format!("with control characters:{controls}")), Some(fixed), current);
        }
        let invisible: Vec<char> = invisible(current);
        if !invisible.is_empty() {
            let names: String = invisible.iter().take(3).map(|c| format!(" U+{:04X}", *c as u32)).collect();
            let fixed = squeezed(without_invisible(current).chars());
            note("invisible_characters", self.invisible_characters, Some(format!("with invisible characters:{names}")), Some(fixed), current);
        }
        if let Some(markup) = markup(current) {
            let fixed = without_markup(current);
            note("html", self.html, Some(format!("with HTML: `{}`", excerpt(&markup))), Some(fixed), current);
        }
        let lost = text.contains('\u{fffd}').then(|| format!("with a lost letter (U+FFFD): `{}`", excerpt(&text)));
        note("replacement_characters", self.replacement_characters, lost, None, current);
        let empty = normalized(current).is_empty().then(|| format!("without a letter: `{}`", excerpt(current)));
        note("empty", self.empty, empty, None, current);
        let script = clip.record.language.as_deref().and_then(|language| foreign_script(current, language));
        note("script", self.script, script, None, current);
        reject
    }

    /// Checks the text of a clip against its sound. Returns the reason why the clip is left out.
    pub(super) fn rate(&self, clip: &Clip, sound: &Sound, findings: &mut Findings) -> Option<String> {
        let rate = sound.least_rate(&clip.record.text);
        if rate <= LIMITS.impossible.value || self.letters_per_second == Keep {
            return None;
        }
        let detail = format!("{rate:.0} letters a second");
        findings.add("letters_per_second", self.letters_per_second, &clip.shown, &detail);
        (self.letters_per_second == Reject).then(|| format!("has {detail}: text and sound do not belong together"))
    }

    /// Finds clips with the same samples and different texts. Returns the reason for each clip that is left out, by its index.
    pub(super) fn two_texts(&self, clips: &[(&Clip, &Sound)], findings: &mut Findings) -> BTreeMap<usize, String> {
        let mut same: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let digests: Vec<String> = clips.iter().map(|(_, sound)| sound.digest.to_string()).collect();
        for (at, digest) in digests.iter().enumerate() {
            same.entry(digest).or_default().push(at);
        }
        let mut rejected = BTreeMap::new();
        for members in same.values().filter(|members| members.len() > 1 && self.two_texts != Keep) {
            let texts: BTreeSet<String> = members.iter().map(|at| normalized(&clips[*at].0.record.text)).collect();
            if texts.len() < 2 {
                continue;
            }
            for at in members {
                let own = normalized(&clips[*at].0.record.text);
                let other = members.iter().map(|other| clips[*other].0).find(|other| normalized(&other.record.text) != own);
                let Some(other) = other else { continue };
                let detail = format!("`{}`, and {} `{}`", excerpt(&clips[*at].0.record.text), other.shown, excerpt(&other.record.text));
                findings.add("two_texts", self.two_texts, &clips[*at].0.shown, &detail);
                if self.two_texts == Reject {
                    rejected.insert(*at, format!("has the same sound as {}, which has another text: `{}`", other.shown, excerpt(&other.record.text)));
                }
            }
        }
        rejected
    }

    /// Finds texts that a speaker says more than once, and data with only one text. Returns the reasons for clips that are left out.
    pub(super) fn repeats(&self, clips: &[&Clip], findings: &mut Findings) -> BTreeMap<usize, String> {
        let mut said: BTreeMap<(&str, String), &str> = BTreeMap::new();
        let mut rejected = BTreeMap::new();
        let texts: Vec<String> = clips.iter().map(|clip| normalized(&clip.record.text)).collect();
        for (at, clip) in clips.iter().enumerate() {
            let Some(speaker) = clip.record.speaker.as_deref() else { continue };
            match said.entry((speaker, texts[at].clone())) {
                std::collections::btree_map::Entry::Vacant(first) => {
                    first.insert(&clip.shown);
                }
                std::collections::btree_map::Entry::Occupied(first) if self.repeats != Keep => {
                    findings.add("repeats", self.repeats, &clip.shown, format!("`{}`, as {}", excerpt(&clip.record.text), first.get()));
                    if self.repeats == Reject {
                        rejected.insert(at, format!("has the text of {}, by the same speaker", first.get()));
                    }
                }
                std::collections::btree_map::Entry::Occupied(_) => {}
            }
        }
        if self.one_text != Keep && clips.len() > 2 && texts.windows(2).all(|pair| pair[0] == pair[1]) {
            for clip in clips {
                findings.add("one_text", self.one_text, &clip.shown, format!("`{}`", excerpt(&clip.record.text)));
            }
        }
        rejected
    }
}

fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().filter(|c| !c.is_control()).take(40).collect();
    if short.len() < text.len() && text.chars().count() > 40 {
        short.push('…');
    }
    short
}

fn squeezed(characters: impl Iterator<Item = char>) -> String {
    characters.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_control(character: char) -> bool {
    character.is_control()
}

/// Whether a character has no width and is no part of the text.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
    )
}

/// Joiners are letters' forms in the scripts that join letters, and between emoji.
fn joins(before: Option<char>, joiner: char, after: Option<char>) -> bool {
    let written_with_joiners = |c: char| matches!(script(c), Some("Arabic" | "Devanagari" | "Bengali" | "Gurmukhi" | "Gujarati" | "Oriya" | "Tamil" | "Telugu" | "Kannada" | "Malayalam" | "Sinhala" | "Khmer" | "Burmese" | "Mongolian" | "Syriac")) || ('\u{900}'..='\u{dff}').contains(&c);
    matches!(joiner, '\u{200c}' | '\u{200d}') && [before, after].into_iter().flatten().any(written_with_joiners)
}

fn invisible(text: &str) -> Vec<char> {
    let characters: Vec<char> = text.chars().collect();
    let at = |at: usize| characters.get(at).copied();
    (0..characters.len())
        .filter(|&place| is_invisible(characters[place]) && !joins(place.checked_sub(1).and_then(at), characters[place], at(place + 1)))
        .map(|place| characters[place])
        .collect()
}

fn without_invisible(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let at = |at: usize| characters.get(at).copied();
    (0..characters.len())
        .filter(|&place| !is_invisible(characters[place]) || joins(place.checked_sub(1).and_then(at), characters[place], at(place + 1)))
        .map(|place| characters[place])
        .collect()
}

/// The first HTML tag or entity of a text.
fn markup(text: &str) -> Option<String> {
    let tag = text.match_indices('<').find_map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find('>')?;
        let inside = &rest[1..end];
        let name = inside.strip_prefix('/').unwrap_or(inside);
        (name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!') && !inside.contains('<')).then(|| rest[..=end].to_owned())
    });
    tag.or_else(|| text.match_indices('&').find_map(|(at, _)| entity(&text[at..]).map(|(whole, _)| whole.to_owned())))
}

/// The entity that a text begins with, and its character, if it is a common one.
fn entity(text: &str) -> Option<(&str, Option<char>)> {
    let end = text.find(';').filter(|end| (2..=10).contains(end))?;
    let name = &text[1..end];
    let whole = &text[..=end];
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => number.parse(),
        };
        return Some((whole, Some(char::from_u32(code.ok()?)?)));
    }
    let known = [
        ("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\''), ("nbsp", ' '), ("rsquo", '’'), ("lsquo", '‘'), ("rdquo", '”'),
        ("ldquo", '“'), ("hellip", '…'), ("ndash", '–'), ("mdash", '—'), ("auml", 'ä'), ("ouml", 'ö'), ("uuml", 'ü'), ("Auml", 'Ä'),
        ("Ouml", 'Ö'), ("Uuml", 'Ü'), ("szlig", 'ß'), ("eacute", 'é'), ("egrave", 'è'), ("agrave", 'à'), ("ccedil", 'ç'), ("ntilde", 'ñ'),
    ];
    let character = known.iter().find(|(known, _)| *known == name).map(|(_, character)| *character);
    (character.is_some() || name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some((whole, character))
}

fn without_markup(text: &str) -> String {
    let mut plain = text.to_owned();
    while let Some(found) = markup(&plain) {
        let place = plain.find(&found).unwrap_or(0);
        // What an entity stands for is text, even if it looks like a tag.
        let character = if found.starts_with('&') { entity(&found).and_then(|(_, character)| character) } else { Some(' ') };
        let character = character.filter(|character| !matches!(character, '<' | '&')).unwrap_or(' ');
        plain.replace_range(place..place + found.len(), &character.to_string());
    }
    squeezed(plain.chars())
}

/// The script of a letter; `None` for digits, punctuation and scripts that are not checked.
fn script(letter: char) -> Option<&'static str> {
    Some(match letter {
        'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}' => "Latin",
        '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}' => "Greek",
        '\u{400}'..='\u{52f}' => "Cyrillic",
        '\u{531}'..='\u{587}' => "Armenian",
        '\u{5d0}'..='\u{5f2}' => "Hebrew",
        '\u{620}'..='\u{6ff}' | '\u{750}'..='\u{77f}' => "Arabic",
        '\u{700}'..='\u{74f}' => "Syriac",
        '\u{900}'..='\u{97f}' => "Devanagari",
        '\u{980}'..='\u{9ff}' => "Bengali",
        '\u{a00}'..='\u{a7f}' => "Gurmukhi",
        '\u{a80}'..='\u{aff}' => "Gujarati",
        '\u{b00}'..='\u{b7f}' => "Oriya",
        '\u{b80}'..='\u{bff}' => "Tamil",
        '\u{c00}'..='\u{c7f}' => "Telugu",
        '\u{c80}'..='\u{cff}' => "Kannada",
        '\u{d00}'..='\u{d7f}' => "Malayalam",
        '\u{d80}'..='\u{dff}' => "Sinhala",
        '\u{e00}'..='\u{e7f}' => "Thai",
        '\u{e80}'..='\u{eff}' => "Lao",
        '\u{1000}'..='\u{109f}' => "Burmese",
        '\u{10a0}'..='\u{10ff}' => "Georgian",
        '\u{1200}'..='\u{139f}' => "Ethiopic",
        '\u{1780}'..='\u{17ff}' => "Khmer",
        '\u{1800}'..='\u{18af}' => "Mongolian",
        '\u{1100}'..='\u{11ff}' | '\u{ac00}'..='\u{d7af}' => "Hangul",
        '\u{3040}'..='\u{30ff}' => "Kana",
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' => "Han",
        _ => return None,
    })
}

/// Scripts that a language is written in; none if that is not known or it has several.
fn scripts(language: &str) -> &'static [&'static str] {
    match language {
        "en" | "de" | "fr" | "es" | "it" | "pt" | "nl" | "pl" | "sv" | "da" | "no" | "nb" | "nn" | "fi" | "cs" | "sk" | "sl" | "hr" | "hu"
        | "ro" | "et" | "lv" | "lt" | "ga" | "gd" | "cy" | "is" | "eu" | "ca" | "gl" | "mt" | "sq" | "tr" | "vi" | "id" | "ms" | "tl" | "sw"
        | "af" | "zu" | "xh" | "yo" | "ig" | "eo" | "lb" | "br" | "la" | "mi" | "haw" => &["Latin"],
        "ru" | "uk" | "bg" | "be" | "mk" | "ky" | "tg" => &["Cyrillic"],
        "el" => &["Greek"],
        "ar" | "fa" | "ur" | "ps" => &["Arabic"],
        "he" | "yi" => &["Hebrew"],
        "hi" | "mr" | "ne" | "sa" => &["Devanagari"],
        "bn" | "as" => &["Bengali"],
        "gu" => &["Gujarati"],
        "ta" => &["Tamil"],
        "te" => &["Telugu"],
        "kn" => &["Kannada"],
        "ml" => &["Malayalam"],
        "si" => &["Sinhala"],
        "th" => &["Thai"],
        "lo" => &["Lao"],
        "my" => &["Burmese"],
        "km" => &["Khmer"],
        "ka" => &["Georgian"],
        "hy" => &["Armenian"],
        "am" | "ti" => &["Ethiopic"],
        "ko" => &["Hangul", "Han"],
        "ja" => &["Kana", "Han"],
        "zh" | "yue" => &["Han"],
        _ => &[],
    }
}

/// Says that most letters of a text are of a script that the language is not written in.
fn foreign_script(text: &str, language: &str) -> Option<String> {
    let expected = scripts(language);
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for script in text.chars().filter_map(script) {
        *found.entry(script).or_default() += 1;
    }
    let all: usize = found.values().sum();
    let (main, number) = found.into_iter().filter(|(script, _)| !expected.contains(script)).max_by_key(|(_, number)| *number)?;
    // Names and terms of another script within a text are usual.
    (!expected.is_empty() && 2 * number > all).then(|| format!("in {main} letters, and the language `{language}`: `{}`", excerpt(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(text: &str, language: Option<&str>) -> Clip {
        let record = serde_json::from_value(json!({"audio_path": "a.wav", "text": text, "language": language})).unwrap();
        Clip { record, path: "a.wav".into(), key: "a".to_owned(), shown: "a.wav".to_owned() }
    }

    #[test]
    fn texts_that_nobody_speaks_are_corrected_or_left_out() {
        for (text, language, fixed, reason) in [
            ("a plain text, with “quotes” – and £5 & more; 3 < 4 > 2", "en", None, None),
            ("Schrödinger & Söhne; na ja", "de", None, None),
            ("a\u{7}b", "en", Some("ab"), None),
            ("one\ttwo\nthree\r\n", "en", Some("one two three"), None),
            ("hello\u{200b}world", "en", Some("helloworld"), None),
            ("\u{feff}\u{202e}hello\u{ad}", "en", Some("hello"), None),
            ("می\u{200c}خواهم", "fa", None, None),
            ("क्\u{200d}ष", "hi", None, None),
            ("<p>Hello &nbsp;</p>", "en", None, Some("has a text with HTML: `<p>`")),
            ("Tom &amp; Jerry", "en", None, Some("has a text with HTML: `&amp;`")),
            ("it&#39;s", "en", None, Some("has a text with HTML: `&#39;`")),
            ("caf\u{fffd}", "en", None, Some("has a text with a lost letter (U+FFFD): `caf\u{fffd}`")),
            ("?!...", "en", None, Some("has a text without a letter: `?!...`")),
            ("Привет, мир", "ru", None, None),
            ("The Москва river", "en", None, None),
            ("東京に行きます", "ja", None, None),
            ("3", "en", None, None),
        ] {
            let mut findings = Findings::default();
            let mut checked = clip(text, Some(language));
            let found = TextChecks::default().clip(&mut checked, &mut findings);
            assert_eq!(found.as_deref(), reason, "{text:?}");
            if reason.is_none() {
                assert_eq!(checked.record.text, fixed.unwrap_or(text), "{text:?}");
                assert_eq!(findings.lines().is_empty(), fixed.is_none(), "{text:?}: {findings:?}");
            }
        }
    }

    #[test]
    fn each_check_has_its_setting() {
        let rows = [
            ("control_characters", "a\u{7}b", "en"),
            ("invisible_characters", "a\u{200b}b", "en"),
            ("replacement_characters", "a\u{fffd}b", "en"),
            ("html", "<b>a</b> &lt;b&gt;", "en"),
            ("empty", "?!", "en"),
            ("script", "Привет", "en"),
        ];
        for (name, text, language) in rows {
            for action in ["fix", "warn", "reject", "keep"] {
                let checks: TextChecks = serde_json::from_value(json!({ name: action })).unwrap();
                let fixable = ["control_characters", "invisible_characters", "html"].contains(&name);
                assert_eq!(checks.check().is_empty(), fixable || action != "fix", "{name} {action}");
                let (mut findings, mut checked) = (Findings::default(), clip(text, Some(language)));
                let left_out = checks.clip(&mut checked, &mut findings).is_some();
                assert_eq!(left_out, action == "reject", "{name} {action}");
                assert_eq!(findings.0.contains_key(name), action != "keep", "{name} {action}");
                if fixable {
                    assert_eq!(checked.record.text == text, action != "fix", "{name} {action}: {}", checked.record.text);
                }
            }
        }
        assert_eq!(without_markup("<b>a</b> &lt;i&gt; &amp;lt; &euro; b"), "a i> lt; b");
        assert_eq!(without_markup("caf&eacute;&nbsp;au lait"), "café au lait");
    }
}
