//! Some queries against all keys they see.
//!
//! For each head, block of keys after block: scores of a few rows of queries, their greatest so far, weights relative to it, and the
//! weighted values on top of what earlier blocks gave, which is scaled down when a greater score comes up. A row's sums are taken in an
//! order that depends on its first key alone, so it does not matter which rows are computed beside it.

use super::packed::{KEYS, Packed, PackedHead, Sizes};
use super::{AttentionHeads, AttentionMask, AttentionShape};
use crate::kernels::microkernel;
use crate::kernels::microkernel::{Panel, Rows};
use crate::kernels::simd::{Simd, SimdOp};

/// Rows whose scores against a block of keys are in memory at a time: 18 KiB. A multiple of every tile's rows.
const SOME: usize = 24;

/// The rows `first..` of all heads of a row of the batch, as many as `out` has room for.
pub(super) struct ForwardPart<'a> {
    pub(super) q: AttentionHeads<'a>,
    pub(super) packed: &'a Packed,
    pub(super) shape: AttentionShape,
    pub(super) mask: &'a AttentionMask,
    pub(super) batch: usize,
    pub(super) first: usize,
    pub(super) out: &'a mut [f32],
}

/// What is known of rows so far.
struct State {
    /// Queries as units, `[rows, units in whole vectors]`, scaled so that weights are powers of two.
    queries: Vec<f32>,
    /// Values by their weights, `[rows, width in whole vectors]`.
    mixed: Vec<f32>,
    /// The greatest score of each row.
    greatest: Vec<f32>,
    /// The sum of each row's weights, `[rows, lanes]`.
    sums: Vec<f32>,
    /// Scores of some rows, then weights, `[some, keys]`.
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
        let rows = count.next_multiple_of(SOME);
        let units = sizes.units.next_multiple_of(L::COUNT);
        let mut state = State {
            queries: vec![0.0; rows * units],
            mixed: vec![0.0; rows * sizes.padded],
            greatest: vec![0.0; rows],
            sums: vec![0.0; rows * L::COUNT],
            scores: vec![0.0; SOME * KEYS],
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
                for start in (0..count).step_by(SOME) {
                    let here = SOME.min(count - start);
                    // How many keys of this block each row sees.
                    let visible: [usize; SOME] = std::array::from_fn(|i| {
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
                // Who sees nothing gets zeros.
                let scale = if sum == 0.0 { 0.0 } else { 1.0 / sum };
                let to = &mut out[(i * heads + head) * width..][..width];
                for (to, from) in to.iter_mut().zip(&state.mixed[i * sizes.padded..]) {
                    *to = from * scale;
                }
            }
        }
    }
}

/// What the rows from `start` on make of the keys from `from` on, of which each row sees `visible`, the last of `here` most.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a kernel is told everything")]
fn add_keys<L: Simd, const R: usize, const V: usize>(
    lanes: L,
    head: PackedHead,
    sizes: Sizes,
    state: &mut State,
    start: usize,
    from: usize,
    visible: &[usize; SOME],
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
    let mut factors = [1.0; SOME];
    // Whole vectors, two at a time: what lies behind the last visible key gets no weight.
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

/// Scales what was mixed so far and adds more values by their weights.
#[inline(always)]
fn mix<L: Simd, const R: usize, const V: usize>(lanes: L, mixed: &mut [f32], factors: &[f32], weights: Rows, values: Panel, depth: usize) {
    let sums = microkernel::load::<L, R, V>(lanes, mixed, values.step, Some(factors));
    microkernel::store::<L, R, V>(lanes, microkernel::add_products::<L, R, V>(lanes, sums, weights, values, depth), mixed, values.step);
}

/// Turns a row of scores into weights relative to the greatest so far, as units, and says by what earlier weights are to be scaled.
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
    hide::<L>(scores, visible);
    let mut factors = [0.0; 16];
    lanes.store(factor, &mut factors);
    factors[0]
}

/// Makes weights from number `visible` on exactly zero.
#[inline(always)]
fn hide<L: Simd>(weights: &mut [f32], visible: usize) {
    if !L::PAIRS {
        weights[visible..].fill(0.0);
        return;
    }
    let (half, end) = (visible / 2, weights.len() / 2);
    weights[half + visible % 2..end].fill(0.0);
    if visible % 2 == 1 {
        // The first of a pair is its lower half.
        weights[half] = f32::from_bits(weights[half].to_bits() & 0xffff);
    }
}
