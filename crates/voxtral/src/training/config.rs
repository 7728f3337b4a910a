//! What a run is told: how long, in what steps, at what rate.

use super::adamw;
use super::sampler::ShuffleOrder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the learning rate changes over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LrScheduler {
    /// Falls in a straight line to zero after the last step.
    #[default]
    Linear,
    /// Falls along half a cosine to zero.
    Cosine,
    /// Stays.
    Constant,
}

/// What the loop needs to know.
#[derive(Clone, Debug)]
pub struct TrainingConfig {
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps over which the rate rises from zero.
    pub warmup_steps: u64,
    /// What the rate does afterwards.
    pub lr_scheduler: LrScheduler,
    /// Passes over the examples; may be a fraction.
    pub epochs: f64,
    /// Steps in all, whatever `epochs` says.
    pub max_steps: Option<u64>,
    /// Examples in one forward pass.
    pub batch_size: usize,
    /// Forward passes in one step.
    pub gradient_accumulation: usize,
    /// Keep only what goes into each layer, and compute the rest again when the gradient comes back: less memory, more time.
    pub gradient_checkpointing: bool,
    /// The optimizer's constants.
    pub adamw: adamw::AdamWConfig,
    /// Longest allowed gradient, over all parameters; 0 for no limit.
    pub max_grad_norm: f64,
    /// In which order each pass visits the examples.
    pub order: ShuffleOrder,
    /// Seed of dropout.
    pub seed: u64,
    /// Fills short rows.
    pub pad: u32,
    /// What is kept to go on from.
    pub checkpoints: Option<CheckpointConfig>,
}

/// Where checkpoints go, and how many.
#[derive(Clone, Debug)]
pub struct CheckpointConfig {
    /// The folder.
    pub folder: PathBuf,
    /// After how many steps each.
    pub every: u64,
    /// How many are kept, at least one.
    pub kept: usize,
}

impl TrainingConfig {
    /// Optimizer steps in one pass over `examples`.
    pub fn steps_per_epoch(&self, examples: usize) -> u64 {
        examples.div_ceil(self.batch_size * self.gradient_accumulation) as u64
    }

    /// Optimizer steps in all.
    pub fn steps(&self, examples: usize) -> u64 {
        if let Some(steps) = self.max_steps {
            return steps;
        }
        // A hair less, so that 0.07 of 100 steps are 7 although the product in binary is a little more.
        (self.epochs * self.steps_per_epoch(examples) as f64 - 1e-9).ceil() as u64
    }

    /// The learning rate of a step, counted from 0: the first step after the warm-up uses the full rate, the last a small one.
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

    /// The examples of a step, in order.
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
