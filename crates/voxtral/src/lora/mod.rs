//! Low-rank adapters beside frozen weights, with PEFT's arithmetic.
//!
//! ```text
//! LoRA   y = x Wᵀ + s (x Aᵀ) Bᵀ              s = alpha / r; rank-stabilised: alpha / √r
//! DoRA   y = m / n · (x Wᵀ + s (x Aᵀ) Bᵀ)    n = ‖W + s B A‖, row by row
//! ```
//!
//! DoRA learns the length m of each row of the weight apart from its direction. Its gradient takes n for a constant (DoRA paper,
//! section 4.3), and n changes only when A or B do, so it is measured once for each step and kept ([`Voxtral::measure`]).

mod config;
pub mod merge;
mod peft;
mod targets;

pub use peft::{base_of, is_adapter, is_adapter_file, load, save};
pub use targets::{LayerPattern, ModelPart, TargetModules};

use super::model::Voxtral;
use super::model::dropout::SeededDropout;
use super::model::linear::Linear;
use super::weights::{Initializer, WeightLoader};
use crate::error::{Error, Result};
use crate::kernels::ops;
use crate::kernels::ops::MatmulPrecision;
use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The adapter of one linear layer.
#[derive(Module, Debug)]
pub struct LoraLayer {
    /// A, `[r, in]`.
    pub a: Param<Tensor<2>>,
    /// B, `[out, r]`; zero at first, so that training starts at the base model.
    pub b: Param<Tensor<2>>,
    /// What makes it a DoRA adapter.
    pub dora: Option<DoraLayer>,
    scale: f64,
    dropout: f64,
    #[module(skip)]
    masks: SeededDropout,
}

/// The lengths of a weight's rows: as learned, and as they are.
#[derive(Module, Debug)]
pub struct DoraLayer {
    /// m, `[out]`: the length each row of the adapted weight is given; that of the base's row at first.
    pub magnitude: Param<Tensor<1>>,
    /// n, `[out]`: the length of each row of W + s B A as it was when last measured.
    norm: Tensor<1>,
}

impl LoraLayer {
    /// The layer's output with its adapter. `base(x, bias)` multiplies by the frozen weight and adds the bias, if any.
    ///
    /// # Shapes
    /// `[…, in]` → `[…, out]`
    pub(super) fn forward<const D: usize>(
        &self,
        x: Tensor<D>,
        bias: Option<Tensor<1>>,
        base: impl Fn(Tensor<D>, Option<Tensor<1>>) -> Tensor<D>,
    ) -> Tensor<D> {
        let dropped = self.dropped(&x);
        match (&self.dora, dropped) {
            (None, dropped) => base(x.clone(), bias) + self.update(dropped.unwrap_or(x)),
            (Some(dora), None) => {
                let y = (base(x.clone(), None) + self.update(x)) * dora.factor();
                match bias {
                    Some(bias) => y + bias.unsqueeze(),
                    None => y,
                }
            }
            // As PEFT does: what DoRA changes about the base's output comes from the dropped inputs too.
            (Some(dora), Some(dropped)) => {
                let factor = dora.factor();
                base(x, bias) + base(dropped.clone(), None) * (factor.clone() - 1.0) + self.update(dropped) * factor
            }
        }
    }

    /// The weight with the adapter worked into it, in `f32`.
    ///
    /// # Shapes
    /// `[out, in]` → the same
    pub fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        let sum = self.sum(weight);
        match &self.dora {
            None => sum,
            Some(dora) => {
                let factor = dora.magnitude.val().inner() / row_lengths(sum.clone());
                sum * factor.unsqueeze_dim(1)
            }
        }
    }

    /// s (x Aᵀ) Bᵀ.
    fn update<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(ops::linear(x, self.a.val(), None, MatmulPrecision::Floats), self.b.val(), None, MatmulPrecision::Floats) * self.scale
    }

    /// W + s B A in `f32`, outside of any gradient.
    fn sum(&self, weight: Tensor<2>) -> Tensor<2> {
        weight.inner().cast(FloatDType::F32) + (self.b.val().inner() * self.scale).matmul(self.a.val().inner())
    }

    /// The inputs with some of them dropped, while training.
    fn dropped<const D: usize>(&self, x: &Tensor<D>) -> Option<Tensor<D>> {
        let training = self.dropout > 0.0 && self.a.val().is_require_grad();
        training.then(|| x.clone() * self.masks.mask(self.dropout, x.dims(), &x.device().without_autodiff()))
    }
}

impl DoraLayer {
    /// m / n, ready to be multiplied with outputs.
    fn factor<const D: usize>(&self) -> Tensor<D> {
        (self.magnitude.val() / self.norm.clone()).unsqueeze()
    }
}

/// The length of each row.
fn row_lengths(weight: Tensor<2>) -> Tensor<1> {
    weight.square().sum_dim(1).sqrt().squeeze_dim(1)
}

/// Which layers get an adapter, and of what kind and size.
#[derive(Clone, Debug)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The update is scaled by alpha / r, or alpha / √r with `rslora`.
    pub alpha: f64,
    /// Share of the adapter's inputs dropped while training.
    pub dropout: f64,
    /// Which layers are meant, of the text model and, if `audio_tower` says so, of the audio tower.
    pub targets: TargetModules,
    /// Whether layers of the audio tower get adapters too.
    pub audio_tower: bool,
    /// Whether both layers of the projector get adapters too; `targets` need not name them.
    pub projector: bool,
    /// Rank-stabilised: a scale that does not let the update shrink as the rank grows.
    pub rslora: bool,
    /// The length of each row of a weight is learned apart from its direction.
    pub dora: bool,
}

/// Where adapters were put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdaptedLayers {
    /// The layers that got one.
    pub adapted: Vec<String>,
    /// Layers that the targets name too, in parts of the model that stay as they are.
    pub kept_out: Vec<String>,
}

impl LoraConfig {
    fn part(&self, part: ModelPart) -> bool {
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

/// Gives a model fresh adapters, A drawn from a seed and B zero. Every target must end up with an adapter somewhere.
pub fn add(model: &mut Voxtral, adapters: &LoraConfig, source: &mut WeightLoader) -> Result<AdaptedLayers> {
    adapters.targets.refuse_tables()?;
    let mut placed = AdaptedLayers::default();
    for (name, layer) in model.linears() {
        let part = ModelPart::of(&name);
        let meant = adapters.targets.names(&name)?;
        if !adapters.part(part) || !(meant || part == ModelPart::Projector) {
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
            let norm = lengths(&name, lora.sum(layer.dense()))?;
            lora.dora = Some(DoraLayer { magnitude: Param::from_tensor(norm.clone()).set_require_grad(false), norm });
        }
        layer.lora = Some(lora);
        placed.adapted.push(name);
    }
    if let Some(target) = adapters.targets.idle(&placed.adapted)? {
        let error = Error::new(format!("target `{target}` names no layer that could get an adapter"));
        return Err(match adapters.targets.first_of(&target, &placed.kept_out)? {
            Some(layer) => error.hint(format!("`{layer}` and its like are in the {}, which gets none", ModelPart::of(&layer))),
            None => error.hint(format!("layers are called like `{}`", targets::EXAMPLE)),
        });
    }
    Ok(placed)
}

/// Replaces the fresh adapters of a model by those of a folder, which have to be of the same kind, size and scale on the same layers.
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
    let said = |kind: Option<&Kind>| match kind {
        None => "no adapter".to_owned(),
        Some(([r, _], dora, scale)) => format!("{} of rank {r}, scaled by {scale}", if *dora { "DoRA" } else { "LoRA" }),
    };
    for name in wanted.keys().chain(found.keys()) {
        let (wanted, found) = (wanted.get(name), found.get(name));
        if wanted != found {
            let message = format!("`{}` has {} on `{name}`, and `lora` asks for {}", folder.display(), said(found), said(wanted));
            return Err(Error::new(message).hint("let `lora` say what adapter_config.json says"));
        }
    }
    for (_, layer) in model.linears() {
        if let Some(lora) = &mut layer.lora {
            lora.dropout = adapters.dropout;
        }
    }
    Ok(())
}

/// The lengths of the rows of a layer's weight; a DoRA adapter divides by them.
fn lengths(layer: &str, weight: Tensor<2>) -> Result<Tensor<1>> {
    let lengths = row_lengths(weight);
    let values = lengths.to_data().try_to_vec::<f32>().map_err(|error| Error::new(format!("`{layer}`: {error:?}")))?;
    match values.iter().position(|length| !(*length > 0.0 && length.is_finite())) {
        None => Ok(lengths),
        Some(row) => Err(Error::new(format!("`{layer}.weight`: row {row} has length {}, and DoRA divides by it", values[row]))
            .hint("use LoRA without DoRA, or leave this layer out")),
    }
}

impl Voxtral {
    /// Measures the rows of all adapted weights anew: to be called whenever A or B of DoRA adapters have changed.
    pub fn measure(&mut self) {
        for (_, layer) in self.linears() {
            if layer.lora.as_ref().is_none_or(|lora| lora.dora.is_none()) {
                continue;
            }
            let weight = layer.dense();
            let Some(lora) = &mut layer.lora else { continue };
            let norm = row_lengths(lora.sum(weight));
            if let Some(dora) = &mut lora.dora {
                dora.norm = norm;
            }
        }
    }

    /// Starts the dropout masks of all adapters anew for a batch. A mask depends on the seed, the layer, the row's place among all
    /// rows of the step and, inside the audio tower, on the chunk within that row: never on how the step is cut into batches.
    ///
    /// `places` are those of the batch's rows in the step, `chunks` the number of chunks of audio in each.
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

    /// Has every linear layer of the blocks and the projector round its weight to brain floats for products, and attention beside them
    /// its factors. Weights stay as they are.
    pub fn compute_in_bf16(&mut self) {
        for (_, layer) in self.linears() {
            layer.rounded = true;
        }
    }

    /// Every linear layer of the blocks and the projector with its name, in order.
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
