//! What a training says, as events and in its journal.

use super::Context;
use pipeline::events::Event;
use pipeline::events::metrics_log::{FILE, MetricsLog, MetricsRow};
use serde_json::Value;
use voxtral::training::checkpoint::TrainingState;
use voxtral::training::{EvalResult, LossRow, TrainingEvent};

/// Speaks for a training.
pub(super) struct Voice<'a> {
    cx: &'a Context,
    settings: Value,
    journal: Option<MetricsLog>,
    begun: bool,
}

impl<'a> Voice<'a> {
    /// A voice for a training with these settings.
    pub(super) fn new(cx: &'a Context, settings: Value) -> Self {
        Self { cx, settings, journal: None, begun: false }
    }

    pub(super) fn say(&mut self, said: TrainingEvent) {
        let cx = self.cx;
        match said {
            TrainingEvent::Step(row, steps) => {
                self.begin(None);
                cx.progress(row.step, steps, "steps", format!("epoch {:.1}, loss {:.3}", row.epoch, row.loss));
                self.measured(of_step(row));
            }
            TrainingEvent::Evaluated(judgement) => {
                self.begin(None);
                let said: Vec<String> = judgement.metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
                cx.note(format!("step {}: {}", judgement.step, said.join(", ")));
                self.measured(of_look(judgement));
            }
            TrainingEvent::Resumed(state) => {
                self.begin(Some(state));
                cx.note(format!("goes on from the checkpoint at step {}", state.step));
            }
            TrainingEvent::Warning(message) => cx.warn(message),
        }
    }

    /// Opens the journal, once, with what a checkpoint knows of the steps before.
    fn begin(&mut self, state: Option<&TrainingState>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let mut rows: Vec<MetricsRow> = state.iter().flat_map(|state| &state.losses).map(of_step).collect();
        rows.extend(state.iter().flat_map(|state| &state.evaluations).map(of_look));
        // Stable: a step's loss comes before what was thought of the model it left.
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
            Err(error) => self.cx.warn(format!("{}: no curve can be shown while the training runs", error.message)),
        }
    }

    fn measured(&mut self, row: MetricsRow) {
        let (stage, step, values) = (self.cx.stage.clone(), row.step, row.values.clone());
        if let Some(Err(error)) = self.journal.as_mut().map(|journal| journal.write(row)) {
            self.journal = None;
            self.cx.warn(format!("{}: the curve shown while the training runs ends here", error.message));
        }
        self.cx.emitter.emit(Event::Metrics { stage, step, values });
    }
}

fn of_step(row: &LossRow) -> MetricsRow {
    let LossRow { step, epoch, loss, learning_rate, grad_norm } = *row;
    MetricsRow::new(step, [("loss", loss), ("learning_rate", learning_rate), ("grad_norm", grad_norm), ("epoch", epoch)])
}

fn of_look(judgement: &EvalResult) -> MetricsRow {
    MetricsRow::new(judgement.step, judgement.metrics.iter().map(|(name, value)| (name.as_str(), *value)))
}
