//! `foreach`: a stage for each entry of a list or of a table, named `stage[de]`.
//!
//! The entries are read from the tree before it is checked against the schema, so that a mistake in the stage is reported once. Then each
//! entry gets a copy of the stage's table, in which `${each}` is filled in; in `with`, [`crate::manifest::interpolate`] does that.

use crate::diagnostics::{Diagnostic, closest, did_you_mean, list};
use crate::manifest::include::{Tree, key_name};
use crate::manifest::interpolate::{self, Interpolation, InterpolationTrail};
use schemars::JsonSchema;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The key of a stage's table.
pub(crate) const FOREACH: &str = "foreach";

/// The key that names an entry that is a table in a list.
const NAME: &str = "name";

/// The maximum number of entries of one stage.
const MAX_ENTRIES: usize = 10_000;

/// The maximum length of an entry's name, in bytes.
const MAX_NAME: usize = 100;

/// In place of an entry's name: all stages of a `foreach`.
const ALL: &str = "*";

/// `foreach`, as the schema describes it: it is read from the tree.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "stands for the schema of `foreach`")]
pub(crate) enum ForeachTable {
    /// A parameter that is a list or a table: "${params.NAME}".
    Reference(String),
    /// Names, numbers, or tables with a `name`.
    List(Vec<Value>),
    /// Tables of values, by name.
    Table(BTreeMap<String, Map<String, Value>>),
}

/// One entry of a `foreach`.
#[derive(Clone, Debug)]
pub struct ForeachEntry<'t> {
    /// The name in brackets.
    pub(crate) key: Spanned<String>,
    /// The value of `${each}`: an entry of a list as it is written, otherwise the name.
    value: Spanned<DeValue<'t>>,
    /// The values of `${each.NAME}`.
    fields: Option<DeTable<'t>>,
}

/// The stages with `foreach`.
#[derive(Debug, Default)]
pub struct ForeachStages<'t> {
    groups: BTreeMap<String, Vec<ForeachEntry<'t>>>,
    /// Stages whose `foreach` has a mistake.
    broken: BTreeSet<String>,
}

/// Splits `stage[key]` into `stage` and `key`; `None` if the text is not of this form.
pub fn split_name(name: &str) -> Option<(&str, &str)> {
    name.strip_suffix(']')?.split_once('[')
}

/// The name of a stage as it stands in the file: `stage` for `stage[key]`.
pub fn name_in_file(name: &str) -> &str {
    split_name(name).map_or(name, |(stage, _)| stage)
}

/// A hint for `stage[entry]` where the stage has other entries: a similar one, or the first of them.
pub fn suggest_entry<'a>(name: &str, entries: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    const SHOWN: usize = 12;
    let (stage, entry) = split_name(name)?;
    if let Some(similar) = closest(entry, entries.clone()) {
        return Some(format!("did you mean `{stage}[{similar}]`?"));
    }
    let more = entries.clone().count().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("`{stage}` is made for {}{more}", list(entries.take(SHOWN))))
}

/// Splits a dotted key at its dots, but not inside brackets: `stage.import[v1.5].with` has three parts.
pub(crate) fn split_key(key: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    key.split(|character| {
        match character {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == '.' && depth == 0
    })
    .collect()
}

impl<'t> ForeachEntry<'t> {
    /// The value of `${each}` or `${each.NAME}`.
    pub(crate) fn value(&self, reference: &str, place: Range<usize>) -> Result<&DeValue<'t>, Box<Diagnostic>> {
        let Some(path) = reference.strip_prefix("each.") else { return Ok(self.value.get_ref()) };
        let Some(fields) = &self.fields else {
            let message = format!("`${{{reference}}}`: the entries of `foreach` are no tables");
            return Err(Box::new(Diagnostic::error(place, message).hint("write `${each}`, or make each entry a table")));
        };
        if path == NAME && !fields.contains_key(NAME) {
            return Ok(self.value.get_ref());
        }
        let mut table = fields;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            let found = table.get(part).map(Spanned::get_ref);
            match (found, parts.peek()) {
                (Some(value), None) => return Ok(value),
                (Some(DeValue::Table(inner)), Some(_)) => table = inner,
                _ => {
                    let names = || table.keys().map(|key| key.get_ref().as_ref());
                    let message = format!("`${{{reference}}}`: the entry `{}` of `foreach` has no `{part}`", self.key.get_ref());
                    let known = format!("it has {}", list(names().chain([NAME]).collect::<BTreeSet<_>>()));
                    return Err(Box::new(Diagnostic::error(place, message).maybe_hint(did_you_mean(part, names())).note(known)));
                }
            }
        }
        Ok(self.value.get_ref())
    }
}

/// Takes every `foreach` out of the tree.
pub(crate) fn take<'t>(
    tree: &mut Tree<'t>,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    found: &mut Vec<Diagnostic>,
) -> ForeachStages<'t> {
    let mut all = ForeachStages::default();
    let has_any =
        |stages: &DeTable<'_>| stages.iter().any(|(_, stage)| stage.get_ref().as_table().is_some_and(|it| it.contains_key(FOREACH)));
    let Some(DeValue::Table(stages)) = tree.get_ref().get("stage").map(Spanned::get_ref) else { return all };
    let named: Vec<Spanned<String>> = stages.keys().filter(|name| split_name(name.get_ref()).is_some()).map(key_name).collect();
    let any = has_any(stages);
    for name in named {
        let (stage, _) = split_name(name.get_ref()).unwrap_or_default();
        let wrong = Diagnostic::error(name.span(), format!("`{}` cannot be the name of a stage", name.get_ref()));
        let hint = format!("write `[stage.{stage}]` with `foreach`; `--set` and profiles change single ones of its stages");
        found.push(wrong.hint(hint));
        if let Some(DeValue::Table(stages)) = tree.get_mut().get_mut("stage").map(Spanned::get_mut) {
            stages.remove(name.get_ref().as_str());
        }
    }
    if !any {
        return all;
    }
    let params = tree.get_ref().get("params").and_then(|params| params.get_ref().as_table()).cloned();
    let Some(DeValue::Table(stages)) = tree.get_mut().get_mut("stage").map(Spanned::get_mut) else { return all };
    for (name, stage) in stages.iter_mut() {
        let DeValue::Table(table) = stage.get_mut() else { continue };
        let Some((key, mut value)) = table.remove_entry(FOREACH) else { continue };
        let name = name.get_ref().to_string();
        let order = order_in_params(&value, params.as_ref());
        let mut trail = InterpolationTrail::default();
        Interpolation { text, params: params.as_ref(), env, ports: None, each: None }.value(&mut value, &mut trail);
        let before = found.len();
        found.append(&mut trail.found);
        let mut entries = if found.len() == before { entries(&key.span(), value, found) } else { Vec::new() };
        entries.sort_by_key(|entry| order.iter().position(|name| name == entry.key.get_ref()));
        if found.len() > before {
            all.broken.insert(name);
        } else {
            all.groups.insert(name, entries);
        }
    }
    all
}

/// The keys of a param that is a table, in the order of the file, for a `foreach` that is only a reference to it.
fn order_in_params(value: &Spanned<DeValue<'_>>, params: Option<&DeTable<'_>>) -> Vec<String> {
    let name = value.get_ref().as_str().and_then(|text| text.strip_prefix("${params.")?.strip_suffix('}'));
    let table = name.and_then(|name| params?.get(name)?.get_ref().as_table());
    let mut keys: Vec<Spanned<String>> = table.into_iter().flat_map(|table| table.keys()).map(key_name).collect();
    keys.sort_by_key(|key| key.span().start);
    keys.into_iter().map(Spanned::into_inner).collect()
}

/// The entries of a `foreach`. Reports mistakes.
fn entries<'t>(key: &Range<usize>, value: Spanned<DeValue<'t>>, found: &mut Vec<Diagnostic>) -> Vec<ForeachEntry<'t>> {
    let span = value.span();
    let entries: Vec<ForeachEntry<'t>> = match value.into_inner() {
        DeValue::Array(items) => items.into_iter().filter_map(|item| entry(item, found)).collect(),
        DeValue::Table(table) => {
            let mut entries = Vec::new();
            for (key, value) in table {
                let name = key_name(&key);
                let span = value.span();
                match value.into_inner() {
                    DeValue::Table(fields) => entries.push(ForeachEntry {
                        value: Spanned::new(name.span(), DeValue::String(Cow::Owned(name.get_ref().clone()))),
                        key: name,
                        fields: Some(fields),
                    }),
                    other => {
                        let what = crate::diagnostics::toml_schema::kind_of(&other);
                        let wrong =
                            Diagnostic::error(span, format!("the entry `{}` of `foreach` must be a table, not {what}", name.get_ref()));
                        found.push(wrong.hint(format!("write {} = {{ value = … }} and `${{each.value}}`", name.get_ref())));
                    }
                }
            }
            entries.sort_by_key(|entry| entry.key.span().start);
            entries
        }
        other => {
            let what = crate::diagnostics::toml_schema::kind_of(&other);
            let wrong = Diagnostic::error(span, format!("`foreach` must be a list or a table, not {what}"));
            found.push(wrong.hint("for example [\"de\", \"fr\"], or \"${params.languages}\" for a param that is a list"));
            return Vec::new();
        }
    };
    for (index, entry) in entries.iter().enumerate() {
        let name = entry.key.get_ref();
        let fine = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fine) {
            let wrong = Diagnostic::error(entry.key.span(), format!("`{name}` cannot be part of a stage's name"));
            let hint =
                format!("use letters, digits, `-`, `_` and `.`; an entry can have another name: {{ name = \"…\", text = \"{name}\" }}");
            found.push(wrong.hint(hint));
        }
        if let Some(first) = entries[..index].iter().find(|first| first.key.get_ref() == name) {
            let twice = Diagnostic::error(entry.key.span(), format!("`foreach` has `{name}` twice")).hint("remove one");
            found.push(twice.related(first.key.span(), "first listed here"));
        }
    }
    if entries.len() > MAX_ENTRIES {
        found.push(Diagnostic::error(key.clone(), format!("`foreach` has {} entries; the maximum is {MAX_ENTRIES}", entries.len())));
    }
    if entries.is_empty() && found.iter().all(|other| other.span.start < span.start || other.span.end > span.end) {
        found.push(Diagnostic::error(span, "`foreach` is empty").hint("list what the stage is made for, or remove `foreach`"));
    }
    entries
}

/// An entry of a list.
fn entry<'t>(item: Spanned<DeValue<'t>>, found: &mut Vec<Diagnostic>) -> Option<ForeachEntry<'t>> {
    let span = item.span();
    if let Some(text) = interpolate::to_text(item.get_ref()) {
        return Some(ForeachEntry { key: Spanned::new(span, text), value: item, fields: None });
    }
    let DeValue::Table(fields) = item.into_inner() else {
        found.push(Diagnostic::error(span, "an entry of `foreach` is a list").hint("write a name, a number, or a table with a `name`"));
        return None;
    };
    let Some(name) = fields.get(NAME) else {
        let wrong = Diagnostic::error(span, "an entry of `foreach` has no `name`");
        found.push(wrong.hint("the stage gets its name from it: { name = \"de\", … }"));
        return None;
    };
    let Some(text) = interpolate::to_text(name.get_ref()) else {
        let what = crate::diagnostics::toml_schema::kind_of(name.get_ref());
        found.push(Diagnostic::error(name.span(), format!("the `name` of an entry of `foreach` must be a string, not {what}")));
        return None;
    };
    let value = Spanned::new(name.span(), DeValue::String(Cow::Owned(text.clone())));
    Some(ForeachEntry { key: Spanned::new(name.span(), text), value, fields: Some(fields) })
}

impl<'t> ForeachStages<'t> {
    /// Whether no stage has a `foreach`.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.broken.is_empty()
    }

    /// Whether the `foreach` of this stage has a mistake.
    pub(crate) fn is_broken(&self, stage: &str) -> bool {
        self.broken.contains(name_in_file(stage))
    }

    /// The entries of a stage, if it has a `foreach`.
    pub(crate) fn entries(&self, stage: &str) -> Option<&[ForeachEntry<'t>]> {
        self.groups.get(stage).map(Vec::as_slice)
    }

    /// The names of the stages that one in the file stands for.
    pub(crate) fn names(&self, stage: &str) -> Vec<String> {
        match self.groups.get(stage) {
            Some(entries) => entries.iter().map(|entry| full_name(stage, entry)).collect(),
            None if self.broken.contains(stage) => Vec::new(),
            None => vec![stage.to_owned()],
        }
    }

    /// The entry of a stage that a `foreach` made, with its position.
    pub(crate) fn entry(&self, name: &str) -> Option<(usize, &ForeachEntry<'t>)> {
        let (stage, key) = split_name(name)?;
        self.groups.get(stage)?.iter().enumerate().find(|(_, entry)| entry.key.get_ref() == key)
    }

    /// What a name in `from` or `after` of the stage `of` stands for: one stage, all stages of a `foreach`, or the one of the same entry.
    /// `None` if there is no such stage.
    pub(crate) fn upstream(&self, written: &Spanned<String>, of: &str) -> Result<Option<Vec<Spanned<String>>>, Box<Diagnostic>> {
        let all = |entries: &[ForeachEntry<'t>], stage: &str| {
            Ok(Some(entries.iter().map(|entry| Spanned::new(written.span(), full_name(stage, entry))).collect()))
        };
        if self.is_broken(written.get_ref()) {
            return Ok(Some(Vec::new()));
        }
        if let Some((stage, ALL)) = split_name(written.get_ref()) {
            return self.groups.get(stage).map_or(Ok(None), |entries| all(entries, stage));
        }
        let stage = written.get_ref().as_str();
        let Some(entries) = self.groups.get(stage) else { return Ok(None) };
        let Some((_, own)) = self.entry(of) else { return all(entries, stage) };
        match entries.iter().find(|entry| entry.key.get_ref() == own.key.get_ref()) {
            Some(entry) => Ok(Some(vec![Spanned::new(written.span(), full_name(stage, entry))])),
            None => {
                let message = format!("`{of}` would take `{stage}[{}]`, which there is not", own.key.get_ref());
                let wrong = Diagnostic::error(written.span(), message);
                let hint = format!("give both the same `foreach`, or write `{stage}[{ALL}]` for all of them or `{stage}[NAME]` for one");
                Err(Box::new(wrong.hint(hint).note(format!("`{stage}` is made for {}", keys(entries)))))
            }
        }
    }

    /// A hint for a stage that there is not, if it is `stage[entry]` of a stage with `foreach`.
    pub(crate) fn suggest(&self, name: &str) -> Option<String> {
        let entries = self.groups.get(split_name(name)?.0)?;
        suggest_entry(name, entries.iter().map(|entry| entry.key.get_ref().as_str()))
    }

    /// Replaces each stage with a `foreach` by one stage per entry.
    pub(crate) fn expand(&self, tree: &mut Tree<'t>, text: &str, found: &mut Vec<Diagnostic>) {
        let Some(DeValue::Table(stages)) = tree.get_mut().get_mut("stage").map(Spanned::get_mut) else { return };
        for name in &self.broken {
            stages.remove(name.as_str());
        }
        for (name, entries) in &self.groups {
            let Some((key, stage)) = stages.remove_entry(name.as_str()) else { continue };
            for entry in entries {
                let mut stage = stage.clone();
                if let DeValue::Table(table) = stage.get_mut() {
                    for (key, value) in table.iter_mut() {
                        if !["with", "uses"].contains(&key.get_ref().as_ref()) {
                            fill(value, entry, text, found);
                        }
                    }
                }
                stages.insert(Spanned::new(key.span(), Cow::Owned(full_name(name, entry))), stage);
            }
        }
    }

    /// Writes the overrides of single stages, and those that come after them, to the stages made for the entries.
    pub(crate) fn write_later(&self, tree: &mut Tree<'t>, later: Vec<LaterWrite<'t>>, text: &str, found: &mut Vec<Diagnostic>) {
        for LaterWrite { key, value } in later {
            let path: Vec<&str> = split_key(key.get_ref());
            let Some((_, rest)) = path.split_first() else { continue };
            let Some((stage, rest)) = rest.split_first() else { continue };
            if self.is_broken(stage) {
                continue;
            }
            let names = if split_name(stage).is_some() { vec![(*stage).to_owned()] } else { self.names(stage) };
            for name in names {
                let Some((_, entry)) = self.entry(&name) else {
                    let unknown = Diagnostic::error(key.span(), format!("unknown stage `{name}`"));
                    found.push(unknown.maybe_hint(self.suggest(&name)));
                    continue;
                };
                let mut value = value.clone();
                if rest.first() != Some(&"with") {
                    fill(&mut value, entry, text, found);
                }
                let full: Vec<&str> = ["stage", name.as_str()].into_iter().chain(rest.iter().copied()).collect();
                super::overrides::write_at(tree, &key, &full, value, found);
            }
        }
    }

    /// A message without the name of the entry that it is about: the same mistake is reported once for all of them.
    pub(crate) fn without_entries(&self, message: &str) -> String {
        let mut plain = message.to_owned();
        for stage in self.groups.keys() {
            let start = format!("{stage}[");
            let mut from = 0;
            while let Some(at) = plain.get(from..).and_then(|rest| rest.find(&start)).map(|at| at + from + start.len()) {
                let Some(length) = plain.get(at..).and_then(|rest| rest.find(']')) else { break };
                plain.replace_range(at..at + length, ALL);
                from = at;
            }
        }
        plain
    }
}

/// A `--set` or a profile's value that is written once the stages of the entries are there.
#[derive(Clone, Debug)]
pub(crate) struct LaterWrite<'t> {
    pub(crate) key: Spanned<String>,
    pub(crate) value: Spanned<DeValue<'t>>,
}

fn full_name(stage: &str, entry: &ForeachEntry<'_>) -> String {
    format!("{stage}[{}]", entry.key.get_ref())
}

/// The names of entries, for a message; of many only the first.
fn keys(entries: &[ForeachEntry<'_>]) -> String {
    const SHOWN: usize = 12;
    let names = list(entries.iter().take(SHOWN).map(|entry| entry.key.get_ref().as_str()));
    if entries.len() > SHOWN { format!("{names} and {} more", entries.len() - SHOWN) } else { names }
}

/// Fills `${each}` in every string of a value; other references stay.
fn fill<'t>(value: &mut Spanned<DeValue<'t>>, entry: &ForeachEntry<'t>, text: &str, found: &mut Vec<Diagnostic>) {
    let span = value.span();
    match value.get_mut() {
        DeValue::Table(table) => table.iter_mut().for_each(|(_, value)| fill(value, entry, text, found)),
        DeValue::Array(array) => array.iter_mut().for_each(|item| fill(item, entry, text, found)),
        DeValue::String(written) if written.contains("${") => match interpolate::fill_each(written, &span, entry, text) {
            Ok(Some(new)) => *value.get_mut() = DeValue::String(Cow::Owned(new)),
            Ok(None) => {}
            Err(complaint) => found.push(*complaint),
        },
        _ => {}
    }
}
