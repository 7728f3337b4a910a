//! Linear layer `y = x Wᵀ + b` with an optional LoRA adapter; the weight is f32, bf16 or quantized.

use super::lora_layer::LoraLayer;
use crate::kernels::ops::{MatmulPrecision, QuantType};
use crate::kernels::{ops, quantized};
use crate::weights::{Initializer, WeightLoader};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};

/// Linear layer. The weight has the layout of the Hub checkpoint, `[out, in]`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]` in f32 or bf16, see [`crate::weights::precision::Precision`]. If quantized, the packed bytes of each row.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// LoRA adapter of the frozen weight.
    pub lora: Option<LoraLayer>,
    /// Whether an f32 weight is rounded to bf16 for matrix products; the stored weight stays f32.
    pub rounded: bool,
    /// Bits per weight if quantized (8 or 4), otherwise 0.
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

    /// A layer without bias or adapter from an existing weight, `[out, in]`.
    pub fn of(weight: Param<Tensor<2>>) -> Self {
        let inputs = weight.dims()[1];
        Self { weight, bias: None, lora: None, rounded: false, bits: 0, inputs }
    }

    /// Loads the output head. Its weight is never quantized: every logit depends on it directly.
    pub(crate) fn head(weights: &mut WeightLoader, name: &str, inputs: usize, outputs: usize) -> Self {
        Self::of(weights.matrix(&format!("{name}.weight"), [outputs, inputs], Initializer::Normal(1.0 / (inputs as f32).sqrt())))
    }

    /// `[out, in]`.
    pub fn sides(&self) -> [usize; 2] {
        [self.weight.dims()[0], self.inputs]
    }

    /// The weight as f32, `[out, in]`; dequantized if necessary.
    pub fn dense(&self) -> Tensor<2> {
        let weight = self.weight.val();
        let Some(bits) = self.quant_type() else { return weight.inner().cast(DType::F32) };
        let data = weight.inner().into_data();
        let numbers = quantized::to_f32(data.as_bytes(), self.inputs, bits);
        Tensor::from_data(TensorData::new(numbers, self.sides()), &self.weight.device())
    }

    /// Number of weights minus the number of stored elements; 0 unless the weight is quantized.
    pub fn beyond(&self) -> usize {
        let [outputs, inputs] = self.sides();
        (outputs * inputs).saturating_sub(self.weight.shape().num_elements())
    }

    fn quant_type(&self) -> Option<QuantType> {
        match self.bits {
            8 => Some(QuantType::Q8_0),
            4 => Some(QuantType::Q4_1),
            _ => None,
        }
    }

    /// Applies the layer, including its adapter.
    ///
    /// # Shapes
    /// `[…, in]` → `[…, out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        match &self.lora {
            Some(lora) => lora.forward(x, bias, |x, bias| self.product(x, bias)),
            None => self.product(x, bias),
        }
    }

    /// Fused linear cross-entropy, summed over the rows: the logits are never all in memory. Only for a head without bias and adapter.
    ///
    /// # Shapes
    /// `[rows, in]` and one target id below `out` per row → `[1]`
    pub fn cross_entropy(&self, x: Tensor<2>, targets: &[u32]) -> Tensor<1> {
        ops::cross_entropy(x, self.weight.val(), targets.to_vec())
    }

    /// Precision of matrix products with this weight.
    pub fn factors(&self) -> MatmulPrecision {
        if self.rounded || self.weight.val().dtype() == DType::BF16 { MatmulPrecision::Bf16 } else { MatmulPrecision::F32 }
    }

    /// The frozen layer without its adapter.
    fn product<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        match self.quant_type() {
            Some(bits) => ops::linear_quantized(x, self.weight.val(), bias, bits),
            None => ops::linear(x, self.weight.val(), bias, self.factors()),
        }
    }
}
