//! Random initialization of tensors. Each tensor depends only on the seed and its own name.

use super::Initializer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The initial values of a tensor, in row-major order.
pub(super) fn initial(seed: u64, name: &str, shape: &[usize], init: Initializer) -> Vec<f32> {
    let count = shape.iter().product();
    match init {
        Initializer::Zeros => vec![0.0; count],
        Initializer::Ones => vec![1.0; count],
        Initializer::Sinusoids => sinusoids(shape),
        Initializer::Uniform(bound) => {
            let mut rng = generator(seed, name);
            (0..count).map(|_| (2.0 * rng.random::<f32>() - 1.0) * bound).collect()
        }
        Initializer::Normal(deviation) => {
            let mut rng = generator(seed, name);
            // Box-Muller transform, implemented here so that the values do not depend on a library version.
            (0..count)
                .map(|_| {
                    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
                    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32 * deviation
                })
                .collect()
        }
    }
}

fn generator(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Whisper's sinusoidal position table: sines in the first half of a row, cosines in the second, computed in `f32` as in Whisper.
fn sinusoids(shape: &[usize]) -> Vec<f32> {
    let (positions, width) = (shape.first().copied().unwrap_or(0), shape.get(1).copied().unwrap_or(0));
    let half = width / 2;
    let step = (10_000f64.ln() / (half as f64 - 1.0)) as f32;
    let angle = |position: usize, index: usize| position as f32 * (-step * index as f32).exp();
    (0..positions)
        .flat_map(|position| {
            (0..half).map(move |index| angle(position, index).sin()).chain((0..half).map(move |index| angle(position, index).cos()))
        })
        .collect()
}
