//! Sampler: the order of the examples in each epoch.
//!
//! The order depends only on the seed and the epoch number, so a checkpoint needs no generator state.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_mt::Mt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shuffling of the examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shuffle {
    /// Reshuffle each epoch, from the seed and the epoch number.
    #[default]
    Seeded,
    /// Reshuffle each epoch with PyTorch's `randperm`, seeded with seed + epoch: the same order as transformers' Trainer.
    Torch,
    /// Do not shuffle.
    None,
}

/// Shuffling method and seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShuffleOrder {
    /// Shuffling method.
    pub shuffle: Shuffle,
    /// Seed; `torch` uses its lower 32 bits.
    pub seed: u64,
}

impl ShuffleOrder {
    /// A permutation of the indices `0 .. count`: the order of the examples in an epoch, counted from 0.
    pub fn of_epoch(&self, epoch: u64, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        let seed = self.seed.wrapping_add(epoch);
        match self.shuffle {
            Shuffle::None => (),
            Shuffle::Seeded => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                for last in (1..count).rev() {
                    order.swap(last, rng.random_range(0..=last as u64) as usize);
                }
            }
            Shuffle::Torch => {
                let mut rng = Mt::new(seed as u32);
                for first in 0..count.saturating_sub(1) {
                    order.swap(first, first + rng.next_u32() as usize % (count - first));
                }
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torch_is_as_torch_shuffles() {
        // torch.randperm(n, generator=torch.Generator().manual_seed(42 + epoch)).tolist()
        let order = |epoch, count| ShuffleOrder { shuffle: Shuffle::Torch, seed: 42 }.of_epoch(epoch, count);
        assert_eq!(order(0, 10), [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]);
        assert_eq!(order(1, 10), [8, 4, 9, 0, 5, 1, 6, 7, 2, 3]);
        assert_eq!(order(2, 10), [2, 6, 3, 8, 7, 9, 1, 4, 5, 0]);
        assert_eq!(order(0, 1), [0]);
        assert_eq!(order(0, 0), [0; 0]);
    }

    #[test]
    fn not_at_all_leaves_everything_where_it_is() {
        assert_eq!(ShuffleOrder { shuffle: Shuffle::None, seed: 1 }.of_epoch(3, 4), [0, 1, 2, 3]);
    }
}
