//! softmax(q kᵀ / √width) v without a matrix of scores: some queries and some keys at a time, for one head after the other.
//!
//! Several query heads may share a key head, and rows may be any distance apart, so a cache with room to spare needs no copy. For many
//! queries keys and values are laid out once as tiles of the product read them (`packed`); for a few they are read where they lie
//! (`few`). Backwards, the weights are computed again from q and k: nothing is kept between the two directions.

mod backward;
mod decode;
mod forward;
mod packed;

use super::gemm::MatrixView;
use super::gemv::FEW;
use super::simd::SimdLevel;
use super::{parallel, simd};
use packed::Packed;
use std::ops::Range;

/// Query rows of a task, for which keys and values are read once.
const ROWS: usize = 96;

/// What products are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// 32-bit floats.
    #[default]
    Floats,
    /// Queries, keys, values and weights are rounded to brain floats where the processor multiplies these; products are added up, and
    /// weights computed, in 32-bit floats as ever.
    Bf16,
}

/// Which keys a query sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// All of them.
    None,
    /// Its own and those before it: query i sees keys up to keys - queries + i.
    Causal,
    /// Causal, and in row b nobody sees the first `pads[b]` keys. A query that sees nothing gets zeros.
    LeftPadded(Vec<usize>),
}

/// How large everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Rows of the batch.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads; `heads` is a multiple. Query head h uses key head h / (heads / key heads).
    pub key_heads: usize,
    /// Queries of a head.
    pub queries: usize,
    /// Keys of a head, no fewer than queries unless all are seen.
    pub keys: usize,
    /// Numbers in a row.
    pub width: usize,
}

/// Rows of heads that lie in a slice, the numbers of a row side by side.
#[derive(Clone, Copy, Debug)]
pub struct AttentionHeads<'a> {
    /// From the first number on.
    pub data: &'a [f32],
    /// From one row of the batch to the next.
    pub batch_stride: usize,
    /// From one head to the next.
    pub head_stride: usize,
    /// From one position to the next.
    pub row_stride: usize,
}

impl<'a> AttentionHeads<'a> {
    /// One head after the other, `[batch, heads, length, width]`.
    #[must_use]
    pub fn new(data: &'a [f32], heads: usize, length: usize, width: usize) -> Self {
        Self { data, batch_stride: heads * length * width, head_stride: length * width, row_stride: width }
    }

    /// `count` positions of a head from `first` on.
    fn rows(&self, batch: usize, head: usize, first: usize, count: usize, width: usize) -> MatrixView<'a> {
        let start = batch * self.batch_stride + head * self.head_stride + first * self.row_stride;
        let data = self.data.get(start..).unwrap_or_default();
        MatrixView { data, rows: count, columns: width, row_stride: self.row_stride, column_stride: 1 }
    }
}

impl AttentionShape {
    /// The keys that query `i` of a row sees.
    fn seen(&self, mask: &AttentionMask, batch: usize, i: usize) -> Range<usize> {
        let causal = (self.keys + i + 1).saturating_sub(self.queries).min(self.keys);
        match mask {
            AttentionMask::None => 0..self.keys,
            AttentionMask::Causal => 0..causal,
            AttentionMask::LeftPadded(pads) => pads.get(batch).copied().unwrap_or(0).min(causal)..causal,
        }
    }

    /// The keys that any of some queries sees.
    fn seen_by_any(&self, mask: &AttentionMask, batch: usize, queries: Range<usize>) -> Range<usize> {
        // Who comes later sees no less.
        let last = self.seen(mask, batch, queries.end - 1);
        last.start.min(last.end)..last.end
    }

    /// The first key of a row of the batch that anybody sees.
    fn first_key(&self, mask: &AttentionMask, batch: usize) -> usize {
        match mask {
            AttentionMask::LeftPadded(pads) => pads.get(batch).copied().unwrap_or(0).min(self.keys),
            _ => 0,
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    fn operations(&self) -> usize {
        2 * self.batch * self.heads * self.queries * self.keys * self.width
    }
}

/// # Shapes
/// q `[batch, heads, queries, width]`, k and v `[batch, key heads, keys, width]` → `[batch, queries, heads, width]`, as the next matrix
/// product wants it
#[must_use]
pub fn forward(
    q: AttentionHeads,
    k: AttentionHeads,
    v: AttentionHeads,
    shape: AttentionShape,
    mask: &AttentionMask,
    factors: MatmulPrecision,
) -> Vec<f32> {
    let AttentionShape { heads, key_heads, queries, width, .. } = shape;
    if queries * (heads / key_heads.max(1)) > FEW {
        return forward_in_tiles(SimdLevel::best(factors == MatmulPrecision::Bf16), q, k, v, shape, mask);
    }
    let mut out = vec![0.0; shape.batch * queries * heads * width];
    if !out.is_empty() && shape.keys > 0 {
        let rows = out.chunks_mut(queries * heads * width).enumerate();
        parallel::each(shape.operations(), rows, |(batch, out)| decode::few(q, k, v, shape, mask, batch, out));
    }
    out
}

fn forward_in_tiles(
    kind: SimdLevel,
    q: AttentionHeads,
    k: AttentionHeads,
    v: AttentionHeads,
    shape: AttentionShape,
    mask: &AttentionMask,
) -> Vec<f32> {
    let AttentionShape { heads, queries, width, .. } = shape;
    let mut out = vec![0.0; shape.batch * queries * heads * width];
    if out.is_empty() || shape.keys == 0 {
        return out;
    }
    let packed = Packed::new(kind, k, v, shape, mask);
    let blocks = out
        .chunks_mut(queries * heads * width)
        .enumerate()
        .flat_map(|(batch, out)| out.chunks_mut(ROWS * heads * width).enumerate().map(move |(block, out)| (batch, block * ROWS, out)));
    parallel::each(shape.operations(), blocks, |(batch, first, out)| {
        simd::run(kind, forward::ForwardPart { q, packed: &packed, shape, mask, batch, first, out });
    });
    out
}

/// The gradients of q, k and v from that of the result, `[batch, heads, queries, width]` like q; those of k and v like k. In 32-bit floats
/// whatever the way there was computed in.
#[must_use]
pub fn backward(
    q: AttentionHeads,
    k: AttentionHeads,
    v: AttentionHeads,
    gradient: AttentionHeads,
    shape: AttentionShape,
    mask: &AttentionMask,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    backward_in_tiles(SimdLevel::best(false), q, k, v, gradient, shape, mask)
}

fn backward_in_tiles(
    kind: SimdLevel,
    q: AttentionHeads,
    k: AttentionHeads,
    v: AttentionHeads,
    gradient: AttentionHeads,
    shape: AttentionShape,
    mask: &AttentionMask,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let AttentionShape { batch, heads, key_heads, queries, keys, width } = shape;
    let mut dq = vec![0.0; batch * heads * queries * width];
    let (mut dk, mut dv) = (vec![0.0; batch * key_heads * keys * width], vec![0.0; batch * key_heads * keys * width]);
    if dq.is_empty() || dk.is_empty() {
        return (dq, dk, dv);
    }
    let group = heads / key_heads;
    let outputs = dq.chunks_mut(group * queries * width).zip(dk.chunks_mut(keys * width)).zip(dv.chunks_mut(keys * width));
    parallel::each(3 * shape.operations(), outputs.enumerate(), |(task, ((dq, dk), dv))| {
        let (batch, key_head) = (task / key_heads, task % key_heads);
        simd::run(kind, backward::BackwardPart { q, k, v, gradient, shape, mask, batch, key_head, dq, dk, dv });
    });
    (dq, dk, dv)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| (i * step % 1009) as f32 / 500.0 - 1.0).collect()
    }

    #[test]
    fn every_kind_of_processor_computes_the_same() {
        for (queries, keys, width) in [(50, 50, 20), (27, 230, 64), (200, 200, 72)] {
            for mask in [AttentionMask::None, AttentionMask::Causal, AttentionMask::LeftPadded(vec![11, 0])] {
                let shape = AttentionShape { batch: 2, heads: 4, key_heads: 2, queries, keys, width };
                let (q, g) = (numbers(8 * queries * width, 37), numbers(8 * queries * width, 91));
                let (k, v) = (numbers(4 * keys * width, 53), numbers(4 * keys * width, 71));
                let [q, g] = [&q, &g].map(|x| AttentionHeads::new(x, 4, queries, width));
                let [k, v] = [&k, &v].map(|x| AttentionHeads::new(x, 2, keys, width));
                let all = |kind| {
                    let (dq, dk, dv) = backward_in_tiles(kind, q, k, v, g, shape, &mask);
                    [forward_in_tiles(kind, q, k, v, shape, &mask), dq, dk, dv]
                };
                let expected = all(SimdLevel::Plain);
                // Pairs of brain floats are no exact twins, and never used backwards.
                for kind in SimdLevel::all().into_iter().filter(|kind| !kind.is_rounding()) {
                    for (what, (found, expected)) in all(kind).iter().zip(&expected).enumerate() {
                        let scale = expected.iter().fold(1.0_f32, |a, b| a.max(b.abs()));
                        let same = found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-5 * scale);
                        assert!(same, "{kind:?} {shape:?} {mask:?}, result {what}");
                    }
                }
            }
        }
    }
}
