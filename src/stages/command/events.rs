//! Turns the output lines of a program into events: notes, progress and metrics.

use super::lines::{Line, Source};
use pipeline::events::Event;
use pipeline::stage::Context;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use voxpipe_io::metrics;
use voxpipe_io::secrets::redactor::Redactor;

/// Maximum length of a note, in characters.
const MAX_NOTE: usize = 2000;
/// Maximum length of a quoted value, in characters.
const MAX_QUOTE: usize = 80;
/// Number of lines quoted by an error.
const TAIL: usize = 20;

/// Reports the output of a program.
pub(super) struct OutputReporter<'a> {
    cx: &'a Context,
    secrets: Redactor,
    /// The last lines, to be quoted by an error.
    pub(super) tail: VecDeque<String>,
    /// The latest value of each metric.
    pub(super) metrics: BTreeMap<String, f64>,
    step: u64,
    /// Metrics that were already reported to be no number.
    complained: BTreeSet<String>,
}

impl<'a> OutputReporter<'a> {
    /// `secrets` are redacted in everything that is reported.
    pub(super) fn new(cx: &'a Context, secrets: Redactor) -> Self {
        Self { cx, secrets, tail: VecDeque::new(), metrics: BTreeMap::new(), step: 0, complained: BTreeSet::new() }
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
            Some((end, _)) => format!("{} … ({} more bytes)", &text[..end], (text.len() - end) as u64 + line.lost),
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
        let Some(Value::Object(object)) = metrics::parse_lenient(line) else { return false };
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
        if metrics.is_empty() {
            return false;
        }
        let mut values = BTreeMap::new();
        for (name, json) in metrics {
            let name = self.secrets.redact(name);
            let value = metrics::value(json);
            if value.is_none() && self.complained.insert(name.clone()) {
                let written = self.secrets.redact(&json.to_string());
                self.cx.warn(format!("metric `{name}` is not a number: {}", cut(&written, MAX_QUOTE)));
            }
            // An older value must not stand for what is no number now.
            if let Some(value) = value.or_else(|| self.metrics.contains_key(&name).then_some(f64::NAN)) {
                values.insert(name, value);
            }
        }
        if values.is_empty() {
            return true;
        }
        self.step = step.unwrap_or(self.step + 1);
        self.metrics.extend(values.clone());
        self.cx.emitter.emit(Event::Metrics { stage: self.cx.stage.clone(), step: self.step, values });
        true
    }
}

/// The first characters of a text.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}
