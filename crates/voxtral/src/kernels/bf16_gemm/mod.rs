//! GEMM with bf16 weights: y = x wᵀ + b, and the gradients of x and of the weight.
//!
//! CPUs with AVX-512 BF16 multiply pairs of bf16 and accumulate in f32 in one instruction. x is then rounded to bf16 too, for any number of
//! rows, so that the result of a row does not depend on the other rows. Other CPUs convert the weights to f32 one block at a time, and x
//! keeps its precision.

use super::gemm::{MatrixView, multiply, with_bias};
use super::gemv::StoredWeight;
use super::{cpu, gemm, gemv, packed_gemm, parallel};
use half::bf16;

/// Rows of x per task.
const ROWS: usize = 96;

/// Smallest number of rows for which packing the weights into panels pays off.
const MANY: usize = 64;

/// Weights converted at a time: 1 MiB as f32.
const BLOCK: usize = 1 << 18;

/// Linear layer: y = x wᵀ + b; an empty `bias` means none.
///
/// # Shapes
/// x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` → `[rows, outputs]`
#[must_use]
pub fn linear(x: &[f32], weight: &[bf16], bias: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len().checked_div(inputs).unwrap_or(0);
    assert!(x.len() == rows * inputs && weight.len() == outputs * inputs && (bias.is_empty() || bias.len() == outputs));
    #[cfg(target_arch = "x86_64")]
    if cpu::has_bf16_dot() && inputs.is_multiple_of(2) && inputs > 0 {
        if rows <= gemv::MAX_GEMV_ROWS {
            let x = avx512::rounded(x);
            return gemv::by_columns(rows, weight, bias, inputs, outputs, |weight, y| avx512::dots(&x, weight, inputs, y));
        }
        if rows >= MANY {
            return packed_gemm::linear(x, weight, bias, inputs, outputs);
        }
        let mut y = with_bias(rows, outputs, bias);
        let parts = y.chunks_mut(ROWS * outputs.max(1)).zip(x.chunks(ROWS * inputs));
        parallel::each(x.len() * outputs / 2, parts, |(y, x)| avx512::add_products(x, weight, inputs, outputs, y));
        return y;
    }
    if rows <= gemv::MAX_GEMV_ROWS {
        return gemv::linear(x, weight, bias, inputs, outputs);
    }
    let mut y = with_bias(rows, outputs, bias);
    let each = (BLOCK / inputs.max(1)).max(1);
    let parts = y.chunks_mut(4 * ROWS * outputs.max(1)).zip(x.chunks(4 * ROWS * inputs.max(1)));
    parallel::each(x.len() * outputs, parts, |(y, x)| {
        let rows = x.len() / inputs;
        for (block, weight) in weight.chunks(each * inputs).enumerate() {
            let wide = to_f32(weight);
            let weight = MatrixView::new(&wide, weight.len() / inputs, inputs);
            multiply(&mut y[block * each..], outputs, true, MatrixView::new(x, rows, inputs), weight.transposed(), 1.0);
        }
    });
    y
}

/// Gradient of x: g w.
///
/// # Shapes
/// gradient `[rows, outputs]`, weight `[outputs, inputs]` → `[rows, inputs]`
#[must_use]
pub fn linear_input_gradient(gradient: &[f32], weight: &[bf16], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = gradient.len().checked_div(outputs).unwrap_or(0);
    assert!(gradient.len() == rows * outputs && weight.len() == outputs * inputs);
    let mut dx = vec![0.0; rows * inputs];
    if rows == 0 || inputs == 0 {
        return dx;
    }
    #[cfg(target_arch = "x86_64")]
    if cpu::has_bf16_dot() && outputs.is_multiple_of(2) {
        let parts = dx.chunks_mut(ROWS * inputs).zip(gradient.chunks(ROWS * outputs));
        parallel::each(gradient.len() * inputs / 2, parts, |(dx, g)| avx512::add_input_gradient(g, weight, inputs, outputs, dx));
        return dx;
    }
    let each = (BLOCK / inputs).max(1);
    let parts = dx.chunks_mut(4 * ROWS * inputs).zip(gradient.chunks(4 * ROWS * outputs));
    parallel::each(gradient.len() * inputs, parts, |(dx, g)| {
        let rows = g.len() / outputs;
        for (block, weight) in weight.chunks(each * inputs).enumerate() {
            let wide = to_f32(weight);
            let count = weight.len() / inputs;
            let columns = MatrixView { data: &g[block * each..], rows, columns: count, row_stride: outputs, column_stride: 1 };
            multiply(dx, inputs, true, columns, MatrixView::new(&wide, count, inputs), 1.0);
        }
    });
    dx
}

/// Gradient of the weight: gᵀ x, both rounded to bf16 if the CPU has bf16 dot products.
///
/// # Shapes
/// gradient `[rows, outputs]`, x `[rows, inputs]` → `[outputs, inputs]`
#[must_use]
pub fn linear_weight_gradient(gradient: &[f32], x: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len().checked_div(inputs).unwrap_or(0);
    if !cpu::has_bf16_dot() || rows == 0 {
        return gemm::linear_weight_gradient(gradient, x, inputs, outputs);
    }
    // Rows become the inner dimension, which must be even: zero-padded if needed.
    let even = rows.next_multiple_of(2);
    let gradient = transpose_padded(gradient, outputs, even, |number| number);
    let x = transpose_padded(x, inputs, even, bf16::from_f32);
    linear(&gradient, &x, &[], even, inputs)
}

/// Transposes and converts, padding each row to `wide` values: `[rows, columns]` → `[columns, wide]`.
fn transpose_padded<T: Copy + Default + Send>(x: &[f32], columns: usize, wide: usize, to: impl Fn(f32) -> T + Send + Sync) -> Vec<T> {
    let mut turned = vec![T::default(); columns * wide];
    let rows = x.len() / columns.max(1);
    // A few columns at a time, so that the cache lines they share are read once.
    const MAX_SKINNY_ROWS: usize = 16;
    let parts = turned.chunks_mut(MAX_SKINNY_ROWS * wide.max(1)).enumerate();
    parallel::each(x.len(), parts, |(part, turned)| {
        for row in 0..rows {
            let line = &x[row * columns + part * MAX_SKINNY_ROWS..(row + 1) * columns];
            for (column, number) in turned.chunks_exact_mut(wide).zip(line) {
                column[row] = to(*number);
            }
        }
    });
    turned
}

/// Converts f32 weights to bf16, rounding to nearest.
#[must_use]
pub fn to_bf16(weights: &[f32]) -> Vec<bf16> {
    #[cfg(target_arch = "x86_64")]
    if cpu::has_bf16_dot() {
        let mut narrow = vec![bf16::ZERO; weights.len()];
        const PART: usize = 1 << 16;
        parallel::each(weights.len(), narrow.chunks_mut(PART).zip(weights.chunks(PART)), |(narrow, weights)| {
            avx512::round_into(weights, narrow)
        });
        return narrow;
    }
    weights.iter().map(|weight| bf16::from_f32(*weight)).collect()
}

/// Converts bf16 weights to f32.
#[must_use]
pub fn to_f32(weights: &[bf16]) -> Vec<f32> {
    weights.iter().map(|w| w.wide()).collect()
}

#[cfg(target_arch = "x86_64")]
mod avx512;
