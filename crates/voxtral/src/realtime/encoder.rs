//! The audio tower: a causal encoder that hears a stream piece by piece. Log-mel frames in, one row for every 20 ms out.

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

/// Two convolutions, layers, a last norm.
#[derive(Module, Debug)]
pub struct CausalAudioEncoder {
    /// From frames of the spectrogram to half as many rows.
    pub embedder: ConvEmbedder,
    /// The transformer.
    pub layers: Vec<CausalEncoderLayer>,
    /// After the last layer.
    pub norm: RmsNorm,
    mels: usize,
    width: usize,
    head_width: usize,
    window: usize,
    theta: f64,
}

/// What the tower remembers of what it heard: the last frames for its convolutions and a window of rows for each layer.
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

    /// The memory of a stream that has not begun: silence in front of the convolutions.
    pub fn silent(&self, device: &Device) -> EncoderState {
        EncoderState {
            frames: Tensor::zeros([1, self.mels, WIDTH - 1], device),
            halved: Tensor::zeros([1, self.width, WIDTH - FRAMES_EACH], device),
            layers: self.layers.iter().map(|_| WindowCache::new(self.window)).collect(),
            rows: 0,
        }
    }

    /// Hears the frames that follow those in `heard`; their number is even.
    ///
    /// # Shapes
    /// `[1, mels, frames]` → `[1, frames / 2, width]`
    pub fn forward(&self, frames: Tensor<3>, heard: &mut EncoderState) -> Tensor<3> {
        let x = gelu(self.embedder.conv1.forward(frames, &mut heard.frames, 1));
        let x = gelu(self.embedder.conv2.forward(x, &mut heard.halved, FRAMES_EACH)).swap_dims(1, 2);
        let length = x.dims()[1];
        let block = PositionBlock::new(heard.rows, length, self.window, self.head_width, self.theta, &x.device());
        heard.rows += length;
        let x = self.layers.iter().zip(&mut heard.layers).fold(x, |x, (layer, window)| layer.forward(x, &block, window));
        self.norm.forward(x)
    }
}

/// The convolutions.
#[derive(Module, Debug)]
pub struct ConvEmbedder {
    /// Stride 1.
    pub conv1: CausalConv,
    /// Stride 2: halves the frame rate.
    pub conv2: CausalConv,
}

/// Frames a convolution looks at.
const WIDTH: usize = 3;

/// A convolution along time that looks only back.
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

    /// `before` holds the frames in front of `x`, and afterwards the last ones of `x`.
    fn forward(&self, x: Tensor<3>, before: &mut Tensor<3>, stride: usize) -> Tensor<3> {
        let x = Tensor::cat(vec![before.clone(), x], 2);
        let (length, kept) = (x.dims()[2], before.dims()[2]);
        *before = x.clone().narrow(2, length - kept, kept);
        conv1d(x, self.weight.val(), Some(self.bias.val()), ConvOptions::new([stride], [0], [1], 1))
    }
}

/// Attention and a feed-forward block, each behind a norm and added to what came in.
#[derive(Module, Debug)]
pub struct CausalEncoderLayer {
    /// Every row sees a window of those before it.
    pub self_attn: SlidingWindowAttention,
    /// Before the attention.
    pub self_attn_layer_norm: RmsNorm,
    /// Before the feed-forward block.
    pub final_layer_norm: RmsNorm,
    /// The feed-forward block.
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
