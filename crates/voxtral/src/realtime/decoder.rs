//! Streaming decoder: each step (80 ms) reads the sum of a token embedding and an audio embedding, and predicts the next token.
//!
//! The decoder is conditioned on the delay between audio and text: a sinusoidal embedding of the delay becomes a scale in every layer
//! (adaptive RMSNorm).

use super::attention::{PositionBlock, SlidingWindowAttention, WindowCache, WindowHeads};
use super::config::RealtimeTextConfig;
use super::mlp::SwiGluMlp;
use crate::model::decoder::Embedding;
use crate::model::linear::Linear;
use crate::model::norm::RmsNorm;
use crate::weights::{Initializer, WeightLoader};
use burn::module::Module;
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor, TensorData};

/// The decoder, with the field name of the Hub checkpoint.
#[derive(Module, Debug)]
pub struct RealtimeLanguageModel {
    /// The decoder; its output head is tied to the embedding.
    pub model: RealtimeDecoder,
}

/// Token embedding, decoder layers and the final norm.
#[derive(Module, Debug)]
pub struct RealtimeDecoder {
    /// Token embedding, also used as output head (tied weights).
    pub embed_tokens: Embedding,
    /// Transformer layers.
    pub layers: Vec<RealtimeDecoderLayer>,
    /// Final norm.
    pub norm: RmsNorm,
    head_width: usize,
    window: usize,
    theta: f64,
}

/// Decoder state of a stream: sliding-window KV caches, and each layer's scale for the delay.
#[derive(Debug)]
pub struct DecoderState {
    layers: Vec<WindowCache>,
    scales: Vec<Tensor<3>>,
    steps: usize,
}

impl RealtimeDecoder {
    pub(super) fn load(config: &RealtimeTextConfig, weights: &mut WeightLoader, name: &str) -> Self {
        let shape = [config.vocab_size, config.hidden_size];
        Self {
            embed_tokens: Embedding { weight: weights.matrix(&format!("{name}.embed_tokens.weight"), shape, Initializer::Normal(0.02)) },
            layers: (0..config.num_hidden_layers)
                .map(|i| RealtimeDecoderLayer::load(config, weights, &format!("{name}.layers.{i}")))
                .collect(),
            norm: RmsNorm::load(weights, &format!("{name}.norm"), config.hidden_size, config.rms_norm_eps),
            head_width: config.head_dim,
            window: config.sliding_window.unwrap_or(usize::MAX / 2),
            theta: config.theta(),
        }
    }

    /// The initial state of a stream whose text is `delay` steps behind its audio.
    pub fn unread(&self, delay: usize, device: &Device) -> DecoderState {
        let time = time_embedding(delay, self.embed_tokens.weight.val().dims()[1], device);
        DecoderState {
            layers: self.layers.iter().map(|_| WindowCache::new(self.window)).collect(),
            scales: self.layers.iter().map(|layer| layer.ada_rms_norm.scale(time.clone())).collect(),
            steps: 0,
        }
    }

    /// Processes the next steps of a stream.
    ///
    /// # Shapes
    /// `[1, steps, width]` → the same
    pub fn forward(&self, x: Tensor<3>, state: &mut DecoderState) -> Tensor<3> {
        let length = x.dims()[1];
        let block = PositionBlock::new(state.steps, length, self.window, self.head_width, self.theta, &x.device());
        state.steps += length;
        let caches = state.layers.iter_mut().zip(&state.scales);
        let x = self.layers.iter().zip(caches).fold(x, |x, (layer, (window, scale))| layer.forward(x, scale, &block, window));
        self.norm.forward(x)
    }

    /// Logits over the vocabulary.
    ///
    /// # Shapes
    /// `[…, width]` → `[…, vocabulary]`
    pub fn head<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        Linear::of(self.embed_tokens.weight.clone()).forward(x)
    }
}

/// Pre-norm decoder layer: sliding-window attention and a SwiGLU block with residual connections; the second norm is scaled by the delay.
#[derive(Module, Debug)]
pub struct RealtimeDecoderLayer {
    /// Sliding-window self-attention.
    pub self_attn: SlidingWindowAttention,
    /// SwiGLU feed-forward block.
    pub mlp: SwiGluMlp,
    /// Norm before the attention.
    pub input_layernorm: RmsNorm,
    /// Norm before the feed-forward block.
    pub post_attention_layernorm: RmsNorm,
    /// Scale of the second norm, computed from the delay.
    pub ada_rms_norm: AdaptiveScale,
}

impl RealtimeDecoderLayer {
    fn load(config: &RealtimeTextConfig, weights: &mut WeightLoader, name: &str) -> Self {
        let width = config.hidden_size;
        let sizes = WindowHeads {
            width,
            heads: config.num_attention_heads,
            key_heads: config.num_key_value_heads,
            head_width: config.head_dim,
            biased: false,
        };
        let norm = |weights: &mut WeightLoader, part: &str| RmsNorm::load(weights, &format!("{name}.{part}"), width, config.rms_norm_eps);
        Self {
            self_attn: SlidingWindowAttention::load(sizes, weights, &format!("{name}.self_attn")),
            mlp: SwiGluMlp::load(width, config.intermediate_size, false, weights, &format!("{name}.mlp")),
            input_layernorm: norm(weights, "input_layernorm"),
            post_attention_layernorm: norm(weights, "post_attention_layernorm"),
            ada_rms_norm: AdaptiveScale::load(width, config.ada_rms_norm_dim, weights, &format!("{name}.ada_rms_norm")),
        }
    }

    fn forward(&self, x: Tensor<3>, scale: &Tensor<3>, block: &PositionBlock, window: &mut WindowCache) -> Tensor<3> {
        let x = x.clone() + self.self_attn.forward(self.input_layernorm.forward(x), block, window);
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x) * scale.clone())
    }
}

/// Adaptive norm scale: `1 + linear2(gelu(linear1(t)))` of the delay embedding t.
#[derive(Module, Debug)]
pub struct AdaptiveScale {
    /// Down projection.
    pub linear1: Linear,
    /// Up projection.
    pub linear2: Linear,
}

impl AdaptiveScale {
    fn load(width: usize, inner: usize, weights: &mut WeightLoader, name: &str) -> Self {
        Self {
            linear1: Linear::load(weights, &format!("{name}.linear1"), width, inner, false),
            linear2: Linear::load(weights, &format!("{name}.linear2"), inner, width, false),
        }
    }

    fn scale(&self, time: Tensor<3>) -> Tensor<3> {
        self.linear2.forward(gelu(self.linear1.forward(time))) + 1.0
    }
}

/// Sinusoidal embedding of a number of steps (cosines, then sines), computed in f32 as in transformers.
///
/// # Shapes
/// → `[1, 1, width]`
fn time_embedding(steps: usize, width: usize, device: &Device) -> Tensor<3> {
    let half = width / 2;
    let angle = |j: usize| steps as f32 * (-(10_000f64.ln() as f32) * j as f32 / half as f32).exp();
    let values: Vec<f32> = (0..half).map(|j| angle(j).cos()).chain((0..half).map(|j| angle(j).sin())).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, 2 * half]), device)
}
