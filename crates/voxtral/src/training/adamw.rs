//! AdamW with PyTorch's arithmetic, over parameters found by name, and the global gradient norm.
//!
//! burn's own optimizers clip each tensor apart and key their state by process-wide ids; ours clips over all gradients and its
//! state is a table of named tensors, which is what a checkpoint holds.

use crate::error::{Error, Result};
use crate::model::visitor;
use crate::model::visitor::{NamedMapper, NamedVisitor};
use burn::module::{Module, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Elements that are added up in one go.
const PART: usize = 1 << 20;

/// Gradients by parameter name, flattened, summed over the shards of a step.
#[derive(Debug, Default)]
pub struct GradientMap(BTreeMap<String, Tensor<1>>);

impl GradientMap {
    /// Adds what a backward pass left for the trainable parameters of a model.
    pub fn add<M: Module>(&mut self, model: &M, mut gradients: Gradients) {
        struct Collect<'a> {
            gradients: &'a mut Gradients,
            found: BTreeMap<String, Tensor<1>>,
        }
        impl NamedVisitor for Collect<'_> {
            fn look<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
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
        visitor::look(model, &mut collect);
        self.merge(Self(collect.found));
    }

    /// Adds the gradients of other rows.
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

    /// How many parameters have one.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no parameter has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The length of all gradients as one vector.
    pub fn norm(&self) -> f64 {
        // In parts that one core adds up: of longer tensors the backend adds parts in whatever order they are ready.
        let length = |gradient: &Tensor<1>| -> f64 {
            let parts = gradient.clone().split(PART, 0).into_iter();
            parts.map(|part| f64::from(part.square().sum().into_scalar::<f32>())).sum()
        };
        // Collected in the order of the names before they are added: the sum must not depend on which core was first.
        self.0.par_iter().map(|(_, gradient)| length(gradient)).collect::<Vec<f64>>().into_iter().sum::<f64>().sqrt()
    }

    /// Shortens all gradients together to a length of at most `limit`, which [`GradientMap::norm`] had measured.
    pub fn clip(&mut self, norm: f64, limit: f64) {
        let factor = limit / (norm + 1e-6);
        if factor < 1.0 {
            self.0.par_iter_mut().for_each(|(_, gradient)| *gradient = gradient.clone() * factor);
        }
    }
}

/// AdamW's constants; the defaults are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay rate of the running mean.
    pub beta1: f64,
    /// Decay rate of the running mean square.
    pub beta2: f64,
    /// Keeps the division finite.
    pub epsilon: f64,
    /// How much a weight shrinks with each step, times the learning rate; norms and biases do not.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// AdamW: a running mean and a running mean square of each gradient decide the step of each weight.
#[derive(Debug)]
pub struct AdamW {
    constants: AdamWConfig,
    steps: u64,
    state: BTreeMap<String, (Tensor<1>, Tensor<1>)>,
}

impl AdamW {
    /// An optimizer that has seen nothing yet.
    pub fn new(constants: AdamWConfig) -> Self {
        Self { constants, steps: 0, state: BTreeMap::new() }
    }

    /// Moves every parameter that has a gradient.
    pub fn step<M: Module>(&mut self, model: M, gradient: GradientMap, learning_rate: f64) -> M {
        struct Weights<'a>(&'a GradientMap, BTreeMap<String, Tensor<1>>);
        impl NamedVisitor for Weights<'_> {
            fn look<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                if self.0.0.contains_key(name) {
                    let value = param.val();
                    let count = value.shape().num_elements();
                    self.1.insert(name.to_owned(), value.reshape([count]));
                }
            }
        }
        struct Replace(BTreeMap<String, Tensor<1>>);
        impl NamedMapper for Replace {
            fn change<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                match self.0.remove(name) {
                    Some(moved) => param.map(|value| moved.reshape(value.dims())),
                    None => param,
                }
            }
        }
        self.steps += 1;
        let mut weights = Weights(&gradient, BTreeMap::new());
        visitor::look(&model, &mut weights);
        let work: Vec<_> =
            weights.1.into_iter().map(|(name, weight)| (self.state.remove(&name), gradient.get(&name), name, weight)).collect();
        let moved: Vec<_> = work
            .into_par_iter()
            .filter_map(|(state, gradient, name, weight)| {
                let (weight, state) = self.moved(&name, weight, gradient?, state, learning_rate);
                Some((name, weight, state))
            })
            .collect();
        let mut replace = Replace(BTreeMap::new());
        for (name, weight, state) in moved {
            self.state.insert(name.clone(), state);
            replace.0.insert(name, weight);
        }
        visitor::change(model, &mut replace)
    }

    fn moved(
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

    /// Both running means as named tensors.
    pub fn save(&self) -> BTreeMap<String, TensorData> {
        let data = |tensor: &Tensor<1>| tensor.clone().into_data();
        self.state
            .iter()
            .flat_map(|(name, (mean, square))| [(format!("mean.{name}"), data(mean)), (format!("square.{name}"), data(square))])
            .collect()
    }

    /// Takes back what [`AdamW::save`] gave after so many steps of a model, both means of every trained parameter.
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
            fn look<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                if (self.0)(name) {
                    self.1.push((name.to_owned(), param.shape().num_elements()));
                }
            }
        }
        let mut sizes = Sizes(trained, Vec::new());
        visitor::look(model, &mut sizes);
        let mut take = |name: String, size: usize| -> Result<Tensor<1>> {
            let data = tensors.remove(&name).ok_or_else(|| Error::new(format!("the optimizer's state lacks `{name}`")))?;
            match data.shape().to_vec()[..] {
                [found] if found == size => Ok(Tensor::from_data(data, device)),
                ref found => Err(Error::new(format!("the optimizer's state has `{name}` in shape {found:?}, expected [{size}]"))),
            }
        };
        let mut state = BTreeMap::new();
        for (name, size) in sizes.1 {
            let means = (take(format!("mean.{name}"), size)?, take(format!("square.{name}"), size)?);
            state.insert(name, means);
        }
        if let Some(name) = tensors.keys().next() {
            return Err(Error::new(format!("the optimizer's state holds `{name}`, which belongs to no trained parameter")));
        }
        (self.steps, self.state) = (steps, state);
        Ok(())
    }
}
