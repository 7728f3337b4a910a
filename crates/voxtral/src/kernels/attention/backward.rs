//! Attention backward pass: for each head and block of queries, the attention weights are recomputed (as in FlashAttention), then each
//! gradient is a matrix product.
//!
//! One task handles a key head and the query heads that share it, so it owns the sums over their queries.

use super::packed::{Sizes, as_depth, as_panels};
use super::{AttentionHeads, AttentionMask, AttentionShape};
use crate::kernels::gemm::MatrixView;
use crate::kernels::microkernel;
use crate::kernels::microkernel::{Panel, Rows};
use crate::kernels::simd::{Simd, SimdOp};
use crate::kernels::softmax::{softmax, softmax_backward};

/// Query rows whose scores are in memory at a time. A multiple of the rows of every tile.
const MAX_SKINNY_ROWS: usize = 24;

/// Inputs and gradient outputs of one key head and its query heads.
pub(super) struct BackwardPart<'a> {
    pub(super) q: AttentionHeads<'a>,
    pub(super) k: AttentionHeads<'a>,
    pub(super) v: AttentionHeads<'a>,
    pub(super) gradient: AttentionHeads<'a>,
    pub(super) shape: AttentionShape,
    pub(super) mask: &'a AttentionMask,
    pub(super) batch: usize,
    pub(super) key_head: usize,
    pub(super) dq: &'a mut [f32],
    pub(super) dk: &'a mut [f32],
    pub(super) dv: &'a mut [f32],
}

impl SimdOp for BackwardPart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Simd, const R: usize, const V: usize>(self, lanes: L) {
        let Self { q, k, v, gradient, shape, mask, batch, key_head, dq, dk, dv } = self;
        let AttentionShape { heads, key_heads, queries, keys, width, .. } = shape;
        let seen = shape.seen_by_any(mask, batch, 0..queries);
        if seen.is_empty() {
            return;
        }
        let sizes = Sizes::of::<L, V>(width);
        let (padded, count) = (sizes.padded, seen.len());
        let [k, v] = [k, v].map(|x| x.rows(batch, key_head, seen.start, count, width));
        let (mut key_panels, mut value_panels) = (vec![0.0; sizes.of_keys(count)], vec![0.0; sizes.of_keys(count)]);
        let mut key_depth = vec![0.0; sizes.of_values::<L>(count)];
        as_panels(lanes, sizes, k, &mut key_panels);
        as_panels(lanes, sizes, v, &mut value_panels);
        as_depth(lanes, sizes, k, &mut key_depth);
        // Tiles of keys may extend beyond the last key.
        let stride = count.next_multiple_of(sizes.panel) + R;
        let (mut weights, mut scores) = (vec![0.0; MAX_SKINNY_ROWS * stride], vec![0.0; MAX_SKINNY_ROWS * stride]);
        let (mut key_sums, mut value_sums) = (vec![0.0; (count + R) * padded], vec![0.0; (count + R) * padded]);
        let [mut some, mut scaled, mut given, mut found] = [(); 4].map(|()| vec![0.0; MAX_SKINNY_ROWS * padded]);
        for (i, dq) in dq.chunks_exact_mut(queries * width).enumerate() {
            let head = key_head * (heads / key_heads) + i;
            for (block, dq) in dq.chunks_mut(MAX_SKINNY_ROWS * width).enumerate() {
                let (first, here) = (block * MAX_SKINNY_ROWS, dq.len() / width);
                let visible = |i: usize| shape.seen(mask, batch, first + i).end.saturating_sub(seen.start);
                let most = visible(here - 1);
                if most == 0 {
                    continue;
                }
                let (q, g) = (q.rows(batch, head, first, here, width), gradient.rows(batch, head, first, here, width));
                for (x, scale, to) in [(q, 1.0, &mut some), (q, shape.scale(), &mut scaled), (g, 1.0, &mut given)] {
                    lay_out_rows(lanes, x, scale, padded, to);
                }
                against::<L, R, V>(lanes, sizes, &scaled, here, &key_panels, most, &mut weights, stride);
                against::<L, R, V>(lanes, sizes, &given, here, &value_panels, most, &mut scores, stride);
                for (i, (weights, scores)) in weights.chunks_exact_mut(stride).zip(scores.chunks_exact_mut(stride)).enumerate() {
                    let visible = if i < here { visible(i) } else { 0 };
                    softmax(&mut weights[..visible]);
                    softmax_backward(&weights[..visible], &mut scores[..visible], shape.scale());
                    let end = most.next_multiple_of(sizes.panel) + R;
                    weights[visible..end].fill(0.0);
                    scores[visible..end].fill(0.0);
                }
                for row in (0..here).step_by(R) {
                    let rows = Rows { data: &scores[row * stride..], row: stride, step: 1 };
                    found[row * padded..(row + R) * padded].fill(0.0);
                    add::<L, R, V>(lanes, &mut found[row * padded..], padded, rows, &key_depth, most);
                }
                for (to, from) in dq.chunks_exact_mut(width).zip(found.chunks_exact(padded)) {
                    to.copy_from_slice(&from[..width]);
                }
                for key in (0..most).step_by(R) {
                    let column = |data| Rows { data, row: 1, step: stride };
                    add::<L, R, V>(lanes, &mut value_sums[key * padded..], padded, column(&weights[key..]), &given, here);
                    add::<L, R, V>(lanes, &mut key_sums[key * padded..], padded, column(&scores[key..]), &some, here);
                }
            }
        }
        for (sums, to) in [(&key_sums, dk), (&value_sums, dv)] {
            for (to, from) in to[seen.start * width..keys * width].chunks_exact_mut(width).zip(sums.chunks_exact(padded)).take(count) {
                to.copy_from_slice(&from[..width]);
            }
        }
    }
}

/// Scales rows and zero-pads them to whole vectors, with zero rows up to the end of `to`.
#[inline(always)]
fn lay_out_rows<L: Simd>(lanes: L, rows: MatrixView, scale: f32, padded: usize, to: &mut [f32]) {
    for (i, to) in to.chunks_exact_mut(padded).enumerate() {
        if i < rows.rows { microkernel::narrow(lanes, rows.row(i), scale, to) } else { to.fill(0.0) }
    }
}

/// Products of `here` rows with the first `most` packed keys or values, in whole panels.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "kernels take many arguments")]
fn against<L: Simd, const R: usize, const V: usize>(
    lanes: L,
    sizes: Sizes,
    rows: &[f32],
    here: usize,
    panels: &[f32],
    most: usize,
    to: &mut [f32],
    stride: usize,
) {
    for (panel, data) in panels.chunks_exact(sizes.panel * sizes.units).enumerate().take(most.div_ceil(sizes.panel)) {
        for row in (0..here).step_by(R) {
            let some = Rows { data: &rows[row * sizes.padded..], row: sizes.padded, step: 1 };
            let panel_of = Panel { data, step: sizes.panel };
            let sums = microkernel::add_products::<L, R, V>(lanes, microkernel::nothing::<L, R, V>(lanes), some, panel_of, sizes.units);
            microkernel::store::<L, R, V>(lanes, sums, &mut to[row * stride + panel * sizes.panel..], stride);
        }
    }
}

/// Adds the products of `R` rows with `depth` rows of `by` to rows of sums; all are `padded` wide.
#[inline(always)]
fn add<L: Simd, const R: usize, const V: usize>(lanes: L, sums: &mut [f32], padded: usize, rows: Rows, by: &[f32], depth: usize) {
    let mut column = 0;
    while column + V * L::COUNT <= padded {
        let panel = Panel { data: &by[column..], step: padded };
        let found = microkernel::load::<L, R, V>(lanes, &sums[column..], padded, None);
        microkernel::store::<L, R, V>(
            lanes,
            microkernel::add_products::<L, R, V>(lanes, found, rows, panel, depth),
            &mut sums[column..],
            padded,
        );
        column += V * L::COUNT;
    }
    while column < padded {
        let panel = Panel { data: &by[column..], step: padded };
        let found = microkernel::load::<L, R, 1>(lanes, &sums[column..], padded, None);
        microkernel::store::<L, R, 1>(
            lanes,
            microkernel::add_products::<L, R, 1>(lanes, found, rows, panel, depth),
            &mut sums[column..],
            padded,
        );
        column += L::COUNT;
    }
}
