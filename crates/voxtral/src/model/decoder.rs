//! Language model: a Llama decoder (grouped-query attention, RoPE, SwiGLU, RMSNorm) over token and audio embeddings.

use super::attention::{AttentionMask, attend, merge_heads, split_heads};
use super::config::TextConfig;
use super::kv_cache::{DecoderCache, KvCache};
use super::linear::Linear;
use super::norm::RmsNorm;
use crate::kernels::ops::{rotate, silu_mul};
use crate::weights::{Initializer, WeightLoader};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

/// The decoder with its output head.
#[derive(Module, Debug)]
pub struct LanguageModel {
    /// The decoder without the head.
    pub model: Decoder,
    /// Output head: logits over the vocabulary. Not tied to the embedding.
    pub lm_head: Linear,
}

impl LanguageModel {
    pub(crate) fn load(config: &TextConfig, weights: &mut WeightLoader) -> Self {
        Self {
            model: Decoder::load(config, weights, "language_model.model"),
            lm_head: Linear::head(weights, "language_model.lm_head", config.hidden_size, config.vocab_size),
        }
    }
}

/// Token embedding, decoder layers and the final norm.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embedding table.
    pub embed_tokens: Embedding,
    /// Transformer layers.
    pub layers: Vec<DecoderLayer>,
    /// Final norm.
    pub norm: RmsNorm,
    head_width: usize,
    theta: f64,
}

impl Decoder {
    fn load(config: &TextConfig, weights: &mut WeightLoader, name: &str) -> Self {
        let shape = [config.vocab_size, config.hidden_size];
        Self {
            embed_tokens: Embedding {
                weight: weights.matrix(&format!("{name}.embed_tokens.weight"), shape, Initializer::Normal(config.initializer_range)),
            },
            layers: (0..config.num_hidden_layers).map(|i| DecoderLayer::load(config, weights, &format!("{name}.layers.{i}"))).collect(),
            norm: RmsNorm::load(weights, &format!("{name}.norm"), config.hidden_size, config.rms_norm_eps),
            head_width: config.head_dim,
            theta: config.theta(),
        }
    }

    /// Full forward pass with causal attention, without a KV cache. Right padding needs no mask.
    ///
    /// # Shapes
    /// `[batch, length, width]` → the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let rotary = self.rotary(x.dims()[1], &x.device());
        let x = self.layers.iter().fold(x, |x, layer| layer.read(x, &rotary));
        self.norm.forward(x)
    }

    /// RoPE tables of positions `0 .. length`.
    pub fn rotary(&self, length: usize, device: &Device) -> RotaryEmbedding {
        RotaryEmbedding::new(0..length, &[], self.head_width, self.theta, device)
    }

    /// Prefill or decoding step with a KV cache: appends `x` to the cache and returns the final hidden state of the last position.
    /// Positions count from the end of a row's left padding. For all other positions, the last layer computes only keys and values.
    ///
    /// # Shapes
    /// `[batch, length, width]` → `[batch, 1, width]`
    pub fn forward_cached(&self, x: Tensor<3>, cache: &mut DecoderCache) -> Tensor<3> {
        let positions = cache.advance(x.dims()[1]);
        let rotary = RotaryEmbedding::new(positions, cache.pads(), self.head_width, self.theta, &x.device());
        let mask = cache.mask();
        let last = self.layers.len().saturating_sub(1);
        let layers = self.layers.iter().zip(&mut cache.layers).enumerate();
        let x = layers.fold(x, |x, (i, (layer, cache))| {
            let outputs = if i == last { Outputs::Last } else { Outputs::All };
            layer.forward(x, &rotary, mask.clone(), Some(cache), outputs)
        });
        self.norm.forward(Outputs::Last.select(x))
    }
}

/// The positions whose output a layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outputs {
    All,
    Last,
}

impl Outputs {
    /// # Shapes
    /// `[batch, length, width]` → `[batch, outputs, width]`
    fn select(self, x: Tensor<3>) -> Tensor<3> {
        match (self, x.dims()[1]) {
            (Self::Last, length) if length > 1 => x.narrow(1, length - 1, 1),
            _ => x,
        }
    }
}

/// Token embedding table.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, width]`, f32 or bf16.
    pub weight: Param<Tensor<2>>,
}

/// Pre-norm decoder layer: self-attention and a SwiGLU feed-forward block, each with a residual connection.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Causal self-attention.
    pub self_attn: DecoderAttention,
    /// SwiGLU feed-forward block.
    pub mlp: Mlp,
    /// Norm before the attention.
    pub input_layernorm: RmsNorm,
    /// Norm before the feed-forward block.
    pub post_attention_layernorm: RmsNorm,
}

impl DecoderLayer {
    fn load(config: &TextConfig, weights: &mut WeightLoader, name: &str) -> Self {
        let norm = |weights: &mut WeightLoader, part: &str| {
            RmsNorm::load(weights, &format!("{name}.{part}"), config.hidden_size, config.rms_norm_eps)
        };
        Self {
            self_attn: DecoderAttention::load(config, weights, &format!("{name}.self_attn")),
            mlp: Mlp::load(config, weights, &format!("{name}.mlp")),
            input_layernorm: norm(weights, "input_layernorm"),
            post_attention_layernorm: norm(weights, "post_attention_layernorm"),
        }
    }

    /// Causal forward pass without a KV cache.
    ///
    /// # Shapes
    /// `[batch, length, width]` → the same
    pub fn read(&self, x: Tensor<3>, rotary: &RotaryEmbedding) -> Tensor<3> {
        self.forward(x, rotary, AttentionMask::Causal, None, Outputs::All)
    }

    fn forward(
        &self,
        x: Tensor<3>,
        rotary: &RotaryEmbedding,
        mask: AttentionMask,
        cache: Option<&mut KvCache>,
        outputs: Outputs,
    ) -> Tensor<3> {
        let x = outputs.select(x.clone()) + self.self_attn.forward(self.input_layernorm.forward(x), rotary, mask, cache, outputs);
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x))
    }
}

/// Causal grouped-query attention (GQA) with rotary position embedding (RoPE).
#[derive(Module, Debug)]
pub struct DecoderAttention {
    /// Query projection.
    pub q_proj: Linear,
    /// Key projection.
    pub k_proj: Linear,
    /// Value projection.
    pub v_proj: Linear,
    /// Output projection.
    pub o_proj: Linear,
    heads: usize,
    key_heads: usize,
}

impl DecoderAttention {
    fn load(config: &TextConfig, weights: &mut WeightLoader, name: &str) -> Self {
        let (width, heads, key_heads) = (config.hidden_size, config.num_attention_heads, config.num_key_value_heads);
        let mut linear = |part: &str, inputs, outputs| Linear::load(weights, &format!("{name}.{part}"), inputs, outputs, false);
        Self {
            q_proj: linear("q_proj", width, heads * config.head_dim),
            k_proj: linear("k_proj", width, key_heads * config.head_dim),
            v_proj: linear("v_proj", width, key_heads * config.head_dim),
            o_proj: linear("o_proj", heads * config.head_dim, width),
            heads,
            key_heads,
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        rotary: &RotaryEmbedding,
        mask: AttentionMask,
        cache: Option<&mut KvCache>,
        outputs: Outputs,
    ) -> Tensor<3> {
        let q = rotary.apply_to_last(split_heads(self.q_proj.forward(outputs.select(x.clone())), self.heads));
        let k = rotary.apply(split_heads(self.k_proj.forward(x.clone()), self.key_heads));
        let v = split_heads(self.v_proj.forward(x), self.key_heads);
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        self.o_proj.forward(merge_heads(attend(q, k, v, mask, self.q_proj.factors())))
    }
}

/// SwiGLU feed-forward block (Shazeer 2020): `down(silu(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Gate projection, followed by SiLU.
    pub gate_proj: Linear,
    /// Up projection.
    pub up_proj: Linear,
    /// Down projection.
    pub down_proj: Linear,
}

impl Mlp {
    fn load(config: &TextConfig, weights: &mut WeightLoader, name: &str) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let mut linear = |part: &str, inputs, outputs| Linear::load(weights, &format!("{name}.{part}"), inputs, outputs, false);
        Self {
            gate_proj: linear("gate_proj", width, inner),
            up_proj: linear("up_proj", width, inner),
            down_proj: linear("down_proj", inner, width),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.down_proj.forward(silu_mul(self.gate_proj.forward(x.clone()), self.up_proj.forward(x)))
    }
}

/// RoPE tables (Su et al. 2021) in the half-split convention: component i is rotated with component i + width / 2.
#[derive(Debug)]
pub struct RotaryEmbedding {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl RotaryEmbedding {
    /// Tables for positions in rows with `pads` tokens of left padding each (empty: no padding).
    fn new(positions: std::ops::Range<usize>, pads: &[usize], width: usize, theta: f64, device: &Device) -> Self {
        // Frequencies and angles are f32, as in transformers.
        let frequencies: Vec<f32> = (0..width / 2).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / width as f32)).collect();
        let pads = if pads.is_empty() { &[0] } else { pads };
        let shifted = pads.iter().flat_map(|pad| positions.clone().map(move |position| position.saturating_sub(*pad) as f32));
        let angles: Vec<f32> =
            shifted.flat_map(|position| frequencies.iter().chain(&frequencies).map(move |frequency| position * frequency)).collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|angle| f(*angle)).collect();
            Tensor::from_data(TensorData::new(values, [pads.len(), 1, positions.len(), width]), device)
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }

    /// Rotates queries or keys.
    ///
    /// # Shapes
    /// `[batch, heads, length, width]` → the same
    fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        rotate(x, self.cos.clone(), self.sin.clone())
    }

    /// Rotates queries of only the last positions.
    fn apply_to_last(&self, x: Tensor<4>) -> Tensor<4> {
        let (all, these) = (self.cos.dims()[2], x.dims()[2]);
        if these == all {
            return self.apply(x);
        }
        let last = |table: &Tensor<4>| table.clone().narrow(2, all - these, these);
        rotate(x, last(&self.cos), last(&self.sin))
    }
}
