//! PEFT adapter layout: reads and writes `adapter_config.json` and `adapter_model.safetensors`, compatible with PEFT and transformers.

use super::config::{AdapterConfig, CONFIG};
use super::targets::ModelPart;
use super::{DoraLayer, LoraConfig, LoraLayer, checked_row_norms, targets};
use crate::error::{Error, Result, ResultExt};
use crate::model::Voxtral;
use crate::model::dropout::SeededDropout;
use crate::model::linear::Linear;
use crate::weights;
use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// File name of the tensors.
pub(super) const TENSORS: &str = "adapter_model.safetensors";

/// Tensor suffixes after a layer name. PEFT and transformers name the DoRA magnitude differently.
const ENDINGS: &[(&str, Role)] = &[
    (".lora_A.weight", Role::A),
    (".lora_B.weight", Role::B),
    (".lora_magnitude_vector", Role::Magnitude),
    (".lora_magnitude_vector.weight", Role::Magnitude),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    A,
    B,
    Magnitude,
}

/// Whether a folder contains an adapter rather than a full model.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).exists()
}

/// Whether a file name is part of an adapter folder.
pub fn is_adapter_file(name: &str) -> bool {
    [CONFIG, TENSORS].contains(&name)
}

/// The base model recorded in an adapter folder.
pub fn base_of(folder: &Path) -> Result<Option<String>> {
    Ok(AdapterConfig::read(folder)?.base)
}

/// Loads an adapter folder into a model. Every tensor must belong to a layer that the config adapts, and every adapted layer must have its
/// tensors.
pub fn load(model: &mut Voxtral, folder: &Path) -> Result<()> {
    let config = AdapterConfig::read(folder)?;
    let path = folder.join(TENSORS);
    let mut stored = read(&path)?;
    for (name, layer) in model.linears() {
        let tensors = stored.remove(&name);
        match (config.adapts(&name)?, tensors) {
            (false, None) => (),
            (true, Some(tensors)) => {
                let lora = fit(&name, layer, tensors, &config).map_err(|error| error.context(path.display()))?;
                layer.lora = Some(lora);
            }
            (true, None) => {
                return Err(Error::new(format!("{}: no tensors for `{name}`, which {CONFIG} adapts", path.display()))
                    .hint("if this layer is not adapted, restrict `target_modules` to layers that have tensors"));
            }
            (false, Some(_)) => {
                return Err(Error::new(format!("{}: unexpected tensors for `{name}`, which {CONFIG} does not adapt", path.display()))
                    .hint("PEFT would ignore them; add this layer to `target_modules`, or remove the tensors"));
            }
        }
    }
    match stored.keys().next() {
        None => Ok(()),
        Some(layer) => {
            Err(Error::new(format!("{}: the model has no layer `{layer}`", path.display()))
                .hint("the adapter was made for another base model"))
        }
    }
}

type Tensors = BTreeMap<Role, TensorData>;

/// Reads the tensors of an adapter file, grouped by layer.
fn read(path: &Path) -> Result<BTreeMap<String, Tensors>> {
    let mut layers: BTreeMap<String, Tensors> = BTreeMap::new();
    for (key, data) in weights::read_tensors(path)? {
        let name = key.strip_prefix("base_model.model.").map(weights::hub_name);
        let found = name.as_deref().and_then(|name| ENDINGS.iter().find_map(|(end, role)| Some((name.strip_suffix(end)?, *role))));
        let Some((layer, role)) = found else {
            return Err(Error::new(format!("{}: tensor `{key}` is not part of a LoRA adapter", path.display())));
        };
        if layers.entry(layer.to_owned()).or_default().insert(role, data).is_some() {
            return Err(Error::new(format!("{}: `{layer}` has tensor `{key}` twice under two names", path.display())));
        }
    }
    if layers.is_empty() {
        return Err(Error::new(format!("{}: contains no adapter tensors", path.display())));
    }
    Ok(layers)
}

/// Builds the adapter of a layer after checking its tensors against the config.
fn fit(name: &str, layer: &Linear, mut tensors: Tensors, config: &AdapterConfig) -> Result<LoraLayer> {
    let magnitude = tensors.remove(&Role::Magnitude);
    let (Some(a), Some(b)) = (tensors.remove(&Role::A), tensors.remove(&Role::B)) else {
        return Err(Error::new(format!("`{name}` has only one of lora_A and lora_B")));
    };
    let ([outputs, inputs], r) = (layer.sides(), config.rank(name)?);
    let device = layer.weight.val().device();
    let mut lora = LoraLayer {
        a: param(&format!("{name}.lora_A"), a, [r, inputs], &device)?,
        b: param(&format!("{name}.lora_B"), b, [outputs, r], &device)?,
        dora: None,
        scale: config.scale(name)?,
        dropout: config.dropout,
        masks: SeededDropout::default(),
    };
    lora.dora = match (config.dora, magnitude) {
        (false, None) => None,
        (true, Some(magnitude)) => {
            let magnitude = param(&format!("{name}.lora_magnitude_vector"), magnitude, [outputs], &device)?;
            Some(DoraLayer { magnitude, norm: checked_row_norms(name, lora.sum(layer.dense()))? })
        }
        (true, None) => {
            return Err(Error::new(format!("`{name}` has no lora_magnitude_vector, but {CONFIG} sets `use_dora`")));
        }
        (false, Some(_)) => {
            return Err(Error::new(format!("`{name}` has a lora_magnitude_vector, but {CONFIG} does not set `use_dora`")));
        }
    };
    Ok(lora)
}

fn param<const D: usize>(name: &str, data: TensorData, shape: [usize; D], device: &burn::tensor::Device) -> Result<Param<Tensor<D>>> {
    let found = data.shape().to_vec();
    if found != shape {
        return Err(Error::new(format!("`{name}` has shape {found:?}, expected {shape:?}")));
    }
    Ok(Param::from_tensor(Tensor::from_data(data, device)).set_require_grad(false))
}

/// Saves a model's adapters in PEFT layout, loadable by both PEFT and transformers.
///
/// Layer names: the original names (`base_model.model.language_model.model.layers…`) load everywhere as long as only the language model is
/// adapted. With adapters on the encoder or projector, transformers 5 reads only its own names. DoRA magnitudes: written with the `.weight`
/// suffix, the only one that transformers reads; PEFT reads both.
pub fn save(model: &Voxtral, adapters: &LoraConfig, base: &str, folder: &Path) -> Result<()> {
    let (mut adapted, mut all) = (Vec::new(), Vec::new());
    // `linears` needs a mutable model; a clone shares the tensors.
    for (name, layer) in model.clone().linears() {
        if layer.lora.is_some() {
            adapted.push(name.clone());
        }
        all.push(name);
    }
    let text_only = adapted.iter().all(|layer| ModelPart::of(layer) == ModelPart::Text);
    let tensors = weights::tensors(model, |name| name.contains(".lora."))
        .into_iter()
        .filter_map(|(name, data)| {
            let (layer, role) = name.split_once(".lora.")?;
            let layer = if text_only { layer.to_owned() } else { targets::module(layer) };
            let end = match role {
                "a" => "lora_A",
                "b" => "lora_B",
                _ => "lora_magnitude_vector",
            };
            Some((format!("base_model.model.{layer}.{end}.weight"), data))
        })
        .collect();
    weights::write_tensors(&folder.join(TENSORS), &tensors)?;
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": true,
        "r": adapters.r, "lora_alpha": number(adapters.alpha), "lora_dropout": adapters.dropout, "bias": "none", "fan_in_fan_out": false,
        "init_lora_weights": true, "use_rslora": adapters.rslora, "use_dora": adapters.dora, "modules_to_save": null,
        "target_modules": targets::exactly(&adapted, &all),
    });
    let path = folder.join(CONFIG);
    fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&config)?)).with_context(|| format!("cannot write `{}`", path.display()))
}

/// An integral value as a JSON integer: PEFT's `lora_alpha` is an integer, and some readers require that.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}
