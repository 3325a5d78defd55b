//! Pairs of bf16 numbers, multiplied and added to `f32` lanes (AVX-512 BF16).

use super::{Arithmetic, Avx512, Product, Simd, UPPER};
use crate::Isa;
use half::bf16;
#[allow(clippy::wildcard_imports, reason = "intrinsics carry their module in their names")]
use std::arch::x86_64::*;

/// The proof that AVX-512 F and BF16 are present.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pairs(());

/// Wraps intrinsics. SAFETY of every use in this file: `self` proves that the instructions exist, a slice's length is
/// checked before its pointer is read or written, and every bit pattern is a vector of bf16.
macro_rules! intrinsics {
    ($e:expr) => {{
        #[allow(clippy::undocumented_unsafe_blocks, reason = "documented on the macro")]
        unsafe {
            $e
        }
    }};
}

#[allow(clippy::unused_self, reason = "it is the proof")]
impl Pairs {
    /// # Safety
    /// The machine must have AVX-512 F and BF16.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }

    /// The first 32 elements.
    #[inline(always)]
    pub(crate) fn load(self, x: &[bf16]) -> __m512 {
        let x = &x[..32];
        intrinsics!(_mm512_loadu_ps(x.as_ptr().cast()))
    }

    /// The elements of `low`, then of `high`, rounded to nearest, ties to even, in pairs.
    #[inline(always)]
    pub(crate) fn round(self, low: __m512, high: __m512) -> __m512 {
        intrinsics!(std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low)))
    }

    /// The first 8 bits of numbers, which are bf16 numbers, in pairs of a lane of `low` and the same of `high`; and what is left of both,
    /// exactly.
    #[inline(always)]
    pub(crate) fn cut(self, low: __m512, high: __m512) -> (__m512, [__m512; 2]) {
        intrinsics!({
            let upper = |x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(UPPER));
            let (first, second) = (upper(low), upper(high));
            let pairs = _mm512_or_si512(_mm512_srli_epi32::<16>(first), second);
            let left = |x, cut| _mm512_sub_ps(x, _mm512_castsi512_ps(cut));
            (_mm512_castsi512_ps(pairs), [left(low, first), left(high, second)])
        })
    }
}

/// `steps` products in each of `CHAINS` chains: what the machine can do at best.
///
/// # Panics
/// If the instruction set has no products of bf16.
pub(crate) fn multiply_pairs<const CHAINS: usize>(isa: Isa, steps: usize) -> f32 {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn avx512<const CHAINS: usize>((s, pairs): (Avx512, Pairs), steps: usize) -> f32 {
        let factors = pairs.load(&std::hint::black_box([bf16::ZERO; 32]));
        let mut chains = [s.zero(); CHAINS];
        for _ in 0..steps {
            for chain in &mut chains {
                *chain = Product::mul_add(pairs, s, factors, factors, *chain);
            }
        }
        let mut total = s.zero();
        for chain in chains {
            total = s.add(total, chain);
        }
        s.sum(total)
    }
    assert!(isa.has_bf16(), "products of bf16 need `avx512bf16` or `amx`, not `{isa}`");
    // SAFETY: an `Isa` exists only for instruction sets that were detected on this machine.
    unsafe { avx512::<CHAINS>((Avx512::new(), Pairs::new()), steps) }
}
