//! What a lane of 32 bits holds, and how two are multiplied: an `f32`, or a pair of `bf16`.

use super::Simd;
#[cfg(target_arch = "x86_64")]
use {
    super::{Avx512, Pairs},
    std::arch::x86_64::{
        __m256bh, __m256i, __m512bh, _mm256_storeu_si256, _mm512_and_si512, _mm512_castps_si512,
        _mm512_castsi512_ps, _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_set1_epi32,
    },
    std::mem::transmute,
};

/// How lanes are multiplied. A kernel that is generic over it lays out its operands in lanes, and knows of the numbers in
/// one only where it counts them.
pub(crate) trait Product<S: Simd>: Copy {
    /// Numbers in a lane.
    const NUMBERS: usize;
    /// `c`, and the products of `a`'s and `b`'s numbers added to it, lane by lane.
    fn mul_add(self, s: S, a: S::F32, b: S::F32, c: S::F32) -> S::F32;
    /// The first number of each lane, and zeros for the others.
    fn first(self, s: S, a: S::F32) -> S::F32;
    /// Rounds whole vectors of numbers and packs them into the first lanes of `x`.
    fn pack(self, s: S, x: &mut [f32]);
}

/// An `f32` a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Single;

impl<S: Simd> Product<S> for Single {
    const NUMBERS: usize = 1;
    #[inline(always)]
    fn mul_add(self, s: S, a: S::F32, b: S::F32, c: S::F32) -> S::F32 {
        s.mul_add(a, b, c)
    }
    #[inline(always)]
    fn first(self, _: S, a: S::F32) -> S::F32 {
        a
    }
    #[inline(always)]
    fn pack(self, _: S, _: &mut [f32]) {}
}

/// Two `bf16` a lane, the first in the lower half. Products are added in `f32`; the hardware takes subnormal numbers for zero.
#[cfg(target_arch = "x86_64")]
impl Product<Avx512> for Pairs {
    const NUMBERS: usize = 2;
    #[inline(always)]
    fn mul_add(self, _: Avx512, a: V, b: V, c: V) -> V {
        // SAFETY: `self` proves that the instruction exists; a vector of bf16 is any 64 bytes.
        unsafe { _mm512_dpbf16_ps(c, transmute::<V, __m512bh>(a), transmute::<V, __m512bh>(b)) }
    }
    #[inline(always)]
    fn first(self, _: Avx512, a: V) -> V {
        // SAFETY: an `Avx512` proves that the instructions exist.
        unsafe { _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0xFFFF))) }
    }
    #[inline(always)]
    fn pack(self, s: Avx512, x: &mut [f32]) {
        for i in 0..x.len() / 16 {
            let v = s.load(&x[16 * i..]);
            let out = &mut x[8 * i..][..8];
            // SAFETY: `self` proves that the instruction exists; sixteen bf16 fill the eight lanes of `out`.
            unsafe {
                _mm256_storeu_si256(
                    out.as_mut_ptr().cast(),
                    transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)),
                );
            };
        }
    }
}

#[cfg(target_arch = "x86_64")]
type V = <Avx512 as Simd>::F32;
