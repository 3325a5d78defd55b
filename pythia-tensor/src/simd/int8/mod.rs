//! A vocabulary for products of bytes that are summed as 32-bit integers, and the instruction sets it is stamped out for.
//!
//! Integer sums have no rounding: the same numbers come out on every instruction set, in whatever order they are added.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::Simd;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Vnni;

/// Vectors of weight bytes, four elements of K for each of `LANES` rows, against four activations that all rows share.
/// A value of an implementing type is the proof that the machine has the instructions, as with [`Simd`].
pub(crate) trait Int8: Copy + Send + Sync + 'static {
    /// The words for `f32`, with lanes for the same rows.
    type F32s: Simd;
    /// `4 * LANES` bytes.
    type Bytes: Copy;
    /// The same in the form that [`Int8::dot`] takes.
    type Weights: Copy;
    /// Four activations, in the form that [`Int8::dot`] takes.
    type Quad: Copy;
    /// `LANES` sums.
    type Sums: Copy;
    /// The steps and offsets of a group of int4 weights of `LANES` rows.
    type Group: Copy;

    /// Rows in a vector.
    const LANES: usize = Self::F32s::LANES;

    /// The words for `f32`.
    fn f32s(self) -> Self::F32s;

    /// The first `4 * LANES` bytes. Panics if there are fewer.
    fn load(self, x: &[u8]) -> Self::Bytes;
    /// Writes `4 * LANES` bytes. Panics if there are fewer.
    fn store(self, x: Self::Bytes, out: &mut [u8]);

    /// Weights, as numbers from 0 to 255.
    fn weights(self, x: Self::Bytes) -> Self::Weights;
    /// Four activations, as numbers from -128 to 127.
    fn quad(self, x: i32) -> Self::Quad;
    /// All sums `x`.
    fn splat(self, x: i32) -> Self::Sums;
    /// `sums + w · a`, over the four elements of each row.
    fn dot(self, sums: Self::Sums, w: Self::Weights, a: Self::Quad) -> Self::Sums;
    /// `a + b`.
    fn add(self, a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// The nearest `f32`s.
    fn to_f32(self, sums: Self::Sums) -> <Self::F32s as Simd>::F32;

    /// What the first `LANES` bytes say of a group of each row: see `quantized.rs`. Panics if there are fewer.
    fn group(self, x: &[u8]) -> Self::Group;
    /// The bytes that the low and the high halves of `x` stand for.
    fn expand(self, x: Self::Bytes, group: Self::Group) -> [Self::Bytes; 2];

    /// Writes integers from -128 to 127 to the first `LANES` elements of `out`. Panics if there are fewer.
    fn store_codes(self, x: <Self::F32s as Simd>::F32, out: &mut [i8]);
}

/// As `stamp!`, for bodies over [`Int8`].
macro_rules! stamp_int8 {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident ($($arg:ident : $ty:ty),* $(,)?) $(-> $out:ty)? = $body:path;
    )*) => { $(
        $(#[$meta])*
        $vis fn $name (isa: $crate::Isa, $($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2(simd: $crate::simd::Avx2, $($arg: $ty),*) $(-> $out)? {
                $body(simd, $($arg),*)
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
                // SAFETY: as above; this one has VNNI.
                $crate::simd::Which::Avx512Bf16 => unsafe { vnni($crate::simd::int8::Vnni::new(), $($arg),*) },
            }
        }
    )* };
}
pub(crate) use stamp_int8;
