//! Model configuration, read from transformers' `config.json` or Mistral's `params.json`.

pub mod fixed;
pub mod params;
pub mod preprocessor;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::weights::{RopeHeads, family};
use fixed::{Fixed, FixedKeys, GELU, OFF, OTHER_DECODERS, SILU, UNSET};
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
    /// RoPE scaling; must be absent or of type `default`, Voxtral does not use it.
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

/// Top-level keys with a fixed value.
const FIXED: FixedKeys = &[
    ("model_type", &[Fixed::Word("voxtral")]),
    ("projector_hidden_act", GELU),
    ("quantization_config", UNSET),
    ("tie_word_embeddings", OFF),
];
/// Keys of `audio_config` with a fixed value. `scale_embedding` is not among them: transformers never applies it.
const FIXED_AUDIO: FixedKeys = &[
    ("model_type", &[Fixed::Word("voxtral_encoder"), Fixed::Word("whisper")]),
    ("activation_function", GELU),
    ("hidden_act", GELU),
    ("layer_norm_eps", &[Fixed::Number(1e-5)]),
    ("sliding_window", UNSET),
];
/// Keys of `text_config` with a fixed value. Mistral's decoder without a sliding window is Llama's.
const FIXED_TEXT: FixedKeys = &[
    ("model_type", &[Fixed::Word("llama"), Fixed::Word("mistral")]),
    ("hidden_act", SILU),
    ("sliding_window", UNSET),
    ("use_sliding_window", OFF),
];

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
        let read = if is_mistral { params::read(&text) } else { from_json(&text) };
        let config: Self = read.map_err(|problem| Error::new(format!("{}: {problem}", path.display())))?;
        config.check().map_err(|message| Error::new(format!("{}: {message}", path.display())))?;
        Ok(config)
    }

    /// Every value that the computation depends on, in one line. Two configs with the same line compute the same.
    pub fn signature(&self) -> String {
        let (audio, text) = (&self.audio_config, &self.text_config);
        let sizes = [
            audio.num_mel_bins,
            audio.hidden_size,
            audio.num_hidden_layers,
            audio.num_attention_heads,
            audio.intermediate_size,
            audio.max_source_positions,
            text.vocab_size,
            text.hidden_size,
            text.num_hidden_layers,
            text.num_attention_heads,
            text.num_key_value_heads,
            text.head_dim,
            text.intermediate_size,
        ];
        let sizes = sizes.map(|size| size.to_string()).join(" ");
        format!("voxtral {sizes} {:e} {:e} {}", text.rms_norm_eps, text.theta(), self.audio_token_id)
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
        let is_default = |scaling: &Value| {
            let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
            kind == Some(&json!("default")) && scaling.get("factor").is_none_or(|factor| factor.as_f64() == Some(1.0))
        };
        if text.rope_scaling.as_ref().is_some_and(|scaling| !is_default(scaling)) {
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

/// Parses `config.json`; the error is a one-sentence message. Keys that change the computation and are not read are refused by name.
fn from_json(text: &str) -> std::result::Result<VoxtralConfig, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let sections = [("", FIXED), ("audio_config", FIXED_AUDIO), ("text_config", FIXED_TEXT), ("text_config", OTHER_DECODERS)];
    sections.into_iter().try_for_each(|(section, keys)| fixed::check(&value, section, keys))?;
    check_rope(&value["text_config"]["rope_parameters"], "text_config.rope_parameters")?;
    let config: VoxtralConfig = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let audio = &config.audio_config;
    // transformers derives both from the other sizes and ignores the keys; a file that disagrees was made for something else.
    for (key, size) in [
        ("head_dim", audio.hidden_size.checked_div(audio.num_attention_heads).unwrap_or(0)),
        ("num_key_value_heads", audio.num_attention_heads),
    ] {
        if let Some(found) = value["audio_config"].get(key).filter(|found| !found.is_null() && **found != json!(size)) {
            return Err(format!("`audio_config.{key}` is `{found}`, but the other sizes of the encoder make it {size}"));
        }
    }
    Ok(config)
}

/// An error if a `rope_parameters` section sets more than the base and the type, which [`RopeParameters`] reads.
pub(crate) fn check_rope(rope: &Value, section: &str) -> std::result::Result<(), String> {
    for (key, value) in rope.as_object().into_iter().flatten() {
        let neutral = match key.as_str() {
            "rope_theta" | "rope_type" | "type" => true,
            "factor" | "partial_rotary_factor" => value.as_f64() == Some(1.0),
            // The length that the model was trained with scales nothing by itself.
            "original_max_position_embeddings" | "max_position_embeddings" => true,
            _ => false,
        };
        if !neutral && !value.is_null() {
            return Err(format!("`{section}.{key}` is `{value}`, but Voxtral does not use RoPE scaling"));
        }
    }
    Ok(())
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
    /// `config.json` as transformers 4.54 writes it for Voxtral-Mini-3B-2507.
    fn published() -> Value {
        json!({
            "architectures": ["VoxtralForConditionalGeneration"], "model_type": "voxtral", "audio_token_id": 24, "hidden_size": 3072,
            "projector_hidden_act": "gelu", "torch_dtype": "bfloat16", "vocab_size": 131_072,
            "audio_config": {
                "activation_dropout": 0.0, "activation_function": "gelu", "attention_dropout": 0.0, "dropout": 0.0, "head_dim": 64,
                "hidden_size": 1280, "initializer_range": 0.02, "intermediate_size": 5120, "layerdrop": 0.0, "max_source_positions": 1500,
                "model_type": "voxtral_encoder", "num_attention_heads": 20, "num_hidden_layers": 32, "num_key_value_heads": 20,
                "num_mel_bins": 128, "scale_embedding": false, "vocab_size": 51_866,
            },
            "text_config": {
                "attention_bias": false, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 3072,
                "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131_072, "mlp_bias": false,
                "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 30, "num_key_value_heads": 8, "pretraining_tp": 1,
                "rms_norm_eps": 1e-5, "rope_scaling": null, "rope_theta": 1e8, "sliding_window": null, "use_cache": true,
                "vocab_size": 131_072,
            },
        })
    }

    #[test]
    fn published_configs_load() {
        let mini = published();
        let mut small = mini.clone();
        for (key, value) in [("hidden_size", 5120), ("intermediate_size", 32_768), ("num_hidden_layers", 40)] {
            small["text_config"][key] = json!(value);
        }
        let mut five = mini.clone();
        five["text_config"]["rope_parameters"] = json!({ "rope_theta": 1e8, "rope_type": "default" });
        five["text_config"]["tie_word_embeddings"] = json!(false);
        let mut typed = mini.clone();
        typed["text_config"]["rope_scaling"] = json!({ "rope_type": "default" });
        for config in [mini, small, five, typed] {
            assert_eq!(from_json(&config.to_string()).and_then(|config| config.check()), Ok(()), "{config}");
        }
        let written = from_json(&published().to_string()).unwrap();
        assert_eq!(from_json(&written.to_json().to_string()).unwrap().text_config.theta(), 1e8, "what is written is read");
    }

    #[test]
    fn keys_that_change_the_computation_are_refused_by_name() {
        for (section, key, value) in [
            ("", "model_type", json!("llava")),
            ("", "projector_hidden_act", json!("relu")),
            ("", "quantization_config", json!({ "quant_method": "gptq" })),
            ("", "tie_word_embeddings", json!(true)),
            ("audio_config", "model_type", json!("voxtral_realtime_encoder")),
            ("audio_config", "activation_function", json!("gelu_new")),
            ("audio_config", "layer_norm_eps", json!(1e-6)),
            ("audio_config", "head_dim", json!(80)),
            ("audio_config", "num_key_value_heads", json!(4)),
            ("audio_config", "sliding_window", json!(750)),
            ("text_config", "model_type", json!("gemma2")),
            ("text_config", "hidden_act", json!("gelu_pytorch_tanh")),
            ("text_config", "sliding_window", json!(4096)),
            ("text_config", "attention_bias", json!(true)),
            ("text_config", "mlp_bias", json!(true)),
            ("text_config", "tie_word_embeddings", json!(true)),
            ("text_config", "rope_scaling", json!({ "type": "linear", "factor": 2.0 })),
            ("text_config", "rope_parameters", json!({ "rope_theta": 1e8, "rope_type": "yarn", "factor": 8.0 })),
            ("text_config", "partial_rotary_factor", json!(0.5)),
            ("text_config", "final_logit_softcapping", json!(30.0)),
            ("text_config", "num_local_experts", json!(8)),
        ] {
            let mut config = published();
            if section.is_empty() {
                config[key] = value.clone()
            } else {
                config[section][key] = value.clone()
            }
            let problem = from_json(&config.to_string()).and_then(|config| config.check()).unwrap_err();
            assert!(problem.contains(key) && problem.contains(section), "{key}: {problem}");
        }
    }
}
