//! The training loop: batches in, a better model out, with a checkpoint now and then.
//!
//! One loop serves full fine-tuning and LoRA; they differ only in which parameters require a gradient. The order of the examples
//! and the dropout of a step depend on the seed and the step's number alone, so a run that was cut off goes on as if it had not been.

pub mod adamw;
pub mod batch;
pub mod checkpoint;
mod shards;

use crate::error::{Error, Exit, Result};
use crate::voxtral::named::{self, Change};
use crate::voxtral::weights::floats;
use crate::voxtral::{Voxtral, int_tensor};
use adamw::AdamW;
use batch::{Batch, Example};
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use checkpoint::{Checkpoint, State};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Says by name which parameters are trained.
pub type Trained<'a> = dyn Fn(&str) -> bool + Sync + 'a;

/// How the learning rate changes over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Falls in a straight line to zero after the last step.
    #[default]
    Linear,
    /// Falls along half a cosine to zero.
    Cosine,
    /// Stays.
    Constant,
}

/// What the loop needs to know.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps over which the rate rises from zero.
    pub warmup_steps: u64,
    /// What the rate does afterwards.
    pub schedule: Schedule,
    /// Passes over the examples; may be a fraction.
    pub epochs: f64,
    /// Examples in one forward pass.
    pub batch_size: usize,
    /// Forward passes in one step.
    pub gradient_accumulation: usize,
    /// The optimizer's constants.
    pub adamw: adamw::Constants,
    /// Longest allowed gradient, over all parameters; 0 for no limit.
    pub max_grad_norm: f64,
    /// Seed of order and dropout.
    pub seed: u64,
    /// Fills short rows.
    pub pad: u32,
    /// Where checkpoints go, and after how many steps each.
    pub checkpoints: Option<(PathBuf, u64)>,
}

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

impl Recipe {
    /// Optimizer steps in one pass over `examples`.
    pub fn steps_per_epoch(&self, examples: usize) -> u64 {
        examples.div_ceil(self.batch_size * self.gradient_accumulation) as u64
    }

    /// Optimizer steps in all.
    pub fn steps(&self, examples: usize) -> u64 {
        // A hair less, so that 0.07 of 100 steps are 7 although the product in binary is a little more.
        (self.epochs * self.steps_per_epoch(examples) as f64 - 1e-9).ceil() as u64
    }

    /// The learning rate of a step, counted from 0: the first step after the warm-up uses the full rate, the last a small one.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * step as f64 / self.warmup_steps.max(1) as f64;
        }
        let left = (steps.saturating_sub(step)) as f64 / steps.saturating_sub(self.warmup_steps).max(1) as f64;
        self.learning_rate
            * match self.schedule {
                Schedule::Linear => left,
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - left)).cos()),
                Schedule::Constant => 1.0,
            }
    }

    /// The examples of a step, in order: each pass visits all of them once, shuffled by the seed and the pass.
    fn examples(&self, step: u64, count: usize) -> Vec<usize> {
        let (epoch, within) = (step / self.steps_per_epoch(count), step % self.steps_per_epoch(count));
        let mut order: Vec<usize> = (0..count).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed.wrapping_add(epoch));
        for last in (1..count).rev() {
            order.swap(last, rng.random_range(0..=last as u64) as usize);
        }
        let size = self.batch_size * self.gradient_accumulation;
        order.into_iter().skip(within as usize * size).take(size).collect()
    }
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
    let audio = model.embed_audio(batch.features.clone());
    let hidden = model.language_model.model.forward(model.embed(&batch.tokens, Some(audio))?);
    let [rows, length, width] = hidden.dims();
    let device = hidden.device();
    let hidden = hidden.reshape([rows * length, width]).select(0, int_tensor(batch.positions.iter().copied(), &device));
    let scores = log_softmax(model.language_model.lm_head.forward(hidden), 1);
    let labels: Tensor<2, Int> = int_tensor(batch.labels.iter().copied(), &device).unsqueeze_dim(1);
    Ok(scores.gather(1, labels).sum().neg())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            learning_rate: 1.0,
            warmup_steps: 0,
            schedule: Schedule::Linear,
            epochs: 3.0,
            batch_size: 2,
            gradient_accumulation: 2,
            adamw: adamw::Constants::default(),
            max_grad_norm: 1.0,
            seed: 7,
            pad: 0,
            checkpoints: None,
        }
    }

    #[test]
    fn learning_rates() {
        let linear = recipe();
        assert_eq!((linear.rate(0, 4), linear.rate(3, 4)), (1.0, 0.25));
        let warm = Recipe { warmup_steps: 2, ..recipe() };
        assert_eq!([0, 1, 2, 3, 5].map(|step| warm.rate(step, 6)), [0.0, 0.5, 1.0, 0.75, 0.25]);
        let cosine = Recipe { schedule: Schedule::Cosine, ..recipe() };
        assert!((cosine.rate(2, 4) - 0.5).abs() < 1e-12);
        assert_eq!(Recipe { schedule: Schedule::Constant, ..recipe() }.rate(3, 4), 1.0);
    }

    #[test]
    fn every_epoch_visits_every_example_once_in_an_order_of_its_own() {
        let recipe = recipe();
        assert_eq!((recipe.steps_per_epoch(10), recipe.steps(10)), (3, 9), "the short last group of an epoch still steps");
        let epoch = |number: u64| -> Vec<usize> { (0..3).flat_map(|step| recipe.examples(3 * number + step, 10)).collect() };
        for number in 0..3 {
            let mut seen = epoch(number);
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epoch(0), epoch(1));
        assert_eq!(Recipe { epochs: 0.1, ..recipe }.steps(10), 1);
    }
}
