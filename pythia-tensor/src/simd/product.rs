//! What a lane of 32 bits holds, and how two are multiplied: an `f32`, or a pair of `bf16`.

use super::Simd;
#[cfg(target_arch = "x86_64")]
use {
    super::{Arithmetic, Avx512, Pairs},
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
    /// Words that a lane of prepared numbers takes.
    const WORDS: usize = 1;
    /// A lane's numbers in all lanes.
    type All: Copy;
    /// Lane number `lane` of what [`Product::prepare`] made, in all lanes.
    fn splat(self, s: S, x: &[f32], lane: usize) -> Self::All;
    /// `c`, and the products of `a`'s and `b`'s numbers added to it, lane by lane.
    fn mul_add(self, s: S, a: Self::All, b: S::F32, c: S::F32) -> S::F32;
    /// The first number of each lane, and zeros for the others.
    fn first(self, s: S, a: S::F32) -> S::F32;
    /// Rounds vector number `i` of some numbers for [`Product::splat`], into its place in `out`: where it lay, or before.
    fn put(self, s: S, v: S::F32, i: usize, out: &mut [f32]);
    /// Rounds whole vectors of numbers for [`Product::splat`], in place.
    #[inline(always)]
    fn prepare(self, s: S, x: &mut [f32]) {
        for i in 0..x.len() / S::LANES {
            self.put(s, s.load(&x[i * S::LANES..]), i, x);
        }
    }
}

/// An `f32` a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Single;

impl<S: Simd> Product<S> for Single {
    const NUMBERS: usize = 1;
    type All = S::F32;
    #[inline(always)]
    fn splat(self, s: S, x: &[f32], lane: usize) -> S::F32 {
        s.splat(x[lane])
    }
    #[inline(always)]
    fn mul_add(self, s: S, a: S::F32, b: S::F32, c: S::F32) -> S::F32 {
        s.mul_add(a, b, c)
    }
    #[inline(always)]
    fn first(self, _: S, a: S::F32) -> S::F32 {
        a
    }
    #[inline(always)]
    fn put(self, s: S, v: S::F32, i: usize, out: &mut [f32]) {
        s.store(v, &mut out[i * S::LANES..]);
    }
    #[inline(always)]
    fn prepare(self, _: S, _: &mut [f32]) {}
}

/// Two `bf16` a lane, the first in the lower half, widened as they are multiplied. Products are added one after the other. Prepared
/// numbers stay in words of their own, so that widening those takes no instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Widened;

impl<S: Simd> Product<S> for Widened {
    const NUMBERS: usize = 2;
    const WORDS: usize = 2;
    type All = [S::F32; 2];
    #[inline(always)]
    fn splat(self, s: S, x: &[f32], lane: usize) -> [S::F32; 2] {
        [s.splat(x[2 * lane]), s.splat(x[2 * lane + 1])]
    }
    #[inline(always)]
    fn mul_add(self, s: S, a: [S::F32; 2], b: S::F32, c: S::F32) -> S::F32 {
        let b = s.widen_pairs(b);
        s.mul_add(a[1], b[1], s.mul_add(a[0], b[0], c))
    }
    #[inline(always)]
    fn first(self, s: S, a: S::F32) -> S::F32 {
        s.lower_half(a)
    }
    #[inline(always)]
    fn put(self, s: S, v: S::F32, i: usize, out: &mut [f32]) {
        s.store(s.round_to_bf16(v), &mut out[i * S::LANES..]);
    }
}

/// The same, multiplied by one instruction. Products are added in `f32`; the hardware takes subnormal numbers for zero.
#[cfg(target_arch = "x86_64")]
impl Product<Avx512> for Pairs {
    const NUMBERS: usize = 2;
    type All = V;
    #[inline(always)]
    fn splat(self, s: Avx512, x: &[f32], lane: usize) -> V {
        s.splat(x[lane])
    }
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
    fn put(self, _: Avx512, v: V, i: usize, out: &mut [f32]) {
        let out = &mut out[8 * i..][..8];
        // SAFETY: `self` proves that the instruction exists; sixteen bf16 fill the eight lanes of `out`.
        unsafe {
            _mm256_storeu_si256(
                out.as_mut_ptr().cast(),
                transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)),
            );
        };
    }
}

#[cfg(target_arch = "x86_64")]
type V = <Avx512 as Arithmetic>::F32;

/// A lane of two numbers rounded to `bf16`.
#[inline]
pub(crate) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(bf16_bits(first) | bf16_bits(second) << 16)
}

/// A lane with another second number, rounded to `bf16`.
#[inline]
pub(crate) fn second(lane: f32, second: f32) -> f32 {
    f32::from_bits(lane.to_bits() & 0xFFFF | bf16_bits(second) << 16)
}

/// The bits of `x` as `bf16`, rounded to nearest, ties to even: `half`'s `bf16::from_f32` without its branches, which kept the
/// compiler from using vectors (4 % of a prefill).
#[inline]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::stamp;

    /// Every upper half of a number, with lower halves around the middle between two `bf16`.
    fn numbers() -> impl Iterator<Item = f32> {
        let lower = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF];
        (0..=u32::from(u16::MAX)).flat_map(move |high| lower.map(|low| f32::from_bits(high << 16 | low)))
    }

    #[test]
    fn bf16_bits_are_those_of_half() {
        for x in numbers() {
            assert_eq!(bf16_bits(x), u32::from(half::bf16::from_f32(x).to_bits()), "{x:e}");
        }
    }

    #[test]
    fn a_second_number_replaces_only_the_second() {
        let first = -3.25;
        for x in numbers() {
            assert_eq!(second(pair(first, 7.0), x).to_bits(), pair(first, x).to_bits(), "{x:e}");
        }
    }

    stamp! {
        fn round(x: &mut [f32]) = round_body;
        fn halves(x: &[f32], out: &mut [Vec<f32>; 3]) = halves_body;
    }

    #[inline(always)]
    fn round_body<S: Simd>(s: S, x: &mut [f32]) {
        Widened.prepare(s, x);
    }

    #[inline(always)]
    fn halves_body<S: Simd>(s: S, x: &[f32], out: &mut [Vec<f32>; 3]) {
        for x in x.chunks_exact(S::LANES) {
            let x = s.load(x);
            let [first, second] = s.widen_pairs(x);
            for (v, out) in [first, second, Product::<S>::first(Widened, s, x)].into_iter().zip(&mut *out) {
                let mut lanes = [0.0; 16];
                s.store(v, &mut lanes);
                out.extend(&lanes[..S::LANES]);
            }
        }
    }

    #[test]
    fn pairs_are_rounded_and_widened_alike_by_every_instruction_set() {
        let numbers: Vec<f32> = numbers().collect();
        for &isa in Isa::available() {
            let mut rounded = numbers.clone();
            round(isa, &mut rounded);
            for (x, got) in numbers.iter().zip(rounded) {
                assert_eq!(got.to_bits(), bf16_bits(*x) << 16, "{isa}: {x:e}");
            }
            let mut out = [const { Vec::new() }; 3];
            halves(isa, &numbers, &mut out);
            for (i, x) in numbers.iter().enumerate() {
                let got = out.each_ref().map(|out| out[i].to_bits());
                let bits = x.to_bits();
                assert_eq!(got, [bits << 16, bits & 0xFFFF_0000, bits & 0xFFFF], "{isa}: {x:e}");
            }
        }
    }
}
