//! Low-rank adapters: y = x Wᵀ + s · (x Aᵀ) Bᵀ beside a frozen W, with s = alpha / r; read and written as PEFT does.

use super::Voxtral;
use super::dropout::Dropout;
use super::linear::Linear;
use super::weights::{self, Init, Weights};
use crate::error::{Doing, Error, Result};
use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, module::linear};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// The adapter of one linear layer.
#[derive(Module, Debug)]
pub struct Lora {
    /// A, `[r, in]`.
    pub a: Param<Tensor<2>>,
    /// B, `[out, r]`; zero at first, so that training starts at the base model.
    pub b: Param<Tensor<2>>,
    scale: f64,
    dropout: f64,
    #[module(skip)]
    masks: Dropout,
}

impl Lora {
    /// # Shapes
    /// `[…, in]` → `[…, out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let a = self.a.val();
        let x = if self.dropout > 0.0 && a.is_require_grad() {
            let mask = self.masks.mask(self.dropout, x.dims(), &x.device().without_autodiff());
            x * mask
        } else {
            x
        };
        linear(linear(x, a.transpose(), None), self.b.val().transpose(), None) * self.scale
    }
}

impl Lora {
    /// The weight of the layer with the adapter merged in: W + s · B A.
    ///
    /// # Shapes
    /// `[out, in]` → the same
    pub fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        weight + self.b.val().inner().matmul(self.a.val().inner()) * self.scale
    }
}

/// Which layers get an adapter, and how large.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapters {
    /// Rank.
    pub r: usize,
    /// The update is scaled by alpha / r.
    pub alpha: f64,
    /// Share of the adapter's inputs dropped while training.
    pub dropout: f64,
    /// The last part of the layers' names: `q_proj`, `down_proj`, …
    pub targets: Vec<String>,
    /// Whether layers of the audio tower get adapters too.
    pub audio_tower: bool,
}

/// The part of `adapter_config.json` that decides the computation. Keys that would change it and that we do not know are refused.
#[derive(Debug, Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Adapters {
    fn wants(&self, layer: &str) -> bool {
        let part = layer.rsplit('.').next().unwrap_or(layer);
        let place = layer.starts_with("language_model.model.") || (self.audio_tower && layer.starts_with("audio_tower."));
        place && self.targets.iter().any(|target| target == part)
    }
}

/// Gives a model fresh adapters, A drawn from a seed and B zero; returns how many layers got one.
pub fn add(model: &mut Voxtral, adapters: &Adapters, source: &mut Weights) -> usize {
    let mut count = 0;
    for (name, layer) in model.linears() {
        if adapters.wants(&name) {
            let [outputs, inputs] = layer.weight.dims();
            layer.lora = Some(Lora {
                a: source.take(&format!("{name}.lora.a"), [adapters.r, inputs], Init::Uniform(1.0 / (inputs as f32).sqrt())),
                b: source.take(&format!("{name}.lora.b"), [outputs, adapters.r], Init::Zeros),
                scale: adapters.alpha / adapters.r as f64,
                dropout: adapters.dropout,
                masks: Dropout::default(),
            });
            count += 1;
        }
    }
    count
}

/// Whether a folder holds an adapter rather than a full model.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).exists()
}

/// The base model an adapter folder names.
pub fn base_of(folder: &Path) -> Result<Option<String>> {
    Ok(read_config(folder)?.base_model_name_or_path)
}

fn read_config(folder: &Path) -> Result<AdapterConfig> {
    let path = folder.join(CONFIG);
    let text = fs::read_to_string(&path).doing(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_str(&text).map_err(|error| Error::new(format!("{}: {error}", path.display())))
}

/// Puts the adapter of a folder on a model. Every tensor of the file must find its layer.
pub fn load(model: &mut Voxtral, folder: &Path) -> Result<()> {
    let config = read_config(folder)?;
    let place = folder.join(CONFIG);
    if config.peft_type != "LORA" || config.use_dora {
        let kind = if config.use_dora { "DoRA" } else { &config.peft_type };
        return Err(Error::new(format!("{}: this version reads LoRA adapters, not {kind}", place.display())));
    }
    let unknown = |key: &str, default: Value| config.rest.get(key).is_some_and(|value| !value.is_null() && *value != default);
    for (key, default) in [
        ("alpha_pattern", json!({})),
        ("rank_pattern", json!({})),
        ("fan_in_fan_out", json!(false)),
        ("lora_bias", json!(false)),
        ("modules_to_save", json!([])),
    ] {
        if unknown(key, default) {
            return Err(Error::new(format!("{}: this version does not read adapters that use `{key}`", place.display())));
        }
    }
    if config.r == 0 || !config.lora_alpha.is_finite() {
        return Err(Error::new(format!("{}: `r` must be at least 1 and `lora_alpha` a number", place.display())));
    }
    let scale = if config.use_rslora { config.lora_alpha / (config.r as f64).sqrt() } else { config.lora_alpha / config.r as f64 };
    let path = folder.join(TENSORS);
    let mut halves: BTreeMap<String, (Option<TensorData>, Option<TensorData>)> = BTreeMap::new();
    for (key, data) in weights::read_tensors(&path)? {
        let stripped = key.strip_prefix("base_model.model.").map(weights::hub_name);
        match stripped.as_deref().and_then(|name| {
            name.strip_suffix(".lora_A.weight")
                .map(|layer| (layer, true))
                .or_else(|| name.strip_suffix(".lora_B.weight").map(|layer| (layer, false)))
        }) {
            Some((layer, true)) => halves.entry(layer.to_owned()).or_default().0 = Some(data),
            Some((layer, false)) => halves.entry(layer.to_owned()).or_default().1 = Some(data),
            None => return Err(Error::new(format!("{}: tensor `{key}` is no part of a LoRA adapter", path.display()))),
        }
    }
    if halves.is_empty() {
        return Err(Error::new(format!("{}: holds no adapter tensors", path.display())));
    }
    for (name, layer) in model.linears() {
        let Some(halves) = halves.remove(&name) else { continue };
        let (Some(a), Some(b)) = halves else {
            return Err(Error::new(format!("{}: `{name}` has only one of lora_A and lora_B", path.display())));
        };
        let [outputs, inputs] = layer.weight.dims();
        let device = layer.weight.val().device();
        for (half, data, shape) in [("lora_A", &a, [config.r, inputs]), ("lora_B", &b, [outputs, config.r])] {
            if data.shape().to_vec() != shape {
                return Err(Error::new(format!(
                    "{}: `{name}.{half}` has shape {:?}, expected {shape:?}",
                    path.display(),
                    data.shape().to_vec()
                )));
            }
        }
        let param = |data| Param::from_tensor(Tensor::from_data(data, &device)).set_require_grad(false);
        layer.lora = Some(Lora { a: param(a), b: param(b), scale, dropout: config.lora_dropout, masks: Dropout::default() });
    }
    match halves.keys().next() {
        None => Ok(()),
        Some(layer) => Err(Error::new(format!("{}: the model has no layer `{layer}`", path.display()))
            .advice("the adapter was made for another base model")),
    }
}

/// Writes a model's adapters as PEFT does.
///
/// Names: the style of checkpoints of 2507 (`base_model.model.language_model.model.layers…`) loads everywhere as long as only the text
/// model is adapted; with the audio tower only the newer style is read by transformers 5.
pub fn save(model: &Voxtral, adapters: &Adapters, base: &str, folder: &Path) -> Result<()> {
    let tensors = weights::tensors(model, |name| name.contains(".lora."))
        .into_iter()
        .map(|(name, data)| {
            let name = name.replace(".lora.a", ".lora_A.weight").replace(".lora.b", ".lora_B.weight");
            let name = match (adapters.audio_tower, name.strip_prefix("language_model.model.")) {
                (false, _) => name,
                (true, Some(rest)) => format!("model.language_model.{rest}"),
                (true, None) => format!("model.{name}"),
            };
            (format!("base_model.model.{name}"), data)
        })
        .collect();
    weights::write_tensors(&folder.join(TENSORS), &tensors)?;
    let targets = adapters.targets.join("|");
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": true,
        "r": adapters.r, "lora_alpha": adapters.alpha, "lora_dropout": adapters.dropout, "bias": "none", "fan_in_fan_out": false,
        "init_lora_weights": true, "use_rslora": false, "use_dora": false, "modules_to_save": null,
        "target_modules": if adapters.audio_tower { format!(".*\\.({targets})") } else { format!(".*language_model.*\\.({targets})") },
    });
    let path = folder.join(CONFIG);
    fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&config)?)).doing(|| format!("cannot write `{}`", path.display()))
}

impl Voxtral {
    /// Starts the dropout masks of all adapters anew, apart from those of other copies of the model.
    pub fn reseed_dropout(&mut self, seed: u64) {
        let masks = Dropout::new(seed);
        for (_, layer) in self.linears() {
            if let Some(lora) = &mut layer.lora {
                lora.masks = masks.clone();
            }
        }
    }

    /// Every linear layer with its name, in order.
    pub fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        let mut found: Vec<(String, &mut Linear)> = Vec::new();
        for (i, layer) in self.audio_tower.layers.iter_mut().enumerate() {
            let attention = &mut layer.self_attn;
            let parts = [
                ("self_attn.q_proj", &mut attention.q_proj),
                ("self_attn.k_proj", &mut attention.k_proj),
                ("self_attn.v_proj", &mut attention.v_proj),
                ("self_attn.out_proj", &mut attention.out_proj),
                ("fc1", &mut layer.fc1),
                ("fc2", &mut layer.fc2),
            ];
            found.extend(parts.into_iter().map(|(part, linear)| (format!("audio_tower.layers.{i}.{part}"), linear)));
        }
        let projector = &mut self.multi_modal_projector;
        found.push(("multi_modal_projector.linear_1".to_owned(), &mut projector.linear_1));
        found.push(("multi_modal_projector.linear_2".to_owned(), &mut projector.linear_2));
        for (i, layer) in self.language_model.model.layers.iter_mut().enumerate() {
            let (attention, mlp) = (&mut layer.self_attn, &mut layer.mlp);
            let parts = [
                ("self_attn.q_proj", &mut attention.q_proj),
                ("self_attn.k_proj", &mut attention.k_proj),
                ("self_attn.v_proj", &mut attention.v_proj),
                ("self_attn.o_proj", &mut attention.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ];
            found.extend(parts.into_iter().map(|(part, linear)| (format!("language_model.model.layers.{i}.{part}"), linear)));
        }
        found
    }
}
