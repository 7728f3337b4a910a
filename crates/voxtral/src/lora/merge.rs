//! Merging an adapter into its base model: replaces W by W + s·B·A, streaming one tensor at a time from file to file.
//!
//! The model is built only for its tensor names; its values stay in the files. The result is a full model folder in transformers' layout,
//! whatever the layout of the base.

use super::{BaseMatch, LoraLayer, RecordedBase};
use crate::error::{Error, Result, ResultExt};
use crate::model::config::VoxtralConfig;
use crate::model::{Voxtral, model_dir};
use crate::weights::precision::Precision;
use crate::weights::{PendingTensor, SafetensorsCheckpoint, WeightLoader, floats};
use crate::{lora, weights};
use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};
use safetensors::tensor::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::str::FromStr;

/// Storage dtype of a merged model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MergeDtype {
    /// Each tensor keeps the dtype of the base.
    #[default]
    AsBase,
    /// 32-bit floats.
    F32,
    /// bfloat16; the fixed position table stays f32, as in transformers.
    Bf16,
}

/// Summary of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeReport {
    /// Number of merged linear layers.
    pub layers: usize,
    /// Number of tensors written.
    pub tensors: usize,
}

/// Merges the adapter folder `adapter` into the model folder `base`. Writes a full model to the empty folder `out`, in shards of up to
/// `max_shard` bytes.
pub fn merge(base: &Path, adapter: &Path, out: &Path, stored: MergeDtype, max_shard: u64) -> Result<MergeReport> {
    let device = Device::flex();
    let config = VoxtralConfig::read(base)?;
    let mut source = WeightLoader::open(base, config.rope_heads(), Precision::Auto, &device)?;
    let mut model = Voxtral::load(&config, &mut source);
    drop(source.finish()?);
    let shapes = weights::shapes(&model);
    lora::load(&mut model, adapter)?;
    let mut adapters: BTreeMap<String, LoraLayer> =
        model.linears().into_iter().filter_map(|(name, layer)| Some((format!("{name}.weight"), layer.lora.clone()?))).collect();
    drop(model);

    let checkpoint = SafetensorsCheckpoint::of(base, config.rope_heads())?;
    let exact = adapters.keys().all(|name| {
        let base = checkpoint.dtype(name);
        base == Some(Dtype::F32) && stored.keeps(name, base) == Dtype::F32
    });
    let (checkpoint, device, layers, count) = (&checkpoint, &device, adapters.len(), shapes.len());
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let kept = stored.keeps(&name, checkpoint.dtype(&name));
        let values = {
            let (name, shape, lora) = (name.clone(), shape.clone(), adapters.remove(&name));
            move || match lora {
                None => checkpoint.values(&name, &shape, if kept == Dtype::BF16 { DType::BF16 } else { DType::F32 }),
                Some(lora) => {
                    let weight: Tensor<2> = Tensor::from_data(checkpoint.values(&name, &shape, DType::F32)?, (device, DType::F32));
                    finite(&name, lora.merged(weight).into_data(), kept)
                }
            }
        };
        (name, PendingTensor::new(&shape, kept, values))
    });
    weights::write_outgoing(tensors.collect(), out, max_shard)?;
    let dtype = match stored.keeps("language_model.lm_head.weight", checkpoint.dtype("language_model.lm_head.weight")) {
        Dtype::BF16 => "bfloat16",
        Dtype::F16 => "float16",
        _ => "float32",
    };
    model_dir::companions(base, out, dtype)?;
    copy_training_facts(base, adapter, out, exact)?;
    model_dir::copy(adapter, out, "loss.jsonl")?;
    Ok(MergeReport { layers, tensors: count })
}

impl MergeDtype {
    fn keeps(self, name: &str, base: Option<Dtype>) -> Dtype {
        match self {
            Self::AsBase => base.unwrap_or(Dtype::F32),
            Self::Bf16 if name != "audio_tower.embed_positions.weight" => Dtype::BF16,
            _ => Dtype::F32,
        }
    }
}

impl FromStr for MergeDtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "as-base" => Ok(Self::AsBase),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            other => Err(format!("unknown dtype `{other}`: use `as-base`, `f32` or `bf16`")),
        }
    }
}

/// Parses a size in decimal units (`5GB`, `200KB`, `1000000`) to bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(format!("invalid size `{text}`: use `5GB`, `500MB` or a number of bytes")),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| format!("invalid size `{text}`: use `5GB`, `500MB` or a number of bytes"))
}

/// An error if a merged value overflows the dtype it is stored in.
fn finite(name: &str, data: TensorData, kept: Dtype) -> Result<TensorData> {
    let stored = |value: f32| match kept {
        Dtype::BF16 => bf16::from_f32(value).to_f32(),
        Dtype::F16 => f16::from_f32(value).to_f32(),
        _ => value,
    };
    match floats(&data)?.into_iter().find(|value| !stored(*value).is_finite()) {
        None => Ok(data),
        Some(value) => Err(Error::new(format!("tensor `{name}` with the adapter merged in holds {value}, which {kept} cannot store"))
            .hint("store the merged model as f32, or check the training of the adapter")),
    }
}

/// Copies `training.json` of the adapter and adds what was merged: the digests of adapter and base, and whether the merged weights are as
/// exact as the base with the adapter beside it (f32, no rounding to a narrower type), and the digest of the merged weights. What the model
/// was trained on goes along, unless the base is another one than the adapter was trained on, or the adapter is not the one that its training
/// wrote.
fn copy_training_facts(base: &Path, adapter: &Path, out: &Path, exact: bool) -> Result<()> {
    let path = adapter.join("training.json");
    if !path.exists() {
        return Ok(());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut facts: Value = serde_json::from_str(&text).map_err(|error| Error::new(format!("{}: {error}", path.display())))?;
    if !facts.is_object() {
        return Err(Error::new(format!("{}: expected a JSON object", path.display())));
    }
    let weights = model_dir::identity(base)?;
    facts["merged"] = json!(true);
    let merged = lora::identity(adapter)?;
    let as_trained = facts["weights"].as_str() == Some(merged.as_str());
    facts["weights"] = json!(model_dir::identity(out)?);
    facts["merge"] = json!({ "adapter": merged, "base": weights, "exact": exact });
    let own_base = !matches!(RecordedBase::read(adapter)?.matches(base, None)?, BaseMatch::Different(_));
    if !own_base {
        let name = model_dir::hub_id(base).or_else(|| Some(base.file_name()?.display().to_string()));
        let mut other = json!({
            "name": name.unwrap_or_else(|| "base".to_owned()), "init": "checkpoint",
            "digest": model_dir::digest(base)?, "weights": weights,
        });
        if let (Some(id), Some(commit)) = (model_dir::hub_id(base), model_dir::hub_commit(base)) {
            other["hub"] = json!(id);
            other["revision"] = json!(commit);
        }
        facts["trained_on_base"] = facts["base"].take();
        facts["base"] = other;
    }
    if own_base && as_trained {
        model_dir::copy(adapter, out, model_dir::TRAINED_ON)?;
    } else if let Some(facts) = facts.as_object_mut() {
        facts.remove("trained_on");
    }
    let path = out.join("training.json");
    fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&facts)?)).with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(
            ["5GB", "200kb", "3 MB", "17"].map(|text| size(text).ok()),
            [Some(5_000_000_000), Some(200_000), Some(3_000_000), Some(17)]
        );
        for bad in ["", "0", "GB", "5TB", "-1", "1.5GB", "99999999999999999999"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
