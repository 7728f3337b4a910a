//! A model with all it needs to turn samples into text: tokenizer, features, prompt, decoding.

use super::encoder_cache::FeatureCache;
pub use super::generate::SpecialTokens;
pub use super::transcribe::{TokenLimit, TranscribeEvent, Transcript, Utterance};
use crate::audio::log_mel::HOP;
use crate::audio::{Features, LogMel};
use crate::error::{Error, Result};
use crate::lora;
use crate::lora::ModelPart;
use crate::model::Voxtral;
use crate::model::config::{VoxtralConfig, preprocessor};
use crate::model::precision::Precision;
use crate::tokenizer::{Tokenizer, prompt};
use crate::weights::{LoadReport, WeightLoader};
use burn::tensor::{Device, Tensor, TensorData};
use std::path::Path;

/// A speech recogniser.
#[derive(Debug)]
pub struct Transcriber {
    /// The dimensions.
    pub config: VoxtralConfig,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The network.
    pub model: Voxtral,
    /// Where it lives.
    pub device: Device,
    /// How the matrices are kept, and whether the files behind them can be trusted.
    pub loaded: LoadReport,
    /// Makes the spectrograms it hears.
    pub mel: LogMel,
    /// Where it keeps what its audio tower and projector make of clips, if anywhere.
    pub memory: Option<FeatureCache>,
    special: SpecialTokens,
}

/// Where the weights come from.
#[derive(Clone, Copy, Debug)]
pub enum WeightsFrom {
    /// The safetensors files of the folder.
    Checkpoint,
    /// This seed; the folder holds only the config and the tokenizer.
    Random(u64),
}

impl WeightsFrom {
    /// What decides which weights a folder with this digest gives.
    #[must_use]
    pub fn identity(self, digest: &str) -> String {
        format!("{digest} {self:?}")
    }
}

impl Transcriber {
    /// Opens a model folder as on the Hub (`config.json`, `model.safetensors`, `tekken.json`).
    pub fn open(folder: &Path, start: WeightsFrom, precision: Precision, device: &Device) -> Result<Self> {
        let config = VoxtralConfig::read(folder)?;
        preprocessor::check(folder, &config)?;
        let tokenizer = Tokenizer::read(&folder.join("tekken.json"))?;
        let (known, audio) = (config.text_config.vocab_size, tokenizer.special("[AUDIO]")?);
        if tokenizer.vocab_size() > known || audio != config.audio_token_id {
            return Err(Error::new(format!(
                "`{}`: tekken.json has {} tokens with [AUDIO] = {audio}, config.json says {known} and {}",
                folder.display(),
                tokenizer.vocab_size(),
                config.audio_token_id
            ))
            .hint("config.json and tekken.json do not belong together"));
        }
        let mut weights = match start {
            WeightsFrom::Checkpoint => WeightLoader::open(folder, precision, device)?,
            WeightsFrom::Random(seed) => WeightLoader::random(seed, device).precision(precision),
        };
        let model = Voxtral::load(&config, &mut weights);
        let loaded = weights.finish()?;
        let id = |key: &str, token: &str| match preprocessor::token(folder, key, &config)? {
            Some(id) => Ok(id),
            None => tokenizer.special(token),
        };
        let special = SpecialTokens { end: id("eos_token_id", "</s>")?, pad: id("pad_token_id", "<pad>")? };
        let mel = LogMel::new(config.audio_config.num_mel_bins);
        Ok(Self { config, tokenizer, model, device: device.clone(), loaded, mel, memory: None, special })
    }

    /// Puts the adapter of a folder on the model. One that changes what the model hears ends its memory.
    pub fn adapt(&mut self, adapter: &Path) -> Result<()> {
        lora::load(&mut self.model, adapter)?;
        if self.model.linears().iter().any(|(name, layer)| layer.lora.is_some() && ModelPart::of(name) != ModelPart::Text) {
            self.memory = None;
        }
        Ok(())
    }

    /// The ids with a meaning of their own.
    pub fn special(&self) -> SpecialTokens {
        self.special
    }

    /// How many chunks of audio so many samples are.
    pub fn chunks(&self, samples: usize) -> usize {
        samples.div_ceil(self.capacity())
    }

    /// How many samples fit in a chunk.
    pub fn capacity(&self) -> usize {
        self.config.audio_config.chunk_frames() * HOP
    }

    /// The log-mel spectrogram of a clip, in as many chunks as it needs.
    pub fn features(&self, samples: &[f32]) -> Result<Features> {
        self.mel.features(samples, self.config.audio_config.chunk_frames())
    }

    /// The transcription request for a clip of so many chunks.
    pub fn prompt(&self, language: Option<&str>, chunks: usize) -> Result<Vec<u32>> {
        prompt::transcription(&self.tokenizer, language, chunks * self.config.audio_config.chunk_tokens())
    }
}

/// The chunks of several clips as one tensor.
///
/// # Shapes
/// → `[chunks, mels, frames]`
pub fn stack<'a>(clips: impl Iterator<Item = &'a Features>, device: &Device) -> Tensor<3> {
    let (mut data, mut chunks, mut mels, mut frames) = (Vec::new(), 0, 0, 0);
    for clip in clips {
        data.extend_from_slice(&clip.data);
        chunks += clip.chunks;
        (mels, frames) = (clip.mels, clip.frames);
    }
    Tensor::from_data(TensorData::new(data, [chunks, mels, frames]), device)
}
