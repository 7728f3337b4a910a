//! Decode attention: a few queries per head, bound by reading the KV cache.

use super::{AttentionHeads, AttentionMask, AttentionShape};
use crate::kernels::gemv::StoredWeight;
use crate::kernels::softmax::{add_scaled, softmax};

/// Attention of one batch row. Keys and values are read once for all query heads that share them (GQA).
pub(super) fn attend(
    q: AttentionHeads,
    k: AttentionHeads,
    v: AttentionHeads,
    shape: AttentionShape,
    mask: &AttentionMask,
    batch: usize,
    out: &mut [f32],
) {
    let AttentionShape { heads, key_heads, queries, width, .. } = shape;
    let group = heads / key_heads;
    let seen = shape.seen_by_any(mask, batch, 0..queries);
    if seen.is_empty() {
        return;
    }
    let mut some = vec![0.0; group * queries * width];
    let mut transposed = vec![0.0; seen.len() * group * queries];
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
            f32::products(&some, &keys.data[..seen.len() * width], width, &mut transposed);
        } else {
            for (key, to) in transposed.chunks_exact_mut(rows).enumerate() {
                f32::products(&some, &keys.data[key * keys.row_stride..key * keys.row_stride + width], width, to);
            }
        }
        for (row, scores) in scores.chunks_exact_mut(seen.len()).enumerate() {
            for (score, transposed) in scores.iter_mut().zip(transposed.iter().skip(row).step_by(rows)) {
                *score = *transposed;
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
