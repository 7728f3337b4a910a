//! The training loop: batches in, a better model out, with a checkpoint now and then.
//!
//! One loop serves full fine-tuning and LoRA; they differ only in which parameters require a gradient. The order of the examples
//! and the dropout of a step depend on the seed and the step's number alone, so a run that was cut off goes on as if it had not been.

pub mod adamw;
pub mod checkpoint;
pub mod collate;
pub mod config;
mod data_parallel;
mod evaluator;
mod gradient_checkpointing;
pub mod memory_estimate;
pub mod sampler;

use crate::error::{Error, ErrorKind, Result};
use crate::model::visitor::NamedMapper;
use crate::model::{Voxtral, int_tensor, visitor};
use crate::weights::floats;
use adamw::AdamW;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::{TrainingCheckpoint, TrainingState};
use collate::{Batch, Example};
pub use config::{CheckpointConfig, LrScheduler, TrainingConfig};
pub use evaluator::{BestModel, EvalResult, Validation, mean_loss};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Says by name which parameters are trained.
pub type TrainableFilter<'a> = dyn Fn(&str) -> bool + Sync + 'a;

/// One line of the loss journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossRow {
    /// The optimizer step, from 1.
    pub step: u64,
    /// Passes over the data finished by then.
    pub epoch: f64,
    /// Mean loss over the step's target tokens.
    pub loss: f64,
    /// The learning rate used.
    pub learning_rate: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
}

/// What the loop says while it runs.
pub enum TrainingEvent<'a> {
    /// A step is done, of so many.
    Step(&'a LossRow, u64),
    /// Held-out clips were looked at.
    Evaluated(&'a EvalResult),
    /// The run goes on from what a checkpoint holds.
    Resumed(&'a TrainingState),
    /// Something worth reading.
    Warning(String),
}

/// Everything a training needs beside its model.
pub struct Trainer<'a> {
    /// What is learned from.
    pub examples: &'a [Example],
    /// How.
    pub recipe: &'a TrainingConfig,
    /// Which parameters.
    pub trained: &'a TrainableFilter<'a>,
    /// Where.
    pub device: &'a Device,
    /// Set when the run should stop soon; it then ends with exit code 75, after a checkpoint.
    pub stop: &'a AtomicBool,
    /// Hears how it goes.
    pub say: &'a mut dyn FnMut(TrainingEvent),
    /// Looks at the model now and then.
    pub judge: Option<Validation<'a>>,
}

/// What a training made.
#[derive(Debug)]
pub struct TrainingOutput {
    /// The model, as it was after the last step or at its best.
    pub model: Voxtral,
    /// A row for each step.
    pub losses: Vec<LossRow>,
    /// What was thought of it on the way.
    pub evaluations: Vec<EvalResult>,
    /// The step the model is from.
    pub kept: u64,
    /// Whether it ended early because it no longer got better.
    pub stopped_early: bool,
}

impl Trainer<'_> {
    /// Trains a model.
    pub fn run(mut self, model: Voxtral) -> Result<TrainingOutput> {
        let steps = self.recipe.steps(self.examples.len());
        let (mut model, mut adamw, mut state) = self.start(model)?;
        model.measure();
        while state.step < steps && !self.has_given_up(&state) {
            model = self.step(model, &mut adamw, &mut state, steps)?;
            let stopping = self.stop.load(Ordering::Relaxed) && state.step < steps;
            let judged = !stopping && self.judge(&model, &mut state, steps)?;
            if let Some(checkpoints) = &self.recipe.checkpoints
                && state.step < steps
                && (stopping || judged || state.step.is_multiple_of(checkpoints.every))
            {
                let weights = crate::weights::tensors(&model, self.trained);
                TrainingCheckpoint { weights, optimizer: adamw.save(), state: state.clone() }
                    .write(&checkpoints.folder, checkpoints.kept)?;
            }
            if stopping {
                return Err(Error::new(format!("stopped after step {} of {steps}, which is saved", state.step))
                    .kind(ErrorKind::Interrupted)
                    .hint("run again to go on from there"));
            }
        }
        let weights = crate::weights::tensors(&model, self.trained);
        if let Some(name) = first_not_finite(&weights)? {
            return Err(Error::new(format!("training diverged: after its last step `{name}` is not finite")).hint("lower `learning_rate`"));
        }
        let stopped_early = state.step < steps;
        let mut kept = state.step;
        if let (Some(judge), Some(best), Some(checkpoints)) = (&self.judge, &state.best, &self.recipe.checkpoints)
            && judge.keep_best
            && best.step != state.step
        {
            model = put_back(model, checkpoint::read_best(&checkpoints.folder, best.step)?, self.trained)?;
            model.measure();
            kept = best.step;
        }
        Ok(TrainingOutput { model: model.no_grad(), losses: state.losses, evaluations: state.evaluations, kept, stopped_early })
    }

    /// The model, the optimizer and where the run stands: at its beginning, or at the newest checkpoint.
    fn start(&mut self, model: Voxtral) -> Result<(Voxtral, AdamW, TrainingState)> {
        let (mut model, mut adamw) = (model.no_grad(), AdamW::new(self.recipe.adamw));
        let Some(checkpoints) = &self.recipe.checkpoints else { return Ok((model, adamw, TrainingState::default())) };
        let folder = &checkpoints.folder;
        let Some(found) = TrainingCheckpoint::newest(folder, |warning| (self.say)(TrainingEvent::Warning(warning))) else {
            return Ok((model, adamw, TrainingState::default()));
        };
        let unfit = |error: Error| {
            let place = folder.join(format!("step-{:06}", found.state.step));
            error.context(format!("`{}`", place.display())).hint(format!("remove `{}` to train from the start", folder.display()))
        };
        model = put_back(model, found.weights, self.trained).map_err(unfit)?;
        adamw.restore(&model, found.state.step, found.optimizer, self.trained, self.device).map_err(unfit)?;
        (self.say)(TrainingEvent::Resumed(&found.state));
        Ok((model, adamw, found.state))
    }

    /// One step of the optimizer.
    fn step(&mut self, model: Voxtral, adamw: &mut AdamW, state: &mut TrainingState, steps: u64) -> Result<Voxtral> {
        let Self { examples, recipe, trained, device, .. } = *self;
        let epoch = state.step / recipe.steps_per_epoch(examples.len());
        let chosen = recipe.examples(state.step, examples.len()).into_iter().map(|index| examples[index].in_epoch(epoch));
        let chosen = chosen.collect::<Result<Vec<_>>>()?;
        let chosen: Vec<&Example> = chosen.iter().map(AsRef::as_ref).collect();
        let (loss, mut gradient) = data_parallel::loss_and_gradient(&model, &chosen, recipe, trained, device, state.step)?;
        let norm = gradient.norm();
        if !loss.is_finite() || !norm.is_finite() {
            let clips: Vec<&str> = chosen.iter().map(|example| example.name.as_str()).collect();
            return Err(Error::new(format!(
                "training diverged at step {}: loss {loss}, gradient {norm}; its clips: {}",
                state.step + 1,
                clips.join(", ")
            ))
            .kind(ErrorKind::Diverged)
            .hint("lower `learning_rate`, or look at these clips"));
        }
        if recipe.max_grad_norm > 0.0 {
            gradient.clip(norm, recipe.max_grad_norm);
        }
        let learning_rate = recipe.rate(state.step, steps);
        let mut model = adamw.step(model, gradient, learning_rate);
        model.measure();
        state.step += 1;
        let epoch = state.step as f64 / recipe.steps_per_epoch(examples.len()) as f64;
        let row = LossRow { step: state.step, epoch, loss, learning_rate, grad_norm: norm };
        (self.say)(TrainingEvent::Step(&row, steps));
        if let Some(usual) = spike(&state.losses, loss) {
            let clips: Vec<&str> = chosen.iter().map(|example| example.name.as_str()).collect();
            (self.say)(TrainingEvent::Warning(format!(
                "the loss of step {} is {loss:.3} after {usual:.3}; its clips: {}",
                state.step,
                clips.join(", ")
            )));
        }
        state.losses.push(row);
        Ok(model)
    }

    /// Looks at the model if it is time to, and keeps it if it is the best so far. Says whether it looked.
    fn judge(&mut self, model: &Voxtral, state: &mut TrainingState, steps: u64) -> Result<bool> {
        let Some(judge) = &mut self.judge else { return Ok(false) };
        if !(state.step.is_multiple_of(judge.every) || state.step == steps) {
            return Ok(false);
        }
        let metrics = (judge.look)(model)?;
        let epoch = state.losses.last().map_or(0.0, |row| row.epoch);
        let judgement = EvalResult { step: state.step, epoch, metrics };
        (self.say)(TrainingEvent::Evaluated(&judgement));
        if let Some(value) = judgement.metrics.get(&judge.metric).copied()
            && state.best.as_ref().is_none_or(|best| value < best.value)
        {
            state.best = Some(BestModel { step: state.step, value });
            // What the last step leaves is at hand anyway.
            if let Some(checkpoints) = self.recipe.checkpoints.as_ref().filter(|_| judge.keep_best && state.step < steps) {
                checkpoint::write_best(&checkpoints.folder, state.step, &crate::weights::tensors(model, self.trained))?;
            }
        }
        state.evaluations.push(judgement);
        Ok(true)
    }

    /// Whether the model has not got better for too long.
    fn has_given_up(&self, state: &TrainingState) -> bool {
        let patience = self.judge.as_ref().and_then(|judge| judge.patience);
        let best = state.best.as_ref().map_or(0, |best| best.step);
        let since = state.evaluations.iter().filter(|judgement| judgement.step > best).count() as u64;
        patience.is_some_and(|patience| since >= patience)
    }
}

/// Steps that say what is usual.
const USUAL: usize = 20;

/// A loss that is no more than this above the usual is no sign of anything: a model that knows its clips has one word wrong.
const SLIGHT: f64 = 0.5;

/// The usual loss before a step, if the step's is far above it: by six deviations, by a quarter, and not slightly.
fn spike(before: &[LossRow], loss: f64) -> Option<f64> {
    let last = before.get(before.len().checked_sub(USUAL)?..)?;
    let mean = last.iter().map(|row| row.loss).sum::<f64>() / USUAL as f64;
    let deviation = (last.iter().map(|row| (row.loss - mean).powi(2)).sum::<f64>() / USUAL as f64).sqrt();
    (loss > mean + SLIGHT.max(6.0 * deviation) && loss > 1.25 * mean).then_some(mean)
}

fn first_not_finite(weights: &BTreeMap<String, TensorData>) -> Result<Option<&String>> {
    for (name, data) in weights {
        if !floats(data)?.iter().all(|value| value.is_finite()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The summed cross-entropy of a batch's targets. The head sees only positions that predict a target.
///
/// # Shapes
/// → `[1]`
pub fn loss_sum(model: &Voxtral, batch: &Batch) -> Result<Tensor<1>> {
    let audio = batch.audio.rows(model);
    Ok(loss_of(model, model.language_model.model.forward(model.embed(&batch.tokens, Some(audio))?), batch))
}

/// The same from what the text model made of the batch, after its last norm.
///
/// # Shapes
/// hidden `[rows, length, width]` → `[1]`
fn loss_of(model: &Voxtral, hidden: Tensor<3>, batch: &Batch) -> Tensor<1> {
    let [rows, length, width] = hidden.dims();
    let device = hidden.device();
    let hidden = hidden.reshape([rows * length, width]).select(0, int_tensor(batch.positions.iter().copied(), &device));
    model.language_model.lm_head.cross_entropy(hidden, &batch.labels)
}

/// Makes exactly the wanted parameters trainable.
pub fn mark_trained(model: Voxtral, trained: &TrainableFilter) -> Voxtral {
    struct Mark<'a>(&'a TrainableFilter<'a>);
    impl NamedMapper for Mark<'_> {
        fn change<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let wanted = (self.0)(name);
            param.map(|value| if wanted { Tensor::from_inner(value.inner()) } else { value }).set_require_grad(wanted)
        }
    }
    visitor::change(model, &mut Mark(trained))
}

/// Replaces the trained parameters by those of a checkpoint, which must hold each of them and nothing else.
fn put_back(model: Voxtral, weights: BTreeMap<String, TensorData>, trained: &TrainableFilter) -> Result<Voxtral> {
    struct PutBack<'a> {
        weights: BTreeMap<String, TensorData>,
        trained: &'a TrainableFilter<'a>,
        complaint: Option<String>,
    }
    impl NamedMapper for PutBack<'_> {
        fn change<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (found, shape) = (self.weights.remove(name), param.dims());
            let fits = found.as_ref().is_some_and(|data| data.shape().to_vec() == shape);
            match (found, (self.trained)(name)) {
                (Some(data), true) if fits => return param.map(|value| Tensor::from_data(data, &value.device())),
                (None, false) => return param,
                (Some(data), true) => {
                    let found = data.shape().to_vec();
                    self.complaint.get_or_insert(format!("the checkpoint holds `{name}` in shape {found:?}, the model in {shape:?}"));
                }
                (Some(_), false) => {
                    self.complaint.get_or_insert(format!("the checkpoint holds `{name}`, which is not trained"));
                }
                (None, true) => {
                    self.complaint.get_or_insert(format!("the checkpoint lacks `{name}`, which is trained"));
                }
            }
            param
        }
    }
    let mut hands = PutBack { weights, trained, complaint: None };
    let model = visitor::change(model, &mut hands);
    let surplus = || hands.weights.keys().next().map(|name| format!("the checkpoint holds `{name}`, which is no part of the model"));
    match hands.complaint.take().or_else(surplus) {
        None => Ok(model),
        Some(complaint) => Err(Error::new(complaint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_far_above_what_is_usual() {
        let row = |step: u64, loss: f64| LossRow { step, epoch: 0.0, loss, learning_rate: 0.0, grad_norm: 0.0 };
        let rows = |count: u64| -> Vec<LossRow> { (0..count).map(|step| row(step, 2.0 + 0.1 * (step % 3) as f64)).collect() };
        assert!(spike(&rows(30), 3.0).is_some_and(|usual| (usual - 2.1).abs() < 0.02));
        assert_eq!(spike(&rows(30), 2.5), None, "a quarter more is not far above");
        assert_eq!(spike(&rows(19), 30.0), None, "too few to know what is usual");
        let wild: Vec<LossRow> = (0..20).map(|step| row(step, 1.0 + (step % 2) as f64)).collect();
        assert_eq!(spike(&wild, 4.0), None, "where losses jump anyway");
    }
}
