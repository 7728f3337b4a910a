//! Speech recognizer for Voxtral Mini and Small: model, tokenizer, feature extraction and prompt.

use super::encoder_cache::FeatureCache;
pub use super::generate::SpecialTokens;
pub use super::transcribe::{TokenLimit, TranscribeEvent, Transcript, Utterance};
use crate::audio::log_mel::HOP;
use crate::audio::{Features, LogMel};
use crate::device;
use crate::error::{Error, Result};
use crate::lora;
use crate::lora::ModelPart;
use crate::model::Voxtral;
use crate::model::config::{VoxtralConfig, preprocessor};
use crate::tokenizer::{Tokenizer, prompt};
use crate::weights::precision::Precision;
use crate::weights::{LoadReport, WeightLoader};
use burn::tensor::{Device, Tensor, TensorData};
use std::path::Path;

/// A speech recognizer.
#[derive(Debug)]
pub struct Transcriber {
    /// Model configuration.
    pub config: VoxtralConfig,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
    /// Model.
    pub model: Voxtral,
    /// Device of the weights.
    pub device: Device,
    /// Precision of the weights, their finite check, and a note for the user.
    pub loaded: LoadReport,
    /// Log-mel spectrogram extractor.
    pub mel: LogMel,
    /// Cache of the frozen encoder's outputs, if enabled.
    pub feature_cache: Option<FeatureCache>,
    special: SpecialTokens,
}

/// Source of the weights.
#[derive(Clone, Copy, Debug)]
pub enum WeightsFrom {
    /// The folder's safetensors files.
    Checkpoint,
    /// Random initialization with this seed; the folder needs only the config and the tokenizer.
    Random(u64),
}

impl WeightsFrom {
    /// Identity of the weights, from the digest of the model folder.
    #[must_use]
    pub fn identity(self, digest: &str) -> String {
        format!("{digest} {self:?}")
    }
}

impl Transcriber {
    /// Opens a model folder laid out as on the Hub (`config.json`, `model.safetensors`, `tekken.json`) with the weights as stored, on the
    /// best available device.
    ///
    /// # Errors
    /// If a file is missing, damaged or of an unsupported architecture; the message names it.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let device = device::choose("auto")?.device;
        Self::open_with(folder.as_ref(), WeightsFrom::Checkpoint, Precision::Auto, &device)
    }

    /// Opens a model folder with the given weight source, precision and device.
    pub fn open_with(folder: &Path, start: WeightsFrom, precision: Precision, device: &Device) -> Result<Self> {
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
            WeightsFrom::Checkpoint => WeightLoader::open(folder, config.rope_heads(), precision, device)?,
            WeightsFrom::Random(seed) => WeightLoader::random(seed, device).precision(precision),
        };
        let model = Voxtral::load(&config, &mut weights);
        let loaded = weights.finish()?;
        let id = |key: &str, token: &str| match preprocessor::token(folder, key, &config)? {
            Some(id) => Ok(id),
            None => tokenizer.special(token),
        };
        let special = SpecialTokens { eos: id("eos_token_id", "</s>")?, pad: id("pad_token_id", "<pad>")? };
        let mel = LogMel::new(config.audio_config.num_mel_bins);
        Ok(Self { config, tokenizer, model, device: device.clone(), loaded, mel, feature_cache: None, special })
    }

    /// Loads a LoRA adapter from a folder. An adapter on the encoder or projector disables the feature cache.
    pub fn adapt(&mut self, adapter: &Path) -> Result<()> {
        lora::load(&mut self.model, adapter)?;
        if self.model.linears().iter().any(|(name, layer)| layer.lora.is_some() && ModelPart::of(name) != ModelPart::Text) {
            self.feature_cache = None;
        }
        Ok(())
    }

    /// Special token ids.
    pub fn special(&self) -> SpecialTokens {
        self.special
    }

    /// Number of audio chunks for `samples` samples.
    pub fn chunks(&self, samples: usize) -> usize {
        samples.div_ceil(self.capacity())
    }

    /// Samples per chunk.
    pub fn capacity(&self) -> usize {
        self.config.audio_config.chunk_frames() * HOP
    }

    /// Log-mel features of a clip, split into chunks.
    pub fn features(&self, samples: &[f32]) -> Result<Features> {
        self.mel.features(samples, self.config.audio_config.chunk_frames())
    }

    /// The transcription prompt for a clip of `chunks` chunks.
    pub fn prompt(&self, language: Option<&str>, chunks: usize) -> Result<Vec<u32>> {
        prompt::transcription(&self.tokenizer, language, chunks * self.config.audio_config.chunk_tokens())
    }
}

/// Concatenates the chunks of several clips into one tensor.
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
