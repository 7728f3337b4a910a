//! SIMD dispatch: kernels are written once for any vector width ([`Simd`]) and run with the best instruction set of the CPU.
//!
//! A value of a type that implements [`Simd`] proves that the CPU supports its instructions, because only [`run`] creates such values.
//! Kernels multiply *units* of 32 bits: one f32 or, with [`Simd::PAIRS`], a pair of bf16 whose two products are summed in f32.

use super::cpu::fused;

/// Vector operations of one instruction set.
pub(super) trait Simd: Copy + Send + Sync {
    /// [`Simd::COUNT`] f32 values in a register.
    type Vector: Copy;
    /// Vector width in f32 lanes.
    const COUNT: usize;
    /// Whether a unit is a pair of bf16.
    const PAIRS: bool;

    fn splat(self, x: f32) -> Self::Vector;
    /// [`Simd::COUNT`] floats must be readable at `from`.
    unsafe fn read(self, from: *const f32) -> Self::Vector;
    /// [`Simd::COUNT`] floats must be writable at `to`.
    unsafe fn write(self, x: Self::Vector, to: *mut f32);
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a b + c
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// Lane-wise maximum; `b` where either is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// 2ⁿ from a value of the form 1.5 · 2²³ + n.
    fn power(self, shifted: Self::Vector) -> Self::Vector;
    /// Horizontal sum of all lanes.
    fn sum(self, x: Self::Vector) -> f32;
    /// Horizontal maximum of all lanes.
    fn greatest(self, x: Self::Vector) -> f32;
    /// sum + a b, where a and b hold units.
    fn add_product(self, sum: Self::Vector, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Rounds two consecutive vectors of f32 to one vector of bf16 pairs.
    fn narrow(self, first: Self::Vector, second: Self::Vector) -> Self::Vector;
    /// bf16 pairs with first halves from one vector and second halves from another.
    fn pair(self, first: Self::Vector, second: Self::Vector) -> Self::Vector;

    /// Transposes a square block of [`Simd::COUNT`] vectors.
    #[inline(always)]
    fn transpose(self, block: &mut [Self::Vector]) {
        let mut rows = [[0.0; 16]; 16];
        for (row, vector) in rows.iter_mut().zip(&*block) {
            self.store(*vector, row);
        }
        for (column, vector) in block.iter_mut().enumerate() {
            *vector = self.load(&rows.map(|row| row[column]));
        }
    }

    /// Loads a vector from the start of a slice.
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::Vector {
        assert!(from.len() >= Self::COUNT);
        // SAFETY: the slice is long enough, as just asserted.
        unsafe { self.read(from.as_ptr()) }
    }

    /// Stores a vector to the start of a slice.
    #[inline(always)]
    fn store(self, x: Self::Vector, to: &mut [f32]) {
        assert!(to.len() >= Self::COUNT);
        // SAFETY: the slice is long enough, as just asserted.
        unsafe { self.write(x, to.as_mut_ptr()) }
    }

    /// 2ˣ for x up to 127, to within 2 ulp; 2⁻¹²⁶ for all x below -126.
    #[inline(always)]
    #[allow(clippy::approx_constant, reason = "fitted together with the other coefficients; not exactly ln 2")]
    fn exp2(self, x: Self::Vector) -> Self::Vector {
        let x = self.max(self.splat(-126.0), x);
        // Adding 1.5 · 2²³ rounds to the nearest integer and leaves it in the lowest bits.
        let magic = self.splat(12_582_912.0);
        let shifted = self.add(x, magic);
        let rest = self.sub(x, self.sub(shifted, magic));
        let mut series = self.splat(1.326_472_4e-3);
        for coefficient in [9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
            series = self.mul_add(series, rest, self.splat(coefficient));
        }
        self.mul(self.power(shifted), series)
    }
}

/// An operation generic over the instruction set. `R` rows of `V` vectors are the accumulators that fit into the registers.
pub(super) trait SimdOp {
    type Output;
    fn run<L: Simd, const R: usize, const V: usize>(self, lanes: L) -> Self::Output;
}

/// Instruction set level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimdLevel {
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Wide,
    #[cfg(target_arch = "x86_64")]
    Middle,
    Plain,
}

impl SimdLevel {
    /// Best level of this CPU; bf16 pairs only if `pairs` allows them.
    pub(super) fn best(pairs: bool) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use super::cpu;
            if pairs && cpu::has_bf16_dot() {
                return Self::Avx512Bf16;
            }
            if cpu::has_avx512() {
                return Self::Wide;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Middle;
            }
        }
        let _ = pairs;
        Self::Plain
    }

    /// Whether operands of products are rounded to bf16.
    #[cfg(test)]
    pub(super) fn is_rounding(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512Bf16;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// All levels of this CPU.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let best = match Self::best(true) {
            Self::Avx512Bf16 => vec![Self::Avx512Bf16, Self::Wide, Self::Middle, Self::Plain],
            Self::Wide => vec![Self::Wide, Self::Middle, Self::Plain],
            Self::Middle => vec![Self::Middle, Self::Plain],
            Self::Plain => vec![Self::Plain],
        };
        #[cfg(not(target_arch = "x86_64"))]
        let best = vec![Self::Plain];
        best
    }
}

/// Runs an operation at a level.
///
/// # Panics
/// If the CPU does not support the level.
pub(super) fn run<W: SimdOp>(kind: SimdLevel, work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
        fn wide_pairs<W: SimdOp>(work: W) -> W::Output {
            work.run::<_, 6, 4>(x86::Avx512::<true>(()))
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn wide<W: SimdOp>(work: W) -> W::Output {
            work.run::<_, 6, 4>(x86::Avx512::<false>(()))
        }
        #[target_feature(enable = "avx2,fma")]
        fn middle<W: SimdOp>(work: W) -> W::Output {
            work.run::<_, 6, 2>(x86::Avx2(()))
        }
        // The level is checked again. This costs almost nothing, and makes these calls sound whoever created the level.
        match kind {
            SimdLevel::Avx512Bf16 => {
                assert!(super::cpu::has_bf16_dot());
                // SAFETY: these CPU features have just been detected.
                return unsafe { wide_pairs(work) };
            }
            SimdLevel::Wide => {
                assert!(super::cpu::has_avx512());
                // SAFETY: these CPU features have just been detected.
                return unsafe { wide(work) };
            }
            SimdLevel::Middle => {
                assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
                // SAFETY: these CPU features have just been detected.
                return unsafe { middle(work) };
            }
            SimdLevel::Plain => {}
        }
    }
    let _ = kind;
    work.run::<_, 6, 2>(ScalarSimd(()))
}

/// Arrays of four floats: the width of NEON registers, and portable to every CPU.
#[derive(Clone, Copy)]
pub(super) struct ScalarSimd(());

impl ScalarSimd {
    #[inline(always)]
    fn each(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
        [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
    }
}

impl Simd for ScalarSimd {
    type Vector = [f32; 4];
    const COUNT: usize = 4;
    const PAIRS: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn read(self, from: *const f32) -> [f32; 4] {
        // SAFETY: guaranteed by the caller.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn write(self, x: [f32; 4], to: *mut f32) {
        // SAFETY: guaranteed by the caller.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(x) }
    }
    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        Self::each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        Self::each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        Self::each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        const FUSED: bool = cfg!(target_arch = "aarch64");
        [0, 1, 2, 3].map(|i| fused::<FUSED>(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        Self::each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn power(self, shifted: [f32; 4]) -> [f32; 4] {
        shifted.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(127 << 23)))
    }
    #[inline(always)]
    fn sum(self, x: [f32; 4]) -> f32 {
        (x[0] + x[2]) + (x[1] + x[3])
    }
    #[inline(always)]
    fn greatest(self, x: [f32; 4]) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn add_product(self, sum: [f32; 4], a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        self.mul_add(a, b, sum)
    }
    #[inline(always)]
    fn narrow(self, first: [f32; 4], _: [f32; 4]) -> [f32; 4] {
        first
    }
    #[inline(always)]
    fn pair(self, first: [f32; 4], _: [f32; 4]) -> [f32; 4] {
        first
    }
}

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests {
    use super::*;

    struct Powers(f32);

    impl SimdOp for Powers {
        type Output = f32;
        #[inline(always)]
        fn run<L: Simd, const R: usize, const V: usize>(self, lanes: L) -> f32 {
            let mut found = [0.0; 16];
            lanes.store(lanes.exp2(lanes.splat(self.0)), &mut found);
            found[0]
        }
    }

    #[test]
    fn powers_of_two_are_close_everywhere() {
        for kind in SimdLevel::all() {
            for i in -12_600..12_700 {
                let x = i as f32 / 100.0;
                let (found, exact) = (run(kind, Powers(x)), f64::from(x).exp2());
                assert!((f64::from(found) / exact - 1.0).abs() < 3e-7, "{kind:?}: 2^{x} = {found}");
            }
            assert!(run(kind, Powers(f32::NEG_INFINITY)) < 1e-37 && run(kind, Powers(f32::NAN)).is_nan(), "{kind:?}");
        }
    }
}
