//! FlashAttention forward pass: a block of queries against all keys they attend to.
//!
//! For each head and each block of keys: compute the scores of a few query rows, update the running maximum of each row (online softmax),
//! convert the scores to weights relative to it, and add the weighted values to the output so far, which is rescaled when the maximum
//! grows. The order in which a row is summed depends on its first key only, so its result does not depend on the rows computed with it.

use super::packed::{KEYS, Packed, PackedHead, Sizes};
use super::{AttentionHeads, AttentionMask, AttentionShape};
use crate::kernels::microkernel;
use crate::kernels::microkernel::{Panel, Rows};
use crate::kernels::simd::{Simd, SimdOp};

/// Query rows whose scores against a block of keys are in memory at a time: 18 KiB. A multiple of the rows of every tile.
const MAX_SKINNY_ROWS: usize = 24;

/// The query rows `first..` of all heads of a batch row, as many as `out` has room for.
pub(super) struct ForwardPart<'a> {
    pub(super) q: AttentionHeads<'a>,
    pub(super) packed: &'a Packed,
    pub(super) shape: AttentionShape,
    pub(super) mask: &'a AttentionMask,
    pub(super) batch: usize,
    pub(super) first: usize,
    pub(super) out: &'a mut [f32],
}

/// Running state of the online softmax.
struct State {
    /// Queries as units, `[rows, units in whole vectors]`, scaled so that the weights are powers of two.
    queries: Vec<f32>,
    /// Weighted sum of values, `[rows, width in whole vectors]`.
    mixed: Vec<f32>,
    /// Running maximum of the scores of each row.
    greatest: Vec<f32>,
    /// Sum of the weights of each row, `[rows, lanes]`.
    sums: Vec<f32>,
    /// Scores of some rows, later their weights, `[some, keys]`.
    scores: Vec<f32>,
}

impl SimdOp for ForwardPart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Simd, const R: usize, const V: usize>(self, lanes: L) {
        let Self { q, packed, shape, mask, batch, first, out } = self;
        let AttentionShape { heads, key_heads, width, .. } = shape;
        let count = out.len() / (heads * width);
        let seen = shape.seen_by_any(mask, batch, first..first + count);
        let sizes = Sizes::of::<L, V>(width);
        let rows = count.next_multiple_of(MAX_SKINNY_ROWS);
        let units = sizes.units.next_multiple_of(L::COUNT);
        let mut state = State {
            queries: vec![0.0; rows * units],
            mixed: vec![0.0; rows * sizes.padded],
            greatest: vec![0.0; rows],
            sums: vec![0.0; rows * L::COUNT],
            scores: vec![0.0; MAX_SKINNY_ROWS * KEYS],
        };
        for head in 0..heads {
            for (i, to) in state.queries.chunks_exact_mut(units).enumerate().take(count) {
                let row = q.rows(batch, head, first + i, 1, width);
                microkernel::narrow(lanes, &row.data[..width], shape.scale() * std::f32::consts::LOG2_E, to);
            }
            state.mixed.fill(0.0);
            state.sums.fill(0.0);
            state.greatest.fill(f32::NEG_INFINITY);
            let packed = packed.head::<L, V>(shape, batch, head / (heads / key_heads));
            for from in (0..seen.len()).step_by(KEYS) {
                for start in (0..count).step_by(MAX_SKINNY_ROWS) {
                    let here = MAX_SKINNY_ROWS.min(count - start);
                    // Number of keys of this block that each row attends to.
                    let visible: [usize; MAX_SKINNY_ROWS] = std::array::from_fn(|i| {
                        if i >= here {
                            return 0;
                        }
                        let end = shape.seen(mask, batch, first + start + i).end;
                        end.saturating_sub(seen.start + from).min(KEYS)
                    });
                    if visible[here - 1] > 0 {
                        add_keys::<L, R, V>(lanes, packed, sizes, &mut state, start, from, &visible, here);
                    }
                }
            }
            for i in 0..count {
                let sum = lanes.sum(lanes.load(&state.sums[i * L::COUNT..]));
                // A row that attends to no key gets zeros.
                let scale = if sum == 0.0 { 0.0 } else { 1.0 / sum };
                let to = &mut out[(i * heads + head) * width..][..width];
                for (to, from) in to.iter_mut().zip(&state.mixed[i * sizes.padded..]) {
                    *to = from * scale;
                }
            }
        }
    }
}

/// Updates the rows from `start` on with the block of keys from `from` on. Each row attends to `visible` of them; the last of the `here`
/// rows attends to the most.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "kernels take many arguments")]
fn add_keys<L: Simd, const R: usize, const V: usize>(
    lanes: L,
    head: PackedHead,
    sizes: Sizes,
    state: &mut State,
    start: usize,
    from: usize,
    visible: &[usize; MAX_SKINNY_ROWS],
    here: usize,
) {
    let (most, units) = (visible[here - 1], sizes.units.next_multiple_of(L::COUNT));
    for panel in 0..most.div_ceil(sizes.panel) {
        let keys = Panel { data: &head.keys[(from + panel * sizes.panel) * sizes.units..], step: sizes.panel };
        for row in (0..here).step_by(R) {
            let queries = Rows { data: &state.queries[(start + row) * units..], row: units, step: 1 };
            let scores = microkernel::add_products::<L, R, V>(lanes, microkernel::nothing::<L, R, V>(lanes), queries, keys, sizes.units);
            microkernel::store::<L, R, V>(lanes, scores, &mut state.scores[row * KEYS + panel * sizes.panel..], KEYS);
        }
    }
    let mut factors = [1.0; MAX_SKINNY_ROWS];
    // Whole vectors, two at a time: keys after the last visible one get zero weight.
    let end = most.next_multiple_of(2 * L::COUNT);
    for (i, scores) in state.scores.chunks_exact_mut(KEYS).enumerate().take(here.next_multiple_of(R)) {
        let greatest = &mut state.greatest[start + i];
        factors[i] = weigh(lanes, &mut scores[..end], visible[i], greatest, &mut state.sums[(start + i) * L::COUNT..]);
    }
    let (values, depth) = if L::PAIRS { (from / 2 * sizes.padded, most.div_ceil(2)) } else { (from * sizes.padded, most) };
    for row in (0..here).step_by(R) {
        let weights = Rows { data: &state.scores[row * KEYS..], row: KEYS, step: 1 };
        let factors = &factors[row..];
        let mixed = &mut state.mixed[(start + row) * sizes.padded..];
        let mut column = 0;
        while column + V * L::COUNT <= sizes.padded {
            let values = Panel { data: &head.values[values + column..], step: sizes.padded };
            mix::<L, R, V>(lanes, &mut mixed[column..], factors, weights, values, depth);
            column += V * L::COUNT;
        }
        while column < sizes.padded {
            let values = Panel { data: &head.values[values + column..], step: sizes.padded };
            mix::<L, R, 1>(lanes, &mut mixed[column..], factors, weights, values, depth);
            column += L::COUNT;
        }
    }
}

/// Rescales the output so far and adds weighted values.
#[inline(always)]
fn mix<L: Simd, const R: usize, const V: usize>(lanes: L, mixed: &mut [f32], factors: &[f32], weights: Rows, values: Panel, depth: usize) {
    let sums = microkernel::load::<L, R, V>(lanes, mixed, values.step, Some(factors));
    microkernel::store::<L, R, V>(lanes, microkernel::add_products::<L, R, V>(lanes, sums, weights, values, depth), mixed, values.step);
}

/// Online softmax step: converts a row of scores to weights relative to the new maximum, as units. Returns the factor that rescales the
/// earlier weights.
#[inline(always)]
fn weigh<L: Simd>(lanes: L, scores: &mut [f32], visible: usize, greatest: &mut f32, sums: &mut [f32]) -> f32 {
    if visible == 0 {
        scores.fill(0.0);
        return 1.0;
    }
    scores[visible..].fill(f32::NEG_INFINITY);
    let two = 2 * L::COUNT;
    let mut most = [lanes.splat(*greatest); 2];
    for scores in scores.chunks_exact(two) {
        most = [lanes.max(lanes.load(scores), most[0]), lanes.max(lanes.load(&scores[L::COUNT..]), most[1])];
    }
    let before = std::mem::replace(greatest, lanes.greatest(lanes.max(most[0], most[1])));
    let most = lanes.splat(*greatest);
    let factor = lanes.exp2(lanes.sub(lanes.splat(before), most));
    let mut sum = [lanes.mul(lanes.load(sums), factor), lanes.splat(0.0)];
    for i in 0..scores.len() / two {
        let from = &scores[i * two..];
        let x = [lanes.exp2(lanes.sub(lanes.load(from), most)), lanes.exp2(lanes.sub(lanes.load(&from[L::COUNT..]), most))];
        sum = [lanes.add(sum[0], x[0]), lanes.add(sum[1], x[1])];
        if L::PAIRS {
            lanes.store(lanes.narrow(x[0], x[1]), &mut scores[i * L::COUNT..]);
        } else {
            lanes.store(x[0], &mut scores[i * two..]);
            lanes.store(x[1], &mut scores[i * two + L::COUNT..]);
        }
    }
    lanes.store(lanes.add(sum[0], sum[1]), sums);
    clear_hidden::<L>(scores, visible);
    let mut factors = [0.0; 16];
    lanes.store(factor, &mut factors);
    factors[0]
}

/// Sets the weights from index `visible` on to exactly zero.
#[inline(always)]
fn clear_hidden<L: Simd>(weights: &mut [f32], visible: usize) {
    if !L::PAIRS {
        weights[visible..].fill(0.0);
        return;
    }
    let (half, end) = (visible / 2, weights.len() / 2);
    weights[half + visible % 2..end].fill(0.0);
    if visible % 2 == 1 {
        // The first weight of a pair is in the lower half.
        weights[half] = f32::from_bits(weights[half].to_bits() & 0xffff);
    }
}
