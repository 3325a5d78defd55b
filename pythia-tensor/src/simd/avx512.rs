//! Sixteen lanes of AVX-512 (F, BW, DQ, VL).

use super::{Arithmetic, Part, Simd, UPPER, outline};
use half::{bf16, f16};
#[allow(clippy::wildcard_imports, reason = "intrinsics carry their module in their names")]
use std::arch::x86_64::*;

/// The proof that AVX-512 F, BW, DQ and VL are present (and AVX2, FMA, F16C).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512 {
    /// Whether to ask for lines into the first-level cache: on a Zen 5. Products of one row there are 1.05 to 1.12 times as fast, of
    /// eight 1.04 times, and prompts as fast as with the second level. A Zen 4 core read eight neighbouring rows at 12.5 GB/s instead of 18.5; Intel's was not measured.
    near: bool,
}

impl Avx512 {
    /// # Safety
    /// The machine must have AVX-512 F, BW, DQ and VL, and AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self { near: Self::zen5() }
    }

    /// Whether this machine is a Zen 5, known by two extensions that no other server of 2026 has both of.
    pub(crate) fn zen5() -> bool {
        is_x86_feature_detected!("avxvnni") && is_x86_feature_detected!("avx512vp2intersect")
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

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1_u32 << n.min(16)) - 1) as __mmask16
}

impl Arithmetic for Avx512 {
    type F32 = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        intrinsics!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsics!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        intrinsics!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn copy_sign(self, magnitude: __m512, sign: __m512) -> __m512 {
        intrinsics!(_mm512_or_ps(magnitude, _mm512_and_ps(_mm512_set1_ps(-0.0), sign)))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        intrinsics!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
        intrinsics!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), otherwise, then))
    }
    #[inline(always)]
    fn scale_pow2(self, a: __m512, n: __m512) -> __m512 {
        intrinsics!(_mm512_scalef_ps(a, n))
    }
    #[inline(always)]
    fn scale_pow2_from(self, (x, least): (__m512, f32), a: __m512, n: __m512) -> __m512 {
        intrinsics!({
            let scaled = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(least));
            _mm512_maskz_scalef_ps(scaled, a, n)
        })
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m512 {
        let x = &x[..16];
        intrinsics!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32]) {
        let out = &mut out[..16];
        intrinsics!(_mm512_storeu_ps(out.as_mut_ptr(), v));
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> __m512 {
        // SAFETY: the masked lanes are inside the slice; the others are not read.
        intrinsics!(_mm512_maskz_loadu_ps(first(x.len()), x.as_ptr()))
    }
    #[inline(always)]
    fn store_part(self, v: __m512, out: &mut [f32]) {
        intrinsics!(_mm512_mask_storeu_ps(out.as_mut_ptr(), first(out.len()), v));
    }
}

impl Simd for Avx512 {
    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> __m512 {
        let x = &x[..16];
        intrinsics!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> __m512 {
        let x = &x[..16];
        intrinsics!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    fn transpose(self, mut v: [__m512; 16]) -> [__m512; 16] {
        intrinsics!({
            // Pairs of rows, then quadruples, lane by lane within 128 bits; then the quarters.
            for i in (0..16).step_by(2) {
                (v[i], v[i + 1]) = (_mm512_unpacklo_ps(v[i], v[i + 1]), _mm512_unpackhi_ps(v[i], v[i + 1]));
            }
            let mut quads = [v[0]; 16];
            for i in (0..16).step_by(4) {
                for h in 0..2 {
                    let (a, b) = (_mm512_castps_pd(v[i + h]), _mm512_castps_pd(v[i + 2 + h]));
                    quads[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                    quads[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                }
            }
            // quads[4 r + c]: of the rows 4 r.., the columns c, c + 4, c + 8, c + 12.
            for c in 0..4 {
                let q = [quads[c], quads[4 + c], quads[8 + c], quads[12 + c]];
                let even =
                    [_mm512_shuffle_f32x4::<0x88>(q[0], q[1]), _mm512_shuffle_f32x4::<0x88>(q[2], q[3])];
                let odd =
                    [_mm512_shuffle_f32x4::<0xDD>(q[0], q[1]), _mm512_shuffle_f32x4::<0xDD>(q[2], q[3])];
                v[c] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
                v[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
                v[8 + c] = _mm512_shuffle_f32x4::<0xDD>(even[0], even[1]);
                v[12 + c] = _mm512_shuffle_f32x4::<0xDD>(odd[0], odd[1]);
            }
            v
        })
    }
    #[inline(always)]
    fn store_halves(self, v: __m512, low: &mut [f32], high: &mut [f32]) {
        let (low, high) = (&mut low[..8], &mut high[..8]);
        intrinsics!({
            _mm256_storeu_ps(low.as_mut_ptr(), _mm512_castps512_ps256(v));
            _mm256_storeu_ps(high.as_mut_ptr(), _mm512_extractf32x8_ps::<1>(v));
        });
    }
    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        intrinsics!({
            // Per 128 bits: a02 b02 a13 b13, then a b c d; then the four quarters, pairwise.
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let s = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xEE>(ab, cd));
            let s = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps::<1>(s));
            let s = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), s);
            out
        })
    }
    #[inline(always)]
    fn widen_pairs(self, v: __m512) -> [__m512; 2] {
        intrinsics!({
            let bits = _mm512_castps_si512(v);
            let upper = _mm512_and_si512(bits, _mm512_set1_epi32(UPPER));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)), _mm512_castsi512_ps(upper)]
        })
    }
    #[inline(always)]
    fn round_to_bf16(self, v: __m512) -> __m512 {
        intrinsics!({
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
            // A NaN stays one, and quiet.
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000));
            _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(UPPER)))
        })
    }
    #[inline(always)]
    fn lower_half(self, v: __m512) -> __m512 {
        intrinsics!(_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(!UPPER))))
    }
    #[inline(always)]
    fn outline(self, part: impl Part<Self>) {
        outline!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl", Avx512, self, part);
    }
    #[inline(always)]
    fn prefetch<T>(self, x: *const T) {
        if self.near {
            intrinsics!(_mm_prefetch::<_MM_HINT_T0>(x.cast()));
        } else {
            intrinsics!(_mm_prefetch::<_MM_HINT_T1>(x.cast()));
        }
    }
    #[inline(always)]
    fn near(self) -> bool {
        self.near
    }
    #[inline(always)]
    fn prefetch_far<T>(self, x: *const T) {
        intrinsics!(_mm_prefetch::<_MM_HINT_T1>(x.cast()));
    }
    #[inline(always)]
    fn fours(self, [a, b, c, d]: [__m512; 4]) -> __m512 {
        intrinsics!({
            // Per 128 bits: a0 b0 a1 b1, and so on; then lane 0 of all four, lane 1, ...
            let (ab01, ab23) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd01, cd23) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let [l0, l1] = [_mm512_shuffle_ps::<0x44>(ab01, cd01), _mm512_shuffle_ps::<0xEE>(ab01, cd01)];
            let [l2, l3] = [_mm512_shuffle_ps::<0x44>(ab23, cd23), _mm512_shuffle_ps::<0xEE>(ab23, cd23)];
            _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(l0, l1), l2), l3)
        })
    }
    #[inline(always)]
    fn add_fours(self, fours: __m512, totals: [f32; 4]) -> [f32; 4] {
        intrinsics!({
            let sums = _mm_add_ps(_mm_loadu_ps(totals.as_ptr()), _mm512_castps512_ps128(fours));
            let sums = _mm_add_ps(sums, _mm512_extractf32x4_ps::<1>(fours));
            let sums = _mm_add_ps(sums, _mm512_extractf32x4_ps::<2>(fours));
            let sums = _mm_add_ps(sums, _mm512_extractf32x4_ps::<3>(fours));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), sums);
            out
        })
    }
    #[inline(always)]
    fn add_all_fours(self, [a, b, c, d]: [__m512; 4], totals: __m512) -> __m512 {
        intrinsics!({
            // The first and third quarters of two, the second and fourth; then each quarter of all.
            let even = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d)];
            let odd = [_mm512_shuffle_f32x4::<0xDD>(a, b), _mm512_shuffle_f32x4::<0xDD>(c, d)];
            let sums = _mm512_add_ps(totals, _mm512_shuffle_f32x4::<0x88>(even[0], even[1]));
            let sums = _mm512_add_ps(sums, _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]));
            let sums = _mm512_add_ps(sums, _mm512_shuffle_f32x4::<0xDD>(even[0], even[1]));
            _mm512_add_ps(sums, _mm512_shuffle_f32x4::<0xDD>(odd[0], odd[1]))
        })
    }
    #[inline(always)]
    fn max4(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        intrinsics!({
            // As in `sum4`.
            let ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let m = _mm512_max_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xEE>(ab, cd));
            let m = _mm256_max_ps(_mm512_castps512_ps256(m), _mm512_extractf32x8_ps::<1>(m));
            let m = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps::<1>(m));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), m);
            out
        })
    }
    #[inline(always)]
    fn reduce_max(self, v: __m512) -> f32 {
        intrinsics!(_mm512_reduce_max_ps(v))
    }
    #[inline(always)]
    fn keep(self, v: __m512, n: usize) -> __m512 {
        intrinsics!(_mm512_maskz_mov_ps(first(n), v))
    }
}
