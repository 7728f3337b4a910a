//! Voxtral Mini and Small (2507): a Whisper audio encoder, a projector and a Llama decoder that transcribe speech.
//!
//! ```text
//! log-mel [chunks, 128, 3000] → encoder [chunks, 1500, 1280] → stack four frames → projector [chunks × 375, 3072] ┐
//! prompt  [batch, length] → token embeddings [batch, length, 3072], audio embeddings replace [AUDIO] tokens  ←────┘
//!         → decoder [batch, length, 3072] → logits [batch, length, 131072]
//! ```
//!
//! The sizes shown are those of Mini-3B; all sizes are read from `config.json`.

pub mod attention;
pub mod config;
pub mod decoder;
pub mod dropout;
pub mod encoder;
pub mod kv_cache;
pub mod linear;
pub mod lora_layer;
pub mod model_dir;
pub mod norm;
pub mod projector;

use crate::error::{Error, Result};
use crate::weights::WeightLoader;
use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use config::VoxtralConfig;
use decoder::LanguageModel;
use encoder::AudioEncoder;
use linear::Linear;
use projector::Projector;

/// The complete Voxtral model. Field names are the tensor names of the Hub checkpoint.
#[derive(Module, Debug)]
pub struct Voxtral {
    /// Audio encoder (Whisper).
    pub audio_tower: AudioEncoder,
    /// Maps encoder frames to the decoder's embedding space.
    pub multi_modal_projector: Projector,
    /// Language model (Llama).
    pub language_model: LanguageModel,
    audio_token: usize,
}

/// Token ids of a batch, padded to a common length.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBatch {
    /// `rows × length` ids in row-major order.
    pub ids: Vec<u32>,
    /// Number of rows (sequences).
    pub rows: usize,
    /// Ids per row, padding included.
    pub length: usize,
}

impl TokenBatch {
    /// Pads rows on the left, so that generated tokens stay aligned. Returns the batch and the number of padding tokens of each row.
    pub fn left_padded(rows: &[&[u32]], pad: u32) -> (Self, Vec<usize>) {
        let length = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let pads: Vec<usize> = rows.iter().map(|row| length - row.len()).collect();
        let ids = rows.iter().zip(&pads).flat_map(|(row, pads)| std::iter::repeat_n(pad, *pads).chain(row.iter().copied()));
        (Self { ids: ids.collect(), rows: rows.len(), length }, pads)
    }
}

impl Voxtral {
    /// Builds the model from a checkpoint or random weights. Missing or mismatched tensors are reported by `weights.finish()`, which the
    /// caller must call.
    pub fn load(config: &VoxtralConfig, weights: &mut WeightLoader) -> Self {
        Self {
            audio_tower: AudioEncoder::load(&config.audio_config, weights),
            multi_modal_projector: Projector::load(config, weights),
            language_model: LanguageModel::load(&config.text_config, weights),
            audio_token: config.audio_token_id as usize,
        }
    }

    /// Next-token logits at every position.
    ///
    /// # Shapes
    /// tokens `[batch, length]`, features `[chunks, mels, frames]` → `[batch, length, vocabulary]`
    pub fn forward(&self, tokens: &TokenBatch, features: Tensor<3>) -> Result<Tensor<3>> {
        let audio = self.embed_audio(features);
        let embeddings = self.embed(tokens, Some(audio))?;
        Ok(self.language_model.lm_head.forward(self.language_model.model.forward(embeddings)))
    }

    /// Audio embeddings of log-mel features: encoder, then projector.
    ///
    /// # Shapes
    /// `[chunks, mels, frames]` → `[chunks × chunk tokens, text width]`
    pub fn embed_audio(&self, features: Tensor<3>) -> Tensor<2> {
        self.multi_modal_projector.forward(self.audio_tower.forward(features))
    }

    /// Token embeddings; audio embeddings replace the `[AUDIO]` tokens in order. Without `audio`, `[AUDIO]` is an ordinary token.
    ///
    /// # Shapes
    /// tokens `[batch, length]`, audio `[audio tokens, text width]` → `[batch, length, text width]`
    pub fn embed(&self, tokens: &TokenBatch, audio: Option<Tensor<2>>) -> Result<Tensor<3>> {
        let table = self.language_model.model.embed_tokens.weight.val();
        let [vocabulary, width] = table.dims();
        if let Some(id) = tokens.ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::new(format!("token {id} is outside the vocabulary of {vocabulary}"))
                .hint("tekken.json and config.json do not belong together"));
        }
        let device = table.device();
        let rows = table.select(0, int_tensor(tokens.ids.iter().map(|id| i64::from(*id)), &device)).cast(DType::F32);
        // During decoding there is no audio: a generated [AUDIO] token is embedded like any other.
        let Some(audio) = audio else { return Ok(rows.reshape([tokens.rows, tokens.length, width])) };
        let placeholders = tokens.ids.iter().filter(|id| **id as usize == self.audio_token).count();
        let embeddings = audio.dims()[0];
        if placeholders != embeddings {
            return Err(Error::new(format!("the prompt has {placeholders} [AUDIO] tokens, but there are {embeddings} audio embeddings")));
        }
        // A single gather: position i takes its token embedding, or the n-th audio embedding if it is the n-th [AUDIO] token.
        let mut next = tokens.ids.len() as i64 - 1;
        let source = tokens.ids.iter().enumerate().map(|(i, id)| {
            if *id as usize == self.audio_token {
                next += 1;
                next
            } else {
                i as i64
            }
        });
        let source = int_tensor(source.collect::<Vec<_>>(), &device);
        let rows = Tensor::cat(vec![rows, audio], 0).select(0, source);
        Ok(rows.reshape([tokens.rows, tokens.length, width]))
    }
}

/// A one-dimensional integer tensor on a device.
pub fn int_tensor(values: impl IntoIterator<Item = i64>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

impl Voxtral {
    /// Computes matrix products of all linear layers of the blocks and the projector, and attention, in bf16. Stored weights do not change.
    pub fn compute_in_bf16(&mut self) {
        for (_, layer) in self.linears() {
            layer.rounded = true;
        }
    }

    /// All linear layers of the blocks and the projector with their names, in order.
    pub fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        let mut found: Vec<(String, &mut Linear)> = Vec::new();
        for (i, layer) in self.audio_tower.layers.iter_mut().enumerate() {
            let attention = &mut layer.self_attn;
            let parts = [
                ("self_attn.q_proj", &mut attention.q_proj),
                ("self_attn.k_proj", &mut attention.k_proj),
                ("self_attn.v_proj", &mut attention.v_proj),
                ("self_attn.out_proj", &mut attention.out_proj),
                ("fc1", &mut layer.fc1),
                ("fc2", &mut layer.fc2),
            ];
            found.extend(parts.into_iter().map(|(part, linear)| (format!("audio_tower.layers.{i}.{part}"), linear)));
        }
        let projector = &mut self.multi_modal_projector;
        found.push(("multi_modal_projector.linear_1".to_owned(), &mut projector.linear_1));
        found.push(("multi_modal_projector.linear_2".to_owned(), &mut projector.linear_2));
        for (i, layer) in self.language_model.model.layers.iter_mut().enumerate() {
            let (attention, mlp) = (&mut layer.self_attn, &mut layer.mlp);
            let parts = [
                ("self_attn.q_proj", &mut attention.q_proj),
                ("self_attn.k_proj", &mut attention.k_proj),
                ("self_attn.v_proj", &mut attention.v_proj),
                ("self_attn.o_proj", &mut attention.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ];
            found.extend(parts.into_iter().map(|(part, linear)| (format!("language_model.model.layers.{i}.{part}"), linear)));
        }
        found
    }
}
