//! Block quantization (Q8_0 and Q4_1, as in ggml but with bf16 scales): weights of 8 or 4 bits, y = x wᵀ + b, and the gradient of x.
//!
//! A row of weights is cut into blocks of 32 along the inputs. In Q8_0 a block has a scale, and a weight is an integer from -127 to 127
//! times the scale. In Q4_1 it has a scale and a minimum, and a weight is the minimum plus an integer from 0 to 15 times the scale. That is
//! 8.5 and 5 bits per weight. For a few rows of x, weights are dequantized in registers as they are read. For many rows, one panel at a
//! time is dequantized to bf16 if the CPU has bf16 dot products, otherwise to f32.

use super::cpu::{fused, versions};
use super::softmax::{LANES, total};
use super::{bf16_gemm, cpu, gemm, parallel};
use half::bf16;

/// Block size: weights that share a scale.
pub const BLOCK: usize = 32;

/// Largest number of rows for which weights are dequantized as they are read.
const MAX_GEMV_ROWS: usize = 8;

/// Weights dequantized at a time for many rows.
const PANEL: usize = 1 << 20;

/// Bytes of quantized rows per task.
const PART: usize = 1 << 16;

/// Quantization type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantType {
    /// 8 bits: scale × (-127 to 127).
    Q8_0,
    /// 4 bits: minimum + scale × (0 to 15).
    Q4_1,
}

impl QuantType {
    /// Bytes per block: its bf16 scale (and minimum), then its weights.
    #[must_use]
    pub const fn block(self) -> usize {
        match self {
            Self::Q8_0 => 2 + BLOCK,
            Self::Q4_1 => 4 + BLOCK / 2,
        }
    }

    /// Bytes of a row of `inputs` weights.
    #[must_use]
    pub const fn row(self, inputs: usize) -> usize {
        inputs.div_ceil(BLOCK) * self.block()
    }
}

/// Quantizes a row of finite weights.
///
/// # Panics
/// If the length of `to` is not [`QuantType::row`].
pub fn quantize(row: &[f32], bits: QuantType, to: &mut [u8]) {
    assert_eq!(to.len(), bits.row(row.len()));
    for (weights, to) in row.chunks(BLOCK).zip(to.chunks_exact_mut(bits.block())) {
        match bits {
            QuantType::Q8_0 => {
                let greatest = weights.iter().fold(0f32, |most, w| most.max(w.abs()));
                let scale = above(greatest / 127.0);
                to[..2].copy_from_slice(&scale.to_le_bytes());
                let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
                for (to, w) in to[2..].iter_mut().zip(weights) {
                    *to = ((w * inverse).round() as i8) as u8;
                }
            }
            QuantType::Q4_1 => {
                let (least, most) = weights.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), w| (a.min(*w), b.max(*w)));
                // Rounded down, so that no weight is below it.
                let least = -above(-least).to_f32();
                let scale = above((most - least) / 15.0);
                to[..2].copy_from_slice(&scale.to_le_bytes());
                to[2..4].copy_from_slice(&bf16::from_f32(least).to_le_bytes());
                let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
                // Weights i and i + 16 share a byte, so that both halves of a block are unpacked alike.
                for (i, w) in weights.iter().enumerate() {
                    let number = ((w - least) * inverse).round().clamp(0.0, 15.0) as u8;
                    to[4 + i % (BLOCK / 2)] |= if i < BLOCK / 2 { number } else { number << 4 };
                }
            }
        }
    }
}

/// The smallest bf16 that is at least `x`.
fn above(x: f32) -> bf16 {
    let near = bf16::from_f32(x);
    if near.to_f32() >= x {
        return near;
    }
    // The next larger bf16: away from zero if positive, toward it if negative.
    bf16::from_bits(if x > 0.0 { near.to_bits() + 1 } else { near.to_bits() - 1 })
}

/// Dequantizes a block. Places beyond the end of the row are not meaningful.
#[inline(always)]
fn widen<const FUSED: bool>(block: &[u8], bits: QuantType) -> [f32; BLOCK] {
    let float = |at: usize| bf16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let mut weights = [0.0; BLOCK];
    match bits {
        QuantType::Q8_0 => {
            let scale = float(0);
            for (weight, byte) in weights.iter_mut().zip(&block[2..2 + BLOCK]) {
                *weight = f32::from(*byte as i8) * scale;
            }
        }
        QuantType::Q4_1 => {
            let (scale, least) = (float(0), float(2));
            let (low, high) = weights.split_at_mut(BLOCK / 2);
            for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[4..4 + BLOCK / 2]) {
                *low = fused::<FUSED>(f32::from(byte & 15), scale, least);
                *high = fused::<FUSED>(f32::from(byte >> 4), scale, least);
            }
        }
    }
    weights
}

versions! {
    /// Dequantizes rows of weights to f32.
    fn widen_rows(packed: &[u8], inputs: usize, bits: QuantType, to: &mut [f32]) {
        for (packed, to) in packed.chunks_exact(bits.row(inputs)).zip(to.chunks_exact_mut(inputs)) {
            for (block, to) in packed.chunks_exact(bits.block()).zip(to.chunks_mut(BLOCK)) {
                to.copy_from_slice(&widen::<FUSED>(block, bits)[..to.len()]);
            }
        }
    }
}

/// Dequantizes all weights to f32, `[outputs, inputs]`.
#[must_use]
pub fn to_f32(packed: &[u8], inputs: usize, bits: QuantType) -> Vec<f32> {
    let outputs = packed.len().checked_div(bits.row(inputs)).unwrap_or(0);
    let mut wide = vec![0.0; outputs * inputs];
    let some = (PART / bits.row(inputs).max(1)).max(1);
    let parts = packed.chunks(some * bits.row(inputs).max(1)).zip(wide.chunks_mut((some * inputs).max(1)));
    parallel::each(wide_work(outputs * inputs), parts, |(packed, wide)| widen_rows(packed, inputs, bits, wide));
    wide
}

/// Operations to dequantize weights: each takes about as long as a few operations.
fn wide_work(weights: usize) -> usize {
    4 * weights
}

/// Linear layer: y = x wᵀ + b; an empty `bias` means none.
///
/// # Shapes
/// x `[rows, inputs]`, packed `[outputs, bytes of a row]`, bias `[outputs]` → `[rows, outputs]`
#[must_use]
pub fn linear(x: &[f32], packed: &[u8], bias: &[f32], inputs: usize, bits: QuantType) -> Vec<f32> {
    let rows = x.len().checked_div(inputs).unwrap_or(0);
    let outputs = packed.len().checked_div(bits.row(inputs)).unwrap_or(0);
    assert!(x.len() == rows * inputs && packed.len() == outputs * bits.row(inputs) && (bias.is_empty() || bias.len() == outputs));
    let mut y = vec![0.0; rows * outputs];
    if y.is_empty() {
        return y;
    }
    if rows <= MAX_GEMV_ROWS {
        few(x, packed, inputs, bits, rows, &mut y);
    } else {
        let panel = (PANEL / inputs).max(1);
        for (number, packed) in packed.chunks(panel * bits.row(inputs)).enumerate() {
            let wide = to_f32(packed, inputs, bits);
            let count = wide.len() / inputs;
            let part = match cpu::has_bf16_dot() {
                true => bf16_gemm::linear(x, &bf16_gemm::to_bf16(&wide), &[], inputs, count),
                false => gemm::linear(x, &wide, &[], inputs, count),
            };
            for (y, part) in y.chunks_exact_mut(outputs).zip(part.chunks_exact(count)) {
                y[number * panel..number * panel + count].copy_from_slice(part);
            }
        }
    }
    if !bias.is_empty() {
        for y in y.chunks_exact_mut(outputs) {
            super::softmax::add_scaled(y, bias, 1.0);
        }
    }
    y
}

/// Products of a few rows: every byte of the weights is read once.
fn few(x: &[f32], packed: &[u8], inputs: usize, bits: QuantType, rows: usize, y: &mut [f32]) {
    // Pad x with zeros to whole blocks: what a short last block of weights holds there has no effect.
    let wide = inputs.next_multiple_of(BLOCK);
    let mut padded = vec![0.0; rows * wide];
    for (padded, x) in padded.chunks_exact_mut(wide).zip(x.chunks_exact(inputs)) {
        padded[..inputs].copy_from_slice(x);
    }
    let outputs = packed.len() / bits.row(inputs);
    let some = (PART / bits.row(inputs)).max(1);
    let mut transposed = vec![0.0; outputs * rows];
    let parts = transposed.chunks_mut(some * rows).zip(packed.chunks(some * bits.row(inputs)));
    parallel::each(wide_work(rows * outputs * inputs), parts, |(y, packed)| dots(&padded, packed, wide, bits, rows, y));
    for (output, sums) in transposed.chunks_exact(rows).enumerate() {
        for (row, sum) in sums.iter().enumerate() {
            y[row * outputs + output] = *sum;
        }
    }
}

versions! {
    /// Dot products of rows of x, padded to whole blocks, with rows of weights: `[outputs, rows]`.
    fn dots(x: &[f32], packed: &[u8], whole: usize, bits: QuantType, rows: usize, y: &mut [f32]) {
        for (packed, y) in packed.chunks_exact(bits.row(whole)).zip(y.chunks_exact_mut(rows)) {
            let mut row = 0;
            while row < rows {
                let (x, y) = (&x[row * whole..], &mut y[row..]);
                row += match rows - row {
                    4.. => put(dot::<FUSED, 4>(x, packed, whole, bits), y),
                    2 | 3 => put(dot::<FUSED, 2>(x, packed, whole, bits), y),
                    _ => put(dot::<FUSED, 1>(x, packed, whole, bits), y),
                };
            }
        }
    }
}

#[inline(always)]
fn put<const M: usize>(sums: [f32; M], y: &mut [f32]) -> usize {
    y[..M].copy_from_slice(&sums);
    M
}

/// Dot products of `M` rows with one row of weights; the order of a row's sum does not depend on `M`.
#[inline(always)]
fn dot<const FUSED: bool, const M: usize>(x: &[f32], packed: &[u8], wide: usize, bits: QuantType) -> [f32; M] {
    let mut sums = [[[0.0; LANES]; 2]; M];
    for (number, block) in packed.chunks_exact(bits.block()).enumerate() {
        let weights = widen::<FUSED>(block, bits);
        for m in 0..M {
            let x = &x[m * wide + number * BLOCK..m * wide + (number + 1) * BLOCK];
            for (sums, (x, weights)) in sums[m].iter_mut().zip(x.chunks_exact(LANES).zip(weights.chunks_exact(LANES))) {
                for ((sum, x), weight) in sums.iter_mut().zip(x).zip(weights) {
                    *sum = fused::<FUSED>(*x, *weight, *sum);
                }
            }
        }
    }
    std::array::from_fn(|m| total(std::array::from_fn(|lane| sums[m][0][lane] + sums[m][1][lane])))
}

/// Gradient of x: g w.
///
/// # Shapes
/// gradient `[rows, outputs]`, packed `[outputs, bytes of a row]` → `[rows, inputs]`
#[must_use]
pub fn linear_input_gradient(gradient: &[f32], packed: &[u8], inputs: usize, bits: QuantType) -> Vec<f32> {
    let outputs = packed.len().checked_div(bits.row(inputs)).unwrap_or(0);
    let rows = gradient.len().checked_div(outputs).unwrap_or(0);
    assert!(gradient.len() == rows * outputs && packed.len() == outputs * bits.row(inputs));
    let mut dx = vec![0.0; rows * inputs];
    if dx.is_empty() {
        return dx;
    }
    let panel = (PANEL / inputs).max(1).next_multiple_of(2);
    for (number, packed) in packed.chunks(panel * bits.row(inputs)).enumerate() {
        let wide = to_f32(packed, inputs, bits);
        let count = wide.len() / inputs;
        let first = number * panel;
        let part: Vec<f32> = gradient.chunks_exact(outputs).flat_map(|row| &row[first..first + count]).copied().collect();
        let part = match cpu::has_bf16_dot() {
            true => bf16_gemm::linear_input_gradient(&part, &bf16_gemm::to_bf16(&wide), inputs, count),
            false => gemm::linear_input_gradient(&part, &wide, inputs, count),
        };
        super::softmax::add_scaled(&mut dx, &part, 1.0);
    }
    dx
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0 + if i % 41 == 0 { 2.0 } else { 0.0 }).collect()
    }

    fn packed(weights: &[f32], inputs: usize, bits: QuantType) -> Vec<u8> {
        let mut packed = vec![0; weights.len() / inputs * bits.row(inputs)];
        for (row, to) in weights.chunks_exact(inputs).zip(packed.chunks_exact_mut(bits.row(inputs))) {
            quantize(row, bits, to);
        }
        packed
    }

    #[test]
    fn a_weight_is_off_by_half_a_step_at_most() {
        for (bits, steps) in [(QuantType::Q8_0, 254.0), (QuantType::Q4_1, 15.0)] {
            for inputs in [1, 31, 32, 33, 100] {
                let row = weights(inputs);
                let found = to_f32(&packed(&row, inputs, bits), inputs, bits);
                for (block, found) in row.chunks(BLOCK).zip(found.chunks(BLOCK)) {
                    let most = block.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
                    let least = block.iter().fold(f32::INFINITY, |a, b| a.min(*b));
                    // The quantized range, and a little more because its ends are rounded to bf16.
                    let range = if bits == QuantType::Q8_0 { 2.0 * most.max(-least) } else { most - least + 0.01 * least.abs() };
                    for (weight, found) in block.iter().zip(found) {
                        let off = (weight - found).abs();
                        assert!(off <= 0.505 * range * 1.01 / steps + 1e-7, "{bits:?}: {weight} became {found}");
                    }
                }
            }
        }
        // All zeros, and very small and very large values.
        for bits in [QuantType::Q8_0, QuantType::Q4_1] {
            assert_eq!(to_f32(&packed(&[0.0; 40], 40, bits), 40, bits), [0.0; 40]);
            for size in [1e-30f32, 1e30] {
                let found = to_f32(&packed(&[size, -size], 2, bits), 2, bits);
                assert!((found[0] / size - 1.0).abs() < 0.02 && (found[1] / size + 1.0).abs() < 0.02, "{found:?}");
            }
        }
    }

    #[test]
    fn products_are_those_of_the_widened_weights() {
        for bits in [QuantType::Q8_0, QuantType::Q4_1] {
            for (rows, inputs, outputs) in [(1, 33, 3), (3, 64, 5), (8, 100, 7), (9, 100, 70), (20, 40, 64), (5, 2000, 600)] {
                let (x, bias) = (weights(rows * inputs), weights(outputs));
                let packed = packed(&weights(outputs * inputs), inputs, bits);
                let wide = to_f32(&packed, inputs, bits);
                let y = linear(&x, &packed, &bias, inputs, bits);
                let g = weights(rows * outputs);
                let dx = linear_input_gradient(&g, &packed, inputs, bits);
                // Many rows are rounded to bf16 if the CPU has bf16 dot products.
                let within = |many: bool| if many && cpu::has_bf16_dot() { 1.5e-2 } else { 1e-5 };
                for row in 0..rows {
                    for output in 0..outputs {
                        let pairs = || (0..inputs).map(|i| f64::from(x[row * inputs + i]) * f64::from(wide[output * inputs + i]));
                        let (exact, size) = (pairs().sum::<f64>() + f64::from(bias[output]), pairs().map(f64::abs).sum::<f64>());
                        let found = f64::from(y[row * outputs + output]);
                        assert!(
                            (found - exact).abs() <= within(rows > MAX_GEMV_ROWS) * size.max(1.0),
                            "{bits:?}: {found} instead of {exact}"
                        );
                    }
                    for input in 0..inputs {
                        let pairs = || (0..outputs).map(|o| f64::from(g[row * outputs + o]) * f64::from(wide[o * inputs + input]));
                        let (exact, size) = (pairs().sum::<f64>(), pairs().map(f64::abs).sum::<f64>());
                        let found = f64::from(dx[row * inputs + input]);
                        assert!((found - exact).abs() <= within(true) * size.max(1.0), "{bits:?}: {found} instead of {exact}");
                    }
                }
            }
        }
    }
}
