//! FlashAttention-style attention with online softmax (Dao et al. 2022) and grouped-query attention (GQA): softmax(q kᵀ / √width) v in
//! tiles, with no score matrix in memory.
//!
//! Rows can have any stride, so a KV cache with spare capacity needs no copy. For many queries, keys and values are packed once into the
//! panels that the micro-kernel reads (`packed`, `forward`). For a few queries they are read in place (`decode`). The backward pass
//! recomputes the attention weights from q and k (`backward`): nothing is stored between the two passes.

mod backward;
mod decode;
mod forward;
mod packed;

use super::gemm::MatrixView;
use super::gemv::MAX_GEMV_ROWS;
use super::simd::SimdLevel;
use super::{parallel, simd};
use packed::Packed;
use std::ops::Range;

/// Query rows per task; keys and values are read once for all of them.
const ROWS: usize = 96;

/// Precision of the operands of matrix products. Sums are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Operands are rounded to bf16 if the CPU has bf16 dot products. Sums and attention weights are computed in f32.
    Bf16,
}

/// Attention mask: the keys that a query attends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// All keys.
    None,
    /// Causal: query i attends to the keys up to keys - queries + i.
    Causal,
    /// Causal, and the first `pads[b]` keys of row b are masked. A query with no key gets zeros.
    LeftPadded(Vec<usize>),
}

/// Dimensions of an attention operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Batch size.
    pub batch: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key-value heads, which divides `heads`. Query head h uses key head h / (heads / key heads).
    pub key_heads: usize,
    /// Queries per head.
    pub queries: usize,
    /// Keys per head; at least as many as queries, unless the mask is [`AttentionMask::None`].
    pub keys: usize,
    /// Head dimension.
    pub width: usize,
}

/// A strided view of heads, `[batch, heads, length, width]`; the values of a row are contiguous.
#[derive(Clone, Copy, Debug)]
pub struct AttentionHeads<'a> {
    /// The slice, starting at the first value.
    pub data: &'a [f32],
    /// Distance from one batch row to the next.
    pub batch_stride: usize,
    /// Distance from one head to the next.
    pub head_stride: usize,
    /// Distance from one position to the next.
    pub row_stride: usize,
}

impl<'a> AttentionHeads<'a> {
    /// View of a contiguous tensor `[batch, heads, length, width]`.
    #[must_use]
    pub fn new(data: &'a [f32], heads: usize, length: usize, width: usize) -> Self {
        Self { data, batch_stride: heads * length * width, head_stride: length * width, row_stride: width }
    }

    /// View of `count` positions of a head from `first` on.
    fn rows(&self, batch: usize, head: usize, first: usize, count: usize, width: usize) -> MatrixView<'a> {
        let start = batch * self.batch_stride + head * self.head_stride + first * self.row_stride;
        let data = self.data.get(start..).unwrap_or_default();
        MatrixView { data, rows: count, columns: width, row_stride: self.row_stride, column_stride: 1 }
    }
}

impl AttentionShape {
    /// Range of keys that query `i` of a batch row attends to.
    fn seen(&self, mask: &AttentionMask, batch: usize, i: usize) -> Range<usize> {
        let causal = (self.keys + i + 1).saturating_sub(self.queries).min(self.keys);
        match mask {
            AttentionMask::None => 0..self.keys,
            AttentionMask::Causal => 0..causal,
            AttentionMask::LeftPadded(pads) => pads.get(batch).copied().unwrap_or(0).min(causal)..causal,
        }
    }

    /// Range of keys that any of these queries attends to.
    fn seen_by_any(&self, mask: &AttentionMask, batch: usize, queries: Range<usize>) -> Range<usize> {
        // A later query attends to no fewer keys.
        let last = self.seen(mask, batch, queries.end - 1);
        last.start.min(last.end)..last.end
    }

    /// First key of a batch row that any query attends to.
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

/// Attention, forward pass.
///
/// # Shapes
/// q `[batch, heads, queries, width]`, k and v `[batch, key heads, keys, width]` → `[batch, queries, heads, width]`, the layout the next
/// matrix product needs
#[must_use]
pub fn forward(
    q: AttentionHeads,
    k: AttentionHeads,
    v: AttentionHeads,
    shape: AttentionShape,
    mask: &AttentionMask,
    precision: MatmulPrecision,
) -> Vec<f32> {
    let AttentionShape { heads, key_heads, queries, width, .. } = shape;
    if queries * (heads / key_heads.max(1)) > MAX_GEMV_ROWS {
        return forward_in_tiles(SimdLevel::best(precision == MatmulPrecision::Bf16), q, k, v, shape, mask);
    }
    let mut out = vec![0.0; shape.batch * queries * heads * width];
    if !out.is_empty() && shape.keys > 0 {
        let rows = out.chunks_mut(queries * heads * width).enumerate();
        parallel::each(shape.operations(), rows, |(batch, out)| decode::attend(q, k, v, shape, mask, batch, out));
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

/// Gradients of q, k and v, given that of the result. `gradient` has shape `[batch, heads, queries, width]` like q; the gradients have the
/// shapes of their inputs. Always computed in f32, whatever the precision of the forward pass.
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
                // bf16 pairs do not compute exactly the same, and are never used in the backward pass.
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
