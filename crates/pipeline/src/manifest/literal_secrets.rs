//! Finds literal secrets in the files and arguments of a pipeline: these texts are stored, shown and published.
//!
//! The texts are searched as they are written, so that comments, keys and what is never used count too; then the values, which escapes may
//! have hidden.

use crate::diagnostics::Diagnostic;
use crate::manifest::foreach::LaterWrite;
use crate::manifest::include::Tree;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use voxpipe_io::secrets::{find, find_all, is_secret_key};

const HINT: &str = "remove it, and set it as an environment variable";
const NOTE: &str =
    "a command gets the variable by `env = [\"NAME\"]`; voxpipe's own stages read `HF_TOKEN`. A token that was shared should be revoked";

/// Reports every literal secret. The diagnostics hide it.
pub(super) fn check(text: &str, tree: &Tree<'_>, later: &[LaterWrite<'_>]) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = find_all(text).into_iter().map(|secret| refused(secret.range, secret.what)).collect();
    table(tree.get_ref(), &mut found);
    for write in later {
        entry(write.key.get_ref(), write.key.span(), &write.value, &mut found);
    }
    found
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
    if let Some(text) = value.get_ref().as_str()
        && is_secret_key(key.rsplit('.').next().unwrap_or_default())
        && is_literal(text)
    {
        push(found, value.span(), "a secret, by the name of its key");
    }
    below(value, found);
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
