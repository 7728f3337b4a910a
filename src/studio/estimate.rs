//! Memory estimate: whether a training with the current settings fits into the memory of the device.

use super::project::StudioProject;
use super::{ApiError, ApiResult, blocking, json};
use crate::hub;
use crate::hub::Network;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::json as value;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use voxtral::device;
use voxtral::model::config::VoxtralConfig;
use voxtral::training::memory_estimate::StepShape;

/// Sequence length of a 30 s clip with its transcript, in tokens.
const CLIP_TOKENS: usize = 447;

pub(super) fn routes() -> Router<Arc<StudioProject>> {
    Router::new().route("/api/estimate", get(estimate))
}

/// Returns the estimate as bytes (`need`, `free`), a verdict (`fits`) and a sentence (`words`).
async fn estimate(State(project): State<Arc<StudioProject>>) -> ApiResult {
    blocking(move || {
        let pipeline = project.pipeline();
        let train = pipeline.stages.iter().find(|stage| stage.kind == "train");
        let with = &train.ok_or_else(|| ApiError::missing("the pipeline has no train stage"))?.settings;
        let setting = |key: &str| &with[key];
        let named = setting("base").as_str().unwrap_or_default().to_owned();
        let folder = match hub::model_folder(&pipeline.root, &named, None, Network::Forbidden, &mut |_| Ok(())) {
            Ok(folder) => folder,
            Err(_) => return json(value!({ "fits": null, "words": format!("`{named}` will be downloaded when training starts") })),
        };
        let chosen = match device::choose(setting("device").as_str().unwrap_or("auto")) {
            Ok(chosen) => chosen,
            Err(error) => return json(value!({ "fits": false, "words": error.message })),
        };
        let config = VoxtralConfig::read(&folder)?;
        let full = setting("method") == "full";
        let parameters = parameters(&folder);
        let bits = match setting("precision").as_str() {
            Some("q4") => 5.0,
            Some("q8") => 8.5,
            Some("bf16") if !full => 16.0,
            Some("auto") | None if !full && is_half(&folder) => 16.0,
            _ => 32.0,
        };
        let rank = with["lora"]["r"].as_u64().unwrap_or_default();
        let shape = StepShape {
            length: CLIP_TOKENS,
            chunks: 1,
            tower: full || with["lora"]["freeze_audio_tower"] == false,
            feed_forward: full,
            gradient_checkpointing: setting("gradient_checkpointing") == true,
            model: (parameters as f64 * bits / 8.0) as u64,
            trained: if full { parameters } else { rank * rank_one_parameters(&config) },
        };
        let rows = usize::try_from(setting("batch_size").as_u64().unwrap_or(1)).unwrap_or(1);
        let need = shape.step(&config, rows);
        let free = chosen.free_memory();
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        let training = gib(need.saturating_sub(shape.model));
        let parts = format!("{} for the model, {training} for training with batch size {rows}", gib(shape.model));
        let needs = format!("about {} on {} ({parts})", gib(need), chosen.name);
        let (fits, words) = match free {
            Some(free) if free > need => (Some(true), format!("Fits: needs {needs}, {} free.", gib(free))),
            Some(free) => {
                let remedy = "Reduce batch size or precision, enable gradient checkpointing, or use LoRA.";
                (Some(false), format!("Not enough memory: needs {needs}, {} free. {remedy}", gib(free)))
            }
            None => (None, format!("Needs {needs}; free memory is unknown.")),
        };
        json(value!({ "fits": fits, "need": need, "free": free, "device": chosen.name, "words": words }))
    })
    .await
}

/// Parameter count of a model, from the size of its safetensors files.
fn parameters(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let weights = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "safetensors"));
    // `fs::metadata` follows the symbolic links of the Hub cache.
    let bytes: u64 = weights.filter_map(|file| Some(fs::metadata(file.path()).ok()?.len())).sum();
    bytes / if is_half(folder) { 2 } else { 4 }
}

/// Whether the weights are stored in 16 bits (bf16 or f16).
fn is_half(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    text.contains("bfloat16") || text.contains("float16")
}

/// Trainable parameters of a rank-1 LoRA adapter on the attention projections of the language model.
fn rank_one_parameters(config: &VoxtralConfig) -> u64 {
    let text = &config.text_config;
    let (width, queries, keys) = (text.hidden_size, text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim);
    (text.num_hidden_layers * (2 * (width + queries) + 2 * (width + keys))) as u64
}
