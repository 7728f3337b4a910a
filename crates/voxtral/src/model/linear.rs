//! y = x Wᵀ + b, with room for a low-rank adapter.

use crate::kernels::ops::{MatmulPrecision, QuantType};
use crate::kernels::{ops, quantized};
use crate::lora::LoraLayer;
use crate::weights::{Initializer, WeightLoader};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};

/// A linear layer with the weight as the Hub stores it, `[out, in]`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`; 32-bit or brain floats, see [`super::precision::Precision`]. With few `bits`, the bytes of each row.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// A low-rank update learned beside a frozen weight.
    pub lora: Option<LoraLayer>,
    /// Whether a weight of 32-bit floats is rounded to brain floats for products; it stays as exact as it is.
    pub rounded: bool,
    /// How many bits each weight has, if it is quantised; 0 if not.
    bits: usize,
    inputs: usize,
}

impl Linear {
    pub(crate) fn load(weights: &mut WeightLoader, name: &str, inputs: usize, outputs: usize, bias: bool) -> Self {
        Self {
            weight: weights.linear(&format!("{name}.weight"), [outputs, inputs], Initializer::Normal(1.0 / (inputs as f32).sqrt())),
            bits: weights.bits(),
            bias: bias.then(|| weights.take(&format!("{name}.bias"), [outputs], Initializer::Zeros)),
            lora: None,
            rounded: false,
            inputs,
        }
    }

    /// A layer made of a matrix that is there already, `[outputs, inputs]`.
    pub fn of(weight: Param<Tensor<2>>) -> Self {
        let inputs = weight.dims()[1];
        Self { weight, bias: None, lora: None, rounded: false, bits: 0, inputs }
    }

    /// The head, whose weight is never quantised: every token's score hangs on it, and it is read once for each.
    pub(crate) fn head(weights: &mut WeightLoader, name: &str, inputs: usize, outputs: usize) -> Self {
        Self::of(weights.matrix(&format!("{name}.weight"), [outputs, inputs], Initializer::Normal(1.0 / (inputs as f32).sqrt())))
    }

    /// Outputs and inputs.
    pub fn sides(&self) -> [usize; 2] {
        [self.weight.dims()[0], self.inputs]
    }

    /// The weight in 32-bit floats, `[out, in]`, whatever it is kept in.
    pub fn dense(&self) -> Tensor<2> {
        let weight = self.weight.val();
        let Some(bits) = self.quantised() else { return weight.inner().cast(DType::F32) };
        let data = weight.inner().into_data();
        let numbers = quantized::widened(data.as_bytes(), self.inputs, bits);
        Tensor::from_data(TensorData::new(numbers, self.sides()), &self.weight.device())
    }

    /// Numbers that the weight stands for beyond those it holds.
    pub fn beyond(&self) -> usize {
        let [outputs, inputs] = self.sides();
        (outputs * inputs).saturating_sub(self.weight.shape().num_elements())
    }

    fn quantised(&self) -> Option<QuantType> {
        match self.bits {
            8 => Some(QuantType::Eight),
            4 => Some(QuantType::Four),
            _ => None,
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
    pub fn factors(&self) -> MatmulPrecision {
        if self.rounded || self.weight.val().dtype() == DType::BF16 { MatmulPrecision::Bf16 } else { MatmulPrecision::Floats }
    }

    /// The frozen part alone.
    fn product<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        match self.quantised() {
            Some(bits) => ops::linear_quantised(x, self.weight.val(), bias, bits),
            None => ops::linear(x, self.weight.val(), bias, self.factors()),
        }
    }
}
