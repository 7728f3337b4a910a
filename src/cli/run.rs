//! `voxpipe run`: the one command that changes anything.

use super::{Project, choice, note, print_json, tracking};
use crate::diagnostic::did_you_mean;
use crate::error::{Doing, Error, Exit, Result};
use crate::event::Event;
use crate::memo::{Memo, Question as Asked};
use crate::pipeline::Pipeline;
use crate::report::jsonl::JsonLines;
use crate::report::terminal::{Table, Terminal};
use crate::report::{Reporter, fan_out};
use crate::run::{Answer, Ending, Question, Report, Stop};
use crate::store::Store;
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

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
    /// Print how it went as JSON
    #[arg(long, conflicts_with = "events")]
    json: bool,
}

impl Run {
    /// Runs the pipeline and gives the exit code.
    pub(super) fn go(self) -> Result<u8> {
        let question = self.question();
        if let Some(memo) = question.as_ref().and_then(Asked::answer) {
            return self.nothing_to_do(&memo);
        }
        let pipeline = self.project.pipeline()?;
        known(&pipeline, &self.force)?;
        if !pipeline.root.as_os_str().is_empty() && !pipeline.root.is_dir() {
            return Err(Error::new(format!("`{}`, the project's root, is not a folder", pipeline.root.display())).exit(Exit::Usage));
        }
        let stop = listen()?;
        let store = Store::open(&pipeline.root, &format!("voxpipe run {}", self.project.file.display())).map_err(or_environment)?;
        store.orphans().iter().for_each(|orphan| note(orphan));
        let id = store.begin_run().map_err(or_environment)?;
        let mut reporters = self.reporters(&store, &id)?;
        if let Some(trackio) = tracking::reporter(&pipeline)? {
            reporters.push(Box::new(trackio));
        }
        let emitter = fan_out(reporters);
        let ask: Option<&dyn Fn(&Question) -> Answer> = if choice::somebody_is_there() && !self.json { Some(&choice::ask) } else { None };
        let force = self.force.into_iter().collect();
        let report = crate::run::Run { pipeline: &pipeline, store: &store, emitter, id, force, stop, ask }.go();
        if report.exit == Exit::Done as u8
            && let Some(question) = question
        {
            question.note(&pipeline, &store)?;
        }
        if self.json {
            print_json(&serde_json::to_value(&report)?)?;
        }
        Ok(report.exit)
    }

    /// What is asked, if nothing but the file and a profile says so.
    fn question(&self) -> Option<Asked> {
        let changes = &self.project.changes;
        if !self.force.is_empty() || !changes.set.is_empty() {
            return None;
        }
        Asked::of(fs::read_to_string(&self.project.file).ok()?, &self.project.file, changes.profile.as_deref())
    }

    /// Tells a run in which every stage is known to be fresh.
    fn nothing_to_do(&self, memo: &Memo) -> Result<u8> {
        let begun = Instant::now();
        let store = Store::enter(&memo.root, &format!("voxpipe run {}", self.project.file.display())).map_err(or_environment)?;
        let run = store.begin_run().map_err(or_environment)?;
        let emitter = fan_out(self.reporters(&store, &run)?);
        let names = memo.stages.iter().map(|(stage, _)| stage.clone()).collect();
        emitter.emit(Event::RunStarted { pipeline: memo.pipeline.clone(), run: run.clone(), stages: names });
        for (stage, summary) in &memo.stages {
            emitter.emit(Event::StageFresh { stage: stage.clone(), summary: summary.clone() });
        }
        let (exit, seconds) = (Exit::Done as u8, begun.elapsed().as_secs_f64());
        emitter.emit(Event::RunFinished { exit, seconds });
        if self.json {
            let stages = memo.stages.iter().map(|(stage, _)| (stage.clone(), Ending::Fresh)).collect();
            print_json(&serde_json::to_value(Report { run, exit, seconds, stages })?)?;
        }
        Ok(exit)
    }

    /// Who is told what happens: the run's log, whoever asked for events, and people.
    fn reporters(&self, store: &Store, id: &str) -> Result<Vec<Box<dyn Reporter>>> {
        let to_stdout = self.events.as_deref() == Some("-");
        let mut reporters: Vec<Box<dyn Reporter>> = vec![Box::new(JsonLines::create(&store.log(id), id).map_err(or_environment)?)];
        match self.events.as_deref() {
            None => {}
            Some("-") => reporters.push(Box::new(JsonLines::new(io::stdout(), "standard output", id))),
            Some(file) => reporters.push(Box::new(JsonLines::create(Path::new(file), id)?)),
        }
        reporters.push(Box::new(Terminal::new(if to_stdout || self.json { Table::Stderr } else { Table::Stdout })));
        Ok(reporters)
    }
}

/// That every stage named on the command line exists.
pub(super) fn known(pipeline: &Pipeline, stages: &[String]) -> Result<()> {
    let names = || pipeline.steps.iter().map(|step| step.name.as_str());
    match stages.iter().find(|stage| !names().any(|name| name == **stage)) {
        None => Ok(()),
        Some(stage) => {
            let advice = did_you_mean(stage, names()).unwrap_or_else(|| format!("stages are: {}", names().collect::<Vec<_>>().join(", ")));
            Err(Error::new(format!("no stage is called `{stage}`")).exit(Exit::Usage).advice(advice))
        }
    }
}

/// The first signal asks the run to stop, a second one ends the program at once.
pub(super) fn listen() -> Result<Stop> {
    let stop = Stop::default();
    let armed = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&armed))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&armed)))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop.asked)))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop.stage)))
            .doing(|| "cannot listen for signals")?;
    }
    Ok(stop)
}

/// A state folder we cannot use is a matter of the machine.
fn or_environment(error: Error) -> Error {
    if error.exit == Exit::Failed { error.exit(Exit::Environment) } else { error }
}
