//! Pairs of bf16 numbers, multiplied and added to `f32` lanes (AVX-512 BF16).

use super::{Avx512, Simd, Which};
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
    pub(crate) fn load(self, x: &[bf16]) -> __m512bh {
        let x = &x[..32];
        intrinsics!(std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(x.as_ptr().cast())))
    }

    /// `low` and `high`, rounded to nearest, ties to even, into the first 32 elements.
    #[inline(always)]
    pub(crate) fn round(self, low: __m512, high: __m512, out: &mut [bf16]) {
        let out = &mut out[..32];
        intrinsics!({
            let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), rounded);
        });
    }

    /// `sum[i] + a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1]`, as the instruction rounds it.
    #[inline(always)]
    pub(crate) fn mul_add(self, a: __m512bh, b: __m512bh, sum: __m512) -> __m512 {
        intrinsics!(_mm512_dpbf16_ps(sum, a, b))
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
                *chain = pairs.mul_add(factors, factors, *chain);
            }
        }
        let mut total = s.zero();
        for chain in chains {
            total = s.add(total, chain);
        }
        s.sum(total)
    }
    assert!(isa.which() == Which::Avx512Bf16, "products of bf16 need `avx512bf16`, not `{isa}`");
    // SAFETY: an `Isa` exists only for instruction sets that were detected on this machine.
    unsafe { avx512::<CHAINS>((Avx512::new(), Pairs::new()), steps) }
}
