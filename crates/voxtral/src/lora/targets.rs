//! Which layers an adapter is for: PEFT's `target_modules`, read as PEFT reads it.
//!
//! A layer has two names: that of its tensors on the Hub (`language_model.model.layers.0.self_attn.q_proj`) and that of its module in
//! transformers 5 (`model.language_model.layers.0.self_attn.q_proj`). Adapters were made under either, so either may match.

use crate::error::{Error, Result};
use fancy_regex::Regex;
use std::fmt;

/// A layer's name, for messages.
pub(super) const EXAMPLE: &str = "language_model.model.layers.0.self_attn.q_proj";

/// The tables at both ends of the text model. PEFT stores them whole beside an adapter on them, 1.6 GB for Mini-3B.
const TABLES: &[&str] = &["language_model.lm_head", "language_model.model.embed_tokens"];

/// Some layers.
#[derive(Clone, Debug)]
pub enum TargetModules {
    /// Those whose name ends in one of these: `q_proj`, `self_attn.q_proj`, `layers.0.self_attn.q_proj`.
    Names(Vec<String>),
    /// Those whose whole name matches.
    Pattern(LayerPattern),
    /// Every linear layer but the head.
    AllLinear,
}

/// A regular expression for whole names.
#[derive(Clone, Debug)]
pub struct LayerPattern {
    text: String,
    regex: Regex,
}

/// A part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelPart {
    /// The language model.
    Text,
    /// The encoder.
    AudioTower,
    /// What stands between them.
    Projector,
}

impl TargetModules {
    /// PEFT's reading of a single text: a pattern, or the word `all-linear`.
    pub fn text(text: &str) -> Result<Self> {
        if text == "all-linear" { Ok(Self::AllLinear) } else { Ok(Self::Pattern(LayerPattern::whole(text)?)) }
    }

    /// Whether a layer, called as on the Hub, is meant.
    pub fn names(&self, layer: &str) -> Result<bool> {
        match self {
            Self::Names(names) => Ok(names.iter().any(|name| called(layer, name))),
            Self::Pattern(pattern) => pattern.matches(layer),
            Self::AllLinear => Ok(!TABLES.contains(&layer)),
        }
    }

    /// The first target that names none of these layers.
    pub(super) fn idle(&self, layers: &[String]) -> Result<Option<String>> {
        match self {
            Self::Names(names) => Ok(names.iter().find(|name| !layers.iter().any(|layer| called(layer, name))).cloned()),
            _ => {
                for layer in layers {
                    if self.names(layer)? {
                        return Ok(None);
                    }
                }
                Ok(Some(self.to_string()))
            }
        }
    }

    /// The first of these layers that one of the targets names.
    pub(super) fn first_of(&self, target: &str, layers: &[String]) -> Result<Option<String>> {
        for layer in layers {
            if matches!(self, Self::Names(_)) && !called(layer, target) {
                continue;
            }
            if self.names(layer)? {
                return Ok(Some(layer.clone()));
            }
        }
        Ok(None)
    }

    /// An error if the embedding or the head is meant.
    pub(super) fn refuse_tables(&self) -> Result<()> {
        for table in TABLES {
            if self.names(table)? {
                let short = table.rsplit('.').next().unwrap_or(table);
                return Err(Error::new(format!("target `{self}` names `{short}`, and adapters on `{short}` are not supported"))
                    .hint("name layers of the blocks: an adapter on a table of the whole vocabulary is stored with the whole table"));
            }
        }
        Ok(())
    }
}

impl fmt::Display for TargetModules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Names(names) => f.write_str(&names.join(", ")),
            Self::Pattern(pattern) => f.write_str(&pattern.text),
            Self::AllLinear => f.write_str("all-linear"),
        }
    }
}

impl LayerPattern {
    /// A pattern for a whole name, as Python's `re.fullmatch` takes it.
    pub fn whole(text: &str) -> Result<Self> {
        Self::new(text, format!(r"\A(?:{text})\z"))
    }

    /// A pattern for a name or what follows a dot in it, as PEFT takes the keys of `rank_pattern`.
    pub(super) fn ending(text: &str) -> Result<Self> {
        Self::new(text, format!(r"\A(?:.*\.)?(?:{text})\z"))
    }

    /// A pattern for what stands before a layer's number and its dot, as PEFT takes `layers_pattern`.
    pub(super) fn before_number(text: &str) -> Result<Self> {
        Self::new(text, format!(r"\A(?:.*?\.)?(?:{text})\.(?<number>[0-9]+)\."))
    }

    fn new(text: &str, whole: String) -> Result<Self> {
        match Regex::new(&whole) {
            Ok(regex) => Ok(Self { text: text.to_owned(), regex }),
            Err(error) => Err(Error::new(format!("`{text}` is not a regular expression we can read: {error}"))),
        }
    }

    /// Whether a layer, called as on the Hub, matches under either of its names.
    pub(super) fn matches(&self, layer: &str) -> Result<bool> {
        for name in spellings(layer) {
            if self.regex.is_match(&name).map_err(|error| self.too_hard(layer, &error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The number of the layer, under the name that matches.
    pub(super) fn number(&self, layer: &str) -> Result<Option<usize>> {
        for name in spellings(layer) {
            let found = self.regex.captures(&name).map_err(|error| self.too_hard(layer, &error))?;
            if let Some(number) = found.and_then(|found| found.name("number").and_then(|number| number.as_str().parse().ok())) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn too_hard(&self, layer: &str, error: &fancy_regex::Error) -> Error {
        Error::new(format!("`{}` cannot be decided for `{layer}`: {error}", self.text)).hint("write a simpler expression")
    }
}

impl ModelPart {
    /// The part a layer belongs to.
    pub fn of(layer: &str) -> Self {
        if layer.starts_with("audio_tower.") {
            Self::AudioTower
        } else if layer.starts_with("multi_modal_projector.") {
            Self::Projector
        } else {
            Self::Text
        }
    }

    /// What patterns and both spellings call it.
    fn root(self) -> &'static str {
        match self {
            Self::Text => "language_model",
            Self::AudioTower => "audio_tower",
            Self::Projector => "multi_modal_projector",
        }
    }
}

impl fmt::Display for ModelPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text model",
            Self::AudioTower => "audio tower",
            Self::Projector => "projector",
        })
    }
}

/// Whether a layer is called so under either of its names.
fn called(layer: &str, name: &str) -> bool {
    spellings(layer).iter().any(|layer| layer.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// A layer's name on the Hub and that of its module in transformers 5.
fn spellings(layer: &str) -> [String; 2] {
    [layer.to_owned(), module(layer)]
}

/// The name of a layer's module in transformers 5.
pub(super) fn module(layer: &str) -> String {
    match layer.strip_prefix("language_model.") {
        Some(rest) if rest.starts_with("model.") => format!("model.language_model.{}", &rest["model.".len()..]),
        Some(head) => head.to_owned(),
        None => format!("model.{layer}"),
    }
}

/// A pattern that means exactly these layers out of `all`, under either name.
pub(super) fn exactly(layers: &[String], all: &[String]) -> String {
    let all = kinds(all);
    let mut groups: Vec<Kind> = Vec::new();
    for mut kind in kinds(layers) {
        if all.contains(&kind) {
            // In every block, so the numbers need not be said.
            kind.numbers.clear();
        }
        match groups.iter_mut().find(|group| group.part == kind.part && group.numbers == kind.numbers) {
            Some(group) => group.names.extend(kind.names),
            None => groups.push(kind),
        }
    }
    let pattern = |group: &Kind| {
        let (root, names, numbers) = (group.part.root(), group.names.join("|"), group.numbers.join("|"));
        if numbers.is_empty() { format!(r".*{root}.*\.({names})") } else { format!(r".*{root}.*\.layers\.({numbers})\.(.*\.)?({names})") }
    };
    groups.iter().map(pattern).collect::<Vec<_>>().join("|")
}

/// Layers of the same name, or several names, and the numbers of the blocks they are in.
#[derive(PartialEq)]
struct Kind {
    part: ModelPart,
    names: Vec<String>,
    numbers: Vec<String>,
}

fn kinds(layers: &[String]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for layer in layers {
        let (part, name) = (ModelPart::of(layer), layer.rsplit('.').next().unwrap_or(layer));
        let number = layer.split('.').find(|piece| piece.bytes().all(|byte| byte.is_ascii_digit())).map(str::to_owned);
        match kinds.iter_mut().find(|kind| kind.part == part && kind.names == [name]) {
            Some(kind) => kind.numbers.extend(number),
            None => kinds.push(Kind { part, names: vec![name.to_owned()], numbers: number.into_iter().collect() }),
        }
    }
    kinds
}
