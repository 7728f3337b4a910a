//! `voxpipe run`: runs the pipeline.

use super::plan::Plan;
use super::provenance::{Provenance, RunObserver};
use super::selection::{SelectedArgs, forced, selected};
use super::signals::listen;
use super::summary::Summary;
use super::{Project, note, print_json, prompt, trackio, twins};
use crate::error::{Error, ErrorKind, Result};
use crate::report::terminal::{SummaryTarget, TerminalReporter};
use clap::{Args, ValueEnum};
use pipeline::cache::reads::{Reads, Recording};
use pipeline::cache::store::Store;
use pipeline::events::Event;
use pipeline::events::jsonl::JsonLinesReporter;
use pipeline::events::reporter::{Reporter, fan_out};
use pipeline::exit::Exit;
use pipeline::graph::{ExecutorKind, Pipeline, StageSelection};
use pipeline::manifest::include::ManifestSources;
use pipeline::plan::noop::{NoopEntry, NoopKey};
use pipeline::process::liveness_lock::JOB;
use pipeline::scheduler::{RetryQuestion, RunReport, SchedulerOptions, StepOutcome, StopSignal};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Options of `voxpipe run`.
#[derive(Args)]
pub(super) struct Run {
    #[command(flatten)]
    selected: SelectedArgs,
    /// Same as `voxpipe plan`: show what would run and why, without writing anything
    #[arg(long, conflicts_with_all = ["events", "jobs", "executor"])]
    dry_run: bool,
    /// Rerun this stage even if it is up to date; repeatable
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
    /// Also write all events as JSON lines to this file, or to standard output with `-`
    #[arg(long, value_name = "FILE")]
    events: Option<String>,
    /// Wait while this pipeline, or what needs the whole project, runs elsewhere
    #[arg(short, long)]
    wait: bool,
    /// Run at most N stages in parallel [default: number of CPU cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// After a failure, keep running independent stages (default)
    #[arg(short, long, overrides_with = "fail_fast")]
    keep_going: bool,
    /// After a failure, start no more stages; running stages finish
    #[arg(long, overrides_with = "keep_going")]
    fail_fast: bool,
    /// Executor of stages whose `resources` do not set one
    #[arg(long, alias = "on", value_enum)]
    executor: Option<Executor>,
    /// Print the outcome as JSON
    #[arg(long, conflicts_with = "events")]
    json: bool,
}

impl Run {
    /// Runs the pipeline and returns the exit code.
    pub(super) fn go(self) -> Result<u8> {
        let (project, selection) = self.selected.resolved()?;
        if self.dry_run {
            return Plan::of_run(self.selected, self.force, self.json).print();
        }
        let sources = project.sources()?;
        let noop_key = self.noop_key(&project, &selection, &sources);
        if let Some(entry) = noop_key.as_ref().and_then(|key| key.find(&sources, project.file()))
            // A job that a killed run left is to be named, even if no stage needs it.
            && !Store::has_scratch_folder(&entry.root, JOB)
        {
            match self.report_noop(&project, &entry) {
                Err(error) if self.wait && error.kind == ErrorKind::Locked => {}
                reported => return reported,
            }
        }
        let stop = listen()?;
        let OpenedRun { sources, pipeline, force, resolved, store } = self.open(&project, &selection, sources, &stop)?;
        // With `--wait` the file may be another one by now: the key is one of the text that runs.
        let noop_key = self.noop_key(&project, &selection, &sources);
        let store = Project::share(store, &pipeline)?;
        if !pipeline.held.is_empty() {
            pipeline::plan::Plan::of(&pipeline, &store, &force)?.check_held(&pipeline)?;
        }
        store.orphans().into_iter().for_each(note);
        let id = store.begin_run().map_err(or_environment)?;
        let mut reporters = self.reporters(&store, &id)?;
        if let Some(trackio) = trackio::reporter(&pipeline)? {
            reporters.push(Box::new(trackio));
        }
        let (listener, summary) = RunObserver::new();
        reporters.push(Box::new(listener));
        let terminal = self.terminal();
        let screen = terminal.screen();
        reporters.push(Box::new(terminal));
        let emitter = fan_out(reporters);
        let ask = move |question: &RetryQuestion| screen.hold(|| prompt::ask(question));
        let mut run = pipeline::scheduler::PipelineRun::new(&pipeline, &store, emitter, id);
        if prompt::is_interactive() && !self.json {
            run.ask = Some(&ask);
        }
        run.force.clone_from(&force);
        run.stop = stop;
        let fail_fast = self.fail_fast && !self.keep_going;
        run.scheduling = SchedulerOptions {
            jobs: self.jobs.map(usize::from),
            fail_fast,
            on: self.executor.map(ExecutorKind::from),
            ..SchedulerOptions::default()
        };
        let report = run.go();
        let force: Vec<String> = force.into_iter().collect();
        write_provenance(&project, &sources, &force, &selection, &pipeline, &store, &summary);
        // A shared cache can change at any time, so the no-op fast path is not used with one.
        let shares = pipeline.cache.shared.is_some() || std::env::var_os("VOXPIPE_SHARED_CACHE").is_some_and(|folder| !folder.is_empty());
        if report.exit == Exit::Done as u8
            && !shares
            // Whoever runs two pipelines of one name is told each time.
            && twins::warning(&sources, &pipeline).is_none()
            && let Some(noop_key) = noop_key
        {
            let summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = summary.stages.iter().map(|stage| (stage.stage.clone(), stage.kept.clone())).collect();
            noop_key.record(&pipeline, &store, &kept, resolved)?;
        }
        if self.json {
            print_json(serde_json::to_value(&report)?)?;
        }
        Ok(report.exit)
    }

    /// Resolves the pipeline and opens its store; with `--wait`, waits for the locks and then resolves it again.
    fn open(&self, project: &Project, selection: &StageSelection, mut sources: ManifestSources, stop: &StopSignal) -> Result<OpenedRun> {
        loop {
            let recording = Recording::start();
            let pipeline = project.pipeline_of(&sources)?;
            let resolved = recording.finish();
            let pipeline = selected(project, pipeline, selection)?;
            let force = forced(&pipeline, &self.force)?;
            if !pipeline.root.as_os_str().is_empty() && !pipeline.root.is_dir() {
                return Err(Error::new(format!("project root `{}` is not a folder", pipeline.root.display())).kind(ErrorKind::InvalidInput));
            }
            let open = || Store::open_run(&pipeline.root, &pipeline.name, &command(project));
            match open() {
                Err(error) if self.wait && error.kind == ErrorKind::Locked => wait_for_lock(open, error, stop).map(drop)?,
                opened => {
                    let store = opened.map_err(or_environment)?;
                    return Ok(OpenedRun { sources, pipeline, force, resolved, store });
                }
            }
            sources = project.sources()?;
        }
    }

    /// The key of the no-op fast path; none with command-line changes other than profiles, nor with a selection of stages.
    fn noop_key(&self, project: &Project, selection: &StageSelection, sources: &ManifestSources) -> Option<NoopKey> {
        let changes = &project.changes;
        if !self.force.is_empty() || !selection.is_empty() || !changes.set.is_empty() || changes.locked {
            return None;
        }
        NoopKey::new(sources, project.file(), &changes.profiles)
    }

    /// Reports a run in which every stage is fresh.
    fn report_noop(&self, project: &Project, entry: &NoopEntry) -> Result<u8> {
        let begun = Instant::now();
        let store = Store::enter(&entry.root, &entry.pipeline, &command(project)).map_err(or_environment)?;
        store.orphans().into_iter().for_each(note);
        let run = store.begin_run().map_err(or_environment)?;
        let mut reporters = self.reporters(&store, &run)?;
        reporters.push(Box::new(self.terminal()));
        let emitter = fan_out(reporters);
        let names = entry.stages.iter().map(|(stage, ..)| stage.clone()).collect();
        emitter.emit(Event::RunStarted { pipeline: entry.pipeline.clone(), run: run.clone(), stages: names, left_out: Vec::new() });
        for (stage, summary, kept) in &entry.stages {
            emitter.emit(Event::StageFresh { stage: stage.clone(), summary: summary.clone(), kept: kept.clone() });
        }
        let (exit, seconds) = (Exit::Done as u8, begun.elapsed().as_secs_f64());
        emitter.emit(Event::RunFinished { exit, seconds });
        if self.json {
            let stages = entry.stages.iter().map(|(stage, ..)| (stage.clone(), StepOutcome::Fresh)).collect();
            print_json(serde_json::to_value(RunReport { run, exit, seconds, stages, left_out: Vec::new() })?)?;
        }
        Ok(exit)
    }

    /// The reporters for the event log of the run and for `--events`.
    fn reporters(&self, store: &Store, id: &str) -> Result<Vec<Box<dyn Reporter>>> {
        let mut reporters: Vec<Box<dyn Reporter>> = vec![Box::new(JsonLinesReporter::create(&store.log(id), id).map_err(or_environment)?)];
        match self.events.as_deref() {
            None => {}
            Some("-") => reporters.push(Box::new(JsonLinesReporter::new(io::stdout(), "standard output", id))),
            Some(file) => reporters.push(Box::new(JsonLinesReporter::create(Path::new(file), id)?)),
        }
        Ok(reporters)
    }

    fn terminal(&self) -> TerminalReporter {
        let stdout_in_use = self.json || self.events.as_deref() == Some("-");
        TerminalReporter::new(if stdout_in_use { SummaryTarget::Stderr } else { SummaryTarget::Stdout })
    }
}

/// Writes the provenance of a finished run.
pub(super) fn write_provenance(
    project: &Project,
    sources: &ManifestSources,
    force: &[String],
    selection: &StageSelection,
    pipeline: &Pipeline,
    store: &Store,
    summary: &Mutex<Summary>,
) {
    let summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
    let written = Provenance::of(project, sources, force, selection, pipeline, &summary)
        .and_then(|provenance| store.keep_provenance(&summary.run, &serde_json::to_vec(&provenance)?));
    if let Err(error) = written {
        note(&format!("cannot write the provenance of this run: {}", error.message));
    }
}

/// The executor that runs stages.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Executor {
    /// This machine
    Local,
    /// Jobs on a Slurm cluster
    Slurm,
}

impl From<Executor> for ExecutorKind {
    fn from(executor: Executor) -> Self {
        match executor {
            Executor::Local => Self::Local,
            Executor::Slurm => Self::Slurm,
        }
    }
}

/// A run whose locks are held.
struct OpenedRun {
    sources: ManifestSources,
    pipeline: Pipeline,
    force: BTreeSet<String>,
    /// What was read to resolve the pipeline.
    resolved: Reads,
    store: Store,
}

/// The command line of a run, as locks are signed with it.
fn command(project: &Project) -> String {
    format!("voxpipe run {}", project.file().display())
}

/// Tries again until other runs let go of their locks, and says who holds them.
pub(super) fn wait_for_lock(open: impl Fn() -> Result<Store>, mut error: Error, stop: &StopSignal) -> Result<Store> {
    let mut told = String::new();
    loop {
        if told != error.message {
            note(&format!("waiting: {}; Ctrl-C ends the waiting", error.message));
            told.clone_from(&error.message);
        }
        thread::sleep(BETWEEN_TRIES);
        if stop.asked.load(Ordering::Relaxed) {
            return Err(Error::new("interrupted while waiting for another run; nothing was run").kind(ErrorKind::Interrupted));
        }
        match open() {
            Err(again) if again.kind == ErrorKind::Locked => error = again,
            opened => return opened,
        }
    }
}

/// How often a lock that another run holds is tried.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Reports an unusable state folder as an environment error.
fn or_environment(error: Error) -> Error {
    if error.kind == ErrorKind::Other { error.environment() } else { error }
}
