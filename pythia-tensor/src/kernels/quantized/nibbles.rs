//! int4 weights that are multiplied as nibbles, where the product of bytes has 16 bits (AVX2).
//!
//! ```text
//! integer sum = sum over groups of step * (sum over the group of nibble * activation code)
//!             - sum over groups of step * zero * (sum over the group of activation codes)
//! ```
//!
//! A product of nibble and byte is at most 15 x 128, so that the sixteen of a group that meet in 16 bits fit. The second line is what
//! the sums of a block start from: the activations bring their groups' sums along. The sums are the same integers that bytes give, as
//! long as every code of the weights fits a byte; [`Quantized::quantize`](crate::Quantized::quantize) makes no other.
//!
//! Up to six rows go through [`streams`], which reads the panels as one stream (one row: two streams). For more, [`many_rows`] writes a block's nibbles
//! into the first-level cache, a byte each.
//!
//! Measured on a Zen 3 core as fractions of the same run's peak of `f32` multiply-adds (best of several runs; other machines' work on
//! the same core moves them by 0.1), the products of a layer with C = 1024:
//!
//! | rows | weights expanded to bytes, these widened to 16 bits | nibbles (this) |
//! |---|---|---|
//! | 512 | 1.15 | 1.75 |
//! | 16 | 1.14 | 1.72 |
//! | 8 | 1.06 | 1.4-1.5 |
//! | 2, from memory | 0.65 | 0.95 |
//!
//! A start of zero x sums for every group instead of one of step x zero x sums for a block: 1.68 and 1.64. Seven and eight rows as one
//! stream are as fast as by [`many_rows`].

use super::rounded::scale;
use super::streams::streams;
use super::{Codes, Form, GROUPS, LINES, PASS, Panels, Rounded};
use crate::memory::Lines;
use crate::quantized::{BLOCK, Bits, GROUP, PANEL};
use crate::simd::int8::Nibbles;
use crate::simd::{AHEAD, Arithmetic, Simd};

/// 32-bit words before the codes of a block of activations: the scale, and for every two groups minus the sums of their codes, in
/// 16 bits each.
const HEADER: usize = 1 + PAIRS;

/// Pairs of groups of a block.
const PAIRS: usize = BLOCK / GROUP / 2;

/// 32-bit words of a group's codes.
const WORDS: usize = GROUP / 4;

/// Vectors of a panel's rows.
const VECTORS: usize = 2;

#[inline(always)]
pub(super) fn form_body<D: Nibbles>(_: D) -> Form {
    <AsNibbles as Codes<D>>::FORM
}

#[inline(always)]
pub(super) fn round_body<D: Nibbles>(d: D, a: &[f32], out: &mut [f32]) {
    let (s, mut rest) = (d.f32s(), out);
    for block in a.chunks(BLOCK) {
        let (words, tail) = rest.split_at_mut(form_body(d).len(block.len()));
        rest = tail;
        let (header, codes) = words.split_at_mut(HEADER);
        let (scale, inverse) = scale(d, block);
        let codes: &mut [i8] = bytemuck::cast_slice_mut(codes);
        for (i, codes) in codes.chunks_exact_mut(D::LANES).enumerate() {
            let x = s.load_part(block.get(i * D::LANES..).unwrap_or_default());
            d.store_bytes(s.round(s.mul(x, inverse)), codes);
        }
        let mut sums = [0_i16; 2 * PAIRS];
        for (sum, group) in sums.iter_mut().zip(codes.chunks_exact(GROUP)) {
            *sum = -group.iter().map(|&code| i16::from(code)).sum::<i16>();
        }
        header[0] = scale;
        for (word, &pair) in header[1..].iter_mut().zip(sums.as_chunks::<2>().0) {
            *word = bytemuck::cast(pair);
        }
    }
}

#[inline(always)]
pub(super) fn products_body<D: Nibbles>(
    d: D,
    a: Rounded<'_>,
    w: Panels<'_>,
    out: &mut [f32],
    scratch: &mut Lines,
) {
    assert_eq!(VECTORS * D::LANES, PANEL, "rows of a panel");
    match a.rows() {
        1 => streams::<D, AsNibbles, 1, VECTORS, 2>(d, a, w, out),
        2 => streams::<D, AsNibbles, 2, VECTORS, 1>(d, a, w, out),
        3 => streams::<D, AsNibbles, 3, VECTORS, 1>(d, a, w, out),
        4 => streams::<D, AsNibbles, 4, VECTORS, 1>(d, a, w, out),
        5 => streams::<D, AsNibbles, 5, VECTORS, 1>(d, a, w, out),
        6 => streams::<D, AsNibbles, 6, VECTORS, 1>(d, a, w, out),
        _ => many_rows(d, a, w, out, scratch),
    }
}

/// Nibbles as they are stored.
struct AsNibbles;

impl<D: Nibbles> Codes<D> for AsNibbles {
    const BITS: Bits = Bits::Int4;
    const FORM: Form = Form { header: HEADER, words: 1 };

    #[inline(always)]
    fn start(d: D, _: &[f32]) -> D::Sums {
        d.splat(0)
    }

    #[inline(always)]
    fn dot<const M: usize, const V: usize, const P: usize>(
        d: D,
        sums: &mut [[[D::Sums; V]; P]; M],
        blocks: &[&[u8]; P],
        rows: &[&[f32]; M],
    ) {
        let count = (blocks[0].len() - GROUPS) / (64 * LINES);
        assert!(rows.iter().all(|row| row.len() == HEADER + count * WORDS), "words of a row");
        for pair in 0..count.div_ceil(2) {
            for p in 0..P {
                let (groups, codes) = blocks[p].split_at(GROUPS);
                for v in 0..V {
                    let (one, other) = groups[2 * pair * PANEL..][..2 * PANEL].split_at(PANEL);
                    let one = d.step_and_zero(&one[v * D::LANES..]);
                    let other = d.step_and_zero(&other[v * D::LANES..]);
                    let (offsets, steps) = (d.offsets(one, other), [one[0], other[0]]);
                    for m in 0..M {
                        // SAFETY: a header has a word for every two groups.
                        let word = unsafe { word(rows[m], 1 + pair) };
                        sums[m][p][v] = d.dot(sums[m][p][v], offsets, word);
                    }
                    for g in 2 * pair..count.min(2 * pair + 2) {
                        let lines = &codes[g * 64 * LINES..][..64 * LINES];
                        let mut shorts = [offsets; M];
                        for i in 0..LINES {
                            if v == 0 {
                                d.f32s().prefetch(lines.as_ptr().wrapping_add(64 * i + AHEAD));
                            }
                            let halves = d.nibbles(d.load(&lines[i * 64 + v * 4 * D::LANES..]));
                            for half in 0..2 {
                                for m in 0..M {
                                    // SAFETY: there is a word for both halves of every line of `count` groups.
                                    let word = unsafe { word(rows[m], HEADER + g * WORDS + 2 * i + half) };
                                    let products = d.multiply(halves[half], word);
                                    let first = i + half == 0;
                                    shorts[m] =
                                        if first { products } else { d.add_shorts(shorts[m], products) };
                                }
                            }
                        }
                        for m in 0..M {
                            sums[m][p][v] = d.dot_shorts(sums[m][p][v], shorts[m], steps[g % 2]);
                        }
                    }
                }
            }
        }
    }
}

/// A word of a row of activations, unchecked for the innermost loops.
///
/// # Safety
/// `at` must lie in the row.
#[inline(always)]
unsafe fn word(row: &[f32], at: usize) -> i32 {
    debug_assert!(at < row.len(), "word {at} of {}", row.len());
    // SAFETY: the caller's promise.
    unsafe { row.get_unchecked(at) }.to_bits() as i32
}

/// A block of a panel as [`tile`] takes it: vectors that are loaded and multiplied.
struct Block<'s> {
    /// `[K / 4][VECTORS]`: four elements of each row, a byte each.
    nibbles: &'s mut [u8],
    /// `[K / GROUP][VECTORS]`
    steps: &'s mut [u8],
    /// `[PAIRS][VECTORS]`: see [`Nibbles::offsets`].
    offsets: &'s mut [u8],
}

impl<'s> Block<'s> {
    fn in_memory(scratch: &'s mut Lines) -> Self {
        let (nibbles, steps) = (BLOCK * PANEL, BLOCK / GROUP * 4 * PANEL);
        let memory = scratch.at_least(nibbles + steps + PAIRS * 4 * PANEL);
        let (nibbles, rest) = memory.split_at_mut(nibbles);
        let (steps, offsets) = rest.split_at_mut(steps);
        Self { nibbles, steps, offsets }
    }

    #[inline(always)]
    fn write<D: Nibbles>(&mut self, d: D, groups: &[u8], codes: &[u8]) {
        let line = 4 * D::LANES;
        for i in 0..codes.len() / line {
            let halves = d.nibbles(d.load(&codes[i * line..]));
            for half in 0..2 {
                let at = (i / VECTORS * 2 + half) * VECTORS + i % VECTORS;
                d.store(halves[half], &mut self.nibbles[at * line..]);
            }
        }
        for pair in 0..PAIRS {
            for v in 0..VECTORS {
                let (one, other) = groups[2 * pair * PANEL..][..2 * PANEL].split_at(PANEL);
                let one = d.step_and_zero(&one[v * D::LANES..]);
                let other = d.step_and_zero(&other[v * D::LANES..]);
                d.store(one[0], &mut self.steps[(2 * pair * VECTORS + v) * line..]);
                d.store(other[0], &mut self.steps[((2 * pair + 1) * VECTORS + v) * line..]);
                d.store(d.offsets(one, other), &mut self.offsets[(pair * VECTORS + v) * line..]);
            }
        }
    }
}

/// Any number of rows, in equal passes: a panel at a time, block by block.
#[inline(always)]
fn many_rows<D: Nibbles>(d: D, a: Rounded<'_>, w: Panels<'_>, out: &mut [f32], scratch: &mut Lines) {
    let (s, rows, stride) = (d.f32s(), a.rows(), out.len() / a.rows());
    let passes = rows.div_ceil(PASS);
    let mut expanded = Block::in_memory(scratch);
    out.fill(0.0);
    for (p, panel) in w.bytes.chunks_exact(w.len).enumerate() {
        let mut start = 0;
        for at in (0..a.k).step_by(BLOCK) {
            let len = BLOCK.min((a.k - at).next_multiple_of(GROUP));
            let size = Bits::Int4.header() + Bits::Int4.codes(len);
            let (scales, block) = panel[start..][..size].split_at(4 * PANEL);
            start += size;
            let ahead = &w.bytes[p * w.len + start..];
            let (groups, codes) = block.split_at(GROUPS);
            expanded.write(d, groups, codes);
            let mut first = 0;
            for pass in 0..passes {
                let end = rows * (pass + 1) / passes;
                // Every pass asks for its part of the next block.
                for line in (pass..size / 64).step_by(passes) {
                    s.prefetch(ahead.as_ptr().wrapping_add(64 * line));
                }
                let out = &mut out[first * stride + p * PANEL..];
                let (run, scales) = ((a, at, first), bytemuck::cast_slice(scales));
                match end - first {
                    1 => tile::<D, 1>(d, run, &expanded, len / GROUP, scales, out, stride),
                    2 => tile::<D, 2>(d, run, &expanded, len / GROUP, scales, out, stride),
                    3 => tile::<D, 3>(d, run, &expanded, len / GROUP, scales, out, stride),
                    4 => tile::<D, 4>(d, run, &expanded, len / GROUP, scales, out, stride),
                    5 => tile::<D, 5>(d, run, &expanded, len / GROUP, scales, out, stride),
                    _ => tile::<D, 6>(d, run, &expanded, len / GROUP, scales, out, stride),
                }
                first = end;
            }
        }
    }
}

/// Adds the products of `M` rows with a panel over the groups of one block to rows of `out` that are `stride` apart.
#[inline(always)]
fn tile<D: Nibbles, const M: usize>(
    d: D,
    (a, at, first): (Rounded<'_>, usize, usize),
    w: &Block<'_>,
    groups: usize,
    scales: &[f32],
    out: &mut [f32],
    stride: usize,
) {
    let (s, line) = (d.f32s(), 4 * D::LANES);
    let mut rows: [&[f32]; M] = [&[]; M];
    let mut sums = [[d.splat(0); VECTORS]; M];
    for m in 0..M {
        rows[m] = &a.block(first + m, at)[..HEADER + groups * WORDS];
    }
    for pair in 0..groups.div_ceil(2) {
        for v in 0..VECTORS {
            let offsets = d.load(&w.offsets[(pair * VECTORS + v) * line..]);
            for m in 0..M {
                // SAFETY: a header has a word for every two groups.
                sums[m][v] = d.dot(sums[m][v], offsets, unsafe { word(rows[m], 1 + pair) });
            }
        }
    }
    for g in 0..groups {
        let nibbles = &w.nibbles[g * WORDS * VECTORS * line..][..WORDS * VECTORS * line];
        let at = HEADER + g * WORDS;
        let mut shorts = [[d.load(nibbles); VECTORS]; M];
        for v in 0..VECTORS {
            let w = d.load(&nibbles[v * line..]);
            for m in 0..M {
                // SAFETY: rows have `groups * WORDS` words after their headers.
                shorts[m][v] = d.multiply(w, unsafe { word(rows[m], at) });
            }
        }
        for i in 1..WORDS {
            let mut w = [d.load(nibbles); VECTORS];
            for v in 0..VECTORS {
                w[v] = d.load(&nibbles[(i * VECTORS + v) * line..]);
            }
            for m in 0..M {
                for v in 0..VECTORS {
                    // SAFETY: as above.
                    let products = d.multiply(w[v], unsafe { word(rows[m], at + i) });
                    shorts[m][v] = d.add_shorts(shorts[m][v], products);
                }
            }
        }
        for v in 0..VECTORS {
            let step = d.load(&w.steps[(g * VECTORS + v) * line..]);
            for m in 0..M {
                sums[m][v] = d.dot_shorts(sums[m][v], shorts[m][v], step);
            }
        }
    }
    for m in 0..M {
        let out = &mut out[m * stride..][..PANEL];
        let of_row = s.splat(rows[m][0]);
        for v in 0..VECTORS {
            let out = &mut out[v * D::LANES..][..D::LANES];
            let scale = s.mul(s.load(&scales[v * D::LANES..]), of_row);
            s.store(s.add(s.load(out), s.mul(d.to_f32(sums[m][v]), scale)), out);
        }
    }
}
