//! Reads Mistral's `params.json` as a [`RealtimeConfig`].

use super::{RealtimeAudioConfig, RealtimeConfig, RealtimeTextConfig, default_num_delay_tokens, gelu};
use crate::model::config::fixed::{Fixed, FixedKeys, OFF, OTHER_PARAMS};
use crate::model::config::{RopeParameters, fixed};
use serde::Deserialize;
use serde_json::Value;

/// File name.
pub(super) const FILE: &str = "params.json";

const ENCODER: &str = "multimodal.whisper_model_args.encoder_args";
/// Keys of the decoder with a fixed value.
const FIXED: FixedKeys = &[("use_biases", OFF), ("causal", &[Fixed::Switch(true)])];
/// Keys of the encoder with a fixed value.
const FIXED_ENCODER: FixedKeys = &[
    ("use_biases", &[Fixed::Switch(true)]),
    ("causal", &[Fixed::Switch(true)]),
    ("pos_embed", &[Fixed::Word("rope")]),
    ("ffn_type", &[Fixed::Word("swiglu")]),
    ("norm_type", &[Fixed::Word("rms_norm")]),
];

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
    tied_embeddings: bool,
    sliding_window: Option<usize>,
    ada_rms_norm_t_cond_dim: usize,
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
    head_dim: usize,
    hidden_dim: usize,
    n_heads: usize,
    rope_theta: f64,
    norm_eps: f64,
    sliding_window: Option<usize>,
    audio_encoding_args: Audio,
}

#[derive(Deserialize)]
struct Audio {
    num_mel_bins: usize,
    global_log_mel_max: Option<f32>,
}

#[derive(Deserialize)]
struct Downsample {
    downsample_factor: usize,
}

/// Parses `params.json`; the error is a one-sentence message.
pub(super) fn read(text: &str) -> Result<RealtimeConfig, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for (section, keys) in [("", FIXED), ("", OTHER_PARAMS), (ENCODER, FIXED_ENCODER)] {
        fixed::check(&value, section, keys)?;
    }
    let params: Params = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let Whisper { encoder_args: encoder, downsample_args } = params.multimodal.whisper_model_args;
    if let Some(ceiling) = encoder.audio_encoding_args.global_log_mel_max.filter(|ceiling| *ceiling != crate::realtime::CEILING) {
        return Err(format!("`global_log_mel_max` is {ceiling}; only {} is supported", crate::realtime::CEILING));
    }
    let rope = |theta| Some(RopeParameters { rope_theta: Some(theta), rope_type: None });
    Ok(RealtimeConfig {
        audio_config: RealtimeAudioConfig {
            num_mel_bins: encoder.audio_encoding_args.num_mel_bins,
            hidden_size: encoder.dim,
            num_hidden_layers: encoder.n_layers,
            num_attention_heads: encoder.n_heads,
            head_dim: encoder.head_dim,
            intermediate_size: encoder.hidden_dim,
            sliding_window: encoder.sliding_window,
            rms_norm_eps: encoder.norm_eps,
            rope_parameters: rope(encoder.rope_theta),
            ..RealtimeAudioConfig::default()
        },
        text_config: RealtimeTextConfig {
            vocab_size: params.vocab_size,
            hidden_size: params.dim,
            num_hidden_layers: params.n_layers,
            num_attention_heads: params.n_heads,
            num_key_value_heads: params.n_kv_heads,
            head_dim: params.head_dim,
            intermediate_size: params.hidden_dim,
            sliding_window: params.sliding_window,
            rms_norm_eps: params.norm_eps,
            rope_parameters: rope(params.rope_theta),
            ada_rms_norm_dim: params.ada_rms_norm_t_cond_dim,
            ..RealtimeTextConfig::default()
        },
        downsample_factor: downsample_args.downsample_factor,
        audio_length_per_tok: super::FRAMES_EACH.saturating_mul(downsample_args.downsample_factor),
        default_num_delay_tokens: default_num_delay_tokens(),
        tie_word_embeddings: params.tied_embeddings,
        projector_hidden_act: gelu(),
    })
}
