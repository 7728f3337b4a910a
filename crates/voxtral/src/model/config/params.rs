//! Reads Mistral's `params.json` as a [`VoxtralConfig`].
//!
//! Every parameter that affects the computation is required. Parameters of other architectures are rejected by name.

use super::fixed::{Fixed, FixedKeys, GELU, OFF, OTHER_PARAMS, SILU, UNSET};
use super::{AudioConfig, TextConfig, VoxtralConfig, fixed};
use serde::Deserialize;
use serde_json::Value;

/// File name.
pub const FILE: &str = "params.json";

const ENCODER: &str = "multimodal.whisper_model_args.encoder_args";
/// Keys of the decoder with a fixed value.
const FIXED: FixedKeys = &[("use_biases", OFF), ("activation", SILU), ("causal", &[Fixed::Switch(true)])];
/// Keys of the encoder with a fixed value.
const FIXED_ENCODER: FixedKeys = &[("use_biases", &[Fixed::Switch(true)]), ("activation", GELU), ("sliding_window", UNSET)];
/// Keys of the encoder with the values of Voxtral Realtime's.
const REALTIME: [(&str, &str); 3] = [("pos_embed", "rope"), ("ffn_type", "swiglu"), ("norm_type", "rms_norm")];

#[derive(Deserialize)]
struct Params {
    dim: usize,
    n_layers: usize,
    head_dim: usize,
    hidden_dim: usize,
    n_heads: usize,
    n_kv_heads: usize,
    rope_theta: f64,
    norm_eps: f64,
    vocab_size: usize,
    #[serde(default)]
    max_position_embeddings: Option<usize>,
    #[serde(default)]
    tied_embeddings: bool,
    #[serde(default)]
    sliding_window: Option<Value>,
    #[serde(default)]
    ada_rms_norm_t_cond: bool,
    multimodal: Multimodal,
}

#[derive(Deserialize)]
struct Multimodal {
    whisper_model_args: Whisper,
}

#[derive(Deserialize)]
struct Whisper {
    encoder_args: Encoder,
    downsample_args: Downsample,
}

#[derive(Deserialize)]
struct Encoder {
    dim: usize,
    n_layers: usize,
    hidden_dim: usize,
    n_heads: usize,
    max_source_positions: usize,
    audio_encoding_args: Audio,
    #[serde(default)]
    causal: bool,
}

#[derive(Deserialize)]
struct Audio {
    num_mel_bins: usize,
}

#[derive(Deserialize)]
struct Downsample {
    downsample_factor: usize,
}

/// Parses `params.json`; the error is a one-sentence message.
pub(super) fn read(text: &str) -> Result<VoxtralConfig, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let params: Params = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let Whisper { encoder_args: encoder, downsample_args } = params.multimodal.whisper_model_args;
    if encoder.causal || params.ada_rms_norm_t_cond || params.sliding_window.is_some() {
        return Err("this is a Voxtral Realtime model (causal encoder), not Voxtral Mini or Small (2507)".to_owned());
    }
    for (section, keys) in [("", FIXED), ("", OTHER_PARAMS), (ENCODER, FIXED_ENCODER)] {
        fixed::check(&value, section, keys)?;
    }
    let encoder_args = &value["multimodal"]["whisper_model_args"]["encoder_args"];
    if let Some((key, word)) = REALTIME.into_iter().find(|(key, word)| encoder_args[*key] == *word) {
        return Err(format!("`{ENCODER}.{key}` is `{word}`, which only the encoder of Voxtral Realtime has"));
    }
    if params.tied_embeddings {
        return Err("`tied_embeddings` is true: this is not a Voxtral Mini or Small (2507) checkpoint".to_owned());
    }
    let (factor, stacked) = (downsample_args.downsample_factor, encoder.hidden_dim);
    if factor.checked_mul(encoder.dim) != Some(stacked) {
        return Err(format!("`downsample_factor` {factor} × encoder `dim` {} is not the encoder's `hidden_dim` {stacked}", encoder.dim));
    }
    Ok(VoxtralConfig {
        audio_config: AudioConfig {
            num_mel_bins: encoder.audio_encoding_args.num_mel_bins,
            hidden_size: encoder.dim,
            num_hidden_layers: encoder.n_layers,
            num_attention_heads: encoder.n_heads,
            intermediate_size: stacked,
            max_source_positions: encoder.max_source_positions,
        },
        text_config: TextConfig {
            vocab_size: params.vocab_size,
            hidden_size: params.dim,
            num_hidden_layers: params.n_layers,
            num_attention_heads: params.n_heads,
            num_key_value_heads: params.n_kv_heads,
            head_dim: params.head_dim,
            intermediate_size: params.hidden_dim,
            rms_norm_eps: params.norm_eps,
            rope_theta: Some(params.rope_theta),
            max_position_embeddings: params.max_position_embeddings.unwrap_or(TextConfig::default().max_position_embeddings),
            ..TextConfig::default()
        },
        audio_token_id: super::defaults::audio_token_id(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mini() -> Value {
        json!({
            "dim": 3072, "n_layers": 30, "head_dim": 128, "hidden_dim": 8192, "n_heads": 32, "n_kv_heads": 8, "rope_theta": 1e8,
            "norm_eps": 1e-5, "vocab_size": 131_072, "max_position_embeddings": 131_072,
            "multimodal": { "whisper_model_args": {
                "encoder_args": {
                    "dim": 1280, "n_layers": 32, "head_dim": 64, "hidden_dim": 5120, "n_heads": 20, "vocab_size": 51_866,
                    "max_source_positions": 1500, "audio_encoding_args": { "sampling_rate": 16_000, "num_mel_bins": 128 },
                },
                "downsample_args": { "downsample_factor": 4 },
            } },
        })
    }

    #[test]
    fn mini_is_what_transformers_calls_the_default() {
        let config = read(&mini().to_string()).unwrap();
        assert_eq!(config.audio_config, AudioConfig::default());
        assert_eq!(config.text_config, TextConfig { rope_theta: Some(1e8), ..TextConfig::default() });
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn what_is_missing_or_another_model_is_named() {
        type Change = fn(&mut Value);
        let changes: [(&str, Change); 8] = [
            ("use_biases", |params| params["use_biases"] = true.into()),
            ("moe", |params| params["moe"] = json!({ "num_experts": 8 })),
            ("sliding_window", |params| params["multimodal"]["whisper_model_args"]["encoder_args"]["sliding_window"] = 750.into()),
            ("ffn_type", |params| params["multimodal"]["whisper_model_args"]["encoder_args"]["ffn_type"] = "swiglu".into()),
            ("n_kv_heads", |params| drop(params.as_object_mut().unwrap().remove("n_kv_heads"))),
            ("Realtime", |params| params["multimodal"]["whisper_model_args"]["encoder_args"]["causal"] = true.into()),
            ("tied_embeddings", |params| params["tied_embeddings"] = true.into()),
            ("downsample_factor", |params| params["multimodal"]["whisper_model_args"]["downsample_args"]["downsample_factor"] = 8.into()),
        ];
        for (word, change) in changes {
            let mut params = mini();
            change(&mut params);
            let problem = read(&params.to_string()).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        }
    }
}
