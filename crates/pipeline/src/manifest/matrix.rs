//! `[matrix]`: settings to compare, and which outcome is the best.
//!
//! Axes are read from the tree of values, so that each value keeps its place; a combination is a choice of one value from every axis,
//! written into the tree like a `--set`. The first axis changes slowest.

use crate::manifest::diagnostic::{Diagnostic, did_you_mean, list};
use crate::manifest::include::{Tree, key_name};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// No sweep is larger.
const MOST: usize = 10_000;

/// A checked `[matrix]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepMatrix {
    /// The settings that vary, in the order of the file.
    pub axes: Vec<MatrixAxis>,
    /// One value of each, without what is excluded.
    pub combinations: Vec<SweepCombination>,
    /// What the outcomes are judged by.
    pub best: Option<BestCriterion>,
}

/// A setting that varies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixAxis {
    /// A param, or a path such as `stage.adapter.with.epochs`.
    pub key: String,
    /// What people call it: the end of the path, where that says which one is meant.
    pub name: String,
    /// Its values as they are written.
    pub values: Vec<String>,
}

/// One value of each axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepCombination(pub Vec<usize>);

/// `best = { metric = "scores.wer", direction = "min" }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestCriterion {
    /// The stage that measures.
    pub stage: String,
    /// Its number.
    pub metric: String,
    /// Whether more is better.
    pub most: bool,
}

impl SweepMatrix {
    /// `lr=1e-4, r=8`.
    pub fn words(&self, combination: &SweepCombination) -> String {
        let settings = self.settings(combination).into_iter().map(|(axis, value)| format!("{}={value}", axis.name));
        settings.collect::<Vec<_>>().join(", ")
    }

    /// Each axis with its value.
    pub fn settings<'a>(&'a self, combination: &SweepCombination) -> Vec<(&'a MatrixAxis, &'a str)> {
        let value = |(axis, choice): (&'a MatrixAxis, &usize)| Some((axis, axis.values.get(*choice)?.as_str()));
        self.axes.iter().zip(&combination.0).filter_map(value).collect()
    }
}

impl BestCriterion {
    /// Whether one value is better than another; what is no number is never better.
    pub fn prefers(&self, one: f64, other: f64) -> bool {
        if self.most { one > other } else { one < other }
    }
}

/// An axis with the places of its values.
pub(crate) struct AxisTable<'t> {
    pub(crate) key: Spanned<String>,
    pub(crate) values: Vec<Spanned<DeValue<'t>>>,
}

/// The axes as far as they have the right shape; what has not is told of where all shapes are.
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

/// Reads `[matrix]`, if there is one, and says what is wrong with it.
pub(crate) fn read(tree: &Tree<'_>, text: &str, found: &mut Vec<Diagnostic>) -> Option<SweepMatrix> {
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
    let best = best(tree.get_ref(), table, found);
    if found.len() > before || axes.is_empty() {
        return None;
    }
    let combinations = combinations(&axes, &excluded);
    match combinations {
        Err(count) => found.push(Diagnostic::error(span, format!("the matrix has {count} combinations; {MOST} are the most"))),
        Ok(combinations) if combinations.is_empty() => {
            let place = table.get("exclude").map_or(span, Spanned::span);
            found.push(Diagnostic::error(place, "every combination is excluded").hint("take an entry out"));
        }
        Ok(combinations) => {
            let keys: Vec<&str> = axes.iter().map(|axis| axis.key.get_ref().as_str()).collect();
            let named = |axis: &AxisTable<'_>| MatrixAxis {
                key: axis.key.get_ref().clone(),
                name: short(axis.key.get_ref(), &keys),
                values: axis.values.iter().map(|value| written(value, text)).collect(),
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
        found.push(empty.hint("name the values to compare, or take the axis out"));
    }
    for (index, value) in axis.values.iter().enumerate() {
        if let Some(first) = axis.values[..index].iter().find(|first| same(first.get_ref(), value.get_ref())) {
            let twice = Diagnostic::error(value.span(), format!("the axis `{}` has {} twice", axis.key.get_ref(), written(value, text)));
            found.push(twice.hint("remove one").related(first.span(), "here it stands first"));
        }
    }
}

/// The entries of `exclude`: for each, which value of which axis.
fn excluded(table: &DeTable<'_>, axes: &[AxisTable<'_>], text: &str, found: &mut Vec<Diagnostic>) -> Vec<Vec<(usize, usize)>> {
    let entries = table.get("exclude").and_then(|exclude| exclude.get_ref().as_array());
    let mut excluded = Vec::new();
    for entry in entries.into_iter().flat_map(|entries| entries.iter()) {
        let Some(settings) = entry.get_ref().as_table() else { continue };
        let mut wanted = Vec::new();
        for (key, value) in settings.iter() {
            let names = || axes.iter().map(|axis| axis.key.get_ref().as_str());
            let Some(axis) = axes.iter().position(|axis| axis.key.get_ref() == key.get_ref()) else {
                let unknown = Diagnostic::error(key.span(), format!("no axis is called `{}`", key.get_ref()));
                found.push(unknown.maybe_hint(did_you_mean(key.get_ref(), names())).note(format!("axes: {}", list(names()))));
                continue;
            };
            match axes[axis].values.iter().position(|one| same(one.get_ref(), value.get_ref())) {
                Some(place) => wanted.push((axis, place)),
                None => {
                    let values: Vec<String> = axes[axis].values.iter().map(|value| written(value, text)).collect();
                    let unknown = Diagnostic::error(value.span(), format!("the axis `{}` has no such value", key.get_ref()));
                    found.push(unknown.hint(format!("it has {}", values.join(", "))));
                }
            }
        }
        if settings.is_empty() {
            found.push(Diagnostic::error(entry.span(), "an entry of `exclude` without settings leaves nothing").hint("take it out"));
        }
        excluded.push(wanted);
    }
    excluded
}

fn best(tree: &DeTable<'_>, table: &DeTable<'_>, found: &mut Vec<Diagnostic>) -> Option<BestCriterion> {
    let best = table.get("best")?.get_ref().as_table()?;
    let metric = best.get("metric")?;
    let written = metric.get_ref().as_str()?;
    let stages: Vec<&str> = tree
        .get("stage")
        .and_then(|stages| stages.get_ref().as_table())
        .map(|stages| stages.keys().map(|key| key.get_ref().as_ref()).collect())
        .unwrap_or_default();
    let Some((stage, name)) = written.split_once('.').filter(|(stage, name)| !stage.is_empty() && !name.is_empty()) else {
        let wrong = Diagnostic::error(metric.span(), format!("\"{written}\" names no metric of a stage"));
        found.push(wrong.hint("write the stage and its number: \"scores.wer\""));
        return None;
    };
    if !stages.contains(&stage) {
        let unknown = Diagnostic::error(metric.span(), format!("no stage is called `{stage}`"));
        found.push(
            unknown.maybe_hint(did_you_mean(stage, stages.iter().copied())).note(format!("stages: {}", list(stages.iter().copied()))),
        );
    }
    let most = best.get("direction").and_then(|direction| direction.get_ref().as_str()) == Some("max");
    Some(BestCriterion { stage: stage.to_owned(), metric: name.to_owned(), most })
}

/// All combinations that no entry excludes; the number of all where they are too many.
fn combinations(axes: &[AxisTable<'_>], excluded: &[Vec<(usize, usize)>]) -> Result<Vec<SweepCombination>, usize> {
    let count = axes.iter().fold(1_usize, |count, axis| count.saturating_mul(axis.values.len()));
    if count > MOST {
        return Err(count);
    }
    let choice = |mut number: usize| {
        let mut choice = vec![0; axes.len()];
        for (place, axis) in choice.iter_mut().zip(axes).rev() {
            *place = number % axis.values.len();
            number /= axis.values.len();
        }
        choice
    };
    let out = |choice: &Vec<usize>| excluded.iter().any(|entry| entry.iter().all(|(axis, value)| choice[*axis] == *value));
    Ok((0..count).map(choice).filter(|choice| !out(choice)).map(SweepCombination).collect())
}

/// The end of a path that tells it from the others.
fn short(key: &str, keys: &[&str]) -> String {
    let tail = |key: &str| key.rsplit_once(".with.").map_or(key, |(_, tail)| tail).trim_start_matches("params.").to_owned();
    let own = tail(key);
    if keys.iter().filter(|other| tail(other) == own).count() == 1 { own } else { key.to_owned() }
}

/// A value as people read it.
fn written(value: &Spanned<DeValue<'_>>, text: &str) -> String {
    match value.get_ref() {
        DeValue::String(string) => string.to_string(),
        _ => text.get(value.span()).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// Whether two values are the same however they are written: `1e-4` and `0.0001`.
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
