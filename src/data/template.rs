//! Strict template rendering with minijinja: an undefined value is an error, never an empty string.

use crate::error::{Error, Result};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde::Serialize;

/// Renders a template. `name` is its name in messages; if it ends in `.html`, all values are escaped for HTML.
///
/// Additional filters: `yaml` (double-quoted YAML string), `md` (escapes Markdown), `percent` (0.1234 → 12.34), `fixed(n)` (n decimals)
/// and `thousands` (1234567 → 1 234 567).
pub fn render(name: &str, template: &str, values: impl Serialize) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.add_filter("yaml", |text: String| yaml(&text));
    environment.add_filter("md", |text: String| markdown(&text));
    environment.add_filter("percent", |share: f64| format!("{:.2}", share * 100.0));
    environment.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    environment.add_filter("thousands", thousands);
    let failed = |error: minijinja::Error| {
        let line = error.line().unwrap_or(1);
        let source = template.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim();
        let what = error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
        Error::new(format!("{name}:{line}: {what}, in `{source}`")).hint(match error.kind() {
            ErrorKind::UndefinedError => "the value is undefined: guard it with `{% if … is defined %}`, or remove it",
            _ => "correct the template",
        })
    };
    environment.add_template(name, template).map_err(failed)?;
    environment.get_template(name).map_err(failed)?.render(values).map_err(failed)
}

/// A double-quoted string that is valid YAML and JSON.
fn yaml(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\u{2028}' | '\u{2029}' | '\u{feff}' => quoted.push_str(&format!("\\u{:04x}", u32::from(character))),
            control if control.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(control))),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// A single-line text with Markdown and HTML escaped; safe in table cells.
fn markdown(text: &str) -> String {
    let mut plain = String::new();
    for character in text.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        match character {
            '<' => plain.push_str("&lt;"),
            '>' => plain.push_str("&gt;"),
            '&' => plain.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '$' => plain.extend(['\\', character]),
            other => plain.push(other),
        }
    }
    plain
}

/// Groups digits by a narrow no-break space.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn filters_escape_and_format() {
        assert_eq!(yaml("a: \"b\" \\ #c\n\u{85}"), r##""a: \"b\" \\ #c\n\u0085""##);
        assert_eq!(markdown("a|b\n<script> *x* [y](z)"), r"a\|b &lt;script&gt; \*x\* \[y\](z)");
        assert_eq!(thousands(1_234_567), "1\u{202f}234\u{202f}567");
    }

    #[test]
    fn an_undefined_value_is_an_error_with_its_line() {
        let error = render("card.md", "one\n{{ there }} {{ missing }}\n", json!({"there": 1})).unwrap_err();
        assert!(error.message.starts_with("card.md:2: ") && error.message.contains("{{ missing }}"), "{error}");
        assert!(render("card.md", "{% if x %}", json!({})).unwrap_err().message.starts_with("card.md:1: "));
        assert_eq!(render("a.html", "{{ x }}", json!({"x": "<b>"})).unwrap(), "&lt;b&gt;");
    }
}
