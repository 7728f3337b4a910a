//! bf16 matrix products with AVX-512 BF16 (`vdpbf16ps`).
//!
//! A tile is `R` × 16 `V` sums in registers. For each pair of inputs it multiplies `V` vectors of the packed operand (contiguous) with `R`
//! single pairs of the other operand (in place), each broadcast to a vector.

#![allow(clippy::needless_range_loop, reason = "row, lane and vector index several arrays")]

use crate::kernels::cpu;
use half::bf16;
use std::arch::x86_64::*;

/// Block size along the inputs, in pairs, after which sums are written to memory and the packed operand is replaced: 3 vectors of this
/// depth are 192 KiB.
const DEPTH: usize = 1024;

/// Lanes of the widest tile: 3 vectors.
const WIDEST: usize = 48;

/// Rounds f32 to the nearest bf16.
pub(super) fn rounded(x: &[f32]) -> Vec<bf16> {
    let mut rounded = vec![bf16::ZERO; x.len()];
    round_into(x, &mut rounded);
    rounded
}

/// Rounds into a slice of the same length.
pub(super) fn round_into(x: &[f32], rounded: &mut [bf16]) {
    assert!(cpu::has_bf16_dot() && x.len() == rounded.len());
    // SAFETY: the CPU has the instructions, and both slices have the same length.
    unsafe { round(x, rounded) };
}

/// Dot products of a few rows of x with the weights of some outputs: `[outputs, rows]`.
pub(super) fn dots(x: &[bf16], weight: &[bf16], inputs: usize, y: &mut [f32]) {
    let rows = x.len() / inputs;
    assert!(cpu::has_bf16_dot() && y.len() * inputs == weight.len() * rows && x.len() == rows * inputs);
    // SAFETY: the CPU has the instructions, and the slice lengths match.
    unsafe { dot_rows(x, weight, inputs, y) }
}

/// Adds x wᵀ to `y`, `[rows, outputs]`.
pub(super) fn add_products(x: &[f32], weight: &[bf16], inputs: usize, outputs: usize, y: &mut [f32]) {
    let rows = x.len() / inputs;
    assert!(cpu::has_bf16_dot() && inputs.is_multiple_of(2));
    assert!(x.len() == rows * inputs && weight.len() == outputs * inputs && y.len() == rows * outputs);
    // SAFETY: the CPU has the instructions, and the slice lengths match.
    unsafe { products(x, weight, inputs, outputs, y) }
}

/// Adds g w to `dx`, `[rows, inputs]`.
pub(super) fn add_input_gradient(gradient: &[f32], weight: &[bf16], inputs: usize, outputs: usize, dx: &mut [f32]) {
    let rows = gradient.len() / outputs;
    assert!(cpu::has_bf16_dot() && outputs.is_multiple_of(2));
    assert!(gradient.len() == rows * outputs && weight.len() == outputs * inputs && dx.len() == rows * inputs);
    // SAFETY: the CPU has the instructions, and the slice lengths match.
    unsafe { input_gradient(gradient, weight, inputs, outputs, dx) }
}

/// # Safety
/// `to` is as long as `from`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn round(from: &[f32], to: &mut [bf16]) {
    let whole = from.len() - from.len() % 16;
    for i in (0..whole).step_by(16) {
        // SAFETY: both slices have 16 values from `i` on.
        unsafe {
            let narrow = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr().add(i)));
            _mm256_storeu_si256(to.as_mut_ptr().add(i).cast(), std::mem::transmute::<__m256bh, __m256i>(narrow));
        }
    }
    for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
        *to = bf16::from_f32(*from);
    }
}

/// # Safety
/// x `[rows, inputs]`, weight `[outputs, inputs]`, y `[outputs, rows]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn dot_rows(x: &[bf16], weight: &[bf16], inputs: usize, y: &mut [f32]) {
    let rows = x.len() / inputs;
    let mut row = 0;
    // A few rows of x at a time, with all weights of this part: these are in the cache for the next rows.
    while row < rows {
        let (x, y) = (&x[row * inputs..], &mut y[row..]);
        // SAFETY: x has at least as many rows left as are processed.
        row += unsafe {
            match rows - row {
                4.. => dot_some::<4>(x, weight, inputs, y, rows),
                2 | 3 => dot_some::<2>(x, weight, inputs, y, rows),
                _ => dot_some::<1>(x, weight, inputs, y, rows),
            }
        };
    }
}

/// Dot products of the first `M` rows of x with all rows of weights; returns `M`.
///
/// x has `M` rows of `inputs` values, and weight has whole rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
unsafe fn dot_some<const M: usize>(x: &[bf16], weight: &[bf16], inputs: usize, y: &mut [f32], stride: usize) -> usize {
    let outputs = weight.len() / inputs;
    let mut output = 0;
    while output < outputs {
        // SAFETY: at least as many rows of weights are left as are processed.
        output += unsafe {
            let (w, y) = (weight.as_ptr().add(output * inputs), &mut y[output * stride..]);
            match outputs - output {
                // A single row is memory-bound, and memory is fastest as one stream.
                4.. if M > 1 => dot_block::<M, 4>(x.as_ptr(), w, inputs, y, stride),
                _ => dot_block::<M, 1>(x.as_ptr(), w, inputs, y, stride),
            }
        };
    }
    M
}

/// Dot products of `M` rows of x with `R` rows of weights; returns `R`. Each has one accumulator, so the order of summation depends neither
/// on `M` nor on `R`.
///
/// `x` has `M` rows of `inputs` values, `w` has `R`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
unsafe fn dot_block<const M: usize, const R: usize>(x: *const bf16, w: *const bf16, inputs: usize, y: &mut [f32], stride: usize) -> usize {
    let mut sums = [[_mm512_setzero_ps(); R]; M];
    let mut start = 0;
    // SAFETY: all vectors are within the rows; of the last one, only the masked lanes are read.
    unsafe {
        while start + 32 <= inputs {
            let w: [__m512bh; R] = std::array::from_fn(|r| pairs(_mm512_loadu_si512(w.add(r * inputs + start).cast())));
            for m in 0..M {
                let x = pairs(_mm512_loadu_si512(x.add(m * inputs + start).cast()));
                for r in 0..R {
                    sums[m][r] = _mm512_dpbf16_ps(sums[m][r], x, w[r]);
                }
            }
            start += 32;
        }
        if start < inputs {
            let mask = ((1u64 << (inputs - start)) - 1) as u32;
            let w: [__m512bh; R] = std::array::from_fn(|r| pairs(_mm512_maskz_loadu_epi16(mask, w.add(r * inputs + start).cast())));
            for m in 0..M {
                let x = pairs(_mm512_maskz_loadu_epi16(mask, x.add(m * inputs + start).cast()));
                for r in 0..R {
                    sums[m][r] = _mm512_dpbf16_ps(sums[m][r], x, w[r]);
                }
            }
        }
    }
    for m in 0..M {
        for r in 0..R {
            y[r * stride + m] = _mm512_reduce_add_ps(sums[m][r]);
        }
    }
    R
}

/// Reinterprets the bits as 32 bf16.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both types are 512 bits, and every bit pattern is valid.
    unsafe { std::mem::transmute(bits) }
}

/// Sums of a tile over `depth` pairs.
///
/// # Safety
/// `depth` pairs can be read from each of `R` rows starting at `rows`, `stride` pairs apart, and `depth` × 16 `V` from `packed`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
unsafe fn tile<const R: usize, const V: usize>(rows: *const u32, stride: usize, packed: *const u32, depth: usize) -> [[__m512; V]; R] {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    for pair in 0..depth {
        // SAFETY: guaranteed by the caller; rows of bf16 need not be aligned to pairs.
        unsafe {
            let vectors: [__m512bh; V] = std::array::from_fn(|v| pairs(_mm512_loadu_si512(packed.add(pair * 16 * V + 16 * v).cast())));
            for r in 0..R {
                let one = pairs(_mm512_set1_epi32(rows.add(r * stride + pair).read_unaligned() as i32));
                for v in 0..V {
                    sums[r][v] = _mm512_dpbf16_ps(sums[r][v], one, vectors[v]);
                }
            }
        }
    }
    sums
}

/// # Safety
/// x `[rows, inputs]`, weight `[outputs, inputs]`, y `[rows, outputs]`; `inputs` even.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn products(x: &[f32], weight: &[bf16], inputs: usize, outputs: usize, y: &mut [f32]) {
    let rows = x.len() / inputs;
    let mut narrow = vec![bf16::ZERO; x.len()];
    let mut packed = vec![0u32; WIDEST * DEPTH.min(inputs / 2)];
    // SAFETY: `narrow` is as long as x.
    unsafe { round(x, &mut narrow) };
    for from in (0..inputs / 2).step_by(DEPTH) {
        let depth = DEPTH.min(inputs / 2 - from);
        let mut row = 0;
        while row < rows {
            let lanes = WIDEST.min((rows - row).next_multiple_of(16));
            let here = lanes.min(rows - row);
            // SAFETY: rows `row..row + here` and pairs `from..from + depth` are within x; `packed` has room for them.
            unsafe {
                let x = narrow.as_ptr().add(row * inputs).cast::<u32>().add(from);
                pack_rows(x, inputs / 2, here, lanes, depth, &mut packed);
                let weight = weight.as_ptr().cast::<u32>().add(from);
                let y = y.as_mut_ptr().add(row * outputs);
                match lanes / 16 {
                    1 => add_panel::<16, 1>(weight, inputs / 2, &packed, depth, here, outputs, y),
                    2 => add_panel::<8, 2>(weight, inputs / 2, &packed, depth, here, outputs, y),
                    _ => add_panel::<8, 3>(weight, inputs / 2, &packed, depth, here, outputs, y),
                }
            }
            row += here;
        }
    }
}

/// Packs rows: pair p of row r goes to index `p × lanes + r`. Lanes without a row are zero.
///
/// # Safety
/// `rows` rows of `depth` pairs, `stride` apart, can be read; `rows <= lanes`, `packed` has room for `lanes × depth`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_rows(x: *const u32, stride: usize, rows: usize, lanes: usize, depth: usize, packed: &mut [u32]) {
    let steps =
        _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(stride as i32));
    for group in 0..lanes / 16 {
        let count = rows.saturating_sub(group * 16).min(16);
        let mask = ((1u32 << count) - 1) as u16;
        for pair in 0..depth {
            // SAFETY: lanes outside the mask are not read; the others are existing rows.
            unsafe {
                let from = x.wrapping_add(group * 16 * stride + pair);
                let column = _mm512_mask_i32gather_epi32::<4>(_mm512_setzero_si512(), mask, steps, from.cast());
                _mm512_storeu_si512(packed.as_mut_ptr().add(pair * lanes + group * 16).cast(), column);
            }
        }
    }
}

/// Adds the products of all outputs with the packed rows to y.
///
/// # Safety
/// `outputs` rows of `depth` pairs, `stride` apart, can be read from `weight`; `y` has `rows` rows of `outputs`; `packed` holds `depth`
/// pairs of 16 `V` lanes; `R` is a multiple of 8.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn add_panel<const R: usize, const V: usize>(
    weight: *const u32,
    stride: usize,
    packed: &[u32],
    depth: usize,
    rows: usize,
    outputs: usize,
    y: *mut f32,
) {
    let mut output = 0;
    // SAFETY: outputs and rows are within the caller's guarantees.
    unsafe {
        while output + R <= outputs {
            let sums = tile::<R, V>(weight.add(output * stride), stride, packed.as_ptr(), depth);
            for eight in (0..R).step_by(8) {
                for v in 0..V {
                    let columns: [__m512; 8] = std::array::from_fn(|r| sums[eight + r][v]);
                    add_transposed(
                        columns,
                        rows.saturating_sub(16 * v).min(16),
                        y.wrapping_add(16 * v * outputs + output + eight),
                        outputs,
                    );
                }
            }
            output += R;
        }
        while output < outputs {
            let [sums] = tile::<1, V>(weight.add(output * stride), stride, packed.as_ptr(), depth);
            let mut lanes = [[0f32; 16]; V];
            for v in 0..V {
                _mm512_storeu_ps(lanes[v].as_mut_ptr(), sums[v]);
            }
            for row in 0..rows {
                *y.add(row * outputs + output) += lanes[row / 16][row % 16];
            }
            output += 1;
        }
    }
}

/// Adds 8 columns of up to 16 rows to rows of y.
///
/// # Safety
/// `rows` rows of 8 numbers, `stride` apart, can be written at `y`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
unsafe fn add_transposed(columns: [__m512; 8], rows: usize, y: *mut f32, stride: usize) {
    // Transposes 8 × 8 blocks: pairs of columns, then groups of four, then halves.
    let [a, b, c, d, e, f, g, h] = columns;
    let twos = [
        _mm512_unpacklo_ps(a, b),
        _mm512_unpackhi_ps(a, b),
        _mm512_unpacklo_ps(c, d),
        _mm512_unpackhi_ps(c, d),
        _mm512_unpacklo_ps(e, f),
        _mm512_unpackhi_ps(e, f),
        _mm512_unpacklo_ps(g, h),
        _mm512_unpackhi_ps(g, h),
    ];
    // Within each quarter of 4 lanes: fours[i] holds row i of columns a–d, fours[4 + i] of columns e–h.
    let fours = [
        _mm512_shuffle_ps::<0x44>(twos[0], twos[2]),
        _mm512_shuffle_ps::<0xee>(twos[0], twos[2]),
        _mm512_shuffle_ps::<0x44>(twos[1], twos[3]),
        _mm512_shuffle_ps::<0xee>(twos[1], twos[3]),
        _mm512_shuffle_ps::<0x44>(twos[4], twos[6]),
        _mm512_shuffle_ps::<0xee>(twos[4], twos[6]),
        _mm512_shuffle_ps::<0x44>(twos[5], twos[7]),
        _mm512_shuffle_ps::<0xee>(twos[5], twos[7]),
    ];
    for i in 0..4 {
        let quarters = [
            _mm512_extractf32x4_ps::<0>(fours[i]),
            _mm512_extractf32x4_ps::<1>(fours[i]),
            _mm512_extractf32x4_ps::<2>(fours[i]),
            _mm512_extractf32x4_ps::<3>(fours[i]),
        ];
        let others = [
            _mm512_extractf32x4_ps::<0>(fours[4 + i]),
            _mm512_extractf32x4_ps::<1>(fours[4 + i]),
            _mm512_extractf32x4_ps::<2>(fours[4 + i]),
            _mm512_extractf32x4_ps::<3>(fours[4 + i]),
        ];
        for quarter in 0..4 {
            let row = 4 * quarter + i;
            if row < rows {
                // SAFETY: the row is there.
                unsafe {
                    let to = y.add(row * stride);
                    _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), quarters[quarter]));
                    _mm_storeu_ps(to.add(4), _mm_add_ps(_mm_loadu_ps(to.add(4)), others[quarter]));
                }
            }
        }
    }
}

/// # Safety
/// gradient `[rows, outputs]`, weight `[outputs, inputs]`, dx `[rows, inputs]`; `outputs` even.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn input_gradient(gradient: &[f32], weight: &[bf16], inputs: usize, outputs: usize, dx: &mut [f32]) {
    let rows = gradient.len() / outputs;
    let mut narrow = vec![bf16::ZERO; gradient.len()];
    let mut packed = vec![0u32; WIDEST * DEPTH.min(outputs / 2)];
    // SAFETY: `narrow` is as long as the gradient.
    unsafe { round(gradient, &mut narrow) };
    for from in (0..outputs / 2).step_by(DEPTH) {
        let depth = DEPTH.min(outputs / 2 - from);
        for column in (0..inputs).step_by(WIDEST) {
            let here = WIDEST.min(inputs - column);
            pack_columns(&weight[2 * from * inputs..], inputs, column, here, depth, &mut packed);
            let mut row = 0;
            while row < rows {
                // SAFETY: rows `row..row + 8` (or `row`) and pairs `from..from + depth` are in the gradient; `packed` holds `depth` × 48.
                unsafe {
                    let g = narrow.as_ptr().add(row * outputs).cast::<u32>().add(from);
                    let to = dx.as_mut_ptr().add(row * inputs + column);
                    row += if rows - row >= 8 {
                        add_rows(tile::<8, 3>(g, outputs / 2, packed.as_ptr(), depth), here, to, inputs)
                    } else {
                        add_rows(tile::<1, 3>(g, outputs / 2, packed.as_ptr(), depth), here, to, inputs)
                    };
                }
            }
        }
    }
}

/// Packs pairs of rows of weights: pair p of column c goes to index `48 p + c`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_columns(weight: &[bf16], inputs: usize, column: usize, count: usize, depth: usize, packed: &mut [u32]) {
    for (pair, packed) in packed.chunks_exact_mut(WIDEST).take(depth).enumerate() {
        let rows = &weight[2 * pair * inputs..2 * (pair + 1) * inputs];
        let (first, second) = rows.split_at(inputs);
        let columns = first[column..column + count].iter().zip(&second[column..column + count]);
        for (packed, (first, second)) in packed.iter_mut().zip(columns) {
            *packed = u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16;
        }
        packed[count..].fill(0);
    }
}

/// Adds a tile to rows of y and returns their number.
///
/// # Safety
/// `R` rows of `columns` numbers, `stride` apart, can be written at `y`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
unsafe fn add_rows<const R: usize>(sums: [[__m512; 3]; R], columns: usize, y: *mut f32, stride: usize) -> usize {
    for (r, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            let count = columns.saturating_sub(16 * v).min(16);
            let mask = ((1u32 << count) - 1) as u16;
            let to = y.wrapping_add(r * stride + 16 * v);
            // SAFETY: lanes outside the mask are neither read nor written; the others exist.
            unsafe { _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to))) };
        }
    }
    R
}
