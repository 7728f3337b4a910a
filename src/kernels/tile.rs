//! Products of small blocks, whose sums stay in registers.

#![allow(clippy::needless_range_loop, reason = "row and vector stand for the same thing in several arrays")]

use super::lanes::Lanes;

/// One operand of a tile, read a unit at a time: row r's unit d is number `r × row + d × step`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) step: usize,
}

/// The other operand, read a few vectors at a time: those of unit d start at number `d × step`.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) data: &'a [f32],
    pub(super) step: usize,
}

/// The sums of `R` rows and `V` vectors with the products of `depth` units on top.
#[inline(always)]
pub(super) fn add_products<L: Lanes, const R: usize, const V: usize>(
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
        // SAFETY: the last unit of the last row and the last vector of the panel are in their slices, as has just been asserted.
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

/// Sums that are nothing yet.
#[inline(always)]
pub(super) fn nothing<L: Lanes, const R: usize, const V: usize>(lanes: L) -> [[L::Vector; V]; R] {
    [[lanes.splat(0.0); V]; R]
}

/// The sums that lie in rows of a slice, `stride` apart, each row times its factor.
#[inline(always)]
pub(super) fn load<L: Lanes, const R: usize, const V: usize>(
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

/// Writes sums into rows of a slice, `stride` apart.
#[inline(always)]
pub(super) fn store<L: Lanes, const R: usize, const V: usize>(lanes: L, sums: [[L::Vector; V]; R], to: &mut [f32], stride: usize) {
    for r in 0..R {
        for v in 0..V {
            lanes.store(sums[r][v], &mut to[r * stride + v * L::COUNT..]);
        }
    }
}
