//! softmax(q kᵀ / √width) v without a matrix of scores: some queries and some keys at a time, for one head after the other.
//!
//! Several query heads may share a key head, and rows may be any distance apart, so a cache with room to spare needs no copy. For many
//! queries keys and values are laid out once as tiles of the product read them ([`packed`]); for a few they are read where they lie
//! ([`few`]). Backwards, the weights are computed again from q and k: nothing is kept between the two directions.

mod backward;
mod few;
mod forward;
mod packed;

use super::dot::FEW;
use super::lanes::{self, Kind};
use super::parallel;
use super::product::Matrix;
use packed::Packed;
use std::ops::Range;

/// Query rows of a task, for which keys and values are read once.
const ROWS: usize = 96;

/// What products are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Factors {
    /// 32-bit floats.
    #[default]
    Floats,
    /// Queries, keys, values and weights are rounded to brain floats where the processor multiplies these; products are added up, and
    /// weights computed, in 32-bit floats as ever.
    BrainFloats,
}

/// Which keys a query sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    None,
    /// Its own and those before it: query i sees keys up to keys - queries + i.
    Causal,
    /// Causal, and in row b nobody sees the first `pads[b]` keys. A query that sees nothing gets zeros.
    LeftPadded(Vec<usize>),
}

/// How large everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
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
pub struct Heads<'a> {
    /// From the first number on.
    pub data: &'a [f32],
    /// From one row of the batch to the next.
    pub batch_stride: usize,
    /// From one head to the next.
    pub head_stride: usize,
    /// From one position to the next.
    pub row_stride: usize,
}

impl<'a> Heads<'a> {
    /// One head after the other, `[batch, heads, length, width]`.
    #[must_use]
    pub fn new(data: &'a [f32], heads: usize, length: usize, width: usize) -> Self {
        Self { data, batch_stride: heads * length * width, head_stride: length * width, row_stride: width }
    }

    /// `count` positions of a head from `first` on.
    fn rows(&self, batch: usize, head: usize, first: usize, count: usize, width: usize) -> Matrix<'a> {
        let start = batch * self.batch_stride + head * self.head_stride + first * self.row_stride;
        let data = self.data.get(start..).unwrap_or_default();
        Matrix { data, rows: count, columns: width, row_stride: self.row_stride, column_stride: 1 }
    }
}

impl Shape {
    /// The keys that query `i` of a row sees.
    fn seen(&self, mask: &Mask, batch: usize, i: usize) -> Range<usize> {
        let causal = (self.keys + i + 1).saturating_sub(self.queries).min(self.keys);
        match mask {
            Mask::None => 0..self.keys,
            Mask::Causal => 0..causal,
            Mask::LeftPadded(pads) => pads.get(batch).copied().unwrap_or(0).min(causal)..causal,
        }
    }

    /// The keys that any of some queries sees.
    fn seen_by_any(&self, mask: &Mask, batch: usize, queries: Range<usize>) -> Range<usize> {
        // Who comes later sees no less.
        let last = self.seen(mask, batch, queries.end - 1);
        last.start.min(last.end)..last.end
    }

    /// The first key of a row of the batch that anybody sees.
    fn first_key(&self, mask: &Mask, batch: usize) -> usize {
        match mask {
            Mask::LeftPadded(pads) => pads.get(batch).copied().unwrap_or(0).min(self.keys),
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
pub fn forward(q: Heads, k: Heads, v: Heads, shape: Shape, mask: &Mask, factors: Factors) -> Vec<f32> {
    let Shape { heads, key_heads, queries, width, .. } = shape;
    let mut out = vec![0.0; shape.batch * queries * heads * width];
    if out.is_empty() || shape.keys == 0 {
        return out;
    }
    if queries * (heads / key_heads) <= FEW {
        let rows = out.chunks_mut(queries * heads * width).enumerate();
        parallel::each(shape.operations(), rows, |(batch, out)| few::few(q, k, v, shape, mask, batch, out));
        return out;
    }
    let kind = Kind::best(factors == Factors::BrainFloats);
    let packed = Packed::new(kind, k, v, shape, mask);
    let blocks = out
        .chunks_mut(queries * heads * width)
        .enumerate()
        .flat_map(|(batch, out)| out.chunks_mut(ROWS * heads * width).enumerate().map(move |(block, out)| (batch, block * ROWS, out)));
    parallel::each(shape.operations(), blocks, |(batch, first, out)| {
        lanes::run(kind, forward::Part { q, packed: &packed, shape, mask, batch, first, out });
    });
    out
}

/// The gradients of q, k and v from that of the result, `[batch, heads, queries, width]` like q; those of k and v like k.
#[must_use]
pub fn backward(
    q: Heads,
    k: Heads,
    v: Heads,
    gradient: Heads,
    shape: Shape,
    mask: &Mask,
    _factors: Factors,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let Shape { batch, heads, key_heads, queries, keys, width } = shape;
    let mut dq = vec![0.0; batch * heads * queries * width];
    let (mut dk, mut dv) = (vec![0.0; batch * key_heads * keys * width], vec![0.0; batch * key_heads * keys * width]);
    if dq.is_empty() || dk.is_empty() {
        return (dq, dk, dv);
    }
    let group = heads / key_heads;
    let outputs = dq.chunks_mut(group * queries * width).zip(dk.chunks_mut(keys * width)).zip(dv.chunks_mut(keys * width));
    parallel::each(3 * shape.operations(), outputs.enumerate(), |(task, ((dq, dk), dv))| {
        let (batch, key_head) = (task / key_heads, task % key_heads);
        lanes::run(Kind::best(false), backward::Part { q, k, v, gradient, shape, mask, batch, key_head, dq, dk, dv });
    });
    (dq, dk, dv)
}
