//! Removes secrets from texts: known values as they are, encoded, and everything that looks like a secret.
//!
//! Encoded forms are found by decoding the text, not by encoding the value: a program may escape any of its characters.

use super::{FoundSecret, REDACTED, find_all, is_secret_variable};
use std::ffi::OsString;
use std::ops::Range;
use std::sync::LazyLock;

/// Minimum length of a known value in bytes. Shorter ones are common words and numbers; redacting them would hide ordinary output.
const SHORTEST: usize = 6;
/// The shortest piece of a base64 text, wrapped over lines, that is recognized.
const SHORTEST_PIECE: usize = 12;

/// Removes the values of secret environment variables, and what looks like a secret.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    /// Known values, longest first.
    values: Vec<KnownSecret>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KnownSecret {
    text: String,
    /// Its base64 form after zero, one and two other bytes, without the characters at both ends that depend on other bytes.
    base64: [String; 3],
    hex: String,
}

impl Redactor {
    /// A redactor for the secrets of an environment; also returns the names of its secret variables.
    pub fn of(environment: impl Iterator<Item = (OsString, OsString)>) -> (Self, Vec<OsString>) {
        let mut redactor = Self::default();
        let mut names = Vec::new();
        for (name, value) in environment {
            if !is_secret_variable(&name, &value) {
                continue;
            }
            let value = value.to_string_lossy();
            redactor.add(&value);
            // A URL is known by its password too.
            find_all(&value).iter().for_each(|found| redactor.add(&value[found.range.clone()]));
            names.push(name);
        }
        redactor.sort();
        (redactor, names)
    }

    /// The redactor for the secrets of this process's environment, which is read once, and the names of its secret variables.
    pub fn of_environment() -> &'static (Self, Vec<OsString>) {
        static ENVIRONMENT: LazyLock<(Redactor, Vec<OsString>)> = LazyLock::new(|| Redactor::of(std::env::vars_os()));
        &ENVIRONMENT
    }

    /// Adds values that are secret whatever their names are.
    pub fn add_all(&mut self, values: impl Iterator<Item = OsString>) {
        values.for_each(|value| self.add(&value.to_string_lossy()));
        self.sort();
    }

    fn sort(&mut self) {
        self.values.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then(a.cmp(b)));
        self.values.dedup();
    }

    fn add(&mut self, value: &str) {
        let lines = value.lines().map(str::trim).filter(|line| line.len() >= SHORTEST);
        self.values.extend(lines.map(|line| KnownSecret {
            text: line.to_owned(),
            base64: [0, 1, 2].map(|before| base64_inside(line.as_bytes(), before)),
            hex: line.bytes().map(|byte| format!("{byte:02x}")).collect(),
        }));
    }

    /// The text with every secret replaced by `[redacted]`.
    pub fn redact(&self, text: &str) -> String {
        let mut hidden: Vec<Range<usize>> = find_all(text).into_iter().map(|FoundSecret { range, .. }| range).collect();
        if !self.values.is_empty() {
            self.known(text, &mut hidden);
        }
        if hidden.is_empty() {
            return text.to_owned();
        }
        hidden.sort_by_key(|range| (range.start, range.end));
        let mut redacted = String::with_capacity(text.len());
        let mut end = 0;
        for range in hidden {
            if range.start >= end {
                redacted.push_str(&text[end..range.start]);
                redacted.push_str(REDACTED);
            }
            end = end.max(range.end);
        }
        redacted.push_str(&text[end..]);
        redacted
    }

    /// The places of known values, in any form.
    fn known(&self, text: &str, hidden: &mut Vec<Range<usize>>) {
        for secret in &self.values {
            hidden.extend(text.match_indices(secret.text.as_str()).map(|(at, found)| at..at + found.len()));
        }
        for decoded in
            [text.contains('%').then(|| percent_decoded(text)), text.contains('\\').then(|| unescaped(text))].into_iter().flatten()
        {
            for secret in &self.values {
                let found = decoded.text.match_indices(secret.text.as_str());
                hidden.extend(found.map(|(at, found)| decoded.place(at..at + found.len())));
            }
        }
        for run in runs(text) {
            let written = &text[run.clone()];
            let plain: String = written
                .chars()
                .map(|c| match c {
                    '-' => '+',
                    '_' => '/',
                    c => c,
                })
                .collect();
            let bare = plain.trim_end_matches('=');
            let lower = written.to_ascii_lowercase();
            let is_secret = |secret: &KnownSecret| {
                secret.base64.iter().any(|form| plain.contains(form) || bare.len() >= SHORTEST_PIECE && form.contains(bare))
                    || lower.contains(&secret.hex)
            };
            if self.values.iter().any(is_secret) {
                hidden.push(run);
            }
        }
    }
}

/// The stretches of a text that may be base64 or hexadecimal, at least eight characters long.
fn runs(text: &str) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = None;
    for (at, byte) in text.bytes().chain([b' ']).enumerate() {
        let encoded = byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
        match (encoded, start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                start = None;
                if at - from >= 8 {
                    runs.push(from..at);
                }
            }
            _ => {}
        }
    }
    runs
}

/// The base64 characters that bytes determine wholly if `before` other bytes stand before them.
fn base64_inside(bytes: &[u8], before: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bit = |index: usize| bytes.get(index / 8).map_or(0, |byte| usize::from(byte >> (7 - index % 8) & 1));
    // The first multiple of six bits at or after the start of these bytes.
    let skipped = (6 - before * 8 % 6) % 6;
    let count = (bytes.len() * 8).saturating_sub(skipped) / 6;
    (0..count)
        .map(|index| (0..6).fold(0, |value, offset| value << 1 | bit(skipped + index * 6 + offset)))
        .map(|value| char::from(ALPHABET[value]))
        .collect()
}

/// A decoded text with the place that each of its bytes has in the original.
struct Decoded {
    text: String,
    places: Vec<Range<usize>>,
}

impl Decoded {
    fn place(&self, range: Range<usize>) -> Range<usize> {
        let start = self.places.get(range.start).map_or(0, |place| place.start);
        let end = range.end.checked_sub(1).and_then(|last| self.places.get(last)).map_or(start, |place| place.end);
        start..end
    }

    /// Text from bytes; each byte that is not UTF-8 becomes a `?`, so that places stay aligned.
    fn new(bytes: Vec<(u8, Range<usize>)>) -> Self {
        let (mut raw, places): (Vec<u8>, Vec<Range<usize>>) = bytes.into_iter().unzip();
        let mut start = 0;
        while let Err(error) = std::str::from_utf8(&raw[start..]) {
            let at = start + error.valid_up_to();
            raw[at] = b'?';
            start = at + 1;
        }
        Self { text: String::from_utf8(raw).unwrap_or_default(), places }
    }
}

/// Decodes `%2D`.
fn percent_decoded(text: &str) -> Decoded {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let value = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok())).flatten();
        let length = if value.is_some() { 3 } else { 1 };
        decoded.push((value.unwrap_or(bytes[at]), at..at + length));
        at += length;
    }
    Decoded::new(decoded)
}

/// Decodes the escapes of JSON and of shells: `\u002d`, `\x2d`, `\/`, `\"`.
fn unescaped(text: &str) -> Decoded {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let digits = |at: usize, count: usize| text.get(at..at + count).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    while at < bytes.len() {
        let next = if bytes[at] == b'\\' { bytes.get(at + 1) } else { None };
        let (character, length) = match next {
            Some(b'u') => (digits(at + 2, 4).and_then(char::from_u32), 6),
            Some(b'x') => (digits(at + 2, 2).and_then(char::from_u32), 4),
            Some(b't') => (Some('\t'), 2),
            Some(other) if other.is_ascii() => (Some(char::from(*other)), 2),
            _ => (None, 1),
        };
        match character {
            Some(character) => {
                let mut buffer = [0; 4];
                decoded.extend(character.encode_utf8(&mut buffer).bytes().map(|byte| (byte, at..at + length)));
                at += length;
            }
            None => {
                decoded.push((bytes[at], at..at + 1));
                at += 1;
            }
        }
    }
    Decoded::new(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(values: &[(&str, &str)]) -> (Redactor, Vec<OsString>) {
        Redactor::of(values.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn known_values_are_found_in_every_form() {
        let (redactor, names) =
            redactor(&[("API_KEY", "my-k\"ey/12é"), ("HOME", "/home/x"), ("DB_URL", "pg://me:hunter2@db"), ("A_PASS", "no")]);
        assert_eq!(names, ["API_KEY", "DB_URL", "A_PASS"]);
        for (text, clean) in [
            ("user:my-k\"ey/12é@host", "user:[redacted]@host"),
            ("x my%2Dk%22ey/12%C3%A9 y", "x [redacted] y"),
            ("x my%2dk\"ey%2F12é", "x [redacted]"),
            (r#"{"a":"my-k\"ey\/12\u00e9"}"#, r#"{"a":"[redacted]"}"#),
            (r"my\u002dk\x22ey/12\u00E9", "[redacted]"),
            ("the password is hunter2, no", "the password is [redacted], no"),
            ("/home/x 100% done \\ end", "/home/x 100% done \\ end"),
        ] {
            assert_eq!(redactor.redact(text), clean);
        }
    }

    #[test]
    fn base64_is_found_at_every_alignment_and_in_pieces() {
        let encode = |bytes: &[u8]| {
            let mut padded = bytes.to_vec();
            padded.resize(bytes.len().div_ceil(3) * 3, 0);
            let text = base64_inside(&padded, 0);
            let kept = (bytes.len() * 8).div_ceil(6);
            format!("{}{}", &text[..kept], "=".repeat(text.len() - kept))
        };
        assert_eq!(encode(b"Many hands"), "TWFueSBoYW5kcw==");
        let secret = "sEcret-Value_42?~ÿ";
        let (redactor, _) = redactor(&[("API_KEY", secret)]);
        for around in ["", "a", "ab", "user:"] {
            let text = format!("Basic {} end", encode(format!("{around}{secret}\n").as_bytes()));
            assert_eq!(redactor.redact(&text), "Basic [redacted] end", "{around}");
            let url = text.replace('+', "-").replace('/', "_");
            assert_eq!(redactor.redact(&url), "Basic [redacted] end");
        }
        assert_eq!(redactor.redact("734563726574 5345"), "734563726574 5345", "a piece of hexadecimal digits is left");
        assert_eq!(redactor.redact(&secret.bytes().map(|byte| format!("{byte:02X}")).collect::<String>()), "[redacted]");
        let long = "0123456789abcdefghijklmnopqrstuvwxyz".repeat(4);
        let (redactor, _) = self::redactor(&[("API_KEY", &long)]);
        for line in encode(long.as_bytes()).as_bytes().chunks(76) {
            assert_eq!(redactor.redact(std::str::from_utf8(line).unwrap()), "[redacted]");
        }
    }

    #[test]
    fn texts_without_secrets_stay() {
        let (redactor, _) = redactor(&[("API_KEY", "abcdefgh"), ("TOKENIZERS_PARALLELISM", "parallel")]);
        for text in ["", "plain", "{\"loss\": 0.5}", "%", "%zz", "\\", "\\u12", "ü%C3", "parallel abcdefg"] {
            assert_eq!(redactor.redact(text), text);
        }
        assert_eq!(redactor.redact("x hf_abcdefghijklmnopqrstuvwxyz01 abcdefgh"), "x [redacted] [redacted]");
    }
}
