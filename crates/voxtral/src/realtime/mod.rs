//! Voxtral Realtime (Mini 4B, 2602): streaming speech recognition with a fixed delay.
//!
//! ```text
//! log-mel [1, 128, frames] → causal encoder [1, frames / 2, 1280] → stack four frames → projector [1, steps, 3072] ──┐
//! previous token           → embedding [1, steps, 3072] ───────────────────────────────────────────────────── added ─┘
//!         → decoder [1, steps, 3072] → tied output head [1, steps, 131072] → next token
//! ```
//!
//! A step is 80 ms. At each step, the model reads one audio embedding and generates one token, usually `[STREAMING_PAD]` (no text yet). The
//! prompt is `<s>` followed by one pad per step of silence before the recording and per step of delay. Encoder and decoder use
//! sliding-window attention, so memory does not grow with the length of the stream. The sizes shown are those of the published model; all
//! sizes are read from `config.json`.

pub mod attention;
pub mod config;
pub mod decoder;
pub mod encoder;
pub mod frames;
pub mod mlp;
pub mod stream;
pub mod transcriber;

use super::model::projector::Projector;
use super::weights::WeightLoader;
use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use config::{FRAMES_EACH, RealtimeConfig};
use decoder::{DecoderState, RealtimeDecoder, RealtimeLanguageModel};
use encoder::{CausalAudioEncoder, EncoderState};

pub use crate::weights::family::REALTIME_NAME as MODEL_NAME;
/// Fixed reference maximum of the log10-mel spectrogram; its floor is 8 decades below.
pub const CEILING: f32 = 1.5;

/// The complete Voxtral Realtime model.
#[derive(Module, Debug)]
pub struct RealtimeModel {
    /// Causal audio encoder.
    pub audio_tower: CausalAudioEncoder,
    /// Maps encoder frames to the decoder's embedding space.
    pub multi_modal_projector: Projector,
    /// Language model.
    pub language_model: RealtimeLanguageModel,
    /// Spectrogram frames per step.
    step_frames: usize,
}

/// State of a stream: convolution context and sliding-window KV caches.
#[derive(Debug)]
pub struct RealtimeState {
    encoder: EncoderState,
    decoder: DecoderState,
}

impl RealtimeModel {
    /// Builds the model from a checkpoint or random weights. Missing or mismatched tensors are reported by `weights.finish()`, which the
    /// caller must call.
    pub fn load(config: &RealtimeConfig, weights: &mut WeightLoader) -> Self {
        let stacked = config.audio_config.hidden_size * config.downsample_factor;
        Self {
            audio_tower: CausalAudioEncoder::load(&config.audio_config, weights),
            multi_modal_projector: Projector::of(stacked, config.text_config.hidden_size, weights),
            language_model: RealtimeLanguageModel { model: RealtimeDecoder::load(&config.text_config, weights, "language_model.model") },
            step_frames: FRAMES_EACH * config.downsample_factor,
        }
    }

    /// The initial state of a stream whose text is `delay` steps behind its audio.
    pub fn memory(&self, delay: usize, device: &Device) -> RealtimeState {
        RealtimeState { encoder: self.audio_tower.silent(device), decoder: self.language_model.model.unread(delay, device) }
    }

    /// Spectrogram frames per step.
    pub fn step_frames(&self) -> usize {
        self.step_frames
    }

    /// Encodes the next frames of a stream, a whole number of steps, to audio embeddings.
    ///
    /// # Shapes
    /// `[1, mels, steps × step frames]` → `[1, steps, text width]`
    pub fn encode(&self, frames: Tensor<3>, state: &mut RealtimeState) -> Tensor<3> {
        let rows = self.multi_modal_projector.forward(self.audio_tower.forward(frames, &mut state.encoder));
        rows.unsqueeze()
    }

    /// Runs the decoder on one token and one audio embedding per step. All ids must be within the vocabulary.
    ///
    /// # Shapes
    /// ids `[steps]`, audio `[1, steps, text width]` → hidden states `[1, steps, text width]`, see [`RealtimeDecoder::head`] for logits
    pub fn read(&self, ids: &[u32], audio: Tensor<3>, state: &mut RealtimeState) -> Tensor<3> {
        let decoder = &self.language_model.model;
        let ids = super::model::int_tensor(ids.iter().map(|id| i64::from(*id)), &audio.device());
        let tokens: Tensor<2> = decoder.embed_tokens.weight.val().select(0, ids).cast(DType::F32);
        decoder.forward(tokens.unsqueeze::<3>() + audio, &mut state.decoder)
    }
}
