//! What a training says, as events and in its journal.

use super::Context;
use pipeline::events::Event;
use pipeline::events::metrics_log::{FILE, Journal, Row};
use serde_json::Value;
use voxtral::training::checkpoint::State;
use voxtral::training::{Judgement, LossRow, Said};

/// Speaks for a training.
pub(super) struct Voice<'a> {
    cx: &'a Context,
    settings: Value,
    journal: Option<Journal>,
    begun: bool,
}

impl<'a> Voice<'a> {
    /// A voice for a training with these settings.
    pub(super) fn new(cx: &'a Context, settings: Value) -> Self {
        Self { cx, settings, journal: None, begun: false }
    }

    pub(super) fn say(&mut self, said: Said) {
        let cx = self.cx;
        match said {
            Said::Step(row, steps) => {
                self.begin(None);
                cx.progress(row.step, steps, "steps", format!("epoch {:.1}, loss {:.3}", row.epoch, row.loss));
                self.measured(of_step(row));
            }
            Said::Judged(judgement) => {
                self.begin(None);
                let said: Vec<String> = judgement.metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
                cx.note(format!("step {}: {}", judgement.step, said.join(", ")));
                self.measured(of_look(judgement));
            }
            Said::Resumed(state) => {
                self.begin(Some(state));
                cx.note(format!("goes on from the checkpoint at step {}", state.step));
            }
            Said::Warning(message) => cx.warn(message),
        }
    }

    /// Opens the journal, once, with what a checkpoint knows of the steps before.
    fn begin(&mut self, state: Option<&State>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let mut rows: Vec<Row> = state.iter().flat_map(|state| &state.losses).map(of_step).collect();
        rows.extend(state.iter().flat_map(|state| &state.judgements).map(of_look));
        // Stable: a step's loss comes before what was thought of the model it left.
        rows.sort_by_key(|row| row.step);
        match Journal::open(&self.cx.scratch.join(FILE), &self.cx.pipeline, &self.cx.stage, rows) {
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

    fn measured(&mut self, row: Row) {
        let (stage, step, values) = (self.cx.stage.clone(), row.step, row.values.clone());
        if let Some(Err(error)) = self.journal.as_mut().map(|journal| journal.write(row)) {
            self.journal = None;
            self.cx.warn(format!("{}: the curve shown while the training runs ends here", error.message));
        }
        self.cx.emitter.emit(Event::Metrics { stage, step, values });
    }
}

fn of_step(row: &LossRow) -> Row {
    let LossRow { step, epoch, loss, learning_rate, grad_norm } = *row;
    Row::new(step, [("loss", loss), ("learning_rate", learning_rate), ("grad_norm", grad_norm), ("epoch", epoch)])
}

fn of_look(judgement: &Judgement) -> Row {
    Row::new(judgement.step, judgement.metrics.iter().map(|(name, value)| (name.as_str(), *value)))
}
