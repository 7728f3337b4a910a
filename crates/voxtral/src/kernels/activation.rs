//! Activation functions: GELU (audio encoder), and the SiLU gate of SwiGLU (language model).

use super::buffer::room;
use super::cpu::versions;
use super::parallel;
use super::softmax::{erf, exp};

/// Values per task.
const PART: usize = 1 << 14;
/// Approximate number of operations per value.
const COST: usize = 16;

const HALF_ROOT: f32 = std::f32::consts::FRAC_1_SQRT_2;
/// 1 / √(2π)
const NORMAL: f32 = 0.398_942_3;

/// GELU: x · Φ(x), with the exact normal distribution instead of the tanh approximation.
#[must_use]
pub fn gelu(x: &[f32]) -> Vec<f32> {
    let mut y = room(x.len());
    parallel::each(COST * x.len(), y.chunks_mut(PART).zip(x.chunks(PART)), |(y, x)| gelu_part(x, y));
    y
}

/// Gradient of x, given that of [`gelu`].
#[must_use]
pub fn gelu_backward(x: &[f32], gradient: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), gradient.len());
    let mut dx = room(x.len());
    let parts = dx.chunks_mut(PART).zip(x.chunks(PART)).zip(gradient.chunks(PART));
    parallel::each(COST * x.len(), parts, |((dx, x), g)| gelu_backward_part(x, g, dx));
    dx
}

/// SwiGLU gate: silu(gate) · up, with silu(x) = x / (1 + e⁻ˣ).
#[must_use]
pub fn silu_mul(gate: &[f32], up: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), up.len());
    let mut y = room(gate.len());
    let parts = y.chunks_mut(PART).zip(gate.chunks(PART)).zip(up.chunks(PART));
    parallel::each(COST * gate.len(), parts, |((y, gate), up)| silu_mul_part(gate, up, y));
    y
}

/// Gradients of gate and up, given that of [`silu_mul`].
#[must_use]
pub fn silu_mul_backward(gate: &[f32], up: &[f32], gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
    assert!(gate.len() == up.len() && up.len() == gradient.len());
    let (mut dgate, mut dup) = (room(gate.len()), room(gate.len()));
    let outputs = dgate.chunks_mut(PART).zip(dup.chunks_mut(PART));
    let inputs = gate.chunks(PART).zip(up.chunks(PART)).zip(gradient.chunks(PART));
    parallel::each(COST * gate.len(), outputs.zip(inputs), |((dgate, dup), ((gate, up), g))| {
        silu_mul_backward_part(gate, up, g, dgate, dup);
    });
    (dgate, dup)
}

versions! {
    fn gelu_part(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = 0.5 * x * (1.0 + erf::<FUSED>(x * HALF_ROOT));
        }
    }
}

versions! {
    fn gelu_backward_part(x: &[f32], gradient: &[f32], dx: &mut [f32]) {
        for ((dx, x), g) in dx.iter_mut().zip(x).zip(gradient) {
            let below = 0.5 * (1.0 + erf::<FUSED>(x * HALF_ROOT));
            *dx = g * (below + x * NORMAL * exp::<FUSED>(-0.5 * x * x));
        }
    }
}

versions! {
    fn silu_mul_part(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate / (1.0 + exp::<FUSED>(-gate)) * up;
        }
    }
}

versions! {
    fn silu_mul_backward_part(gate: &[f32], up: &[f32], gradient: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((dgate, dup), gate), up), g) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(gradient) {
            let sigmoid = 1.0 / (1.0 + exp::<FUSED>(-gate));
            *dup = g * gate * sigmoid;
            *dgate = g * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More values than one part, near zero and far from it.
    fn inputs(step: usize) -> Vec<f32> {
        (0..PART + 777).map(|i| ((i * step) % 4001) as f32 / 200.0 - 10.0).collect()
    }

    /// The error function by its series, and by its limit for large arguments.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..150 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        if x.abs() > 4.5 { x.signum() } else { sum * std::f64::consts::FRAC_2_SQRT_PI }
    }

    fn plain_gelu(x: f64) -> f64 {
        0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
    }

    fn plain_silu(x: f64) -> f64 {
        x / (1.0 + (-x).exp())
    }

    fn slope(f: impl Fn(f64) -> f64, x: f64) -> f64 {
        (f(x + 1e-5) - f(x - 1e-5)) / 2e-5
    }

    #[track_caller]
    fn assert_close(found: &[f32], exact: impl Iterator<Item = f64>, within: f64) {
        for (i, (found, exact)) in found.iter().zip(exact).enumerate() {
            assert!((f64::from(*found) - exact).abs() <= within * (1.0 + exact.abs()), "number {i}: {found} instead of {exact}");
        }
    }

    #[test]
    fn gelu_and_its_gradient_are_exact() {
        let (x, g) = (inputs(7), inputs(11));
        assert_close(&gelu(&x), x.iter().map(|x| plain_gelu(f64::from(*x))), 1e-6);
        // Φ(x) + x φ(x): differences of the series would be rough far out.
        let slope = |x: f64| {
            0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)) + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
        };
        let exact = x.iter().zip(&g).map(|(x, g)| f64::from(*g) * slope(f64::from(*x)));
        assert_close(&gelu_backward(&x, &g), exact, 3e-6);
    }

    #[test]
    fn the_gate_and_its_gradients_are_exact() {
        let (gate, up, g) = (inputs(7), inputs(13), inputs(11));
        let pairs = || gate.iter().zip(&up).map(|(gate, up)| (f64::from(*gate), f64::from(*up)));
        assert_close(&silu_mul(&gate, &up), pairs().map(|(gate, up)| plain_silu(gate) * up), 1e-6);
        let (dgate, dup) = silu_mul_backward(&gate, &up, &g);
        assert_close(&dgate, pairs().zip(&g).map(|((gate, up), g)| f64::from(*g) * up * slope(plain_silu, gate)), 3e-6);
        assert_close(&dup, pairs().zip(&g).map(|((gate, _), g)| f64::from(*g) * plain_silu(gate)), 1e-6);
    }
}
