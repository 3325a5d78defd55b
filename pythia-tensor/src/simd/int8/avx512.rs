//! Sixteen rows with AVX-512, with and without VNNI.

use super::{Expand, Int8};
use crate::simd::Avx512;
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

/// The proof that AVX-512 F, BW, DQ, VL and VNNI are present (and AVX2, FMA, F16C).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vnni(Avx512);

impl Vnni {
    /// # Safety
    /// The machine must have AVX-512 F, BW, DQ, VL and VNNI, and AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Avx512::new() })
    }
}

#[inline(always)]
fn load(_: Avx512, x: &[u8]) -> __m512i {
    let x = &x[..64];
    intrinsics!(_mm512_loadu_si512(x.as_ptr().cast()))
}

#[inline(always)]
fn store(_: Avx512, x: __m512i, out: &mut [u8]) {
    let out = &mut out[..64];
    intrinsics!(_mm512_storeu_si512(out.as_mut_ptr().cast(), x));
}

/// The step in 16 bits twice a row, and the offset in 8 bits four times a row.
#[inline(always)]
fn group(_: Avx512, x: &[u8]) -> [__m512i; 2] {
    let x = &x[..16];
    intrinsics!({
        // Every byte of a row's 32 bits: the row's.
        let rows = _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()));
        let of_row = _mm512_shuffle_epi8(rows, _mm512_set4_epi32(0x0C0C_0C0C, 0x0808_0808, 0x0404_0404, 0));
        let step = _mm512_and_si512(of_row, _mm512_set1_epi16(15));
        let zero = _mm512_and_si512(_mm512_srli_epi16::<4>(of_row), _mm512_set1_epi8(15));
        [step, _mm512_sub_epi8(_mm512_set1_epi8(-128), _mm512_mullo_epi16(zero, step))]
    })
}

#[inline(always)]
fn expand(_: Avx512, x: __m512i, [step, offset]: [__m512i; 2]) -> [__m512i; 2] {
    intrinsics!({
        let half = _mm512_set1_epi8(15);
        // A product of two nibbles fits a byte, so one of 16 bits is two of 8.
        let [low, high] = [_mm512_and_si512(x, half), _mm512_and_si512(_mm512_srli_epi16::<4>(x), half)];
        [
            _mm512_add_epi8(_mm512_mullo_epi16(low, step), offset),
            _mm512_add_epi8(_mm512_mullo_epi16(high, step), offset),
        ]
    })
}

#[inline(always)]
fn store_codes(_: Avx512, x: __m512, out: &mut [i8]) {
    let out = &mut out[..16];
    intrinsics!(_mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))));
}

/// The words that do not depend on VNNI; `$proof` makes an [`Avx512`] of `self`.
macro_rules! words_of_avx512 {
    ($self:ident => $proof:expr) => {
        type F32s = Avx512;
        type Bytes = __m512i;
        type Sums = __m512i;

        const HEADER: usize = 16;

        #[inline(always)]
        fn f32s($self) -> Avx512 {
            $proof
        }
        #[inline(always)]
        fn load($self, x: &[u8]) -> __m512i {
            load($proof, x)
        }
        #[inline(always)]
        fn store($self, x: __m512i, out: &mut [u8]) {
            store($proof, x, out);
        }
        #[inline(always)]
        fn splat($self, x: i32) -> __m512i {
            intrinsics!(_mm512_set1_epi32(x))
        }
        #[inline(always)]
        fn add($self, a: __m512i, b: __m512i) -> __m512i {
            intrinsics!(_mm512_add_epi32(a, b))
        }
        #[inline(always)]
        fn to_f32($self, sums: __m512i) -> __m512 {
            intrinsics!(_mm512_cvtepi32_ps(sums))
        }
        #[inline(always)]
        fn store_codes($self, x: __m512, out: &mut [i8]) {
            store_codes($proof, x, out);
        }
    };
}

impl Int8 for Avx512 {
    words_of_avx512!(self => self);

    /// The product of bytes saturates: elements 0 and 2 of each row, and elements 1 and 3, in 16 bits each.
    #[inline(always)]
    fn dot(self, sums: __m512i, w: __m512i, a: i32) -> __m512i {
        intrinsics!({
            let w = [_mm512_and_si512(w, _mm512_set1_epi16(0xFF)), _mm512_srli_epi16::<8>(w)];
            let a = _mm512_set1_epi32(a);
            let a = [_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(a)), _mm512_srai_epi16::<8>(a)];
            let sums = _mm512_add_epi32(sums, _mm512_madd_epi16(w[0], a[0]));
            _mm512_add_epi32(sums, _mm512_madd_epi16(w[1], a[1]))
        })
    }
}

impl Int8 for Vnni {
    words_of_avx512!(self => self.0);

    #[inline(always)]
    fn dot(self, sums: __m512i, w: __m512i, a: i32) -> __m512i {
        intrinsics!(_mm512_dpbusd_epi32(sums, w, _mm512_set1_epi32(a)))
    }
}

impl Expand for Avx512 {
    type Group = [__m512i; 2];

    #[inline(always)]
    fn group(self, x: &[u8]) -> [__m512i; 2] {
        group(self, x)
    }
    #[inline(always)]
    fn expand(self, x: __m512i, of: [__m512i; 2]) -> [__m512i; 2] {
        expand(self, x, of)
    }
}

impl Expand for Vnni {
    type Group = [__m512i; 2];

    #[inline(always)]
    fn group(self, x: &[u8]) -> [__m512i; 2] {
        group(self.0, x)
    }
    #[inline(always)]
    fn expand(self, x: __m512i, of: [__m512i; 2]) -> [__m512i; 2] {
        expand(self.0, x, of)
    }
}
