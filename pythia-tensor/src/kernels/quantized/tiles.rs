//! More than a few rows with AMX: panels as they are, 32 rows of activations at a time.
//!
//! A block's integer sums go through memory, where they become `f32`. That is done for one pair of panels while the tiles multiply
//! the next. Meanwhile memory is asked for the next block.
//!
//! Measured on two cores with AMX and blocks of 256 (not of 512), 512 rows, the products of a layer of 410m in int8, as fractions of the tiles' own peak in the same run
//! (13 to 14 Top/s; with VNNI 1.5 Top/s and 0.55):
//!
//! | | fraction |
//! |---|---|
//! | memory not asked | 0.16 |
//! | this | 0.16-0.18 |
//! | 512 or 128 rows a tile of the output instead of 256 | 0.12, 0.15 |
//! | the halves of 32 rows one after another, in tiles of their own | 0.15 |
//!
//! The tiles' products take 16 cycles, and read two tiles for two products: from the first-level cache they run at 0.83 of the peak, from
//! the second at half of it. Storing a block's sums, then after four steps, costs as much again.

use super::{Bytes, COLS, Panels, Rounded};
use crate::memory::Lines;
use crate::quantized::{BLOCK, GROUP, PANEL};
use crate::simd::amx::{COLUMNS, LINE, Matrix, ROWS, Start, TILE};
use crate::simd::int8::{Int8, Vnni};
use crate::simd::{Amx, Arithmetic, Simd};

// A panel is a tile wide, and a block of whole steps.
const _: () = assert!(PANEL == TILE && BLOCK.is_multiple_of(LINE) && PANELS.is_multiple_of(2));

/// Panels that share a pass over the activations.
const PANELS: usize = COLS / PANEL;

/// The sums of two panels over a block.
#[repr(align(64))]
struct Sums([[i32; COLUMNS]; ROWS]);

/// As `many_rows`, with the same results.
#[inline(always)]
pub(super) fn tiles<B: Bytes<Vnni>>(
    (d, amx): (Vnni, Amx),
    a: Rounded<'_>,
    w: Panels<'_>,
    out: &mut [f32],
    scratch: &mut Lines,
) {
    let (rows, stride) = (a.rows(), out.len() / a.rows());
    let (expanded, whole) = scratch.at_least(2 * PANELS * PANEL * BLOCK).split_at_mut(PANELS * PANEL * BLOCK);
    let mut sums = [const { Sums([[0; COLUMNS]; ROWS]) }; 2];
    let mut tiles = amx.tiles();
    out.fill(0.0);
    for (p, group) in w.bytes.chunks(PANELS * w.len).enumerate() {
        let count = group.len() / w.len;
        let mut start = 0;
        for at in (0..a.k).step_by(BLOCK) {
            let len = BLOCK.min((a.k - at).next_multiple_of(GROUP));
            let steps = len.div_ceil(LINE);
            let (mut scales, mut codes): ([&[f32]; PANELS], [&[u8]; PANELS]) = ([&[]; PANELS], [&[]; PANELS]);
            let size = B::BITS.header() + B::BITS.codes(len);
            let rooms = expanded.chunks_exact_mut(PANEL * BLOCK).zip(whole.chunks_exact_mut(PANEL * BLOCK));
            for (i, (expanded, whole)) in rooms.enumerate() {
                // Past the last panel, it is used again and its result dropped.
                let (of_rows, block) = group[i.min(count - 1) * w.len + start..][..size].split_at(4 * PANEL);
                scales[i] = bytemuck::cast_slice(of_rows);
                codes[i] = whole_steps(B::bytes::<1, 1>(d, block, expanded), whole);
            }
            start += size;
            // Of each panel, what will be needed next: its next block, or the first of as many panels further on.
            let (first, next) = if at + BLOCK < a.k { (0, start) } else { (PANELS, 0) };
            let ahead =
                |i: usize, line: usize| group.as_ptr().wrapping_add((first + i) * w.len + next + line * LINE);
            let lines = size.div_ceil(LINE);
            let passes = rows.div_ceil(ROWS) * PANELS / 2;
            let place = |pass: usize| (pass / (PANELS / 2) * ROWS, pass % (PANELS / 2) * 2);
            for pass in 0..=passes {
                if pass < passes {
                    let (m, i) = place(pass);
                    tiles.shape(ROWS.min(rows - m));
                    let w = [codes[i], codes[i + 1]].map(|bytes| Matrix { bytes, stride: LINE });
                    let sums = sums[pass % 2].0.as_flattened_mut();
                    for line in (pass..lines).step_by(passes) {
                        (0..PANELS).for_each(|i| d.f32s().prefetch(ahead(i, line)));
                    }
                    tiles.bytes(a.lines(m, at), (w, TILE * LINE), steps, Start::Zero, sums, COLUMNS);
                }
                if pass > 0 {
                    let (m, i) = place(pass - 1);
                    let sums = &sums[(pass - 1) % 2].0[..ROWS.min(rows - m)];
                    let out = &mut out[m * stride + (p * PANELS + i) * PANEL..];
                    add(d, sums, |row| a.block(m + row, at), [scales[i], scales[i + 1]], out, stride);
                }
            }
        }
    }
}

/// `codes` and zeros up to a whole number of steps of the tiles.
#[inline(always)]
fn whole_steps<'c>(codes: &'c [u8], room: &'c mut [u8]) -> &'c [u8] {
    if codes.len().is_multiple_of(TILE * LINE) {
        return codes;
    }
    let len = codes.len().next_multiple_of(TILE * LINE);
    room[..codes.len()].copy_from_slice(codes);
    room[codes.len()..len].fill(0);
    &room[..len]
}

/// Adds a block's sums, as numbers, to rows of `out` that are `stride` apart.
#[inline(always)]
fn add<'a, Sums: Copy, D: Int8<Bytes = Sums, Sums = Sums>>(
    d: D,
    sums: &[[i32; COLUMNS]],
    block: impl Fn(usize) -> &'a [f32],
    scales: [&[f32]; 2],
    out: &mut [f32],
    stride: usize,
) {
    let s = d.f32s();
    let scales = [s.load(scales[0]), s.load(scales[1])];
    for (row, sums) in sums.iter().enumerate() {
        let (block, out) = (block(row), &mut out[row * stride..][..COLUMNS]);
        let (of_row, from) = (s.splat(block[0]), d.splat(block[1].to_bits() as i32));
        for i in 0..2 {
            let (out, sums) = (&mut out[i * TILE..][..TILE], d.load(bytemuck::cast_slice(&sums[i * TILE..])));
            let term = s.mul(d.to_f32(d.add(sums, from)), s.mul(scales[i], of_row));
            s.store(s.add(s.load(out), term), out);
        }
    }
}
