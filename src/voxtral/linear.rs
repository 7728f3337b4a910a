//! y = x Wᵀ + b, with room for a low-rank adapter.

use super::lora::Lora;
use super::weights::{Init, Weights};
use burn::module::{Module, Param};
use burn::tensor::{DType, FloatDType, Tensor, module::linear};

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

    /// The frozen part alone.
    fn product<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        let weight = self.weight.val();
        let weight = if weight.dtype() == DType::F32 { weight } else { weight.cast(FloatDType::F32) };
        linear(x, weight.transpose(), bias)
    }
}
