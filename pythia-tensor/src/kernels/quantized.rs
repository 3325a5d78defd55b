//! `a · wᵀ` with int8 or int4 weights, and activations that are rounded to int8 in blocks of K.

use crate::Mat;
use crate::quantized::{BLOCK, Bits, GROUP, PANEL, Quantized, ZERO};
use crate::simd::Simd;
use crate::simd::int8::{Int8, stamp_int8};
use std::ops::Range;

/// 32-bit words before the codes of a block of activations: the scale, and what the sums start from.
const HEADER: usize = 2;

/// 32-bit words of `k` rounded activations.
pub(crate) fn rounded_len(k: usize) -> usize {
    k.div_ceil(BLOCK) * HEADER + k.next_multiple_of(GROUP) / 4
}

/// Rows of activations in codes, `[M]` times `[K / 256]` blocks of
///
/// ```text
/// scale   f32: activation ~= scale * code
/// start   i32: -128 times the sum of the codes, so that weights count from 0 and not from ZERO
/// codes   [256] i8
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounded<'a> {
    words: &'a [f32],
    k: usize,
}

impl<'a> Rounded<'a> {
    /// What [`round_activations`] wrote for rows of `k`.
    pub(crate) fn new(words: &'a [f32], k: usize) -> Self {
        assert!(words.len().is_multiple_of(rounded_len(k)), "{} words in rows of {k}", words.len());
        Self { words, k }
    }

    pub(crate) fn rows(&self) -> usize {
        self.words.len() / rounded_len(self.k)
    }

    /// The block at element `at` of row `m`, and of those after it.
    #[inline(always)]
    fn block(&self, m: usize, at: usize) -> &'a [f32] {
        let row = rounded_len(self.k);
        &self.words[m * row + at / BLOCK * (HEADER + BLOCK / 4)..(m + 1) * row]
    }

    pub(crate) fn slice_rows(self, rows: Range<usize>) -> Self {
        let row = rounded_len(self.k);
        Self { words: &self.words[rows.start * row..rows.end * row], ..self }
    }
}

/// The kernel's working memory, one per thread: int4 weights of a block as bytes.
#[derive(Default)]
pub(crate) struct Expanded(Vec<Line>);

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

stamp_int8! {
    /// Rounds a row of activations to codes; `out` has [`rounded_len`] words. A block with a number that is not finite
    /// gets a scale that is not a number.
    pub(crate) fn round_activations(a: &[f32], out: &mut [f32]) = round_body;

    /// `out[m][n] = sum over k of a[m][k] * w[n][k]` for the rows of weights `cols`, which start with a panel; the rows of
    /// `out` are whole panels long.
    pub(crate) fn quantized_products(a: Rounded<'_>, w: &Quantized, cols: Range<usize>, out: &mut [f32], scratch: &mut Expanded) = products_body;
}

#[inline(always)]
fn round_body<D: Int8>(d: D, a: &[f32], out: &mut [f32]) {
    let s = d.f32s();
    assert_eq!(out.len(), rounded_len(a.len()), "words of {} activations", a.len());
    let mut rest = out;
    for block in a.chunks(BLOCK) {
        let (words, tail) = rest.split_at_mut(HEADER + block.len().next_multiple_of(GROUP) / 4);
        rest = tail;
        let (header, codes) = words.split_at_mut(HEADER);
        let (mut top, mut not_finite) = (s.zero(), s.zero());
        for x in block.chunks(D::LANES) {
            let x = s.load_part(x);
            top = s.max(s.abs(x), top);
            not_finite = s.mul_add(x, s.zero(), not_finite);
        }
        let top = s.reduce_max(top);
        let inverse = s.splat(if top > 0.0 { 127.0 / top } else { 0.0 });
        let codes: &mut [i8] = bytemuck::cast_slice_mut(codes);
        let mut total = s.zero();
        for (i, codes) in codes.chunks_exact_mut(D::LANES).enumerate() {
            let x = s.load_part(block.get(i * D::LANES..).unwrap_or_default());
            let code = s.round(s.mul(x, inverse));
            total = s.add(total, code);
            d.store_codes(code, codes);
        }
        header[0] = top / 127.0 + s.sum(not_finite);
        header[1] = f32::from_bits((-i32::from(ZERO) * s.sum(total) as i32) as u32);
    }
}

/// Most rows of activations that a pass over a block of weights takes: 6 x 4 sums fill the registers of AVX-512 with
/// room for what is multiplied; 4 x 2 those of AVX2, whose factors take two registers each.
#[inline(always)]
fn products_body<D: Int8>(
    d: D,
    a: Rounded<'_>,
    w: &Quantized,
    cols: Range<usize>,
    out: &mut [f32],
    scratch: &mut Expanded,
) {
    let (panels, rows) = (cols.len().div_ceil(PANEL), a.rows());
    assert!(a.k == w.shape()[1] && cols.start.is_multiple_of(PANEL), "{cols:?} of {w:?}");
    assert_eq!(out.len(), rows * panels * PANEL, "outputs");
    let panel_bytes = w.panel_bytes();
    let bytes = &w.bytes()[cols.start / PANEL * panel_bytes..][..panels * panel_bytes];
    match (rows, D::LANES) {
        (0, _) => {}
        (1, 16) => one_row::<D, 1, 4>(d, a, bytes, w.bits(), out),
        (1, 8) => one_row::<D, 2, 2>(d, a, bytes, w.bits(), out),
        (1, _) => one_row::<D, 4, 1>(d, a, bytes, w.bits(), out),
        (_, 16) => many_rows::<D, 1, 4>(d, a, bytes, w.bits(), out, scratch),
        (_, 8) => many_rows::<D, 2, 1>(d, a, bytes, w.bits(), out, scratch),
        (_, _) => many_rows::<D, 4, 1>(d, a, bytes, w.bits(), out, scratch),
    }
}

/// One row: every panel is a stream of its own. `V` vectors make a line, `C` chains of sums run side by side.
#[inline(always)]
fn one_row<D: Int8, const V: usize, const C: usize>(
    d: D,
    a: Rounded<'_>,
    panels: &[u8],
    bits: Bits,
    out: &mut [f32],
) {
    let s = d.f32s();
    let k = a.k;
    for (panel, out) in
        panels.chunks_exact(panels.len() / (out.len() / PANEL)).zip(out.chunks_exact_mut(PANEL))
    {
        let mut totals = [s.zero(); V];
        let mut rest = panel;
        for at in (0..k).step_by(BLOCK) {
            let words = a.block(0, at);
            let len = BLOCK.min((k - at).next_multiple_of(GROUP));
            let (block, tail) = rest.split_at(bits.header() + bits.codes(len));
            rest = tail;
            let mut sums = [[d.splat(0); V]; C];
            sums[0] = [d.splat(words[1].to_bits() as i32); V];
            let quads = &words[HEADER..][..len / 4];
            let (header, codes) = block.split_at(bits.header());
            match bits {
                Bits::Int8 => dot_int8(d, &mut sums, codes, quads),
                Bits::Int4 => dot_int4(d, &mut sums, &header[4 * PANEL..], codes, quads),
            }
            let scales: &[f32] = bytemuck::cast_slice(&header[..4 * PANEL]);
            for v in 0..V {
                let mut sum = sums[0][v];
                for c in 1..C {
                    sum = d.add(sum, sums[c][v]);
                }
                let scale = s.mul(s.load(&scales[v * D::LANES..]), s.splat(words[0]));
                totals[v] = s.add(totals[v], s.mul(d.to_f32(sum), scale));
            }
        }
        for v in 0..V {
            s.store(totals[v], &mut out[v * D::LANES..]);
        }
    }
}

/// Adds a block's products of one panel and one row.
#[inline(always)]
fn dot_int8<D: Int8, const V: usize, const C: usize>(
    d: D,
    sums: &mut [[D::Sums; V]; C],
    codes: &[u8],
    quads: &[f32],
) {
    for (lines, quads) in codes.chunks_exact(C * 64).zip(quads.chunks_exact(C)) {
        for c in 0..C {
            let quad = d.quad(quads[c].to_bits() as i32);
            for v in 0..V {
                let w = d.weights(d.load(&lines[c * 64 + v * 4 * D::LANES..]));
                sums[c][v] = d.dot(sums[c][v], w, quad);
            }
        }
    }
}

/// Lines of int4 codes in a group.
const LINES: usize = GROUP / 8;

/// The same of int4 codes.
#[inline(always)]
fn dot_int4<D: Int8, const V: usize, const C: usize>(
    d: D,
    sums: &mut [[D::Sums; V]; C],
    groups: &[u8],
    codes: &[u8],
    quads: &[f32],
) {
    let groups = groups.chunks_exact(PANEL);
    for ((lines, quads), group) in
        codes.chunks_exact(64 * LINES).zip(quads.chunks_exact(2 * LINES)).zip(groups)
    {
        for v in 0..V {
            let group = d.group(&group[v * D::LANES..]);
            for i in 0..LINES {
                let bytes = d.expand(d.load(&lines[i * 64 + v * 4 * D::LANES..]), group);
                for (half, bytes) in bytes.into_iter().enumerate() {
                    let step = 2 * i + half;
                    let quad = d.quad(quads[step].to_bits() as i32);
                    sums[step % C][v] = d.dot(sums[step % C][v], d.weights(bytes), quad);
                }
            }
        }
    }
}

/// Any number of rows: `P` panels of `V` vectors at a time, block by block, so that the block's weights are in the
/// first-level cache for all passes over the rows.
#[inline(always)]
fn many_rows<D: Int8, const V: usize, const P: usize>(
    d: D,
    a: Rounded<'_>,
    panels: &[u8],
    bits: Bits,
    out: &mut [f32],
    scratch: &mut Expanded,
) {
    let (rows, stride) = (a.rows(), out.len() / a.rows());
    let panel_bytes = panels.len() / (stride / PANEL);
    if scratch.0.len() < P * BLOCK / 4 {
        scratch.0.resize(P * BLOCK / 4, Line([0; 64]));
    }
    let scratch: &mut [u8] = bytemuck::cast_slice_mut(&mut scratch.0);
    out.fill(0.0);
    for (p, group) in panels.chunks(P * panel_bytes).enumerate() {
        let count = group.len() / panel_bytes;
        let mut start = 0;
        for at in (0..a.k).step_by(BLOCK) {
            let len = BLOCK.min((a.k - at).next_multiple_of(GROUP));
            let block: [&[u8]; P] = std::array::from_fn(|i| {
                // Past the last panel, it is used again and its result dropped.
                &group[i.min(count - 1) * panel_bytes + start..][..bits.header() + bits.codes(len)]
            });
            start += block[0].len();
            let scales: [&[f32]; P] = std::array::from_fn(|i| bytemuck::cast_slice(&block[i][..4 * PANEL]));
            let codes: [&[u8]; P] = match bits {
                Bits::Int8 => std::array::from_fn(|i| &block[i][bits.header()..]),
                Bits::Int4 => {
                    for (block, out) in block.iter().zip(scratch.chunks_exact_mut(PANEL * BLOCK)) {
                        expand_block::<D, V>(d, &block[4 * PANEL..], len, out);
                    }
                    std::array::from_fn(|i| &scratch[i * PANEL * BLOCK..][..len * PANEL])
                }
            };
            let mut first = 0;
            let passes = rows.div_ceil(6);
            for pass in 0..passes {
                let end = rows * (pass + 1) / passes;
                let out = &mut out[first * stride + p * P * PANEL..];
                let run = (a, at, first);
                match end - first {
                    1 => tile::<D, 1, V, P>(d, run, codes, scales, count, out, stride),
                    2 => tile::<D, 2, V, P>(d, run, codes, scales, count, out, stride),
                    3 => tile::<D, 3, V, P>(d, run, codes, scales, count, out, stride),
                    4 => tile::<D, 4, V, P>(d, run, codes, scales, count, out, stride),
                    5 => tile::<D, 5, V, P>(d, run, codes, scales, count, out, stride),
                    _ => tile::<D, 6, V, P>(d, run, codes, scales, count, out, stride),
                }
                first = end;
            }
        }
    }
}

/// A panel's block of int4 weights as the bytes of int8.
#[inline(always)]
fn expand_block<D: Int8, const V: usize>(d: D, groups: &[u8], len: usize, out: &mut [u8]) {
    let (groups, codes) = groups.split_at(BLOCK / GROUP * PANEL);
    for g in 0..len / GROUP {
        for v in 0..V {
            let group = d.group(&groups[g * PANEL + v * D::LANES..]);
            for i in 0..LINES {
                let line = g * LINES + i;
                let [low, high] = d.expand(d.load(&codes[line * 64 + v * 4 * D::LANES..]), group);
                d.store(low, &mut out[2 * line * 64 + v * 4 * D::LANES..]);
                d.store(high, &mut out[(2 * line + 1) * 64 + v * 4 * D::LANES..]);
            }
        }
    }
}

/// Adds the products of `M` rows with `P` panels over one block to rows of `out` that are `stride` apart.
#[inline(always)]
fn tile<D: Int8, const M: usize, const V: usize, const P: usize>(
    d: D,
    (a, at, first): (Rounded<'_>, usize, usize),
    codes: [&[u8]; P],
    scales: [&[f32]; P],
    count: usize,
    out: &mut [f32],
    stride: usize,
) {
    let s = d.f32s();
    let rows: [&[f32]; M] = std::array::from_fn(|m| a.block(first + m, at));
    let steps = codes[0].len() / 64;
    assert!(
        rows.iter().all(|row| row.len() >= HEADER + steps) && codes.iter().all(|c| c.len() == 64 * steps)
    );
    let mut sums: [[[D::Sums; V]; P]; M] =
        std::array::from_fn(|m| [[d.splat(rows[m][1].to_bits() as i32); V]; P]);
    for step in 0..steps {
        let mut w = [[d.weights(d.load(codes[0])); V]; P];
        for p in 0..P {
            for v in 0..V {
                let at = step * 64 + v * 4 * D::LANES;
                // SAFETY: `step` is below the lines of every panel, and `V * LANES` rows make a line.
                w[p][v] = d.weights(d.load(unsafe { codes[p].get_unchecked(at..at + 4 * D::LANES) }));
            }
        }
        for m in 0..M {
            // SAFETY: every row has so many quads.
            let quad = d.quad(unsafe { rows[m].get_unchecked(HEADER + step) }.to_bits() as i32);
            for p in 0..P {
                for v in 0..V {
                    sums[m][p][v] = d.dot(sums[m][p][v], w[p][v], quad);
                }
            }
        }
    }
    for p in 0..P {
        for v in 0..if p < count { V } else { 0 } {
            let scale = s.load(&scales[p][v * D::LANES..]);
            for m in 0..M {
                let out = &mut out[m * stride + p * PANEL + v * D::LANES..][..D::LANES];
                let term = s.mul(d.to_f32(sums[m][p][v]), s.mul(scale, s.splat(rows[m][0])));
                s.store(s.add(s.load(out), term), out);
            }
        }
    }
}

/// The plain twin of the kernel: the same codes, in `f64`.
pub fn quantized_matmul_reference(a: Mat<'_>, w: &Quantized) -> Vec<f64> {
    let mut out = Vec::new();
    for m in 0..a.rows() {
        for n in 0..w.shape()[0] {
            let blocks = a.row(m).chunks(BLOCK).enumerate().map(|(b, block)| {
                let top = block.iter().fold(0.0_f32, |top, x| x.abs().max(top));
                let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
                let codes = block.iter().map(|a| (a * inverse).round_ties_even() as i64);
                let sum: i64 = codes.zip(b * BLOCK..).map(|(a, k)| a * i64::from(w.code(n, k))).sum();
                sum as f64 * f64::from(top / 127.0) * f64::from(w.scale(n, b * BLOCK))
            });
            out.push(blocks.sum());
        }
    }
    out
}
