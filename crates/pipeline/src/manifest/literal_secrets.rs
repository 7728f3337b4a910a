//! Finds literal secrets in the files and arguments of a pipeline: these texts are stored, shown and published.
//!
//! The texts are searched as they are written, so that comments, keys and what is never used count too; then the values, which escapes may
//! have hidden.

use crate::diagnostics::Diagnostic;
use crate::manifest::foreach::LaterWrite;
use crate::manifest::include::Tree;
use crate::manifest::overrides::Arguments;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use voxpipe_io::secrets::{find, find_all, is_secret_key};

const BY_KEY: &str = "a secret, by the name of its key";
const HINT: &str = "remove it, and set it as an environment variable";
const NOTE: &str =
    "a command gets the variable by `env = [\"NAME\"]`; voxpipe's own stages read `HF_TOKEN`. A token that was shared should be revoked";

/// Reports every literal secret. The diagnostics hide it.
pub(super) fn check(text: &str, tree: &Tree<'_>, later: &[LaterWrite<'_>], arguments: &Arguments) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = find_all(text).into_iter().map(|secret| refused(secret.range, secret.what)).collect();
    table(tree.get_ref(), &mut found);
    for write in later {
        entry(write.key.get_ref(), write.key.span(), &write.value, &mut found);
    }
    // A value that was refused, such as that of an unknown key, is not in the tree, and the message about it would show it.
    for (key, value, start) in arguments.values() {
        argument(key, value, start, &mut found);
    }
    found
}

fn argument(key: &str, value: &str, start: usize, found: &mut Vec<Diagnostic>) {
    let place = start..start + value.len();
    let mut inside = Vec::new();
    inspect(value, place.clone(), &mut inside);
    match DeValue::parse(value) {
        Ok(value) if matches!(value.get_ref(), DeValue::Array(_) | DeValue::Table(_)) => entry(key, 0..0, &value, &mut inside),
        _ if names_secret(key) && is_literal(value) => inside.push(refused(place.clone(), BY_KEY)),
        _ => {}
    }
    if let Some(first) = inside.into_iter().next() {
        instead(found, Diagnostic { span: place, ..first });
    }
}

/// Adds a diagnostic instead of those of places inside its own: each hides only its own place, and shows the line around it.
fn instead(found: &mut Vec<Diagnostic>, told: Diagnostic) {
    found.retain(|other| other.span.start < told.span.start || told.span.end < other.span.end);
    found.push(told);
}

fn refused(span: Range<usize>, what: &str) -> Diagnostic {
    let message = format!("this looks like {what}; secrets are not allowed in a pipeline's files and arguments");
    Diagnostic::error(span, message).hint(HINT).note(NOTE).secret()
}

fn table(values: &DeTable<'_>, found: &mut Vec<Diagnostic>) {
    for (key, value) in values.iter() {
        entry(key.get_ref(), key.span(), value, found);
    }
}

fn entry(key: &str, place: Range<usize>, value: &Spanned<DeValue<'_>>, found: &mut Vec<Diagnostic>) {
    inspect(key, place, found);
    if !names_secret(key) || value.get_ref().is_table() {
        return below(value, found);
    }
    if has_literal(value.get_ref()) {
        instead(found, refused(value.span(), BY_KEY));
    }
}

/// Whether the last part of a key can only stand for a secret.
fn names_secret(key: &str) -> bool {
    is_secret_key(key.rsplit('.').next().unwrap_or_default())
}

/// Whether a value is a text that may be a secret, or a list with one.
fn has_literal(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::String(text) => is_literal(text),
        DeValue::Array(values) => values.iter().any(|value| has_literal(value.get_ref())),
        _ => false,
    }
}

fn below(value: &Spanned<DeValue<'_>>, found: &mut Vec<Diagnostic>) {
    match value.get_ref() {
        DeValue::Table(values) => table(values, found),
        DeValue::Array(values) => values.iter().for_each(|value| below(value, found)),
        DeValue::String(text) => inspect(text, value.span(), found),
        _ => {}
    }
}

fn inspect(text: &str, span: Range<usize>, found: &mut Vec<Diagnostic>) {
    if let Some(secret) = find(text) {
        push(found, span, secret.what);
    }
}

/// Adds a diagnostic, unless one of a place inside this one says the same.
fn push(found: &mut Vec<Diagnostic>, span: Range<usize>, what: &str) {
    if !found.iter().any(|other| span.start <= other.span.start && other.span.end <= span.end) {
        found.push(refused(span, what));
    }
}

/// Whether a text is more than a reference or a placeholder.
fn is_literal(text: &str) -> bool {
    let placeholder = text.starts_with('<') && text.ends_with('>');
    !text.trim().is_empty() && !text.contains("${") && !placeholder
}
