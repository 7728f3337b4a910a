//! In which order a pass visits the examples.
//!
//! An order depends on a seed and the number of the pass alone, so there is no generator whose state a checkpoint would have to keep.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_mt::Mt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How examples are shuffled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shuffle {
    /// Anew for each pass.
    #[default]
    Seeded,
    /// Anew for each pass, as PyTorch's `randperm` does from the seed plus the number of the pass: the order of transformers' Trainer.
    Torch,
    /// Not at all.
    None,
}

/// A shuffle with its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShuffleOrder {
    /// How.
    pub shuffle: Shuffle,
    /// From what; `torch` uses its lower 32 bits.
    pub seed: u64,
}

impl ShuffleOrder {
    /// The indices of `count` examples in the order of a pass, counted from 0: each once.
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
