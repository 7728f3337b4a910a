//! Projector between audio encoder and language model: four stacked encoder frames become one audio embedding (80 ms).

use super::config::VoxtralConfig;
use super::linear::Linear;
use crate::kernels::ops::gelu;
use crate::weights::WeightLoader;
use burn::module::Module;
use burn::tensor::Tensor;

/// Frame stacking and a two-layer MLP with GELU, without biases.
#[derive(Module, Debug)]
pub struct Projector {
    /// From stacked frames to the decoder's hidden size.
    pub linear_1: Linear,
    /// From the decoder's hidden size to itself.
    pub linear_2: Linear,
    stacked: usize,
}

impl Projector {
    pub(crate) fn load(config: &VoxtralConfig, weights: &mut WeightLoader) -> Self {
        Self::of(config.audio_config.intermediate_size, config.text_config.hidden_size, weights)
    }

    /// A projector from `stacked` input values to `width` output values.
    pub(crate) fn of(stacked: usize, width: usize, weights: &mut WeightLoader) -> Self {
        Self {
            linear_1: Linear::load(weights, "multi_modal_projector.linear_1", stacked, width, false),
            linear_2: Linear::load(weights, "multi_modal_projector.linear_2", width, width, false),
            stacked,
        }
    }

    /// Maps encoder output to audio embeddings.
    ///
    /// # Shapes
    /// `[chunks, frames, audio width]` → `[chunks × rows, text width]`, rows = frames × audio width / stacked
    pub fn forward(&self, frames: Tensor<3>) -> Tensor<2> {
        let [chunks, frames_each, width] = frames.dims();
        let stacked = frames.reshape([chunks * frames_each * width / self.stacked, self.stacked]);
        self.linear_2.forward(gelu(self.linear_1.forward(stacked)))
    }
}
