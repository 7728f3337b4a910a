//! LoRA, rsLoRA and DoRA adapters on frozen linear layers, with PEFT's arithmetic.
//!
//! ```text
//! LoRA   y = x Wᵀ + s (x Aᵀ) Bᵀ              s = alpha / r; rsLoRA: alpha / √r
//! DoRA   y = m / n · (x Wᵀ + s (x Aᵀ) Bᵀ)    n = ‖W + s B A‖ of each row
//! ```
//!
//! LoRA: Hu et al. 2021; rsLoRA: Kalajdzievski 2023; DoRA: Liu et al. 2024. DoRA learns the magnitude m of each weight row separately from
//! its direction. Its gradient treats n as a constant (DoRA paper, section 4.3). n changes only when A or B do, so it is computed once per
//! step and stored ([`Voxtral::measure`]).

mod base;
mod config;
pub mod merge;
mod peft;
mod targets;

pub use super::model::lora_layer::{DoraLayer, LoraLayer};
pub use base::{BaseMatch, RecordedBase, identity};
pub use peft::{base_of, is_adapter, is_adapter_file, load, save};
pub use targets::{LayerPattern, ModelPart, TargetModules};

use super::model::Voxtral;
use super::model::dropout::SeededDropout;
use super::model::lora_layer::row_norms;
use super::weights::{Initializer, WeightLoader};
use crate::error::{Error, Result};
use burn::module::Param;
use burn::tensor::Tensor;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Adapter configuration: type, size and target layers.
#[derive(Clone, Debug)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The update is scaled by alpha / r, or alpha / √r with `rslora`.
    pub alpha: f64,
    /// Dropout rate of the adapter's inputs during training.
    pub dropout: f64,
    /// Target layers, in the language model and, with `audio_tower`, in the audio encoder.
    pub targets: TargetModules,
    /// Whether target layers of the audio encoder get adapters too.
    pub audio_tower: bool,
    /// Whether both layers of the projector get adapters, even if `targets` does not name them.
    pub projector: bool,
    /// rsLoRA (rank-stabilized): scale by alpha / √r, so that the update does not shrink as the rank grows.
    pub rslora: bool,
    /// DoRA: learn the magnitude of each weight row separately from its direction.
    pub dora: bool,
}

/// The layers selected by [`add`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdaptedLayers {
    /// Layers that got an adapter.
    pub adapted: Vec<String>,
    /// Layers that also match the targets, but are in a part of the model that is not adapted.
    pub kept_out: Vec<String>,
}

impl LoraConfig {
    fn adapts_part(&self, part: ModelPart) -> bool {
        match part {
            ModelPart::Text => true,
            ModelPart::AudioTower => self.audio_tower,
            ModelPart::Projector => self.projector,
        }
    }

    fn scale(&self) -> f64 {
        scale(self.alpha, self.r, self.rslora)
    }
}

fn scale(alpha: f64, r: usize, rslora: bool) -> f64 {
    if rslora { alpha / (r as f64).sqrt() } else { alpha / r as f64 }
}

/// Adds new adapters to a model: A random, B zero. It is an error if a target matches no layer that can be adapted.
pub fn add(model: &mut Voxtral, adapters: &LoraConfig, source: &mut WeightLoader) -> Result<AdaptedLayers> {
    adapters.targets.refuse_tables()?;
    let mut placed = AdaptedLayers::default();
    for (name, layer) in model.linears() {
        let part = ModelPart::of(&name);
        let meant = adapters.targets.names(&name)?;
        if !adapters.adapts_part(part) || !(meant || part == ModelPart::Projector) {
            placed.kept_out.extend(meant.then_some(name));
            continue;
        }
        let [outputs, inputs] = layer.sides();
        let mut lora = LoraLayer {
            a: source.take(&format!("{name}.lora.a"), [adapters.r, inputs], Initializer::Uniform(1.0 / (inputs as f32).sqrt())),
            b: source.take(&format!("{name}.lora.b"), [outputs, adapters.r], Initializer::Zeros),
            dora: None,
            scale: adapters.scale(),
            dropout: adapters.dropout,
            masks: SeededDropout::default(),
        };
        if adapters.dora {
            let norm = checked_row_norms(&name, lora.sum(layer.dense()))?;
            lora.dora = Some(DoraLayer { magnitude: Param::from_tensor(norm.clone()).set_require_grad(false), norm });
        }
        layer.lora = Some(lora);
        placed.adapted.push(name);
    }
    if let Some(target) = adapters.targets.idle(&placed.adapted)? {
        let error = Error::new(format!("target `{target}` matches no layer that can be adapted"));
        return Err(match adapters.targets.first_of(&target, &placed.kept_out)? {
            Some(layer) => error.hint(format!("layers such as `{layer}` are in the {}, which gets no adapters", ModelPart::of(&layer))),
            None => error.hint(format!("layer names look like `{}`", targets::EXAMPLE)),
        });
    }
    Ok(placed)
}

/// Replaces the new adapters of a model by those of a folder, to continue training. Layers, type, rank and scale must be the same.
pub fn go_on_from(model: &mut Voxtral, adapters: &LoraConfig, folder: &Path) -> Result<()> {
    type Kind = ([usize; 2], bool, f64);
    fn kinds(model: &mut Voxtral) -> BTreeMap<String, Kind> {
        let kind = |lora: &LoraLayer| (lora.a.dims(), lora.dora.is_some(), lora.scale);
        model.linears().into_iter().filter_map(|(name, layer)| layer.lora.as_ref().map(|lora| (name, kind(lora)))).collect()
    }
    let wanted = kinds(model);
    for (_, layer) in model.linears() {
        layer.lora = None;
    }
    load(model, folder)?;
    let found = kinds(model);
    let describe = |kind: Option<&Kind>| match kind {
        None => "no adapter".to_owned(),
        Some(([r, _], dora, scale)) => format!("{} of rank {r} with scale {scale}", if *dora { "DoRA" } else { "LoRA" }),
    };
    for name in wanted.keys().chain(found.keys()) {
        let (wanted, found) = (wanted.get(name), found.get(name));
        if wanted != found {
            let message = format!("`{}` has {} on `{name}`, but `lora` requires {}", folder.display(), describe(found), describe(wanted));
            return Err(Error::new(message).hint("make `lora` match adapter_config.json"));
        }
    }
    for (_, layer) in model.linears() {
        if let Some(lora) = &mut layer.lora {
            lora.dropout = adapters.dropout;
        }
    }
    Ok(())
}

/// Row norms of a layer's weight; an error if one is zero or not finite, because DoRA divides by it.
fn checked_row_norms(layer: &str, weight: Tensor<2>) -> Result<Tensor<1>> {
    let norms = row_norms(weight);
    let values = norms.to_data().try_to_vec::<f32>().map_err(|error| Error::new(format!("`{layer}`: {error:?}")))?;
    match values.iter().position(|norm| !(*norm > 0.0 && norm.is_finite())) {
        None => Ok(norms),
        Some(row) => Err(Error::new(format!("`{layer}.weight`: row {row} has norm {}, and DoRA divides by it", values[row]))
            .hint("use LoRA without DoRA, or exclude this layer")),
    }
}

impl Voxtral {
    /// Recomputes the row norms of all DoRA layers. Call it whenever A or B have changed.
    pub fn measure(&mut self) {
        for (_, layer) in self.linears() {
            if layer.lora.as_ref().is_none_or(|lora| lora.dora.is_none()) {
                continue;
            }
            let weight = layer.dense();
            let Some(lora) = &mut layer.lora else { continue };
            let norm = row_norms(lora.sum(weight));
            if let Some(dora) = &mut lora.dora {
                dora.norm = norm;
            }
        }
    }

    /// Sets the dropout masks of all adapters for a batch. A mask depends on the seed, the layer, the row's index in the step and, in the
    /// encoder and projector, the chunk within the row, but not on how the step is split into batches.
    ///
    /// `places` are the indices of the batch's rows in the step, `chunks` the number of audio chunks of each row.
    pub fn reseed_dropout(&mut self, seed: u64, places: &[usize], chunks: &[usize]) {
        let rows: Arc<[u64]> = places.iter().map(|place| *place as u64).collect();
        let pieces: Arc<[u64]> =
            rows.iter().zip(chunks).flat_map(|(row, chunks)| (0..*chunks).map(move |chunk| row | (chunk as u64) << 32)).collect();
        for (name, layer) in self.linears() {
            if let Some(lora) = &mut layer.lora {
                let blocks = if ModelPart::of(&name) == ModelPart::Text { &rows } else { &pieces };
                lora.masks = SeededDropout::new(seed, &name, blocks.clone());
            }
        }
    }
}
