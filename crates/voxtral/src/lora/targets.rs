//! Target layers of an adapter: PEFT's `target_modules`, with PEFT's matching rules.
//!
//! A layer has two names: that of its tensors on the Hub (`language_model.model.layers.0.self_attn.q_proj`) and that of its module in
//! transformers 5 (`model.language_model.layers.0.self_attn.q_proj`). Adapters exist for both, so either name may match.

use crate::error::{Error, Result};
use fancy_regex::Regex;
use std::fmt;

/// An example of a layer name, for messages.
pub(super) const EXAMPLE: &str = "language_model.model.layers.0.self_attn.q_proj";

/// Vocabulary-sized matrices. For an adapter on them, PEFT also stores the full matrices: 1.6 GB for Mini-3B.
const TABLES: &[&str] = &["language_model.lm_head", "language_model.model.embed_tokens"];

/// A selection of layers.
#[derive(Clone, Debug)]
pub enum TargetModules {
    /// Layers whose name ends in one of these: `q_proj`, `self_attn.q_proj`, `layers.0.self_attn.q_proj`.
    Names(Vec<String>),
    /// Layers whose full name matches a regular expression.
    Pattern(LayerPattern),
    /// All linear layers except the output head.
    AllLinear,
}

/// A regular expression for layer names.
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
    /// The audio encoder.
    AudioTower,
    /// The projector between them.
    Projector,
}

impl TargetModules {
    /// Parses a single string as PEFT does: a regular expression, or `all-linear`.
    pub fn text(text: &str) -> Result<Self> {
        if text == "all-linear" { Ok(Self::AllLinear) } else { Ok(Self::Pattern(LayerPattern::whole(text)?)) }
    }

    /// Whether a layer (Hub name) is selected.
    pub fn names(&self, layer: &str) -> Result<bool> {
        match self {
            Self::Names(names) => Ok(names.iter().any(|name| called(layer, name))),
            Self::Pattern(pattern) => pattern.matches(layer),
            Self::AllLinear => Ok(!TABLES.contains(&layer)),
        }
    }

    /// The first target that matches none of these layers.
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

    /// The first of these layers that the target matches.
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

    /// An error if the embedding or the output head is selected.
    pub(super) fn refuse_tables(&self) -> Result<()> {
        for table in TABLES {
            if self.names(table)? {
                let short = table.rsplit('.').next().unwrap_or(table);
                return Err(Error::new(format!("target `{self}` matches `{short}`, but adapters on `{short}` are not supported"))
                    .hint("select only layers of the blocks: an adapter on a vocabulary-sized matrix is stored with the full matrix"));
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
    /// A pattern for the full name, like Python's `re.fullmatch`.
    pub fn whole(text: &str) -> Result<Self> {
        Self::new(text, format!(r"\A(?:{text})\z"))
    }

    /// A pattern for the full name or a suffix after a dot, as for the keys of PEFT's `rank_pattern`.
    pub(super) fn ending(text: &str) -> Result<Self> {
        Self::new(text, format!(r"\A(?:.*\.)?(?:{text})\z"))
    }

    /// A pattern for the name before the layer number, as in PEFT's `layers_pattern`.
    pub(super) fn before_number(text: &str) -> Result<Self> {
        Self::new(text, format!(r"\A(?:.*?\.)?(?:{text})\.(?<number>[0-9]+)\."))
    }

    fn new(text: &str, whole: String) -> Result<Self> {
        match Regex::new(&whole) {
            Ok(regex) => Ok(Self { text: text.to_owned(), regex }),
            Err(error) => Err(Error::new(format!("`{text}` is not a regular expression: {error}"))),
        }
    }

    /// Whether a layer (Hub name) matches under either of its names.
    pub(super) fn matches(&self, layer: &str) -> Result<bool> {
        for name in spellings(layer) {
            if self.regex.is_match(&name).map_err(|error| self.too_hard(layer, &error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The layer number, from the first name that matches.
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
        Error::new(format!("cannot match `{}` against `{layer}`: {error}", self.text)).hint("use a simpler regular expression")
    }
}

impl ModelPart {
    /// The part of the model that a layer (Hub name) belongs to.
    pub fn of(layer: &str) -> Self {
        if layer.starts_with("audio_tower.") {
            Self::AudioTower
        } else if layer.starts_with("multi_modal_projector.") {
            Self::Projector
        } else {
            Self::Text
        }
    }

    /// The module name, as it appears in both naming schemes.
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
            Self::Text => "language model",
            Self::AudioTower => "audio encoder",
            Self::Projector => "projector",
        })
    }
}

/// Whether either name of a layer ends in `name` at a dot boundary.
fn called(layer: &str, name: &str) -> bool {
    spellings(layer).iter().any(|layer| layer.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// The Hub name of a layer and its module name in transformers 5.
fn spellings(layer: &str) -> [String; 2] {
    [layer.to_owned(), module(layer)]
}

/// Module name of a layer in transformers 5.
pub(super) fn module(layer: &str) -> String {
    match layer.strip_prefix("language_model.") {
        Some(rest) if rest.starts_with("model.") => format!("model.language_model.{}", &rest["model.".len()..]),
        Some(head) => head.to_owned(),
        None => format!("model.{layer}"),
    }
}

/// A regular expression that matches exactly these layers out of `all`, under either name.
pub(super) fn exactly(layers: &[String], all: &[String]) -> String {
    let all = kinds(all);
    let mut groups: Vec<Kind> = Vec::new();
    for mut kind in kinds(layers) {
        if all.contains(&kind) {
            // Present in every block, so the layer numbers are not needed.
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

/// Layers of one part with the same names, and the numbers of their blocks.
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
