//! Eight lanes of AVX2, with FMA and F16C.

use super::{Arithmetic, Part, Simd, UPPER, outline};
use half::{bf16, f16};
#[allow(clippy::wildcard_imports, reason = "intrinsics carry their module in their names")]
use std::arch::x86_64::*;

/// The proof that AVX2, FMA and F16C are present.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine must have AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Wraps intrinsics. SAFETY of every use in this file: a value of the type proves that the instructions exist, and a slice's
/// length is checked before its pointer is read or written.
macro_rules! intrinsics {
    ($e:expr) => {{
        #[allow(clippy::undocumented_unsafe_blocks, reason = "documented on the macro")]
        unsafe {
            $e
        }
    }};
}

impl Arithmetic for Avx2 {
    type F32 = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        intrinsics!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        intrinsics!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        intrinsics!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        intrinsics!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        intrinsics!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsics!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        intrinsics!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        intrinsics!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        intrinsics!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }
    #[inline(always)]
    fn copy_sign(self, magnitude: __m256, sign: __m256) -> __m256 {
        intrinsics!(_mm256_or_ps(magnitude, _mm256_and_ps(_mm256_set1_ps(-0.0), sign)))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        intrinsics!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, then: __m256, otherwise: __m256) -> __m256 {
        intrinsics!(_mm256_blendv_ps(otherwise, then, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }
    #[inline(always)]
    fn scale_pow2(self, a: __m256, n: __m256) -> __m256 {
        intrinsics!({
            // In two factors, since 2^n itself may not be a normal number.
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let pow2 =
                |e| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(e, _mm256_set1_epi32(127))));
            _mm256_mul_ps(_mm256_mul_ps(a, pow2(half)), pow2(_mm256_sub_epi32(n, half)))
        })
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m256 {
        let x = &x[..8];
        intrinsics!(_mm256_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: __m256, out: &mut [f32]) {
        let out = &mut out[..8];
        intrinsics!(_mm256_storeu_ps(out.as_mut_ptr(), v));
    }
}

impl Simd for Avx2 {
    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> __m256 {
        let x = &x[..8];
        intrinsics!(_mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> __m256 {
        let x = &x[..8];
        intrinsics!({
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    fn transpose(self, mut v: [__m256; 16]) -> [__m256; 16] {
        intrinsics!({
            // Pairs of rows, then quadruples, lane by lane within 128 bits; then the halves.
            for i in (0..8).step_by(2) {
                (v[i], v[i + 1]) = (_mm256_unpacklo_ps(v[i], v[i + 1]), _mm256_unpackhi_ps(v[i], v[i + 1]));
            }
            let mut quads = v;
            for i in (0..8).step_by(4) {
                for h in 0..2 {
                    quads[i + 2 * h] = _mm256_shuffle_ps::<0x44>(v[i + h], v[i + 2 + h]);
                    quads[i + 2 * h + 1] = _mm256_shuffle_ps::<0xEE>(v[i + h], v[i + 2 + h]);
                }
            }
            for c in 0..4 {
                v[c] = _mm256_permute2f128_ps::<0x20>(quads[c], quads[4 + c]);
                v[4 + c] = _mm256_permute2f128_ps::<0x31>(quads[c], quads[4 + c]);
            }
            v
        })
    }
    #[inline(always)]
    fn store_halves(self, v: __m256, low: &mut [f32], high: &mut [f32]) {
        let (low, high) = (&mut low[..4], &mut high[..4]);
        intrinsics!({
            _mm_storeu_ps(low.as_mut_ptr(), _mm256_castps256_ps128(v));
            _mm_storeu_ps(high.as_mut_ptr(), _mm256_extractf128_ps::<1>(v));
        });
    }
    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        intrinsics!({
            // Per 128 bits: a02 b02 a13 b13, then a b c d; then the two halves.
            let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let s = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xEE>(ab, cd));
            let s = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), s);
            out
        })
    }
    #[inline(always)]
    fn widen_pairs(self, v: __m256) -> [__m256; 2] {
        intrinsics!({
            let upper = _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(UPPER)));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(v))), upper]
        })
    }
    #[inline(always)]
    fn round_to_bf16(self, v: __m256) -> __m256 {
        intrinsics!({
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
            // A NaN stays one, and quiet.
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
            let v = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan);
            _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(UPPER)))
        })
    }
    #[inline(always)]
    fn lower_half(self, v: __m256) -> __m256 {
        intrinsics!(_mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(!UPPER))))
    }
    #[inline(always)]
    fn outline(self, part: impl Part<Self>) {
        outline!("avx2,fma,f16c", Avx2, self, part);
    }
    #[inline(always)]
    fn prefetch<T>(self, x: *const T) {
        intrinsics!(_mm_prefetch::<_MM_HINT_T1>(x.cast()));
    }
    #[inline(always)]
    fn fours(self, [a, b, c, d]: [__m256; 4]) -> __m256 {
        intrinsics!({
            // Per 128 bits: a0 b0 a1 b1, and so on; then lane 0 of all four, lane 1, ...
            let (ab01, ab23) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd01, cd23) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let [l0, l1] = [_mm256_shuffle_ps::<0x44>(ab01, cd01), _mm256_shuffle_ps::<0xEE>(ab01, cd01)];
            let [l2, l3] = [_mm256_shuffle_ps::<0x44>(ab23, cd23), _mm256_shuffle_ps::<0xEE>(ab23, cd23)];
            _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(l0, l1), l2), l3)
        })
    }
    #[inline(always)]
    fn add_fours(self, fours: __m256, totals: [f32; 4]) -> [f32; 4] {
        intrinsics!({
            let sums = _mm_add_ps(_mm_loadu_ps(totals.as_ptr()), _mm256_castps256_ps128(fours));
            let sums = _mm_add_ps(sums, _mm256_extractf128_ps::<1>(fours));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), sums);
            out
        })
    }
    #[inline(always)]
    fn add_all_fours(self, [a, b, ..]: [__m256; 4], totals: __m256) -> __m256 {
        intrinsics!({
            let sums = _mm256_add_ps(totals, _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_add_ps(sums, _mm256_permute2f128_ps::<0x31>(a, b))
        })
    }
    #[inline(always)]
    fn max4(self, [a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        intrinsics!({
            // As in `sum4`.
            let ab = _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = _mm256_max_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let m = _mm256_max_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xEE>(ab, cd));
            let m = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps::<1>(m));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), m);
            out
        })
    }
    #[inline(always)]
    fn reduce_max(self, v: __m256) -> f32 {
        intrinsics!({
            let m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let m = _mm_max_ps(m, _mm_movehl_ps(m, m));
            _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)))
        })
    }
}
