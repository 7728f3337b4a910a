//! Commands that read the logs of runs: `logs`, `runs`, `show`.

use super::summary::{Summary, find};
use super::{Project, note, print, print_json};
use crate::error::{Result, ResultExt};
use crate::report::terminal::duration;
use clap::Args;
use pipeline::cache::store::Store;
use pipeline::events::{Event, jsonl};
use pipeline::exit::Exit;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// How long to wait before looking for more.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How often nothing more has to be there before we ask whether anybody is left to write it.
const QUIET: u32 = 10;

/// What to print of a log.
#[derive(Args)]
pub(super) struct Logs {
    /// Only this stage
    stage: Option<String>,
    /// Go on printing until the run ends
    #[arg(short, long)]
    follow: bool,
    /// The run, the newest if left out
    #[arg(long, default_value = "latest")]
    run: String,
    /// The pipeline file
    #[arg(long, default_value = "pipeline.toml")]
    file: PathBuf,
    /// Print the events as they are, a JSON object a line
    #[arg(long)]
    json: bool,
}

impl Logs {
    /// `voxpipe logs`.
    pub(super) fn print(&self) -> Result<()> {
        let store = Store::look(&Project::of(self.file.clone()).root()?)?;
        let path = store.log(&find(&store, &self.run)?);
        let reading = || format!("cannot read `{}`", path.display());
        let mut file = File::open(&path).with_context(reading)?;
        let (mut read, mut quiet) = (0, 0);
        loop {
            file.seek(SeekFrom::Start(read)).with_context(reading)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).with_context(reading)?;
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            read += whole as u64;
            let lines = jsonl::parse(&bytes[..whole]).map_err(|error| error.context(path.display()))?;
            let mut text = String::new();
            for line in &lines {
                let (stage, words) = words(&line.event);
                if self.stage.as_deref().is_some_and(|wanted| Some(wanted) != stage) {
                    continue;
                }
                if self.json {
                    text.push_str(&line.text()?);
                } else {
                    text.push_str(format!("{}  {}  {words}", clock(&line.time), stage.unwrap_or("run")).trim_end());
                }
                text.push('\n');
            }
            print(&text)?;
            quiet = if lines.is_empty() { quiet + 1 } else { 0 };
            if self.follow && quiet > QUIET && !store.held() {
                note("the run ended without saying so: it was killed; `voxpipe run` goes on with it");
                return Ok(());
            }
            if !self.follow || lines.iter().any(|line| matches!(line.event, Event::RunFinished { .. })) {
                return Ok(());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

/// `12:01:07` of a time stamp.
fn clock(time: &str) -> &str {
    time.get(11..19).unwrap_or(time)
}

/// An event in words, with its stage.
fn words(event: &Event) -> (Option<&str>, String) {
    let numbers =
        |values: &BTreeMap<String, f64>| values.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ");
    match event {
        Event::RunStarted { pipeline, run, stages } => (None, format!("{run} of {pipeline}: {}", stages.join(", "))),
        Event::StageFresh { stage, summary, .. } => (Some(stage), format!("fresh: {summary}")),
        Event::StageStarted { stage, kind, why, attempt } => (Some(stage), format!("{kind} starts (try {attempt}): {why}")),
        Event::Progress { stage, done, total, unit, detail } => (Some(stage), format!("{done}/{total} {unit} {detail}")),
        Event::Metrics { stage, step, values } => (Some(stage), format!("step {step}: {}", numbers(values))),
        Event::Journal { stage, step, path, .. } => (Some(stage), format!("keeps a journal from step {} on: {path}", step + 1)),
        Event::WorstClips { stage, clips } => (
            Some(stage),
            clips
                .iter()
                .map(|clip| {
                    format!("{:.0} % wrong: {}\n  said:  {}\n  heard: {}", 100.0 * clip.wer, clip.audio, clip.reference, clip.tuned)
                })
                .collect::<Vec<_>>()
                .join("\n"),
        ),
        Event::Note { stage, message } => (Some(stage), message.clone()),
        Event::Warning { stage, message } => (Some(stage), format!("warning: {message}")),
        Event::StageFinished { stage, seconds, summary, .. } => (Some(stage), format!("done in {}: {summary}", duration(*seconds))),
        Event::StageParked { stage, have, need, message } => (Some(stage), format!("parked {have}/{need}: {message}")),
        Event::StageFailed { stage, message, hint } => {
            (Some(stage), format!("failed: {message}{}", hint.as_ref().map(|hint| format!("\n  = {hint}")).unwrap_or_default()))
        }
        Event::GateFailed { stage, message } => (Some(stage), format!("gate not met: {message}")),
        Event::StageInterrupted { stage } => (Some(stage), "interrupted".to_owned()),
        Event::StageSkipped { stage, because } => (Some(stage), format!("skipped: {because}")),
        Event::RunFinished { exit, seconds } => (None, format!("{} after {}", ending(Some(*exit)), duration(*seconds))),
    }
}

/// What an exit code says.
fn ending(exit: Option<u8>) -> String {
    let known = [
        (Exit::Done, "done"),
        (Exit::Failed, "failed"),
        (Exit::Usage, "failed: the file is wrong"),
        (Exit::Environment, "failed: the environment lacks something"),
        (Exit::Parked, "parked"),
        (Exit::TimedOut, "timed out"),
        (Exit::Gate, "a gate was not met"),
        (Exit::Differs, "differs"),
        (Exit::Interrupted, "interrupted"),
    ];
    match exit {
        None => "not finished".to_owned(),
        Some(code) => {
            known.iter().find(|(exit, _)| *exit as u8 == code).map_or_else(|| format!("exit {code}"), |(_, word)| (*word).to_owned())
        }
    }
}

/// `voxpipe runs`.
pub(super) fn runs(project: &Project, json: bool) -> Result<()> {
    let store = Store::look(&project.root()?)?;
    let summaries: Vec<_> = store.runs()?.iter().map(|run| Summary::of(&store, run)).collect::<Result<_>>()?;
    if json {
        return print_json(json!({ "runs": summaries }));
    }
    let mut text = String::new();
    for summary in &summaries {
        let count = |result: &str| summary.stages.iter().filter(|stage| stage.result == result).count();
        let time = summary.seconds.map(duration).unwrap_or_default();
        let counts = format!("{} fresh, {} done of {}", count("fresh"), count("done"), summary.stages.len());
        text.push_str(&format!("{}  {:<12}  {}  {counts}  {time}\n", summary.run, ending(summary.exit), summary.pipeline));
    }
    print(if text.is_empty() { "no run yet\n" } else { &text })
}

/// `voxpipe show RUN`.
pub(super) fn show(project: &Project, run: &str, json: bool) -> Result<()> {
    let store = Store::look(&project.root()?)?;
    let summary = Summary::of(&store, &find(&store, run)?)?;
    if json {
        return print_json(json!(summary));
    }
    let mut text = format!("run {} of {}, started {}: {}", summary.run, summary.pipeline, summary.started, ending(summary.exit));
    if let Some(seconds) = summary.seconds {
        text.push_str(&format!(" after {}", duration(seconds)));
    }
    text.push('\n');
    let width = summary.stages.iter().map(|stage| stage.stage.chars().count()).max().unwrap_or(0);
    for stage in &summary.stages {
        let time = stage.seconds.map(|seconds| format!(" ({})", duration(seconds))).unwrap_or_default();
        text.push_str(format!("  {:<width$}  {:<11}  {}{time}", stage.stage, stage.result, stage.said).trim_end());
        text.push('\n');
        if !stage.why.is_empty() {
            text.push_str(&format!("  {:<width$}  {:<11}  because {}\n", "", "", stage.why));
        }
        for (name, value) in &stage.metrics {
            text.push_str(&format!("  {:<width$}  {:<11}  {name} {value}\n", "", ""));
        }
    }
    print(&text)
}
