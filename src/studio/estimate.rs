//! Whether a training will fit into memory, as far as that follows from the settings: for a person who is about to begin one.

use super::project::StudioProject;
use super::{ApiError, ApiResult, aside, json};
use crate::hub;
use crate::hub::Network;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json as value};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use voxtral::device;
use voxtral::model::config::VoxtralConfig;
use voxtral::training::memory_estimate::StepShape;

/// Tokens of half a minute of speech with its transcript.
const TOKENS: usize = 447;
/// Settings that are not written.
const RANK: u64 = 8;

pub(super) fn routes() -> Router<Arc<StudioProject>> {
    Router::new().route("/api/estimate", get(estimate))
}

async fn estimate(State(project): State<Arc<StudioProject>>) -> ApiResult {
    aside(move || {
        let text = fs::read_to_string(&project.file).map_err(|_| ApiError::missing("there is no pipeline yet"))?;
        let file: Value = toml::from_str(&text).map_err(|error| ApiError::conflict(error.message().to_owned()))?;
        let stage = project.stages("train").into_iter().next().ok_or_else(|| ApiError::missing("the pipeline trains nothing"))?;
        let with = &file["stage"][&stage]["with"];
        // A setting may stand for a parameter.
        let setting = |key: &str| {
            let found = with.get(key).cloned().unwrap_or(Value::Null);
            let name = found.as_str().and_then(|text| text.strip_prefix("${params.")?.strip_suffix('}'));
            name.map_or(found.clone(), |name| file["params"][name].clone())
        };
        let named = setting("base").as_str().unwrap_or_default().to_owned();
        let folder = match hub::model_folder(&project.root, &named, None, Network::Forbidden, &mut |_| Ok(())) {
            Ok(folder) => folder,
            Err(_) => return json(value!({ "fits": null, "words": format!("`{named}` is not on this machine yet; it is downloaded when the training begins") })),
        };
        let chosen = match device::choose(setting("device").as_str().unwrap_or("auto")) {
            Ok(chosen) => chosen,
            Err(error) => return json(value!({ "fits": false, "words": error.message })),
        };
        let config = VoxtralConfig::read(&folder)?;
        let full = setting("method") == "full";
        let numbers = numbers(&folder);
        let bits = match setting("precision").as_str() {
            Some("q4") => 5.0,
            Some("q8") => 8.5,
            Some("bf16") if !full => 16.0,
            None if !full && is_half(&folder) => 16.0,
            _ => 32.0,
        };
        let rank = with["lora"]["r"].as_u64().unwrap_or(RANK);
        let shape = StepShape {
            length: TOKENS,
            chunks: 1,
            tower: full || with["lora"]["freeze_audio_tower"] == false,
            feed_forward: full,
            gradient_checkpointing: [setting("gradient_checkpointing"), setting("recompute")].contains(&&serde_json::Value::Bool(true)),
            model: (numbers as f64 * bits / 8.0) as u64,
            trained: if full { numbers } else { rank * adapted(&config) },
        };
        let rows = usize::try_from(setting("batch_size").as_u64().unwrap_or(1)).unwrap_or(1);
        let need = shape.step(&config, rows);
        let free = chosen.free_memory();
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        let beside = gib(need.saturating_sub(shape.model));
        let needs = format!("about {} on {}: {} for the model, {beside} for training it with {rows} at once", gib(need), chosen.name, gib(shape.model));
        let (fits, words) = match free {
            Some(free) if free > need => (Some(true), format!("Fits: it needs {needs}; {} are free.", gib(free))),
            Some(free) => (Some(false), format!("Does not fit: it needs {needs}; {} are free. Fewer clips at once, `gradient_checkpointing`, a smaller precision or LoRA need less.", gib(free))),
            None => (None, format!("It needs {needs}; nothing says how much is free.")),
        };
        json(value!({ "fits": fits, "need": need, "free": free, "device": chosen.name, "words": words }))
    })
    .await
}

/// Numbers of a model, by the size of its files.
fn numbers(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let weights = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "safetensors"));
    // What is read is the file that a link of the cache leads to.
    let bytes: u64 = weights.filter_map(|file| Some(fs::metadata(file.path()).ok()?.len())).sum();
    bytes / if is_half(folder) { 2 } else { 4 }
}

/// Whether the numbers are kept in 16 bits.
fn is_half(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    text.contains("bfloat16") || text.contains("float16")
}

/// What an adapter of rank one has on the attention of the text model.
fn adapted(config: &VoxtralConfig) -> u64 {
    let text = &config.text_config;
    let (width, queries, keys) = (text.hidden_size, text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim);
    (text.num_hidden_layers * (2 * (width + queries) + 2 * (width + keys))) as u64
}
