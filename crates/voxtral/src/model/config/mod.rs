//! Model configuration, read from transformers' `config.json` or Mistral's `params.json`.

pub mod params;
pub mod preprocessor;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::weights::{RopeHeads, family};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Configuration of Voxtral Mini and Small (2507).
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VoxtralConfig {
    /// Audio encoder.
    pub audio_config: AudioConfig,
    /// Language model.
    pub text_config: TextConfig,
    /// Id of `[AUDIO]`, the placeholder token that audio embeddings replace.
    #[serde(default = "defaults::audio_token_id")]
    pub audio_token_id: u32,
}

/// Configuration of the Whisper encoder. Missing fields default to Voxtral-Mini-3B.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct AudioConfig {
    /// Mel bins of the spectrogram.
    pub num_mel_bins: usize,
    /// Hidden size.
    #[serde(alias = "d_model")]
    pub hidden_size: usize,
    /// Number of transformer layers.
    #[serde(alias = "encoder_layers")]
    pub num_hidden_layers: usize,
    /// Attention heads.
    #[serde(alias = "encoder_attention_heads")]
    pub num_attention_heads: usize,
    /// Hidden size of the feed-forward block; also the input size of the projector.
    #[serde(alias = "encoder_ffn_dim")]
    pub intermediate_size: usize,
    /// Encoder frames per chunk (1500 = 30 s of audio): half the number of spectrogram frames.
    pub max_source_positions: usize,
}

/// Configuration of the Llama decoder. Missing fields default to Voxtral-Mini-3B.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Vocabulary size.
    pub vocab_size: usize,
    /// Hidden size.
    pub hidden_size: usize,
    /// Number of transformer layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key/value heads (grouped-query attention).
    pub num_key_value_heads: usize,
    /// Size of a head; heads × `head_dim` may differ from `hidden_size`.
    pub head_dim: usize,
    /// Hidden size of the feed-forward block (SwiGLU).
    pub intermediate_size: usize,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// Length of the context: prompt and transcript in tokens.
    pub max_position_embeddings: usize,
    /// RoPE base, where transformers 4 writes it.
    pub rope_theta: Option<f64>,
    /// RoPE parameters, where transformers 5 writes them.
    pub rope_parameters: Option<RopeParameters>,
    /// Standard deviation of randomly initialized token embeddings.
    pub initializer_range: f32,
    /// RoPE scaling; must be absent, Voxtral does not use it.
    pub rope_scaling: Option<Value>,
    /// Whether the output head shares the embedding's weights; must be false.
    pub tie_word_embeddings: bool,
}

/// RoPE parameters in the format of transformers 5.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RopeParameters {
    /// RoPE base.
    pub rope_theta: Option<f64>,
    /// Must be `default` or absent.
    pub rope_type: Option<String>,
}

mod defaults {
    pub(super) fn audio_token_id() -> u32 {
        24
    }
}

impl Default for AudioConfig {
    fn default() -> Self {
        Self {
            num_mel_bins: 128,
            hidden_size: 1280,
            num_hidden_layers: 32,
            num_attention_heads: 20,
            intermediate_size: 5120,
            max_source_positions: 1500,
        }
    }
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 131_072,
            hidden_size: 3072,
            num_hidden_layers: 30,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 128,
            intermediate_size: 8192,
            rms_norm_eps: 1e-5,
            max_position_embeddings: 131_072,
            rope_theta: None,
            rope_parameters: None,
            initializer_range: 0.02,
            rope_scaling: None,
            tie_word_embeddings: false,
        }
    }
}

impl AudioConfig {
    /// Spectrogram frames per chunk.
    pub fn chunk_frames(&self) -> usize {
        2 * self.max_source_positions
    }

    /// Audio embeddings (and `[AUDIO]` tokens) per chunk; the projector stacks several encoder frames into one.
    pub fn chunk_tokens(&self) -> usize {
        self.max_source_positions * self.hidden_size / self.intermediate_size
    }
}

impl TextConfig {
    /// RoPE base; defaults to 1e8.
    pub fn theta(&self) -> f64 {
        self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).or(self.rope_theta).unwrap_or(1e8)
    }
}

impl VoxtralConfig {
    /// Head widths, to read Mistral's interleaved RoPE rows. Voxtral Mini and Small have no RoPE in the encoder.
    pub fn rope_heads(&self) -> RopeHeads {
        RopeHeads { audio: 0, text: self.text_config.head_dim }
    }

    /// Reads `config.json` of a model folder, or `params.json` if there is no `config.json`.
    pub fn read(folder: &Path) -> Result<Self> {
        if family::is_realtime(folder) {
            return Err(Error::new(format!(
                "`{}` holds {}, which can transcribe but cannot be trained here: its training needs word timestamps",
                folder.display(),
                family::REALTIME_NAME
            ))
            .environment()
            .hint("train Voxtral-Mini-3B-2507 or Voxtral-Small-24B-2507"));
        }
        let (path, mistral) = (folder.join("config.json"), folder.join(params::FILE));
        let (path, is_mistral) = if path.exists() || !mistral.exists() { (path, false) } else { (mistral, true) };
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display())).map_err(|error| {
            error.kind(ErrorKind::Other).hint("a model folder must contain config.json, model.safetensors and tekken.json, as on the Hub")
        })?;
        let read = if is_mistral { params::read(&text) } else { serde_json::from_str(&text).map_err(|error| error.to_string()) };
        let config: Self = read.map_err(|problem| Error::new(format!("{}: {problem}", path.display())))?;
        config.check().map_err(|message| Error::new(format!("{}: {message}", path.display())))?;
        Ok(config)
    }

    /// The contents of `config.json` in transformers' format, for a base model that has only `params.json`.
    pub fn to_json(&self) -> Value {
        let (audio, text) = (&self.audio_config, &self.text_config);
        json!({
            "architectures": ["VoxtralForConditionalGeneration"], "model_type": "voxtral", "torch_dtype": "float32",
            "audio_token_id": self.audio_token_id, "projector_hidden_act": "gelu", "hidden_size": text.hidden_size,
            "audio_config": {
                "model_type": "voxtral_encoder", "activation_function": "gelu", "num_mel_bins": audio.num_mel_bins,
                "hidden_size": audio.hidden_size, "num_hidden_layers": audio.num_hidden_layers,
                "num_attention_heads": audio.num_attention_heads, "intermediate_size": audio.intermediate_size,
                "max_source_positions": audio.max_source_positions, "scale_embedding": false, "vocab_size": 51_866,
            },
            "text_config": {
                "model_type": "llama", "hidden_act": "silu", "vocab_size": text.vocab_size, "hidden_size": text.hidden_size,
                "num_hidden_layers": text.num_hidden_layers, "num_attention_heads": text.num_attention_heads,
                "num_key_value_heads": text.num_key_value_heads, "head_dim": text.head_dim,
                "intermediate_size": text.intermediate_size, "rms_norm_eps": text.rms_norm_eps, "rope_theta": text.theta(),
                "rope_scaling": null, "max_position_embeddings": text.max_position_embeddings, "tie_word_embeddings": false, "attention_bias": false,
                "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2,
            },
        })
    }

    /// Rejects impossible shapes and unsupported architectures.
    fn check(&self) -> std::result::Result<(), String> {
        let (audio, text) = (&self.audio_config, &self.text_config);
        let sizes = [
            ("audio_config.num_mel_bins", audio.num_mel_bins),
            ("audio_config.hidden_size", audio.hidden_size),
            ("audio_config.num_attention_heads", audio.num_attention_heads),
            ("audio_config.intermediate_size", audio.intermediate_size),
            ("text_config.vocab_size", text.vocab_size),
            ("text_config.hidden_size", text.hidden_size),
            ("text_config.num_attention_heads", text.num_attention_heads),
            ("text_config.num_key_value_heads", text.num_key_value_heads),
            ("text_config.head_dim", text.head_dim),
            ("text_config.intermediate_size", text.intermediate_size),
        ];
        let counts = [
            ("audio_config.num_hidden_layers", audio.num_hidden_layers, 1 << 10),
            ("text_config.num_hidden_layers", text.num_hidden_layers, 1 << 10),
            ("audio_config.max_source_positions", audio.max_source_positions, 1 << 16),
        ];
        for (name, count, max) in counts {
            if count == 0 || count > max {
                return Err(format!("`{name}` is {count}, which is out of range"));
            }
        }
        for (name, size) in sizes {
            if size == 0 || size > 1 << 24 {
                return Err(format!("`{name}` is {size}, which is out of range"));
            }
        }
        if audio.hidden_size < 4 || !audio.hidden_size.is_multiple_of(2) || !audio.hidden_size.is_multiple_of(audio.num_attention_heads) {
            return Err("`audio_config.hidden_size` must be even and divisible by `num_attention_heads`".into());
        }
        if !(audio.max_source_positions * audio.hidden_size).is_multiple_of(audio.intermediate_size) {
            return Err("a chunk (`max_source_positions` × `hidden_size`) must be a multiple of `intermediate_size`".into());
        }
        if !text.num_attention_heads.is_multiple_of(text.num_key_value_heads) {
            return Err("`text_config.num_attention_heads` must be a multiple of `num_key_value_heads`".into());
        }
        if !text.head_dim.is_multiple_of(2) {
            return Err("`text_config.head_dim` must be even for rotary position embedding".into());
        }
        if self.audio_token_id as usize >= text.vocab_size {
            return Err("`audio_token_id` is outside the vocabulary".into());
        }
        if text.rope_scaling.is_some() {
            return Err("`text_config.rope_scaling` is set, but Voxtral does not use RoPE scaling".into());
        }
        let positive = |value: f64| value > 0.0 && value.is_finite();
        if !positive(text.theta()) || !positive(text.rms_norm_eps) || !positive(f64::from(text.initializer_range)) {
            return Err("`rope_theta`, `rms_norm_eps` and `initializer_range` must be positive numbers".into());
        }
        if text.tie_word_embeddings {
            return Err("`text_config.tie_word_embeddings` is true: this is not a Voxtral Mini or Small (2507) checkpoint".into());
        }
        match text.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref()) {
            None | Some("default") => Ok(()),
            Some(other) => Err(format!("`text_config.rope_parameters.rope_type` is `{other}`; Voxtral uses `default`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_and_the_defaults() {
        let four: VoxtralConfig =
            serde_json::from_str(r#"{"audio_config":{"head_dim":64},"text_config":{"rope_theta":1e6,"rope_scaling":null}}"#).unwrap();
        let five: VoxtralConfig =
            serde_json::from_str(r#"{"audio_config":{},"text_config":{"rope_parameters":{"rope_theta":1e6,"rope_type":"default"}}}"#)
                .unwrap();
        assert_eq!((four.text_config.theta(), five.text_config.theta()), (1e6, 1e6));
        assert_eq!((four.audio_config.chunk_frames(), four.audio_config.chunk_tokens()), (3000, 375));
        assert_eq!(four.check(), Ok(()));
    }

    #[test]
    fn impossible_shapes_are_named() {
        let bad: VoxtralConfig = serde_json::from_str(r#"{"audio_config":{},"text_config":{"num_key_value_heads":7}}"#).unwrap();
        assert!(bad.check().unwrap_err().contains("num_key_value_heads"));
        let huge: VoxtralConfig = serde_json::from_str(r#"{"audio_config":{},"text_config":{"vocab_size":99999999999}}"#).unwrap();
        assert!(huge.check().unwrap_err().contains("vocab_size"));
    }
}
