//! Which Voxtral family a model folder holds, by its `config.json` or `params.json`.

use serde_json::Value;
use std::fs;
use std::path::Path;

/// `model_type` of Voxtral Realtime in `config.json`.
pub const REALTIME_MODEL_TYPE: &str = "voxtral_realtime";

/// Name of Voxtral Realtime in messages.
pub const REALTIME_NAME: &str = "Voxtral Realtime";

/// Whether a model folder contains Voxtral Realtime; false if the config is missing or not JSON.
pub fn is_realtime(folder: &Path) -> bool {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    if folder.join("config.json").exists() {
        return read("config.json").is_some_and(|config| config["model_type"] == REALTIME_MODEL_TYPE);
    }
    let encoder = |params: &Value| params["multimodal"]["whisper_model_args"]["encoder_args"]["causal"] == true;
    read("params.json").is_some_and(|params| params["ada_rms_norm_t_cond"] == true || encoder(&params))
}
