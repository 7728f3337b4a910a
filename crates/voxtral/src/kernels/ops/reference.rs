//! Reference implementation of the operations in burn's own operations: used on GPUs, and by tests to check the kernels.

use super::{AttentionMask, MatmulPrecision};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Int, Tensor, TensorData, activation, module};

/// Largest number of attention scores of one head in memory at a time; with more, queries are processed in blocks. The 1500 × 1500 scores
/// of the audio encoder fit in one block, the 22,500 × 22,500 of half an hour of audio do not.
const SCORES_AT_ONCE: usize = 1 << 22;

/// See [`super::gelu`].
#[must_use]
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::gelu(x)
}

/// See [`super::silu_mul`].
#[must_use]
pub fn silu_mul<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    activation::silu(gate) * up
}

/// See [`super::layer_norm`].
#[must_use]
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<D> {
    module::layer_norm(x, weight, Some(bias), epsilon)
}

/// See [`super::rms_norm`].
#[must_use]
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let mean_square = x.clone().square().mean_dim(D - 1);
    x * (mean_square + epsilon).sqrt().recip() * weight.unsqueeze()
}

/// See [`super::linear`]. With a bf16 weight or precision, x and the result are rounded to bf16 too, because GPUs have matrix units for
/// bf16.
#[must_use]
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>, precision: MatmulPrecision) -> Tensor<D> {
    if weight.dtype() == DType::F32 && precision == MatmulPrecision::F32 {
        return module::linear(x, weight.transpose(), bias);
    }
    let y = module::linear(x.cast(DType::BF16), weight.cast(DType::BF16).transpose(), None).cast(DType::F32);
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// See [`super::cross_entropy`].
#[must_use]
pub fn cross_entropy(x: Tensor<2>, weight: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let places: Vec<i64> = targets.iter().map(|target| i64::from(*target)).collect();
    let places: Tensor<2, Int> = Tensor::from_data(TensorData::new(places, [targets.len(), 1]), &x.device());
    activation::log_softmax(linear(x, weight, None, MatmulPrecision::F32), 1).gather(1, places).sum().neg()
}

/// See [`super::rotate`].
#[must_use]
pub fn rotate(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let half = x.dims()[3] / 2;
    let turned = Tensor::cat(vec![x.clone().narrow(3, half, half).neg(), x.clone().narrow(3, 0, half)], 3);
    x * cos + turned * sin
}

/// See [`super::attend`].
#[must_use]
pub fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: AttentionMask, precision: MatmulPrecision) -> Tensor<4> {
    let one = q.dims()[2] == 1;
    // A single query is not worth converting the whole KV cache.
    if precision == MatmulPrecision::Bf16 && !one {
        let narrow = |x: Tensor<4>| x.cast(DType::BF16);
        return attend_masked(narrow(q), narrow(k), narrow(v), mask).cast(DType::F32);
    }
    attend_masked(q, k, v, mask)
}

fn attend_masked(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: AttentionMask) -> Tensor<4> {
    let one = q.dims()[2] == 1;
    match mask {
        AttentionMask::LeftPadded(pads) if pads.iter().all(|pad| *pad == 0) => attend_masked(q, k, v, AttentionMask::Causal),
        AttentionMask::LeftPadded(pads) if one => attend_one(q, k, v, &pads),
        AttentionMask::None | AttentionMask::Causal if one => attend_one(q, k, v, &[]),
        AttentionMask::None => attend_blocks(q, k, v, false),
        AttentionMask::Causal => attend_blocks(q, k, v, true),
        AttentionMask::LeftPadded(pads) => {
            let rows = pads.into_iter().enumerate().map(|(row, pad)| attend_row(&q, &k, &v, row, pad));
            Tensor::cat(rows.collect(), 0)
        }
    }
}

/// Attention of one query per row. Keys and values are read in place: no copy of the KV cache per token.
fn attend_one(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, pads: &[usize]) -> Tensor<4> {
    let [batch, heads, _, width] = q.dims();
    let [_, key_heads, keys, _] = k.dims();
    // Query head h uses key head h / (heads / key heads): heads that share a key head become rows of one matrix.
    let q = q.reshape([batch, key_heads, heads / key_heads, width]) / (width as f64).sqrt();
    let mut scores = q.matmul(k.transpose());
    if !pads.is_empty() {
        let hidden: Vec<f32> =
            pads.iter().flat_map(|pad| (0..keys).map(move |key| if key < *pad { f32::NEG_INFINITY } else { 0.0 })).collect();
        scores = scores.clone() + Tensor::from_data(TensorData::new(hidden, [batch, 1, 1, keys]), &scores.device());
    }
    activation::softmax(scores, 3).matmul(v).reshape([batch, heads, 1, width])
}

/// Attention of one batch row without its padding, so that padding costs neither a mask nor computation.
fn attend_row(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, row: usize, pad: usize) -> Tensor<4> {
    let [_, heads, queries, width] = q.dims();
    let keys = k.dims()[2];
    let pad = pad.min(keys.saturating_sub(1));
    let among_padding = pad.saturating_sub(keys - queries);
    let part = |x: &Tensor<4>, from: usize| {
        let length = x.dims()[2];
        x.clone().narrow(0, row, 1).narrow(2, from, length - from)
    };
    let seen = attend_blocks(part(q, among_padding), part(k, pad), part(v, pad), true);
    match among_padding {
        0 => seen,
        _ => Tensor::cat(vec![Tensor::zeros([1, heads, among_padding, width], (&q.device(), q.dtype())), seen], 2),
    }
}

/// Processes queries in blocks that keep the scores below [`SCORES_AT_ONCE`].
fn attend_blocks(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, causal: bool) -> Tensor<4> {
    let (queries, keys) = (q.dims()[2], k.dims()[2]);
    let block = (SCORES_AT_ONCE / keys.max(1)).max(1);
    if queries <= block {
        return attend_whole(q, k, v, causal);
    }
    let blocks = (0..queries).step_by(block).map(|start| {
        let end = (start + block).min(queries);
        let seen = if causal { keys - queries + end } else { keys };
        attend_whole(q.clone().narrow(2, start, end - start), k.clone().narrow(2, 0, seen), v.clone().narrow(2, 0, seen), causal)
    });
    Tensor::cat(blocks.collect(), 2)
}

fn attend_whole(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, causal: bool) -> Tensor<4> {
    let [batch, heads, _, width] = q.dims();
    let [_, key_heads, keys, _] = k.dims();
    let shared = heads / key_heads;
    let repeat = |x: Tensor<4>| match shared {
        1 => x,
        _ => x
            .reshape([batch, key_heads, 1, keys * width])
            .expand([batch, key_heads, shared, keys * width])
            .reshape([batch, heads, keys, width]),
    };
    module::attention(q, repeat(k), repeat(v), None, None, AttentionModuleOptions { is_causal: causal, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(seed: u64, shape: [usize; 4]) -> Tensor<4> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| 4.0 * rng.random::<f32>() - 2.0).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// The definition, element by element.
    fn plain(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, mask: &AttentionMask) -> Vec<Option<Vec<f64>>> {
        let values = |x: &Tensor<4>| x.clone().into_data().try_to_vec::<f32>().unwrap();
        let ([batch, heads, queries, width], [_, key_heads, keys, _]) = (q.dims(), k.dims());
        let (q, k, v) = (values(q), values(k), values(v));
        let mut rows = Vec::new();
        for row in 0..batch * heads * queries {
            let (b, h, i) = (row / heads / queries, row / queries % heads, row % queries);
            let last = if *mask == AttentionMask::None { keys } else { keys - queries + i + 1 };
            let first = if let AttentionMask::LeftPadded(pads) = mask { pads[b] } else { 0 };
            let start = |key: usize| ((b * key_heads + h / (heads / key_heads)) * keys + key) * width;
            let score = |key: usize| -> f64 {
                (0..width).map(|w| f64::from(q[row * width + w]) * f64::from(k[start(key) + w])).sum::<f64>() / (width as f64).sqrt()
            };
            let weights: Vec<(usize, f64)> = (first..last).map(|key| (key, score(key).exp())).collect();
            let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
            let mix = |w: usize| weights.iter().map(|(key, weight)| weight / sum * f64::from(v[start(*key) + w])).sum();
            rows.push((first < last).then(|| (0..width).map(mix).collect()));
        }
        rows
    }

    #[track_caller]
    fn is_by_definition(q: [usize; 4], k: [usize; 4], mask: AttentionMask) {
        let (q, k, v) = (random(1, q), random(2, k), random(3, k));
        let expected = plain(&q, &k, &v, &mask);
        let width = q.dims()[3];
        let found = attend(q, k, v, mask, MatmulPrecision::F32).into_data().try_to_vec::<f32>().unwrap();
        assert!(found.iter().all(|value| value.is_finite()));
        for (place, (found, expected)) in found.chunks(width).zip(expected).enumerate() {
            for (found, expected) in found.iter().zip(expected.into_iter().flatten()) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "row {place}: {found} instead of {expected}");
            }
        }
    }

    #[test]
    fn every_mask_is_as_defined() {
        for mask in [
            AttentionMask::None,
            AttentionMask::Causal,
            AttentionMask::LeftPadded(vec![0, 0]),
            AttentionMask::LeftPadded(vec![2, 0]),
            AttentionMask::LeftPadded(vec![1, 3]),
        ] {
            is_by_definition([2, 6, 5, 4], [2, 3, 5, 4], mask.clone());
            is_by_definition([2, 6, 2, 4], [2, 2, 5, 4], mask.clone());
            is_by_definition([2, 5, 1, 4], [2, 1, 7, 4], mask);
        }
    }

    #[test]
    fn blocks_change_nothing() {
        // 2100 × 2100 scores exceed one block.
        let (q, k, v) = (random(1, [1, 1, 2100, 2]), random(2, [1, 1, 2100, 2]), random(3, [1, 1, 2100, 2]));
        for causal in [false, true] {
            let values = |x: Tensor<4>| x.into_data().try_to_vec::<f32>().unwrap();
            let whole = values(attend_whole(q.clone(), k.clone(), v.clone(), causal));
            let blocks = values(attend_blocks(q.clone(), k.clone(), v.clone(), causal));
            assert!(whole.iter().zip(blocks).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }
}
