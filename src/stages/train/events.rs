//! Translates training events into runner events and rows of the metrics log.

use super::Context;
use pipeline::events::Event;
use pipeline::events::metrics_log::{FILE, MetricsLog, MetricsRow};
use serde_json::Value;
use voxtral::training::checkpoint::TrainingState;
use voxtral::training::{EvalResult, LossRow, TrainingEvent};

/// Observer of a training: emits progress, notes and metrics.
pub(super) struct TrainingObserver<'a> {
    cx: &'a Context,
    settings: Value,
    journal: Option<MetricsLog>,
    begun: bool,
}

impl<'a> TrainingObserver<'a> {
    /// An observer for a training with these settings.
    pub(super) fn new(cx: &'a Context, settings: Value) -> Self {
        Self { cx, settings, journal: None, begun: false }
    }

    /// Reports one event.
    pub(super) fn say(&mut self, event: TrainingEvent) {
        let cx = self.cx;
        match event {
            TrainingEvent::Step(row, steps) => {
                self.begin(None);
                cx.progress(row.step, steps, "steps", format!("epoch {:.1}, loss {:.3}", row.epoch, row.loss));
                self.measured(of_step(row));
            }
            TrainingEvent::Evaluated(judgement) => {
                self.begin(None);
                let metrics: Vec<String> = judgement.metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
                cx.note(format!("step {}: {}", judgement.step, metrics.join(", ")));
                self.measured(of_validation(judgement));
            }
            TrainingEvent::Resumed(state) => {
                self.begin(Some(state));
                cx.note(format!("resuming from the checkpoint at step {}", state.step));
            }
            TrainingEvent::Warning(message) => cx.warn(message),
        }
    }

    /// Opens the metrics log once, with the rows of the steps before a checkpoint.
    fn begin(&mut self, state: Option<&TrainingState>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let mut rows: Vec<MetricsRow> = state.iter().flat_map(|state| &state.losses).map(of_step).collect();
        rows.extend(state.iter().flat_map(|state| &state.evaluations).map(of_validation));
        // A stable sort: the loss of a step stays before its validation metrics.
        rows.sort_by_key(|row| row.step);
        match MetricsLog::open(&self.cx.scratch.join(FILE), &self.cx.pipeline, &self.cx.stage, rows) {
            Ok(journal) => {
                self.cx.emitter.emit(Event::Journal {
                    stage: self.cx.stage.clone(),
                    id: journal.head.id.clone(),
                    began: journal.head.began.clone(),
                    path: journal.path().display().to_string(),
                    step: state.map_or(0, |state| state.step),
                    settings: self.settings.clone(),
                });
                self.journal = Some(journal);
            }
            Err(error) => self.cx.warn(format!("{}: live metrics are not available for this training", error.message)),
        }
    }

    /// Writes one row to the metrics log and emits it.
    fn measured(&mut self, row: MetricsRow) {
        let (stage, step, values) = (self.cx.stage.clone(), row.step, row.values.clone());
        if let Some(Err(error)) = self.journal.as_mut().map(|journal| journal.write(row)) {
            self.journal = None;
            self.cx.warn(format!("{}: live metrics stop here", error.message));
        }
        self.cx.emitter.emit(Event::Metrics { stage, step, values });
    }
}

fn of_step(row: &LossRow) -> MetricsRow {
    let LossRow { step, epoch, loss, learning_rate, grad_norm } = *row;
    MetricsRow::new(step, [("loss", loss), ("learning_rate", learning_rate), ("grad_norm", grad_norm), ("epoch", epoch)])
}

fn of_validation(judgement: &EvalResult) -> MetricsRow {
    MetricsRow::new(judgement.step, judgement.metrics.iter().map(|(name, value)| (name.as_str(), *value)))
}
