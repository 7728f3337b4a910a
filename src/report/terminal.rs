//! Terminal reporter: progress bars on a terminal, plain lines in a log, and a summary table at the end.

use crate::error::Error;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pipeline::events::Event;
use pipeline::events::reporter::Reporter;
use pipeline::exit::Exit;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Prints events on standard error, and the summary table where the caller wants it.
pub struct TerminalReporter {
    /// Length of the longest stage name, for aligned columns.
    width: usize,
    /// Whether standard error is a terminal.
    live: bool,
    /// Progress bars of the running stages, below the printed lines.
    bars: BTreeMap<String, ProgressBar>,
    screen: SharedTerminal,
    /// Whether to print ANSI colors; off if `NO_COLOR` is set.
    use_color: bool,
    table: SummaryTarget,
    /// Rows of the summary table: stage → (result, text).
    rows: BTreeMap<String, (&'static str, String)>,
    /// Stages in the order of the table.
    order: Vec<String>,
    /// Stages that the selection left out.
    left_out: Vec<String>,
    /// Id of the run.
    run: String,
    /// Rate limits of plain progress lines, by stage.
    plain: BTreeMap<String, Pace>,
    /// Buffered lines about fresh stages, written in one go.
    pending_fresh: String,
}

/// Where the summary table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SummaryTarget {
    /// On standard output, as the result of the command.
    Stdout,
    /// On standard error, because standard output has other content.
    Stderr,
}

impl TerminalReporter {
    /// A reporter that prints on standard error.
    pub fn new(table: SummaryTarget) -> Self {
        let live = io::stderr().is_terminal();
        Self {
            width: 0,
            live,
            bars: BTreeMap::new(),
            screen: SharedTerminal::new(live),
            use_color: live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            table,
            rows: BTreeMap::new(),
            order: Vec::new(),
            left_out: Vec::new(),
            run: String::new(),
            plain: BTreeMap::new(),
            pending_fresh: String::new(),
        }
    }

    /// The shared terminal, for other code that prints or prompts.
    pub fn screen(&self) -> SharedTerminal {
        self.screen.clone()
    }

    /// Prints a line: stage, word, text.
    fn line(&self, stage: &str, word: &str, text: &str) {
        let line = format!("{stage:<width$}  {}  {text}", self.color(word, &format!("{word:<11}")), width = self.width);
        self.say(line.trim_end());
    }

    fn say(&self, line: &str) {
        self.screen.say(line);
    }

    fn color(&self, word: &str, text: &str) -> String {
        let code = match word {
            "done" | "fresh" => 32,
            "failed" | "error" => 31,
            "gate" | "parked" | "interrupted" | "warning" => 33,
            _ => 36,
        };
        if self.use_color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Sets a stage's row of the summary table and removes its progress bar.
    fn row(&mut self, stage: &str, word: &'static str, text: String) {
        if let Some(bar) = self.bars.remove(stage) {
            bar.finish_and_clear();
            self.screen.bars.remove(&bar);
        }
        self.rows.insert(stage.to_owned(), (word, text));
    }

    /// Updates the progress bar of a stage, or prints a progress line from time to time.
    fn progress(&mut self, stage: &str, done: u64, total: u64, unit: &str, detail: &str) {
        if !self.live {
            if self.plain.entry(stage.to_owned()).or_default().due(done, total) {
                let of = if total == 0 { format!("{done} {unit}") } else { format!("{done}/{total} {unit}") };
                self.line(stage, "progress", format!("{of}  {detail}").trim_end());
            }
            return;
        }
        // The bar starts at the current position: work done by an earlier run must not affect the ETA.
        let bars = &self.screen.bars;
        let new = || match total {
            0 => ProgressBar::no_length(),
            total => ProgressBar::new(total),
        };
        let bar = self.bars.entry(stage.to_owned()).or_insert_with(|| bars.add(new().with_position(done)));
        let template =
            if total == 0 { "{prefix}  {spinner} {pos} {msg}  {elapsed}" } else { "{prefix}  {bar:24} {pos}/{len} {msg}  eta {eta}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(format!("{stage:<width$}", width = self.width));
        bar.set_message(format!("{unit}  {detail}").trim_end().to_owned());
        if total > 0 {
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    /// Prints the summary table.
    fn finish(&self, exit: u8, seconds: f64) {
        // Where both streams end on one terminal, the lines about what succeeded stand right above.
        let is_above = self.live && (self.table == SummaryTarget::Stderr || io::stdout().is_terminal());
        let mut text = String::new();
        for stage in &self.order {
            if is_above && self.rows.get(stage).is_some_and(|(word, _)| ["done", "fresh"].contains(word)) {
                continue;
            }
            let (word, text_of_row) = self.rows.get(stage).cloned().unwrap_or(("not reached", String::new()));
            let line = format!("  {stage:<width$}  {word:<11}  {text_of_row}", width = self.width);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (word, _) in self.rows.values() {
            *counts.entry(word).or_default() += 1;
        }
        let words = ["fresh", "done", "parked", "gate", "failed", "interrupted", "skipped"];
        let counted: Vec<_> = words.iter().filter_map(|word| Some(format!("{} {word}", counts.get(word)?))).collect();
        text.push_str(&format!("run {}: {} in {}\n", self.run, counted.join(", "), duration(seconds)));
        text.extend(left_out_words(&self.left_out).map(|words| format!("{words}\n")));
        if exit == Exit::Interrupted as u8 {
            text.push_str("interrupted; run again to resume\n");
        }
        match self.table {
            SummaryTarget::Stdout => {
                let _ = io::stdout().write_all(text.as_bytes());
            }
            SummaryTarget::Stderr => {
                let _ = io::stderr().write_all(text.as_bytes());
            }
        }
    }
}

impl Reporter for TerminalReporter {
    fn report_event(&mut self, event: &Event) -> Result<(), Error> {
        let fresh = matches!(event, Event::StageFresh { .. });
        if !self.pending_fresh.is_empty() && (!fresh || self.pending_fresh.len() > 64 * 1024) {
            let lines = std::mem::take(&mut self.pending_fresh);
            self.say(lines.trim_end());
        }
        match event {
            Event::RunStarted { run, stages, left_out, .. } => {
                self.left_out.clone_from(left_out);
                self.width = stages.iter().map(|stage| stage.chars().count()).max().unwrap_or(0);
                self.run.clone_from(run);
                self.order.clone_from(stages);
            }
            Event::StageFresh { stage, summary, .. } => {
                let line = format!("{stage:<width$}  {}  {summary}", self.color("fresh", "fresh      "), width = self.width);
                self.pending_fresh.push_str(line.trim_end());
                self.pending_fresh.push('\n');
                self.row(stage, "fresh", summary.clone());
            }
            Event::StageStarted { stage, why, attempt, .. } => {
                self.plain.remove(stage);
                let again = if *attempt > 1 { format!("attempt {attempt}: ") } else { String::new() };
                self.line(stage, "runs", &format!("{again}{why}"));
            }
            Event::Progress { stage, done, total, unit, detail } => self.progress(stage, *done, *total, unit, detail),
            Event::Metrics { .. } | Event::Journal { .. } | Event::WorstClips { .. } | Event::PeakMemory { .. } => {}
            Event::Note { stage, message } => self.line(stage, "note", message),
            Event::Warning { stage, message } => self.line(stage, "warning", message),
            Event::StageFinished { stage, seconds, summary, .. } => {
                self.row(stage, "done", format!("{summary} ({})", duration(*seconds)));
                self.line(stage, "done", &format!("{summary} ({})", duration(*seconds)));
            }
            Event::StageParked { stage, have, need, message } => {
                self.row(stage, "parked", format!("{have}/{need}  {message}"));
                self.line(stage, "parked", &format!("{have}/{need}  {message}"));
            }
            Event::StageFailed { stage, message, hint } => {
                self.row(stage, "failed", message.lines().next().unwrap_or_default().to_owned());
                self.say(&format!("{}: stage `{stage}`: {message}", self.color("error", "error")));
                if let Some(hint) = hint {
                    self.say(&format!("  = {hint}"));
                }
            }
            Event::GateFailed { stage, message } => {
                self.row(stage, "gate", message.clone());
                self.say(&format!("{}: stage `{stage}` does not pass its gate: {message}", self.color("error", "error")));
                self.say("  = result kept; dependent stages are skipped");
            }
            Event::StageInterrupted { stage } => {
                self.row(stage, "interrupted", String::new());
                self.line(stage, "interrupted", "");
            }
            Event::StageSkipped { stage, because } => {
                self.row(stage, "skipped", because.clone());
                self.line(stage, "skipped", because);
            }
            Event::RunFinished { exit, seconds } => self.finish(*exit, *seconds),
        }
        Ok(())
    }
}

/// Standard error, shared between the reporter and interactive prompts.
#[derive(Clone, Debug)]
pub struct SharedTerminal {
    bars: MultiProgress,
    /// Lines printed while a prompt holds the terminal; `None` if none does.
    held: Arc<Mutex<Option<Vec<String>>>>,
}

impl SharedTerminal {
    fn new(live: bool) -> Self {
        let target = if live { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), held: Arc::default() }
    }

    fn say(&self, line: &str) {
        match &mut *self.held() {
            Some(held) => held.push(line.to_owned()),
            // A closed standard error must not stop the run, so write errors are ignored.
            None => self.bars.suspend(|| _ = io::stderr().write_all(format!("{line}\n").as_bytes())),
        }
    }

    /// Gives `work` exclusive use of the terminal; lines printed meanwhile are buffered and shown afterwards.
    pub fn hold<T>(&self, work: impl FnOnce() -> T) -> T {
        *self.held() = Some(Vec::new());
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
        let result = work();
        self.bars.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let held = self.held().take();
        held.iter().flatten().for_each(|line| self.say(line));
        result
    }

    fn held(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rate limit of plain progress lines: the first, the last, and one per 10 % at least 5 s apart, or one per minute.
#[derive(Default)]
struct Pace {
    last: Option<(Instant, u64)>,
}

impl Pace {
    /// Whether a line is due now; if so, it counts as printed.
    fn due(&mut self, done: u64, total: u64) -> bool {
        let tenth = done.saturating_mul(10).checked_div(total).unwrap_or(0);
        let due = match self.last {
            None => true,
            Some((_, before)) if total > 0 && done == total => before != 10,
            Some((at, before)) => {
                at.elapsed() > Duration::from_secs(5) && (total == 0 || tenth > before || at.elapsed() > Duration::from_secs(60))
            }
        };
        if due {
            self.last = Some((Instant::now(), tenth));
        }
        due
    }
}

/// The stages that a selection left out, in words; none if there are none.
pub fn left_out_words(stages: &[String]) -> Option<String> {
    const SHOWN: usize = 12;
    let more = stages.len().saturating_sub(SHOWN);
    let shown = stages.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!stages.is_empty()).then(|| format!("left out: {shown}{more}"))
}

/// Formats a duration: `9.5 s`, `42 s`, `3 min 5 s`, `2 h 10 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..=9 => format!("{seconds:.1} s"),
        10..=59 => format!("{whole} s"),
        60..=3599 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
