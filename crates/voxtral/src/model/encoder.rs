//! Audio encoder (Whisper): log-mel spectrogram (10 ms frames) to one hidden state per 20 ms.

use super::attention::{AttentionMask, attend, merge_heads, split_heads};
use super::config::AudioConfig;
use super::linear::Linear;
use super::norm::LayerNorm;
use crate::kernels::ops::gelu;
use crate::weights::{Initializer, WeightLoader};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::conv1d;
use burn::tensor::ops::ConvOptions;

/// Whisper encoder: two convolutions, sinusoidal positions, transformer layers and a final norm.
#[derive(Module, Debug)]
pub struct AudioEncoder {
    /// Kernel size 3, stride 1.
    pub conv1: EncoderConv,
    /// Kernel size 3, stride 2: halves the frame rate.
    pub conv2: EncoderConv,
    /// Sinusoidal position table; never trained.
    pub embed_positions: PositionTable,
    /// Transformer layers.
    pub layers: Vec<EncoderLayer>,
    /// Final norm.
    pub layer_norm: LayerNorm,
}

impl AudioEncoder {
    pub(crate) fn load(config: &AudioConfig, weights: &mut WeightLoader) -> Self {
        let (name, width) = ("audio_tower", config.hidden_size);
        Self {
            conv1: EncoderConv::load(weights, &format!("{name}.conv1"), config.num_mel_bins, width),
            conv2: EncoderConv::load(weights, &format!("{name}.conv2"), width, width),
            embed_positions: PositionTable {
                weight: weights.take(
                    &format!("{name}.embed_positions.weight"),
                    [config.max_source_positions, width],
                    Initializer::Sinusoids,
                ),
            },
            layers: (0..config.num_hidden_layers).map(|i| EncoderLayer::load(config, weights, &format!("{name}.layers.{i}"))).collect(),
            layer_norm: LayerNorm::load(weights, &format!("{name}.layer_norm"), width),
        }
    }

    /// Encodes chunks independently. Silence at the end of a chunk is not masked.
    ///
    /// # Shapes
    /// `[chunks, mels, frames]` → `[chunks, frames / 2, width]`
    pub fn forward(&self, features: Tensor<3>) -> Tensor<3> {
        let x = self.layers.iter().fold(self.begin(features), |x, layer| layer.forward(x));
        self.layer_norm.forward(x)
    }

    /// Input of the first layer: convolutions with GELU, plus positions.
    ///
    /// # Shapes
    /// `[chunks, mels, frames]` → `[chunks, frames / 2, width]`
    pub fn begin(&self, features: Tensor<3>) -> Tensor<3> {
        let x = gelu(self.conv1.forward(features, 1));
        let x = gelu(self.conv2.forward(x, 2)).swap_dims(1, 2);
        x + self.embed_positions.weight.val().unsqueeze()
    }
}

/// Convolution over time with kernel size 3 and one frame of padding on both sides.
#[derive(Module, Debug)]
pub struct EncoderConv {
    /// `[out, in, 3]`.
    pub weight: Param<Tensor<3>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl EncoderConv {
    fn load(weights: &mut WeightLoader, name: &str, inputs: usize, outputs: usize) -> Self {
        Self {
            weight: weights.take(&format!("{name}.weight"), [outputs, inputs, 3], Initializer::Normal(1.0 / (3.0 * inputs as f32).sqrt())),
            bias: weights.take(&format!("{name}.bias"), [outputs], Initializer::Zeros),
        }
    }

    fn forward(&self, x: Tensor<3>, stride: usize) -> Tensor<3> {
        conv1d(x, self.weight.val(), Some(self.bias.val()), ConvOptions::new([stride], [1], [1], 1))
    }
}

/// Position embedding table.
#[derive(Module, Debug)]
pub struct PositionTable {
    /// `[positions, width]`.
    pub weight: Param<Tensor<2>>,
}

/// Pre-norm encoder layer: self-attention and a GELU feed-forward block, each with a residual connection.
#[derive(Module, Debug)]
pub struct EncoderLayer {
    /// Bidirectional self-attention.
    pub self_attn: EncoderAttention,
    /// Norm before the attention.
    pub self_attn_layer_norm: LayerNorm,
    /// First linear layer of the feed-forward block.
    pub fc1: Linear,
    /// Second linear layer of the feed-forward block.
    pub fc2: Linear,
    /// Norm before the feed-forward block.
    pub final_layer_norm: LayerNorm,
}

impl EncoderLayer {
    fn load(config: &AudioConfig, weights: &mut WeightLoader, name: &str) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        Self {
            self_attn: EncoderAttention::load(weights, &format!("{name}.self_attn"), width, config.num_attention_heads),
            self_attn_layer_norm: LayerNorm::load(weights, &format!("{name}.self_attn_layer_norm"), width),
            fc1: Linear::load(weights, &format!("{name}.fc1"), width, inner, true),
            fc2: Linear::load(weights, &format!("{name}.fc2"), inner, width, true),
            final_layer_norm: LayerNorm::load(weights, &format!("{name}.final_layer_norm"), width),
        }
    }

    /// # Shapes
    /// `[chunks, frames, width]` → the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.self_attn.forward(self.self_attn_layer_norm.forward(x));
        x.clone() + self.fc2.forward(gelu(self.fc1.forward(self.final_layer_norm.forward(x))))
    }
}

/// Multi-head self-attention without a mask.
#[derive(Module, Debug)]
pub struct EncoderAttention {
    /// Query projection.
    pub q_proj: Linear,
    /// Key projection; in Whisper it has no bias.
    pub k_proj: Linear,
    /// Value projection.
    pub v_proj: Linear,
    /// Output projection.
    pub out_proj: Linear,
    heads: usize,
}

impl EncoderAttention {
    fn load(weights: &mut WeightLoader, name: &str, width: usize, heads: usize) -> Self {
        let mut linear = |part: &str, bias| Linear::load(weights, &format!("{name}.{part}"), width, width, bias);
        Self {
            q_proj: linear("q_proj", true),
            k_proj: linear("k_proj", false),
            v_proj: linear("v_proj", true),
            out_proj: linear("out_proj", true),
            heads,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let q = split_heads(self.q_proj.forward(x.clone()), self.heads);
        let k = split_heads(self.k_proj.forward(x.clone()), self.heads);
        let v = split_heads(self.v_proj.forward(x), self.heads);
        self.out_proj.forward(merge_heads(attend(q, k, v, AttentionMask::None, self.q_proj.factors())))
    }
}
