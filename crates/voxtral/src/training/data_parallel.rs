//! The loss and gradient of one optimizer step, computed in shards side by side.
//!
//! On a card a shard is `batch_size` rows, of like length, so that little of it is padding. On a processor every row is a shard of its
//! own: rows then need no padding, and keep all cores busy although most operations on one row use only one. Shares are added in the
//! order of the rows, so the sum does not depend on how many cores there are, and a row's dropout depends on the step and its place
//! alone, however the step is cut.

use super::adamw::GradientMap;
use super::collate::{Batch, Example};
use super::gradient_checkpointing::Chain;
use super::{TrainableFilter, TrainingConfig, loss_sum, mark_trained};
use crate::error::Result;
use crate::model::Voxtral;
use burn::tensor::Device;
use rayon::prelude::*;

/// An example with its place among all rows of the step.
type Row<'a> = (usize, &'a Example);

/// The mean loss over the step's targets and its gradient.
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
    let on_processor = *device == Device::flex();
    let size = if on_processor { 1 } else { recipe.batch_size };
    if size > 1 {
        rows.sort_by_key(|(place, example)| (example.ids.len(), *place));
    }
    // More shards at once would hold more activations and gradients than there are cores to work on them.
    let at_once = if on_processor { recipe.batch_size.clamp(1, rayon::current_num_threads()) } else { 1 };
    let shards: Vec<&[Row]> = rows.chunks(size).collect();
    let seed = recipe.seed.rotate_left(40).wrapping_add(step.rotate_left(20));
    let (mut loss, mut gradient) = (0.0, GradientMap::default());
    for wave in shards.chunks(at_once) {
        let shares: Vec<Result<(f64, GradientMap)>> =
            wave.par_iter().map(|rows| share(model, rows, targets, seed, recipe, trained, device)).collect();
        for share in shares {
            let (part, parts) = share?;
            loss += part;
            gradient.merge(parts);
        }
    }
    Ok((loss, gradient))
}

/// What some rows add to the step's loss and gradient; dropout is that of the step's seed and each row's place in the step.
fn share(
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
    // Leaves of its own make the shard's graph independent of the others'.
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
