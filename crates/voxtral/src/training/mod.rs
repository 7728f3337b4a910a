//! Training loop with gradient accumulation, validation, early stopping and checkpoints.
//!
//! Full fine-tuning and LoRA use the same loop and differ only in which parameters require a gradient. Example order and dropout depend
//! only on the seed and the step number, so an interrupted run resumes exactly.

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
use crate::model::{Voxtral, int_tensor};
use crate::weights::floats;
use crate::weights::visitor::{NamedMapper, map_named};
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

/// Selects trained parameters by name.
pub type TrainableFilter<'a> = dyn Fn(&str) -> bool + Sync + 'a;

/// Metrics of one optimizer step: one line of the loss log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossRow {
    /// Optimizer step, counted from 1.
    pub step: u64,
    /// Epochs finished by then, with fraction.
    pub epoch: f64,
    /// Mean loss over the step's target tokens.
    pub loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
}

/// Progress events of the training loop.
pub enum TrainingEvent<'a> {
    /// An optimizer step is complete; the second field is the total number of steps.
    Step(&'a LossRow, u64),
    /// The model was evaluated.
    Evaluated(&'a EvalResult),
    /// The run resumes from a checkpoint.
    Resumed(&'a TrainingState),
    /// A warning for the user.
    Warning(String),
}

/// The training loop: everything it needs besides the model.
pub struct Trainer<'a> {
    /// Training examples.
    pub examples: &'a [Example],
    /// Training configuration.
    pub recipe: &'a TrainingConfig,
    /// Selects the trained parameters.
    pub trained: &'a TrainableFilter<'a>,
    /// Device.
    pub device: &'a Device,
    /// Set to stop the run: it writes a checkpoint and returns [`ErrorKind::Interrupted`].
    pub stop: &'a AtomicBool,
    /// Receives progress events.
    pub say: &'a mut dyn FnMut(TrainingEvent),
    /// Periodic validation, if any.
    pub validation: Option<Validation<'a>>,
}

/// Result of a training run.
#[derive(Debug)]
pub struct TrainingOutput {
    /// The model after the last step, or the best model.
    pub model: Voxtral,
    /// Loss log, one row per step.
    pub losses: Vec<LossRow>,
    /// Validation results.
    pub evaluations: Vec<EvalResult>,
    /// The step of the returned model.
    pub kept: u64,
    /// Whether training was stopped early because validation no longer improved.
    pub stopped_early: bool,
}

impl Trainer<'_> {
    /// Trains a model, resuming from the newest checkpoint if there is one.
    pub fn run(mut self, model: Voxtral) -> Result<TrainingOutput> {
        let steps = self.recipe.steps(self.examples.len());
        let (mut model, mut adamw, mut state) = self.start(model)?;
        model.measure();
        while state.step < steps && !self.out_of_patience(&state) {
            model = self.step(model, &mut adamw, &mut state, steps)?;
            let stopping = self.stop.load(Ordering::Relaxed) && state.step < steps;
            let evaluated = !stopping && self.evaluate(&model, &mut state, steps)?;
            if let Some(checkpoints) = &self.recipe.checkpoints
                && state.step < steps
                && (stopping || evaluated || state.step.is_multiple_of(checkpoints.every))
            {
                let weights = crate::weights::tensors(&model, self.trained);
                TrainingCheckpoint { weights, optimizer: adamw.save(), state: state.clone() }
                    .write(&checkpoints.folder, checkpoints.kept)?;
            }
            if stopping {
                return Err(Error::new(format!("interrupted after step {} of {steps}; a checkpoint was saved", state.step))
                    .kind(ErrorKind::Interrupted)
                    .hint("run again to resume"));
            }
        }
        let weights = crate::weights::tensors(&model, self.trained);
        if let Some(name) = first_not_finite(&weights)? {
            return Err(Error::new(format!("training diverged: `{name}` is not finite after the last step")).hint("lower `learning_rate`"));
        }
        let stopped_early = state.step < steps;
        let mut kept = state.step;
        if let (Some(validation), Some(best), Some(checkpoints)) = (&self.validation, &state.best, &self.recipe.checkpoints)
            && validation.keep_best
            && best.step != state.step
        {
            model = restore(model, checkpoint::read_best(&checkpoints.folder, best.step)?, self.trained)?;
            model.measure();
            kept = best.step;
        }
        Ok(TrainingOutput { model: model.no_grad(), losses: state.losses, evaluations: state.evaluations, kept, stopped_early })
    }

    /// Initial model, optimizer and state, restored from the newest checkpoint if there is one.
    fn start(&mut self, model: Voxtral) -> Result<(Voxtral, AdamW, TrainingState)> {
        let (mut model, mut adamw) = (model.no_grad(), AdamW::new(self.recipe.adamw));
        let Some(checkpoints) = &self.recipe.checkpoints else { return Ok((model, adamw, TrainingState::default())) };
        let folder = &checkpoints.folder;
        let Some(found) = TrainingCheckpoint::newest(folder, |warning| (self.say)(TrainingEvent::Warning(warning))) else {
            return Ok((model, adamw, TrainingState::default()));
        };
        let unfit = |error: Error| {
            let path = folder.join(format!("step-{:06}", found.state.step));
            error.context(format!("`{}`", path.display())).hint(format!("remove `{}` to train from the start", folder.display()))
        };
        model = restore(model, found.weights, self.trained).map_err(unfit)?;
        adamw.restore(&model, found.state.step, found.optimizer, self.trained, self.device).map_err(unfit)?;
        (self.say)(TrainingEvent::Resumed(&found.state));
        Ok((model, adamw, found.state))
    }

    /// One optimizer step.
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
                "training diverged at step {}: loss {loss}, gradient norm {norm}; clips of this step: {}",
                state.step + 1,
                clips.join(", ")
            ))
            .kind(ErrorKind::Diverged)
            .hint("lower `learning_rate`, or check these clips"));
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
                "loss spike at step {}: {loss:.3}, after a mean of {usual:.3}; clips of this step: {}",
                state.step,
                clips.join(", ")
            )));
        }
        state.losses.push(row);
        Ok(model)
    }

    /// Evaluates the model if it is due and saves it if it is the best so far. Returns whether it was evaluated.
    fn evaluate(&mut self, model: &Voxtral, state: &mut TrainingState, steps: u64) -> Result<bool> {
        let Some(validation) = &mut self.validation else { return Ok(false) };
        if !(state.step.is_multiple_of(validation.every) || state.step == steps) {
            return Ok(false);
        }
        let metrics = (validation.look)(model)?;
        let epoch = state.losses.last().map_or(0.0, |row| row.epoch);
        let evaluation = EvalResult { step: state.step, epoch, metrics };
        (self.say)(TrainingEvent::Evaluated(&evaluation));
        // No later value is lower than NaN, so it must not become the best.
        if let Some(value) = evaluation.metrics.get(&validation.metric).copied().filter(|value| value.is_finite())
            && state.best.as_ref().is_none_or(|best| value < best.value)
        {
            state.best = Some(BestModel { step: state.step, value });
            // The model of the last step is returned anyway.
            if let Some(checkpoints) = self.recipe.checkpoints.as_ref().filter(|_| validation.keep_best && state.step < steps) {
                checkpoint::write_best(&checkpoints.folder, state.step, &crate::weights::tensors(model, self.trained))?;
            }
        }
        state.evaluations.push(evaluation);
        Ok(true)
    }

    /// Early stopping: whether the last `patience` evaluations brought no improvement.
    fn out_of_patience(&self, state: &TrainingState) -> bool {
        let patience = self.validation.as_ref().and_then(|validation| validation.patience);
        let best = state.best.as_ref().map_or(0, |best| best.step);
        let since = state.evaluations.iter().filter(|evaluation| evaluation.step > best).count() as u64;
        patience.is_some_and(|patience| since >= patience)
    }
}

/// Number of preceding steps that define the usual loss.
const SPIKE_WINDOW: usize = 20;

/// Minimum increase of the loss that counts as a spike. A well-fitted model that gets one word wrong shows a smaller one.
const MIN_SPIKE: f64 = 0.5;

/// Detects a loss spike: the loss exceeds the mean of the preceding steps by six standard deviations, by a quarter, and by [`MIN_SPIKE`].
/// Returns that mean.
fn spike(before: &[LossRow], loss: f64) -> Option<f64> {
    let last = before.get(before.len().checked_sub(SPIKE_WINDOW)?..)?;
    let mean = last.iter().map(|row| row.loss).sum::<f64>() / SPIKE_WINDOW as f64;
    let deviation = (last.iter().map(|row| (row.loss - mean).powi(2)).sum::<f64>() / SPIKE_WINDOW as f64).sqrt();
    (loss > mean + MIN_SPIKE.max(6.0 * deviation) && loss > 1.25 * mean).then_some(mean)
}

fn first_not_finite(weights: &BTreeMap<String, TensorData>) -> Result<Option<&String>> {
    for (name, data) in weights {
        if !floats(data)?.iter().all(|value| value.is_finite()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Cross-entropy summed over a batch's targets. Logits are computed only for positions that predict a target.
///
/// # Shapes
/// → `[1]`
pub fn loss_sum(model: &Voxtral, batch: &Batch) -> Result<Tensor<1>> {
    let audio = batch.audio.rows(model);
    Ok(loss_of(model, model.language_model.model.forward(model.embed(&batch.tokens, Some(audio))?), batch))
}

/// Like [`loss_sum`], from the decoder's final hidden states.
///
/// # Shapes
/// hidden `[rows, length, width]` → `[1]`
fn loss_of(model: &Voxtral, hidden: Tensor<3>, batch: &Batch) -> Tensor<1> {
    let [rows, length, width] = hidden.dims();
    let device = hidden.device();
    let hidden = hidden.reshape([rows * length, width]).select(0, int_tensor(batch.positions.iter().copied(), &device));
    model.language_model.lm_head.cross_entropy(hidden, &batch.labels)
}

/// Makes exactly the selected parameters trainable.
pub fn mark_trained(model: Voxtral, trained: &TrainableFilter) -> Voxtral {
    struct Mark<'a>(&'a TrainableFilter<'a>);
    impl NamedMapper for Mark<'_> {
        fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let wanted = (self.0)(name);
            param.map(|value| if wanted { Tensor::from_inner(value.inner()) } else { value }).set_require_grad(wanted)
        }
    }
    map_named(model, &mut Mark(trained))
}

/// Restores the trained parameters from a checkpoint, which must contain each of them and nothing else.
fn restore(model: Voxtral, weights: BTreeMap<String, TensorData>, trained: &TrainableFilter) -> Result<Voxtral> {
    struct Restore<'a> {
        weights: BTreeMap<String, TensorData>,
        trained: &'a TrainableFilter<'a>,
        problem: Option<String>,
    }
    impl NamedMapper for Restore<'_> {
        fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (found, shape) = (self.weights.remove(name), param.dims());
            let fits = found.as_ref().is_some_and(|data| data.shape().to_vec() == shape);
            match (found, (self.trained)(name)) {
                (Some(data), true) if fits => return param.map(|value| Tensor::from_data(data, &value.device())),
                (None, false) => return param,
                (Some(data), true) => {
                    let found = data.shape().to_vec();
                    self.problem.get_or_insert(format!("the checkpoint has `{name}` with shape {found:?}, the model with {shape:?}"));
                }
                (Some(_), false) => {
                    self.problem.get_or_insert(format!("the checkpoint has `{name}`, which is not trained"));
                }
                (None, true) => {
                    self.problem.get_or_insert(format!("the checkpoint has no `{name}`, which is trained"));
                }
            }
            param
        }
    }
    let mut mapper = Restore { weights, trained, problem: None };
    let model = map_named(model, &mut mapper);
    let unexpected = || mapper.weights.keys().next().map(|name| format!("the checkpoint has `{name}`, which is not part of the model"));
    match mapper.problem.take().or_else(unexpected) {
        None => Ok(model),
        Some(problem) => Err(Error::new(problem)),
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
