//! Overrides: profiles (`-p smoke`) and values from the command line (`--set lr=5e-5`).
//!
//! Overrides are written into the tree before validation, so that an overridden value is checked like any other. A value from the
//! command line has no span in the file. `Arguments` appends the arguments after the last byte of the file and gives their values
//! spans there; diagnostics with such spans are mapped back to their argument.

use crate::diagnostics::{Diagnostic, did_you_mean, list};
use crate::manifest::argument_value::WantedTypes;
use crate::manifest::foreach::{FOREACH, LaterWrite, name_in_file, split_key};
use crate::manifest::include::{Tree, key_name};
use crate::manifest::matrix;
use crate::manifest::matrix::SweepCombination;
use crate::stage::StageFactory;
use std::borrow::Cow;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Overrides from the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLineOverrides {
    /// `--set KEY=VALUE`, in the order given.
    pub set: Vec<(String, String)>,
    /// `-p NAME`, in the order given; later profiles override earlier ones.
    pub profiles: Vec<String>,
    /// The selected combination of `[matrix]`.
    pub combination: Option<SweepCombination>,
}

/// How the argument of a value begins.
const SET: &str = "--set ";

/// Command-line arguments, with spans that continue after the text of the file.
pub(crate) struct Arguments {
    /// Where the next argument starts. The first starts one byte after the end of the text, so that no span of the file reaches it.
    end: usize,
    written: Vec<(usize, String)>,
}

impl Arguments {
    pub(crate) fn after(text: &str) -> Self {
        Self { end: text.len() + 1, written: Vec::new() }
    }

    /// Appends an argument and returns where it starts.
    fn add(&mut self, argument: String) -> usize {
        let start = self.end;
        self.end += argument.len() + 1;
        self.written.push((start, argument));
        start
    }

    /// The key and the value of each `--set`, and where the value starts.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.written.iter().filter_map(|(start, argument)| {
            let (key, value) = argument.strip_prefix(SET)?.split_once('=')?;
            Some((key, value, start + SET.len() + key.len() + 1))
        })
    }

    /// Maps spans after the end of the file back to their argument.
    pub(crate) fn place(&self, diagnostic: &mut Diagnostic) {
        diagnostic.argument = self.find(&mut diagnostic.span);
        for related in &mut diagnostic.related {
            related.argument = self.find(&mut related.span);
        }
    }

    /// The argument that contains a span; makes the span relative to it.
    pub(crate) fn find(&self, span: &mut Range<usize>) -> Option<String> {
        let (start, argument) = self.written.iter().rev().find(|(start, _)| span.start >= *start)?;
        *span = span.start - start..span.end.saturating_sub(*start);
        Some(argument.clone())
    }
}

/// Writes profiles, then `--set` values, then the sweep combination into the tree. Profiles that are not selected are applied to a copy, to
/// report their mistakes.
///
/// Returns the overrides of single stages of a `foreach`, and what is to be written to all its stages after them: those stages are made later.
pub(crate) fn apply<'t>(
    tree: &mut Tree<'t>,
    overrides: &'t CommandLineOverrides,
    registry: &[&dyn StageFactory],
    arguments: &mut Arguments,
    found: &mut Vec<Diagnostic>,
) -> Vec<LaterWrite<'t>> {
    let mut later = Vec::new();
    let profiles = profiles(tree.get_ref());
    let mut chosen: Vec<String> = Vec::new();
    for name in &overrides.profiles {
        let start = arguments.add(format!("-p {name}"));
        let named = Spanned::new(start + 3..start + 3 + name.len(), name.clone());
        // A common ancestor is applied once; a second time it would undo the overrides of the profile before.
        let chain = chain(&profiles, &named, found).into_iter().filter(|ancestor| ancestor == name || !chosen.contains(ancestor));
        chosen.extend(chain.collect::<Vec<_>>());
    }
    for profile in &profiles {
        if !chosen.iter().any(|chosen| chosen == profile.name.get_ref()) {
            let mut copy = tree.clone();
            write_profile(&mut copy, profile, &mut Vec::new(), found);
            if let Some(parent) = &profile.extends {
                crate::manifest::overrides::chain(&profiles, parent, found);
            }
        }
    }
    for profile in chosen.iter().filter_map(|name| profiles.iter().find(|profile| profile.name.get_ref() == name)) {
        write_profile(tree, profile, &mut later, found);
    }
    for (key, value) in &overrides.set {
        let start = arguments.add(format!("{SET}{key}={value}"));
        let key_start = start + SET.len();
        let key_span = key_start..key_start + key.len();
        let wanted = WantedTypes::of(&path_of(key), tree.get_ref(), registry);
        match wanted.read(value, key_span.end + 1, key) {
            Ok(value) => write(tree, &Spanned::new(key_span, key.clone()), value, &mut later, found),
            Err(complaint) => found.push(*complaint),
        }
    }
    for (position, axis) in matrix::axes(tree.get_ref()).into_iter().enumerate() {
        let chosen = overrides.combination.as_ref().and_then(|combination| combination.0.get(position).copied());
        let mut values = axis.values.into_iter();
        match chosen {
            Some(choice) => values.nth(choice).into_iter().for_each(|value| write(tree, &axis.key, value, &mut later, found)),
            // Without a combination, a wrong key is still reported.
            None => values.next().into_iter().for_each(|value| write(&mut tree.clone(), &axis.key, value, &mut Vec::new(), found)),
        }
    }
    later
}

struct ProfileTable<'t> {
    name: Spanned<String>,
    set: Vec<(Spanned<String>, Spanned<DeValue<'t>>)>,
    extends: Option<Spanned<String>>,
}

fn profiles<'t>(tree: &DeTable<'t>) -> Vec<ProfileTable<'t>> {
    let Some(DeValue::Table(all)) = tree.get("profile").map(Spanned::get_ref) else { return Vec::new() };
    all.iter()
        .filter_map(|(key, value)| {
            let table = value.get_ref().as_table()?;
            let set = table.get("set").and_then(|set| set.get_ref().as_table());
            let mut set: Vec<_> = set.into_iter().flat_map(|set| set.iter()).map(|(key, value)| (key_name(key), value.clone())).collect();
            set.sort_by_key(|(key, _)| key.span().start);
            let extends = table.get("extends").and_then(|value| Some(Spanned::new(value.span(), value.get_ref().as_str()?.to_owned())));
            Some(ProfileTable { name: key_name(key), set, extends })
        })
        .collect()
}

/// The profile and its ancestors (`extends`), the most distant ancestor first.
fn chain(profiles: &[ProfileTable<'_>], name: &Spanned<String>, found: &mut Vec<Diagnostic>) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    let mut next = Some(name.clone());
    while let Some(name) = next {
        if chain.contains(name.get_ref()) {
            // The cycle may be entered at several profiles: report it once, starting at its alphabetically first name.
            let start = chain.iter().position(|other| other == name.get_ref()).unwrap_or(0);
            let cycle = &chain[start..];
            let first = cycle.iter().min().map_or(0, |least| cycle.iter().position(|name| name == least).unwrap_or(0));
            let mut ring: Vec<&str> = (0..=cycle.len()).map(|step| cycle[(first + step) % cycle.len()].as_str()).collect();
            let place = profiles.iter().find(|profile| profile.name.get_ref() == ring[0]).and_then(|profile| profile.extends.as_ref());
            if ring.len() == 2 {
                ring.truncate(1);
            }
            let message = match ring.as_slice() {
                [own] => format!("profile `{own}` extends itself"),
                ring => format!("profiles extend each other in a cycle: {}", ring.join(" → ")),
            };
            push_once(found, Diagnostic::error(place.map_or_else(|| name.span(), Spanned::span), message));
            break;
        }
        let Some(profile) = profiles.iter().find(|profile| profile.name.get_ref() == name.get_ref()) else {
            let names = || profiles.iter().map(|profile| profile.name.get_ref().as_str());
            let known = if profiles.is_empty() { "the file has no profiles".to_owned() } else { format!("profiles: {}", list(names())) };
            let unknown = Diagnostic::error(name.span(), format!("unknown profile `{}`", name.get_ref()));
            push_once(found, unknown.maybe_hint(did_you_mean(name.get_ref(), names())).note(known));
            break;
        };
        chain.push(name.get_ref().clone());
        next = profile.extends.clone();
    }
    chain.reverse();
    chain
}

fn push_once(found: &mut Vec<Diagnostic>, diagnostic: Diagnostic) {
    if !found.contains(&diagnostic) {
        found.push(diagnostic);
    }
}

fn write_profile<'t>(tree: &mut Tree<'t>, profile: &ProfileTable<'t>, later: &mut Vec<LaterWrite<'t>>, found: &mut Vec<Diagnostic>) {
    for (key, value) in &profile.set {
        write(tree, key, value.clone(), later, found);
    }
}

/// The path of a key from the top of the file. A single name is that of a param, `axes.NAME` an axis of the matrix.
fn path_of(key: &str) -> Vec<&str> {
    let axis = key.strip_prefix("matrix.").unwrap_or(key).strip_prefix("axes.").filter(|axis| !axis.is_empty());
    if let Some(axis) = axis {
        return vec!["matrix", "axes", axis.trim().trim_matches('"')];
    }
    let parts: Vec<&str> = split_key(key).into_iter().map(|part| part.trim().trim_matches('"')).collect();
    if parts.len() > 1 { parts } else { ["params"].into_iter().chain(parts).collect() }
}

/// Writes a value to its key: a param name, or a dotted path from the top of the file.
fn write<'t>(
    tree: &mut Tree<'t>,
    key: &Spanned<String>,
    value: Spanned<DeValue<'t>>,
    later: &mut Vec<LaterWrite<'t>>,
    found: &mut Vec<Diagnostic>,
) {
    let path = path_of(key.get_ref());
    if path.iter().any(|part| part.is_empty()) {
        let complaint = Diagnostic::error(key.span(), format!("`{}` is not a key", key.get_ref()));
        return found.push(complaint.hint("write a param's name, or a path such as `stage.adapter.with.epochs`"));
    }
    let family = path[0];
    if !["params", "stage", "pipeline", "matrix"].contains(&family) {
        let complaint = Diagnostic::error(key.span(), format!("`{}` cannot be set", key.get_ref()));
        return found.push(complaint.hint("write a param's name, or a path that starts with `stage.`, `params.`, `pipeline.` or `axes.`"));
    }
    // Overrides cannot create params or stages: an unknown name is a mistake.
    if ["params", "stage"].contains(&family) {
        let names: Vec<String> = tree
            .get_ref()
            .get(family)
            .and_then(|table| table.get_ref().as_table())
            .map(|table| table.keys().map(|key| key.get_ref().to_string()).collect())
            .unwrap_or_default();
        let named = if family == "stage" { name_in_file(path[1]) } else { path[1] };
        if !names.iter().any(|name| name == named) {
            let (what, plural) = if family == "stage" { ("stage", "stages") } else { ("param", "params") };
            let names = || names.iter().map(String::as_str);
            let known = if names().next().is_none() { format!("the file has no {plural}") } else { format!("{plural}: {}", list(names())) };
            let unknown = Diagnostic::error(key.span(), format!("unknown {what} `{}`", path[1]));
            return found.push(unknown.maybe_hint(did_you_mean(path[1], names())).note(known));
        }
        if family == "stage" && path.len() == 2 {
            let complaint = Diagnostic::error(key.span(), format!("`{}` is a whole stage", key.get_ref()));
            return found.push(complaint.hint(format!("name one of its settings: `{}.with.…`", key.get_ref())));
        }
        if family == "stage" {
            let table = tree.get_ref().get("stage").and_then(|stages| stages.get_ref().as_table()?.get(named)?.get_ref().as_table());
            let made_for_each = table.is_some_and(|table| table.contains_key(FOREACH));
            let is_single = named != path[1];
            if is_single && !made_for_each {
                let unknown = Diagnostic::error(key.span(), format!("unknown stage `{}`: `{named}` has no `foreach`", path[1]));
                return found.push(unknown.hint(format!("write `{}`", key.get_ref().replace(path[1], named))));
            }
            if made_for_each && (is_single || !later.is_empty()) && path[2] != FOREACH {
                later.push(LaterWrite { key: key.clone(), value: value.clone() });
            }
            if is_single {
                if path[2] == FOREACH {
                    found.push(Diagnostic::error(key.span(), format!("`{}` cannot be set: `foreach` belongs to `{named}`", key.get_ref())));
                }
                return;
            }
        }
    }
    write_at(tree, key, &path, value, found);
}

/// Writes a value to a path from the top of the file. Missing tables are created.
pub(crate) fn write_at<'t>(
    tree: &mut Tree<'t>,
    key: &Spanned<String>,
    path: &[&str],
    value: Spanned<DeValue<'t>>,
    found: &mut Vec<Diagnostic>,
) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut table = tree.get_mut();
    for (depth, part) in parents.iter().enumerate() {
        let entry = table
            .entry(Spanned::new(key.span(), Cow::Owned((*part).to_owned())))
            .or_insert_with(|| Spanned::new(key.span(), DeValue::Table(DeTable::new())));
        table = match entry.get_mut() {
            DeValue::Table(table) => table,
            other => {
                let so_far = path[..=depth].join(".");
                let complaint = format!(
                    "`{}` cannot be set: `{so_far}` is {}, not a table",
                    key.get_ref(),
                    crate::diagnostics::toml_schema::kind_of(other)
                );
                return found.push(Diagnostic::error(key.span(), complaint));
            }
        };
    }
    // An existing key keeps its span in the file; only the value is replaced.
    let at = table.remove_entry(*last).map_or_else(|| Spanned::new(key.span(), Cow::Owned((*last).to_owned())), |(key, _)| key);
    table.insert(at, value);
}
