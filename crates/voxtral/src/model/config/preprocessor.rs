//! Checks a model folder's feature extractor settings and special tokens against this implementation.
//!
//! The log-mel spectrogram is fixed (see [`crate::audio::log_mel`]). A model that expects other features would be transcribed wrongly, so
//! it is rejected.

use super::VoxtralConfig;
use crate::audio::SAMPLE_RATE;
use crate::audio::log_mel::{HOP, WINDOW};
use crate::error::{Error, Result, ResultExt};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Checks `preprocessor_config.json`, or `feature_extractor` in `processor_config.json`, against the model config. A folder with neither
/// file passes.
pub fn check(folder: &Path, config: &VoxtralConfig) -> Result<()> {
    let Some((path, settings)) = settings(folder)? else { return Ok(()) };
    let expected = written(config);
    for (key, value) in expected.as_object().into_iter().flatten().filter(|(key, _)| *key != "processor_class") {
        let found = &settings[key];
        let same = found.is_null() || found == value || found.as_f64().is_some_and(|number| Some(number) == value.as_f64());
        if !same {
            return Err(Error::new(format!("{}: `{key}` is {found}, but this model's config requires {value}", path.display()))
                .hint("the files may belong to different models; a model trained on other features is not supported"));
        }
    }
    Ok(())
}

/// The contents of `preprocessor_config.json` for a model with this config.
pub fn written(config: &VoxtralConfig) -> Value {
    let frames = config.audio_config.chunk_frames();
    let samples = frames * HOP;
    let seconds = samples as f64 / f64::from(SAMPLE_RATE);
    json!({
        "feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "VoxtralProcessor", "sampling_rate": SAMPLE_RATE,
        "n_fft": WINDOW, "hop_length": HOP, "feature_size": config.audio_config.num_mel_bins,
        // transformers expects an integer where the length is a whole number of seconds.
        "chunk_length": if seconds.fract() == 0.0 { json!(seconds as u64) } else { json!(seconds) },
        "n_samples": samples, "nb_max_frames": frames, "padding_side": "right", "padding_value": 0.0, "dither": 0.0,
        "return_attention_mask": false,
    })
}

/// Reads the id of a special token (`eos_token_id`, `pad_token_id`) from `generation_config.json`; `None` if it is not set.
pub fn token(folder: &Path, key: &str, config: &VoxtralConfig) -> Result<Option<u32>> {
    let path = folder.join("generation_config.json");
    let Some(settings) = read(&path)? else { return Ok(None) };
    let id = match &settings[key] {
        Value::Array(ids) if ids.len() == 1 => ids.first().cloned().unwrap_or_default(),
        other => other.clone(),
    };
    if id.is_null() {
        return Ok(None);
    }
    match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) if (id as usize) < config.text_config.vocab_size => Ok(Some(id)),
        _ => Err(Error::new(format!("{}: `{key}` is {id}, which is not a single token id of the vocabulary", path.display()))
            .hint("Voxtral uses `</s>` = 2 and `<pad>` = 11; several end tokens are not supported")),
    }
}

fn settings(folder: &Path) -> Result<Option<(PathBuf, Value)>> {
    let path = folder.join("preprocessor_config.json");
    if let Some(settings) = read(&path)? {
        return Ok(Some((path, settings)));
    }
    let path = folder.join("processor_config.json");
    let Some(mut settings) = read(&path)? else { return Ok(None) };
    Ok(settings.get_mut("feature_extractor").map(Value::take).map(|settings| (path, settings)))
}

fn read(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_str(&text).map(Some).map_err(|error| Error::new(format!("{}: {error}", path.display())))
}
