//! Voxtral Realtime (Mini 4B, 2602): writes down speech while it is spoken, at most a fixed delay behind it.
//!
//! ```text
//! log-mel [1, 128, frames] → causal encoder [1, frames / 2, 1280] → four rows side by side → projector [1, steps, 3072] ┐
//! the token written last   → embedding [1, steps, 3072] ──────────────────────────────────────────────────────── added ─┘
//!         → decoder [1, steps, 3072] → the embedding again, as head [1, steps, 131072] → the next token
//! ```
//!
//! A step is 80 ms. At each one the model hears the next row of audio and writes one token, most of the time `[STREAMING_PAD]`: nothing
//! is to be said yet. The prompt is `<s>` and as many pads as there are steps of silence in front of the recording and steps of delay.
//! Both halves see a window of what came before, so that a stream needs the same memory however long it is. The numbers are those of the
//! published model; all are read from `config.json`.

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

/// What people call the model.
pub const MODEL_NAME: &str = "Voxtral Realtime";
/// What the spectrogram's floor lies eight decades under.
pub const CEILING: f32 = 1.5;

/// The whole model.
#[derive(Module, Debug)]
pub struct RealtimeModel {
    /// Listens.
    pub audio_tower: CausalAudioEncoder,
    /// Translates rows of audio into rows of text-model width.
    pub multi_modal_projector: Projector,
    /// Writes.
    pub language_model: RealtimeLanguageModel,
    /// Spectrogram frames of one step.
    step_frames: usize,
}

/// What the model remembers of a stream.
#[derive(Debug)]
pub struct RealtimeState {
    heard: EncoderState,
    read: DecoderState,
}

impl RealtimeModel {
    /// Builds the model from a checkpoint or a seed; whatever does not fit is an error of `weights.finish()`, which the caller makes.
    pub fn load(config: &RealtimeConfig, weights: &mut WeightLoader) -> Self {
        let stacked = config.audio_config.hidden_size * config.downsample_factor;
        Self {
            audio_tower: CausalAudioEncoder::load(&config.audio_config, weights),
            multi_modal_projector: Projector::of(stacked, config.text_config.hidden_size, weights),
            language_model: RealtimeLanguageModel { model: RealtimeDecoder::load(&config.text_config, weights, "language_model.model") },
            step_frames: FRAMES_EACH * config.downsample_factor,
        }
    }

    /// The memory of a stream that has not begun, whose text lags `delay` steps behind the sound.
    pub fn memory(&self, delay: usize, device: &Device) -> RealtimeState {
        RealtimeState { heard: self.audio_tower.silent(device), read: self.language_model.model.unread(delay, device) }
    }

    /// Spectrogram frames of one step.
    pub fn step_frames(&self) -> usize {
        self.step_frames
    }

    /// Hears whole steps that follow those in the memory.
    ///
    /// # Shapes
    /// `[1, mels, steps × step frames]` → `[1, steps, text width]`
    pub fn encode(&self, frames: Tensor<3>, memory: &mut RealtimeState) -> Tensor<3> {
        let rows = self.multi_modal_projector.forward(self.audio_tower.forward(frames, &mut memory.heard));
        rows.unsqueeze()
    }

    /// Reads a token and a row of audio for each step and scores what comes next; the ids are within the vocabulary.
    ///
    /// # Shapes
    /// ids `[steps]`, audio `[1, steps, text width]` → `[1, steps, text width]`, which [`RealtimeDecoder::head`] makes scores of
    pub fn read(&self, ids: &[u32], audio: Tensor<3>, memory: &mut RealtimeState) -> Tensor<3> {
        let decoder = &self.language_model.model;
        let ids = super::model::int_tensor(ids.iter().map(|id| i64::from(*id)), &audio.device());
        let tokens: Tensor<2> = decoder.embed_tokens.weight.val().select(0, ids).cast(DType::F32);
        decoder.forward(tokens.unsqueeze::<3>() + audio, &mut memory.read)
    }
}
