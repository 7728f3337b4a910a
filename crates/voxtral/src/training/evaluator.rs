//! What is thought of a model on the way: held-out clips, looked at now and then.

use super::collate::{Batch, Example};
use super::loss_sum;
use crate::error::Result;
use crate::model::Voxtral;
use burn::tensor::Device;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Looks at a model and says how good it is.
pub struct Validation<'a> {
    /// After so many steps each, and after the last.
    pub every: u64,
    /// What it finds, by name; lower is better.
    pub look: &'a mut dyn FnMut(&Voxtral) -> Result<BTreeMap<String, f64>>,
    /// The number that decides which model is the best.
    pub metric: String,
    /// Whether that one is kept in the end.
    pub keep_best: bool,
    /// After how many looks without a better one the training ends.
    pub patience: Option<u64>,
}

/// What a look found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalResult {
    /// After which step.
    pub step: u64,
    /// After how many passes over the data.
    pub epoch: f64,
    /// The numbers.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
}

/// The best model so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestModel {
    /// After which step.
    pub step: u64,
    /// Its metric.
    pub value: f64,
}

/// The mean loss over all targets of some clips, each for itself, without dropout.
pub fn mean_loss(model: &Voxtral, examples: &[Example], pad: u32, device: &Device) -> Result<f64> {
    let of = |example: &Example| -> Result<f64> {
        let loss = loss_sum(model, &Batch::new(&[example], pad, device)?)?;
        Ok(f64::from(loss.into_scalar::<f32>()))
    };
    // Added in the order of the clips, whichever was ready first.
    let losses = if *device == Device::flex() {
        examples.par_iter().map(of).collect::<Result<Vec<f64>>>()?
    } else {
        examples.iter().map(of).collect::<Result<Vec<f64>>>()?
    };
    let targets: usize = examples.iter().map(Example::targets).sum();
    Ok(losses.iter().sum::<f64>() / targets.max(1) as f64)
}
