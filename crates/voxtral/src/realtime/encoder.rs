//! Causal audio encoder for streams: log-mel frames (10 ms) to one hidden state per 20 ms, a block at a time.

use super::attention::{PositionBlock, SlidingWindowAttention, WindowCache, WindowHeads};
use super::config::{FRAMES_EACH, RealtimeAudioConfig};
use super::mlp::SwiGluMlp;
use crate::model::norm::RmsNorm;
use crate::weights::{Initializer, WeightLoader};
use burn::module::{Module, Param};
use burn::tensor::activation::gelu;
use burn::tensor::module::conv1d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};

/// Causal encoder: two convolutions, transformer layers and a final norm.
#[derive(Module, Debug)]
pub struct CausalAudioEncoder {
    /// Convolutions; halve the frame rate.
    pub embedder: ConvEmbedder,
    /// Transformer layers.
    pub layers: Vec<CausalEncoderLayer>,
    /// Final norm.
    pub norm: RmsNorm,
    mels: usize,
    width: usize,
    head_width: usize,
    window: usize,
    theta: f64,
}

/// Encoder state of a stream: convolution context and sliding-window KV caches.
#[derive(Debug)]
pub struct EncoderState {
    frames: Tensor<3>,
    halved: Tensor<3>,
    layers: Vec<WindowCache>,
    rows: usize,
}

impl CausalAudioEncoder {
    pub(super) fn load(config: &RealtimeAudioConfig, weights: &mut WeightLoader) -> Self {
        let (name, width) = ("audio_tower", config.hidden_size);
        Self {
            embedder: ConvEmbedder {
                conv1: CausalConv::load(weights, &format!("{name}.embedder.conv1"), config.num_mel_bins, width),
                conv2: CausalConv::load(weights, &format!("{name}.embedder.conv2"), width, width),
            },
            layers: (0..config.num_hidden_layers)
                .map(|i| CausalEncoderLayer::load(config, weights, &format!("{name}.layers.{i}")))
                .collect(),
            norm: RmsNorm::load(weights, &format!("{name}.norm"), width, config.rms_norm_eps),
            mels: config.num_mel_bins,
            width,
            head_width: config.head_dim,
            window: config.sliding_window.unwrap_or(usize::MAX / 2),
            theta: config.theta(),
        }
    }

    /// The initial state of a stream: zeros as convolution context.
    pub fn silent(&self, device: &Device) -> EncoderState {
        EncoderState {
            frames: Tensor::zeros([1, self.mels, WIDTH - 1], device),
            halved: Tensor::zeros([1, self.width, WIDTH - FRAMES_EACH], device),
            layers: self.layers.iter().map(|_| WindowCache::new(self.window)).collect(),
            rows: 0,
        }
    }

    /// Encodes the next frames of a stream; their number must be even.
    ///
    /// # Shapes
    /// `[1, mels, frames]` → `[1, frames / 2, width]`
    pub fn forward(&self, frames: Tensor<3>, state: &mut EncoderState) -> Tensor<3> {
        let x = gelu(self.embedder.conv1.forward(frames, &mut state.frames, 1));
        let x = gelu(self.embedder.conv2.forward(x, &mut state.halved, FRAMES_EACH)).swap_dims(1, 2);
        let length = x.dims()[1];
        let block = PositionBlock::new(state.rows, length, self.window, self.head_width, self.theta, &x.device());
        state.rows += length;
        let x = self.layers.iter().zip(&mut state.layers).fold(x, |x, (layer, window)| layer.forward(x, &block, window));
        self.norm.forward(x)
    }
}

/// Convolutional front end.
#[derive(Module, Debug)]
pub struct ConvEmbedder {
    /// Stride 1.
    pub conv1: CausalConv,
    /// Stride 2: halves the frame rate.
    pub conv2: CausalConv,
}

/// Kernel size of the convolutions.
const WIDTH: usize = 3;

/// Causal convolution over time.
#[derive(Module, Debug)]
pub struct CausalConv {
    /// `[out, in, 3]`.
    pub weight: Param<Tensor<3>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl CausalConv {
    fn load(weights: &mut WeightLoader, name: &str, inputs: usize, outputs: usize) -> Self {
        let deviation = 1.0 / ((WIDTH * inputs) as f32).sqrt();
        Self {
            weight: weights.take(&format!("{name}.weight"), [outputs, inputs, WIDTH], Initializer::Normal(deviation)),
            bias: weights.take(&format!("{name}.bias"), [outputs], Initializer::Zeros),
        }
    }

    /// `before` contains the frames before `x`, and is replaced by the last frames of `x`.
    fn forward(&self, x: Tensor<3>, before: &mut Tensor<3>, stride: usize) -> Tensor<3> {
        let x = Tensor::cat(vec![before.clone(), x], 2);
        let (length, kept) = (x.dims()[2], before.dims()[2]);
        *before = x.clone().narrow(2, length - kept, kept);
        conv1d(x, self.weight.val(), Some(self.bias.val()), ConvOptions::new([stride], [0], [1], 1))
    }
}

/// Pre-norm encoder layer: sliding-window attention and a SwiGLU block, each with a residual connection.
#[derive(Module, Debug)]
pub struct CausalEncoderLayer {
    /// Sliding-window self-attention.
    pub self_attn: SlidingWindowAttention,
    /// Norm before the attention.
    pub self_attn_layer_norm: RmsNorm,
    /// Norm before the feed-forward block.
    pub final_layer_norm: RmsNorm,
    /// SwiGLU feed-forward block.
    pub mlp: SwiGluMlp,
}

impl CausalEncoderLayer {
    fn load(config: &RealtimeAudioConfig, weights: &mut WeightLoader, name: &str) -> Self {
        let (width, heads, head_width) = (config.hidden_size, config.num_attention_heads, config.head_dim);
        let sizes = WindowHeads { width, heads, key_heads: heads, head_width, biased: true };
        let norm = |weights: &mut WeightLoader, part: &str| RmsNorm::load(weights, &format!("{name}.{part}"), width, config.rms_norm_eps);
        Self {
            self_attn: SlidingWindowAttention::load(sizes, weights, &format!("{name}.self_attn")),
            self_attn_layer_norm: norm(weights, "self_attn_layer_norm"),
            final_layer_norm: norm(weights, "final_layer_norm"),
            mlp: SwiGluMlp::load(width, config.intermediate_size, true, weights, &format!("{name}.mlp")),
        }
    }

    fn forward(&self, x: Tensor<3>, block: &PositionBlock, window: &mut WindowCache) -> Tensor<3> {
        let x = x.clone() + self.self_attn.forward(self.self_attn_layer_norm.forward(x), block, window);
        x.clone() + self.mlp.forward(self.final_layer_norm.forward(x))
    }
}
