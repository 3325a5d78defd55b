//! One vocabulary of vector operations, and the instruction sets it is stamped out for.
//!
//! A kernel body is written once, generic over [`Simd`] (or over [`Arithmetic`], where it computes lane by lane), and marked
//! `#[inline(always)]`; `stamp!` makes of it one function per instruction set and a front that chooses at run time by [`Isa`]. The
//! vector length is the instruction set's own ([`Arithmetic::LANES`]), so sums may differ in their last bits from one instruction
//! set to another, never from one call to another.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod int8;
mod isa;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod portable;
mod product;
mod two;

pub use isa::Isa;
pub(crate) use isa::{Which, stamp, stamp_pairs};
pub(crate) use portable::Portable;
pub(crate) use product::{Product, Single, Widened, bf16_bits, pair, second};
pub(crate) use two::Two;
#[cfg(target_arch = "x86_64")]
pub(crate) use {
    amx::Amx,
    avx2::Avx2,
    avx512::Avx512,
    pairs::{Pairs, multiply_pairs},
};

use half::{bf16, f16};

/// The body of [`Simd::outline`] for an instruction set with these features. Whoever uses it holds the proof that the machine has
/// them.
#[cfg(target_arch = "x86_64")]
macro_rules! outline {
    ($features:literal, $simd:ty, $s:expr, $part:expr) => {{
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn outlined(s: $simd, part: impl $crate::simd::Part<$simd>) {
            part.run(s);
        }
        if cfg!(debug_assertions) {
            // SAFETY: the proof that the caller holds.
            unsafe { outlined($s, $part) }
        } else {
            $part.run($s);
        }
    }};
}
#[cfg(target_arch = "x86_64")]
pub(crate) use outline;

/// The upper half of a lane: the bits of an `f32` that `bf16` keeps.
#[cfg(target_arch = "x86_64")]
pub(crate) const UPPER: i32 = 0xFFFF_0000_u32.cast_signed();

/// How many bytes ahead streams of quantised weights and of what is rounded ask: a page, which the machine's own prefetching does not leave.
pub(crate) const AHEAD: usize = 4096;

/// A part of a kernel that [`Simd::outline`] runs.
pub trait Part<S> {
    /// Does it. `#[inline(always)]`, as all bodies are.
    fn run(self, s: S);
}

/// What is computed lane by lane, of one vector of `f32` or of several side by side (`Two`), and its way from and to memory.
///
/// A value of an implementing type is the proof that the machine has the instructions: it can only be made where they were
/// detected. The methods are safe because of that proof and because loads and stores check their slices.
pub trait Arithmetic: Copy {
    /// The lanes.
    type F32: Copy;

    /// How many: 4, 8 or 16 in a vector.
    const LANES: usize;

    /// The first `LANES` elements. Panics if there are fewer.
    fn load(self, x: &[f32]) -> Self::F32;
    /// Writes all lanes to the first `LANES` elements. Panics if there are fewer.
    fn store(self, v: Self::F32, out: &mut [f32]);
    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F32;
    /// All lanes zero.
    #[inline(always)]
    fn zero(self) -> Self::F32 {
        self.splat(0.0)
    }

    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once where the machine can (not in the portable instruction set).
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger of each pair; `b` where either is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller of each pair; `b` where either is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Without the sign.
    fn abs(self, a: Self::F32) -> Self::F32;
    /// `magnitude` (which must not be negative) with the sign bit of `sign`.
    fn copy_sign(self, magnitude: Self::F32, sign: Self::F32) -> Self::F32;
    /// The nearest integer, ties to even.
    fn round(self, a: Self::F32) -> Self::F32;
    /// `then` in lanes where `a < b`, else `otherwise` (also where either is NaN).
    fn select_lt(self, a: Self::F32, b: Self::F32, then: Self::F32, otherwise: Self::F32) -> Self::F32;
    /// `a * 2^n` for integers `n` in [-252, 252], rounded once at the end when the result is subnormal.
    fn scale_pow2(self, a: Self::F32, n: Self::F32) -> Self::F32;
    /// [`Arithmetic::scale_pow2`] in lanes where `x >= least` or `x` is NaN; there `n` must be `least` or more. 0 in the others, without computing
    /// what it would be.
    #[inline(always)]
    fn scale_pow2_from(self, (x, least): (Self::F32, f32), a: Self::F32, n: Self::F32) -> Self::F32 {
        let least = self.splat(least);
        self.scale_pow2(self.select_lt(x, least, self.zero(), a), self.max(least, n))
    }

    /// Like [`Arithmetic::load`], with zeros after the end of a shorter slice.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F32 {
        if x.len() >= Self::LANES {
            return self.load(x);
        }
        let mut lanes = [0.0; 32];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// Like [`Arithmetic::store`], without the lanes after the end of a shorter slice.
    #[inline(always)]
    fn store_part(self, v: Self::F32, out: &mut [f32]) {
        if out.len() >= Self::LANES {
            return self.store(v, out);
        }
        let mut lanes = [0.0; 32];
        self.store(v, &mut lanes);
        let n = out.len();
        out.copy_from_slice(&lanes[..n]);
    }
}

/// The operations of one vector of an instruction set.
pub trait Simd: Arithmetic + Send + Sync + 'static {
    /// The first `LANES` elements, widened. Panics if there are fewer.
    fn load_f16(self, x: &[f16]) -> Self::F32;
    /// The first `LANES` elements, widened. Panics if there are fewer.
    fn load_bf16(self, x: &[bf16]) -> Self::F32;

    /// Of the first `LANES` vectors: lane `j` of vector `i` becomes lane `i` of vector `j`.
    fn transpose(self, v: [Self::F32; 16]) -> [Self::F32; 16];
    /// Stores the first half of the lanes in `low`, the other in `high`. Panics if one is shorter.
    fn store_halves(self, v: Self::F32, low: &mut [f32], high: &mut [f32]);
    /// The sum of each of four vectors' lanes. Every one of the four is summed in the same order.
    fn sum4(self, v: [Self::F32; 4]) -> [f32; 4];
    /// `((l0 + l1) + l2) + l3` of each four lanes after another of four vectors: lane `4 f + i` is that of the lanes from `4 f` on of vector `i`.
    fn fours(self, v: [Self::F32; 4]) -> Self::F32;
    /// `totals`, and for each of four vectors its [`Simd::fours`] added one after another.
    fn add_fours(self, fours: Self::F32, totals: [f32; 4]) -> [f32; 4];
    /// The same of as many vectors as one has lanes: the first `LANES / 4` of `fours` count, and `fours[i]` is added to the lanes from `4 i` on of `totals`,
    /// in the same order.
    fn add_all_fours(self, fours: [Self::F32; 4], totals: Self::F32) -> Self::F32;
    /// The largest of each of four vectors' lanes. No lane may be NaN.
    fn max4(self, v: [Self::F32; 4]) -> [f32; 4];
    /// The largest lane. No lane may be NaN.
    fn reduce_max(self, v: Self::F32) -> f32;

    /// Of pairs of `bf16`, one in each half of a lane, the numbers in the lower halves and those in the upper, widened.
    fn widen_pairs(self, v: Self::F32) -> [Self::F32; 2];
    /// The nearest `bf16`, ties to even.
    fn round_to_bf16(self, v: Self::F32) -> Self::F32;
    /// Each lane's lower half, with zeros above.
    fn lower_half(self, v: Self::F32) -> Self::F32;

    /// Runs `part`; with debug assertions, as a function of its own. With all checks and all its tiles, a kernel is so large a
    /// function that compiling it takes minutes, for the passes over each loop get slower with the function's size.
    fn outline(self, part: impl Part<Self>);

    /// Asks for the cache line at `x`, which may be any address. Changes no result.
    #[inline(always)]
    fn prefetch<T>(self, x: *const T) {
        let _ = x;
    }

    /// Whether [`Simd::prefetch`] asks into the first-level cache because the processor (a Zen 5) reads memory faster so. A few rows of
    /// activations are multiplied in other ways there: `quantized.rs` and `matmul.rs` say which.
    #[inline(always)]
    fn near(self) -> bool {
        false
    }

    /// [`Simd::prefetch`] of a line that is needed later than so many others that they would not fit the first-level cache.
    #[inline(always)]
    fn prefetch_far<T>(self, x: *const T) {
        self.prefetch(x);
    }

    /// The sum of all lanes, in the order of [`Simd::sum4`].
    #[inline(always)]
    fn sum(self, v: Self::F32) -> f32 {
        self.sum4([v; 4])[0]
    }

    /// The first `n` lanes of `v`, zeros in the others.
    #[inline(always)]
    fn keep(self, v: Self::F32, n: usize) -> Self::F32 {
        if n >= Self::LANES {
            return v;
        }
        let mut lanes = [0.0; 16];
        self.store(v, &mut lanes);
        lanes[n..].fill(0.0);
        self.load(&lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    stamp! {
        fn largest(x: &[f32; 64], out: &mut [f32; 4]) = largest_body;
        fn fours(x: &[f32; 256], totals: &mut [f32; 16], all: bool) = fours_body;
    }

    #[inline(always)]
    fn fours_body<S: Simd>(s: S, x: &[f32; 256], totals: &mut [f32; 16], all: bool) {
        let mut fours = [s.zero(); 4];
        for (fours, x) in fours.iter_mut().zip(x.chunks(64)) {
            *fours = s.fours([0, 1, 2, 3].map(|row| s.load(&x[16 * row..])));
        }
        if all {
            s.store(s.add_all_fours(fours, s.load(totals)), totals);
        } else {
            for (fours, totals) in fours.into_iter().zip(totals.as_chunks_mut().0) {
                *totals = s.add_fours(fours, *totals);
            }
        }
    }

    /// Numbers of which every sum is rounded.
    #[test]
    fn sums_of_four_lanes_are_added_in_order() {
        let x = std::array::from_fn(|i| (i as f32 * 0.7).sin() * (1 << (i % 7)) as f32);
        let start: [f32; 16] = std::array::from_fn(|i| [0.1, -0.2, 1e-7, 3e5][i % 4] * (i + 1) as f32);
        for (&isa, all) in Isa::available().iter().flat_map(|isa| [(isa, false), (isa, true)]) {
            let mut got = start;
            fours(isa, &x, &mut got, all);
            for row in 0..if all { isa.lanes() } else { 16 } {
                let lanes = x[16 * row..][..isa.lanes()].chunks(4);
                let want = lanes.fold(start[row], |total, l| total + (((l[0] + l[1]) + l[2]) + l[3]));
                assert_eq!(got[row].to_bits(), want.to_bits(), "{isa}, row {row}, all at once: {all}");
            }
        }
    }

    #[inline(always)]
    fn largest_body<S: Simd>(s: S, x: &[f32; 64], out: &mut [f32; 4]) {
        *out = s.max4([0, 1, 2, 3].map(|row| s.load(&x[16 * row..])));
    }

    /// Wherever it stands.
    #[test]
    fn the_largest_lane_of_each_of_four_vectors() {
        for &isa in Isa::available() {
            for lane in 0..isa.lanes() {
                let mut x = std::array::from_fn(|i| -1.0 - i as f32);
                (0..4).for_each(|row| x[16 * row + (lane + row) % isa.lanes()] = row as f32);
                let mut out = [f32::NAN; 4];
                largest(isa, &x, &mut out);
                assert_eq!(out, [0.0, 1.0, 2.0, 3.0], "{isa}, lane {lane}");
            }
        }
    }
}
