//! What may be the transcript of a row: a text that somebody can have said.

use crate::data::ingest::is_audio;
use crate::data::table::Cell;
use serde_json::Value;
use std::path::Path;

/// What programs write where there is no text.
const NOTHING: &[&str] = &["nan", "null", "none", "n/a", "#n/a", "na", "<na>", "nil", "undefined", "#ref!", "#value!", "#name?", "#div/0!"];
/// Languages in which `null` is a word: the number zero.
const NULL_IS_ZERO: &[&str] = &["de", "da", "et", "nb", "nn", "no"];

/// The transcript of a cell with its white space collapsed, or the reason why it is none.
pub fn transcript(cell: &Cell, language: Option<&str>) -> Result<String, String> {
    let text = match cell {
        Cell::Text(text) => text,
        Cell::Sound { .. } => return Err("its text is a sound".to_owned()),
        Cell::Json(value) => {
            let kind = match value {
                Value::Array(_) => "a list",
                Value::Object(_) => "an object",
                Value::Bool(_) => "true or false",
                Value::Number(_) => "a number",
                _ => "null",
            };
            return Err(format!("its text is {kind}, not a text: {}", shortened(&value.to_string())));
        }
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let no = |what: &str| Err(format!("its text is {what}: {}", shortened(&text)));
    let lower = text.to_lowercase();
    if NOTHING.contains(&lower.as_str())
        && !(lower == "null" && text != "NULL" && language.is_some_and(|language| NULL_IS_ZERO.contains(&language)))
    {
        return no("what stands for no value");
    }
    if !text.chars().any(char::is_alphanumeric) {
        return no("only punctuation");
    }
    if is_list(&text) {
        return no("a list or an object, not a text");
    }
    if is_time(&text) {
        return no("a time");
    }
    if !is_digits(&text) && text.replace(',', ".").parse::<f64>().is_ok() && text.starts_with(|first: char| !first.is_alphabetic()) {
        return no("a number");
    }
    if is_path(&text) {
        return no("a path");
    }
    Ok(text)
}

/// Whether a text has only digits: it can be said, but may as well be from a wrong column.
pub fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|character| character.is_ascii_digit() || character == ' ')
}

fn shortened(text: &str) -> String {
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("`{start}`")
}

/// A list or an object as JSON or as Python writes it. `[laughter]` is neither.
fn is_list(text: &str) -> bool {
    let between = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    let json = (between("[", "]") || between("{", "}")) && serde_json::from_str::<Value>(text).is_ok();
    json || between("['", "']") || between("{'", "}") || between("array(", ")")
}

/// `1:02`, `00:01:02.500` or `0:00:01,5`, or two of these.
fn is_time(text: &str) -> bool {
    let clock = |word: &str| {
        let parts: Vec<&str> = word.split(':').collect();
        let number = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ','));
        (2..=3).contains(&parts.len()) && parts.iter().all(number) && (parts.len() == 3 || word.contains(['.', ',']))
    };
    let mut words = text.split([' ', '\u{2013}']).filter(|word| !word.is_empty() && !matches!(*word, "-" | "-->")).peekable();
    words.peek().is_some() && words.all(clock)
}

fn is_path(text: &str) -> bool {
    let folders = text.contains(['/', '\\']);
    let rooted =
        text.starts_with('/') || text.starts_with("\\\\") || text.contains("://") || text.get(1..3).is_some_and(|two| two == ":\\");
    let one_word = !text.contains(' ');
    (one_word && rooted && folders) || (is_audio(Path::new(text)) && (folders || one_word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_nobody_can_say_is_refused_with_the_reason() {
        for (text, reason) in [
            ("nan", "no value"),
            ("NULL", "no value"),
            ("N/A", "no value"),
            ("?!...", "punctuation"),
            ("[\"a\", \"b\"]", "a list"),
            ("['a', 'b']", "a list"),
            ("{\"en\": \"x\"}", "an object"),
            ("00:01:02", "a time"),
            ("0:02.500 --> 0:04.000", "a time"),
            ("2.819", "a number"),
            ("-3", "a number"),
            ("/home/x/a.wav", "a path"),
            ("clips/a b.wav", "a path"),
            ("a.wav", "a path"),
            ("C:\\data\\x.txt", "a path"),
            ("https://example.org/a", "a path"),
        ] {
            let refused = transcript(&Cell::Text(text.to_owned()), None).expect_err(text);
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        for (value, reason) in [(json!(["a"]), "a list"), (json!({"en": "a"}), "an object"), (json!(42), "a number"), (json!(true), "true")]
        {
            let refused = transcript(&Cell::Json(value.clone()), None).expect_err("no text");
            assert!(refused.contains(reason), "{value}: {refused}");
        }
    }

    #[test]
    fn what_somebody_can_say_is_a_text() {
        for (text, read) in [
            ("1984", "1984"),
            ("3", "3"),
            (" Hello,\n world. ", "Hello, world."),
            ("[laughter]", "[laughter]"),
            ("10:30", "10:30"),
            ("Infinity", "Infinity"),
            ("none of it", "none of it"),
            ("日本", "日本"),
            ("and/or", "and/or"),
            ("I play a .wav file", "I play a .wav file"),
        ] {
            assert_eq!(transcript(&Cell::Text(text.to_owned()), None).as_deref(), Ok(read), "{text}");
        }
        assert!(
            transcript(&Cell::Text("null".to_owned()), Some("de")).is_ok() && transcript(&Cell::Text("null".to_owned()), None).is_err()
        );
    }
}
