//! The settings `lora = { … }`: which layers get an adapter, of what kind and size.

use super::{MOST, SettingError};
use crate::error::Result;
use pipeline::manifest::one_or_many::OneOrMany;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use voxtral::lora::{AdaptedLayers, LoraConfig, ModelPart, TargetModules};

/// The adapter's shape.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Lora {
    /// Rank.
    r: usize,
    /// The update is scaled by alpha / r; by alpha / √r with `rslora`.
    alpha: f64,
    /// Share of the adapter's inputs dropped while training.
    dropout: f64,
    /// Which linear layers get an adapter: a list of names, or one text, a regular expression for whole names such as
    /// `.*layers\.(2[0-9])\..*(q|v)_proj` or the word `all-linear`.
    targets: OneOrMany,
    /// Keep the audio tower as it is: no adapters there.
    freeze_audio_tower: bool,
    /// Adapters also on the two layers of the projector between audio tower and text model.
    projector: bool,
    /// Rank-stabilised LoRA: scale by alpha / √r, so that the update does not shrink as the rank grows. With the same `alpha` that is a
    /// larger step: 2.8 times at rank 8.
    rslora: bool,
    /// DoRA: learn the length of each row of a weight apart from its direction. Slower, and read by PEFT and
    /// transformers but not by every server.
    dora: bool,
}

impl Default for Lora {
    fn default() -> Self {
        let targets = OneOrMany::Many(["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).to_vec());
        Self { r: 8, alpha: 32.0, dropout: 0.0, targets, freeze_audio_tower: true, projector: false, rslora: false, dora: false }
    }
}

/// The linear layers of the text model's blocks.
const TEXT: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
/// Those of the audio tower's.
const AUDIO: &[&str] = &["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"];
const PROJECTOR: &[&str] = &["linear_1", "linear_2"];
const TABLES: &[&str] = &["lm_head", "embed_tokens"];

impl Lora {
    /// What is wrong with the settings as they are.
    pub(super) fn check(&self) -> Vec<SettingError> {
        let positive = |ok: bool, key: &str, what: &str| (!ok).then(|| SettingError::new(key, format!("`{key}` must be {what}")));
        let mut complaints: Vec<SettingError> = [
            positive((1..=MOST).contains(&self.r), "lora.r", "from 1 to 65536"),
            positive(self.alpha > 0.0 && self.alpha.is_finite(), "lora.alpha", "a number above 0, such as 32"),
            positive((0.0..1.0).contains(&self.dropout), "lora.dropout", "from 0 to below 1"),
            positive(!self.targets.as_slice().is_empty(), "lora.targets", "a list of layers, such as [\"q_proj\", \"v_proj\"]"),
        ]
        .into_iter()
        .flatten()
        .collect();
        match &self.targets {
            OneOrMany::Many(names) => complaints.extend(names.iter().filter_map(|name| self.complaint(name))),
            OneOrMany::One(text) => {
                if let Err(error) = TargetModules::text(text) {
                    complaints
                        .push(SettingError::new("lora.targets", error.message).hint("write a regular expression or a list of layers"));
                }
                // A name alone matches no whole name, and was meant for a list.
                if [TEXT, AUDIO, PROJECTOR, TABLES].concat().contains(&text.as_str()) {
                    let complaint = SettingError::new("lora.targets", format!("`{text}` as a text has to match a layer's whole name"));
                    complaints.push(complaint.hint(format!("write [\"{text}\"]")));
                }
            }
        }
        complaints
    }

    /// Why a name in the list of targets cannot be meant.
    fn complaint(&self, target: &str) -> Option<SettingError> {
        let layer = target.rsplit('.').next().unwrap_or(target);
        let complaint = |message: String, hint: String| Some(SettingError::new("lora.targets", message).hint(hint));
        if TEXT.contains(&layer) || (AUDIO.contains(&layer) && !self.freeze_audio_tower) {
            None
        } else if AUDIO.contains(&layer) {
            complaint(
                format!("`{target}` is a layer of the audio tower, which is frozen"),
                format!("write `freeze_audio_tower = false`, or leave `{target}` out"),
            )
        } else if PROJECTOR.contains(&layer) {
            let hint = "leave it out of the list, and write `projector = true` for adapters there";
            complaint(format!("`{target}` is a layer of the projector"), hint.to_owned())
        } else if TABLES.contains(&layer) {
            complaint(format!("adapters on `{target}` are not supported"), "name layers of the blocks".to_owned())
        } else {
            let layers: Vec<&str> = TEXT.iter().chain(&AUDIO[3..]).copied().collect();
            complaint(format!("Voxtral has no layer `{target}`"), format!("layers: {}", layers.join(", ")))
        }
    }

    /// The same for the model.
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

    /// Whether feed-forward blocks may get one.
    pub(super) fn on_feed_forward(&self) -> bool {
        match &self.targets {
            OneOrMany::One(_) => true,
            OneOrMany::Many(names) => {
                names.iter().any(|name| ["gate_proj", "up_proj", "down_proj"].iter().any(|layer| name.ends_with(layer)))
            }
        }
    }

    /// A sentence on what got an adapter, and one on what the targets mean too but that stays as it is.
    pub(super) fn told(&self, placed: &AdaptedLayers) -> (String, Option<String>) {
        let kind = match (self.dora, self.rslora) {
            (false, false) => "LoRA",
            (false, true) => "rank-stabilised LoRA",
            (true, false) => "DoRA",
            (true, true) => "rank-stabilised DoRA",
        };
        let kept_out = (!placed.kept_out.is_empty()).then(|| {
            format!("`lora.targets` also names {}, which get no adapter (see freeze_audio_tower, projector)", by_part(&placed.kept_out))
        });
        (format!("{kind} adapters on {}", by_part(&placed.adapted)), kept_out)
    }
}

/// `4 layers of the text model and 2 of the projector`.
fn by_part(layers: &[String]) -> String {
    let mut counts: BTreeMap<ModelPart, usize> = BTreeMap::new();
    for layer in layers {
        *counts.entry(ModelPart::of(layer)).or_default() += 1;
    }
    let mut said = String::new();
    for (place, (part, count)) in counts.into_iter().enumerate() {
        let noun = match (place, count) {
            (0, 1) => " layer",
            (0, _) => " layers",
            _ => "",
        };
        said.push_str(&format!("{}{count}{noun} of the {part}", if place == 0 { "" } else { " and " }));
    }
    said
}
