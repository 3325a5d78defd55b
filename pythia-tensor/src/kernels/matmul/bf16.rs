//! Products of pairs of bf16 numbers with sums in `f32` (`vdpbf16ps`), for weights of any type.
//!
//! Activations are rounded to bf16 once a product ([`round_row`]), weights once a group of rows, into the first-level
//! cache: a rounding costs more than a multiplication. The order of the sums is that of the exact kernel with vectors
//! of twice as many elements, so that here too a row's bits are its own.
//!
//! With few rows of activations the exact kernel is faster, since reading the weights is what takes the time: one row at
//! 30 GB/s against 25 here, eight at 19 against 17. So [`Weight::Bf16`](crate::ops::Weight::Bf16) uses this one for more.

use super::{AHEAD, COLUMNS, Dot, Group, KC, columns};
use crate::kernels::rows::Epilogue;
use crate::simd::{Avx512, Pairs, Simd, Which};
use crate::{Element, Isa, Mat, Tile};
use half::bf16;
use std::marker::PhantomData;

/// Rows of a group.
const ROWS: usize = 8;

/// Elements from one rounded row to the next: a cache line more than a block. Rows a power of two apart would share
/// their places in the cache, and the kernel runs at 0.63 of its peak instead of 0.75.
const STRIDE: usize = KC + 32;

struct Rounded<W>(Pairs, PhantomData<W>);

impl<W> Clone for Rounded<W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W> Copy for Rounded<W> {}

impl<W: Element> Dot<Avx512> for Rounded<W> {
    type A = bf16;
    type W = W;
    type Ready = bf16;
    type Memory = [[bf16; STRIDE]; ROWS];
    type V = std::arch::x86_64::__m512bh;
    const STEP: usize = 32;

    #[inline(always)]
    #[allow(clippy::large_stack_arrays, reason = "33 KB, on threads of ours")]
    fn memory() -> Self::Memory {
        [[bf16::ZERO; STRIDE]; ROWS]
    }

    #[inline(always)]
    fn ready<'w, const N: usize>(
        self,
        s: Avx512,
        group: Group<'w, W>,
        len: usize,
        memory: &'w mut Self::Memory,
    ) -> Group<'w, bf16> {
        for start in (0..len).step_by(AHEAD) {
            let part = start..len.min(start + AHEAD);
            group.prefetch(s, N, part.clone());
            for (j, out) in memory[..N].iter_mut().enumerate() {
                let row = &group.rows[j * group.stride..][part.clone()];
                let (whole, rest) = row.as_chunks::<32>();
                let (out, end) = out[part.clone()].as_chunks_mut::<32>();
                for (x, out) in whole.iter().zip(out) {
                    self.0.round(W::load(s, &x[..16]), W::load(s, &x[16..]), out);
                }
                if !rest.is_empty() {
                    let (x, mut out) = (super::padded(rest), [bf16::ZERO; 32]);
                    self.0.round(W::load(s, &x[..16]), W::load(s, &x[16..]), &mut out);
                    end.copy_from_slice(&out[..rest.len()]);
                }
            }
        }
        Group { rows: memory.as_flattened(), stride: STRIDE, ahead: None }
    }
    #[inline(always)]
    fn activations(self, _: Avx512, x: &[bf16]) -> Self::V {
        self.0.load(x)
    }
    #[inline(always)]
    fn weights(self, _: Avx512, x: &[bf16]) -> Self::V {
        self.0.load(x)
    }
    #[inline(always)]
    fn mul_add(self, _: Avx512, a: Self::V, w: Self::V, sum: <Avx512 as Simd>::F32) -> <Avx512 as Simd>::F32 {
        self.0.mul_add(a, w, sum)
    }
}

/// As the exact kernel, in bf16: `a` is rounded already.
///
/// # Panics
/// If the instruction set has no products of bf16.
pub(crate) fn linear_bf16<W: Element>(
    isa: Isa,
    a: Mat<'_, bf16>,
    w: &[W],
    then: Epilogue<'_>,
    out: &mut Tile<'_>,
) {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn avx512<W: Element>(
        (s, pairs): (Avx512, Pairs),
        a: Mat<'_, bf16>,
        w: &[W],
        then: Epilogue<'_>,
        out: &mut Tile<'_>,
    ) {
        let dot = Rounded::<W>(pairs, PhantomData);
        columns::<_, _, ROWS>(s, dot, a.slice_rows(out.rows()), w, COLUMNS, then, out);
    }
    assert!(isa.which() == Which::Avx512Bf16, "products of bf16 need `avx512bf16`, not `{isa}`");
    // SAFETY: an `Isa` exists only for instruction sets that were detected on this machine.
    unsafe { avx512((Avx512::new(), Pairs::new()), a, w, then, out) }
}

/// Rounds a row of activations to bf16, to nearest, ties to even; subnormal numbers become zero.
///
/// # Panics
/// As [`linear_bf16`]; and if the lengths differ.
pub(crate) fn round_row(isa: Isa, x: &[f32], out: &mut [bf16]) {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn avx512((s, pairs): (Avx512, Pairs), x: &[f32], out: &mut [bf16]) {
        for (x, out) in x.chunks(32).zip(out.chunks_mut(32)) {
            let (x, mut whole) = (super::padded(x), [bf16::ZERO; 32]);
            pairs.round(s.load(&x[..16]), s.load(&x[16..]), &mut whole);
            out.copy_from_slice(&whole[..out.len()]);
        }
    }
    assert!(isa.which() == Which::Avx512Bf16, "rounding to bf16 needs `avx512bf16`, not `{isa}`");
    assert_eq!(x.len(), out.len(), "activations");
    // SAFETY: as above.
    unsafe { avx512((Avx512::new(), Pairs::new()), x, out) }
}
