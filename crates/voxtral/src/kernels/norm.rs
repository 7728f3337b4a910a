//! LayerNorm and RMSNorm of rows, forward and backward.

use super::buffer::room;
use super::cpu::{fused, versions};
use super::parallel;
use super::softmax::{LANES, total};

/// Rows per task. Sums over rows are computed within a task, then over the tasks in order.
const ROWS: usize = 64;

/// Kind of normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// LayerNorm: (x - mean) / √(variance + ε)
    Layer,
    /// RMSNorm: x / √(mean square + ε)
    Rms,
}

/// Gradients computed by [`backward`].
#[derive(Clone, Debug)]
pub struct NormGradients {
    /// Gradient of the input rows.
    pub x: Vec<f32>,
    /// Gradient of the weight.
    pub weight: Vec<f32>,
    /// Gradient of the bias.
    pub bias: Vec<f32>,
}

/// Normalizes rows of width `weight.len()`, then applies weight and bias; an empty `bias` means none.
#[must_use]
pub fn forward(norm: NormKind, x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let width = weight.len();
    let mut y = room(x.len());
    if width > 0 {
        let parts = y.chunks_mut(ROWS * width).zip(x.chunks(ROWS * width));
        parallel::each(4 * x.len(), parts, |(y, x)| forward_part(norm, x, weight, bias, epsilon, y));
    }
    y
}

/// Gradients of the inputs of [`forward`], given that of its result.
#[must_use]
pub fn backward(norm: NormKind, x: &[f32], weight: &[f32], epsilon: f32, gradient: &[f32]) -> NormGradients {
    assert_eq!(x.len(), gradient.len());
    let width = weight.len();
    let mut dx = room(x.len());
    let (mut dweight, mut dbias) = (vec![0.0; width], vec![0.0; width]);
    if width > 0 {
        let part = ROWS * width;
        let parts = dx.chunks_mut(part).zip(x.chunks(part)).zip(gradient.chunks(part));
        let sums = parallel::map(8 * x.len(), parts, |((dx, x), g)| {
            let (mut dweight, mut dbias) = (vec![0.0; width], vec![0.0; width]);
            backward_part(norm, x, weight, epsilon, g, dx, &mut dweight, &mut dbias);
            (dweight, dbias)
        });
        for (w, b) in sums {
            dweight.iter_mut().zip(w).for_each(|(sum, w)| *sum += w);
            dbias.iter_mut().zip(b).for_each(|(sum, b)| *sum += b);
        }
    }
    NormGradients { x: dx, weight: dweight, bias: dbias }
}

/// Σ f(i) over a row, in parallel lanes; the remainder is added last.
#[inline(always)]
fn sum(length: usize, add: impl Fn(usize, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let whole = length - length % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum = add(start + lane, *sum);
        }
    }
    (whole..length).fold(total(lanes), |sum, i| add(i, sum))
}

/// Shift and scale of a row: each value becomes (x - shift) · scale.
#[inline(always)]
fn shift_and_scale<const FUSED: bool>(norm: NormKind, x: &[f32], epsilon: f32) -> (f32, f32) {
    let width = x.len() as f32;
    let mean = if norm == NormKind::Layer { sum(x.len(), |i, sum| sum + x[i]) / width } else { 0.0 };
    let square = sum(x.len(), |i, sum| fused::<FUSED>(x[i] - mean, x[i] - mean, sum)) / width;
    (mean, 1.0 / (square + epsilon).sqrt())
}

versions! {
    fn forward_part(norm: NormKind, x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(weight.len()).zip(y.chunks_exact_mut(weight.len())) {
            let (shift, scale) = shift_and_scale::<FUSED>(norm, x, epsilon);
            if bias.is_empty() {
                for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                    *y = (x - shift) * scale * w;
                }
            } else {
                for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                    *y = fused::<FUSED>((x - shift) * scale, *w, *b);
                }
            }
        }
    }
}

versions! {
    fn backward_part(
        norm: NormKind, x: &[f32], weight: &[f32], epsilon: f32, gradient: &[f32], dx: &mut [f32], dweight: &mut [f32], dbias: &mut [f32],
    ) {
        let width = weight.len();
        for ((x, g), dx) in x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let (shift, scale) = shift_and_scale::<FUSED>(norm, x, epsilon);
            // With n = (x - shift) · scale: dx = scale · (w g - mean(w g) - n · mean(w g n)). RMSNorm has neither the shift nor the first
            // mean.
            let along = sum(width, |i, sum| fused::<FUSED>(weight[i] * g[i], (x[i] - shift) * scale, sum)) / width as f32;
            let mean = if norm == NormKind::Layer { sum(width, |i, sum| fused::<FUSED>(weight[i], g[i], sum)) / width as f32 } else { 0.0 };
            for i in 0..width {
                let normal = (x[i] - shift) * scale;
                dx[i] = scale * (weight[i] * g[i] - mean - normal * along);
                dweight[i] = fused::<FUSED>(g[i], normal, dweight[i]);
                dbias[i] += g[i];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 37;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step) % 997) as f32 / 300.0 - 1.5).collect()
    }

    fn plain(norm: NormKind, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let width = weight.len();
        let mut y = Vec::new();
        for row in x.chunks(width) {
            let mean = if norm == NormKind::Layer { row.iter().sum::<f64>() / width as f64 } else { 0.0 };
            let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            y.extend(row.iter().zip(weight).zip(bias).map(|((x, w), b)| (x - mean) / (square + 1e-5).sqrt() * w + b));
        }
        y
    }

    fn doubles(x: &[f32]) -> Vec<f64> {
        x.iter().map(|x| f64::from(*x)).collect()
    }

    #[test]
    fn both_norms_and_their_gradients_are_exact() {
        let rows = ROWS + 3;
        let (x, weight, bias, g) = (numbers(rows * WIDTH, 7), numbers(WIDTH, 11), numbers(WIDTH, 13), numbers(rows * WIDTH, 17));
        for norm in [NormKind::Layer, NormKind::Rms] {
            let bias = if norm == NormKind::Layer { bias.clone() } else { Vec::new() };
            let shift = if bias.is_empty() { vec![0.0; WIDTH] } else { doubles(&bias) };
            let exact = plain(norm, &doubles(&x), &doubles(&weight), &shift);
            for (found, exact) in forward(norm, &x, &weight, &bias, 1e-5).iter().zip(exact) {
                assert!((f64::from(*found) - exact).abs() < 1e-5, "{norm:?}: {found} instead of {exact}");
            }
            let found = backward(norm, &x, &weight, 1e-5, &g);
            // Effect of a small step in one value on Σ g y, where only its row can change.
            let loss = |x: &[f64], weight: &[f64], g: &[f32]| -> f64 {
                plain(norm, x, weight, &shift).iter().zip(g).map(|(y, g)| y * f64::from(*g)).sum()
            };
            for place in (0..x.len()).step_by(41) {
                let row = place / WIDTH * WIDTH..(place / WIDTH + 1) * WIDTH;
                let moved = |by: f64| {
                    let mut x = doubles(&x[row.clone()]);
                    x[place - row.start] += by;
                    loss(&x, &doubles(&weight), &g[row.clone()])
                };
                let exact = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((f64::from(found.x[place]) - exact).abs() < 2e-5, "{norm:?} {place}: {} instead of {exact}", found.x[place]);
            }
            for place in 0..WIDTH {
                let moved = |by: f64| {
                    let mut weight = doubles(&weight);
                    weight[place] += by;
                    loss(&doubles(&x), &weight, &g)
                };
                let exact = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!(
                    (f64::from(found.weight[place]) - exact).abs() < 2e-4,
                    "{norm:?} {place}: {} instead of {exact}",
                    found.weight[place]
                );
                let exact: f64 = g.iter().skip(place).step_by(WIDTH).map(|g| f64::from(*g)).sum();
                assert!((f64::from(found.bias[place]) - exact).abs() < 1e-4);
            }
        }
    }
}
