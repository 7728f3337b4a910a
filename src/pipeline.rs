//! A pipeline whose names are resolved and whose ports fit: everything there is to know before looking at the disk.

use crate::stage::AnyStage;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A checked `pipeline.toml`.
pub struct Pipeline {
    /// `[pipeline] name`.
    pub name: String,
    /// The folder relative paths start from: that of the file, joined with `[pipeline] root`.
    pub root: PathBuf,
    /// `[pipeline] seed`.
    pub seed: u64,
    /// The steps in an order in which every step comes after those it needs (ties in file order).
    pub steps: Vec<Step>,
}

/// One `[stage.NAME]`.
pub struct Step {
    /// NAME.
    pub name: String,
    /// The kind with its settings.
    pub stage: Box<dyn AnyStage>,
    /// Port → names of the steps whose results go in.
    pub from: BTreeMap<String, Vec<String>>,
    /// Steps that must be done first although no data flows.
    pub after: Vec<String>,
    /// Derived from the pipeline's seed and the step's name.
    pub seed: u64,
    /// Gates: metric name → bound.
    pub require: BTreeMap<String, Bound>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// How often it is tried again after a failure.
    pub retries: u32,
}

/// What a gate asks of a number, as in `require = { wer = "< 0.15" }`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The comparison.
    pub comparison: Comparison,
    /// The number on its right.
    pub limit: f64,
}

/// A comparison a gate may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}
