//! `voxpipe run`: the one command that changes anything.

use super::provenance::{Listener, Provenance};
use super::summary::Summary;
use super::{Project, note, print_json, prompt, tracking};
use crate::hub::lockfile::Lockfile;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::report::terminal::{SummaryTarget, TerminalReporter};
use clap::{Args, ValueEnum};
use pipeline::cache::noop::{NoopEntry, NoopKey};
use pipeline::cache::store::Store;
use pipeline::events::Event;
use pipeline::events::jsonl::JsonLinesReporter;
use pipeline::events::reporter::{Reporter, fan_out};
use pipeline::exit::Exit;
use pipeline::graph::{ExecutorKind, Pipeline};
use pipeline::manifest::diagnostic::did_you_mean;
use pipeline::manifest::include::ManifestSources;
use pipeline::scheduler::{RetryQuestion, RunReport, SchedulerOptions, StepOutcome, StopSignal};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use std::io;

/// What to run and how to tell it.
#[derive(Args)]
pub(super) struct Run {
    #[command(flatten)]
    project: Project,
    /// Run this stage whatever is there; may be repeated
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
    /// Also write every event as a JSON line to this file, or to standard output with `-`
    #[arg(long, value_name = "FILE")]
    events: Option<String>,
    /// Run at most this many stages at once; as many as there are processor cores if left out
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// After a failure go on with what does not hang on it (the default)
    #[arg(short, long, overrides_with = "fail_fast")]
    keep_going: bool,
    /// After a failure begin nothing more; what runs is finished
    #[arg(long, overrides_with = "keep_going")]
    fail_fast: bool,
    /// Where to run stages whose `resources` do not say
    #[arg(long = "executor", alias = "on", value_enum, value_name = "EXECUTOR")]
    on: Option<On>,
    /// Print how it went as JSON
    #[arg(long, conflicts_with = "events")]
    json: bool,
}

impl Run {
    /// Runs the pipeline and gives the exit code.
    pub(super) fn go(self) -> Result<u8> {
        let sources = self.project.sources()?;
        let key = self.noop_key(&sources);
        if let Some(entry) = key.as_ref().and_then(|key| key.find(&sources, &self.project.file)) {
            return self.nothing_to_do(&entry);
        }
        let pipeline = self.project.pipeline_of(&sources)?;
        known(&pipeline, &self.force)?;
        if !pipeline.root.as_os_str().is_empty() && !pipeline.root.is_dir() {
            return Err(
                Error::new(format!("`{}`, the project's root, is not a folder", pipeline.root.display())).kind(ErrorKind::InvalidInput)
            );
        }
        let stop = listen()?;
        let store = Store::open(&pipeline.root, &format!("voxpipe run {}", self.project.file.display())).map_err(or_environment)?;
        let store = Project::share(store, &pipeline)?;
        store.orphans().into_iter().for_each(note);
        let id = store.begin_run().map_err(or_environment)?;
        let mut reporters = self.reporters(&store, &id)?;
        if let Some(trackio) = tracking::reporter(&pipeline)? {
            reporters.push(Box::new(trackio));
        }
        let (listener, heard) = Listener::new();
        reporters.push(Box::new(listener));
        let terminal = self.terminal();
        let screen = terminal.screen();
        reporters.push(Box::new(terminal));
        let emitter = fan_out(reporters);
        let ask = move |question: &RetryQuestion| screen.hold(|| prompt::ask(question));
        let mut run = pipeline::scheduler::PipelineRun::new(&pipeline, &store, emitter, id);
        if prompt::somebody_is_there() && !self.json {
            run.ask = Some(&ask);
        }
        run.force = self.force.iter().cloned().collect();
        run.stop = stop;
        let fail_fast = self.fail_fast && !self.keep_going;
        run.scheduling = SchedulerOptions {
            jobs: self.jobs.map(usize::from),
            fail_fast,
            on: self.on.map(ExecutorKind::from),
            ..SchedulerOptions::default()
        };
        let report = run.go();
        keep(&self.project, &sources, &self.force, &pipeline, &store, &heard);
        // Whether a shared folder is there, and what is in it, is looked at each time.
        let shares = pipeline.cache.shared.is_some() || std::env::var_os("VOXPIPE_SHARED_CACHE").is_some_and(|folder| !folder.is_empty());
        if report.exit == Exit::Done as u8
            && !shares
            && let Some(key) = key
        {
            let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = heard.stages.iter().map(|stage| (stage.stage.clone(), stage.kept.clone())).collect();
            key.record(&pipeline, &store, &kept, &[Lockfile::beside(&self.project.file)])?;
        }
        if self.json {
            print_json(serde_json::to_value(&report)?)?;
        }
        Ok(report.exit)
    }

    /// The key of the no-op entry of this run, unless flags ask for more than what the files and profiles say.
    fn noop_key(&self, sources: &ManifestSources) -> Option<NoopKey> {
        let changes = &self.project.changes;
        if !self.force.is_empty() || !changes.set.is_empty() || changes.locked {
            return None;
        }
        NoopKey::new(sources, &self.project.file, &changes.profiles)
    }

    /// Tells a run in which every stage is known to be fresh.
    fn nothing_to_do(&self, entry: &NoopEntry) -> Result<u8> {
        let begun = Instant::now();
        let store = Store::enter(&entry.root, &format!("voxpipe run {}", self.project.file.display())).map_err(or_environment)?;
        let run = store.begin_run().map_err(or_environment)?;
        let mut reporters = self.reporters(&store, &run)?;
        reporters.push(Box::new(self.terminal()));
        let emitter = fan_out(reporters);
        let names = entry.stages.iter().map(|(stage, ..)| stage.clone()).collect();
        emitter.emit(Event::RunStarted { pipeline: entry.pipeline.clone(), run: run.clone(), stages: names });
        for (stage, summary, kept) in &entry.stages {
            emitter.emit(Event::StageFresh { stage: stage.clone(), summary: summary.clone(), kept: kept.clone() });
        }
        let (exit, seconds) = (Exit::Done as u8, begun.elapsed().as_secs_f64());
        emitter.emit(Event::RunFinished { exit, seconds });
        if self.json {
            let stages = entry.stages.iter().map(|(stage, ..)| (stage.clone(), StepOutcome::Fresh)).collect();
            print_json(serde_json::to_value(RunReport { run, exit, seconds, stages })?)?;
        }
        Ok(exit)
    }

    /// Who is told what happens: the run's log, whoever asked for events, and people.
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
        let elsewhere = self.json || self.events.as_deref() == Some("-");
        TerminalReporter::new(if elsewhere { SummaryTarget::Stderr } else { SummaryTarget::Stdout })
    }
}

/// Keeps the manifest of a run that has ended.
pub(super) fn keep(
    project: &Project,
    sources: &ManifestSources,
    force: &[String],
    pipeline: &Pipeline,
    store: &Store,
    heard: &Mutex<Summary>,
) {
    let summary = heard.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = Provenance::of(project, sources, force, pipeline, &summary)
        .and_then(|provenance| store.keep_provenance(&summary.run, &serde_json::to_vec(&provenance)?));
    if let Err(error) = kept {
        note(&format!("the manifest of this run could not be kept: {}", error.message));
    }
}

/// Where stages run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum On {
    /// On this machine
    Local,
    /// As jobs of a Slurm cluster
    Slurm,
}

impl From<On> for ExecutorKind {
    fn from(on: On) -> Self {
        match on {
            On::Local => Self::Local,
            On::Slurm => Self::Slurm,
        }
    }
}

/// That every stage named on the command line exists.
pub(super) fn known(pipeline: &Pipeline, stages: &[String]) -> Result<()> {
    let names = || pipeline.steps.iter().map(|step| step.name.as_str());
    match stages.iter().find(|stage| !names().any(|name| name == **stage)) {
        None => Ok(()),
        Some(stage) => {
            let hint = did_you_mean(stage, names()).unwrap_or_else(|| format!("stages are: {}", names().collect::<Vec<_>>().join(", ")));
            Err(Error::new(format!("no stage is called `{stage}`")).kind(ErrorKind::InvalidInput).hint(hint))
        }
    }
}

/// The first signal asks the run to stop, a second one ends the program at once.
pub(super) fn listen() -> Result<StopSignal> {
    let stop = StopSignal::default();
    let armed = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&armed))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&armed)))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop.asked)))
            .with_context(|| "cannot listen for signals")?;
    }
    Ok(stop)
}

/// A state folder we cannot use is a matter of the machine.
fn or_environment(error: Error) -> Error {
    if error.kind == ErrorKind::Other { error.environment() } else { error }
}
