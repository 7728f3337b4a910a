//! Diagnostics for `pipeline.toml`: message, source span and hint, rendered with carets like those of rustc.
//!
//! Diagnostics are collected, so that one run reports every mistake in the file. A span counts bytes of the text. Lines, columns
//! and carets are computed when a diagnostic is rendered, in terminal columns: a tab counts as four, a wide character as two, a
//! combining character as none.

pub mod toml_schema;

use serde::Serialize;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unicode_width::UnicodeWidthChar;
use voxpipe_io::secrets::masked;

/// An error or warning with its source span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in one lowercase sentence.
    pub message: String,
    /// The byte range it is about.
    pub span: Range<usize>,
    /// What to write instead; rendered next to the carets.
    pub hint: Option<String>,
    /// Related places in the text.
    pub related: Vec<RelatedPlace>,
    /// Notes without a place, such as the list of all keys.
    pub notes: Vec<String>,
    /// The command-line argument (`--set lr=5e-5`) that the span refers to; `None` for a file.
    pub argument: Option<String>,
    /// The included file that the span refers to; `None` for the main pipeline file.
    pub file: Option<Arc<IncludedFile>>,
    /// Whether the text at the span is a secret, which is not shown.
    pub secret: bool,
}

/// An included file.
#[derive(Debug, PartialEq, Eq)]
pub struct IncludedFile {
    /// Its path.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Severity of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The pipeline cannot be used.
    Error,
    /// The pipeline can be used, but may not do what its author intends.
    Warning,
}

/// A related place of a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelatedPlace {
    /// The byte range.
    pub span: Range<usize>,
    /// How it relates to the diagnostic.
    pub message: String,
    /// See [`Diagnostic::argument`].
    pub argument: Option<String>,
    /// See [`Diagnostic::file`].
    pub file: Option<Arc<IncludedFile>>,
}

impl Diagnostic {
    /// An error.
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span,
            hint: None,
            related: Vec::new(),
            notes: Vec::new(),
            argument: None,
            file: None,
            secret: false,
        }
    }

    /// A warning.
    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// Sets the hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the hint if there is one.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Adds a note.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds a related place.
    pub fn related(mut self, span: Range<usize>, message: impl Into<String>) -> Self {
        self.related.push(RelatedPlace { span, message: message.into(), argument: None, file: None });
        self
    }

    /// Hides the text at the span.
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Whether it is an error, not a warning.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Orders diagnostics by place (files before the command line), then by message, so that the order is deterministic.
    pub fn in_order(&self, other: &Self) -> Ordering {
        let key = |diagnostic: &Self| (diagnostic.argument.clone(), diagnostic.span.start, diagnostic.span.end, diagnostic.severity);
        key(self).cmp(&key(other)).then_with(|| self.message.cmp(&other.message))
    }

    /// Renders it for a terminal: message, source line and carets under the span. Ends with a newline.
    pub fn render(&self, file: &Path, text: &str, color: bool) -> String {
        let paint = Paint(color);
        let (word, style) = match self.severity {
            Severity::Error => ("error", RED),
            Severity::Warning => ("warning", YELLOW),
        };
        let mut out = String::new();
        let _ = writeln!(out, "{}: {}", paint.with(style, word), paint.with(BOLD, &printable(&self.message)));

        let spot = Spot::of(self.argument.as_deref(), self.file.as_deref(), file, text);
        let mut place = Place::of(&self.span, spot.text());
        if self.secret {
            place.hide();
        }
        let gutter = place.line.to_string().len();
        let bar = paint.with(BLUE, "|");
        let at = spot.name(&place);
        let _ = writeln!(out, "{:gutter$}{} {at}", "", paint.with(BLUE, "-->"));
        let _ = writeln!(out, "{:gutter$} {bar}", "");
        let _ = writeln!(out, "{} {bar} {}", paint.with(BLUE, &place.line.to_string()), place.drawn_line);
        let carets = "^".repeat(place.width);
        let hint = self.hint.as_deref().map(|hint| format!(" {}", printable(hint))).unwrap_or_default();
        let _ =
            writeln!(out, "{:gutter$} {bar} {:indent$}{}", "", "", paint.with(style, &format!("{carets}{hint}")), indent = place.indent);
        for related in &self.related {
            let spot = Spot::of(related.argument.as_deref(), related.file.as_deref(), file, text);
            let at = spot.name(&Place::of(&related.span, spot.text()));
            let _ = writeln!(out, "{:gutter$}{} {at}  {}", "", paint.with(BLUE, "-->"), printable(&related.message));
        }
        for note in &self.notes {
            let _ = writeln!(out, "{:gutter$} {} {}", "", paint.with(BLUE, "="), printable(note));
        }
        out
    }

    /// An argument of the command line without the secret in it.
    fn shown(&self, argument: &str) -> String {
        match argument.split_once('=') {
            Some((key, _)) if self.secret => format!("{key}=***"),
            _ => masked(argument),
        }
    }

    /// The diagnostic as JSON. Lines and columns (in characters) start at 1.
    pub fn to_json(&self, file: &Path, text: &str) -> Value {
        let place = |span: &Range<usize>, spot: &Spot<'_>| {
            let place = Place::of(span, spot.text());
            match spot {
                Spot::File(file, _) => json!({"file": file.to_string_lossy(), "line": place.line, "column": place.column,
                    "end_line": place.end_line, "end_column": place.end_column, "start": span.start, "end": span.end}),
                Spot::Argument(argument) => {
                    json!({"argument": self.shown(argument), "column": place.column, "end_column": place.end_column})
                }
            }
        };
        let spot = |argument, included| Spot::of(argument, included, file, text);
        let related: Vec<Value> = self
            .related
            .iter()
            .map(|related| {
                let spot = spot(related.argument.as_deref(), related.file.as_deref());
                json!({"message": related.message, "place": place(&related.span, &spot)})
            })
            .collect();
        let own = spot(self.argument.as_deref(), self.file.as_deref());
        json!({
            "severity": self.severity,
            "message": masked(&self.message),
            "hint": self.hint,
            "place": place(&self.span, &own),
            "related": related,
            "notes": self.notes,
        })
    }
}

/// The hint "did you mean `x`?" if one of the names is similar to `written`.
pub fn did_you_mean<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(written, names).map(|name| format!("did you mean `{name}`?"))
}

/// The most similar name by Damerau-Levenshtein distance, if any is similar enough.
pub fn closest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let written = plain(written);
    names
        .into_iter()
        .map(|name| {
            let candidate = plain(name);
            let extends =
                written.len() >= 3 && (candidate.starts_with(&written) || written.starts_with(&candidate) && candidate.len() >= 3);
            let distance = strsim::damerau_levenshtein(&written, &candidate);
            (if extends { distance.min(1) } else { distance }, name)
        })
        .filter(|(distance, name)| {
            *distance <= (name.chars().count().max(written.chars().count()) / 3).max(1) && *distance < written.len().max(1)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// "`a`, `b` and `c`".
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    join(names.into_iter().map(|name| format!("`{name}`")).collect(), "and")
}

/// "a, b or c".
pub fn join(mut words: Vec<String>, last_word: &str) -> String {
    match words.pop() {
        None => String::new(),
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} {last_word} {last}", words.join(", ")),
    }
}

/// A span as lines and columns.
struct Place {
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
    /// The first line as it is rendered.
    drawn_line: String,
    /// Terminal columns before the carets.
    indent: usize,
    /// Number of carets; at least one.
    width: usize,
}

impl Place {
    fn of(span: &Range<usize>, text: &str) -> Self {
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let end = text.floor_char_boundary(span.end.clamp(start, text.len()));
        let (line, line_start) = line_of(text, start);
        let (end_line, end_line_start) = line_of(text, end);
        let line_end = text[line_start..].find('\n').map_or(text.len(), |length| line_start + length);
        let full_line = text[line_start..line_end].trim_end_matches('\r');
        let before = text[line_start..start].trim_end_matches('\r');
        let under = &text[start..end.clamp(start, line_start + full_line.len().max(start - line_start)).min(text.len())];
        Self {
            line,
            column: before.chars().count() + 1,
            end_line,
            end_column: text[end_line_start..end].chars().count() + 1,
            drawn_line: drawn(&masked(full_line)),
            indent: width(before),
            width: width(under).max(1),
        }
    }
}

impl Place {
    /// Replaces what is over the carets by `*`.
    fn hide(&mut self) {
        let mut column = 0;
        let hidden = |character: char, column: &mut usize| {
            let at = *column;
            let width = character.width().unwrap_or(0);
            *column += width;
            if at >= self.indent && at < self.indent + self.width { "*".repeat(width) } else { character.to_string() }
        };
        self.drawn_line = self.drawn_line.chars().map(|character| hidden(character, &mut column)).collect();
    }
}

/// The line number of a byte, and the byte where that line starts.
fn line_of(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    (before.bytes().filter(|byte| *byte == b'\n').count() + 1, before.rfind('\n').map_or(0, |newline| newline + 1))
}

/// The text that a span refers to.
#[derive(Clone, Copy)]
enum Spot<'a> {
    File(&'a Path, &'a str),
    Argument(&'a str),
}

impl<'a> Spot<'a> {
    fn of(argument: Option<&'a str>, included: Option<&'a IncludedFile>, file: &'a Path, text: &'a str) -> Self {
        match (argument, included) {
            (Some(argument), _) => Self::Argument(argument),
            (None, Some(included)) => Self::File(&included.path, &included.text),
            (None, None) => Self::File(file, text),
        }
    }

    fn text(self) -> &'a str {
        match self {
            Self::File(_, text) | Self::Argument(text) => text,
        }
    }

    fn name(self, place: &Place) -> String {
        match self {
            Self::File(file, _) => format!("{}:{}:{}", file.display(), place.line, place.column),
            Self::Argument(_) => "the command line".to_owned(),
        }
    }
}

/// A line with tabs expanded and control characters replaced.
fn drawn(line: &str) -> String {
    line.chars().fold(String::new(), |mut out, character| {
        match character {
            '\t' => out.push_str("    "),
            control if control.is_control() => out.push('\u{fffd}'),
            character => out.push(character),
        }
        out
    })
}

/// The width of [`drawn`] text in terminal columns.
fn width(text: &str) -> usize {
    text.chars()
        .map(|character| match character {
            '\t' => 4,
            control if control.is_control() => 1,
            character => character.width().unwrap_or(0),
        })
        .sum()
}

/// A message with control characters replaced, because it may quote the file.
fn printable(message: &str) -> String {
    message.chars().map(|character| if character.is_control() && character != '\n' { '\u{fffd}' } else { character }).collect()
}

const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";
const BOLD: &str = "1";

struct Paint(bool);

impl Paint {
    fn with(&self, style: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use crate::diagnostics::*;

    fn shown(text: &str, span: Range<usize>) -> String {
        Diagnostic::error(span, "wrong").hint("why").render(Path::new("p.toml"), text, false)
    }

    fn spot(text: &str, what: &str) -> Range<usize> {
        let start = text.find(what).unwrap();
        start..start + what.len()
    }

    #[test]
    fn carets_mark_the_span() {
        let text = "a = 1\nepoch = 3\n";
        assert_eq!(shown(text, spot(text, "epoch")), "error: wrong\n --> p.toml:2:1\n  |\n2 | epoch = 3\n  | ^^^^^ why\n");
    }

    #[test]
    fn tabs_wide_characters_and_crlf_do_not_shift_them() {
        for (text, line, carets) in [
            ("\tepoch = 3\n", "1 |     epoch = 3", "  |     ^^^^^ why"),
            ("é = \"ü\", epoch = 3\n", "1 | é = \"ü\", epoch = 3", "  |          ^^^^^ why"),
            ("日本 = 1, epoch = 3", "1 | 日本 = 1, epoch = 3", "  |           ^^^^^ why"),
            ("e\u{301} = 1, epoch = 3", "1 | e\u{301} = 1, epoch = 3", "  |        ^^^^^ why"),
            ("a = 1\r\nepoch = 3\r\n", "2 | epoch = 3", "  | ^^^^^ why"),
        ] {
            let shown = shown(text, spot(text, "epoch"));
            let lines: Vec<&str> = shown.lines().collect();
            assert_eq!((lines[3], lines[4]), (line, carets), "{shown}");
        }
    }

    #[test]
    fn a_multiline_span_marks_its_first_line_and_any_span_is_rendered() {
        let text = "with = {\r\n  a = 1\r\n}\r\n";
        assert!(shown(text, 7..text.len()).contains("1 | with = {\n  |        ^ why\n"));
        for start in 0..text.len() + 3 {
            for end in 0..text.len() + 3 {
                shown(text, start..end);
                shown("é", start..end);
                shown("", start..end);
            }
        }
    }

    #[test]
    fn json_lines_and_columns_start_at_one() {
        let text = "a = 1\né = \"x\", epoch = 3";
        let json = Diagnostic::error(spot(text, "epoch"), "wrong").to_json(Path::new("p.toml"), text);
        assert_eq!((&json["place"]["line"], &json["place"]["column"], &json["place"]["end_column"]), (&json!(2), &json!(10), &json!(15)));
    }

    #[test]
    fn suggestions_are_similar_or_absent() {
        for (written, expected) in [
            ("epoch", Some("epochs")),
            ("evl", Some("eval")),
            ("Batch-Size", Some("batch_size")),
            ("batch", Some("batch_size")),
            ("zzz", None),
            ("x", None),
        ] {
            assert_eq!(closest(written, ["epochs", "eval", "batch_size"]), expected, "{written}");
        }
    }
}
