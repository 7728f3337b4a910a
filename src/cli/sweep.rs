//! `voxpipe sweep`: a hyperparameter sweep: one run for each combination of `[matrix]`, then the rest of the pipeline for the best one.
//!
//! Combinations share the cache: stages that do not depend on an axis run once, and an interrupted sweep continues where it stopped.
//! Parallel combinations share one resource pool, and a stage that two of them need runs once.

use super::axes::{ComparedCombination, idle_axes};
use super::project::plural;
use super::provenance::{Provenance, RunObserver};
use super::run::{Executor, wait_for_lock, write_provenance};
use super::signals::listen;
use super::summary::{Summary, is_active};
use super::{Project, note, print, print_json, trackio};
use crate::error::{Error, ErrorKind, Result};
use crate::report::terminal::{SummaryTarget, TerminalReporter};
use clap::Args;
use pipeline::cache::store::Store;
use pipeline::events::Event;
use pipeline::events::jsonl::{self, JsonLinesReporter};
use pipeline::events::reporter::{Reporter, fan_out};
use pipeline::executor::RemoteExecutor;
use pipeline::executor::leftover::LeftoverJob;
use pipeline::executor::slurm::SlurmBackend;
use pipeline::exit::Exit;
use pipeline::graph::{ExecutorKind, Pipeline, StageSelection};
use pipeline::manifest::include::ManifestSources;
use pipeline::manifest::matrix::{SweepCombination, SweepMatrix};
use pipeline::plan::{FreshnessCheck, Plan, StepState};
use pipeline::scheduler::{PipelineRun, ResourcePool, RunReport, SchedulerOptions, StepOutcome, StopSignal};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use voxpipe_io::metrics;

/// Options of `voxpipe sweep`.
#[derive(Args)]
pub(super) struct Sweep {
    #[command(flatten)]
    project: Project,
    /// After a failed combination, continue with the others
    #[arg(short, long)]
    keep_going: bool,
    /// Run at most N combinations and N stages in parallel [default: one combination, with `--executor slurm` all]
    #[arg(short, long, alias = "at-once", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Executor of stages whose `resources` do not set one
    #[arg(long, alias = "on", value_enum)]
    executor: Option<Executor>,
    /// Wait while this pipeline, or what needs the whole project, runs elsewhere
    #[arg(short, long)]
    wait: bool,
    /// Only list the combinations and their known results, without running anything
    #[arg(long)]
    list: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

/// A combination and its outcome.
struct Row {
    combination: SweepCombination,
    /// The pipeline of this combination, up to the stage that `best` judges by.
    part: Pipeline,
    result: Outcome,
    /// The id of its run; none if its results were up to date.
    run: Option<String>,
    exit: u8,
    /// The metrics of every stage with an up-to-date result.
    metrics: BTreeMap<String, BTreeMap<String, f64>>,
    /// What its newest run failed with.
    error: Option<String>,
}

/// Outcome of a combination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Its results were up to date.
    Fresh,
    Done,
    Gate,
    Failed,
    Parked,
    Interrupted,
    /// A run of it is going on.
    Running,
    /// It has not run yet.
    NotRun,
}

impl Outcome {
    const fn text(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Done => "done",
            Self::Gate => "gate",
            Self::Failed => "failed",
            Self::Parked => "parked",
            Self::Interrupted => "interrupted",
            Self::Running => "running",
            Self::NotRun => "not run",
        }
    }

    fn of_exit(exit: u8) -> Self {
        let outcomes =
            [(Exit::Done, Self::Done), (Exit::Gate, Self::Gate), (Exit::Parked, Self::Parked), (Exit::Interrupted, Self::Interrupted)];
        outcomes.into_iter().find(|(code, _)| *code as u8 == exit).map_or(Self::Failed, |(_, outcome)| outcome)
    }
}

impl Sweep {
    /// Runs the sweep and returns the exit code.
    pub(super) fn go(self) -> Result<u8> {
        let (sources, matrix, mut rows) = self.rows()?;
        let root = rows.first().map(|row| row.part.root.clone()).unwrap_or_default();
        if self.list {
            let store = Store::open_readonly(&root)?;
            rows.iter_mut().try_for_each(|row| update_row(row, &store))?;
            add_unsuccessful_runs(&self.project, &matrix, &mut rows, &store)?;
            let best = best(&matrix, &rows);
            self.print(&matrix, &rows, best, Exit::Done as u8)?;
            return Ok(Exit::Done as u8);
        }
        if !root.as_os_str().is_empty() && !root.is_dir() {
            return Err(Error::new(format!("project root `{}` is not a folder", root.display())).kind(ErrorKind::InvalidInput));
        }
        let stop = listen()?;
        let name = rows.first().map(|row| row.part.name.clone()).unwrap_or_default();
        let open = || Store::open_run(&root, &name, &format!("voxpipe sweep {}", self.project.file().display()));
        let mut store = match open() {
            Err(error) if self.wait && error.kind == ErrorKind::Locked => wait_for_lock(open, error, &stop)?,
            opened => opened?,
        };
        if let Some(row) = rows.first() {
            store = Project::share(store, &row.part)?;
        }
        let leftover = LeftoverJob::all(&store)?;
        let count = rows.len();
        let at_once = self.jobs.map_or(if self.executor == Some(Executor::Slurm) { count } else { 1 }, usize::from).min(count);
        let machines = rows.first().map(|row| row.part.machines.clone()).unwrap_or_default();
        let executing = SweepRun {
            sweep: &self,
            sources: &sources,
            matrix: &matrix,
            store: &store,
            stop,
            pool: Arc::new(ResourcePool::new(&machines, self.jobs.map(usize::from))),
            starting: Mutex::default(),
            parallel: at_once > 1,
        };
        executing.all(&mut rows, at_once)?;
        let complete = rows.iter().all(|row| !matches!(row.result, Outcome::NotRun | Outcome::Parked | Outcome::Interrupted));
        let may_choose = complete && (self.keep_going || !rows.iter().any(|row| row.result == Outcome::Failed));
        let best = best(&matrix, &rows).filter(|_| may_choose);
        let mut exit = exit(&rows, best.is_some());
        if exit == Exit::Done as u8 && best.is_none() && matrix.best.is_some() {
            exit = Exit::Gate as u8;
        }
        if let Some(best) = best {
            let title = format!("best of {count}: {}", matrix.words(&rows[best].combination));
            let parsed = self.project.parse_combination(&sources, Some(&rows[best].combination))?;
            if let Some(whole) = parsed.pipeline {
                let alone = SweepRun { parallel: false, ..executing };
                let report = alone.run(&rows[best].combination, &whole, 0, &title)?;
                exit = if report.exit == Exit::Done as u8 { exit } else { report.exit };
                rows[best].run = Some(report.run);
            }
        }
        if exit != Exit::Interrupted as u8 {
            cancel_leftover(&leftover, &rows);
        }
        self.print(&matrix, &rows, best, exit)?;
        Ok(exit)
    }

    /// Parses every combination as a pipeline of its own. Errors in any of them are reported before the first one runs.
    fn rows(&self) -> Result<(ManifestSources, SweepMatrix, Vec<Row>)> {
        let (sources, parsed) = self.project.parse()?;
        self.project.print_diagnostics(&sources, &parsed.diagnostics);
        let mut printed = parsed.diagnostics;
        let usage = |message: String| Error::new(message).kind(ErrorKind::InvalidInput);
        let nothing = |errors: usize| usage(format!("{} in `{}`; nothing was run", plural(errors, "error"), self.project.file().display()));
        let errors = printed.iter().filter(|diagnostic| diagnostic.is_error()).count();
        if parsed.pipeline.is_none() {
            return Err(nothing(errors));
        }
        let Some(matrix) = parsed.matrix else {
            return Err(usage(format!("`{}` has no [matrix]", self.project.file().display()))
                .hint("add one, such as axes = { epochs = [1, 3] } and best = { metric = \"scores.wer\" }"));
        };
        if let Some((key, _)) = self.project.changes.set.iter().find(|(key, _)| matrix.axes.iter().any(|axis| axis.key == *key)) {
            return Err(usage(format!("`--set {key}` conflicts with the matrix axis of that name"))
                .hint("omit `--set`, or run a single value with `voxpipe run --set`"));
        }
        let mut rows = Vec::new();
        for combination in &matrix.combinations {
            let parsed = self.project.parse_combination(&sources, Some(combination))?;
            let new: Vec<_> = parsed.diagnostics.into_iter().filter(|one| !printed.contains(one)).collect();
            self.project.print_diagnostics(&sources, &new);
            printed.extend(new);
            if let Some(whole) = parsed.pipeline {
                let part = match &matrix.best {
                    Some(best) => whole.up_to(&best.stage),
                    None => whole,
                };
                let combination = combination.clone();
                let metrics = BTreeMap::new();
                rows.push(Row { combination, part, result: Outcome::NotRun, run: None, exit: 0, metrics, error: None });
            }
        }
        let compared: Vec<_> = rows.iter().map(|row| ComparedCombination::new(&row.combination, &row.part)).collect();
        let idle = idle_axes(&matrix, &compared, &sources);
        self.project.print_diagnostics(&sources, &idle);
        printed.extend(idle);
        let errors = printed.iter().filter(|diagnostic| diagnostic.is_error()).count();
        if errors > 0 {
            return Err(nothing(errors));
        }
        let publishing = rows.first().and_then(|row| row.part.steps.iter().find(|step| !step.stage.external_outputs().is_empty()));
        if let Some(step) = publishing.filter(|_| matrix.combinations.len() > 1) {
            return Err(usage(format!("every combination would publish to the target of stage `{}`", step.name)).hint(
                "set `best = { metric = \"scores.wer\" }` to the metric of an earlier stage: then only the best combination is published",
            ));
        }
        Ok((sources, matrix, rows))
    }

    fn print(&self, matrix: &SweepMatrix, rows: &[Row], best: Option<usize>, exit: u8) -> Result<()> {
        if self.json {
            return print_json(as_json(matrix, rows, best, exit));
        }
        print(&table(matrix, rows, best))
    }
}

/// Cancels the jobs that a killed run of this pipeline left, and that no combination continued.
fn cancel_leftover(leftover: &[LeftoverJob], rows: &[Row]) {
    let Some(pipeline) = rows.first().map(|row| &row.part) else { return };
    let slurm = RemoteExecutor(SlurmBackend::new(pipeline.machines.slurm.clone(), Path::new("voxpipe")));
    let ours = leftover.iter().filter(|job| job.task.pipeline == pipeline.name);
    ours.filter_map(|job| slurm.cancel_leftover(job)).for_each(|told| note(&told));
}

/// The combinations of a project's `[matrix]` with their known results, as `sweep --list --json` prints them, the runs that made them, and the
/// pipeline's name.
pub(super) fn listed(store: &Store, project: &Project) -> Result<Value> {
    let sweep = Sweep { project: project.clone(), keep_going: false, jobs: None, executor: None, list: true, wait: false, json: true };
    let (_, matrix, mut rows) = sweep.rows()?;
    rows.iter_mut().try_for_each(|row| update_row(row, store))?;
    add_unsuccessful_runs(project, &matrix, &mut rows, store)?;
    for row in rows.iter_mut().filter(|row| row.run.is_none()) {
        row.run = made_by(&matrix, row, store)?;
    }
    let mut listed = as_json(&matrix, &rows, best(&matrix, &rows), Exit::Done as u8);
    listed["pipeline"] = json!(rows.first().map(|row| row.part.name.clone()));
    Ok(listed)
}

/// A sweep while it runs.
struct SweepRun<'a> {
    sweep: &'a Sweep,
    sources: &'a ManifestSources,
    matrix: &'a SweepMatrix,
    store: &'a Store,
    stop: StopSignal,
    /// The resources that parallel combinations share.
    pool: Arc<ResourcePool>,
    /// Locked while a run gets its id.
    starting: Mutex<()>,
    parallel: bool,
}

impl SweepRun<'_> {
    /// Runs all combinations, at most `at_once` in parallel.
    fn all(&self, rows: &mut [Row], at_once: usize) -> Result<()> {
        let count = rows.len();
        let next = Mutex::new(rows.iter_mut().enumerate());
        let (ended, failed) = (AtomicBool::new(false), Mutex::new(None));
        let work = || {
            while !ended.load(Ordering::Relaxed) && !self.stop.asked.load(Ordering::Relaxed) {
                let Some((position, row)) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
                match self.one(row, position + 1, count) {
                    Ok(goes_on) => _ = ended.fetch_or(!goes_on, Ordering::Relaxed),
                    Err(error) => {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        ended.store(true, Ordering::Relaxed);
                    }
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..at_once {
                scope.spawn(work);
            }
            work();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Runs a combination unless its results are up to date. Returns whether the sweep continues.
    fn one(&self, row: &mut Row, number: usize, count: usize) -> Result<bool> {
        update_row(row, self.store)?;
        if row.result == Outcome::Fresh || row.result == Outcome::Gate {
            return Ok(true);
        }
        let title = format!("{COMBINATION}{number} of {count}: {}", self.matrix.words(&row.combination));
        let report = self.run(&row.combination, &row.part, number, &title)?;
        row.error = report.stages.iter().find_map(failure);
        (row.run, row.exit) = (Some(report.run), report.exit);
        update_row(row, self.store)?;
        row.result = Outcome::of_exit(report.exit);
        if self.parallel {
            let metric = measured(self.matrix, row).map_or_else(String::new, |value| format!(", {}", metrics::text(value)));
            note(&format!("combination {number}: {}{metric}, {:.1} s", row.result.text(), report.seconds));
        }
        Ok(match row.result {
            Outcome::Parked | Outcome::Interrupted => false,
            Outcome::Failed => self.sweep.keep_going,
            _ => true,
        })
    }

    fn run(&self, combination: &SweepCombination, pipeline: &Pipeline, number: usize, title: &str) -> Result<RunReport> {
        let starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.store.begin_run()?;
        drop(starting);
        let (listener, summary) = RunObserver::new();
        let mut reporters: Vec<Box<dyn Reporter>> =
            vec![Box::new(JsonLinesReporter::create(&self.store.log(&id), &id)?), Box::new(listener)];
        if let Some(trackio) = trackio::reporter(pipeline)? {
            reporters.push(Box::new(trackio));
        }
        reporters.push(if self.parallel { Box::new(NoteReporter(number)) } else { Box::new(TerminalReporter::new(SummaryTarget::Stderr)) });
        let emitter = fan_out(reporters);
        // The terminal reporter of a combination that runs alone prints the event.
        if self.parallel {
            note(title);
        }
        emitter.emit(Event::Note { stage: String::new(), message: title.to_owned() });
        let mut run = PipelineRun::new(pipeline, self.store, emitter, id);
        run.stop = self.stop.clone();
        run.scheduling = SchedulerOptions {
            on: self.sweep.executor.map(ExecutorKind::from),
            pool: Some(Arc::clone(&self.pool)),
            ..SchedulerOptions::default()
        };
        let report = run.go();
        // The provenance has the combination as `--set`, so that its run can be repeated alone.
        let mut project = self.sweep.project.clone();
        let settings = self.matrix.settings(combination).into_iter();
        project.changes.set.extend(settings.map(|(axis, value)| (axis.key.clone(), value.to_owned())));
        write_provenance(&project, self.sources, &[], &StageSelection::default(), pipeline, self.store, &summary);
        Ok(report)
    }
}

/// Reporter of a parallel combination: prints failures and warnings only, with the number of the combination.
struct NoteReporter(usize);

impl Reporter for NoteReporter {
    fn report_event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::StageFailed { stage, message, .. } => note(&format!("combination {}: `{stage}` failed: {message}", self.0)),
            Event::GateFailed { stage, message } => note(&format!("combination {}: `{stage}` does not pass its gate: {message}", self.0)),
            Event::StageParked { stage, message, .. } => note(&format!("combination {}: `{stage}` is parked: {message}", self.0)),
            Event::Warning { stage, message } => note(&format!("combination {}: `{stage}`: {message}", self.0)),
            _ => {}
        }
        Ok(())
    }
}

/// Sets the outcome and metrics of a combination from its results in the store.
fn update_row(row: &mut Row, store: &Store) -> Result<()> {
    let plan = Plan::of(&row.part, store, &BTreeSet::new())?;
    let mut outcome = Outcome::Fresh;
    for step in &plan.steps {
        match &step.state {
            StepState::Fresh(artifact) | StepState::Unchecked(artifact, _) => {
                _ = row.metrics.insert(step.stage.clone(), artifact.metrics.clone())
            }
            StepState::GateUnmet(artifact, _) => {
                row.metrics.insert(step.stage.clone(), artifact.metrics.clone());
                (outcome, row.exit) = if outcome == Outcome::NotRun { (outcome, row.exit) } else { (Outcome::Gate, Exit::Gate as u8) };
            }
            // Stages after an unmet gate do not run.
            StepState::Blocked(_) => {}
            // A run would use the shared result.
            StepState::Shared(_) | StepState::Stale(_) | StepState::Waits(_) => outcome = Outcome::NotRun,
        }
    }
    row.result = outcome;
    Ok(())
}

/// The run that made the result which a combination is judged by; none if that is not known here, such as for a shared result.
fn made_by(matrix: &SweepMatrix, row: &Row, store: &Store) -> Result<Option<String>> {
    let judged = matrix.best.as_ref().map(|best| best.stage.as_str());
    let Some(step) = judged.map_or_else(|| row.part.steps.last(), |stage| row.part.step(stage)) else { return Ok(None) };
    let force = BTreeSet::new();
    let mut done = BTreeMap::new();
    for planned in Plan::of(&row.part, store, &force)?.steps {
        match planned.state {
            StepState::Fresh(artifact) | StepState::Unchecked(artifact, _) | StepState::GateUnmet(artifact, _) => {
                _ = done.insert(planned.stage, *artifact)
            }
            _ => {}
        }
    }
    // What a run with other settings measured has another fingerprint, even where the files are the same.
    if !done.contains_key(&step.name) {
        return Ok(None);
    }
    let check = FreshnessCheck { pipeline: &row.part, store, force: &force, remote: None };
    let fingerprint = check.ingredients(step, &done)?.fingerprint();
    let run = store.record(fingerprint).map(|record| record.run);
    // The id may be that of a run of another project, if the result came from a shared cache or an archive.
    let made = |run: &String| {
        let summary = Summary::of(store, run).ok()?;
        Some(summary.stage(&step.name)?.kept.fingerprint == fingerprint.to_string())
    };
    Ok(run.filter(|run| made(run) == Some(true)))
}

/// Begins the note by which a run names its combination.
const COMBINATION: &str = "combination ";

/// Adds to combinations without a result how their newest run ended.
fn add_unsuccessful_runs(project: &Project, matrix: &SweepMatrix, rows: &mut [Row], store: &Store) -> Result<()> {
    let name = rows.first().map(|row| row.part.name.clone()).unwrap_or_default();
    let mut open: BTreeMap<String, &mut Row> = BTreeMap::new();
    for row in rows.iter_mut().filter(|row| row.result == Outcome::NotRun) {
        open.insert(matrix.words(&row.combination), row);
    }
    for run in store.runs()?.into_iter().rev() {
        if open.is_empty() {
            break;
        }
        // A damaged log of an old run is no reason not to list the others.
        let Ok(lines) = jsonl::read(&store.log(&run)) else { continue };
        let named = |event: &Event| match event {
            Event::Note { stage, message } if stage.is_empty() => {
                message.strip_prefix(COMBINATION)?.split_once(": ").map(|(_, words)| words.to_owned())
            }
            _ => None,
        };
        let Some(words) = lines.iter().find_map(|line| named(&line.event)).filter(|words| open.contains_key(words)) else { continue };
        let its = |event: &Event| matches!(event, Event::RunStarted { pipeline, .. } if *pipeline == name);
        if !lines.iter().any(|line| its(&line.event)) || !has_changes(store, &run, project, matrix) {
            continue;
        }
        let Some(row) = open.remove(&words) else { continue };
        let exit = lines.iter().find_map(|line| match line.event {
            Event::RunFinished { exit, .. } => Some(exit),
            _ => None,
        });
        if is_active(store, &name, &run, exit) {
            (row.result, row.exit, row.run) = (Outcome::Running, 0, Some(run));
            continue;
        }
        row.result = exit.map_or(Outcome::Interrupted, Outcome::of_exit);
        row.exit = exit.unwrap_or(Exit::Interrupted as u8);
        row.error = lines.iter().find_map(|line| match &line.event {
            Event::StageFailed { stage, message, .. } => Some(error_text(stage, message)),
            _ => None,
        });
        // A successful run whose result is out of date counts as none.
        if row.result == Outcome::Done {
            (row.result, row.exit) = (Outcome::NotRun, 0);
        }
        row.run = Some(run);
    }
    Ok(())
}

/// Whether a run of a combination had the same other changes of the command line; true if that is not known, as for a run that was killed.
fn has_changes(store: &Store, run: &str, project: &Project, matrix: &SweepMatrix) -> bool {
    let Ok(Some(provenance)) = Provenance::find(store, run) else { return true };
    // The provenance has the combination behind what the command line set.
    let own = provenance.set.len().saturating_sub(matrix.axes.len());
    provenance.set[..own] == project.changes.set && provenance.profiles == project.changes.profiles
}

/// What a stage of a run failed with.
fn failure((stage, outcome): &(String, StepOutcome)) -> Option<String> {
    match outcome {
        StepOutcome::Failed { message, .. } => Some(error_text(stage, message)),
        _ => None,
    }
}

fn error_text(stage: &str, message: &str) -> String {
    format!("stage `{stage}`: {}", message.lines().next().unwrap_or_default().trim_end_matches(':'))
}

/// The metric that a combination is judged by.
fn measured(matrix: &SweepMatrix, row: &Row) -> Option<f64> {
    let best = matrix.best.as_ref()?;
    row.metrics.get(&best.stage)?.get(&best.metric).copied()
}

/// Position of the best combination that is done and passed its gates; the first of equals.
fn best(matrix: &SweepMatrix, rows: &[Row]) -> Option<usize> {
    let judge = matrix.best.as_ref()?;
    let judged = rows.iter().enumerate().filter(|(_, row)| matches!(row.result, Outcome::Done | Outcome::Fresh));
    let judged = judged.filter_map(|(position, row)| Some((position, measured(matrix, row).filter(|value| value.is_finite())?)));
    judged.reduce(|best, next| if judge.prefers(next.1, best.1) { next } else { best }).map(|(position, _)| position)
}

/// The exit code of the sweep: that of the first unsuccessful combination. Unmet gates do not count if there is a best combination.
fn exit(rows: &[Row], has_best: bool) -> u8 {
    let bad = |row: &&Row| row.exit != Exit::Done as u8 && !(row.result == Outcome::Gate && has_best);
    rows.iter().find(bad).map_or(Exit::Done as u8, |row| row.exit)
}

fn table(matrix: &SweepMatrix, rows: &[Row], best: Option<usize>) -> String {
    let judge = matrix.best.as_ref().map(|best| format!("{}.{}", best.stage, best.metric));
    let mut head: Vec<String> = matrix.axes.iter().map(|axis| axis.name.clone()).collect();
    head.extend(judge.clone());
    head.extend(["result".to_owned(), "run".to_owned()]);
    let mut lines = vec![head];
    for (position, row) in rows.iter().enumerate() {
        let mut line: Vec<String> = matrix.settings(&row.combination).into_iter().map(|(_, value)| value.to_owned()).collect();
        if judge.is_some() {
            line.push(measured(matrix, row).map_or_else(|| "-".to_owned(), metrics::text));
        }
        line.push(if best == Some(position) { "best".to_owned() } else { row.result.text().to_owned() });
        line.push(row.run.clone().unwrap_or_default());
        lines.push(line);
    }
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    // The first line has the names of the columns.
    let errors = [None].into_iter().chain(rows.iter().map(|row| row.error.as_ref()));
    for (line, error) in lines.iter().zip(errors) {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(format!("  {}", cells.join("  ")).trim_end());
        text.push('\n');
        text.extend(error.map(|error| format!("    {error}\n")));
    }
    let done = rows.iter().filter(|row| matches!(row.result, Outcome::Done | Outcome::Fresh)).count();
    text.push_str(&match (best, &judge) {
        (Some(best), Some(judge)) => {
            let value = measured(matrix, &rows[best]).map(metrics::text).unwrap_or_default();
            format!("best of {done}: {} with {judge} {value}\n", matrix.words(&rows[best].combination))
        }
        (None, Some(judge)) if done > 0 && done == rows.len() => {
            let known = rows.iter().any(|row| measured(matrix, row).is_some());
            let is = if known { "a finite value of" } else { "the metric" };
            format!("no combination has {is} {judge}, so none is the best\n")
        }
        _ => format!("{done} of {} done\n", rows.len()),
    });
    text
}

fn as_json(matrix: &SweepMatrix, rows: &[Row], best: Option<usize>, exit: u8) -> Value {
    let row = |(position, row): (usize, &Row)| {
        let settings: BTreeMap<&str, &str> =
            matrix.settings(&row.combination).into_iter().map(|(axis, value)| (axis.key.as_str(), value)).collect();
        json!({
            "settings": settings,
            "result": row.result.text(),
            "best": best == Some(position),
            "run": row.run,
            "error": row.error,
            "exit": row.exit,
            "metric": measured(matrix, row).map(metrics::number),
            "metrics": row.metrics.iter().map(|(stage, values)| (stage.clone(), metrics::object(values).into())).collect::<Map<_, _>>(),
        })
    };
    let judge = matrix.best.as_ref();
    let judge =
        judge.map(|best| json!({ "metric": format!("{}.{}", best.stage, best.metric), "goal": if best.most { "max" } else { "min" } }));
    json!({ "combinations": rows.iter().enumerate().map(row).collect::<Vec<_>>(), "judged_by": judge, "exit": exit })
}
