//! The checkpoint's target: the one that needs the model.

#![allow(unreachable_pub, reason = "public in the crate of the fuzzers")]

use super::targets::{names, put};
use burn::tensor::Device;
use std::path::Path;
use voxtral::model::Voxtral;
use voxtral::model::config::VoxtralConfig;
use voxtral::weights::precision::Precision;
use voxtral::weights::{WeightLoader, read_tensors};

/// Stands between the files of a checkpoint in several parts.
const BREAK: &[u8] = b"\n--file--\n";

/// The smallest model there can be.
const CONFIG: &str = r#"{
    "audio_config": {"num_mel_bins": 1, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4, "max_source_positions": 1},
    "text_config": {"vocab_size": 2, "hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2, "intermediate_size": 2},
    "audio_token_id": 1
}"#;

/// The same model as Mistral's `params.json` says it; of its text, the widths of heads are read.
const PARAMS: &str = r#"{"dim": 2, "n_layers": 1, "head_dim": 2, "hidden_dim": 2, "n_heads": 1, "n_kv_heads": 1, "rope_theta": 1e6, "norm_eps": 1e-5, "vocab_size": 25,
    "multimodal": {"whisper_model_args": {"downsample_args": {"downsample_factor": 1}, "encoder_args": {
        "dim": 4, "n_layers": 1, "hidden_dim": 4, "n_heads": 1, "max_source_positions": 1, "audio_encoding_args": {"num_mel_bins": 1}}}}}"#;

/// `model.safetensors`, and the same as Mistral's `consolidated.safetensors`; or, with breaks in the input,
/// `model.safetensors.index.json`, `1.safetensors`, `2.safetensors` and so on.
pub fn weights(bytes: &[u8], folder: &Path) -> bool {
    put(folder, "params.json", PARAMS.as_bytes());
    let parts = split(bytes);
    for (number, part) in parts.iter().enumerate() {
        match (number, parts.len()) {
            (_, 1) => put(folder, "consolidated.safetensors", part),
            (0, _) => put(folder, "model.safetensors.index.json", part),
            _ => put(folder, &format!("{number}.safetensors"), part),
        }
        // What adapters and optimizer states are read with.
        put(folder, "adapter_model.safetensors", part);
        if let Err(error) = read_tensors(&folder.join("adapter_model.safetensors")) {
            names(&error, "adapter_model.safetensors");
        }
    }
    let mut taken = load(folder, Precision::Auto);
    if let [whole] = parts.as_slice() {
        // Both forms in one folder: this one is read.
        put(folder, "model.safetensors", whole);
        taken |= load(folder, Precision::Bf16);
    }
    taken
}

/// Loads the model as far as it goes, and looks at what was borrowed from the files.
fn load(folder: &Path, precision: Precision) -> bool {
    let config: VoxtralConfig = serde_json::from_str(CONFIG).expect("this is a config");
    let loaded = WeightLoader::open(folder, config.rope_heads(), precision, &Device::flex()).and_then(|mut weights| {
        Voxtral::load(&config, &mut weights);
        weights.finish()?.audit.passed()
    });
    let taken = loaded.is_ok();
    loaded.unwrap_or_else(|error| names(&error, &folder.display().to_string()));
    taken
}

fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(BREAK.len()).position(|window| window == BREAK) {
        parts.push(&rest[..at]);
        rest = &rest[at + BREAK.len()..];
    }
    parts.push(rest);
    parts
}
