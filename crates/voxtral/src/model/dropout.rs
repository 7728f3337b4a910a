//! Reproducible dropout: a mask depends only on the seed, the layer and the row.
//!
//! A backend's random generator is shared by the whole process, so other draws would change the masks and a resumed run would not be
//! reproducible. Here, each row has its own ChaCha8 generator. A row's mask does not depend on the other rows of its batch.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::sync::Arc;

/// Elements drawn from one generator. Changing it changes the masks.
const PART: usize = 1 << 16;

/// Dropout masks of one layer for one batch.
#[derive(Clone, Debug, Default)]
pub struct SeededDropout {
    key: [u8; 32],
    /// Ids of the equally sized blocks (rows or chunks) of the batch; empty means a single block with id 0.
    blocks: Arc<[u64]>,
}

impl SeededDropout {
    /// Masks of a layer for a batch of blocks with these ids.
    pub fn new(seed: u64, layer: &str, blocks: Arc<[u64]>) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(layer.as_bytes());
        Self { key: *hasher.finalize().as_bytes(), blocks }
    }

    /// Draws the mask: each element is 0 with probability `rate`, otherwise 1 / (1 - rate).
    ///
    /// Blocks are consecutive along the first dimension. Right padding is drawn last, so it does not change the mask of a row.
    pub fn mask<const D: usize>(&self, rate: f64, shape: [usize; D], device: &Device) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let blocks = if self.blocks.is_empty() { &[0][..] } else { &self.blocks };
        let (threshold, kept) = ((rate * f64::from(u32::MAX)) as u32, (1.0 / (1.0 - rate)) as f32);
        let mut values = vec![0f32; count];
        let parts: Vec<(u64, u64, &mut [f32])> = values
            .chunks_mut(count.div_ceil(blocks.len()).max(1))
            .zip(blocks)
            .flat_map(|(values, block)| values.chunks_mut(PART).enumerate().map(|(part, values)| (*block, part as u64, values)))
            .collect();
        parts.into_par_iter().for_each(|(block, part, values)| {
            let mut hasher = blake3::Hasher::new_keyed(&self.key);
            hasher.update(&block.to_le_bytes()).update(&part.to_le_bytes());
            let mut rng = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
            for value in values {
                *value = if rng.next_u32() < threshold { 0.0 } else { kept };
            }
        });
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, layer: &str, blocks: &[u64], shape: [usize; 2]) -> Vec<f32> {
        SeededDropout::new(seed, layer, blocks.into()).mask(0.25, shape, &Device::flex()).into_data().try_to_vec::<f32>().unwrap()
    }

    #[test]
    fn masks_keep_the_mean_and_depend_on_seed_layer_and_row() {
        let first = draw(1, "q", &[0], [100, 100]);
        assert_eq!(draw(1, "q", &[0], [100, 100]), first);
        for other in [draw(2, "q", &[0], [100, 100]), draw(1, "k", &[0], [100, 100]), draw(1, "q", &[1], [100, 100])] {
            assert_ne!(other, first);
        }
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        assert!(first.iter().all(|value| *value == 0.0 || (*value - 4.0 / 3.0).abs() < 1e-6));
    }

    #[test]
    fn a_row_has_the_same_mask_in_any_company_and_length() {
        let (alone, together) = (draw(1, "q", &[7], [1, 3 * PART / 2]), draw(1, "q", &[5, 7, 6], [3, 3 * PART / 2 + 9]));
        assert_eq!(alone[..], together[3 * PART / 2 + 9..][..3 * PART / 2]);
    }
}
