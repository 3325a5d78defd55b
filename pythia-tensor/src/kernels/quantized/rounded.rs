//! Activations as products with quantised weights take them.
//!
//! They were written by several cores, and rounding waits for them unless it asks ahead: on two Zen 5 cores a layer's products with 512 rows
//! (410m), rounding included, reached 0.66 of the peak, asking 1, 2 or 4 KB ahead 0.73 (int4 0.65 and 0.72).

#[cfg(target_arch = "x86_64")]
use super::nibbles;
use super::{AsInt8, Codes};
use crate::Isa;
use crate::quantized::{BLOCK, Bits, GROUP, ZERO};
#[cfg(target_arch = "x86_64")]
use crate::simd::amx::Matrix;
use crate::simd::int8::{Int8, stamp_int8};
use crate::simd::{AHEAD, Arithmetic, Simd};
use std::ops::Range;

/// How rows of rounded activations lie in memory: `[K / 512]` blocks of
///
/// ```text
/// header  the scale, f32: activation ~= scale * code; what a kernel wants to know of the codes' sums; and what fills a cache line
/// codes   [512] i8, or i16
/// ```
///
/// Where weights are multiplied as bytes, the scale is followed by -128 times the sum of the codes, an i32, so that weights count from 0
/// and not from `ZERO`. Where they are multiplied in two parts, codes have 16 bits, elements 0 2 1 3 of every four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    /// 32-bit words of a header.
    pub(super) header: usize,
    /// 32-bit words of four codes.
    pub(super) words: usize,
}

impl Form {
    /// The one that products with weights of so many bits take.
    pub(crate) fn of(isa: Isa, bits: Bits) -> Self {
        match bits {
            Bits::Int8 => int8_form(isa),
            Bits::Int4 => int4_form(isa),
        }
    }

    /// 32-bit words of a row of `k` activations: whole cache lines where headers are such.
    #[inline(always)]
    pub(crate) fn len(self, k: usize) -> usize {
        let line = if self.header.is_multiple_of(16) { 16 } else { 1 };
        self.used(k).next_multiple_of(line)
    }

    /// Those of them that hold something.
    #[inline(always)]
    pub(super) fn used(self, k: usize) -> usize {
        k.div_ceil(BLOCK) * self.header + k.next_multiple_of(GROUP) / 4 * self.words
    }
}

/// Rows of activations in codes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounded<'a> {
    words: &'a [f32],
    pub(super) k: usize,
    pub(super) form: Form,
}

impl<'a> Rounded<'a> {
    /// What [`round_activations`] wrote for rows of `k`.
    pub(crate) fn new(words: &'a [f32], k: usize, form: Form) -> Self {
        assert!(words.len().is_multiple_of(form.len(k)), "{} words in rows of {k}", words.len());
        Self { words, k, form }
    }

    pub(super) fn rows(&self) -> usize {
        self.words.len() / self.form.len(self.k)
    }

    /// The block at element `at` of row `m`, and of those after it.
    #[inline(always)]
    pub(super) fn block(&self, m: usize, at: usize) -> &'a [f32] {
        let (row, block) = (self.form.len(self.k), self.form.len(BLOCK));
        &self.words[m * row + at / BLOCK * block..(m + 1) * row]
    }

    /// The codes of the block at element `at` of row `m`, and of the rows after it.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn lines(&self, m: usize, at: usize) -> Matrix<'a> {
        let (row, block) = (self.form.len(self.k), self.form.len(BLOCK));
        let words = &self.words[m * row + at / BLOCK * block + self.form.header..];
        Matrix { bytes: bytemuck::cast_slice(words), stride: 4 * row }
    }

    pub(crate) fn slice_rows(self, rows: Range<usize>) -> Self {
        let row = self.form.len(self.k);
        Self { words: &self.words[rows.start * row..rows.end * row], ..self }
    }
}

/// Rounds a row of activations to codes; `out` has [`Form::len`] words. A block with a number that is not finite gets a scale that
/// is not a number.
pub(crate) fn round_activations(isa: Isa, form: Form, a: &[f32], out: &mut [f32]) {
    assert_eq!(out.len(), form.len(a.len()), "words of {} activations", a.len());
    if form == int8_form(isa) {
        round_for_int8(isa, a, out);
    } else {
        assert_eq!(form, int4_form(isa), "a form of {isa}");
        round_for_int4(isa, a, out);
    }
}

stamp_int8! {
    /// [`Int8::PARTS`] of an instruction set.
    pub(crate) fn parts() -> usize = parts_body;

    fn int8_form() -> Form = form_body;
    fn int4_form() -> Form = form_body, avx2 = nibbles::form_body;
    fn round_for_int8(a: &[f32], out: &mut [f32]) = round_body;
    fn round_for_int4(a: &[f32], out: &mut [f32]) = round_body, avx2 = nibbles::round_body;
}

#[inline(always)]
fn parts_body<D: Int8>(_: D) -> usize {
    D::PARTS
}

#[inline(always)]
fn form_body<D: Int8>(_: D) -> Form {
    <AsInt8 as Codes<D>>::FORM
}

/// The scale of a block of activations, and its inverse in all lanes.
#[inline(always)]
pub(super) fn scale<D: Int8>(d: D, block: &[f32]) -> (f32, <D::F32s as Arithmetic>::F32) {
    let s = d.f32s();
    let (mut top, mut not_finite) = (s.zero(), s.zero());
    for x in block.chunks(D::LANES) {
        // They were written by other cores, and no prefetcher of the hardware follows from one page to the next.
        s.prefetch(x.as_ptr().wrapping_byte_add(AHEAD));
        let x = s.load_part(x);
        top = s.max(s.abs(x), top);
        not_finite = s.mul_add(x, s.zero(), not_finite);
    }
    let top = s.reduce_max(top);
    (top / 127.0 + s.sum(not_finite), s.splat(inverse(top)))
}

/// `127 / top`, or 0 where that is no number: numbers so small are taken for zeros.
#[inline(always)]
pub(super) fn inverse(top: f32) -> f32 {
    let inverse = 127.0 / top;
    if inverse.is_finite() { inverse } else { 0.0 }
}

#[inline(always)]
fn round_body<D: Int8>(d: D, a: &[f32], out: &mut [f32]) {
    let (s, mut rest) = (d.f32s(), out);
    for block in a.chunks(BLOCK) {
        let (words, tail) = rest.split_at_mut(form_body(d).len(block.len()));
        rest = tail;
        let (header, codes) = words.split_at_mut(D::HEADER);
        let (scale, inverse) = scale(d, block);
        let codes: &mut [i8] = bytemuck::cast_slice_mut(codes);
        let mut total = s.zero();
        for (i, codes) in codes.chunks_exact_mut(D::LANES * D::PARTS).enumerate() {
            let x = s.load_part(block.get(i * D::LANES..).unwrap_or_default());
            let code = s.round(s.mul(x, inverse));
            total = s.add(total, code);
            d.store_codes(code, codes);
        }
        header[0] = scale;
        header[1] = f32::from_bits((-i32::from(ZERO) * s.sum(total) as i32) as u32);
    }
}
