//! Eight rows with AVX2. Its product of bytes saturates, so both sides of int8 are widened to 16 bits, and ahead: in the tile, it
//! would be half of the work. Products of nibbles and bytes do not.

use super::{Int8, Nibbles};
use crate::simd::Avx2;
#[allow(clippy::wildcard_imports, reason = "intrinsics carry their module in their names")]
use std::arch::x86_64::*;

/// Wraps intrinsics. SAFETY of every use in this file: `self` proves that the instructions exist, and a slice's
/// length is checked before its pointer is read or written.
macro_rules! intrinsics {
    ($e:expr) => {{
        #[allow(clippy::undocumented_unsafe_blocks, reason = "documented on the macro")]
        unsafe {
            $e
        }
    }};
}

impl Int8 for Avx2 {
    type F32s = Self;
    type Bytes = __m256i;
    type Sums = __m256i;
    const PARTS: usize = 2;

    #[inline(always)]
    fn f32s(self) -> Self {
        self
    }
    #[inline(always)]
    fn load(self, x: &[u8]) -> __m256i {
        let x = &x[..32];
        intrinsics!(_mm256_loadu_si256(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn store(self, x: __m256i, out: &mut [u8]) {
        let out = &mut out[..32];
        intrinsics!(_mm256_storeu_si256(out.as_mut_ptr().cast(), x));
    }
    #[inline(always)]
    fn parts(self, x: __m256i) -> [__m256i; 2] {
        intrinsics!([_mm256_and_si256(x, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16::<8>(x)])
    }
    #[inline(always)]
    fn splat(self, x: i32) -> __m256i {
        intrinsics!(_mm256_set1_epi32(x))
    }
    #[inline(always)]
    fn dot(self, sums: __m256i, w: __m256i, a: i32) -> __m256i {
        intrinsics!(_mm256_add_epi32(sums, _mm256_madd_epi16(w, _mm256_set1_epi32(a))))
    }
    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        intrinsics!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn to_f32(self, sums: __m256i) -> __m256 {
        intrinsics!(_mm256_cvtepi32_ps(sums))
    }
    #[inline(always)]
    fn store_codes(self, x: __m256, out: &mut [i8]) {
        let out = &mut out[..16];
        intrinsics!({
            let x = _mm256_cvtps_epi32(x);
            let x = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            // Elements 1 and 2 of each four change places.
            let x = _mm_shufflehi_epi16::<0b11_01_10_00>(_mm_shufflelo_epi16::<0b11_01_10_00>(x));
            _mm_storeu_si128(out.as_mut_ptr().cast(), x);
        });
    }
}

impl Nibbles for Avx2 {
    #[inline(always)]
    fn step_and_zero(self, x: &[u8]) -> [__m256i; 2] {
        let x = i64::from_le_bytes([x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]]);
        intrinsics!({
            let (first, four) = (_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), _mm256_set1_epi32(0x0101_0101));
            // Every byte of a row's 32 bits: the row's.
            let of_row = _mm256_shuffle_epi8(_mm256_set1_epi64x(x), _mm256_mullo_epi32(first, four));
            let half = _mm256_set1_epi16(15);
            [_mm256_and_si256(of_row, half), _mm256_and_si256(_mm256_srli_epi16::<4>(of_row), half)]
        })
    }
    #[inline(always)]
    fn offsets(self, one: [__m256i; 2], other: [__m256i; 2]) -> __m256i {
        intrinsics!({
            let [one, other] = [_mm256_mullo_epi16(one[0], one[1]), _mm256_mullo_epi16(other[0], other[1])];
            _mm256_blend_epi16::<0b1010_1010>(one, other)
        })
    }
    #[inline(always)]
    fn nibbles(self, x: __m256i) -> [__m256i; 2] {
        intrinsics!({
            let half = _mm256_set1_epi8(15);
            [_mm256_and_si256(x, half), _mm256_and_si256(_mm256_srli_epi16::<4>(x), half)]
        })
    }
    #[inline(always)]
    fn multiply(self, w: __m256i, a: i32) -> __m256i {
        intrinsics!(_mm256_maddubs_epi16(w, _mm256_set1_epi32(a)))
    }
    #[inline(always)]
    fn add_shorts(self, a: __m256i, b: __m256i) -> __m256i {
        intrinsics!(_mm256_add_epi16(a, b))
    }
    #[inline(always)]
    fn dot_shorts(self, sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
        intrinsics!(_mm256_add_epi32(sums, _mm256_madd_epi16(a, b)))
    }
    #[inline(always)]
    fn store_bytes(self, x: __m256, out: &mut [i8]) {
        let out = &mut out[..8];
        intrinsics!({
            let x = _mm256_cvtps_epi32(x);
            let x = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            _mm_storel_epi64(out.as_mut_ptr().cast(), _mm_packs_epi16(x, x));
        });
    }
}
