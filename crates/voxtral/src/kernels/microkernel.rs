//! GEMM micro-kernel (as in BLIS): products of small blocks whose sums stay in registers.

#![allow(clippy::needless_range_loop, reason = "row and vector index several arrays")]

use super::gemv::StoredWeight;
use super::simd::Simd;

/// Row operand of a tile, read one unit at a time: unit d of row r is at index `r × row + d × step`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) step: usize,
}

/// Panel operand of a tile, read a few vectors at a time: those of unit d start at index `d × step`.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) data: &'a [f32],
    pub(super) step: usize,
}

/// Adds the products over `depth` units to the sums of `R` rows × `V` vectors.
#[inline(always)]
pub(super) fn add_products<L: Simd, const R: usize, const V: usize>(
    lanes: L,
    mut sums: [[L::Vector; V]; R],
    rows: Rows,
    panel: Panel,
    depth: usize,
) -> [[L::Vector; V]; R] {
    if depth == 0 {
        return sums;
    }
    assert!((R - 1) * rows.row + (depth - 1) * rows.step < rows.data.len());
    assert!((depth - 1) * panel.step + V * L::COUNT <= panel.data.len());
    let (mut row, mut vectors) = (rows.data.as_ptr(), panel.data.as_ptr());
    for _ in 0..depth {
        // SAFETY: the last unit of the last row and the last vector of the panel are within their slices, as just asserted.
        unsafe {
            let vectors: [L::Vector; V] = std::array::from_fn(|v| lanes.read(vectors.add(v * L::COUNT)));
            for r in 0..R {
                let one = lanes.splat(*row.add(r * rows.row));
                for v in 0..V {
                    sums[r][v] = lanes.add_product(sums[r][v], one, vectors[v]);
                }
            }
        }
        row = row.wrapping_add(rows.step);
        vectors = vectors.wrapping_add(panel.step);
    }
    sums
}

/// Zeroed accumulators.
#[inline(always)]
pub(super) fn nothing<L: Simd, const R: usize, const V: usize>(lanes: L) -> [[L::Vector; V]; R] {
    [[lanes.splat(0.0); V]; R]
}

/// Loads sums from rows of a slice, `stride` apart, optionally scaled by a factor per row.
#[inline(always)]
pub(super) fn load<L: Simd, const R: usize, const V: usize>(
    lanes: L,
    from: &[f32],
    stride: usize,
    factors: Option<&[f32]>,
) -> [[L::Vector; V]; R] {
    let mut sums = nothing::<L, R, V>(lanes);
    for r in 0..R {
        for v in 0..V {
            let x = lanes.load(&from[r * stride + v * L::COUNT..]);
            sums[r][v] = if let Some(factors) = factors { lanes.mul(x, lanes.splat(factors[r])) } else { x };
        }
    }
    sums
}

/// Stores sums to rows of a slice, `stride` apart.
#[inline(always)]
pub(super) fn store<L: Simd, const R: usize, const V: usize>(lanes: L, sums: [[L::Vector; V]; R], to: &mut [f32], stride: usize) {
    for r in 0..R {
        for v in 0..V {
            lanes.store(sums[r][v], &mut to[r * stride + v * L::COUNT..]);
        }
    }
}

/// Packs up to `panel` rows: unit u of row r goes to index `u × panel + r`. Rows have `inputs` values, which are `units` units. Places of
/// missing rows keep their old content.
#[inline(always)]
pub(super) fn side_by_side<L: Simd, W: StoredWeight>(lanes: L, rows: &[W], inputs: usize, units: usize, panel: usize, to: &mut [f32]) {
    let count = rows.len() / inputs;
    assert!(count <= panel && to.len() >= units * panel && inputs >= units * size_of::<f32>() / size_of::<W>());
    for row in (0..count).step_by(L::COUNT) {
        for unit in (0..units).step_by(L::COUNT) {
            let (here, some) = (L::COUNT.min(count - row), L::COUNT.min(units - unit));
            if here == L::COUNT && some == L::COUNT {
                let mut block = [lanes.splat(0.0); 16];
                for i in 0..L::COUNT {
                    // SAFETY: the row has at least this many units. A unit is 32 bits of memory, whatever its type.
                    block[i] = unsafe { lanes.read(rows.as_ptr().add((row + i) * inputs).cast::<f32>().add(unit)) };
                }
                lanes.transpose(&mut block[..L::COUNT]);
                for i in 0..L::COUNT {
                    lanes.store(block[i], &mut to[(unit + i) * panel + row..]);
                }
                continue;
            }
            for r in row..row + here {
                for u in unit..unit + some {
                    to[u * panel + r] = W::unit(&rows[r * inputs..], u);
                }
            }
        }
    }
}

/// Scales a row of floats and converts it to units, zero-padded to the end of `to`, which is a whole number of vectors.
#[inline(always)]
pub(super) fn narrow<L: Simd>(lanes: L, row: &[f32], scale: f32, to: &mut [f32]) {
    let scale = lanes.splat(scale);
    let part = |start: usize| {
        let from = row.get(start..).unwrap_or_default();
        if from.len() >= L::COUNT {
            return lanes.mul(lanes.load(from), scale);
        }
        let mut rest = [0.0; 16];
        rest[..from.len()].copy_from_slice(from);
        lanes.mul(lanes.load(&rest), scale)
    };
    for (i, to) in to.chunks_exact_mut(L::COUNT).enumerate() {
        let x = if L::PAIRS { lanes.narrow(part(2 * i * L::COUNT), part((2 * i + 1) * L::COUNT)) } else { part(i * L::COUNT) };
        lanes.store(x, to);
    }
}
