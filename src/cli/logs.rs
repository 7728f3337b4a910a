//! `voxpipe logs`: prints the event log of a run.

use super::summary::{exit_words, find};
use super::{Project, note, print};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::report::terminal::{duration, left_out_words};
use clap::Args;
use pipeline::cache::store::Store;
use pipeline::diagnostics::{did_you_mean, list};
use pipeline::events::jsonl::EventLine;
use pipeline::events::{Event, jsonl};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Time between two reads of a log that is followed.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Number of empty reads in a row after which the run's lock is checked.
const QUIET_READS: u32 = 10;

/// Options of `voxpipe logs`.
#[derive(Args)]
pub(super) struct Logs {
    /// Print only the events of this stage
    stage: Option<String>,
    /// Keep printing until the run ends
    #[arg(short, long)]
    follow: bool,
    /// Run id or `latest`
    #[arg(long, default_value = "latest")]
    run: String,
    /// Pipeline file [default: pipeline.toml in this folder, or in the nearest folder above]
    #[arg(long)]
    file: Option<PathBuf>,
    /// Print the raw events, one JSON object per line
    #[arg(long)]
    json: bool,
}

impl Logs {
    /// Prints the log, and with `--follow` what is added to it.
    pub(super) fn print(&self) -> Result<()> {
        let store = Store::open_readonly(&Project::at(self.file.clone()).root()?)?;
        let path = store.log(&find(&store, &self.run)?);
        let reading = || format!("cannot read `{}`", path.display());
        let mut file = File::open(&path).with_context(reading)?;
        let (mut read, mut quiet) = (0, 0);
        loop {
            file.seek(SeekFrom::Start(read)).with_context(reading)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).with_context(reading)?;
            let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            read += complete as u64;
            let lines = jsonl::parse(&bytes[..complete]).map_err(|error| error.context(path.display()))?;
            self.require_stage(&lines)?;
            let mut text = String::new();
            for line in &lines {
                let (stage, words) = words(&line.event);
                if self.stage.as_deref().is_some_and(|wanted| stage.is_none_or(|stage| !is_named(wanted, stage))) {
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
            if self.follow && quiet > QUIET_READS && !store.held() {
                note("the run was killed; `voxpipe run` continues it");
                return Ok(());
            }
            if !self.follow || lines.iter().any(|line| matches!(line.event, Event::RunFinished { .. })) {
                return Ok(());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Logs {
    /// Checks that the run has the stage that is asked for.
    fn require_stage(&self, lines: &[EventLine]) -> Result<()> {
        let Some(wanted) = &self.stage else { return Ok(()) };
        for line in lines {
            if let Event::RunStarted { stages, run, .. } = &line.event
                && !stages.iter().any(|stage| is_named(wanted, stage))
            {
                let names = || stages.iter().map(String::as_str);
                let hint = did_you_mean(wanted, names()).unwrap_or_else(|| format!("its stages are {}", list(names())));
                return Err(Error::new(format!("run {run} has no stage `{wanted}`")).kind(ErrorKind::InvalidInput).hint(hint));
            }
        }
        Ok(())
    }
}

/// Whether a stage is meant by a name: its own, or that of all stages of a `foreach`.
fn is_named(wanted: &str, stage: &str) -> bool {
    let all = wanted.strip_suffix("[*]").unwrap_or(wanted);
    stage == wanted || stage.strip_prefix(all).is_some_and(|entry| entry.starts_with('['))
}

/// The time of day of a timestamp, such as `12:01:07`.
fn clock(time: &str) -> &str {
    time.get(11..19).unwrap_or(time)
}

/// An event as text, with the stage it belongs to.
fn words(event: &Event) -> (Option<&str>, String) {
    let numbers = |values: &BTreeMap<String, f64>| {
        values.iter().map(|(name, value)| format!("{name} {}", voxpipe_io::metrics::text(*value))).collect::<Vec<_>>().join(", ")
    };
    match event {
        Event::RunStarted { pipeline, run, stages, left_out } => {
            let without = left_out_words(left_out).map_or_else(String::new, |words| format!("; {words}"));
            (None, format!("{run} of {pipeline}: {}{without}", stages.join(", ")))
        }
        Event::StageFresh { stage, summary, .. } => (Some(stage), format!("fresh: {summary}")),
        Event::StageStarted { stage, kind, why, attempt } => (Some(stage), format!("{kind} starts (attempt {attempt}): {why}")),
        Event::Progress { stage, done, total, unit, detail } => (Some(stage), format!("{done}/{total} {unit} {detail}")),
        Event::Metrics { stage, step, values } => (Some(stage), format!("step {step}: {}", numbers(values))),
        Event::Journal { stage, step, path, .. } => (Some(stage), format!("metrics log from step {}: {path}", step + 1)),
        Event::WorstClips { stage, clips } => (
            Some(stage),
            clips
                .iter()
                .map(|clip| {
                    format!("WER {:.0} %: {}\n  reference:  {}\n  transcript: {}", 100.0 * clip.wer, clip.audio, clip.reference, clip.tuned)
                })
                .collect::<Vec<_>>()
                .join("\n"),
        ),
        Event::Note { stage, message } => (Some(stage), message.clone()),
        Event::Warning { stage, message } => (Some(stage), format!("warning: {message}")),
        Event::StageFinished { stage, seconds, summary, .. } => (Some(stage), format!("done in {}: {summary}", duration(*seconds))),
        Event::PeakMemory { stage, process, bytes } => (Some(stage), format!("{process} took {} MB of memory at most", bytes / 1_000_000)),
        Event::StageParked { stage, have, need, message } => (Some(stage), format!("parked {have}/{need}: {message}")),
        Event::StageFailed { stage, message, hint } => {
            (Some(stage), format!("failed: {message}{}", hint.as_ref().map(|hint| format!("\n  = {hint}")).unwrap_or_default()))
        }
        Event::GateFailed { stage, message } => (Some(stage), format!("gate not met: {message}")),
        Event::StageInterrupted { stage } => (Some(stage), "interrupted".to_owned()),
        Event::StageSkipped { stage, because } => (Some(stage), format!("skipped: {because}")),
        Event::RunFinished { exit, seconds } => (None, format!("{} after {}", exit_words(Some(*exit)), duration(*seconds))),
    }
}
