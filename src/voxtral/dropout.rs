//! Dropout whose masks depend on a seed and their order only.
//!
//! A backend's own generator is shared by the whole process: whoever else draws from it changes what we get, and a resumed run would
//! end in other bytes. So masks are drawn here.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A sequence of masks, shared by all layers of a model.
#[derive(Clone, Debug, Default)]
pub struct Dropout(Arc<AtomicU64>);

impl Dropout {
    /// The sequence that belongs to a seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    /// The next mask: each element is 0 with probability `rate` and 1 / (1 - rate) otherwise.
    pub fn mask<const D: usize>(&self, rate: f64, shape: [usize; D], device: &Device) -> Tensor<D> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed));
        let (threshold, kept) = ((rate * f64::from(u32::MAX)) as u32, (1.0 / (1.0 - rate)) as f32);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| if rng.next_u32() < threshold { 0.0 } else { kept }).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_the_mean_and_repeat_with_the_seed() {
        let device = Device::flex();
        let draw = |seed| {
            let dropout = Dropout::new(seed);
            [(); 2].map(|()| dropout.mask(0.25, [100, 100], &device).into_data().try_to_vec::<f32>().unwrap())
        };
        let [first, second] = draw(1);
        assert_eq!(draw(1), [first.clone(), second.clone()]);
        assert_ne!(first, second);
        assert_ne!(draw(2)[0], first);
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        assert!(first.iter().all(|value| *value == 0.0 || (*value - 4.0 / 3.0).abs() < 1e-6));
    }
}
