//! The training loop: batches in, a better model out, with a checkpoint now and then.
//!
//! One loop serves full fine-tuning and LoRA; they differ only in which parameters require a gradient. The order of the examples
//! and the dropout of a step depend on the seed and the step's number alone, so a run that was cut off goes on as if it had not been.

pub mod adamw;
pub mod batch;
pub mod checkpoint;
pub mod order;
pub mod recipe;
mod shards;

use crate::error::{Error, Exit, Result};
use crate::voxtral::named::{self, Change};
use crate::voxtral::weights::floats;
use crate::voxtral::{Voxtral, int_tensor};
use adamw::AdamW;
use batch::{Batch, Example};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::{Checkpoint, State};
pub use recipe::{Recipe, Schedule};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Says by name which parameters are trained.
pub type Trained<'a> = dyn Fn(&str) -> bool + Sync + 'a;

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
pub enum Said<'a> {
    /// A step is done, of so many.
    Step(&'a LossRow, u64),
    /// The run goes on after this step.
    Resumed(u64),
    /// Something worth reading.
    Warning(String),
}

/// Trains the parameters whose names `trained` accepts and returns the model with its losses.
///
/// Ends early with exit code 75, after a checkpoint, when `stop` is set.
pub fn train(
    model: Voxtral,
    examples: &[Example],
    recipe: &Recipe,
    trained: &Trained,
    device: &Device,
    stop: &AtomicBool,
    say: &mut dyn FnMut(Said),
) -> Result<(Voxtral, Vec<LossRow>)> {
    let steps = recipe.steps(examples.len());
    let mut model = model.no_grad();
    let mut adamw = AdamW::new(recipe.adamw);
    let mut state = State::default();
    if let Some((folder, _)) = &recipe.checkpoints
        && let Some(found) = Checkpoint::newest(folder, |warning| say(Said::Warning(warning)))
    {
        let unfit = |error: Error| {
            let place = folder.join(format!("step-{:06}", found.state.step));
            error.context(format!("`{}`", place.display())).advice(format!("remove `{}` to train from the start", folder.display()))
        };
        model = put_back(model, found.weights, trained).map_err(unfit)?;
        adamw.restore(&model, found.state.step, found.optimizer, trained, device).map_err(unfit)?;
        state = found.state;
        say(Said::Resumed(state.step));
    }
    model.measure();
    while state.step < steps {
        let chosen: Vec<&Example> = recipe.examples(state.step, examples.len()).into_iter().map(|index| &examples[index]).collect();
        let (loss, mut gradient) = shards::loss_and_gradient(&model, &chosen, recipe, trained, device, state.step)?;
        let norm = gradient.norm();
        if !loss.is_finite() || !norm.is_finite() {
            let clips: Vec<&str> = chosen.iter().map(|example| example.name.as_str()).collect();
            return Err(Error::new(format!(
                "training diverged at step {}: loss {loss}, gradient {norm}; its clips: {}",
                state.step + 1,
                clips.join(", ")
            ))
            .advice("lower `learning_rate`, or look at these clips"));
        }
        if recipe.max_grad_norm > 0.0 {
            gradient.clip(norm, recipe.max_grad_norm);
        }
        let learning_rate = recipe.rate(state.step, steps);
        model = adamw.step(model, gradient, learning_rate);
        model.measure();
        state.step += 1;
        let epoch = state.step as f64 / recipe.steps_per_epoch(examples.len()) as f64;
        state.losses.push(LossRow { step: state.step, epoch, loss, learning_rate, grad_norm: norm });
        if let Some(row) = state.losses.last() {
            say(Said::Step(row, steps));
        }
        let stopping = stop.load(Ordering::Relaxed) && state.step < steps;
        if let Some((folder, every)) = &recipe.checkpoints
            && (stopping || (state.step.is_multiple_of(*every) && state.step < steps))
        {
            let weights = crate::voxtral::weights::tensors(&model, trained);
            Checkpoint { weights, optimizer: adamw.save(), state: state.clone() }.write(folder)?;
        }
        if stopping {
            return Err(Error::new(format!("stopped after step {} of {steps}, which is saved", state.step))
                .exit(Exit::Interrupted)
                .advice("run again to go on from there"));
        }
    }
    let weights = crate::voxtral::weights::tensors(&model, trained);
    if let Some(name) = first_not_finite(&weights)? {
        return Err(Error::new(format!("training diverged: after its last step `{name}` is not finite")).advice("lower `learning_rate`"));
    }
    Ok((model.no_grad(), state.losses))
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
    let hidden = model.language_model.model.forward(model.embed(&batch.tokens, Some(audio))?);
    let [rows, length, width] = hidden.dims();
    let device = hidden.device();
    let hidden = hidden.reshape([rows * length, width]).select(0, int_tensor(batch.positions.iter().copied(), &device));
    Ok(model.language_model.lm_head.cross_entropy(hidden, &batch.labels))
}

/// Makes exactly the wanted parameters trainable.
pub fn mark_trained(model: Voxtral, trained: &Trained) -> Voxtral {
    struct Mark<'a>(&'a Trained<'a>);
    impl Change for Mark<'_> {
        fn change<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let wanted = (self.0)(name);
            param.map(|value| if wanted { Tensor::from_inner(value.inner()) } else { value }).set_require_grad(wanted)
        }
    }
    named::change(model, &mut Mark(trained))
}

/// Replaces the trained parameters by those of a checkpoint, which must hold each of them and nothing else.
fn put_back(model: Voxtral, weights: BTreeMap<String, TensorData>, trained: &Trained) -> Result<Voxtral> {
    struct PutBack<'a> {
        weights: BTreeMap<String, TensorData>,
        trained: &'a Trained<'a>,
        complaint: Option<String>,
    }
    impl Change for PutBack<'_> {
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
    let model = named::change(model, &mut hands);
    let surplus = || hands.weights.keys().next().map(|name| format!("the checkpoint holds `{name}`, which is no part of the model"));
    match hands.complaint.take().or_else(surplus) {
        None => Ok(model),
        Some(complaint) => Err(Error::new(complaint)),
    }
}
