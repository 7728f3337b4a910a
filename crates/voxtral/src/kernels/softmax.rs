//! Row-wise softmax and its gradient, with vectorizable approximations of exp and erf.

use super::cpu::{fused, versions};

/// Partial sums of a reduction: the lanes of the widest vector register, on every CPU.
pub(super) const LANES: usize = 16;

/// eˣ to within 2 ulp; close to 0 below -87, and finite everywhere.
#[inline(always)]
pub(super) fn exp<const FUSED: bool>(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding 1.5 · 2²³ rounds to the nearest integer and leaves it in the lowest bits.
    let shifted = fused::<FUSED>(x, std::f32::consts::LOG2_E, 12_582_912.0);
    let whole = shifted - 12_582_912.0;
    // ln 2 in two parts; the first is short enough that its product with `whole` is exact.
    let rest = fused::<FUSED>(whole, 2.121_944_4e-4, fused::<FUSED>(whole, -0.693_359_4, x));
    let mut series = 1.398_2e-3;
    for coefficient in [8.333_452e-3, 4.166_579_5e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0] {
        series = fused::<FUSED>(series, rest, coefficient);
    }
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23)) * series
}

/// Error function, to within 4e-7.
#[inline(always)]
pub(super) fn erf<const FUSED: bool>(x: f32) -> f32 {
    let x = x.clamp(-3.832_507, 3.832_507);
    let square = x * x;
    let mut over = -2.726_142_3e-10;
    for coefficient in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2] {
        over = fused::<FUSED>(over, square, coefficient);
    }
    let mut under = -1.456_606_7e-5;
    for coefficient in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2] {
        under = fused::<FUSED>(under, square, coefficient);
    }
    x * over / under
}

/// Sum of the lanes, always in the same order.
#[inline(always)]
pub(super) fn total(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

versions! {
    /// Softmax of a row, in place. An empty row stays empty.
    pub fn softmax(row: &mut [f32]) {
        let mut greatest = [f32::NEG_INFINITY; LANES];
        let (body, tail) = row.as_chunks::<LANES>();
        for lanes in body {
            for (greatest, x) in greatest.iter_mut().zip(lanes) {
                *greatest = greatest.max(*x);
            }
        }
        let greatest = tail.iter().chain(&greatest).fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let mut sums = [0.0; LANES];
        let (body, tail) = row.as_chunks_mut::<LANES>();
        for lanes in body {
            for (sum, x) in sums.iter_mut().zip(lanes) {
                *x = exp::<FUSED>(*x - greatest);
                *sum += *x;
            }
        }
        let mut rest = 0.0;
        for x in tail {
            *x = exp::<FUSED>(*x - greatest);
            rest += *x;
        }
        let scale = 1.0 / (total(sums) + rest);
        for x in row {
            *x *= scale;
        }
    }
}

versions! {
    /// Softmax gradient: p · (g - Σ p g) · scale for weights p and their gradient g, written over `gradient`.
    pub fn softmax_backward(weights: &[f32], gradient: &mut [f32], scale: f32) {
        let mut sums = [0.0; LANES];
        let ((p_body, p_tail), (g_body, g_tail)) = (weights.as_chunks::<LANES>(), gradient.as_chunks::<LANES>());
        for (p, g) in p_body.iter().zip(g_body) {
            for ((sum, p), g) in sums.iter_mut().zip(p).zip(g) {
                *sum = fused::<FUSED>(*p, *g, *sum);
            }
        }
        let mean = p_tail.iter().zip(g_tail).fold(total(sums), |sum, (p, g)| fused::<FUSED>(*p, *g, sum));
        for (p, g) in weights.iter().zip(gradient) {
            *g = *p * (*g - mean) * scale;
        }
    }
}

versions! {
    /// `sum += row · scale`, elementwise (axpy).
    pub fn add_scaled(sum: &mut [f32], row: &[f32], scale: f32) {
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum = fused::<FUSED>(*x, scale, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            for y in [exp::<true>(x), exp::<false>(x)] {
                let exact = f64::from(x).exp();
                assert!((f64::from(y) / exact - 1.0).abs() < 3e-7, "exp({x}) = {y}");
            }
        }
        assert!(exp::<true>(-1e9) < 1e-37 && exp::<true>(f32::NEG_INFINITY) < 1e-37 && exp::<true>(1e9).is_finite());
    }

    #[test]
    fn erf_is_close_to_its_series() {
        for i in -450..=450 {
            let x = f64::from(i) / 100.0;
            // Σ (-1)ⁿ x²ⁿ⁺¹ / (n! (2n + 1)) · 2 / √π
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            let exact = sum * std::f64::consts::FRAC_2_SQRT_PI;
            let found = f64::from(erf::<true>(x as f32));
            assert!((found - exact).abs() < 4e-7, "erf({x}) = {found} instead of {exact}");
        }
    }

    #[test]
    fn softmax_sums_to_one_and_bears_hidden_scores() {
        for length in [1, 7, 16, 33, 1500] {
            let row: Vec<f32> = (0..length).map(|i| ((i * 37) % 101) as f32 / 7.0 - 5.0).collect();
            let exact: Vec<f64> = row.iter().map(|x| f64::from(*x).exp()).collect();
            let sum: f64 = exact.iter().sum();
            let mut found = row.clone();
            softmax(&mut found);
            for (found, exact) in found.iter().zip(&exact) {
                assert!((f64::from(*found) - exact / sum).abs() < 1e-6 * exact / sum + 1e-9);
            }
        }
        softmax(&mut []);
    }
}
