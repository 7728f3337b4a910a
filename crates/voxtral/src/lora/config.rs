//! Parser for PEFT's `adapter_config.json`.
//!
//! PEFT writes about forty keys. Keys that select layers and define adapters have PEFT's meaning, and a few informational keys are ignored.
//! Any other key that is set is rejected by name, because ignoring it would change the result.

use super::scale;
use super::targets::{LayerPattern, TargetModules};
use crate::error::{Error, Result, ResultExt};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::Path;
use std::{fmt, fs};

/// File name.
pub(super) const CONFIG: &str = "adapter_config.json";

/// Ignored keys: they describe the adapter's origin, or configure features that are not used here.
const IGNORED_KEYS: &[&str] = &[
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Initializations that do not change the base model. All others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) move part of the base weights into
/// the adapter, so the adapter fits only the modified base.
const BASE_PRESERVING_INITS: &[&str] = &["eva", "gaussian", "orthogonal"];

/// Parsed adapter configuration.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    /// Dropout rate of the adapter's inputs during training.
    pub(super) dropout: f64,
    /// Whether the adapter is DoRA.
    pub(super) dora: bool,
    /// Name or path of the base model, as recorded in the file.
    pub(super) base: Option<String>,
    r: usize,
    alpha: f64,
    rslora: bool,
    targets: TargetModules,
    excluded: Option<TargetModules>,
    ranks: Vec<(LayerPattern, usize)>,
    alphas: Vec<(LayerPattern, f64)>,
    numbers: Option<Vec<usize>>,
    before_numbers: Vec<LayerPattern>,
}

/// The JSON file.
#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    target_modules: Option<Texts>,
    #[serde(default)]
    exclude_modules: Option<Texts>,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    rank_pattern: Option<InOrder<usize>>,
    #[serde(default)]
    alpha_pattern: Option<InOrder<f64>>,
    #[serde(default)]
    layers_to_transform: Option<Numbers>,
    #[serde(default)]
    layers_pattern: Option<Texts>,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Numbers {
    One(usize),
    Many(Vec<usize>),
}

impl AdapterConfig {
    /// Reads `adapter_config.json` of a folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let raw = serde_json::from_str(&text).map_err(|error| Error::new(format!("{}: {error}", path.display())))?;
        Self::new(raw).map_err(|error| error.context(path.display()))
    }

    fn new(raw: Raw) -> Result<Self> {
        if raw.peft_type != "LORA" {
            return Err(Error::new(format!("only LoRA adapters are supported, not {}", raw.peft_type)));
        }
        raw.refuse_unread()?;
        if raw.r == 0 || !raw.lora_alpha.is_finite() || !(0.0..1.0).contains(&raw.lora_dropout) {
            return Err(Error::new("`r` must be at least 1, `lora_alpha` a number, and `lora_dropout` at least 0 and below 1"));
        }
        let Some(targets) = raw.target_modules else {
            return Err(Error::new("`target_modules` is missing"));
        };
        let targets = TargetModules::try_from(targets).map_err(|error| error.context("`target_modules`"))?;
        targets.refuse_tables()?;
        let excluded = match raw.exclude_modules {
            Some(Texts::Many(names)) if names.is_empty() => None,
            other => other.map(TargetModules::try_from).transpose().map_err(|error| error.context("`exclude_modules`"))?,
        };
        let ranks = raw.rank_pattern.map(InOrder::patterns).transpose()?.unwrap_or_default();
        let alphas = raw.alpha_pattern.map(InOrder::patterns).transpose()?.unwrap_or_default();
        if ranks.iter().any(|(_, r)| *r == 0) || alphas.iter().any(|(_, alpha): &(_, f64)| !alpha.is_finite()) {
            return Err(Error::new("`rank_pattern` must contain ranks of at least 1, and `alpha_pattern` numbers"));
        }
        let numbers = match raw.layers_to_transform {
            None => None,
            Some(Numbers::One(number)) => Some(vec![number]),
            Some(Numbers::Many(numbers)) => Some(numbers).filter(|numbers| !numbers.is_empty()),
        };
        let before = match raw.layers_pattern {
            None => Vec::new(),
            Some(Texts::One(text)) => vec![text],
            Some(Texts::Many(texts)) => texts,
        };
        // Without a pattern for the name before the layer number, any name matches.
        let before = if before.iter().all(String::is_empty) { vec![r"[^.]*".to_owned()] } else { before };
        if numbers.is_some() && !matches!(targets, TargetModules::Names(_)) {
            return Err(Error::new("`layers_to_transform` requires a list in `target_modules`, not a pattern"));
        }
        Ok(Self {
            dropout: raw.lora_dropout,
            dora: raw.use_dora,
            base: raw.base_model_name_or_path,
            r: raw.r,
            alpha: raw.lora_alpha,
            rslora: raw.use_rslora,
            targets,
            excluded,
            ranks,
            alphas,
            numbers,
            before_numbers: before.iter().map(|text| LayerPattern::before_number(text)).collect::<Result<_>>()?,
        })
    }

    /// Whether a layer (Hub name) is adapted.
    pub(super) fn adapts(&self, layer: &str) -> Result<bool> {
        if !self.targets.names(layer)? {
            return Ok(false);
        }
        if let Some(excluded) = &self.excluded
            && excluded.names(layer)?
        {
            return Ok(false);
        }
        let Some(numbers) = &self.numbers else { return Ok(true) };
        for pattern in &self.before_numbers {
            if let Some(number) = pattern.number(layer)? {
                return Ok(numbers.contains(&number));
            }
        }
        Ok(false)
    }

    /// The rank of a layer's adapter.
    pub(super) fn rank(&self, layer: &str) -> Result<usize> {
        Ok(first_match(&self.ranks, layer)?.unwrap_or(self.r))
    }

    /// Scale of a layer's update.
    pub(super) fn scale(&self, layer: &str) -> Result<f64> {
        Ok(scale(first_match(&self.alphas, layer)?.unwrap_or(self.alpha), self.rank(layer)?, self.rslora))
    }
}

fn first_match<T: Copy>(patterns: &[(LayerPattern, T)], layer: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern.matches(layer)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

impl Raw {
    /// Rejects settings that would change the computation but are not supported.
    fn refuse_unread(&self) -> Result<()> {
        let merge = "merge the adapter into its base with PEFT's `merge_and_unload`, and use the merged model as `--model`";
        if let Value::String(init) = &self.init_lora_weights
            && !BASE_PRESERVING_INITS.contains(&init.as_str())
        {
            return Err(Error::new(format!("`init_lora_weights` is `{init}`, which also changes the base model"))
                .hint("save the adapter with PEFT's `path_initial_model_for_weight_conversion`, which converts it to plain LoRA"));
        }
        if let Some(bias) = self.bias.as_deref().filter(|bias| *bias != "none") {
            return Err(Error::new(format!("`bias` is `{bias}`, but adapters with trained biases are not supported")).hint(merge));
        }
        for (key, value) in &self.rest {
            let set = match value {
                Value::Null | Value::Bool(false) => false,
                Value::Array(values) => !values.is_empty(),
                Value::Object(values) => !values.is_empty(),
                Value::String(text) => !text.is_empty(),
                _ => true,
            };
            if set && !IGNORED_KEYS.contains(&key.as_str()) {
                return Err(Error::new(format!("adapters that use `{key}` are not supported")).hint(merge));
            }
        }
        Ok(())
    }
}

impl TryFrom<Texts> for TargetModules {
    type Error = Error;
    fn try_from(texts: Texts) -> Result<Self> {
        match texts {
            Texts::One(text) => Self::text(&text),
            Texts::Many(names) => Ok(Self::Names(names)),
        }
    }
}

/// A JSON object in file order: the first matching key applies.
struct InOrder<T>(Vec<(String, T)>);

impl<T> InOrder<T> {
    fn patterns(self) -> Result<Vec<(LayerPattern, T)>> {
        self.0.into_iter().map(|(key, value)| Ok((LayerPattern::ending(&key)?, value))).collect()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for InOrder<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = InOrder<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of patterns and numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(InOrder(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}
