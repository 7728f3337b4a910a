//! `[matrix]`: the grid of a parameter sweep, and how to select the best combination.
//!
//! Axes are read from the tree of TOML values, so that each value keeps its span. A combination takes one value of every axis and is
//! written into the tree like `--set` overrides. The first axis varies slowest.

use crate::diagnostics::{Diagnostic, did_you_mean, list};
use crate::manifest::foreach::{ForeachStages, split_key};
use crate::manifest::include::{Tree, key_name};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The maximum number of combinations.
const MAX_COMBINATIONS: usize = 10_000;

/// A validated `[matrix]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepMatrix {
    /// The varied settings, in file order.
    pub axes: Vec<MatrixAxis>,
    /// The combinations that are not excluded.
    pub combinations: Vec<SweepCombination>,
    /// How to select the best combination.
    pub best: Option<BestCriterion>,
}

/// A varied setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixAxis {
    /// A param name, or a dotted path such as `stage.adapter.with.epochs`.
    pub key: String,
    /// Display name: the end of the path if that is unique, or else the key.
    pub name: String,
    /// Its values as written in the file.
    pub values: Vec<String>,
    /// Where its key stands in the text of all files.
    pub place: Range<usize>,
}

/// A combination: the index of a value for each axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepCombination(pub Vec<usize>);

/// `best = { metric = "scores.wer", direction = "min" }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestCriterion {
    /// The stage whose result has the metric.
    pub stage: String,
    /// The name of the metric.
    pub metric: String,
    /// Whether a higher value is better.
    pub most: bool,
}

impl SweepMatrix {
    /// The combination as text: `lr=1e-4, r=8`.
    pub fn words(&self, combination: &SweepCombination) -> String {
        let settings = self.settings(combination).into_iter().map(|(axis, value)| format!("{}={value}", axis.name));
        settings.collect::<Vec<_>>().join(", ")
    }

    /// Each axis with its value in a combination.
    pub fn settings<'a>(&'a self, combination: &SweepCombination) -> Vec<(&'a MatrixAxis, &'a str)> {
        let value = |(axis, choice): (&'a MatrixAxis, &usize)| Some((axis, axis.values.get(*choice)?.as_str()));
        self.axes.iter().zip(&combination.0).filter_map(value).collect()
    }
}

impl BestCriterion {
    /// Whether `one` is better than `other`; what is not finite never is.
    pub fn prefers(&self, one: f64, other: f64) -> bool {
        one.is_finite() && if self.most { one > other } else { one < other }
    }
}

/// An axis with the spans of its values.
pub(crate) struct AxisTable<'t> {
    pub(crate) key: Spanned<String>,
    pub(crate) values: Vec<Spanned<DeValue<'t>>>,
}

/// The axes with the right TOML types; schema validation reports the others.
pub(crate) fn axes<'t>(tree: &DeTable<'t>) -> Vec<AxisTable<'t>> {
    let axes = matrix(tree).and_then(|(_, matrix)| matrix.get("axes")).and_then(|axes| axes.get_ref().as_table());
    let mut axes: Vec<AxisTable<'t>> = axes
        .into_iter()
        .flat_map(|axes| axes.iter())
        .filter_map(|(key, values)| Some(AxisTable { key: key_name(key), values: values.get_ref().as_array()?.iter().cloned().collect() }))
        .collect();
    axes.sort_by_key(|axis| axis.key.span().start);
    axes
}

/// Reads and validates `[matrix]`; `None` if it is missing or has errors.
pub(crate) fn read(tree: &Tree<'_>, foreach: &ForeachStages<'_>, text: &str, found: &mut Vec<Diagnostic>) -> Option<SweepMatrix> {
    let (span, table) = matrix(tree.get_ref())?;
    let axes = axes(tree.get_ref());
    let before = found.len();
    if axes.is_empty() && table.get("axes").is_none_or(|axes| axes.get_ref().as_table().is_some_and(DeTable::is_empty)) {
        let place = table.get("axes").map_or(span.clone(), Spanned::span);
        found.push(Diagnostic::error(place, "the matrix has no axes").hint("add `axes = { epochs = [1, 3] }`"));
    }
    for axis in &axes {
        check_axis(axis, text, found);
    }
    let excluded = excluded(table, &axes, text, found);
    let best = best(tree.get_ref(), foreach, table, found);
    if found.len() > before || axes.is_empty() {
        return None;
    }
    let combinations = combinations(&axes, &excluded);
    match combinations {
        Err(count) => {
            found.push(Diagnostic::error(span, format!("the matrix has {count} combinations; the maximum is {MAX_COMBINATIONS}")));
        }
        Ok(combinations) if combinations.is_empty() => {
            let place = table.get("exclude").map_or(span, Spanned::span);
            found.push(Diagnostic::error(place, "every combination is excluded").hint("remove an entry"));
        }
        Ok(combinations) => {
            let keys: Vec<&str> = axes.iter().map(|axis| axis.key.get_ref().as_str()).collect();
            let named = |axis: &AxisTable<'_>| MatrixAxis {
                key: axis.key.get_ref().clone(),
                name: short(axis.key.get_ref(), &keys),
                values: axis.values.iter().map(|value| written(value, text)).collect(),
                place: axis.key.span(),
            };
            return Some(SweepMatrix { axes: axes.iter().map(named).collect(), combinations, best });
        }
    }
    None
}

fn matrix<'a, 't>(tree: &'a DeTable<'t>) -> Option<(Range<usize>, &'a DeTable<'t>)> {
    let matrix = tree.get("matrix")?;
    Some((matrix.span(), matrix.get_ref().as_table()?))
}

fn check_axis(axis: &AxisTable<'_>, text: &str, found: &mut Vec<Diagnostic>) {
    if axis.values.is_empty() {
        let empty = Diagnostic::error(axis.key.span(), format!("the axis `{}` has no values", axis.key.get_ref()));
        found.push(empty.hint("list the values to compare, or remove the axis"));
    }
    for (index, value) in axis.values.iter().enumerate() {
        if let Some(first) = axis.values[..index].iter().find(|first| same(first.get_ref(), value.get_ref())) {
            let twice = Diagnostic::error(value.span(), format!("the axis `{}` lists {} twice", axis.key.get_ref(), written(value, text)));
            found.push(twice.hint("remove one").related(first.span(), "first listed here"));
        }
    }
}

/// The entries of `exclude`, each as pairs of axis index and value index.
fn excluded(table: &DeTable<'_>, axes: &[AxisTable<'_>], text: &str, found: &mut Vec<Diagnostic>) -> Vec<Vec<(usize, usize)>> {
    let entries = table.get("exclude").and_then(|exclude| exclude.get_ref().as_array());
    let mut excluded = Vec::new();
    for entry in entries.into_iter().flat_map(|entries| entries.iter()) {
        let Some(settings) = entry.get_ref().as_table() else { continue };
        let mut wanted = Vec::new();
        for (key, value) in settings.iter() {
            let names = || axes.iter().map(|axis| axis.key.get_ref().as_str());
            let Some(axis) = axes.iter().position(|axis| axis.key.get_ref() == key.get_ref()) else {
                let unknown = Diagnostic::error(key.span(), format!("unknown axis `{}`", key.get_ref()));
                found.push(unknown.maybe_hint(did_you_mean(key.get_ref(), names())).note(format!("axes: {}", list(names()))));
                continue;
            };
            match axes[axis].values.iter().position(|one| same(one.get_ref(), value.get_ref())) {
                Some(place) => wanted.push((axis, place)),
                None => {
                    let values: Vec<String> = axes[axis].values.iter().map(|value| written(value, text)).collect();
                    let unknown = Diagnostic::error(value.span(), format!("the axis `{}` has no such value", key.get_ref()));
                    found.push(unknown.hint(format!("its values are {}", values.join(", "))));
                }
            }
        }
        if settings.is_empty() {
            found.push(Diagnostic::error(entry.span(), "an empty entry of `exclude` excludes every combination").hint("remove it"));
        }
        excluded.push(wanted);
    }
    excluded
}

fn best(tree: &DeTable<'_>, foreach: &ForeachStages<'_>, table: &DeTable<'_>, found: &mut Vec<Diagnostic>) -> Option<BestCriterion> {
    let best = table.get("best")?.get_ref().as_table()?;
    let metric = best.get("metric")?;
    let written = metric.get_ref().as_str()?;
    let stages: Vec<String> = tree
        .get("stage")
        .and_then(|stages| stages.get_ref().as_table())
        .map(|stages| stages.keys().flat_map(|key| foreach.names(key.get_ref())).collect())
        .unwrap_or_default();
    let stage_length = split_key(written).first().map_or(0, |stage| stage.len());
    let parts = written.split_at_checked(stage_length).and_then(|(stage, rest)| Some((stage, rest.strip_prefix('.')?)));
    let Some((stage, name)) = parts.filter(|(stage, name)| !stage.is_empty() && !name.is_empty()) else {
        let wrong = Diagnostic::error(metric.span(), format!("\"{written}\" is not a metric of a stage"));
        found.push(wrong.hint("write STAGE.METRIC, such as \"scores.wer\""));
        return None;
    };
    let names = || stages.iter().map(String::as_str);
    if foreach.entries(stage).is_some() {
        let several = Diagnostic::error(metric.span(), format!("`{stage}` is one stage for each entry of its `foreach`"));
        let example = foreach.names(stage).into_iter().next().unwrap_or_default();
        found.push(several.hint(format!("name one of them, such as \"{example}.{name}\", or a stage that joins them")));
    } else if !foreach.is_broken(stage) && !names().any(|known| known == stage) {
        let unknown = Diagnostic::error(metric.span(), format!("unknown stage `{stage}`"));
        found.push(unknown.maybe_hint(did_you_mean(stage, names())).note(format!("stages: {}", list(names()))));
    }
    let higher_is_better = best.get("direction").and_then(|direction| direction.get_ref().as_str()) == Some("max");
    Some(BestCriterion { stage: stage.to_owned(), metric: name.to_owned(), most: higher_is_better })
}

/// All combinations that no entry excludes; an error with the total number if there are too many.
fn combinations(axes: &[AxisTable<'_>], excluded: &[Vec<(usize, usize)>]) -> Result<Vec<SweepCombination>, usize> {
    let count = axes.iter().fold(1_usize, |count, axis| count.saturating_mul(axis.values.len()));
    if count > MAX_COMBINATIONS {
        return Err(count);
    }
    // Mixed-radix digits of the number: one digit per axis, the last axis varies fastest.
    let choice = |mut number: usize| {
        let mut choice = vec![0; axes.len()];
        for (place, axis) in choice.iter_mut().zip(axes).rev() {
            *place = number % axis.values.len();
            number /= axis.values.len();
        }
        choice
    };
    let is_excluded = |choice: &Vec<usize>| excluded.iter().any(|entry| entry.iter().all(|(axis, value)| choice[*axis] == *value));
    Ok((0..count).map(choice).filter(|choice| !is_excluded(choice)).map(SweepCombination).collect())
}

/// The end of a key if no other key has the same, or else the whole key.
fn short(key: &str, keys: &[&str]) -> String {
    let tail = |key: &str| key.rsplit_once(".with.").map_or(key, |(_, tail)| tail).trim_start_matches("params.").to_owned();
    let own = tail(key);
    if keys.iter().filter(|other| tail(other) == own).count() == 1 { own } else { key.to_owned() }
}

/// A value as text for display.
fn written(value: &Spanned<DeValue<'_>>, text: &str) -> String {
    match value.get_ref() {
        DeValue::String(string) => string.to_string(),
        // What `--set` gave has a span behind the text of the file.
        other => match text.get(value.span()).filter(|written| !written.is_empty()) {
            Some(written) => written.split_whitespace().collect::<Vec<_>>().join(" "),
            None => toml_text(other),
        },
    }
}

/// A value as TOML text.
fn toml_text(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(string) => toml::Value::from(string.as_ref()).to_string(),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| toml_text(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            // A key as it is written if it needs no quotes; with quotes any key is right.
            let key = |key: &str| match key.chars().all(|one| one.is_ascii_alphanumeric() || one == '-' || one == '_') && !key.is_empty() {
                true => key.to_owned(),
                false => toml::Value::from(key).to_string(),
            };
            let fields: Vec<String> =
                table.iter().map(|(name, value)| format!("{} = {}", key(name.get_ref()), toml_text(value.get_ref()))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
    }
}

/// Whether two values are equal, however they are written: `1e-4` and `0.0001`.
fn same(one: &DeValue<'_>, other: &DeValue<'_>) -> bool {
    let number = |value: &DeValue<'_>| match value {
        DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix()).ok().map(|integer| integer as f64),
        DeValue::Float(float) => float.as_str().replace('_', "").parse::<f64>().ok(),
        _ => None,
    };
    match (one, other) {
        (DeValue::String(one), DeValue::String(other)) => one == other,
        (DeValue::Boolean(one), DeValue::Boolean(other)) => one == other,
        (DeValue::Datetime(one), DeValue::Datetime(other)) => one == other,
        (DeValue::Array(one), DeValue::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other.iter()).all(|(one, other)| same(one.get_ref(), other.get_ref()))
        }
        (DeValue::Table(one), DeValue::Table(other)) => {
            let in_other = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                other.get(key.as_ref()).is_some_and(|found| same(value.get_ref(), found.get_ref()))
            };
            one.len() == other.len() && one.iter().all(in_other)
        }
        _ => number(one).zip(number(other)).is_some_and(|(one, other)| one == other),
    }
}
