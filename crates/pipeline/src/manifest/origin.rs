//! Provenance of configuration values: the file or command-line argument that set each value (like `git config --show-origin`).

use crate::manifest::include::ManifestSources;
use crate::manifest::overrides;
use crate::manifest::overrides::{Arguments, CommandLineOverrides};
use serde::Serialize;
use std::ops::Range;
use toml::de::{DeTable, DeValue};
use voxpipe_io::secrets::{is_secret_key, masked};

/// A value and where it was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ValueOrigin {
    /// Its dotted path: `stage.adapter.with.epochs`.
    pub key: String,
    /// The value as written.
    pub value: String,
    /// FILE:LINE:COLUMN, such as `defaults.toml:12:9`, or the command-line argument.
    pub place: String,
}

/// All values, sorted by path. Empty if a file is not valid TOML.
pub fn all(sources: &ManifestSources, overrides: &CommandLineOverrides) -> Vec<ValueOrigin> {
    let Ok(merged) = sources.tree() else { return Vec::new() };
    let mut tree = merged.tree;
    let mut arguments = Arguments::after(sources.text());
    let later = overrides::apply(&mut tree, overrides, &[], &mut arguments, &mut Vec::new());
    let mut found = Vec::new();
    let walk = Walk { sources, arguments: &arguments };
    walk.table(tree.get_ref(), "", &mut found);
    for write in later.iter().filter(|write| write.key.get_ref().contains('[')) {
        // Of two for the same key the later one holds.
        found.retain(|known| known.key != *write.key.get_ref());
        found.push(walk.origin(write.key.get_ref().clone(), write.value.span()));
    }
    found.sort_by(|one, other| one.key.cmp(&other.key));
    found
}

struct Walk<'a> {
    sources: &'a ManifestSources,
    arguments: &'a Arguments,
}

impl Walk<'_> {
    fn table(&self, table: &DeTable<'_>, name: &str, found: &mut Vec<ValueOrigin>) {
        for (key, value) in table.iter() {
            let key = if name.is_empty() { key.get_ref().to_string() } else { format!("{name}.{}", key.get_ref()) };
            match value.get_ref() {
                DeValue::Table(inner) if !inner.is_empty() => self.table(inner, &key, found),
                _ => found.push(self.origin(key, value.span())),
            }
        }
    }

    fn origin(&self, key: String, span: Range<usize>) -> ValueOrigin {
        let is_secret = is_secret_key(key.rsplit('.').next().unwrap_or_default());
        let shown = |text: &str| if is_secret { "***".to_owned() } else { masked(text) };
        let one_line = |text: &str| shown(&text.split_whitespace().collect::<Vec<_>>().join(" "));
        match self.arguments.find(&mut span.clone()) {
            Some(argument) => {
                let value = argument.split_once('=').map_or(argument.as_str(), |(_, value)| value);
                let place = argument.split_once('=').map_or_else(|| masked(&argument), |(name, value)| format!("{name}={}", shown(value)));
                ValueOrigin { value: one_line(value), key, place }
            }
            None => {
                let value = self.sources.text().get(span.clone()).map(one_line).unwrap_or_default();
                ValueOrigin { key, value, place: self.sources.name(span.start).unwrap_or_default() }
            }
        }
    }
}
