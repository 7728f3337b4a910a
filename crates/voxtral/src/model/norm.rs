//! Layer normalization (Whisper encoder) and RMSNorm (Llama decoder).

use crate::kernels::ops;
use crate::weights::{Initializer, WeightLoader};
use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// Layer normalization with weight and bias, epsilon 1e-5.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    pub(crate) fn load(weights: &mut WeightLoader, name: &str, width: usize) -> Self {
        Self {
            weight: weights.take(&format!("{name}.weight"), [width], Initializer::Ones),
            bias: weights.take(&format!("{name}.bias"), [width], Initializer::Zeros),
        }
    }

    /// # Shapes
    /// `[…, width]` → the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), 1e-5)
    }
}

/// RMSNorm (Zhang & Sennrich 2019): `x / √(mean(x²) + ε) · weight`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
}

impl RmsNorm {
    pub(crate) fn load(weights: &mut WeightLoader, name: &str, width: usize, epsilon: f64) -> Self {
        Self { weight: weights.take(&format!("{name}.weight"), [width], Initializer::Ones), epsilon }
    }

    /// # Shapes
    /// `[…, width]` → the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::rms_norm(x, self.weight.val(), self.epsilon)
    }
}
