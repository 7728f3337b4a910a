//! SIMD for x86: AVX-512 with or without BF16 dot products, and AVX2 with FMA.

use super::Simd;
use std::arch::x86_64::*;

/// AVX-512; with `PAIRS` also AVX-512 BF16.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const PAIRS: bool>(pub(super) ());

impl<const P: bool> Simd for Avx512<P> {
    type Vector = __m512;
    const COUNT: usize = 16;
    const PAIRS: bool = P;

    // SAFETY, for all below: a value of this type is created only if the CPU has the instructions.

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn read(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn write(self, x: __m512, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn power(self, shifted: __m512) -> __m512 {
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(127 << 23)))
        }
    }
    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(x) }
    }
    #[inline(always)]
    fn greatest(self, x: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(x) }
    }
    #[inline(always)]
    fn transpose(self, block: &mut [__m512]) {
        if let Ok(rows) = block.try_into() {
            unsafe { transpose(rows) }
        }
    }
    #[inline(always)]
    fn add_product(self, sum: __m512, a: __m512, b: __m512) -> __m512 {
        if !P {
            return self.mul_add(a, b, sum);
        }
        unsafe {
            let pairs = |bits: __m512| std::mem::transmute::<__m512, __m512bh>(bits);
            _mm512_dpbf16_ps(sum, pairs(a), pairs(b))
        }
    }
    #[inline(always)]
    fn narrow(self, first: __m512, second: __m512) -> __m512 {
        if !P {
            return first;
        }
        unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(second, first)) }
    }
    #[inline(always)]
    fn pair(self, first: __m512, second: __m512) -> __m512 {
        if !P {
            return first;
        }
        unsafe {
            let halves = |x: __m512| _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)));
            _mm512_castsi512_ps(_mm512_or_si512(halves(first), _mm512_slli_epi32::<16>(halves(second))))
        }
    }
}

/// Transposes a 16 × 16 block: pairs of rows, then groups of four, then quarters of vectors.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(rows: &mut [__m512; 16]) {
    let mut fours = [_mm512_setzero_ps(); 16];
    for group in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| rows[4 * group + i]);
        let (low, high) = ([_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d)], [_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)]);
        // Quarter q of vector j holds column 4 q + j of four rows.
        fours[4 * group] = _mm512_shuffle_ps::<0x44>(low[0], low[1]);
        fours[4 * group + 1] = _mm512_shuffle_ps::<0xee>(low[0], low[1]);
        fours[4 * group + 2] = _mm512_shuffle_ps::<0x44>(high[0], high[1]);
        fours[4 * group + 3] = _mm512_shuffle_ps::<0xee>(high[0], high[1]);
    }
    for j in 0..4 {
        let even = [_mm512_shuffle_f32x4::<0x88>(fours[j], fours[4 + j]), _mm512_shuffle_f32x4::<0x88>(fours[8 + j], fours[12 + j])];
        let odd = [_mm512_shuffle_f32x4::<0xdd>(fours[j], fours[4 + j]), _mm512_shuffle_f32x4::<0xdd>(fours[8 + j], fours[12 + j])];
        rows[j] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
        rows[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
        rows[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
        rows[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
    }
}

/// AVX2 with fused multiply-add (FMA).
#[derive(Clone, Copy)]
pub(super) struct Avx2(pub(super) ());

impl Simd for Avx2 {
    type Vector = __m256;
    const COUNT: usize = 8;
    const PAIRS: bool = false;

    // SAFETY, for all below: a value of this type is created only if the CPU has the instructions.

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn read(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn write(self, x: __m256, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, x) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn power(self, shifted: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
            _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23)))
        }
    }
    #[inline(always)]
    fn sum(self, x: __m256) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(x, &mut lanes);
        let four = [0, 1, 2, 3].map(|i| lanes[i] + lanes[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    fn greatest(self, x: __m256) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(x, &mut lanes);
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn add_product(self, sum: __m256, a: __m256, b: __m256) -> __m256 {
        self.mul_add(a, b, sum)
    }
    #[inline(always)]
    fn narrow(self, first: __m256, _: __m256) -> __m256 {
        first
    }
    #[inline(always)]
    fn pair(self, first: __m256, _: __m256) -> __m256 {
        first
    }
}
