//! Voxtral (Mini and Small, 2507): an audio tower, an adapter and a language model that together write down speech.
//!
//! ```text
//! log-mel [chunks, 128, 3000] → audio tower [chunks, 1500, 1280] → four frames a row → projector [chunks × 375, 3072] ┐
//! prompt  [batch, length] → token embeddings [batch, length, 3072], audio rows in place of [AUDIO] tokens  ←──────────┘
//!         → decoder [batch, length, 3072] → head [batch, length, 131072]
//! ```
//!
//! The numbers are those of Mini-3B; all are read from `config.json`.

pub mod attention;
pub mod config;
pub mod decoder;
pub mod dropout;
pub mod encoder;
pub mod kv_cache;
pub mod linear;
pub mod norm;
pub mod precision;
pub mod projector;
pub mod visitor;

use crate::error::{Error, Result};
use crate::weights::WeightLoader;
use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use config::VoxtralConfig;
use decoder::LanguageModel;
use encoder::AudioEncoder;
use projector::Projector;

/// The whole model.
#[derive(Module, Debug)]
pub struct Voxtral {
    /// Listens.
    pub audio_tower: AudioEncoder,
    /// Translates rows of audio into rows of text-model width.
    pub multi_modal_projector: Projector,
    /// Writes.
    pub language_model: LanguageModel,
    audio_token: usize,
}

/// Token ids of a batch, rows padded to one length.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBatch {
    /// Row by row, `rows × length` ids.
    pub ids: Vec<u32>,
    /// Rows.
    pub rows: usize,
    /// Ids in a row.
    pub length: usize,
}

impl TokenBatch {
    /// Rows side by side, short ones filled up on the left, where a continuation leaves them aligned; and by how much each was.
    pub fn left_padded(rows: &[&[u32]], pad: u32) -> (Self, Vec<usize>) {
        let length = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let pads: Vec<usize> = rows.iter().map(|row| length - row.len()).collect();
        let ids = rows.iter().zip(&pads).flat_map(|(row, pads)| std::iter::repeat_n(pad, *pads).chain(row.iter().copied()));
        (Self { ids: ids.collect(), rows: rows.len(), length }, pads)
    }
}

impl Voxtral {
    /// Builds the model from a checkpoint or a seed; whatever does not fit is an error of `weights.finish()`, which the caller makes.
    pub fn load(config: &VoxtralConfig, weights: &mut WeightLoader) -> Self {
        Self {
            audio_tower: AudioEncoder::load(&config.audio_config, weights),
            multi_modal_projector: Projector::load(config, weights),
            language_model: LanguageModel::load(&config.text_config, weights),
            audio_token: config.audio_token_id as usize,
        }
    }

    /// Scores of every next token at every position.
    ///
    /// # Shapes
    /// tokens `[batch, length]`, features `[chunks, mels, frames]` → `[batch, length, vocabulary]`
    pub fn forward(&self, tokens: &TokenBatch, features: Tensor<3>) -> Result<Tensor<3>> {
        let audio = self.embed_audio(features);
        let embeddings = self.embed(tokens, Some(audio))?;
        Ok(self.language_model.lm_head.forward(self.language_model.model.forward(embeddings)))
    }

    /// # Shapes
    /// `[chunks, mels, frames]` → `[chunks × rows, text width]`
    pub fn embed_audio(&self, features: Tensor<3>) -> Tensor<2> {
        self.multi_modal_projector.forward(self.audio_tower.forward(features))
    }

    /// Token embeddings, in which the rows of audio replace the `[AUDIO]` tokens in order.
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
        // A model may write [AUDIO] itself; without sound that is a token like any other.
        let Some(audio) = audio else { return Ok(rows.reshape([tokens.rows, tokens.length, width])) };
        let spoken = tokens.ids.iter().filter(|id| **id as usize == self.audio_token).count();
        let given = audio.dims()[0];
        if spoken != given {
            return Err(Error::new(format!("the prompt has room for {spoken} rows of audio, but there are {given}")));
        }
        // One gather from both tables: position i keeps its own row unless it is the n-th [AUDIO] token.
        let mut next = tokens.ids.len() as i64 - 1;
        let place = tokens.ids.iter().enumerate().map(|(i, id)| {
            if *id as usize == self.audio_token {
                next += 1;
                next
            } else {
                i as i64
            }
        });
        let place = int_tensor(place.collect::<Vec<_>>(), &device);
        let rows = Tensor::cat(vec![rows, audio], 0).select(0, place);
        Ok(rows.reshape([tokens.rows, tokens.length, width]))
    }
}

/// A row of integers on a device.
pub fn int_tensor(values: impl IntoIterator<Item = i64>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
