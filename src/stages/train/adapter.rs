//! LoRA settings (`lora = { … }`): target layers, rank, scaling, and the variants rsLoRA (Kalajdzievski 2023) and DoRA (Liu 2024).

use super::{MOST, SettingError};
use crate::error::Result;
use pipeline::manifest::one_or_many::OneOrMany;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use voxtral::lora::{AdaptedLayers, LoraConfig, ModelPart, TargetModules};

/// LoRA adapter settings.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Lora {
    /// Rank of the update matrices.
    r: usize,
    /// Scaling: the update is multiplied by alpha / r, or by alpha / √r with `rslora`.
    alpha: f64,
    /// Dropout probability of the adapter's inputs during training, from 0 to below 1.
    dropout: f64,
    /// Target modules, the linear layers that get an adapter: a list of layer names, a regular expression that matches full module names,
    /// such as `.*layers\.(2[0-9])\..*(q|v)_proj`, or the word `all-linear`.
    targets: OneOrMany,
    /// Freeze the audio encoder: no adapters on its layers. With `false`, targets in the audio encoder get adapters too.
    freeze_audio_tower: bool,
    /// Also put adapters on the two linear layers of the projector between the audio encoder and the language model.
    projector: bool,
    /// Rank-stabilized LoRA (rsLoRA): scale by alpha / √r, so that the update does not shrink as the rank grows. With the same `alpha` the
    /// update is larger: 2.8 times at rank 8.
    rslora: bool,
    /// Weight-decomposed LoRA (DoRA): train the magnitude of each weight row separately from its direction. Slower; PEFT and transformers
    /// load it, but not every inference server does.
    dora: bool,
}

impl Default for Lora {
    fn default() -> Self {
        let targets = OneOrMany::Many(["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).to_vec());
        Self { r: 8, alpha: 32.0, dropout: 0.0, targets, freeze_audio_tower: true, projector: false, rslora: false, dora: false }
    }
}

/// Linear layers in the blocks of the language model.
const TEXT: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
/// Linear layers in the blocks of the audio encoder.
const AUDIO: &[&str] = &["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"];
const PROJECTOR: &[&str] = &["linear_1", "linear_2"];
const TABLES: &[&str] = &["lm_head", "embed_tokens"];

impl Lora {
    /// Errors in the settings.
    pub(super) fn check(&self) -> Vec<SettingError> {
        let positive = |ok: bool, key: &str, what: &str| (!ok).then(|| SettingError::new(key, format!("`{key}` must be {what}")));
        let mut errors: Vec<SettingError> = [
            positive((1..=MOST).contains(&self.r), "lora.r", "from 1 to 65536"),
            positive(self.alpha > 0.0 && self.alpha.is_finite(), "lora.alpha", "a number above 0, such as 32"),
            positive((0.0..1.0).contains(&self.dropout), "lora.dropout", "from 0 to below 1"),
            positive(!self.targets.as_slice().is_empty(), "lora.targets", "a list of layers, such as [\"q_proj\", \"v_proj\"]"),
        ]
        .into_iter()
        .flatten()
        .collect();
        match &self.targets {
            OneOrMany::Many(names) => errors.extend(names.iter().filter_map(|name| self.name_error(name))),
            OneOrMany::One(text) => {
                if let Err(error) = TargetModules::text(text) {
                    errors.push(SettingError::new("lora.targets", error.message).hint("write a regular expression or a list of layers"));
                }
                // A layer name matches no full module name as a regular expression; a list was meant.
                if [TEXT, AUDIO, PROJECTOR, TABLES].concat().contains(&text.as_str()) {
                    let error = SettingError::new(
                        "lora.targets",
                        format!("`{text}` is read as a regular expression for full module names and matches none"),
                    );
                    errors.push(error.hint(format!("write [\"{text}\"]")));
                }
            }
        }
        errors
    }

    /// The error for a name in the list of targets, if it has one.
    fn name_error(&self, target: &str) -> Option<SettingError> {
        let layer = target.rsplit('.').next().unwrap_or(target);
        let error = |message: String, hint: String| Some(SettingError::new("lora.targets", message).hint(hint));
        if TEXT.contains(&layer) || (AUDIO.contains(&layer) && !self.freeze_audio_tower) {
            None
        } else if AUDIO.contains(&layer) {
            error(
                format!("`{target}` is a layer of the audio encoder, which is frozen"),
                format!("write `freeze_audio_tower = false`, or leave `{target}` out"),
            )
        } else if PROJECTOR.contains(&layer) {
            let hint = "leave it out of the list and write `projector = true`";
            error(format!("`{target}` is a layer of the projector"), hint.to_owned())
        } else if TABLES.contains(&layer) {
            error(format!("adapters on `{target}` are not supported"), "name linear layers of the transformer blocks".to_owned())
        } else {
            let layers: Vec<&str> = TEXT.iter().chain(&AUDIO[3..]).copied().collect();
            error(format!("Voxtral has no layer `{target}`"), format!("layers: {}", layers.join(", ")))
        }
    }

    /// The settings as the configuration of the model's adapters.
    pub(super) fn adapters(&self) -> Result<LoraConfig> {
        Ok(LoraConfig {
            r: self.r,
            alpha: self.alpha,
            dropout: self.dropout,
            targets: match &self.targets {
                OneOrMany::One(text) => TargetModules::text(text)?,
                OneOrMany::Many(names) => TargetModules::Names(names.clone()),
            },
            audio_tower: !self.freeze_audio_tower,
            projector: self.projector,
            rslora: self.rslora,
            dora: self.dora,
        })
    }

    /// Whether layers of the MLP (feed-forward) blocks may get an adapter.
    pub(super) fn on_feed_forward(&self) -> bool {
        match &self.targets {
            OneOrMany::One(_) => true,
            OneOrMany::Many(names) => {
                names.iter().any(|name| ["gate_proj", "up_proj", "down_proj"].iter().any(|layer| name.ends_with(layer)))
            }
        }
    }

    /// A note on the layers that got an adapter, and one on the matched layers that got none.
    pub(super) fn describe(&self, placed: &AdaptedLayers) -> (String, Option<String>) {
        let kind = match (self.dora, self.rslora) {
            (false, false) => "LoRA",
            (false, true) => "rank-stabilized LoRA",
            (true, false) => "DoRA",
            (true, true) => "rank-stabilized DoRA",
        };
        let kept_out = (!placed.kept_out.is_empty()).then(|| {
            format!("`lora.targets` also matches {}, which get no adapter (see freeze_audio_tower, projector)", by_part(&placed.kept_out))
        });
        (format!("{kind} adapters on {}", by_part(&placed.adapted)), kept_out)
    }
}

/// Counts layers per part of the model: `4 layers of the text model and 2 of the projector`.
fn by_part(layers: &[String]) -> String {
    let mut counts: BTreeMap<ModelPart, usize> = BTreeMap::new();
    for layer in layers {
        *counts.entry(ModelPart::of(layer)).or_default() += 1;
    }
    let mut text = String::new();
    for (place, (part, count)) in counts.into_iter().enumerate() {
        let noun = match (place, count) {
            (0, 1) => " layer",
            (0, _) => " layers",
            _ => "",
        };
        text.push_str(&format!("{}{count}{noun} of the {part}", if place == 0 { "" } else { " and " }));
    }
    text
}
