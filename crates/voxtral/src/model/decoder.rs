//! The text model: a Llama decoder that continues a prompt in which audio rows stand among token embeddings.

use super::attention::{AttentionMask, attend, merge_heads, split_heads};
use super::config::TextConfig;
use super::kv_cache::{DecoderCache, KvCache};
use super::linear::Linear;
use super::norm::RmsNorm;
use crate::kernels::ops::{rotate, silu_mul};
use crate::weights::{Initializer, WeightLoader};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

/// Embedding, layers, norm and the head that scores the next token.
#[derive(Module, Debug)]
pub struct LanguageModel {
    /// Everything below the head.
    pub model: Decoder,
    /// Scores over the vocabulary; not tied to the embedding.
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

/// Embedding, layers and the last norm.
#[derive(Module, Debug)]
pub struct Decoder {
    /// One row a token.
    pub embed_tokens: Embedding,
    /// The transformer.
    pub layers: Vec<DecoderLayer>,
    /// After the last layer.
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

    /// Every position sees itself and those before it; rows padded on the right need no mask.
    ///
    /// # Shapes
    /// `[batch, length, width]` → the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let rotary = self.rotary(x.dims()[1], &x.device());
        let x = self.layers.iter().fold(x, |x, layer| layer.read(x, &rotary));
        self.norm.forward(x)
    }

    /// The angles of the first positions of rows.
    pub fn rotary(&self, length: usize, device: &Device) -> RotaryEmbedding {
        RotaryEmbedding::new(0..length, &[], self.head_width, self.theta, device)
    }

    /// What the last of the positions that follow those in the cache becomes; positions count from the end of a row's padding. Of the
    /// others the last layer computes keys and values alone, which is all that is ever asked of them.
    ///
    /// # Shapes
    /// `[batch, length, width]` → `[batch, 1, width]`
    pub fn forward_cached(&self, x: Tensor<3>, cache: &mut DecoderCache) -> Tensor<3> {
        let places = cache.advance(x.dims()[1]);
        let rotary = RotaryEmbedding::new(places, cache.pads(), self.head_width, self.theta, &x.device());
        let mask = cache.mask();
        let last = self.layers.len().saturating_sub(1);
        let layers = self.layers.iter().zip(&mut cache.layers).enumerate();
        let x = layers.fold(x, |x, (i, (layer, cache))| {
            let wanted = if i == last { Wanted::Last } else { Wanted::All };
            layer.forward(x, &rotary, mask.clone(), Some(cache), wanted)
        });
        self.norm.forward(Wanted::Last.of(x))
    }
}

/// Of which positions a layer's output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Last,
}

impl Wanted {
    /// # Shapes
    /// `[batch, length, width]` → `[batch, wanted, width]`
    fn of(self, x: Tensor<3>) -> Tensor<3> {
        match (self, x.dims()[1]) {
            (Self::Last, length) if length > 1 => x.narrow(1, length - 1, 1),
            _ => x,
        }
    }
}

/// A table with one row a token.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, width]`; 32-bit or brain floats.
    pub weight: Param<Tensor<2>>,
}

/// Attention and a gated feed-forward block, each behind a norm and added to what came in.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Every position sees those before it.
    pub self_attn: DecoderAttention,
    /// silu(gate) · up, then down.
    pub mlp: Mlp,
    /// Before the attention.
    pub input_layernorm: RmsNorm,
    /// Before the feed-forward block.
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

    /// Every position sees itself and those before it.
    ///
    /// # Shapes
    /// `[batch, length, width]` → the same
    pub fn read(&self, x: Tensor<3>, rotary: &RotaryEmbedding) -> Tensor<3> {
        self.forward(x, rotary, AttentionMask::Causal, None, Wanted::All)
    }

    fn forward(
        &self,
        x: Tensor<3>,
        rotary: &RotaryEmbedding,
        mask: AttentionMask,
        cache: Option<&mut KvCache>,
        wanted: Wanted,
    ) -> Tensor<3> {
        let x = wanted.of(x.clone()) + self.self_attn.forward(self.input_layernorm.forward(x), rotary, mask, cache, wanted);
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x))
    }
}

/// Causal grouped-query attention with rotary positions.
#[derive(Module, Debug)]
pub struct DecoderAttention {
    /// Queries.
    pub q_proj: Linear,
    /// Keys.
    pub k_proj: Linear,
    /// Values.
    pub v_proj: Linear,
    /// Back to the width of the model.
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
        wanted: Wanted,
    ) -> Tensor<3> {
        let q = rotary.turn_last(split_heads(self.q_proj.forward(wanted.of(x.clone())), self.heads));
        let k = rotary.turn(split_heads(self.k_proj.forward(x.clone()), self.key_heads));
        let v = split_heads(self.v_proj.forward(x), self.key_heads);
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        self.o_proj.forward(merge_heads(attend(q, k, v, mask, self.q_proj.factors())))
    }
}

/// The gated feed-forward block.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Through silu, decides what passes.
    pub gate_proj: Linear,
    /// What may pass.
    pub up_proj: Linear,
    /// Back to the width of the model.
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

/// Rotary position embedding in the half-split convention: component i turns with component i + width / 2.
#[derive(Debug)]
pub struct RotaryEmbedding {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl RotaryEmbedding {
    /// The angles of places in rows that are padded by `pads` on the left (an empty list: none is).
    fn new(places: std::ops::Range<usize>, pads: &[usize], width: usize, theta: f64, device: &Device) -> Self {
        // Frequencies and angles in f32, as the reference computes them.
        let frequencies: Vec<f32> = (0..width / 2).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / width as f32)).collect();
        let pads = if pads.is_empty() { &[0] } else { pads };
        let positions = pads.iter().flat_map(|pad| places.clone().map(move |place| place.saturating_sub(*pad) as f32));
        let angles: Vec<f32> =
            positions.flat_map(|position| frequencies.iter().chain(&frequencies).map(move |frequency| position * frequency)).collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|angle| f(*angle)).collect();
            Tensor::from_data(TensorData::new(values, [pads.len(), 1, places.len(), width]), device)
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }

    /// # Shapes
    /// `[batch, heads, length, width]` → the same
    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        rotate(x, self.cos.clone(), self.sin.clone())
    }

    /// The same for the last of the places, as many as there are.
    fn turn_last(&self, x: Tensor<4>) -> Tensor<4> {
        let (all, these) = (self.cos.dims()[2], x.dims()[2]);
        if these == all {
            return self.turn(x);
        }
        let last = |table: &Tensor<4>| table.clone().narrow(2, all - these, these);
        rotate(x, last(&self.cos), last(&self.sin))
    }
}
