//! Turns the output lines of a program into events: notes, progress and metrics.

use super::lines::{Line, Source};
use super::secrets::Secrets;
use pipeline::events::Event;
use pipeline::stage::Context;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};

/// Maximum length of a note, in characters.
const MAX_NOTE: usize = 2000;
/// Number of lines quoted by an error.
const TAIL: usize = 20;

/// Reports the output of a program.
pub(super) struct OutputReporter<'a> {
    cx: &'a Context,
    secrets: Secrets,
    /// The last lines, to be quoted by an error.
    pub(super) tail: VecDeque<String>,
    /// The latest value of each metric.
    pub(super) metrics: BTreeMap<String, f64>,
    step: u64,
}

impl<'a> OutputReporter<'a> {
    /// `secrets` are redacted in everything that is reported.
    pub(super) fn new(cx: &'a Context, secrets: Secrets) -> Self {
        Self { cx, secrets, tail: VecDeque::new(), metrics: BTreeMap::new(), step: 0 }
    }

    /// Reports one line.
    pub(super) fn tell(&mut self, line: Line) {
        if line.text.trim().is_empty() {
            return;
        }
        if line.source == Source::Out && self.report_values(&line.text) {
            return;
        }
        let text = self.secrets.redact(&line.text);
        let note = match text.char_indices().nth(MAX_NOTE) {
            Some((cut, _)) => format!("{} … ({} more bytes)", &text[..cut], (text.len() - cut) as u64 + line.lost),
            None if line.lost > 0 => format!("{text} … ({} more bytes)", line.lost),
            None => text,
        };
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(note.clone());
        self.cx.note(note);
    }

    /// Reports a line with `{"progress": …}`, `{"metrics": …}` or both. Returns whether it was one.
    fn report_values(&mut self, line: &str) -> bool {
        let Ok(Value::Object(object)) = serde_json::from_str(line) else { return false };
        let progress = object.get("progress").and_then(Value::as_object).is_some_and(|progress| self.report_progress(progress));
        let step = object.get("step").and_then(Value::as_u64);
        let metrics = object.get("metrics").and_then(Value::as_object).is_some_and(|metrics| self.report_metrics(metrics, step));
        progress || metrics
    }

    fn report_progress(&self, progress: &Map<String, Value>) -> bool {
        let number = |key: &str| progress.get(key).and_then(Value::as_u64);
        let Some(done) = number("done") else { return false };
        let text = |key: &str| self.secrets.redact(progress.get(key).and_then(Value::as_str).unwrap_or_default());
        self.cx.progress(done, number("total").unwrap_or(0), &text("unit"), text("detail"));
        true
    }

    fn report_metrics(&mut self, metrics: &Map<String, Value>, step: Option<u64>) -> bool {
        let values: BTreeMap<String, f64> =
            metrics.iter().filter_map(|(name, value)| Some((self.secrets.redact(name), value.as_f64()?))).collect();
        if values.is_empty() {
            return false;
        }
        self.step = step.unwrap_or(self.step + 1);
        self.metrics.extend(values.clone());
        self.cx.emitter.emit(Event::Metrics { stage: self.cx.stage.clone(), step: self.step, values });
        true
    }
}
