//! The loss and gradient of one optimizer step, computed in shards side by side.
//!
//! On a card a shard is `batch_size` rows. On a processor every row is a shard of its own: rows then need no padding, and keep all
//! cores busy although most operations on one row use only one. Shares are added in the order of the rows, so the sum does not depend
//! on how many cores there are, and a row's dropout depends on the step and its place alone, however the step is cut.

use super::adamw::Gradient;
use super::batch::{Batch, Example};
use super::{Recipe, Trained, loss_sum, mark_trained};
use crate::error::Result;
use crate::voxtral::Voxtral;
use burn::tensor::Device;
use rayon::prelude::*;

/// The mean loss over the step's targets and its gradient.
pub(super) fn loss_and_gradient(
    model: &Voxtral,
    examples: &[&Example],
    recipe: &Recipe,
    trained: &Trained,
    device: &Device,
    step: u64,
) -> Result<(f64, Gradient)> {
    let targets: usize = examples.iter().map(|example| example.targets()).sum();
    let on_processor = *device == Device::flex();
    let rows = if on_processor { 1 } else { recipe.batch_size };
    // More shards at once would hold more activations and gradients than there are cores to work on them.
    let at_once = if on_processor { recipe.batch_size.clamp(1, rayon::current_num_threads()) } else { 1 };
    let shards: Vec<(usize, &[&Example])> = examples.chunks(rows).enumerate().collect();
    let seed = recipe.seed.rotate_left(40).wrapping_add(step.rotate_left(20));
    let (mut loss, mut gradient) = (0.0, Gradient::default());
    for wave in shards.chunks(at_once) {
        let shares: Vec<Result<(f64, Gradient)>> = wave
            .par_iter()
            .map(|(place, examples)| {
                let batch = Batch::new(examples, recipe.pad, device)?;
                share(model, &batch, targets, (seed, place * rows), trained)
            })
            .collect();
        for share in shares {
            let (part, parts) = share?;
            loss += part;
            gradient.merge(parts);
        }
    }
    Ok((loss, gradient))
}

/// What some rows add to the step's loss and gradient; dropout is that of the step's seed and the first row's place in the step.
fn share(model: &Voxtral, batch: &Batch, targets: usize, (seed, first): (u64, usize), trained: &Trained) -> Result<(f64, Gradient)> {
    // Leaves of its own make the shard's graph independent of the others'.
    let mut model = mark_trained(model.clone(), trained);
    model.reseed_dropout(seed, first, &batch.chunks);
    let loss = loss_sum(&model, batch)? / targets as f64;
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let mut gradient = Gradient::default();
    gradient.add(&model, loss.backward());
    Ok((value, gradient))
}
