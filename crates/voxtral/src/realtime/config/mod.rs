//! Voxtral Realtime configuration, read from transformers' `config.json` or Mistral's `params.json`; stream padding from `tekken.json`.

mod params;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::model::config::fixed::{Fixed, FixedKeys, OTHER_DECODERS, UNSET};
use crate::model::config::{RopeParameters, check_rope, fixed};
use crate::weights::RopeHeads;
use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::path::Path;

pub use crate::weights::family::{REALTIME_MODEL_TYPE as MODEL_TYPE, is_realtime};
/// Spectrogram frames per encoder frame; the second convolution has stride 2.
pub const FRAMES_EACH: usize = 2;
/// Maximum delay, in steps of 80 ms.
pub const MAX_DELAY: usize = 30;

/// Configuration of Voxtral Realtime.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RealtimeConfig {
    /// Audio encoder.
    pub audio_config: RealtimeAudioConfig,
    /// Language model.
    pub text_config: RealtimeTextConfig,
    /// Encoder frames stacked into one audio embedding.
    #[serde(default = "downsample_factor")]
    pub downsample_factor: usize,
    /// Spectrogram frames per step.
    #[serde(default = "audio_length_per_tok")]
    pub audio_length_per_tok: usize,
    /// Default delay between audio and text, in steps of 80 ms.
    #[serde(default = "default_num_delay_tokens")]
    pub default_num_delay_tokens: usize,
    /// Whether the output head shares the embedding's weights; must be true.
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// Activation function of the projector; must be `gelu`.
    #[serde(default = "gelu")]
    pub projector_hidden_act: String,
}

/// Configuration of the causal encoder. Missing fields default to Voxtral-Mini-4B-Realtime.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct RealtimeAudioConfig {
    /// Mel bins of the spectrogram.
    pub num_mel_bins: usize,
    /// Hidden size.
    #[serde(alias = "d_model")]
    pub hidden_size: usize,
    /// Number of transformer layers.
    #[serde(alias = "encoder_layers")]
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    #[serde(alias = "encoder_attention_heads")]
    pub num_attention_heads: usize,
    /// Size of a head; heads × `head_dim` may differ from `hidden_size`.
    pub head_dim: usize,
    /// Hidden size of the feed-forward block (SwiGLU).
    #[serde(alias = "encoder_ffn_dim")]
    pub intermediate_size: usize,
    /// Attention window in frames, including the current one; `None` for unlimited.
    pub sliding_window: Option<usize>,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// RoPE parameters.
    pub rope_parameters: Option<RopeParameters>,
    /// Activation function after the convolutions; must be `gelu`.
    pub activation_function: String,
    /// Activation function of the feed-forward gate; must be `silu`.
    pub hidden_act: String,
}

/// Configuration of the decoder. Missing fields default to Voxtral-Mini-4B-Realtime.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct RealtimeTextConfig {
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
    /// Size of a head.
    pub head_dim: usize,
    /// Hidden size of the feed-forward block (SwiGLU).
    pub intermediate_size: usize,
    /// Attention window in positions, including the current one; `None` for unlimited.
    pub sliding_window: Option<usize>,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// RoPE parameters.
    pub rope_parameters: Option<RopeParameters>,
    /// Hidden size of the adaptive RMSNorm block, which maps the delay to a scale.
    pub ada_rms_norm_dim: usize,
    /// Activation function of the feed-forward gate; must be `silu`.
    pub hidden_act: String,
}

/// Silence before a recording and delay, in steps of 80 ms, from `tekken.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPadding {
    /// Steps of silence before the recording.
    pub left: usize,
    /// Delay between audio and text; `None` to use the config's default.
    pub delay: Option<usize>,
}

/// Keys with a fixed value that no field reads.
const FIXED: FixedKeys = &[("quantization_config", UNSET)];
const FIXED_AUDIO: FixedKeys = &[("model_type", &[Fixed::Word("voxtral_realtime_encoder")])];
const FIXED_TEXT: FixedKeys =
    &[("model_type", &[Fixed::Word("voxtral_realtime_text")]), ("tie_word_embeddings", &[Fixed::Switch(true)]), ("rope_scaling", UNSET)];

fn downsample_factor() -> usize {
    4
}

fn audio_length_per_tok() -> usize {
    8
}

fn default_num_delay_tokens() -> usize {
    6
}

fn yes() -> bool {
    true
}

fn gelu() -> String {
    "gelu".to_owned()
}

impl Default for RealtimeAudioConfig {
    fn default() -> Self {
        Self {
            num_mel_bins: 128,
            hidden_size: 1280,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            head_dim: 64,
            intermediate_size: 5120,
            sliding_window: Some(750),
            rms_norm_eps: 1e-5,
            rope_parameters: None,
            activation_function: gelu(),
            hidden_act: "silu".to_owned(),
        }
    }
}

impl Default for RealtimeTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 131_072,
            hidden_size: 3072,
            num_hidden_layers: 26,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 128,
            intermediate_size: 9216,
            sliding_window: Some(8192),
            rms_norm_eps: 1e-5,
            rope_parameters: None,
            ada_rms_norm_dim: 32,
            hidden_act: "silu".to_owned(),
        }
    }
}

impl RealtimeAudioConfig {
    /// RoPE base; defaults to 1e6.
    pub fn theta(&self) -> f64 {
        theta(self.rope_parameters.as_ref())
    }
}

impl RealtimeTextConfig {
    /// RoPE base; defaults to 1e6.
    pub fn theta(&self) -> f64 {
        theta(self.rope_parameters.as_ref())
    }
}

fn theta(rope: Option<&RopeParameters>) -> f64 {
    rope.and_then(|rope| rope.rope_theta).unwrap_or(1e6)
}

impl RealtimeConfig {
    /// Head widths, to read Mistral's interleaved RoPE rows.
    pub fn rope_heads(&self) -> RopeHeads {
        RopeHeads { audio: self.audio_config.head_dim, text: self.text_config.head_dim }
    }

    /// Reads `config.json` of a model folder, or `params.json` if there is no `config.json`.
    pub fn read(folder: &Path) -> Result<Self> {
        let (path, mistral) = (folder.join("config.json"), folder.join(params::FILE));
        let (path, is_mistral) = if path.exists() || !mistral.exists() { (path, false) } else { (mistral, true) };
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display())).map_err(|error| {
            error.kind(ErrorKind::Other).hint("a model folder must contain config.json, model.safetensors and tekken.json, as on the Hub")
        })?;
        let wrong = |problem: String| Error::new(format!("{}: {problem}", path.display()));
        let config: Self = if is_mistral { params::read(&text).map_err(wrong)? } else { from_json(&text).map_err(wrong)? };
        config.check().map_err(wrong)?;
        Ok(config)
    }

    /// Rejects impossible shapes and unsupported architectures.
    fn check(&self) -> Result<(), String> {
        let (audio, text) = (&self.audio_config, &self.text_config);
        let window = |window: Option<usize>| window.unwrap_or(1 << 20);
        let sizes = [
            ("audio_config.num_mel_bins", audio.num_mel_bins, 1 << 10),
            ("audio_config.hidden_size", audio.hidden_size, 1 << 20),
            ("audio_config.num_hidden_layers", audio.num_hidden_layers, 1 << 10),
            ("audio_config.num_attention_heads", audio.num_attention_heads, 1 << 12),
            ("audio_config.head_dim", audio.head_dim, 1 << 12),
            ("audio_config.intermediate_size", audio.intermediate_size, 1 << 20),
            ("audio_config.sliding_window", window(audio.sliding_window), 1 << 20),
            ("text_config.vocab_size", text.vocab_size, 1 << 24),
            ("text_config.hidden_size", text.hidden_size, 1 << 20),
            ("text_config.num_hidden_layers", text.num_hidden_layers, 1 << 10),
            ("text_config.num_attention_heads", text.num_attention_heads, 1 << 12),
            ("text_config.num_key_value_heads", text.num_key_value_heads, 1 << 12),
            ("text_config.head_dim", text.head_dim, 1 << 12),
            ("text_config.intermediate_size", text.intermediate_size, 1 << 20),
            ("text_config.sliding_window", window(text.sliding_window), 1 << 20),
            ("text_config.ada_rms_norm_dim", text.ada_rms_norm_dim, 1 << 20),
            ("downsample_factor", self.downsample_factor, 1 << 8),
            ("default_num_delay_tokens", self.default_num_delay_tokens, MAX_DELAY),
        ];
        if let Some((name, size, _)) = sizes.iter().find(|(_, size, max)| *size == 0 || size > max) {
            return Err(format!("`{name}` is {size}, which is out of range"));
        }
        if !text.num_attention_heads.is_multiple_of(text.num_key_value_heads) {
            return Err(format!("{} query heads are not a multiple of {} key heads", text.num_attention_heads, text.num_key_value_heads));
        }
        for (name, value) in [("audio_config", audio.head_dim), ("text_config", text.head_dim), ("text_config", text.hidden_size)] {
            if !value.is_multiple_of(2) {
                return Err(format!("`{name}` has an odd width, {value}; RoPE needs an even one"));
            }
        }
        if self.audio_length_per_tok != FRAMES_EACH * self.downsample_factor {
            return Err(format!(
                "`audio_length_per_tok` is {}, but one step is {} encoder frames of {FRAMES_EACH} spectrogram frames",
                self.audio_length_per_tok, self.downsample_factor
            ));
        }
        if !self.tie_word_embeddings {
            return Err("`tie_word_embeddings` is false: this is not a Voxtral Realtime checkpoint".to_owned());
        }
        for (name, found, known) in [
            ("projector_hidden_act", &self.projector_hidden_act, "gelu"),
            ("audio_config.activation_function", &audio.activation_function, "gelu"),
            ("audio_config.hidden_act", &audio.hidden_act, "silu"),
            ("text_config.hidden_act", &text.hidden_act, "silu"),
        ] {
            if found != known {
                return Err(format!("`{name}` is `{found}`; only `{known}` is supported"));
            }
        }
        for (name, rope) in [("audio_config", &audio.rope_parameters), ("text_config", &text.rope_parameters)] {
            let kind = rope.as_ref().and_then(|rope| rope.rope_type.as_deref()).unwrap_or("default");
            if kind != "default" {
                return Err(format!("`{name}.rope_parameters.rope_type` is `{kind}`; only `default` is supported"));
            }
        }
        for (name, value, min) in [
            ("audio_config.rms_norm_eps", audio.rms_norm_eps, 0.0),
            ("text_config.rms_norm_eps", text.rms_norm_eps, 0.0),
            ("audio_config.rope_parameters.rope_theta", audio.theta(), 1.0),
            ("text_config.rope_parameters.rope_theta", text.theta(), 1.0),
        ] {
            if !value.is_finite() || value < min {
                return Err(format!("`{name}` is {value}, which is out of range"));
            }
        }
        Ok(())
    }
}

fn from_json(text: &str) -> Result<RealtimeConfig, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if value["model_type"] != MODEL_TYPE {
        return Err(format!("the model type is {}, not \"{MODEL_TYPE}\"", value["model_type"]));
    }
    let sections = [("", FIXED), ("audio_config", FIXED_AUDIO), ("text_config", FIXED_TEXT), ("text_config", OTHER_DECODERS)];
    sections.into_iter().try_for_each(|(section, keys)| fixed::check(&value, section, keys))?;
    for section in ["audio_config", "text_config"] {
        check_rope(&value[section]["rope_parameters"], &format!("{section}.rope_parameters"))?;
    }
    let heads = &value["audio_config"]["num_key_value_heads"];
    if !heads.is_null() && !value["audio_config"]["num_attention_heads"].is_null() && *heads != value["audio_config"]["num_attention_heads"]
    {
        return Err(format!("`audio_config.num_key_value_heads` is `{heads}`, but the encoder has as many key as query heads"));
    }
    // Required: transformers' default RoPE base differs from that of the published models.
    if value["audio_config"]["rope_parameters"]["rope_theta"].is_null() {
        return Err("`audio_config.rope_parameters.rope_theta` is missing".to_owned());
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

impl StreamPadding {
    /// Reads the `audio` section of `tekken.json`; missing values default to the published file.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            audio: Option<Audio>,
        }
        #[derive(Deserialize)]
        struct Audio {
            transcription_delay_ms: Option<f64>,
            streaming_n_left_pad_tokens: Option<usize>,
            frame_rate: Option<f64>,
            sampling_rate: Option<f64>,
        }
        let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let wrong = |problem: String| Error::new(format!("{}: {problem}", path.display())).hint("download the tokenizer file again");
        let file: File = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let Some(audio) = file.audio else { return Ok(Self { left: LEFT, delay: None }) };
        if audio.frame_rate.is_some_and(|rate| rate != 12.5) || audio.sampling_rate.is_some_and(|rate| rate != 16_000.0) {
            return Err(wrong("`audio` must have `frame_rate` 12.5 (steps of 80 ms) and `sampling_rate` 16000".to_owned()));
        }
        let left = audio.streaming_n_left_pad_tokens.unwrap_or(LEFT);
        let steps = audio.transcription_delay_ms.map(|delay| delay / 80.0);
        if left > 1024 || steps.is_some_and(|steps| steps.fract() != 0.0 || !(1.0..=MAX_DELAY as f64).contains(&steps)) {
            return Err(wrong("`audio.transcription_delay_ms` or `audio.streaming_n_left_pad_tokens` is out of range".to_owned()));
        }
        Ok(Self { left, delay: steps.map(|steps| steps as usize) })
    }
}

/// Default number of steps of silence before a recording.
const LEFT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn published() -> Value {
        json!({
            "model_type": "voxtral_realtime", "text_config": { "rope_parameters": { "rope_theta": 1e6, "rope_type": "default" } },
            "audio_config": { "rope_parameters": { "rope_theta": 1e6, "rope_type": "default" } },
        })
    }

    #[test]
    fn what_is_left_out_is_as_published() {
        let config = from_json(&published().to_string()).unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!((config.audio_config.sliding_window, config.text_config.intermediate_size), (Some(750), 9216));
        assert_eq!((config.default_num_delay_tokens, config.audio_config.theta()), (6, 1e6));
    }

    #[test]
    fn what_cannot_be_is_named() {
        type Change = fn(&mut Value);
        let changes: [(&str, Change); 11] = [
            ("text_config.model_type", |config| config["text_config"]["model_type"] = "llama".into()),
            ("text_config.attention_bias", |config| config["text_config"]["attention_bias"] = true.into()),
            ("text_config.hidden_act", |config| config["text_config"]["hidden_act"] = "gelu".into()),
            ("rope_parameters.factor", |config| config["text_config"]["rope_parameters"]["factor"] = 4.0.into()),
            ("model type", |config| config["model_type"] = "voxtral".into()),
            ("rope_theta", |config| config["audio_config"]["rope_parameters"] = Value::Null),
            ("head_dim", |config| config["text_config"]["head_dim"] = 0.into()),
            ("odd width", |config| config["audio_config"]["head_dim"] = 7.into()),
            ("key heads", |config| config["text_config"]["num_key_value_heads"] = 5.into()),
            ("tie_word_embeddings", |config| config["tie_word_embeddings"] = false.into()),
            ("`yarn`", |config| config["text_config"]["rope_parameters"]["rope_type"] = "yarn".into()),
        ];
        for (word, change) in changes {
            let mut config = published();
            change(&mut config);
            let problem = from_json(&config.to_string()).and_then(|config| config.check()).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        }
    }
}
