//! y = x Wᵀ + b, with room for a low-rank adapter.

use super::lora::Lora;
use super::weights::{Init, Weights};
use crate::kernels::ops::{self, Factors};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};

/// A linear layer with the weight as the Hub stores it, `[out, in]`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`; 32-bit or brain floats, see [`super::precision::Precision`].
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// A low-rank update learned beside a frozen weight.
    pub lora: Option<Lora>,
    /// Whether a weight of 32-bit floats is rounded to brain floats for products; it stays as exact as it is.
    pub rounded: bool,
}

impl Linear {
    pub(super) fn load(weights: &mut Weights, name: &str, inputs: usize, outputs: usize, bias: bool) -> Self {
        Self {
            weight: weights.matrix(&format!("{name}.weight"), [outputs, inputs], Init::Normal(1.0 / (inputs as f32).sqrt())),
            bias: bias.then(|| weights.take(&format!("{name}.bias"), [outputs], Init::Zeros)),
            lora: None,
            rounded: false,
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

    /// What products with this weight are made of.
    pub fn factors(&self) -> Factors {
        if self.rounded || self.weight.val().dtype() == DType::BF16 { Factors::BrainFloats } else { Factors::Floats }
    }

    /// The frozen part alone.
    fn product<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), bias, self.factors())
    }
}
