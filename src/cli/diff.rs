//! `voxpipe diff A B`: compares two runs: settings, data (clip by clip) and metrics.
//!
//! A cache entry lists all inputs of a result, so settings, files and metrics need only the two logs and the cache entries. Clips are
//! compared row by row if both results are still in the cache.

use super::summary::{StageSummary, Summary, find};
use super::{Project, print, print_json};
use crate::error::Result;
use clap::Args;
use pipeline::artifact::ArtifactKind;
use pipeline::cache::content::{ContentDiff, FileTree};
use pipeline::cache::store::{CacheEntry, Store};
use pipeline::plan::why;
use pipeline::plan::why::Why;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use voxpipe_io::{jsonl, metrics};

/// Options of `voxpipe diff`.
#[derive(Args)]
pub(super) struct Diff {
    /// Older run: a run id, `latest` or `previous`
    #[arg(default_value = "previous")]
    a: String,
    /// Newer run: a run id, `latest` or `previous`
    #[arg(default_value = "latest")]
    b: String,
    #[command(flatten)]
    project: Project,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A stage compared between the two runs.
#[derive(Serialize)]
struct Both {
    stage: String,
    /// How it ended in each run; none where the run has no such stage.
    results: [Option<String>; 2],
    /// Whether the results are byte-identical; none if one of them is unknown.
    same: Option<bool>,
    /// Changed settings.
    settings: Vec<Why>,
    /// Changed source files.
    sources: Vec<Why>,
    /// Changed clips of its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    clips: Option<Clips>,
    /// Changed metrics, with the old and the new value.
    metrics: BTreeMap<String, [Option<Value>; 2]>,
}

/// Row counts and changed rows of two results.
#[derive(Serialize)]
struct Clips {
    before: usize,
    after: usize,
    #[serde(flatten)]
    changes: ContentDiff,
}

impl Diff {
    /// Prints the comparison.
    pub(super) fn print(&self) -> Result<()> {
        let store = Store::open_readonly(&self.project.root()?)?;
        let (a, b) = (Summary::of(&store, &find(&store, &self.a)?)?, Summary::of(&store, &find(&store, &self.b)?)?);
        let mut names: Vec<&str> = b.stages.iter().map(|stage| stage.stage.as_str()).collect();
        names.extend(a.stages.iter().map(|stage| stage.stage.as_str()).filter(|name| b.stage(name).is_none()));
        let stages: Vec<Both> = names.into_iter().map(|name| Both::of(&store, name, a.stage(name), b.stage(name))).collect();
        if self.json {
            let side = |summary: &Summary| json!({ "run": summary.run, "pipeline": summary.pipeline, "exit": summary.exit });
            return print_json(json!({ "a": side(&a), "b": side(&b), "stages": stages }));
        }
        print(&text(&a, &b, &stages))
    }
}

impl Both {
    fn of(store: &Store, name: &str, a: Option<&StageSummary>, b: Option<&StageSummary>) -> Self {
        let records = (a.and_then(|stage| stage.record(store)), b.and_then(|stage| stage.record(store)));
        let mut both = Self {
            stage: name.to_owned(),
            results: [a, b].map(|stage| stage.map(|stage| stage.result.clone())),
            same: None,
            settings: Vec::new(),
            sources: Vec::new(),
            clips: None,
            metrics: BTreeMap::new(),
        };
        let (Some(old), Some(new)) = records else { return both };
        both.same = Some(old.digest == new.digest);
        for reason in why::differences(&old.ingredients, &new.ingredients, |_, _| ContentDiff::default()) {
            match reason {
                // It follows from the changes of the upstream stage.
                Why::Input { .. } => {}
                Why::Source { .. } => both.sources.push(reason),
                _ => both.settings.push(reason),
            }
        }
        both.clips = clips(store, &old, &new);
        for number in old.metrics.keys().chain(new.metrics.keys()).collect::<BTreeSet<_>>() {
            let values = [&old, &new].map(|record| record.metrics.get(number).map(|value| metrics::number(*value)));
            if values[0] != values[1] {
                both.metrics.insert(number.clone(), values);
            }
        }
        both
    }
}

/// The added, removed and changed rows; none if there are none or the results cannot be compared.
fn clips(store: &Store, old: &CacheEntry, new: &CacheEntry) -> Option<Clips> {
    let file = match new.kind {
        _ if old.kind != new.kind || old.digest == new.digest => return None,
        ArtifactKind::Phrases => "phrases.jsonl",
        ArtifactKind::Clips => "clips.jsonl",
        ArtifactKind::Dataset => "data.jsonl",
        _ => return None,
    };
    let (before, after) = (rows(store, old, file)?, rows(store, new, file)?);
    let only_in = |a: &Rows, b: &Rows| a.keys().filter(|name| !b.contains_key(*name)).cloned().collect();
    let changed = before.iter().filter(|(name, row)| after.get(*name).is_some_and(|new| new != *row)).map(|(name, _)| name.clone());
    let changes = ContentDiff { added: only_in(&after, &before), removed: only_in(&before, &after), changed: changed.collect() };
    (!changes.is_empty()).then_some(Clips { before: before.len(), after: after.len(), changes })
}

/// Rows by name, each with the digest of its audio file.
type Rows = BTreeMap<String, Value>;

fn rows(store: &Store, record: &CacheEntry, file: &str) -> Option<Rows> {
    let tree = store.tree(record.digest)?;
    let rows = jsonl::read::<Map<String, Value>>(&store.artifact(record, "").path.join(file)).ok()?;
    Some(rows.into_iter().map(|(line, row)| named(line, row, &tree, file)).collect())
}

fn named(line: usize, mut row: Map<String, Value>, tree: &FileTree, file: &str) -> (String, Value) {
    let name = ["audio_path", "id"].iter().find_map(|key| row.get(*key)?.as_str().map(str::to_owned));
    let sound = name.as_ref().and_then(|path| tree.0.get(&Path::new(file).with_file_name(path).display().to_string()));
    if let Some(sound) = sound {
        row.insert("sound".to_owned(), json!(sound.digest));
    }
    (name.unwrap_or_else(|| format!("line {line}")), Value::Object(row))
}

fn text(a: &Summary, b: &Summary, stages: &[Both]) -> String {
    let of = if a.pipeline == b.pipeline { format!(" of {}", a.pipeline) } else { format!(": {} → {}", a.pipeline, b.pipeline) };
    let mut text = format!("{} → {}{of}\n", a.run, b.run);
    let mut part = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("{title}\n{}", lines.concat()));
        }
    };
    let width = stages.iter().map(|both| both.stage.chars().count()).max().unwrap_or(0);
    let line = |both: &Both, words: &str| format!("  {:width$}  {words}\n", both.stage);
    part("settings", stages.iter().flat_map(|both| both.settings.iter().map(|why| line(both, &why.to_string()))).collect());
    let data = |both: &Both| -> Vec<String> {
        let mut lines = Vec::new();
        for source in &both.sources {
            lines.push(line(both, &source.to_string()));
            if let Why::Source { changes, .. } = source {
                lines.extend(listed(changes));
            }
        }
        if let Some(Clips { before, after, changes }) = &both.clips {
            let count = if before == after { format!("{before} rows") } else { format!("{before} → {after} rows") };
            lines.push(line(both, &format!("{count}: {}", changes.sentence())));
            lines.extend(listed(changes));
        }
        lines
    };
    part("data", stages.iter().flat_map(data).collect());
    let shown = |value: &Option<Value>| match value {
        None => "none".to_owned(),
        Some(value) => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    };
    let numbers = |both: &Both| -> Vec<String> {
        both.metrics.iter().map(|(name, [old, new])| line(both, &format!("{name} {} → {}", shown(old), shown(new)))).collect()
    };
    part("metrics", stages.iter().flat_map(numbers).collect());
    let results = |both: &Both| {
        let words = match (&both.results, both.same) {
            (_, Some(true)) => return None,
            (_, Some(false)) => "different bytes".to_owned(),
            ([Some(old), Some(new)], None) if old == new => old.clone(),
            ([Some(old), Some(new)], None) => format!("{old} → {new}"),
            ([None, Some(new)], None) => format!("only in the second: {new}"),
            ([old, _], None) => format!("only in the first: {}", old.as_deref().unwrap_or_default()),
        };
        Some(line(both, &words))
    };
    part("results", stages.iter().filter_map(results).collect());
    let same: Vec<_> = stages.iter().filter(|both| both.same == Some(true)).map(|both| both.stage.as_str()).collect();
    if !same.is_empty() {
        text.push_str(&format!("identical results: {}\n", same.join(", ")));
    }
    text
}

/// Maximum number of names listed for each kind of change; `--json` lists all.
const MAX_NAMES: usize = 20;

fn listed(changes: &ContentDiff) -> Vec<String> {
    let mut lines = Vec::new();
    for (mark, names) in [("+", &changes.added), ("-", &changes.removed), ("~", &changes.changed)] {
        lines.extend(names.iter().take(MAX_NAMES).map(|name| format!("    {mark} {name}\n")));
        if names.len() > MAX_NAMES {
            lines.push(format!("    {mark} … and {} more\n", names.len() - MAX_NAMES));
        }
    }
    lines
}
