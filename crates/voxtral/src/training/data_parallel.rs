//! Data parallelism over CPU cores: loss and gradient of one optimizer step, split into micro-batches.
//!
//! On a GPU, a micro-batch is `batch_size` rows of similar length, which limits padding. On the CPU, every row is its own micro-batch: rows
//! need no padding, and all cores are busy although most operations on one row use a single core. Gradients are summed in row order, so
//! the result does not depend on the number of cores. A row's dropout depends only on the step and its index in the step.

use super::adamw::GradientMap;
use super::collate::{Batch, Example};
use super::gradient_checkpointing::Chain;
use super::{TrainableFilter, TrainingConfig, loss_sum, mark_trained};
use crate::error::Result;
use crate::model::Voxtral;
use burn::tensor::Device;
use rayon::prelude::*;

/// An example with its index in the step.
type Row<'a> = (usize, &'a Example);

/// Mean loss over the targets of a step, and its gradient.
pub(super) fn loss_and_gradient(
    model: &Voxtral,
    examples: &[&Example],
    recipe: &TrainingConfig,
    trained: &TrainableFilter,
    device: &Device,
    step: u64,
) -> Result<(f64, GradientMap)> {
    let targets: usize = examples.iter().map(|example| example.targets()).sum();
    let mut rows: Vec<Row> = examples.iter().copied().enumerate().collect();
    let on_cpu = *device == Device::flex();
    let size = if on_cpu { 1 } else { recipe.batch_size };
    if size > 1 {
        rows.sort_by_key(|(place, example)| (example.ids.len(), *place));
    }
    // More concurrent micro-batches than cores would only cost memory for activations and gradients.
    let concurrent = if on_cpu { recipe.batch_size.clamp(1, rayon::current_num_threads()) } else { 1 };
    let micro_batches: Vec<&[Row]> = rows.chunks(size).collect();
    let seed = recipe.seed.rotate_left(40).wrapping_add(step.rotate_left(20));
    let (mut loss, mut gradient) = (0.0, GradientMap::default());
    for wave in micro_batches.chunks(concurrent) {
        let results: Vec<Result<(f64, GradientMap)>> =
            wave.par_iter().map(|rows| micro_batch(model, rows, targets, seed, recipe, trained, device)).collect();
        for result in results {
            let (part_loss, part_gradient) = result?;
            loss += part_loss;
            gradient.merge(part_gradient);
        }
    }
    Ok((loss, gradient))
}

/// Loss and gradient of one micro-batch, scaled to the step's mean. Dropout depends on the step's seed and each row's index in the step.
fn micro_batch(
    model: &Voxtral,
    rows: &[Row],
    targets: usize,
    seed: u64,
    recipe: &TrainingConfig,
    trained: &TrainableFilter,
    device: &Device,
) -> Result<(f64, GradientMap)> {
    let (places, examples): (Vec<usize>, Vec<&Example>) = rows.iter().copied().unzip();
    let batch = Batch::new(&examples, recipe.pad, device)?;
    // Separate leaf tensors make this autodiff graph independent of the other micro-batches.
    let mut model = mark_trained(model.clone(), trained);
    model.reseed_dropout(seed, &places, &batch.chunks);
    if recipe.gradient_checkpointing {
        return Chain { model: &model, batch: &batch, targets }.loss_and_gradient();
    }
    let loss = loss_sum(&model, &batch)? / targets as f64;
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let mut gradient = GradientMap::default();
    gradient.add(&model, loss.backward());
    Ok((value, gradient))
}
