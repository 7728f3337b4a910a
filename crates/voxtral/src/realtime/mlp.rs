//! SwiGLU feed-forward block (Shazeer 2020) of encoder and decoder.

use crate::model::linear::Linear;
use crate::weights::WeightLoader;
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

/// SwiGLU: `down(silu(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct SwiGluMlp {
    /// Gate projection, followed by SiLU.
    pub gate_proj: Linear,
    /// Up projection.
    pub up_proj: Linear,
    /// Down projection.
    pub down_proj: Linear,
}

impl SwiGluMlp {
    pub(super) fn load(width: usize, inner: usize, biased: bool, weights: &mut WeightLoader, name: &str) -> Self {
        let mut linear = |part: &str, inputs, outputs, bias| Linear::load(weights, &format!("{name}.{part}"), inputs, outputs, bias);
        Self {
            gate_proj: linear("gate_proj", width, inner, false),
            up_proj: linear("up_proj", width, inner, false),
            down_proj: linear("down_proj", inner, width, biased),
        }
    }

    /// # Shapes
    /// `[batch, length, width]` → the same
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.down_proj.forward(silu(self.gate_proj.forward(x.clone())) * self.up_proj.forward(x))
    }
}
