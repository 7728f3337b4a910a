//! y = x Wᵀ + b, with room for a low-rank adapter.

use super::lora::Lora;
use super::weights::{Init, Weights};
use crate::kernels::ops;
use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// A linear layer with the weight as the Hub stores it, `[out, in]`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`; 32-bit or brain floats, see [`super::precision::Precision`].
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// A low-rank update learned beside a frozen weight.
    pub lora: Option<Lora>,
}

impl Linear {
    pub(super) fn load(weights: &mut Weights, name: &str, inputs: usize, outputs: usize, bias: bool) -> Self {
        Self {
            weight: weights.matrix(&format!("{name}.weight"), [outputs, inputs], Init::Normal(1.0 / (inputs as f32).sqrt())),
            bias: bias.then(|| weights.take(&format!("{name}.bias"), [outputs], Init::Zeros)),
            lora: None,
        }
    }

    /// # Shapes
    /// `[…, in]` → `[…, out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        match &self.lora {
            Some(lora) => lora.forward(x, bias, |x, bias| self.product(x, bias)),
            None => self.product(x, bias),
        }
    }

    /// The summed cross-entropy of tokens under the scores of a head, which has no bias and no adapter, and never are all in memory.
    ///
    /// # Shapes
    /// `[rows, in]`, a target for each row, below `out` → `[1]`
    pub fn cross_entropy(&self, x: Tensor<2>, targets: &[u32]) -> Tensor<1> {
        ops::cross_entropy(x, self.weight.val(), targets.to_vec())
    }

    /// The frozen part alone.
    fn product<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), bias)
    }
}
