//! `a · wᵀ` with int8 or int4 weights, and activations that are rounded to int8 in blocks of K.
//!
//! ```text
//! for each block of 512 elements of K:                                  (blocks in order)
//!     integer sum of weight code x activation code                      (exact, in any order)
//!     out += f32(integer sum) * (weight scale * activation scale)       (two products and a sum, not fused)
//! ```
//!
//! So a result does not depend on tiles, threads or the number of rows, nor on the instruction set, if the codes of int4 fit bytes.
//!
//! Up to four rows (int4: eight; a Zen 5: twelve) go through [`few_rows`], which reads panels that lie far apart as streams and expands
//! int4 in registers. More go through [`many_rows`]: int4 is expanded once per block into the first-level cache, and from there on is
//! int8. With AMX, [`tiles`] stands for it from five rows on. The `f32` sums live in the output; they are touched once a block. With
//! AVX2, int4 is not expanded: see `nibbles`.
//!
//! Measured on two Zen 4 cores against the same run's peak of products of bytes (`peak::int8_gops`, 935 Gop/s there), with blocks of 256 as all that follows; those of
//! 512 (see [`crate::quantized`]) only on a Zen 5:
//!
//! | shape | rows | int8 | int4 |
//! |---|---|---|---|
//! | 3072 x 1024 | 512 | 0.79-0.81 | 0.81-0.82 |
//! | 1024 x 4096 | 512 | 0.86 | 0.83 |
//! | 8192 x 2048 | 512 | 0.84 | 0.82 |
//! | 1024 x 4096 | 8 | 0.50 | 0.41 |
//!
//! int8 with AVX2, and all with AVX-512 without VNNI, is multiplied in 16 bits: 1.17 and 1.4 times the peak of AVX2's `f32`
//! multiply-adds. With AVX2 on two Zen 3 cores, as a fraction of that peak, the products of a layer with C = 1024 in int8:
//!
//! | rows | both sides widened in the tile | widened ahead (this) |
//! |---|---|---|
//! | 512 | 0.91-0.97 | 1.05-1.17 |
//! | 16 | 0.77-0.98 | 0.78-1.13 |
//!
//! The limit of that is 1.24: additions take the multiplier's ports. Products of bytes (`vpmaddubsw`) would give 1.6 but saturate
//! unless activations have 7 bits, which would be other numbers than elsewhere; with signs moved from one side to the other, 1.15.
//!
//! A stream asks memory for what lies a page ahead. The same fraction on the same machine, two threads, panels from memory, medians of
//! four runs (int4 as nibbles):
//!
//! | bytes ahead | 0 (the hardware's prefetcher alone) | 512 | 1024 | 2048 | 4096 (this) | 8192 |
//! |---|---|---|---|---|---|---|
//! | int8, 1 row | 0.17 | 0.19 | 0.19 | 0.19 | 0.19 | 0.20 |
//! | int8, 2 rows | 0.27 | 0.32 | 0.32 | 0.32 | 0.36 | 0.36 |
//! | int4, 1 row | 0.26 | 0.29 | 0.31 | 0.40 | 0.38 | 0.38 |
//! | int4, 2 rows | 0.46 | 0.50 | 0.53 | 0.65 | 0.68 | 0.67 |
//!
//! Then panels far apart, as so many streams of lines in turns, each asking a page ahead; the same machine and fraction, medians of seven
//! runs in turns (differences below 0.03 mean nothing):
//!
//! | | one stream | several |
//! |---|---|---|
//! | int8, 1 row (4 streams) | 0.19 | 0.23 |
//! | int8, 2 rows (2) | 0.38 | 0.41 |
//! | int8, 3 rows (2; before: [`many_rows`]) | 0.60 | 0.66 |
//! | int4, 1 row (2) | 0.37 | 0.42 |
//! | int4, 2 rows (4, not kept) | 0.67 | 0.59 |
//!
//! Streams in turns of blocks instead of lines, by [`many_rows`]: 0.82-0.97 of the speed of one stream for 3 to 16 rows.
//!
//! With AVX-512 on two Zen 5 cores, whose lines are asked for into the first-level cache, C = 1024, 100 to 200 MB of weights, GB/s of
//! 44 to 48 that the machine reads, medians of three to seven runs in turns:
//!
//! | | 1 row | 2 | 4 | 8 | 12 |
//! |---|---|---|---|---|---|
//! | int4, four streams (8 rows: one), 2 KB ahead | 34.6 | 33.3 | 36.3 | 28 | |
//! | int4, two streams, a page ahead | **46.0** | **40.3** | 33.5 | | |
//! | int4, one stream, a page ahead | 46.4 | 42.3 | **37.4** | **34** | **28** |
//! | int4 through [`many_rows`] | | | | | 21.5 |
//! | int8, four streams, 2 KB ahead | 47 | 43 | | | |
//! | int8, two streams, a page ahead | **48** | **44** | 43.9 | 40.5 | 40.1 |
//! | int8, one stream, a page ahead | 47 | 45.7 | **46** | **43.6** | **41** |
//! | int8 through [`many_rows`] | | | | 36 | 35 |
//!
//! (Bold: this; three rows as two. From the third-level cache, two streams of int4 are 1.2 times as fast as one with one row and 1.1 times with
//! two, where one chain of sums waits for itself.) Weights that partly stay in the third-level cache, 50 MB of them, hide all of this. Sixteen rows of int4 are as fast
//! either way. On a Zen 4, int8 lost with eight rows (below), so others stay with four and eight.
//!
//! What lost: arrays made by `from_fn`, `zip` in the loops (neither is inlined: sums go through memory, 0.57 instead of 0.81;
//! int4 decoding took twice as long); a dynamic number of panels in the tile's last loop (0.35); eight rows of int8 as one
//! stream (1.15-1.25 times the time of `many_rows`); eight rows of int4 through `many_rows` (1.5 times that of one stream); no
//! prefetching of the next block (six rows: 1.35 times the time); 512 rows a tile and four tiles a thread (0.65 instead
//! of 0.73 at 1024 x 1024).
//!
//! Asking for the first block of the next panels, too, made prompts of 512 tokens in int8 1.01 times as fast (two Zen 5 cores, 410m and 1.4b; others not measured). Nothing
//! came of asking for the activations of the next pass (1.00 to 1.01), of sums whose rows lie an odd number of lines apart (1.00 to 1.01), of finishing 64, 128 or 256
//! columns of a tile before the next (0.97 to 1.00).

#[cfg(target_arch = "x86_64")]
mod nibbles;
mod rounded;
mod streams;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

use crate::memory::Lines;
use crate::quantized::{BLOCK, Bits, GROUP, PANEL, Quantized};
use crate::simd::int8::{Expand, Int8, stamp_int8};
use crate::simd::{AHEAD, Arithmetic, Simd};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Amx, int8::Vnni};
use crate::{Isa, Mat};
use rounded::inverse;
pub(crate) use rounded::{Form, Rounded, parts, round_activations};
use std::ops::Range;
use streams::{few_rows, streams};

/// The rows of a kernel's output are a multiple of this: the columns that any instruction set computes together.
pub(crate) const COLS: usize = 64;

/// Rows that the streams take best, even where there are tiles.
const FEW: usize = 4;

/// Rows of int4 that they take best: expanding weights where they are used pays for a few more.
const FEW_INT4: usize = 8;

/// Both without AMX where lines are asked for into the first-level cache ([`Simd::near`]).
const FEW_NEAR: usize = 12;

/// Rows that [`few_rows`] takes, at least `few`.
#[inline(always)]
fn few(s: impl Simd, few: usize) -> usize {
    if s.near() { FEW_NEAR } else { few }
}

/// `out[m][n] = sum over k of a[m][k] * w[n][k]` for the rows of weights `cols`, which start with a panel; the rows of
/// `out` are a multiple of [`COLS`] long.
pub(crate) fn quantized_products(
    isa: Isa,
    a: Rounded<'_>,
    w: &Quantized,
    cols: Range<usize>,
    out: &mut [f32],
    scratch: &mut Lines,
) {
    let panels = cols.len().div_ceil(PANEL);
    assert!(
        a.k == w.shape()[1] && a.form == Form::of(isa, w.bits()) && cols.start.is_multiple_of(PANEL),
        "{cols:?} of {w:?}"
    );
    assert_eq!(out.len(), a.rows() * cols.len().next_multiple_of(COLS), "outputs");
    let panels = Panels {
        bytes: &w.bytes()[cols.start / PANEL * w.panel_bytes()..][..panels * w.panel_bytes()],
        len: w.panel_bytes(),
    };
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = isa.amx()
        && a.rows() > FEW
    {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn tiles<B: Bytes<Vnni>>(
            simd: (Vnni, Amx),
            a: Rounded<'_>,
            w: Panels<'_>,
            out: &mut [f32],
            scratch: &mut Lines,
        ) {
            tiles::tiles::<B>(simd, a, w, out, scratch);
        }
        // SAFETY: an `Isa` exists only for instruction sets that were detected on this machine.
        return unsafe {
            let simd = (Vnni::new(), amx);
            match w.bits() {
                Bits::Int8 => tiles::<AsInt8>(simd, a, panels, out, scratch),
                Bits::Int4 => tiles::<AsInt4>(simd, a, panels, out, scratch),
            }
        };
    }
    match w.bits() {
        _ if a.rows() == 0 => {}
        Bits::Int8 => int8_products(isa, a, panels, out, scratch),
        Bits::Int4 => int4_products(isa, a, panels, out, scratch),
    }
}

/// Panels of weights, of `len` bytes each.
#[derive(Clone, Copy)]
struct Panels<'w> {
    bytes: &'w [u8],
    len: usize,
}

stamp_int8! {
    fn int8_products(a: Rounded<'_>, w: Panels<'_>, out: &mut [f32], scratch: &mut Lines) = int8_body;
    fn int4_products(a: Rounded<'_>, w: Panels<'_>, out: &mut [f32], scratch: &mut Lines) = int4_body, avx2 = nibbles::products_body;
}

#[inline(always)]
fn int8_body<D: Int8>(d: D, a: Rounded<'_>, w: Panels<'_>, out: &mut [f32], scratch: &mut Lines) {
    // The length first: what is for vectors of another is not compiled.
    match D::LANES {
        16 if a.rows() <= few(d.f32s(), FEW) => few_rows::<D, AsInt8>(d, a, w, out),
        16 => many_rows::<D, AsInt8, 1, 4, 1>(d, a, w, out, scratch),
        8 => match a.rows() {
            1 => streams::<D, AsInt8, 1, 2, 4>(d, a, w, out),
            2 => streams::<D, AsInt8, 2, 2, 2>(d, a, w, out),
            3 => streams::<D, AsInt8, 3, 2, 2>(d, a, w, out),
            4..=18 => many_rows::<D, AsInt8, 2, 1, 1>(d, a, w, out, scratch),
            // Writing the parts once pays when they are read by several passes.
            _ => many_rows::<D, AsInt8, 2, 1, 2>(d, a, w, out, scratch),
        },
        _ => match a.rows() {
            1 => streams::<D, AsInt8, 1, 4, 1>(d, a, w, out),
            _ => many_rows::<D, AsInt8, 4, 1, 1>(d, a, w, out, scratch),
        },
    }
}

#[inline(always)]
fn int4_body<D: Expand>(d: D, a: Rounded<'_>, w: Panels<'_>, out: &mut [f32], scratch: &mut Lines) {
    match D::LANES {
        16 if a.rows() <= few(d.f32s(), FEW_INT4) => few_rows::<D, AsInt4>(d, a, w, out),
        16 => many_rows::<D, AsInt4, 1, 4, 1>(d, a, w, out, scratch),
        _ => match a.rows() {
            1 => streams::<D, AsInt4, 1, 4, 1>(d, a, w, out),
            _ => many_rows::<D, AsInt4, 4, 1, 1>(d, a, w, out, scratch),
        },
    }
}

/// How the codes of weights are multiplied.
trait Codes<D: Int8> {
    const BITS: Bits;
    /// Of the activations: that of bytes, unless said otherwise.
    const FORM: Form = Form { header: D::HEADER, words: D::PARTS };

    /// What the sums of a block start from, given a row's header.
    #[inline(always)]
    fn start(d: D, header: &[f32]) -> D::Sums {
        d.splat(header[1].to_bits() as i32)
    }

    /// Adds the products of one block of `P` panels, given what follows their scales, with `M` rows.
    fn dot<const M: usize, const V: usize, const P: usize>(
        d: D,
        sums: &mut [[[D::Sums; V]; P]; M],
        blocks: &[&[u8]; P],
        rows: &[&[f32]; M],
    );
}

/// Weights of either width, multiplied as bytes.
trait Bytes<D: Int8>: Codes<D> {
    /// The same block's bytes, in `W` parts: where they lie, or written to `out`.
    fn bytes<'b, const V: usize, const W: usize>(d: D, block: &'b [u8], out: &'b mut [u8]) -> &'b [u8];
}

/// Bytes as they are stored.
struct AsInt8;
/// Bytes that nibbles stand for.
struct AsInt4;

impl<D: Int8> Codes<D> for AsInt8 {
    const BITS: Bits = Bits::Int8;

    #[inline(always)]
    fn dot<const M: usize, const V: usize, const P: usize>(
        d: D,
        sums: &mut [[[D::Sums; V]; P]; M],
        blocks: &[&[u8]; P],
        rows: &[&[f32]; M],
    ) {
        let lines = blocks[0].len() / 64;
        assert!(blocks.iter().all(|codes| codes.len() == 64 * lines), "codes of a panel's block");
        assert!(rows.iter().all(|row| row.len() == D::HEADER + lines * D::PARTS), "words of a row");
        for line in 0..lines {
            for p in 0..P {
                d.f32s().prefetch(blocks[p].as_ptr().wrapping_add(64 * line + AHEAD));
                for v in 0..V {
                    let at = 64 * line + v * 4 * D::LANES;
                    // SAFETY: `line` is below the lines of every panel, and `V * LANES` rows make a line.
                    let w = d.parts(d.load(unsafe { blocks[p].get_unchecked(at..at + 4 * D::LANES) }));
                    for part in 0..D::PARTS {
                        for m in 0..M {
                            // SAFETY: there is a word for every part of a line.
                            let word = unsafe { rows[m].get_unchecked(D::HEADER + line * D::PARTS + part) };
                            sums[m][p][v] = d.dot(sums[m][p][v], w[part], word.to_bits() as i32);
                        }
                    }
                }
            }
        }
    }
}

impl<D: Int8> Bytes<D> for AsInt8 {
    #[inline(always)]
    fn bytes<'b, const V: usize, const W: usize>(d: D, codes: &'b [u8], out: &'b mut [u8]) -> &'b [u8] {
        if W == 1 {
            return codes;
        }
        for line in 0..codes.len() / 64 {
            for v in 0..V {
                let parts = d.parts(d.load(&codes[line * 64 + v * 4 * D::LANES..]));
                for part in 0..W {
                    d.store(parts[part], &mut out[(line * W + part) * 64 + v * 4 * D::LANES..]);
                }
            }
        }
        &out[..codes.len() * W]
    }
}

/// Lines of int4 codes in a group.
const LINES: usize = GROUP / 8;

/// Bytes of the groups of a block.
const GROUPS: usize = BLOCK / GROUP * PANEL;

impl<D: Expand> Codes<D> for AsInt4 {
    const BITS: Bits = Bits::Int4;

    #[inline(always)]
    fn dot<const M: usize, const V: usize, const P: usize>(
        d: D,
        sums: &mut [[[D::Sums; V]; P]; M],
        blocks: &[&[u8]; P],
        rows: &[&[f32]; M],
    ) {
        let count = (blocks[0].len() - GROUPS) / (64 * LINES);
        assert!(rows.iter().all(|row| row.len() == D::HEADER + count * 2 * LINES), "words of a row");
        // No iterators but ranges: `zip` was not inlined, and then the sums were stored and loaded for every group.
        for g in 0..count {
            for p in 0..P {
                let (groups, codes) = blocks[p].split_at(GROUPS);
                let (lines, at) = (&codes[g * 64 * LINES..][..64 * LINES], D::HEADER + g * 2 * LINES);
                for v in 0..V {
                    let group = d.group(&groups[g * PANEL + v * D::LANES..]);
                    for i in 0..LINES {
                        if v == 0 {
                            d.f32s().prefetch(lines.as_ptr().wrapping_add(64 * i + AHEAD));
                        }
                        let bytes = d.expand(d.load(&lines[i * 64 + v * 4 * D::LANES..]), group);
                        for half in 0..2 {
                            for m in 0..M {
                                // SAFETY: there is a word for both halves of a line.
                                let word =
                                    unsafe { rows[m].get_unchecked(at + 2 * i + half) }.to_bits() as i32;
                                sums[m][p][v] = d.dot(sums[m][p][v], bytes[half], word);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl<D: Expand> Bytes<D> for AsInt4 {
    #[inline(always)]
    fn bytes<'b, const V: usize, const W: usize>(d: D, block: &'b [u8], out: &'b mut [u8]) -> &'b [u8] {
        const { assert!(W == 1 && D::PARTS == 1, "bytes are multiplied whole") };
        let (groups, codes) = block.split_at(GROUPS);
        for g in 0..codes.len() / (64 * LINES) {
            for v in 0..V {
                let group = d.group(&groups[g * PANEL + v * D::LANES..]);
                for i in 0..LINES {
                    let line = g * LINES + i;
                    let halves = d.expand(d.load(&codes[line * 64 + v * 4 * D::LANES..]), group);
                    for half in 0..2 {
                        d.store(halves[half], &mut out[(2 * line + half) * 64 + v * 4 * D::LANES..]);
                    }
                }
            }
        }
        &out[..2 * codes.len()]
    }
}

/// Most rows of a pass: 6 x 4 sums fill the registers of AVX-512 with room for what is multiplied.
const PASS: usize = 6;

/// Any number of rows, in equal passes: `P` panels of `V` vectors at a time, block by block, so that the block's weights are in the
/// first-level cache for all passes over the rows: as codes, or (`W = PARTS`) in the parts that are multiplied.
#[inline(always)]
fn many_rows<D: Int8, B: Bytes<D>, const V: usize, const P: usize, const W: usize>(
    d: D,
    a: Rounded<'_>,
    w: Panels<'_>,
    out: &mut [f32],
    scratch: &mut Lines,
) {
    assert_eq!(V * D::LANES, PANEL, "rows of a panel");
    let (rows, stride) = (a.rows(), out.len() / a.rows());
    let scratch = scratch.at_least(P * PANEL * BLOCK * W);
    // Of a panel's first block, the longest.
    let most = B::BITS.header() + B::BITS.codes(BLOCK.min(a.k.next_multiple_of(GROUP)));
    out.fill(0.0);
    for (p, group) in w.bytes.chunks(P * w.len).enumerate() {
        let count = group.len() / w.len;
        let mut start = 0;
        for at in (0..a.k).step_by(BLOCK) {
            let len = BLOCK.min((a.k - at).next_multiple_of(GROUP));
            let (mut scales, mut codes): ([&[f32]; P], [&[u8]; P]) = ([&[]; P], [&[]; P]);
            let size = B::BITS.header() + B::BITS.codes(len);
            let mut ahead: [&[u8]; P] = [&[]; P];
            for (i, scratch) in scratch.chunks_exact_mut(PANEL * BLOCK * W).enumerate() {
                // Past the last panel, it is used again and its result dropped.
                let (of_rows, block) = group[i.min(count - 1) * w.len + start..][..size].split_at(4 * PANEL);
                // The panel's next block, or the first of the panel that takes its place.
                let next = if at + BLOCK < a.k { start + size } else { P * w.len };
                let next = &w.bytes[((p * P + i) * w.len + next).min(w.bytes.len())..];
                ahead[i] = &next[..most.min(next.len())];
                scales[i] = bytemuck::cast_slice(of_rows);
                codes[i] = B::bytes::<V, W>(d, block, scratch);
            }
            start += size;
            let (mut first, passes) = (0, rows.div_ceil(PASS));
            for pass in 0..passes {
                let end = rows * (pass + 1) / passes;
                let out = &mut out[first * stride + p * P * PANEL..];
                let (run, ask) = ((a, at, first), (ahead, pass, passes));
                match end - first {
                    1 => tile::<D, 1, V, P, W>(d, run, codes, scales, ask, out, stride),
                    2 => tile::<D, 2, V, P, W>(d, run, codes, scales, ask, out, stride),
                    3 => tile::<D, 3, V, P, W>(d, run, codes, scales, ask, out, stride),
                    4 => tile::<D, 4, V, P, W>(d, run, codes, scales, ask, out, stride),
                    5 => tile::<D, 5, V, P, W>(d, run, codes, scales, ask, out, stride),
                    _ => tile::<D, 6, V, P, W>(d, run, codes, scales, ask, out, stride),
                }
                first = end;
            }
        }
    }
}

/// Adds the products of `M` rows with `P` panels over one block to rows of `out` that are `stride` apart. Asks for line `asked` of what is
/// `ahead` of each panel, and for each `every`-th after it.
#[inline(always)]
fn tile<D: Int8, const M: usize, const V: usize, const P: usize, const W: usize>(
    d: D,
    (a, at, first): (Rounded<'_>, usize, usize),
    codes: [&[u8]; P],
    scales: [&[f32]; P],
    (ahead, mut asked, every): ([&[u8]; P], usize, usize),
    out: &mut [f32],
    stride: usize,
) {
    let s = d.f32s();
    // A line holds several parts, or is one.
    let (steps, parts) = (codes[0].len() / 64, D::PARTS / W);
    // Arrays are filled in loops here: closures over vectors, as `from_fn` takes them, were not inlined.
    let mut rows: [&[f32]; M] = [&[]; M];
    let mut sums = [[[d.splat(0); V]; P]; M];
    for m in 0..M {
        rows[m] = &a.block(first + m, at)[..D::HEADER + steps * parts];
        sums[m] = [[d.splat(rows[m][1].to_bits() as i32); V]; P];
    }
    for p in 0..P {
        assert_eq!(codes[p].len(), 64 * steps, "codes of a panel's block");
    }
    for step in 0..steps {
        if step / W == asked {
            for p in 0..P {
                ahead[p].get(asked * 64).into_iter().for_each(|line| s.prefetch(line));
            }
            asked += every;
        }
        let mut w = [[[d.load(codes[0]); 2]; V]; P];
        for p in 0..P {
            for v in 0..V {
                let at = step * 64 + v * 4 * D::LANES;
                // SAFETY: `step` is below the lines of every panel, and `V * LANES` rows make a line.
                let line = d.load(unsafe { codes[p].get_unchecked(at..at + 4 * D::LANES) });
                w[p][v] = if parts == 1 { [line, line] } else { d.parts(line) };
            }
        }
        for part in 0..parts {
            for m in 0..M {
                // SAFETY: every row has so many words.
                let word = unsafe { rows[m].get_unchecked(D::HEADER + step * parts + part) }.to_bits() as i32;
                for p in 0..P {
                    for v in 0..V {
                        sums[m][p][v] = d.dot(sums[m][p][v], w[p][v][part], word);
                    }
                }
            }
        }
    }
    let mut scale = [[s.zero(); V]; P];
    for p in 0..P {
        for v in 0..V {
            scale[p][v] = s.load(&scales[p][v * D::LANES..]);
        }
    }
    for m in 0..M {
        let out = &mut out[m * stride..][..P * PANEL];
        let of_row = s.splat(rows[m][0]);
        for p in 0..P {
            for v in 0..V {
                let out = &mut out[p * PANEL + v * D::LANES..][..D::LANES];
                let term = s.mul(d.to_f32(sums[m][p][v]), s.mul(scale[p][v], of_row));
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
                let inverse = inverse(top);
                let codes = block.iter().map(|a| (a * inverse).round_ties_even() as i64);
                let sum: i64 = codes.zip(b * BLOCK..).map(|(a, k)| a * i64::from(w.code(n, k))).sum();
                sum as f64 * f64::from(top / 127.0) * f64::from(w.scale(n, b * BLOCK))
            });
            out.push(blocks.sum());
        }
    }
    out
}
