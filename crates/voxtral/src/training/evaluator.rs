//! Validation during training: periodic evaluation, best-model selection and early stopping.

use super::collate::{Batch, Example};
use super::loss_sum;
use crate::error::Result;
use crate::model::Voxtral;
use burn::tensor::Device;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Periodic validation of the model.
pub struct Validation<'a> {
    /// Interval in optimizer steps; the last step is always evaluated.
    pub every: u64,
    /// Evaluates a model and returns its metrics by name; lower is better.
    pub look: &'a mut dyn FnMut(&Voxtral) -> Result<BTreeMap<String, f64>>,
    /// Name of the metric that selects the best model.
    pub metric: String,
    /// Whether training returns the best model instead of the last.
    pub keep_best: bool,
    /// Early stopping: number of evaluations without improvement after which training ends; `None` disables it.
    pub patience: Option<u64>,
}

/// Result of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalResult {
    /// Optimizer step after which the model was evaluated.
    pub step: u64,
    /// Epochs finished by then, with fraction.
    pub epoch: f64,
    /// Metrics by name.
    #[serde(flatten, with = "voxpipe_io::metrics")]
    pub metrics: BTreeMap<String, f64>,
}

/// The best model so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestModel {
    /// Optimizer step after which the model was evaluated.
    pub step: u64,
    /// Value of its validation metric.
    pub value: f64,
}

/// Mean loss per target token over some examples, evaluated one at a time without dropout.
pub fn mean_loss(model: &Voxtral, examples: &[Example], pad: u32, device: &Device) -> Result<f64> {
    let of = |example: &Example| -> Result<f64> {
        let loss = loss_sum(model, &Batch::new(&[example], pad, device)?)?;
        Ok(f64::from(loss.into_scalar::<f32>()))
    };
    // Summed in example order, so that the result does not depend on thread timing.
    let losses = if *device == Device::flex() {
        examples.par_iter().map(of).collect::<Result<Vec<f64>>>()?
    } else {
        examples.iter().map(of).collect::<Result<Vec<f64>>>()?
    };
    let targets: usize = examples.iter().map(Example::targets).sum();
    Ok(losses.iter().sum::<f64>() / targets.max(1) as f64)
}
