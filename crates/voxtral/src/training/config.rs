//! Training configuration: duration, batch size and learning-rate schedule.

use super::adamw;
use super::sampler::ShuffleOrder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Learning-rate scheduler: how the learning rate changes after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LrScheduler {
    /// Linear decay to zero at the end of training.
    #[default]
    Linear,
    /// Cosine decay to zero at the end of training.
    Cosine,
    /// Constant after warm-up.
    Constant,
}

/// Configuration of the training loop.
#[derive(Clone, Debug)]
pub struct TrainingConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Optimizer steps of linear warm-up from zero.
    pub warmup_steps: u64,
    /// Learning-rate scheduler after warm-up.
    pub lr_scheduler: LrScheduler,
    /// Epochs; may be fractional.
    pub epochs: f64,
    /// Total number of optimizer steps; overrides `epochs`.
    pub max_steps: Option<u64>,
    /// Examples per forward pass.
    pub batch_size: usize,
    /// Gradient accumulation: forward passes per optimizer step.
    pub gradient_accumulation: usize,
    /// Gradient checkpointing: store only layer inputs and recompute activations in the backward pass. Saves memory, costs time.
    pub gradient_checkpointing: bool,
    /// Optimizer hyperparameters.
    pub adamw: adamw::AdamWConfig,
    /// Gradient clipping: maximum global norm; 0 disables it.
    pub max_grad_norm: f64,
    /// Order of the examples in each epoch.
    pub order: ShuffleOrder,
    /// Dropout seed.
    pub seed: u64,
    /// Id of the padding token.
    pub pad: u32,
    /// Checkpointing; `None` disables it.
    pub checkpoints: Option<CheckpointConfig>,
}

/// Checkpoint settings.
#[derive(Clone, Debug)]
pub struct CheckpointConfig {
    /// Folder of the checkpoints.
    pub folder: PathBuf,
    /// Interval in optimizer steps.
    pub every: u64,
    /// Number of checkpoints to keep, at least one.
    pub kept: usize,
}

impl TrainingConfig {
    /// Optimizer steps per epoch of `examples` examples.
    pub fn steps_per_epoch(&self, examples: usize) -> u64 {
        examples.div_ceil(self.batch_size * self.gradient_accumulation) as u64
    }

    /// Total number of optimizer steps.
    pub fn steps(&self, examples: usize) -> u64 {
        if let Some(steps) = self.max_steps {
            return steps;
        }
        // Minus an epsilon: 0.07 × 100 is slightly more than 7 in binary, but means 7 steps.
        (self.epochs * self.steps_per_epoch(examples) as f64 - 1e-9).ceil() as u64
    }

    /// Learning rate of a step, counted from 0. The first step after warm-up uses the peak rate.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * step as f64 / self.warmup_steps.max(1) as f64;
        }
        let left = (steps.saturating_sub(step)) as f64 / steps.saturating_sub(self.warmup_steps).max(1) as f64;
        self.learning_rate
            * match self.lr_scheduler {
                LrScheduler::Linear => left,
                LrScheduler::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - left)).cos()),
                LrScheduler::Constant => 1.0,
            }
    }

    /// Indices of the examples of a step, in order.
    pub(super) fn examples(&self, step: u64, count: usize) -> Vec<usize> {
        let (epoch, within) = (step / self.steps_per_epoch(count), step % self.steps_per_epoch(count));
        let size = self.batch_size * self.gradient_accumulation;
        self.order.of_epoch(epoch, count).into_iter().skip(within as usize * size).take(size).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::sampler::Shuffle;

    fn recipe() -> TrainingConfig {
        TrainingConfig {
            learning_rate: 1.0,
            warmup_steps: 0,
            lr_scheduler: LrScheduler::Linear,
            epochs: 3.0,
            max_steps: None,
            order: ShuffleOrder { shuffle: Shuffle::Seeded, seed: 7 },
            batch_size: 2,
            gradient_accumulation: 2,
            gradient_checkpointing: false,
            adamw: adamw::AdamWConfig::default(),
            max_grad_norm: 1.0,
            seed: 7,
            pad: 0,
            checkpoints: None,
        }
    }

    #[test]
    fn learning_rates() {
        let linear = recipe();
        assert_eq!((linear.rate(0, 4), linear.rate(3, 4)), (1.0, 0.25));
        let warm = TrainingConfig { warmup_steps: 2, ..recipe() };
        assert_eq!([0, 1, 2, 3, 5].map(|step| warm.rate(step, 6)), [0.0, 0.5, 1.0, 0.75, 0.25]);
        let cosine = TrainingConfig { lr_scheduler: LrScheduler::Cosine, ..recipe() };
        assert!((cosine.rate(2, 4) - 0.5).abs() < 1e-12);
        assert_eq!(TrainingConfig { lr_scheduler: LrScheduler::Constant, ..recipe() }.rate(3, 4), 1.0);
    }

    #[test]
    fn every_epoch_visits_every_example_once_in_an_order_of_its_own() {
        let recipe = recipe();
        assert_eq!((recipe.steps_per_epoch(10), recipe.steps(10)), (3, 9), "the short last group of an epoch still steps");
        let epoch = |number: u64| -> Vec<usize> { (0..3).flat_map(|step| recipe.examples(3 * number + step, 10)).collect() };
        for number in 0..3 {
            let mut seen = epoch(number);
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epoch(0), epoch(1));
        assert_eq!(TrainingConfig { epochs: 0.1, ..recipe.clone() }.steps(10), 1);
        assert_eq!(TrainingConfig { max_steps: Some(20), ..recipe }.steps(10), 20);
    }
}
