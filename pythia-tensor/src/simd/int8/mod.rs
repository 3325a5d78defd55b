//! A vocabulary for products of bytes that are summed as 32-bit integers, and the instruction sets it is stamped out for.
//!
//! Integer sums have no rounding: the same numbers come out on every instruction set, in whatever order they are added.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::{Arithmetic, Simd};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Vnni;

/// Vectors of weight codes, 32 bits for each of `LANES` rows, against 32 bits of activations that all rows share: four elements of
/// K in bytes, or two in 16 bits each where products of bytes saturate.
/// A value of an implementing type is the proof that the machine has the instructions, as with [`Simd`].
pub(crate) trait Int8: Copy + Send + Sync + 'static {
    /// The words for `f32`, with lanes for the same rows.
    type F32s: Simd;
    /// `4 * LANES` bytes.
    type Bytes: Copy;
    /// `LANES` sums.
    type Sums: Copy;

    /// Rows in a vector.
    const LANES: usize = Self::F32s::LANES;
    /// Vectors that a vector of bytes is multiplied as: 1, or 2 of 16 bits.
    const PARTS: usize = 1;
    /// 32-bit words before a block of activations: the scale, and what sums start from. A cache line, where codes are best read by
    /// lines.
    const HEADER: usize = 2;

    /// The words for `f32`.
    fn f32s(self) -> Self::F32s;

    /// The first `4 * LANES` bytes. Panics if there are fewer.
    fn load(self, x: &[u8]) -> Self::Bytes;
    /// Writes `4 * LANES` bytes. Panics if there are fewer.
    fn store(self, x: Self::Bytes, out: &mut [u8]);

    /// What a vector of bytes is multiplied as: the first `PARTS` of these. With two, elements 0 and 2 of each row come first, then
    /// 1 and 3.
    #[inline(always)]
    fn parts(self, x: Self::Bytes) -> [Self::Bytes; 2] {
        [x, x]
    }
    /// All sums `x`.
    fn splat(self, x: i32) -> Self::Sums;
    /// `sums + w · a`, over the elements of each row: a part of weights from 0 to 255, and activations from -128 to 127, in
    /// the same order.
    fn dot(self, sums: Self::Sums, w: Self::Bytes, a: i32) -> Self::Sums;
    /// `a + b`.
    fn add(self, a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// The nearest `f32`s.
    fn to_f32(self, sums: Self::Sums) -> <Self::F32s as Arithmetic>::F32;

    /// Writes integers from -128 to 127, the activations of [`Int8::dot`], to the first `LANES * PARTS` bytes of `out`. Panics
    /// if there are fewer.
    fn store_codes(self, x: <Self::F32s as Arithmetic>::F32, out: &mut [i8]);
}

/// int4 weights as bytes: for instruction sets whose product of bytes is exact.
pub(crate) trait Expand: Int8 {
    /// The steps and offsets of a group of `LANES` rows.
    type Group: Copy;

    /// What the first `LANES` bytes say of a group of each row: see `quantized.rs`. Panics if there are fewer.
    fn group(self, x: &[u8]) -> Self::Group;
    /// The bytes that the low and the high halves of `x` stand for.
    fn expand(self, x: Self::Bytes, group: Self::Group) -> [Self::Bytes; 2];
}

/// int4 weights as they are stored: for instruction sets that multiply bytes into 16 bits, where the products of a nibble fit. Their
/// [`Int8::dot`] multiplies any two numbers of 16 bits a row.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Nibbles: Int8 {
    /// What the first `LANES` bytes say of a group of each row, its step and its zero, twice in 16 bits. Panics if there are fewer.
    fn step_and_zero(self, x: &[u8]) -> [Self::Bytes; 2];
    /// `step * zero` of one group of each row and of another, in 16 bits each.
    fn offsets(self, one: [Self::Bytes; 2], other: [Self::Bytes; 2]) -> Self::Bytes;
    /// The low and the high halves of bytes.
    fn nibbles(self, x: Self::Bytes) -> [Self::Bytes; 2];
    /// `w · a` over elements 0 and 1 of each row, and over 2 and 3, in 16 bits each: nibbles, and four bytes from -128 to 127.
    fn multiply(self, w: Self::Bytes, a: i32) -> Self::Bytes;
    /// `a + b`, in 16 bits.
    fn add_shorts(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `sums + a · b`, over the two 16 bits of each row.
    fn dot_shorts(self, sums: Self::Sums, a: Self::Bytes, b: Self::Bytes) -> Self::Sums;
    /// Writes integers from -128 to 127 to the first `LANES` bytes of `out`. Panics if there are fewer.
    fn store_bytes(self, x: <Self::F32s as Arithmetic>::F32, out: &mut [i8]);
}

/// As `stamp!`, for bodies over [`Int8`]; one with AVX2 may be another.
macro_rules! stamp_int8 {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident ($($arg:ident : $ty:ty),* $(,)?) $(-> $out:ty)? = $body:path $(, avx2 = $avx2:path)?;
    )*) => { $(
        $(#[$meta])*
        $vis fn $name (isa: $crate::Isa, $($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2(simd: $crate::simd::Avx2, $($arg: $ty),*) $(-> $out)? {
                $crate::simd::int8::first!($($avx2,)? $body)(simd, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512(simd: $crate::simd::Avx512, $($arg: $ty),*) $(-> $out)? {
                $body(simd, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            fn vnni(simd: $crate::simd::int8::Vnni, $($arg: $ty),*) $(-> $out)? {
                $body(simd, $($arg),*)
            }
            match isa.which() {
                $crate::simd::Which::Portable => $body($crate::simd::Portable, $($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` exists only for instruction sets that were detected on this machine.
                $crate::simd::Which::Avx2 => unsafe { avx2($crate::simd::Avx2::new(), $($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::simd::Which::Avx512 => unsafe { avx512($crate::simd::Avx512::new(), $($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above; these have VNNI.
                $crate::simd::Which::Avx512Bf16 | $crate::simd::Which::Amx => unsafe { vnni($crate::simd::int8::Vnni::new(), $($arg),*) },
            }
        }
    )* };
}
pub(crate) use stamp_int8;

/// The first of one or two paths.
#[cfg(target_arch = "x86_64")]
macro_rules! first {
    ($first:path $(, $other:path)?) => {
        $first
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use first;
