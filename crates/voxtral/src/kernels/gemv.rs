//! GEMV and skinny matrix products for decoding: y = x wᵀ + b for a few rows of x. Each weight is used only a few times, so the products
//! are bound by memory bandwidth.

use super::cpu::{fused, versions};
use super::simd::{Simd, SimdLevel, SimdOp};
use super::softmax::{LANES, total};
use super::{parallel, simd};
use half::bf16;

/// Largest number of rows for which a product is bound by reading the matrix.
pub const MAX_GEMV_ROWS: usize = 8;

/// Largest number of rows for which an f32 product is computed here: packing the weights into panels would take longer.
pub const MAX_SKINNY_ROWS: usize = 32;

/// Approximate number of weights per task.
const PART: usize = 1 << 16;

/// Element type of stored weights: f32 or bf16.
pub trait StoredWeight: Copy + Send + Sync {
    /// Zero.
    const ZERO: Self;

    /// Whether the best instructions multiply pairs of this type.
    const PAIRS: bool;

    /// Unit i of a row as the `simd` module multiplies it: one element or, with [`StoredWeight::PAIRS`], the bits of two.
    fn unit(row: &[Self], i: usize) -> f32;

    /// Converts to f32.
    fn wide(self) -> f32;

    /// Dot products Σ x w of all rows of x with the weights of some outputs: `[outputs, rows]`.
    fn products(x: &[f32], weight: &[Self], inputs: usize, y: &mut [f32]);
}

impl StoredWeight for f32 {
    const ZERO: Self = 0.0;
    const PAIRS: bool = false;

    #[inline(always)]
    fn unit(row: &[Self], i: usize) -> f32 {
        row[i]
    }

    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    fn products(x: &[f32], weight: &[Self], inputs: usize, y: &mut [f32]) {
        f32_products(x, weight, inputs, y);
    }
}

impl StoredWeight for bf16 {
    const ZERO: Self = bf16::ZERO;
    const PAIRS: bool = true;

    #[inline(always)]
    fn unit(row: &[Self], i: usize) -> f32 {
        f32::from_bits(u32::from(row[2 * i].to_bits()) | u32::from(row[2 * i + 1].to_bits()) << 16)
    }

    #[inline(always)]
    fn wide(self) -> f32 {
        // bf16 is the upper half of f32.
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    fn products(x: &[f32], weight: &[Self], inputs: usize, y: &mut [f32]) {
        bf16_products(x, weight, inputs, y);
    }
}

fn f32_products(x: &[f32], weight: &[f32], inputs: usize, y: &mut [f32]) {
    simd::run(SimdLevel::best(false), F32Products { x, weight, inputs, y });
}

/// Dot products of f32 rows with SIMD vectors.
struct F32Products<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    inputs: usize,
    y: &'a mut [f32],
}

impl SimdOp for F32Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Simd, const R: usize, const V: usize>(self, lanes: L) {
        let Self { x, weight, inputs, y } = self;
        let rows = x.len() / inputs;
        let mut first = 0;
        // A few rows of x at a time, with all weights of this part: these are in the cache for the next rows.
        while first < rows {
            let x = &x[first * inputs..];
            first += match rows - first {
                4.. => f32_rows::<L, 4>(lanes, x, weight, inputs, &mut y[first..], rows),
                2 | 3 => f32_rows::<L, 2>(lanes, x, weight, inputs, &mut y[first..], rows),
                _ => f32_rows::<L, 1>(lanes, x, weight, inputs, &mut y[first..], rows),
            };
        }
    }
}

/// Dot products of `M` rows of x with all rows of weights; returns `M`.
#[inline(always)]
fn f32_rows<L: Simd, const M: usize>(lanes: L, x: &[f32], weight: &[f32], inputs: usize, y: &mut [f32], stride: usize) -> usize {
    let outputs = weight.len() / inputs;
    let mut output = 0;
    while output < outputs {
        let (weight, y) = (&weight[output * inputs..], &mut y[output * stride..]);
        // A single row is memory-bound, and memory is fastest as one stream.
        output += if M > 1 && outputs - output >= 4 {
            f32_dots::<L, M, 4>(lanes, x, weight, inputs, y, stride)
        } else {
            f32_dots::<L, M, 1>(lanes, x, weight, inputs, y, stride)
        };
    }
    M
}

/// Dot products of `M` rows of x with `R` rows of weights; returns `R`. Each has one accumulator, so the order of summation does not depend
/// on `M` or `R`, and the result of a row does not depend on the other rows.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "rows index several arrays")]
fn f32_dots<L: Simd, const M: usize, const R: usize>(
    lanes: L,
    x: &[f32],
    weight: &[f32],
    inputs: usize,
    y: &mut [f32],
    stride: usize,
) -> usize {
    assert!(x.len() >= M * inputs && weight.len() >= R * inputs);
    let mut sums = [[lanes.splat(0.0); R]; M];
    let whole = inputs - inputs % L::COUNT;
    for start in (0..whole).step_by(L::COUNT) {
        // SAFETY: all vectors are within the `M` and `R` rows.
        unsafe {
            let w: [L::Vector; R] = std::array::from_fn(|r| lanes.read(weight.as_ptr().add(r * inputs + start)));
            for m in 0..M {
                let x = lanes.read(x.as_ptr().add(m * inputs + start));
                for r in 0..R {
                    sums[m][r] = lanes.mul_add(x, w[r], sums[m][r]);
                }
            }
        }
    }
    if whole < inputs {
        let part = |rows: &[f32], row: usize| {
            let mut rest = [0.0; LANES];
            rest[..inputs - whole].copy_from_slice(&rows[row * inputs + whole..(row + 1) * inputs]);
            lanes.load(&rest)
        };
        for m in 0..M {
            for r in 0..R {
                sums[m][r] = lanes.mul_add(part(x, m), part(weight, r), sums[m][r]);
            }
        }
    }
    for m in 0..M {
        for r in 0..R {
            y[r * stride + m] = lanes.sum(sums[m][r]);
        }
    }
    R
}

versions! {
    fn bf16_products(x: &[f32], weight: &[bf16], inputs: usize, y: &mut [f32]) {
        products::<FUSED, bf16>(x, weight, inputs, y);
    }
}

/// Linear layer: y = x wᵀ + b; an empty `bias` means none.
///
/// # Shapes
/// x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` → `[rows, outputs]`
#[must_use]
pub fn linear<W: StoredWeight>(x: &[f32], weight: &[W], bias: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len().checked_div(inputs).unwrap_or(0);
    assert_eq!(x.len(), rows * inputs);
    by_columns(rows, weight, bias, inputs, outputs, |weight, y| W::products(x, weight, inputs, y))
}

/// Computes y from parts of the weights, reading every weight once. `part` gets the weights of some outputs and fills `[outputs, rows]`,
/// the transpose of y.
pub(super) fn by_columns<W: StoredWeight>(
    rows: usize,
    weight: &[W],
    bias: &[f32],
    inputs: usize,
    outputs: usize,
    part: impl Fn(&[W], &mut [f32]) + Send + Sync,
) -> Vec<f32> {
    assert!(weight.len() == outputs * inputs && (bias.is_empty() || bias.len() == outputs));
    let mut transposed = vec![0.0; outputs * rows];
    if rows > 0 && outputs > 0 && inputs > 0 {
        let each = (PART / inputs).max(1).next_multiple_of(8);
        let parts = transposed.chunks_mut(each * rows).zip(weight.chunks(each * inputs));
        parallel::each(rows * weight.len(), parts, |(y, weight)| part(weight, y));
    }
    let mut y = if rows <= 1 { transposed } else { transpose(&transposed, rows) };
    if !bias.is_empty() {
        for row in y.chunks_exact_mut(outputs) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
    y
}

/// `[rows, columns]` → `[columns, rows]`
fn transpose(x: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| x.iter().skip(column).step_by(columns).copied()).collect()
}

/// Accumulators per dot product, in addition to its lanes: this many additions can be in flight at once.
const SUMS: usize = 4;

#[inline(always)]
fn products<const FUSED: bool, W: StoredWeight>(x: &[f32], weight: &[W], inputs: usize, y: &mut [f32]) {
    let rows = x.len() / inputs;
    // One row of weights after the other, so that memory is read as one stream, which is fastest.
    for (y, weight) in y.chunks_exact_mut(rows).zip(weight.chunks_exact(inputs)) {
        let mut first = 0;
        while first < rows {
            let (x, y) = (&x[first * inputs..], &mut y[first..]);
            first += match rows - first {
                4.. => put(y, dots::<FUSED, 4, W>(x, weight)),
                2 | 3 => put(y, dots::<FUSED, 2, W>(x, weight)),
                _ => put(y, dots::<FUSED, 1, W>(x, weight)),
            };
        }
    }
}

#[inline(always)]
fn put<const M: usize>(y: &mut [f32], found: [f32; M]) -> usize {
    y[..M].copy_from_slice(&found);
    M
}

/// Dot products of `M` rows with one row of weights. The order of summation does not depend on `M`, so the result of a row does not depend
/// on the other rows.
#[inline(always)]
fn dots<const FUSED: bool, const M: usize, W: StoredWeight>(x: &[f32], weight: &[W]) -> [f32; M] {
    let inputs = weight.len();
    let x: [_; M] = std::array::from_fn(|m| x[m * inputs..(m + 1) * inputs].as_chunks::<LANES>());
    let (w, rest) = weight.as_chunks::<LANES>();
    let mut sums = [[[0.0; LANES]; M]; SUMS];
    // Lanes and accumulators are indexed by constants only, so all of them stay in registers.
    let whole = w.len() - w.len() % SUMS;
    for start in (0..whole).step_by(SUMS) {
        for u in 0..SUMS {
            add_products::<FUSED, M, W>(&mut sums[u], x.map(|(x, _)| x[start + u]), w[start + u]);
        }
    }
    for i in whole..w.len() {
        add_products::<FUSED, M, W>(&mut sums[0], x.map(|(x, _)| x[i]), w[i]);
    }
    if !rest.is_empty() {
        add_products::<FUSED, M, W>(&mut sums[1], x.map(|(_, rest)| padded(rest)), padded(rest));
    }
    std::array::from_fn(|m| {
        total(std::array::from_fn(|lane| (sums[0][m][lane] + sums[1][m][lane]) + (sums[2][m][lane] + sums[3][m][lane])))
    })
}

/// Multiplies and accumulates one vector of weights.
#[inline(always)]
fn add_products<const FUSED: bool, const M: usize, W: StoredWeight>(sums: &mut [[f32; LANES]; M], x: [[f32; LANES]; M], w: [W; LANES]) {
    let wide = w.map(W::wide);
    for m in 0..M {
        for lane in 0..LANES {
            sums[m][lane] = fused::<FUSED>(x[m][lane], wide[lane], sums[m][lane]);
        }
    }
}

/// The remainder of a row, zero-padded to a full vector.
#[inline(always)]
fn padded<W: StoredWeight>(rest: &[W]) -> [W; LANES] {
    let mut lanes = [W::ZERO; LANES];
    for (lane, rest) in lanes.iter_mut().zip(rest) {
        *lane = *rest;
    }
    lanes
}
