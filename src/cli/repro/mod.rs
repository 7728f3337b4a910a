//! `voxpipe repro RUN`: repeats a run in a fresh folder and checks that its results are byte-identical.
//!
//! The fresh folder has its own state. It gets the pipeline file as the run read it and only those project files that the run has read,
//! each verified against its recorded digest. A stage that depends on anything else fails or differs here.

mod published;

use super::provenance::Provenance;
use super::signals::listen;
use super::summary::find;
use super::{Project, note, print, print_json};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::lockfile::Lockfile;
use crate::report::terminal::{SummaryTarget, TerminalReporter};
use clap::Args;
use pipeline::cache::content::{Content, ContentDiff, FileContent, FileTree, SymlinkPolicy};
use pipeline::cache::fingerprint::SourceInput;
use pipeline::cache::stat_cache::StatCache;
use pipeline::cache::store::{CacheEntry, Store};
use pipeline::events::Event;
use pipeline::events::reporter::{Reporter, fan_out};
use pipeline::exit::Exit;
use pipeline::graph::{Pipeline, Step};
use pipeline::plan::why::Why;
use pipeline::plan::{absolute, why};
use pipeline::scheduler::{PipelineRun, StepOutcome};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use voxpipe_io::digest::Digest;
use voxpipe_io::metrics;

/// Options of `voxpipe repro`.
#[derive(Args)]
pub(super) struct Repro {
    /// Run id, `latest`, or a published repository: hf://OWNER/NAME[@REVISION], hf://datasets/OWNER/NAME
    #[arg(default_value = "latest")]
    run: String,
    /// Pipeline file of the project [default: pipeline.toml in this folder, or in the nearest folder above]
    file: Option<PathBuf>,
    /// Keep the fresh folder even if all results are identical
    #[arg(long)]
    keep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Outcome of a repeated stage.
#[derive(Serialize)]
struct Row {
    stage: String,
    /// `same`, `differs`, `failed` or `not repeated`.
    answer: &'static str,
    was: Option<Digest>,
    is: Option<Digest>,
    /// The differences in words, or the summary of the result.
    says: String,
    /// Changed files of the result.
    changes: ContentDiff,
    /// Changed inputs other than upstream results.
    reasons: Vec<Why>,
}

/// A stage of the run with the cache entry of its result.
struct Known {
    stage: String,
    record: CacheEntry,
}

/// Files of this size or larger are linked, not copied: their digest has just been verified, and stages do not write to sources.
const LINK_SIZE: u64 = 16 << 20;

impl Repro {
    /// Repeats the run and returns the exit code.
    pub(super) fn go(&self) -> Result<u8> {
        if let Some(name) = self.run.strip_prefix(published::SCHEME) {
            return self.published(name);
        }
        let store = Store::open_readonly(&Project::at(self.file.clone()).root()?)?;
        let id = find(&store, &self.run)?;
        let provenance = Provenance::read(&store, &id)?;
        if provenance.voxpipe != env!("CARGO_PKG_VERSION") {
            note(&format!("the run was made by voxpipe {}; this is {}", provenance.voxpipe, env!("CARGO_PKG_VERSION")));
        }
        let mut rows = Vec::new();
        let mut known = Vec::new();
        for stage in &provenance.stages {
            match stage.summary.record(&store) {
                Some(record) => known.push(Known { stage: stage.summary.stage.clone(), record }),
                None => rows.push(Row::without(&stage.summary.stage, format!("the run has no result of it: {}", stage.summary.result))),
            }
        }
        if known.is_empty() {
            return Err(Error::new(format!("nothing to compare with: run {id} has no results"))
                .kind(ErrorKind::InvalidInput)
                .hint("choose a run with finished stages; list runs with `voxpipe runs`"));
        }
        let place = absolute(&store.place_to_repeat(&id)?)?;
        let answer = self.repeat(&store, &provenance, &known, &place, rows);
        self.answer(&store, &place, &id, answer)
    }

    /// Prints the outcome, and removes the fresh folder unless it is needed for inspection. Returns the exit code.
    fn answer(&self, store: &Store, place: &Path, id: &str, answer: Result<(Exit, Vec<Row>)>) -> Result<u8> {
        let same = matches!(&answer, Ok((_, rows)) if rows.iter().all(|row| row.answer != "differs" && row.answer != "failed"));
        // If nothing ran, there is nothing to inspect.
        let ran = matches!(&answer, Ok((_, rows)) if rows.iter().any(|row| row.is.is_some() || row.answer == "failed"));
        let keep = self.keep || (ran && !same);
        if !keep {
            store.forget_repetition(place)?;
        }
        let (exit, rows) = answer?;
        let kept = keep.then(|| place.display().to_string());
        let compared = rows.iter().filter(|row| row.answer != "not repeated").count();
        if self.json {
            print_json(json!({ "run": id, "same": same, "stages": rows, "place": kept }))?;
        } else {
            print(&text(id, &rows, same, compared, kept.as_deref()))?;
        }
        Ok(match exit {
            Exit::Interrupted | Exit::Environment => exit,
            _ if same => Exit::Done,
            _ => Exit::Differs,
        } as u8)
    }

    fn repeat(
        &self,
        store: &Store,
        provenance: &Provenance,
        known: &[Known],
        place: &Path,
        mut rows: Vec<Row>,
    ) -> Result<(Exit, Vec<Row>)> {
        let order = |row: &Row| provenance.stages.iter().position(|stage| stage.summary.stage == row.stage);
        // Sources above the project root (`../…`) need folders above the fresh root.
        let up = known.iter().flat_map(|known| &known.record.ingredients.sources).map(|source| climbs(&source.path)).max().unwrap_or(0);
        let base = (0..up).fold(place.to_owned(), |base, _| base.join("up"));
        let (file, root) = (base.join(&provenance.file), base.join(&provenance.root));
        let lock = provenance.lock.iter().map(|text| (Lockfile::beside(&file), text));
        let included = provenance.included.iter().map(|(path, text)| (base.join(path), text));
        let texts = [(file.clone(), &provenance.text)].into_iter().chain(included).chain(lock);
        fs::create_dir_all(&root)
            .and_then(|()| {
                for (file, text) in texts {
                    file.parent().map_or(Ok(()), fs::create_dir_all)?;
                    fs::write(&file, text)?;
                }
                Ok(())
            })
            .with_context(|| format!("cannot write to `{}`", place.display()))?;
        let mut pipeline = pipeline(provenance, &file)?;
        if fs::canonicalize(&pipeline.root).ok() != fs::canonicalize(&root).ok() {
            let message = format!("the run used the absolute root `{}` and cannot be repeated elsewhere", pipeline.root.display());
            let hint = "write `[pipeline] root` relative to the pipeline file";
            return Err(Error::new(message).kind(ErrorKind::InvalidInput).hint(hint));
        }
        let changed = known.iter().filter_map(|known| copy_sources(store, known, provenance, &root).transpose());
        let changed: Vec<Row> = changed.collect::<Result<_>>()?;
        if !changed.is_empty() {
            // Sources have changed or are gone, so the outcome is known without running anything.
            let others = known.iter().filter(|known| !changed.iter().any(|row| row.stage == known.stage));
            rows.extend(others.map(|known| Row::without(&known.stage, "nothing was run".to_owned())));
            rows.extend(changed);
            rows.sort_by_key(order);
            return Ok((Exit::Differs, rows));
        }
        let mut repeated: BTreeSet<String> = BTreeSet::new();
        for step in &pipeline.steps {
            if !known.iter().any(|known| known.stage == step.name) {
                continue;
            }
            if let Some(outside) = outside(step) {
                rows.push(Row::without(&step.name, format!("it writes to `{}`, outside the project", outside.display())));
            } else if let Some(missing) = step.from.values().flatten().find(|name| !repeated.contains(*name)) {
                rows.push(Row::without(&step.name, format!("it needs `{missing}`, which was not repeated")));
            } else {
                repeated.insert(step.name.clone());
            }
        }
        // What is not repeated is kept beside: the settings of stages that were only waited for are part of what a publication records.
        let (steps, others) = pipeline.steps.into_iter().partition(|step| repeated.contains(&step.name));
        (pipeline.steps, pipeline.left_out) = (steps, others);
        let (report, fresh, made) = run(&pipeline, &provenance.force)?;
        for known in known.iter().filter(|known| repeated.contains(&known.stage)) {
            let ending = report.stages.iter().find(|(stage, _)| *stage == known.stage).map(|(_, ending)| ending);
            let now = made.get(&known.stage).and_then(|fingerprint| serde_json::from_value(fingerprint.clone().into()).ok());
            rows.push(match now.and_then(|fingerprint| fresh.record(fingerprint)) {
                Some(now) => Row::compared(store, &fresh, known, &now),
                None => Row { answer: "failed", was: Some(known.record.digest), ..Row::without(&known.stage, ended(ending)) },
            });
        }
        rows.sort_by_key(order);
        Ok((if report.exit == Exit::Interrupted as u8 { Exit::Interrupted } else { Exit::Done }, rows))
    }
}

/// Parses the pipeline as the run read it.
fn pipeline(provenance: &Provenance, file: &Path) -> Result<Pipeline> {
    let changes = super::Changes { set: provenance.set.clone(), profiles: provenance.profiles.clone(), ..super::Changes::default() };
    let (_, parsed) = Project::new(Some(file.to_owned()), changes).parse()?;
    parsed.pipeline.ok_or_else(|| {
        let first = parsed.diagnostics.iter().find(|diagnostic| diagnostic.is_error());
        let why = first.map_or_else(String::new, |diagnostic| format!(": {}", diagnostic.message));
        let names = provenance.env.iter().cloned().collect::<Vec<_>>().join(", ");
        let hint = if names.is_empty() {
            format!("repeat the run with voxpipe {}", provenance.voxpipe)
        } else {
            format!("the file uses environment variables; set them as they were: {names}")
        };
        Error::new(format!("the pipeline of run {} is no longer valid{why}", provenance.run)).kind(ErrorKind::InvalidInput).hint(hint)
    })
}

/// Fingerprint of each result, by stage.
type Made = BTreeMap<String, String>;

fn run(pipeline: &Pipeline, force: &[String]) -> Result<(pipeline::scheduler::RunReport, Store, Made)> {
    let stop = listen()?;
    let store = Store::open(&pipeline.root, "voxpipe repro")?;
    let id = store.begin_run()?;
    let made: Arc<Mutex<Made>> = Arc::default();
    let reporters: Vec<Box<dyn Reporter>> =
        vec![Box::new(TerminalReporter::new(SummaryTarget::Stderr)), Box::new(RunObserver(Arc::clone(&made)))];
    let force = force.iter().filter(|name| pipeline.step(name).is_some()).cloned().collect();
    let mut run = PipelineRun::new(pipeline, &store, fan_out(reporters), id);
    (run.force, run.stop) = (force, stop);
    let report = run.go();
    let made = std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((report, store, made))
}

/// Reporter that collects the fingerprints of the results.
struct RunObserver(Arc<Mutex<Made>>);

impl Reporter for RunObserver {
    fn report_event(&mut self, event: &Event) -> Result<(), Error> {
        if let Event::StageFinished { stage, kept, .. } | Event::StageFresh { stage, kept, .. } = event {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(stage.clone(), kept.fingerprint.clone());
        }
        Ok(())
    }
}

impl Row {
    fn without(stage: &str, says: String) -> Self {
        Self {
            stage: stage.to_owned(),
            answer: "not repeated",
            was: None,
            is: None,
            says,
            changes: ContentDiff::default(),
            reasons: Vec::new(),
        }
    }

    fn compared(store: &Store, fresh: &Store, known: &Known, now: &CacheEntry) -> Self {
        let was = &known.record;
        let trees = store.tree(was.digest).zip(fresh.tree(now.digest));
        let changes = trees.map(|(was, is)| was.changes(&is)).unwrap_or_default();
        let mut says = Vec::new();
        if was.digest != now.digest {
            says.push(if changes.is_empty() { "different bytes".to_owned() } else { changes.sentence() });
        }
        for (name, value) in &was.metrics {
            let is = now.metrics.get(name);
            if is.is_none_or(|is| is.to_bits() != value.to_bits() && is != value) {
                let now = is.map_or_else(|| "none".to_owned(), |is| metrics::text(*is));
                says.push(format!("{name} {} → {now}", metrics::text(*value)));
            }
        }
        let reasons: Vec<_> = why::differences(&was.ingredients, &now.ingredients, |_, _| ContentDiff::default())
            .into_iter()
            .filter(|reason| !matches!(reason, Why::Input { .. }))
            .collect();
        let answer = if says.is_empty() { "same" } else { "differs" };
        Self {
            stage: known.stage.clone(),
            answer,
            was: Some(was.digest),
            is: Some(now.digest),
            says: if says.is_empty() { was.summary.clone() } else { says.join("; ") },
            changes,
            reasons: if says.is_empty() { Vec::new() } else { reasons },
        }
    }
}

fn ended(ending: Option<&StepOutcome>) -> String {
    match ending {
        Some(StepOutcome::Failed { message, .. }) => message.clone(),
        Some(StepOutcome::Skipped { because, .. }) => because.clone(),
        Some(StepOutcome::Parked) => "it is parked now".to_owned(),
        Some(StepOutcome::Interrupted) => "it was interrupted".to_owned(),
        _ => "its result was discarded: its sources changed during the run".to_owned(),
    }
}

/// A path outside the fresh folder that a step would write to.
fn outside(step: &Step) -> Option<PathBuf> {
    step.stage.external_outputs().into_iter().find(|path| path.is_absolute() || path.components().any(|part| part == Component::ParentDir))
}

/// Number of `..` components in a path.
fn climbs(path: &str) -> usize {
    Path::new(path).components().filter(|part| *part == Component::ParentDir).count()
}

/// Copies the sources of a stage to the fresh folder. Returns a row if they have changed.
fn copy_sources(store: &Store, known: &Known, provenance: &Provenance, fresh: &Path) -> Result<Option<Row>> {
    let root = store.root().to_owned();
    let mut reasons = Vec::new();
    for SourceInput { path, content } in &known.record.ingredients.sources {
        let (from, to) = (root.join(path), (!Path::new(path).is_absolute()).then(|| fresh.join(path)));
        let mut changes = ContentDiff::default();
        match content {
            Content::Missing => {}
            Content::File(leaf) => {
                if let Err(how) = copy(&from, to.as_deref(), leaf, store.index())? {
                    how.note(path, &mut changes);
                }
            }
            Content::Folder(FileTree(files)) => {
                if let Some(to) = &to {
                    fs::create_dir_all(to).with_context(|| format!("cannot create `{}`", to.display()))?;
                }
                for (name, leaf) in files {
                    if let Err(how) = copy(&from.join(name), to.as_ref().map(|to| to.join(name)).as_deref(), leaf, store.index())? {
                        how.note(name, &mut changes);
                    }
                }
            }
        }
        if !changes.is_empty() {
            reasons.push(Why::Source { path: path.clone(), changes });
        }
    }
    Ok((!reasons.is_empty()).then(|| Row {
        answer: "differs",
        was: Some(known.record.digest),
        reasons: reasons.clone(),
        ..Row::without(&known.stage, format!("its sources have changed since run {}", provenance.run))
    }))
}

/// How a source file has changed.
enum SourceChange {
    Removed,
    Changed,
}

impl SourceChange {
    fn note(self, name: &str, changes: &mut ContentDiff) {
        match self {
            Self::Removed => changes.removed.push(name.to_owned()),
            Self::Changed => changes.changed.push(name.to_owned()),
        }
    }
}

/// Copies or links a source file after verifying its digest.
fn copy(from: &Path, to: Option<&Path>, leaf: &FileContent, index: &StatCache) -> Result<std::result::Result<(), SourceChange>> {
    match Content::read(from, index, SymlinkPolicy::Follow)? {
        Content::Missing => return Ok(Err(SourceChange::Removed)),
        Content::File(now) if now.digest == leaf.digest => {}
        _ => return Ok(Err(SourceChange::Changed)),
    }
    let Some(to) = to.filter(|to| !to.exists()) else { return Ok(Ok(())) };
    let copying = || format!("cannot copy `{}`", from.display());
    to.parent().map_or(Ok(()), fs::create_dir_all).with_context(copying)?;
    if leaf.size >= LINK_SIZE {
        std::os::unix::fs::symlink(absolute(from)?, to).with_context(copying)?;
    } else {
        fs::copy(from, to).with_context(copying)?;
    }
    Ok(Ok(()))
}

fn text(run: &str, rows: &[Row], same: bool, compared: usize, kept: Option<&str>) -> String {
    let width = rows.iter().map(|row| row.stage.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        text.push_str(format!("  {:width$}  {:<12}  {}", row.stage, row.answer, row.says).trim_end());
        text.push('\n');
        for line in super::why::reason_lines(&row.reasons).lines() {
            text.push_str(&format!("  {:width$}  {:<12}{line}\n", "", ""));
        }
    }
    let differ = rows.iter().filter(|row| matches!(row.answer, "differs" | "failed")).count();
    text.push_str(&if same {
        format!("yes: {} of run {run} reproduced byte for byte\n", super::project::plural(compared, "result"))
    } else {
        format!("no: {differ} of {} of run {run} not reproduced\n", super::project::plural(compared, "result"))
    });
    if let Some(place) = kept {
        text.push_str(&format!("the repeated run is in `{place}`\n"));
    }
    text
}
