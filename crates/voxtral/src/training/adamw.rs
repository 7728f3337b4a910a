//! AdamW (Loshchilov & Hutter 2019) with PyTorch's arithmetic, and gradient clipping by global norm.
//!
//! burn's optimizers clip each tensor separately and key their state by process-wide ids. This one clips by the norm over all gradients,
//! and its state is a map of named tensors, as stored in checkpoints.

use crate::error::{Error, Result};
use crate::weights::visitor::{NamedMapper, NamedVisitor, map_named, visit_named};
use burn::module::{Module, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Elements summed sequentially on one core.
const PART: usize = 1 << 20;

/// Flattened gradients by parameter name, summed over the micro-batches of a step.
#[derive(Debug, Default)]
pub struct GradientMap(BTreeMap<String, Tensor<1>>);

impl GradientMap {
    /// Adds the gradients of a backward pass for a model's trainable parameters.
    pub fn add<M: Module>(&mut self, model: &M, mut gradients: Gradients) {
        struct Collect<'a> {
            gradients: &'a mut Gradients,
            found: BTreeMap<String, Tensor<1>>,
        }
        impl NamedVisitor for Collect<'_> {
            fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                let value = param.val();
                if !value.is_require_grad() {
                    return;
                }
                let Some(gradient) = value.grad_remove(self.gradients) else { return };
                let count = gradient.shape().num_elements();
                let gradient = gradient.reshape([count]);
                self.found.insert(name.to_owned(), gradient);
            }
        }
        let mut collect = Collect { gradients: &mut gradients, found: BTreeMap::new() };
        visit_named(model, &mut collect);
        self.merge(Self(collect.found));
    }

    /// Adds the gradients of another micro-batch.
    pub fn merge(&mut self, mut other: Self) {
        self.0.par_iter_mut().for_each(|(name, sum)| {
            if let Some(gradient) = other.0.get(name) {
                *sum = sum.clone() + gradient.clone();
            }
        });
        other.0.retain(|name, _| !self.0.contains_key(name));
        self.0.append(&mut other.0);
    }

    /// The gradient of one parameter, flattened.
    pub fn get(&self, name: &str) -> Option<Tensor<1>> {
        self.0.get(name).cloned()
    }

    /// Number of parameters with a gradient.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no parameter has a gradient.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Global L2 norm over all gradients.
    pub fn norm(&self) -> f64 {
        // Split into parts that one core sums: the backend sums parts of longer tensors in nondeterministic order.
        let length = |gradient: &Tensor<1>| -> f64 {
            let parts = gradient.clone().split(PART, 0).into_iter();
            parts.map(|part| f64::from(part.square().sum().into_scalar::<f32>())).sum()
        };
        // Collected in name order before summing, so that the result does not depend on thread timing.
        self.0.par_iter().map(|(_, gradient)| length(gradient)).collect::<Vec<f64>>().into_iter().sum::<f64>().sqrt()
    }

    /// Scales all gradients so that their global norm is at most `limit`; `norm` is the result of [`GradientMap::norm`].
    pub fn clip(&mut self, norm: f64, limit: f64) {
        let factor = limit / (norm + 1e-6);
        if factor < 1.0 {
            self.0.par_iter_mut().for_each(|(_, gradient)| *gradient = gradient.clone() * factor);
        }
    }
}

/// AdamW hyperparameters; the defaults are PyTorch's, except for no weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the denominator for numerical stability.
    pub epsilon: f64,
    /// Decoupled weight decay, multiplied by the learning rate; not applied to norms and biases.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// AdamW optimizer with its state: first and second moment of each trained parameter.
#[derive(Debug)]
pub struct AdamW {
    constants: AdamWConfig,
    steps: u64,
    state: BTreeMap<String, (Tensor<1>, Tensor<1>)>,
}

impl AdamW {
    /// An optimizer with empty state.
    pub fn new(constants: AdamWConfig) -> Self {
        Self { constants, steps: 0, state: BTreeMap::new() }
    }

    /// Updates every parameter that has a gradient.
    pub fn step<M: Module>(&mut self, model: M, gradient: GradientMap, learning_rate: f64) -> M {
        struct Weights<'a>(&'a GradientMap, BTreeMap<String, Tensor<1>>);
        impl NamedVisitor for Weights<'_> {
            fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                if self.0.0.contains_key(name) {
                    let value = param.val();
                    let count = value.shape().num_elements();
                    self.1.insert(name.to_owned(), value.reshape([count]));
                }
            }
        }
        struct Replace(BTreeMap<String, Tensor<1>>);
        impl NamedMapper for Replace {
            fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                match self.0.remove(name) {
                    Some(moved) => param.map(|value| moved.reshape(value.dims())),
                    None => param,
                }
            }
        }
        self.steps += 1;
        let mut weights = Weights(&gradient, BTreeMap::new());
        visit_named(&model, &mut weights);
        let work: Vec<_> =
            weights.1.into_iter().map(|(name, weight)| (self.state.remove(&name), gradient.get(&name), name, weight)).collect();
        let moved: Vec<_> = work
            .into_par_iter()
            .filter_map(|(state, gradient, name, weight)| {
                let (weight, state) = self.updated(&name, weight, gradient?, state, learning_rate);
                Some((name, weight, state))
            })
            .collect();
        let mut replace = Replace(BTreeMap::new());
        for (name, weight, state) in moved {
            self.state.insert(name.clone(), state);
            replace.0.insert(name, weight);
        }
        map_named(model, &mut replace)
    }

    /// One AdamW update of a parameter: its new value and state.
    fn updated(
        &self,
        name: &str,
        weight: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<(Tensor<1>, Tensor<1>)>,
        learning_rate: f64,
    ) -> (Tensor<1>, (Tensor<1>, Tensor<1>)) {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.constants;
        let (mean, square) = match state {
            Some((mean, square)) => (mean * beta1 + gradient.clone() * (1.0 - beta1), square * beta2 + gradient.square() * (1.0 - beta2)),
            None => (gradient.clone() * (1.0 - beta1), gradient.square() * (1.0 - beta2)),
        };
        let steps = self.steps as f64;
        let spread = square.clone().sqrt() / (1.0 - beta2.powf(steps)).sqrt() + epsilon;
        let decays = weight_decay > 0.0 && !name.ends_with("bias") && !name.contains("norm");
        let weight = if decays { weight * (1.0 - learning_rate * weight_decay) } else { weight };
        let weight = weight - mean.clone() / spread * (learning_rate / (1.0 - beta1.powf(steps)));
        (weight, (mean, square))
    }

    /// The optimizer state as named tensors: `mean.NAME` (first moment) and `square.NAME` (second moment).
    pub fn save(&self) -> BTreeMap<String, TensorData> {
        let data = |tensor: &Tensor<1>| tensor.clone().into_data();
        self.state
            .iter()
            .flat_map(|(name, (mean, square))| [(format!("mean.{name}"), data(mean)), (format!("square.{name}"), data(square))])
            .collect()
    }

    /// Restores the state saved by [`AdamW::save`] after `steps` steps. It must contain both moments of every trained parameter and nothing
    /// else.
    pub fn restore<M: Module>(
        &mut self,
        model: &M,
        steps: u64,
        mut tensors: BTreeMap<String, TensorData>,
        trained: &dyn Fn(&str) -> bool,
        device: &Device,
    ) -> Result<()> {
        struct Sizes<'a>(&'a dyn Fn(&str) -> bool, Vec<(String, usize)>);
        impl NamedVisitor for Sizes<'_> {
            fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                if (self.0)(name) {
                    self.1.push((name.to_owned(), param.shape().num_elements()));
                }
            }
        }
        let mut sizes = Sizes(trained, Vec::new());
        visit_named(model, &mut sizes);
        let mut take = |name: String, size: usize| -> Result<Tensor<1>> {
            let data = tensors.remove(&name).ok_or_else(|| Error::new(format!("the optimizer state has no `{name}`")))?;
            match data.shape().to_vec()[..] {
                [found] if found == size => Ok(Tensor::from_data(data, device)),
                ref found => Err(Error::new(format!("the optimizer state has `{name}` with shape {found:?}, expected [{size}]"))),
            }
        };
        let mut state = BTreeMap::new();
        for (name, size) in sizes.1 {
            let means = (take(format!("mean.{name}"), size)?, take(format!("square.{name}"), size)?);
            state.insert(name, means);
        }
        if let Some(name) = tensors.keys().next() {
            return Err(Error::new(format!("the optimizer state has `{name}`, which belongs to no trained parameter")));
        }
        (self.steps, self.state) = (steps, state);
        Ok(())
    }
}
