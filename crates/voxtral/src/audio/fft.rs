//! FFT: power spectra of 400-sample frames, [`LANES`] frames at a time (SIMD across frames).
//!
//! A vector register holds the same sample of [`LANES`] frames, so every operation processes all of them and no shuffles are needed. The
//! 400 real samples of a frame are packed into 200 complex points. Their transform is a prime-factor FFT (Good–Thomas) of 8 × 25 points,
//! which needs no twiddle factors because 8 and 25 are coprime; the 25 points are split into 5 × 5 (Cooley–Tukey). There is no fused
//! multiply-add, so every CPU computes the same bits, whatever its vector width.
//!
//! `black_box` hides a loop counter from the compiler. Otherwise it would vectorize along the loop, with gathers, instead of along the
//! contiguous lanes.

use std::array::from_fn;
use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::hint::black_box;
use std::ops::{Add, Mul, Sub};

use super::log_mel::{BINS, HOP, WINDOW};

/// Frames per batch: the f64 lanes of a 512-bit register.
pub(super) const LANES: usize = 8;
/// Samples covered by [`LANES`] frames.
pub(super) const SPAN: usize = (LANES - 1) * HOP + WINDOW;

/// Complex points per frame.
const HALF: usize = WINDOW / 2;
/// The coprime factors of [`HALF`].
const ROWS: usize = 8;
const COLUMNS: usize = 25;

/// One value of each frame.
#[derive(Clone, Copy)]
struct FftLanes([f64; LANES]);

#[derive(Clone, Copy)]
struct Complex {
    re: FftLanes,
    im: FftLanes,
}

/// Precomputed tables of the transform, in order of use.
#[derive(Clone, Debug)]
pub(super) struct Spectrum {
    /// Input points, eight for each of the 25 DFTs of size 8.
    points: [[Point; ROWS]; COLUMNS],
    /// Twiddle factors `exp(-2πi n/25)` between the two stages of the 25-point DFT, at `[5 row + column]` with n = row · column.
    inner: [(f64, f64); COLUMNS],
    /// For each bin k up to the middle: the places of k and 200 - k, and the twiddle factor `exp(-2πi k/400)` that combines the spectra of
    /// the even and odd samples.
    outer: [(Place, Place, (f64, f64)); HALF / 2 + 1],
}

/// Row and column of a point in [`Scratch::grid`].
type Place = (usize, usize);

/// Two consecutive real samples packed into one complex number.
#[derive(Clone, Copy, Debug)]
struct Point {
    /// Row of the first sample in [`Scratch::across`]; the second sample is in the next row.
    row: usize,
    frame: usize,
    /// Hann window at both samples, halved: unpacking the real transform would otherwise need a division by two.
    window: (f64, f64),
}

/// Reusable work buffers.
pub(super) struct Scratch {
    /// Input, transposed so that one load reads a sample of all frames: sample n of frame f is at `[n % HOP][n / HOP + f]`.
    across: [[f32; LANES + WINDOW.div_ceil(HOP) - 1]; HOP],
    /// The 8 × 25 points; after the transform, bin k is at `[k % 8][k % 25]`.
    grid: [[Complex; COLUMNS]; ROWS],
    power: [[f32; LANES]; BINS],
}

impl Scratch {
    pub(super) fn new() -> Self {
        let across = [[0.0; LANES + WINDOW.div_ceil(HOP) - 1]; HOP];
        Self { across, grid: [[Complex::ZERO; COLUMNS]; ROWS], power: [[0.0; LANES]; BINS] }
    }
}

impl Spectrum {
    pub(super) fn new() -> Self {
        let angle = |turn: f64| ((2.0 * PI * turn).cos(), -(2.0 * PI * turn).sin());
        let window = |n: usize| 0.25 - 0.25 * (2.0 * PI * n as f64 / WINDOW as f64).cos();
        let point = |row, column| {
            let n = 2 * ((COLUMNS * row + ROWS * column) % HALF);
            Point { row: n % HOP, frame: n / HOP, window: (window(n), window(n + 1)) }
        };
        let place = |k: usize| (k % ROWS, k % COLUMNS);
        Self {
            points: from_fn(|column| from_fn(|row| point(row, column))),
            inner: from_fn(|i| angle((i / 5 * (i % 5)) as f64 / COLUMNS as f64)),
            outer: from_fn(|k| (place(k), place((HALF - k) % HALF), angle(k as f64 / WINDOW as f64))),
        }
    }

    /// Computes the power of every bin for the frames that start at 0, [`HOP`], 2 · [`HOP`] … of `input`; the result is in `scratch`.
    #[inline(always)]
    pub(super) fn power<'a>(&self, input: &[f32; SPAN], scratch: &'a mut Scratch) -> &'a [[f32; LANES]; BINS] {
        let Scratch { across, grid, power } = scratch;
        for (frame, samples) in input.chunks(HOP).enumerate() {
            let (rows, samples) = (across.as_chunks_mut::<8>().0, samples.as_chunks::<8>().0);
            for (rows, samples) in rows.iter_mut().zip(samples) {
                let samples = black_box(samples);
                for (row, sample) in rows.iter_mut().zip(samples) {
                    row[frame] = *sample;
                }
            }
        }
        let sample = |row: usize, frame: usize, window: f64| FftLanes(each(0.0, |lane| f64::from(across[row][frame + lane]) * window));
        for (column, points) in self.points.iter().enumerate() {
            let values = dft8(each(Complex::ZERO, |row| {
                let Point { row, frame, window } = points[row];
                Complex { re: sample(row, frame, window.0), im: sample(row + 1, frame, window.1) }
            }));
            for (row, value) in grid.iter_mut().zip(values) {
                row[column] = value;
            }
        }
        for row in grid.iter_mut() {
            self.dft25(row);
        }
        for (k, (one, other, angle)) in self.outer.iter().enumerate() {
            let (one, other) = (grid[one.0][one.1], grid[other.0][other.1]);
            let even = Complex { re: one.re + other.re, im: one.im - other.im };
            let odd = Complex { re: one.im + other.im, im: other.re - one.re } * *angle;
            power[k] = (even + odd).norm();
            power[HALF - k] = (even - odd).norm();
        }
        power
    }

    /// 25-point DFT in place, with the output in natural order.
    #[inline(always)]
    fn dft25(&self, points: &mut [Complex; COLUMNS]) {
        let mut columns = [[Complex::ZERO; 5]; 5];
        for (column, bins) in columns.iter_mut().enumerate() {
            let column = black_box(column);
            *bins = dft5([points[column], points[5 + column], points[10 + column], points[15 + column], points[20 + column]]);
            for (bin, angle) in bins.iter_mut().zip(&self.inner[5 * column..]) {
                *bin = *bin * *angle;
            }
        }
        for k in (0..5).map(black_box) {
            let bins = dft5([columns[0][k], columns[1][k], columns[2][k], columns[3][k], columns[4][k]]);
            for (row, bin) in bins.into_iter().enumerate() {
                points[5 * row + k] = bin;
            }
        }
    }
}

/// Work with spectra that [`widest`] compiles several times.
pub(super) trait Vectorized {
    /// Does the work; to be marked `#[inline(always)]`.
    fn run(self);
}

/// Runs the work compiled for the widest vector registers of this CPU. The width does not change the result.
pub(super) fn widest<W: Vectorized>(work: W) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
        fn avx512<W: Vectorized>(work: W) {
            work.run();
        }
        #[target_feature(enable = "avx2")]
        fn avx2<W: Vectorized>(work: W) {
            work.run();
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the CPU features this is compiled for have just been detected.
            #[expect(unsafe_code, reason = "twice the speed")]
            return unsafe { avx512(work) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU features this is compiled for have just been detected.
            #[expect(unsafe_code, reason = "twice the speed")]
            return unsafe { avx2(work) };
        }
    }
    work.run();
}

/// `[value(0), value(1) …]`: like [`std::array::from_fn`], but always inlined. A function call would be compiled for the narrowest
/// registers.
#[inline(always)]
pub(super) fn each<T: Copy, const N: usize>(initial: T, value: impl Fn(usize) -> T) -> [T; N] {
    let mut all = [initial; N];
    for (n, place) in all.iter_mut().enumerate() {
        *place = value(n);
    }
    all
}

#[inline(always)]
fn dft4([a, b, c, d]: [Complex; 4]) -> [Complex; 4] {
    let (even, odd) = ((a + c, b + d), (a - c, (b - d).turned()));
    [even.0 + even.1, odd.0 + odd.1, even.0 - even.1, odd.0 - odd.1]
}

#[inline(always)]
fn dft8([a, b, c, d, e, f, g, h]: [Complex; 8]) -> [Complex; 8] {
    let even = dft4([a, c, e, g]);
    let [o0, o1, o2, o3] = dft4([b, d, f, h]);
    let odd = [o0, (o1 + o1.turned()).scaled(FRAC_1_SQRT_2), o2.turned(), (o3.turned() - o3).scaled(FRAC_1_SQRT_2)];
    each(Complex::ZERO, |k| if k < 4 { even[k] + odd[k] } else { even[k - 4] - odd[k - 4] })
}

#[inline(always)]
fn dft5([a, b, c, d, e]: [Complex; 5]) -> [Complex; 5] {
    // Cosine and sine of 2π/5 and 4π/5.
    const C1: f64 = 0.309_016_994_374_947_45;
    const C2: f64 = -0.809_016_994_374_947_5;
    const S1: f64 = 0.951_056_516_295_153_5;
    const S2: f64 = 0.587_785_252_292_473_1;
    let (be, cd) = (b + e, c + d);
    let (b_e, c_d) = ((b - e).turned(), (c - d).turned());
    let (near, far) = (a + be.scaled(C1) + cd.scaled(C2), a + be.scaled(C2) + cd.scaled(C1));
    let (turn, half) = (b_e.scaled(S1) + c_d.scaled(S2), b_e.scaled(S2) - c_d.scaled(S1));
    [a + be + cd, near + turn, far + half, far - half, near - turn]
}

impl Complex {
    const ZERO: Self = Self { re: FftLanes([0.0; LANES]), im: FftLanes([0.0; LANES]) };

    /// Multiplies by -i.
    #[inline(always)]
    fn turned(self) -> Self {
        Self { re: self.im, im: FftLanes([0.0; LANES]) - self.re }
    }

    #[inline(always)]
    fn scaled(self, by: f64) -> Self {
        Self { re: self.re * by, im: self.im * by }
    }

    #[inline(always)]
    fn norm(self) -> [f32; LANES] {
        each(0.0, |lane| (self.re.0[lane] * self.re.0[lane] + self.im.0[lane] * self.im.0[lane]) as f32)
    }
}

impl Add for Complex {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self { re: self.re + other.re, im: self.im + other.im }
    }
}

impl Sub for Complex {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self { re: self.re - other.re, im: self.im - other.im }
    }
}

impl Mul<(f64, f64)> for Complex {
    type Output = Self;

    #[inline(always)]
    fn mul(self, (re, im): (f64, f64)) -> Self {
        Self { re: self.re * re - self.im * im, im: self.re * im + self.im * re }
    }
}

impl Add for FftLanes {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(each(0.0, |lane| self.0[lane] + other.0[lane]))
    }
}

impl Sub for FftLanes {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(each(0.0, |lane| self.0[lane] - other.0[lane]))
    }
}

impl Mul<f64> for FftLanes {
    type Output = Self;

    #[inline(always)]
    fn mul(self, by: f64) -> Self {
        Self(each(0.0, |lane| self.0[lane] * by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bin_is_the_sum_of_the_definition() {
        let input: [f32; SPAN] = each(0.0, |n| ((n * n) as f32 * 0.37).sin() * 0.5 + (n % 7) as f32 * 0.05);
        let mut scratch = Scratch::new();
        let power = Spectrum::new().power(&input, &mut scratch);
        for frame in 0..LANES {
            for (k, found) in power.iter().enumerate() {
                let (mut re, mut im) = (0.0, 0.0);
                for n in 0..WINDOW {
                    let window = 0.5 - 0.5 * (2.0 * PI * n as f64 / WINDOW as f64).cos();
                    let (sin, cos) = (2.0 * PI * (n * k % WINDOW) as f64 / WINDOW as f64).sin_cos();
                    let value = f64::from(input[frame * HOP + n]) * window;
                    (re, im) = (re + value * cos, im - value * sin);
                }
                let expected = re * re + im * im;
                assert!(
                    (f64::from(found[frame]) - expected).abs() <= 1e-7 * expected + 1e-24,
                    "[{frame}, {k}]: {} {expected}",
                    found[frame]
                );
            }
        }
    }
}
