//! The text model: at every step it reads the token it wrote last and the sound of the same 80 ms, added to each other, and writes the
//! next token.
//!
//! It knows how far its text may lag behind the sound: the delay, as sines and cosines, becomes a scale in every layer.

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

/// The decoder, under the name the Hub's files give it.
#[derive(Module, Debug)]
pub struct RealtimeLanguageModel {
    /// All of it: the head shares the embedding's weights.
    pub model: RealtimeDecoder,
}

/// Embedding, layers and the last norm.
#[derive(Module, Debug)]
pub struct RealtimeDecoder {
    /// One row a token; also the head.
    pub embed_tokens: Embedding,
    /// The transformer.
    pub layers: Vec<RealtimeDecoderLayer>,
    /// After the last layer.
    pub norm: RmsNorm,
    head_width: usize,
    window: usize,
    theta: f64,
}

/// What the decoder remembers of what it read, and the scales of its delay.
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

    /// The memory of a stream that has not begun and whose text lags `delay` steps behind.
    pub fn unread(&self, delay: usize, device: &Device) -> DecoderState {
        let time = time_embedding(delay, self.embed_tokens.weight.val().dims()[1], device);
        DecoderState {
            layers: self.layers.iter().map(|_| WindowCache::new(self.window)).collect(),
            scales: self.layers.iter().map(|layer| layer.ada_rms_norm.scale(time.clone())).collect(),
            steps: 0,
        }
    }

    /// Reads the steps that follow those in `read`.
    ///
    /// # Shapes
    /// `[1, steps, width]` → the same
    pub fn forward(&self, x: Tensor<3>, read: &mut DecoderState) -> Tensor<3> {
        let length = x.dims()[1];
        let block = PositionBlock::new(read.steps, length, self.window, self.head_width, self.theta, &x.device());
        read.steps += length;
        let memory = read.layers.iter_mut().zip(&read.scales);
        let x = self.layers.iter().zip(memory).fold(x, |x, (layer, (window, scale))| layer.forward(x, scale, &block, window));
        self.norm.forward(x)
    }

    /// Scores over the vocabulary.
    ///
    /// # Shapes
    /// `[…, width]` → `[…, vocabulary]`
    pub fn head<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        Linear::of(self.embed_tokens.weight.clone()).forward(x)
    }
}

/// Attention and a gated feed-forward block, each behind a norm and added to what came in; the second norm is scaled by the delay.
#[derive(Module, Debug)]
pub struct RealtimeDecoderLayer {
    /// Every position sees a window of those before it.
    pub self_attn: SlidingWindowAttention,
    /// The feed-forward block.
    pub mlp: SwiGluMlp,
    /// Before the attention.
    pub input_layernorm: RmsNorm,
    /// Before the feed-forward block.
    pub post_attention_layernorm: RmsNorm,
    /// From the delay to a scale.
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

/// 1 + linear2(gelu(linear1 t)).
#[derive(Module, Debug)]
pub struct AdaptiveScale {
    /// Narrows.
    pub linear1: Linear,
    /// Back to the width of the model.
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

/// A number of steps as cosines and sines of falling frequencies, in f32 as the reference computes them.
///
/// # Shapes
/// → `[1, 1, width]`
fn time_embedding(steps: usize, width: usize, device: &Device) -> Tensor<3> {
    let half = width / 2;
    let angle = |j: usize| steps as f32 * (-(10_000f64.ln() as f32) * j as f32 / half as f32).exp();
    let values: Vec<f32> = (0..half).map(|j| angle(j).cos()).chain((0..half).map(|j| angle(j).sin())).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, 2 * half]), device)
}
