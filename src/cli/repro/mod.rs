//! `voxpipe repro RUN`: the same again in a fresh place, and an answer: yes or no.
//!
//! The fresh place is a folder with a state of its own. It gets the pipeline file as the run read it, and of the project only the files
//! that the run is known to have read, each held against the digest it had. So a stage that depends on anything else shows here.

mod published;

use super::provenance::Provenance;
use super::run::listen;
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

/// Which run to repeat.
#[derive(Args)]
pub(super) struct Repro {
    /// Its id; the newest if left out or `latest`; or what somebody published: hf://owner/name[@revision], hf://datasets/owner/name
    #[arg(default_value = "latest")]
    run: String,
    /// The pipeline file, by which the project is found
    #[arg(default_value = "pipeline.toml")]
    file: PathBuf,
    /// Keep the fresh place also when the answer is yes
    #[arg(long)]
    keep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What became of a stage the second time.
#[derive(Serialize)]
struct Row {
    stage: String,
    /// `same`, `differs`, `failed` or `not repeated`.
    answer: &'static str,
    was: Option<Digest>,
    is: Option<Digest>,
    /// What is different, in words.
    says: String,
    /// The files of the result that are different.
    changes: ContentDiff,
    /// What went in differently, beside the results of stages before it.
    reasons: Vec<Why>,
}

/// A stage of the run with what is known of its result.
struct Known {
    stage: String,
    record: CacheEntry,
}

/// Larger files are linked into the fresh place: they have just been held against their digest, and nothing there writes to them.
const LARGE: u64 = 16 << 20;

impl Repro {
    /// Repeats the run and gives the exit code.
    pub(super) fn go(&self) -> Result<u8> {
        if let Some(name) = self.run.strip_prefix(published::SCHEME) {
            return self.published(name);
        }
        let store = Store::look(&Project::of(self.file.clone()).root()?)?;
        let id = find(&store, &self.run)?;
        let provenance = Provenance::read(&store, &id)?;
        if provenance.voxpipe != env!("CARGO_PKG_VERSION") {
            note(&format!("the run was made by voxpipe {}, this is {}", provenance.voxpipe, env!("CARGO_PKG_VERSION")));
        }
        let mut rows = Vec::new();
        let mut known = Vec::new();
        for stage in &provenance.stages {
            match stage.told.record(&store) {
                Some(record) => known.push(Known { stage: stage.told.stage.clone(), record }),
                None => rows.push(Row::without(&stage.told.stage, format!("the run kept no result of it: {}", stage.told.result))),
            }
        }
        if known.is_empty() {
            return Err(Error::new(format!("there is nothing to compare with: run {id} kept no result"))
                .kind(ErrorKind::InvalidInput)
                .hint("name a run that has done something; `voxpipe runs` lists them"));
        }
        let place = absolute(&store.place_to_repeat(&id)?)?;
        let answer = self.repeat(&store, &provenance, &known, &place, rows);
        self.answer(&store, &place, &id, answer)
    }

    /// Says yes or no, and removes the fresh place if there is nothing to look at.
    fn answer(&self, store: &Store, place: &Path, id: &str, answer: Result<(Exit, Vec<Row>)>) -> Result<u8> {
        let same = matches!(&answer, Ok((_, rows)) if rows.iter().all(|row| row.answer != "differs" && row.answer != "failed"));
        // Where nothing ran there is nothing to look at.
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
        let order = |row: &Row| provenance.stages.iter().position(|stage| stage.told.stage == row.stage);
        // Files beside the project are found beside the fresh one.
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
            .with_context(|| format!("cannot fill `{}`", place.display()))?;
        let mut pipeline = pipeline(provenance, &file)?;
        if fs::canonicalize(&pipeline.root).ok() != fs::canonicalize(&root).ok() {
            return Err(Error::new(format!("the run had its root at `{}`, and nowhere else can it be repeated", pipeline.root.display()))
                .kind(ErrorKind::InvalidInput)
                .hint("write `[pipeline] root` relative to the file"));
        }
        let moved: Vec<Row> = known.iter().filter_map(|known| bring(store, known, provenance, &root).transpose()).collect::<Result<_>>()?;
        if !moved.is_empty() {
            // What was read is no longer there to be read: the answer is known without running anything.
            let others = known.iter().filter(|known| !moved.iter().any(|row| row.stage == known.stage));
            rows.extend(others.map(|known| Row::without(&known.stage, "nothing was run".to_owned())));
            rows.extend(moved);
            rows.sort_by_key(order);
            return Ok((Exit::Differs, rows));
        }
        let mut repeated: BTreeSet<String> = BTreeSet::new();
        for step in &pipeline.steps {
            if !known.iter().any(|known| known.stage == step.name) {
                continue;
            }
            if let Some(outside) = outside(step) {
                rows.push(Row::without(&step.name, format!("it writes to `{}`, outside of the project", outside.display())));
            } else if let Some(missing) = step.from.values().flatten().find(|name| !repeated.contains(*name)) {
                rows.push(Row::without(&step.name, format!("it needs `{missing}`, which was not repeated")));
            } else {
                repeated.insert(step.name.clone());
            }
        }
        pipeline.steps.retain(|step| repeated.contains(&step.name));
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

/// The pipeline as the run read it.
fn pipeline(provenance: &Provenance, file: &Path) -> Result<Pipeline> {
    let changes = super::Changes { set: provenance.set.clone(), profiles: provenance.profiles.clone(), ..super::Changes::default() };
    let (_, parsed) = Project { file: file.to_owned(), changes }.parse()?;
    parsed.pipeline.ok_or_else(|| {
        let first = parsed.diagnostics.iter().find(|diagnostic| diagnostic.is_error());
        let why = first.map_or_else(String::new, |diagnostic| format!(": {}", diagnostic.message));
        let names = provenance.env.iter().cloned().collect::<Vec<_>>().join(", ");
        let hint = if names.is_empty() {
            format!("repeat it with voxpipe {}", provenance.voxpipe)
        } else {
            format!("the file uses environment variables, which have to be as they were: {names}")
        };
        Error::new(format!("the pipeline of run {} cannot be read any more{why}", provenance.run)).kind(ErrorKind::InvalidInput).hint(hint)
    })
}

/// Fingerprints of the results by stage.
type Made = BTreeMap<String, String>;

fn run(pipeline: &Pipeline, force: &[String]) -> Result<(pipeline::scheduler::RunReport, Store, Made)> {
    let stop = listen()?;
    let store = Store::open(&pipeline.root, "voxpipe repro")?;
    let id = store.begin_run()?;
    let made: Arc<Mutex<Made>> = Arc::default();
    let reporters: Vec<Box<dyn Reporter>> =
        vec![Box::new(TerminalReporter::new(SummaryTarget::Stderr)), Box::new(Listener(Arc::clone(&made)))];
    let force = force.iter().filter(|name| pipeline.step(name).is_some()).cloned().collect();
    let mut run = PipelineRun::new(pipeline, &store, fan_out(reporters), id);
    (run.force, run.stop) = (force, stop);
    let report = run.go();
    let made = std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((report, store, made))
}

/// Hears which results there are.
struct Listener(Arc<Mutex<Made>>);

impl Reporter for Listener {
    fn tell(&mut self, event: &Event) -> Result<(), Error> {
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
            says.push(if changes.is_empty() { "other bytes".to_owned() } else { changes.sentence() });
        }
        for (name, value) in &was.metrics {
            let is = now.metrics.get(name);
            if is != Some(value) {
                says.push(format!("{name} {value} → {}", is.map_or_else(|| "none".to_owned(), f64::to_string)));
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
        Some(StepOutcome::Parked) => "it waits for a person now".to_owned(),
        Some(StepOutcome::Interrupted) => "it was interrupted".to_owned(),
        _ => "its result was not kept: what it read changed meanwhile".to_owned(),
    }
}

/// Where a step would write outside of the fresh place.
fn outside(step: &Step) -> Option<PathBuf> {
    step.stage.external_outputs().into_iter().find(|path| path.is_absolute() || path.components().any(|part| part == Component::ParentDir))
}

/// How many folders up a relative path leads.
fn climbs(path: &str) -> usize {
    Path::new(path).components().filter(|part| *part == Component::ParentDir).count()
}

/// Copies what a stage read into the fresh place; a row if it is not what it was.
fn bring(store: &Store, known: &Known, provenance: &Provenance, fresh: &Path) -> Result<Option<Row>> {
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
                    fs::create_dir_all(to).with_context(|| format!("cannot make `{}`", to.display()))?;
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
        ..Row::without(&known.stage, format!("what it read in run {} is not there any more", provenance.run))
    }))
}

/// How a file is not what it was.
enum Moved {
    Gone,
    Other,
}

impl Moved {
    fn note(self, name: &str, changes: &mut ContentDiff) {
        match self {
            Self::Gone => changes.removed.push(name.to_owned()),
            Self::Other => changes.changed.push(name.to_owned()),
        }
    }
}

fn copy(from: &Path, to: Option<&Path>, leaf: &FileContent, index: &StatCache) -> Result<std::result::Result<(), Moved>> {
    match Content::read(from, index, SymlinkPolicy::Follow)? {
        Content::Missing => return Ok(Err(Moved::Gone)),
        Content::File(now) if now.digest == leaf.digest => {}
        _ => return Ok(Err(Moved::Other)),
    }
    let Some(to) = to.filter(|to| !to.exists()) else { return Ok(Ok(())) };
    let copying = || format!("cannot copy `{}`", from.display());
    to.parent().map_or(Ok(()), fs::create_dir_all).with_context(copying)?;
    if leaf.size >= LARGE {
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
        for line in super::look::told(&row.reasons).lines() {
            text.push_str(&format!("  {:width$}  {:<12}{line}\n", "", ""));
        }
    }
    let differ = rows.iter().filter(|row| matches!(row.answer, "differs" | "failed")).count();
    text.push_str(&if same {
        format!("yes: {} of run {run} came out the same, byte for byte\n", super::project::plural(compared, "result"))
    } else {
        format!("no: {differ} of {} of run {run} did not come out the same\n", super::project::plural(compared, "result"))
    });
    if let Some(place) = kept {
        text.push_str(&format!("the repetition is in `{place}`\n"));
    }
    text
}
