//! softmax(q kᵀ / √width) v without a matrix of scores: some query rows at a time, for one head after the other.
//!
//! Several query heads may share a key head; keys and values are read where they lie, and rows may be any distance apart, so a cache with
//! room to spare needs no copy. Backwards, the weights are computed again from q and k: nothing is kept between the two directions.

use super::dot::{FEW, Kept};
use super::parallel;
use super::product::{Matrix, multiply};
use super::rows::{add_scaled, softmax, softmax_backward};

/// Query rows whose scores are in memory at a time.
const ROWS: usize = 128;

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
    fn seen(&self, mask: &Mask, batch: usize, i: usize) -> std::ops::Range<usize> {
        let causal = (self.keys + i + 1).saturating_sub(self.queries).min(self.keys);
        match mask {
            Mask::None => 0..self.keys,
            Mask::Causal => 0..causal,
            Mask::LeftPadded(pads) => pads.get(batch).copied().unwrap_or(0).min(causal)..causal,
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
pub fn forward(q: Heads, k: Heads, v: Heads, shape: Shape, mask: &Mask) -> Vec<f32> {
    let Shape { heads, queries, width, .. } = shape;
    let mut out = vec![0.0; shape.batch * queries * heads * width];
    if out.is_empty() || shape.keys == 0 {
        return out;
    }
    let blocks = out
        .chunks_mut(queries * heads * width)
        .enumerate()
        .flat_map(|(batch, out)| out.chunks_mut(ROWS * heads * width).enumerate().map(move |(block, out)| (batch, block * ROWS, out)));
    parallel::each(shape.operations(), blocks, |(batch, first, out)| {
        if queries * (heads / shape.key_heads) <= FEW {
            few(q, k, v, shape, mask, batch, out);
        } else {
            block(q, k, v, shape, mask, batch, first, out);
        }
    });
    out
}

/// Rows `first..` of all heads of a row of the batch, as many as `out` has room for.
#[allow(clippy::too_many_arguments, reason = "a kernel is told everything")]
fn block(q: Heads, k: Heads, v: Heads, shape: Shape, mask: &Mask, batch: usize, first: usize, out: &mut [f32]) {
    let Shape { heads, key_heads, width, .. } = shape;
    let count = out.len() / (heads * width);
    let seen = bounds(shape, mask, batch, first, count);
    if seen.is_empty() {
        return;
    }
    let mut scores = vec![0.0; count * seen.len()];
    for head in 0..heads {
        let shared = head / (heads / key_heads);
        let keys = k.rows(batch, shared, seen.start, seen.len(), width);
        let queries = q.rows(batch, head, first, count, width);
        multiply(&mut scores, seen.len(), false, queries, keys.transposed(), shape.scale());
        weigh(&mut scores, shape, mask, batch, first, &seen);
        let values = v.rows(batch, shared, seen.start, seen.len(), width);
        multiply(&mut out[head * width..], heads * width, false, Matrix::new(&scores, count, seen.len()), values, 1.0);
    }
}

/// The keys that any of some queries sees.
fn bounds(shape: Shape, mask: &Mask, batch: usize, first: usize, count: usize) -> std::ops::Range<usize> {
    // Who comes later sees no less.
    let last = shape.seen(mask, batch, first + count - 1);
    last.start.min(last.end)..last.end
}

/// Scores of a block to weights, zero for what is not seen.
fn weigh(scores: &mut [f32], shape: Shape, mask: &Mask, batch: usize, first: usize, bounds: &std::ops::Range<usize>) {
    for (i, row) in scores.chunks_exact_mut(bounds.len()).enumerate() {
        let seen = shape.seen(mask, batch, first + i);
        let end = seen.end.max(bounds.start) - bounds.start;
        let (visible, hidden) = row.split_at_mut(end.min(bounds.len()));
        softmax(visible);
        hidden.fill(0.0);
    }
}

/// A few queries, as in decoding: keys and values are read once for all heads that share them.
fn few(q: Heads, k: Heads, v: Heads, shape: Shape, mask: &Mask, batch: usize, out: &mut [f32]) {
    let Shape { heads, key_heads, queries, width, .. } = shape;
    let group = heads / key_heads;
    let seen = bounds(shape, mask, batch, 0, queries);
    if seen.is_empty() {
        return;
    }
    let mut some = vec![0.0; group * queries * width];
    let mut sideways = vec![0.0; seen.len() * group * queries];
    let mut scores = vec![0.0; seen.len() * group * queries];
    for shared in 0..key_heads {
        for (row, to) in some.chunks_exact_mut(width).enumerate() {
            let from = q.rows(batch, shared * group + row / queries, row % queries, 1, width);
            for (to, from) in to.iter_mut().zip(from.data) {
                *to = from * shape.scale();
            }
        }
        let rows = group * queries;
        let keys = k.rows(batch, shared, seen.start, seen.len(), width);
        if keys.row_stride == width {
            f32::products(&some, &keys.data[..seen.len() * width], width, &mut sideways);
        } else {
            for (key, to) in sideways.chunks_exact_mut(rows).enumerate() {
                f32::products(&some, &keys.data[key * keys.row_stride..key * keys.row_stride + width], width, to);
            }
        }
        for (row, scores) in scores.chunks_exact_mut(seen.len()).enumerate() {
            for (score, sideways) in scores.iter_mut().zip(sideways.iter().skip(row).step_by(rows)) {
                *score = *sideways;
            }
        }
        for (row, scores) in scores.chunks_exact_mut(seen.len()).enumerate() {
            let visible = shape.seen(mask, batch, row % queries);
            let (visible, hidden) = scores.split_at_mut(visible.end.max(seen.start) - seen.start);
            softmax(visible);
            hidden.fill(0.0);
        }
        let values = v.rows(batch, shared, seen.start, seen.len(), width);
        for (row, scores) in scores.chunks_exact(seen.len()).enumerate() {
            let place = (row % queries) * heads * width + (shared * group + row / queries) * width;
            let to = &mut out[place..place + width];
            for (key, weight) in scores.iter().enumerate() {
                add_scaled(to, &values.data[key * values.row_stride..key * values.row_stride + width], *weight);
            }
        }
    }
}

/// The gradients of q, k and v from that of the result, `[batch, heads, queries, width]` like q; those of k and v like k.
#[must_use]
pub fn backward(q: Heads, k: Heads, v: Heads, gradient: Heads, shape: Shape, mask: &Mask) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let Shape { batch, heads, key_heads, queries, keys, width } = shape;
    let mut dq = vec![0.0; batch * heads * queries * width];
    let (mut dk, mut dv) = (vec![0.0; batch * key_heads * keys * width], vec![0.0; batch * key_heads * keys * width]);
    if dq.is_empty() || dk.is_empty() {
        return (dq, dk, dv);
    }
    let group = heads / key_heads;
    // A key head with the query heads that share it is a task: it owns the sums over their queries.
    let outputs = dq.chunks_mut(group * queries * width).zip(dk.chunks_mut(keys * width)).zip(dv.chunks_mut(keys * width));
    parallel::each(3 * shape.operations(), outputs.enumerate(), |(task, ((dq, dk), dv))| {
        let (batch, shared) = (task / key_heads, task % key_heads);
        let (mut weights, mut scores) = (vec![0.0; ROWS.min(queries) * keys], vec![0.0; ROWS.min(queries) * keys]);
        for (i, dq) in dq.chunks_exact_mut(queries * width).enumerate() {
            for (block, dq) in dq.chunks_mut(ROWS * width).enumerate() {
                let (first, count, head) = (block * ROWS, dq.len() / width, shared * group + i);
                let seen = bounds(shape, mask, batch, first, count);
                if seen.is_empty() {
                    continue;
                }
                let size = count * seen.len();
                let (weights, scores) = (&mut weights[..size], &mut scores[..size]);
                let (some, g) = (q.rows(batch, head, first, count, width), gradient.rows(batch, head, first, count, width));
                let [k, v] = [k, v].map(|x| x.rows(batch, shared, seen.start, seen.len(), width));
                multiply(weights, seen.len(), false, some, k.transposed(), shape.scale());
                weigh(weights, shape, mask, batch, first, &seen);
                multiply(scores, seen.len(), false, g, v.transposed(), 1.0);
                for (weights, scores) in weights.chunks_exact(seen.len()).zip(scores.chunks_exact_mut(seen.len())) {
                    softmax_backward(weights, scores, shape.scale());
                }
                let (weights, scores) = (Matrix::new(weights, count, seen.len()), Matrix::new(scores, count, seen.len()));
                multiply(&mut dv[seen.start * width..], width, true, weights.transposed(), g, 1.0);
                multiply(&mut dk[seen.start * width..], width, true, scores.transposed(), some, 1.0);
                multiply(dq, width, false, scores, k, 1.0);
            }
        }
    });
    (dq, dk, dv)
}
