//! The two normalisations: layer norm in the audio tower, RMS norm in the text model.

use super::weights::{Init, Weights};
use burn::module::{Module, Param};
use burn::tensor::{Tensor, module::layer_norm};

/// Centred and scaled to unit variance, then weight and bias.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    pub(super) fn load(weights: &mut Weights, name: &str, width: usize) -> Self {
        Self {
            weight: weights.take(&format!("{name}.weight"), [width], Init::Ones),
            bias: weights.take(&format!("{name}.bias"), [width], Init::Zeros),
        }
    }

    /// # Shapes
    /// `[…, width]` → the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        layer_norm(x, self.weight.val(), Some(self.bias.val()), 1e-5)
    }
}

/// Scaled to unit mean square, then weighted.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
}

impl RmsNorm {
    pub(super) fn load(weights: &mut Weights, name: &str, width: usize, epsilon: f64) -> Self {
        Self { weight: weights.take(&format!("{name}.weight"), [width], Init::Ones), epsilon }
    }

    /// # Shapes
    /// `[…, width]` → the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let mean_square = x.clone().square().mean_dim(2);
        x * (mean_square + self.epsilon).sqrt().recip() * self.weight.val().unsqueeze()
    }
}
