//! y = x wᵀ + b for a few rows: a token at a time, every weight is used once or a few times, and reading them is all the work.

use super::cpu::{fused, versions};
use super::parallel;
use super::rows::{LANES, total};
use half::bf16;

/// Rows up to which a product is computed here.
pub const FEW: usize = 8;

/// Weights that one task reads, roughly.
const PART: usize = 1 << 16;

/// A number as weights are kept.
pub trait Kept: Copy + Send + Sync {
    /// The same as a 32-bit float.
    fn wide(self) -> f32;

    /// Σ x w for rows x and the weights of some outputs, `[outputs, rows]`.
    fn products(x: &[f32], weight: &[Self], inputs: usize, y: &mut [f32]);
}

impl Kept for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    fn products(x: &[f32], weight: &[Self], inputs: usize, y: &mut [f32]) {
        products_of_floats(x, weight, inputs, y);
    }
}

impl Kept for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        // Brain floats are the upper halves of 32-bit floats.
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    fn products(x: &[f32], weight: &[Self], inputs: usize, y: &mut [f32]) {
        products_of_brain_floats(x, weight, inputs, y);
    }
}

versions! {
    fn products_of_floats(x: &[f32], weight: &[f32], inputs: usize, y: &mut [f32]) {
        products::<FUSED, f32>(x, weight, inputs, y);
    }
}

versions! {
    fn products_of_brain_floats(x: &[f32], weight: &[bf16], inputs: usize, y: &mut [f32]) {
        products::<FUSED, bf16>(x, weight, inputs, y);
    }
}

/// y = x wᵀ + b; an empty `bias` is none.
///
/// # Shapes
/// x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` → `[rows, outputs]`
#[must_use]
pub fn linear<W: Kept>(x: &[f32], weight: &[W], bias: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len().checked_div(inputs).unwrap_or(0);
    assert_eq!(x.len(), rows * inputs);
    by_columns(rows, weight, bias, inputs, outputs, |weight, y| W::products(x, weight, inputs, y))
}

/// The frame of such products, which reads every weight once: `part` gets the weights of some outputs and fills `[outputs, rows]`, y on
/// its side.
pub(super) fn by_columns<W: Kept>(
    rows: usize,
    weight: &[W],
    bias: &[f32],
    inputs: usize,
    outputs: usize,
    part: impl Fn(&[W], &mut [f32]) + Send + Sync,
) -> Vec<f32> {
    assert!(weight.len() == outputs * inputs && (bias.is_empty() || bias.len() == outputs));
    let mut sideways = vec![0.0; outputs * rows];
    if rows > 0 && outputs > 0 && inputs > 0 {
        let each = (PART / inputs).max(1).next_multiple_of(8);
        let parts = sideways.chunks_mut(each * rows).zip(weight.chunks(each * inputs));
        parallel::each(rows * weight.len(), parts, |(y, weight)| part(weight, y));
    }
    let mut y = if rows <= 1 { sideways } else { transpose(&sideways, rows) };
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

#[inline(always)]
fn products<const FUSED: bool, W: Kept>(x: &[f32], weight: &[W], inputs: usize, y: &mut [f32]) {
    let rows = x.len() / inputs;
    for (y, weight) in y.chunks_mut(4 * rows).zip(weight.chunks(4 * inputs)) {
        let mut first = 0;
        while first < rows {
            let rest = &x[first * inputs..];
            let here = match (rows - first, weight.len() / inputs) {
                (4.., 4) => put(y, rows, first, tile::<FUSED, 4, 4, W>(rest, weight, inputs)),
                (2 | 3, 4) => put(y, rows, first, tile::<FUSED, 2, 4, W>(rest, weight, inputs)),
                (1, 4) => put(y, rows, first, tile::<FUSED, 1, 4, W>(rest, weight, inputs)),
                _ => {
                    for (output, weight) in weight.chunks_exact(inputs).enumerate() {
                        put(&mut y[output * rows..], rows, first, tile::<FUSED, 1, 1, W>(rest, weight, inputs));
                    }
                    1
                }
            };
            first += here;
        }
    }
}

/// Writes the products of `M` rows from `first` on, and says how many they are.
#[inline(always)]
fn put<const M: usize, const N: usize>(y: &mut [f32], rows: usize, first: usize, found: [[f32; N]; M]) -> usize {
    for (row, found) in found.iter().enumerate() {
        for (output, sum) in found.iter().enumerate() {
            y[output * rows + first + row] = *sum;
        }
    }
    M
}

/// Σ x w for `M` rows and `N` outputs. The sum of a pair is taken in the same order whatever `M` and `N` are, so that a row's result
/// does not depend on the company it is in.
#[inline(always)]
fn tile<const FUSED: bool, const M: usize, const N: usize, W: Kept>(x: &[f32], weight: &[W], inputs: usize) -> [[f32; N]; M] {
    let x: [&[f32]; M] = std::array::from_fn(|m| &x[m * inputs..(m + 1) * inputs]);
    let w: [&[W]; N] = std::array::from_fn(|n| &weight[n * inputs..(n + 1) * inputs]);
    let mut sums = [[[0.0; LANES]; N]; M];
    let whole = inputs - inputs % LANES;
    for start in (0..whole).step_by(LANES) {
        for n in 0..N {
            let mut wide = [0.0; LANES];
            for (wide, w) in wide.iter_mut().zip(&w[n][start..start + LANES]) {
                *wide = w.wide();
            }
            for m in 0..M {
                let x = &x[m][start..start + LANES];
                for lane in 0..LANES {
                    sums[m][n][lane] = fused::<FUSED>(x[lane], wide[lane], sums[m][n][lane]);
                }
            }
        }
    }
    for m in 0..M {
        for n in 0..N {
            for i in whole..inputs {
                sums[m][n][i - whole] = fused::<FUSED>(x[m][i], w[n][i].wide(), sums[m][n][i - whole]);
            }
        }
    }
    std::array::from_fn(|m| std::array::from_fn(|n| total(sums[m][n])))
}
