//! `a · wᵀ`: rows of activations times rows of weights, both as they lie in memory or on disk.
//!
//! Every output is a dot product over K, and is computed in one fixed order whatever the number of rows, so that a
//! row's result does not depend on what else is in the batch:
//!
//! ```text
//! for each block of KC elements:                        (blocks in order)
//!     LANES partial sums run over the block             (fused multiply-add)
//!     the sums of four of them after another are added  (Simd::fours, Simd::add_fours, to 0 at first)
//! ```
//!
//! The loops, from the outside: blocks of columns of the output; blocks of K; groups of `N` weight rows, whose dot
//! products with up to `M` rows of activations at a time stand in registers (a tile). A group is read from memory by its
//! first tile and from the cache by the others. Nothing is packed or widened ahead: activations and weights are read where
//! they lie (long prompts apart: `panels`; with AMX, all: `tiles`). While a group is multiplied, its tiles ask memory for the next (a few rows on a Zen 5: for what
//! follows in each stream), each for a part, and each for a line at a time:
//! asked for in bursts, the lines keep the loads waiting.
//!
//! A few rows of activations take weight rows that lie far apart, all blocks of K of a group before the next, so that each of the `N` is a long
//! stream.
//!
//! Measured on a Zen 4 core (one 512-bit multiply-add a cycle), as fractions of the same run's peak; the machine is
//! shared and a difference below 0.02 means nothing:
//!
//! | 512 rows, `[1024..8192, 1024..8192]` | fraction |
//! |---|---|
//! | 3 x 8 tile, both operands packed, weights widened to `f32` per 8 rows, KC 1024 | 0.86-0.90 |
//! | 4 x 6 tile, the same | 0.84-0.88 |
//! | 3 x 8, nothing packed, KC 2048 (this, up to 95 rows; on a Zen 5, 191) | 0.87-0.92 |
//! | the same with KC 512, 1024 | 0.67-0.84, 0.69-0.85 |
//! | 6 x 4, activations packed | 0.87-0.91 |
//! | AVX2: 3 x 4 (spilled by the compiler), 3 x 3, 4 x 2, 2 x 6 (this, from 17 to 95 rows) | 0.40, 0.68, 0.62, 0.74 |
//!
//! The tile alone, from the caches, runs at 0.96. Eight rows, two cores and rows of 2 KB from memory:
//!
//! | 8 rows | fraction |
//! |---|---|
//! | 3 + 3 + 2 rows x 8, asking for 256 bytes of each row at a time | 0.65 |
//! | 4 + 4 rows x 4, a line of each row at a time, by the first tile | 0.70 |
//! | the same, by both | 0.74 |
//! | 4 + 4 rows x 6, by both (this) | 0.74 |
//! | 8 x 3, activations as operands from memory (one core) | 0.46 |
//!
//! With rows of 4 KB, where activations no longer fit the first-level cache, these six rows of weights a tile make it 0.66
//! instead of 0.60 with four (16 rows of activations: 0.78 and 0.74); up to five activations, four rows are better (4: 27 against 22 GB/s).
//! The compiler keeps sums of a 6 x 4 tile in memory: six activations ran at 12 GB/s so, and run at 34 as 3 + 3 rows x 6 (two Zen 5 cores).
//!
//! With AVX2 on a Zen 3 core, 8 rows and rows of 2 KB from memory take the time of the multiply-adds and of the reading added up (0.41;
//! in pages of 2 MB 0.45). Widening a group's weights once for all its tiles, in the first tile and kept in the first-level cache, saves
//! a quarter of the instructions and lost: 0.34 (pages of 2 MB 0.48); asking for every second line 0.37, for none 0.27. Asking into
//! the first-level cache makes no difference, and neither does asking in the order of memory; asking two or four groups ahead loses 0.02 and
//! 0.1 of it; a part of 16 KB of the activations for all groups, their lanes kept meanwhile, 0.07. All this is of `N` neighbouring rows of
//! weights. What half as many widenings bring, both in turns (medians of several runs, two threads;
//! differences below 0.04 mean nothing; in the model, 16 sequences decode at 121 instead of 111 tokens a second):
//!
//! | rows | 3 | 4 | 8 | 12 | 16 | 24 | 48 | 80 |
//! |---|---|---|---|---|---|---|---|---|
//! | 2 x 6 (this, from 17 rows on) | 0.19 | 0.23 | 0.42 | 0.45 | 0.55 | 0.55 | 0.60 | 0.57 |
//! | 4 x 3 (this, up to 16 rows) | 0.20 | 0.26 | 0.45 | 0.52 | 0.51 | 0.59 | 0.59 | 0.51 |
//!
//! Rows of weights far apart, whose streams the machine's own prefetching follows, on the same machine in turns with neighbouring ones
//! (GFLOP/s of two threads beside a peak of 185, rows of 2 KB from memory, medians of seven runs):
//!
//! | rows | 2 | 3 | 4 | 5 | 6 | 8 | 12 | 16 | 24 | 32 |
//! |---|---|---|---|---|---|---|---|---|---|---|
//! | neighbouring | 33 | 40 | 52 | 62 | 66 | 76 | 92 | 98 | 101 | 91 |
//! | far apart (this; with AVX-512 not measured) | 43 | 55 | 64 | 74 | 75 | 83 | 108 | 106 | 113 | 98 |
//!
//! One and two rows with AVX2 leave the asking to the machine: 24 instead of 20 GB/s, and 44 instead of 40 GFLOP/s. From three rows on,
//! that loses 5 to 10 %, and asking for the first 64 to 512 numbers of a row alone 10 to 20 %: the machine's own asking then stops. A
//! block of K of all groups after another instead of all of a row: 0.95 of the speed; 6 x 2 tiles for six rows: 0.95; 5 x 2 for five: 1.05 with
//! rows of 2 KB, 0.99 with 4 KB; 4 x 2 and 5 x 2 for eight: 0.85; 8 x 1: 0.6; 3 x 3: 0.95.
//!
//! One row of activations on the Zen 4 core, as GB/s of one core that reads 26 at best:
//!
//! | 1 row, rows of 2 KB | GB/s |
//! |---|---|
//! | 8 neighbouring rows, the hardware's prefetcher alone | 11.5 |
//! | the same, asking for the next 8 rows: into L2, into L1 | 18.5, 12.5 |
//! | 8 rows far apart, asking 1 KB ahead into L2 | 23 |
//! | 4 rows far apart, asking for the next row (this) | 26 |
//!
//! On two Zen 5 cores, in turns, while reading reached 68 GB/s: 55 when the next row is asked for into the second level, 60 into the first, 54 without asking,
//! 50 with eight rows; while it reached 45: 40, 43, and 40 when both levels were asked, one after the other. There, as shares of the bandwidth
//! (150 to 300 MB of weights in f16, multiplied in `f32`, one row also in bf16; medians of three to eight runs in turns):
//!
//! | asked for | 1 row, a layer with C = 1024 | 2048 | 2 rows | 4 | 8 | 16 |
//! |---|---|---|---|---|---|---|
//! | the next turn's line, up to 4 KB ahead (this, from six rows on, from nine in bf16) | 0.92 | 0.91 | 0.87 | 0.80 | 0.78 | 0.50 |
//! | 2 KB ahead in its stream (this, up to five rows; 2560 bytes for six to eight in bf16) | 0.95 | 0.94 | 0.93 | 0.86 | 0.70 | 0.48 |
//! | 1 KB ahead | 0.92 | 0.95 | 0.92 | 0.84 | 0.65 | 0.43 |
//! | the next turn's, two streams instead of four; one | 0.94; 0.94 | 0.92; 0.93 | | | | |
//!
//! From the third-level cache, two streams and one run at 0.91 and 0.68 of the speed of four.
//!
//! What follows a tile's loop keeps the next lines waiting. Its sums lie one after another, a vector of them is added at a time, and what belongs to other rows
//! and columns of the output is placed once for all groups ([`place_apart`]); with sums at their places at once, four by four, and rows found by `from_fn`, which was not inlined, as
//! speeds of this beside that (410m, two Zen 5 cores, processes in turns): bf16 1.00, 1.02, 1.03 to 1.07, 0.985 and 1.00 with 1, 4, 8, 16 and 40 sequences, `exact` 1.00, 1.035, 1.00 to 1.02, 1.00 and
//! 1.035, with AVX2 1.00, 1.04 and 1.03 with 1, 8 and 40. Nothing after a tile at all would be 1.04 to 1.08 with eight sequences of bf16. Each output placed by itself, afterwards: 0.97 of
//! this with 16 sequences. `exact` with 8 x 3 tiles for eight sequences 0.95, for six 1.01.

#[cfg(target_arch = "x86_64")]
mod bf16;
mod panels;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

use super::rows::{Epilogue, epilogue};
use crate::simd::{Part, Simd, stamp};
use crate::{Element, Mat, Tile};
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16::{PANEL, linear_bf16, round_row};
use bytemuck::Zeroable;
pub(crate) use panels::{Packed, Panels};
use std::marker::PhantomData;
use std::ops::Range;
#[cfg(target_arch = "x86_64")]
pub(crate) use tiles::Tiled;

/// Elements of K per block. Each output pays one reduction per block; three rows of activations and a group of weight
/// rows of one block pass through the first-level cache together.
const KC: usize = 2048;

/// Rows of activations that one call of the kernel takes at most: a block of them stays in the second-level cache.
pub(crate) const ROWS: usize = 126;

/// Sums that are kept at a time.
const SUMS: usize = ROWS * COLUMNS;

/// Columns of the output that are finished together with many rows: whole cache lines, of which tiles of the output are made.
pub(crate) const COLUMNS: usize = 16;

/// Up to so many rows of activations, reading the weights is what takes the time.
pub(crate) const FEW: usize = 16;

/// Up to so many rows of activations, rows of weights that lie far apart are multiplied together.
const FAR: usize = 32;

/// If a single tile takes all rows of activations, lines that are asked for into the first-level cache ([`Simd::near`]) are those so many bytes
/// ahead in their streams, and not those of the next turn: for a tile of `rows` rows. Eight rows with 2560 instead of 2048 (bf16) decode 1.05 times as fast
/// while memory is fast and 1.00 to 1.03 times while it is slow; one to four 0.95 to 1.03 and 0.98 times. Of any with 1792 bytes: 0.97 to 0.99; 1 KB: 0.85 to 0.9.
const fn bytes_ahead(rows: usize) -> usize {
    if rows > 5 { 2560 } else { 2048 }
}

stamp! {
    /// One tile of `out = epilogue(a · wᵀ)`: `a` is `[M, K]`, `w` is all of `[N, K]`; the tile says which rows and columns.
    /// It has at most `ROWS` rows.
    pub(crate) fn linear[W: Element](a: Mat<'_>, w: &[W], then: Epilogue<'_>, out: &mut Tile<'_>) = linear_body;
}

/// The plain twin of the kernel: the same sums in `f64`, in order.
pub fn matmul_reference<W: Element>(a: Mat<'_>, w: &[W]) -> Vec<f64> {
    let dot = |a: &[f32], w: &[W]| -> f64 {
        a.iter().zip(w).map(|(&a, w)| f64::from(a) * f64::from(w.to_f32())).sum()
    };
    let rows = (0..a.rows()).map(|m| a.row(m));
    rows.flat_map(|a| w.chunks(a.len()).map(move |w| dot(a, w))).collect()
}

/// How weights are multiplied with activations: what they are in memory, and in a vector.
trait Dot<S: Simd>: Copy {
    /// An activation in memory.
    type A: Zeroable + Copy;
    /// A weight in memory.
    type W: Element;
    /// A vector of `STEP` activations or weights.
    type V: Copy;
    const STEP: usize;

    /// A vector of the first `STEP` activations.
    fn activations(self, s: S, x: &[Self::A]) -> Self::V;
    /// A vector of the first `STEP` weights.
    fn weights(self, s: S, x: &[Self::W]) -> Self::V;
    /// `sum + a * w`.
    fn mul_add(self, s: S, a: Self::V, w: Self::V, sum: S::F32) -> S::F32;
    /// [`Simd::outline`], with the instructions that this takes.
    fn outline(self, s: S, part: impl Part<S>);
}

/// Rows of weights that lie `stride` apart.
#[derive(Clone, Copy)]
struct Group<'w, W> {
    rows: &'w [W],
    stride: usize,
    /// Elements from the first row to the first of those that are asked for.
    next: usize,
    /// How many of those memory is asked for meanwhile.
    ask: usize,
}

/// Weights widened to `f32` as they are used, multiplied in `f32`.
struct Exact<W>(PhantomData<W>);

impl<W> Clone for Exact<W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W> Copy for Exact<W> {}

impl<S: Simd, W: Element> Dot<S> for Exact<W> {
    type A = f32;
    type W = W;
    type V = S::F32;
    const STEP: usize = S::LANES;

    #[inline(always)]
    fn activations(self, s: S, x: &[f32]) -> S::F32 {
        s.load(x)
    }
    #[inline(always)]
    fn weights(self, s: S, x: &[W]) -> S::F32 {
        W::load(s, x)
    }
    #[inline(always)]
    fn mul_add(self, s: S, a: S::F32, w: S::F32, sum: S::F32) -> S::F32 {
        s.mul_add(a, w, sum)
    }
    #[inline(always)]
    fn outline(self, s: S, part: impl Part<S>) {
        s.outline(part);
    }
}

/// As many elements as the longest vector has, the first of them `x`, the others zero.
#[inline(always)]
fn padded<T: Zeroable + Copy>(x: &[T]) -> [T; 32] {
    let mut out = [T::zeroed(); 32];
    out[..x.len()].copy_from_slice(x);
    out
}

#[inline(always)]
fn linear_body<S: Simd, W: Element>(s: S, a: Mat<'_>, w: &[W], then: Epilogue<'_>, out: &mut Tile<'_>) {
    let (a, dot) = (a.slice_rows(out.rows()), Exact::<W>(PhantomData));
    // As many sums as the registers hold: 32 of 16 lanes with AVX-512, 16 otherwise. The length first: what is for vectors of
    // another is not compiled.
    match S::LANES {
        16 => match a.rows() {
            1 => columns::<S, _, 1, 4>(s, dot, a, w, then, out),
            2..=5 => columns::<S, _, 5, 4>(s, dot, a, w, then, out),
            6..=FEW => columns::<S, _, 4, 6>(s, dot, a, w, then, out),
            _ => columns::<S, _, 3, 8>(s, dot, a, w, then, out),
        },
        _ => match a.rows() {
            1 => columns::<S, _, 1, 4>(s, dot, a, w, then, out),
            2 => columns::<S, _, 2, 4>(s, dot, a, w, then, out),
            3..=FEW => columns::<S, _, 4, 3>(s, dot, a, w, then, out),
            _ => columns::<S, _, 2, 6>(s, dot, a, w, then, out),
        },
    }
}

/// Finishes the tile, a block of columns at a time, with at most `M` rows of activations and `N` of weights together.
#[inline(always)]
fn columns<S: Simd, D: Dot<S>, const M: usize, const N: usize>(
    s: S,
    dot: D,
    a: Mat<'_, D::A>,
    w: &[D::W],
    then: Epilogue<'_>,
    out: &mut Tile<'_>,
) {
    let (rows, cols, k) = (out.rows(), out.cols(), a.cols());
    // Sums of whole groups, `[group][row][N]`, and of the rest; and as lines of the output.
    let (mut memory, mut lines) = ([0.0; SUMS], [0.0; SUMS]);
    // Rows of weights far apart: each of the `N` is a long stream through memory.
    let far = a.rows() <= FAR;
    // One or two rows keep pace with the machine's own prefetching of long streams.
    let ask = if a.rows() <= 2 && S::LANES < 16 { 0 } else { N };
    let width = if far {
        // Equal parts of whole groups, as large as there is memory for their sums.
        let most = SUMS / a.rows() / N * N;
        cols.len().div_ceil(cols.len().div_ceil(most)).next_multiple_of(N)
    } else {
        COLUMNS
    };
    for n0 in cols.clone().step_by(width) {
        let n1 = cols.end.min(n0 + width);
        let sums = &mut memory[..a.rows() * (n1 - n0)];
        sums.fill(0.0);
        let (groups, blocks) = ((n1 - n0) / N, k.div_ceil(KC));
        let apart = if far { groups } else { 1 };
        // Group and block of K. A row of weights after another, or a block of all groups after another.
        let turn_of = |turn: usize| {
            if far { (turn / blocks, turn % blocks) } else { (turn % groups, turn / groups) }
        };
        let column = |group: usize| if far { group } else { group * N };
        let start = |(group, block): (usize, usize)| (n0 + column(group)) * k + block * KC;
        let turns = groups * blocks;
        for turn in 0..turns {
            let (group, block) = turn_of(turn);
            let next = match turn + 1 {
                next if next < turns => start(turn_of(next)),
                _ if n1 < cols.end => n1 * k,
                _ => start((group, block)),
            };
            let w = &w[start((group, block))..];
            let next = if s.near() && a.rows() <= M {
                bytes_ahead(M) / size_of::<D::W>()
            } else {
                next.wrapping_sub(start((group, block)))
            };
            let w = Group { rows: w, stride: apart * k, next, ask };
            let sums = &mut sums[group * N * a.rows()..][..N * a.rows()];
            products::<S, D, M, N>(s, dot, a, block * KC..k.min((block + 1) * KC), w, sums);
        }
        let (whole, mut rest) = sums.split_at_mut(groups * N * a.rows());
        let lines = &mut lines[..a.rows() * (n1 - n0)];
        if far {
            place_apart::<S, N>(s, whole, groups, n1 - n0, lines);
        } else {
            for (r, line) in lines.chunks_exact_mut(n1 - n0).enumerate() {
                for (line, sums) in
                    line.as_chunks_mut::<N>().0.iter_mut().zip(whole.chunks_exact(N * a.rows()))
                {
                    line.copy_from_slice(&sums[r * N..][..N]);
                }
            }
        }
        // What is no whole group.
        let mut start = groups * N;
        while start < n1 - n0 {
            let some = if n1 - n0 - start >= 4 { 4 } else { 1 };
            let (sums, after) = rest.split_at_mut(some * a.rows());
            for k0 in (0..k).step_by(KC) {
                let block = k0..k.min(k0 + KC);
                let w = Group { rows: &w[(n0 + start) * k + k0..], stride: k, next: 0, ask: 0 };
                match some {
                    // Fewer than `N` are left: not compiled where they are never four.
                    4 if const { N > 4 } => products::<S, D, M, 4>(s, dot, a, block, w, sums),
                    _ => products::<S, D, M, 1>(s, dot, a, block, w, sums),
                }
            }
            for (line, sums) in lines.chunks_exact_mut(n1 - n0).zip(sums.chunks_exact(some)) {
                line[start..start + some].copy_from_slice(sums);
            }
            (start, rest) = (start + some, after);
        }
        let then = then.slice(n0..n1);
        for (row, line) in rows.clone().zip(lines.chunks_exact(n1 - n0)) {
            epilogue(s, line, then, &mut out.row_mut(row)[n0 - cols.start..n1 - cols.start]);
        }
    }
}

/// Places `sums`, `[group][row][N]`, in lines of `width`: the sums of the first rows of weights of all groups, of the second, and so on.
#[inline(always)]
fn place_apart<S: Simd, const N: usize>(s: S, sums: &[f32], groups: usize, width: usize, lines: &mut [f32]) {
    let len = sums.len() / groups.max(1);
    for g in (0..groups).step_by(S::LANES) {
        let some = S::LANES.min(groups - g);
        for first in (0..len).step_by(S::LANES) {
            let part = first..len.min(first + S::LANES);
            let mut v = [s.zero(); 16];
            for i in 0..S::LANES {
                // The last group stands for those that are missing.
                v[i] = s.load_part(&sums[(g + i.min(some - 1)) * len..][part.clone()]);
            }
            for (at, v) in part.zip(s.transpose(v)) {
                s.store_part(v, &mut lines[at / N * width + at % N * groups + g..][..some]);
            }
        }
    }
}

/// Adds one block of all rows of `a` times `N` rows of weights to `sums`, `[row][N]`.
#[inline(always)]
fn products<S: Simd, D: Dot<S>, const M: usize, const N: usize>(
    s: S,
    dot: D,
    a: Mat<'_, D::A>,
    block: Range<usize>,
    w: Group<'_, D::W>,
    sums: &mut [f32],
) {
    let rows = a.rows();
    let tiles = rows.div_ceil(M);
    // Equal parts, rounded up: the last tiles may have none to ask for.
    let each = w.ask.div_ceil(tiles);
    let mut i = 0;
    for t in 0..tiles {
        let (sums, block) = (&mut sums[i * N..], block.clone());
        let next = w.next.wrapping_add(t * each * w.stride);
        let w = Group { next, ask: each.min(w.ask.saturating_sub(t * each)), ..w };
        // No thin tile at the end: seven rows are four and three.
        i += match (rows - i).div_ceil(tiles - t) {
            8 if const { M >= 8 } => dots::<S, D, 8, N>(s, dot, (a, i), block, w, sums),
            7 if const { M >= 7 } => dots::<S, D, 7, N>(s, dot, (a, i), block, w, sums),
            6 if const { M >= 6 } => dots::<S, D, 6, N>(s, dot, (a, i), block, w, sums),
            5 if const { M >= 5 } => dots::<S, D, 5, N>(s, dot, (a, i), block, w, sums),
            4 if const { M >= 4 } => dots::<S, D, 4, N>(s, dot, (a, i), block, w, sums),
            3 if const { M >= 3 } => dots::<S, D, 3, N>(s, dot, (a, i), block, w, sums),
            2 if const { M >= 2 } => dots::<S, D, 2, N>(s, dot, (a, i), block, w, sums),
            _ => dots::<S, D, 1, N>(s, dot, (a, i), block, w, sums),
        };
    }
}

/// [`tile`] of the rows from number `first` on, in [`Simd::outline`].
#[inline(always)]
fn dots<S: Simd, D: Dot<S>, const M: usize, const N: usize>(
    s: S,
    dot: D,
    (a, first): (Mat<'_, D::A>, usize),
    block: Range<usize>,
    w: Group<'_, D::W>,
    sums: &mut [f32],
) -> usize {
    // Not by `from_fn`, which was not inlined.
    let mut rows: [&[D::A]; M] = [&[]; M];
    for r in 0..M {
        rows[r] = &a.row(first + r)[block.clone()];
    }
    dot.outline(s, Dots::<_, _, _, M, N> { dot, a: rows, w, sums });
    M
}

/// The arguments of [`tile`].
struct Dots<'d, D, A, W, const M: usize, const N: usize> {
    dot: D,
    a: [&'d [A]; M],
    w: Group<'d, W>,
    sums: &'d mut [f32],
}

impl<S: Simd, D: Dot<S>, const M: usize, const N: usize> Part<S> for Dots<'_, D, D::A, D::W, M, N> {
    #[inline(always)]
    fn run(self, s: S) {
        tile::<S, D, M, N>(s, self.dot, self.a, self.w, self.sums);
    }
}

/// Whether `M x N` sums, the operands that wait and one more leave three of AVX2's 16 registers free. Then a stretch's steps follow each
/// other without branches; else the compiler, which loads ahead, would keep sums in memory (4 x 3: 0.8 to 0.9 of the speed). For other
/// instruction sets not measured.
const fn spare<S: Simd>(m: usize, n: usize) -> bool {
    let waiting = if m < n { m } else { n };
    let (used, spare) = (m * n + waiting + 1, 3);
    S::LANES == 8 && used + spare <= 16
}

/// Adds the dot products of `M` rows with `N` rows of weights to `sums`, `[M][N]`.
///
/// The loads are unchecked because a check in the innermost loop keeps it from being unrolled at lower optimisation
/// levels, and then the sums live in memory.
#[inline(always)]
fn tile<S: Simd, D: Dot<S>, const M: usize, const N: usize>(
    s: S,
    dot: D,
    a: [&[D::A]; M],
    Group { rows, stride, next, ask }: Group<'_, D::W>,
    sums: &mut [f32],
) {
    let len = a[0].len();
    assert!(a.iter().all(|a| a.len() == len) && (N - 1) * stride + len <= rows.len(), "rows of {len}");
    // Prefetches are spread over the loop, a line of each row of weights at a time: in bursts, they keep the loads waiting.
    let line = 64 / size_of::<D::W>();
    let stretch = line.max(D::STEP);
    assert!(stretch.is_multiple_of(D::STEP), "steps of {} in {stretch}", D::STEP);
    let whole = len / stretch * stretch;
    let unrolled = if const { spare::<S>(M, N) } { stretch / D::STEP } else { 1 };
    let mut acc = [[s.zero(); N]; M];
    let mut k = 0;
    macro_rules! steps {
        () => {
            for _ in 0..unrolled {
                // SAFETY: `k + STEP <= whole <= len`, the length of every row, as whole steps make a stretch.
                let a = |i: usize| unsafe { a[i].get_unchecked(k..k + D::STEP) };
                // SAFETY: as above; `j < N`, and the last of `N` rows of weights has `len` elements too.
                let w = |j: usize| unsafe { rows.get_unchecked(j * stride + k..j * stride + k + D::STEP) };
                // With 16 registers, or more than five rows (24 sums), the fewer of the two wait in them for the others, which come one at a time.
                if const { M > N && (S::LANES < 16 || M > 5) } {
                    let mut waiting = [dot.weights(s, w(0)); N];
                    for j in 1..N {
                        waiting[j] = dot.weights(s, w(j));
                    }
                    for i in 0..M {
                        let x = dot.activations(s, a(i));
                        for j in 0..N {
                            acc[i][j] = dot.mul_add(s, x, waiting[j], acc[i][j]);
                        }
                    }
                } else {
                    let mut waiting = [dot.activations(s, a(0)); M];
                    for i in 1..M {
                        waiting[i] = dot.activations(s, a(i));
                    }
                    for j in 0..N {
                        let w = dot.weights(s, w(j));
                        for i in 0..M {
                            acc[i][j] = dot.mul_add(s, waiting[i], w, acc[i][j]);
                        }
                    }
                }
                k += D::STEP;
            }
        };
    }
    while k < whole {
        for l in 0..ask {
            s.prefetch(rows.as_ptr().wrapping_add((l * stride + k).wrapping_add(next)));
        }
        if const { 64 / size_of::<D::W>() <= D::STEP } {
            // Not as a loop of one turn, in which the compiler kept sums in memory.
            steps!();
        } else {
            let end = k + stretch;
            while k < end {
                steps!();
            }
        }
    }
    while k < len {
        let part = k..len.min(k + D::STEP);
        for j in 0..N {
            let w = dot.weights(s, &padded(&rows[j * stride..][part.clone()]));
            for i in 0..M {
                let a = dot.activations(s, &padded(&a[i][part.clone()]));
                acc[i][j] = dot.mul_add(s, a, w, acc[i][j]);
            }
        }
        k = part.end;
    }
    let (acc, sums) = (acc.as_flattened(), &mut sums[..M * N]);
    let (whole, last) = (M * N / S::LANES * S::LANES, M * N - 1);
    let mut fours = [s.zero(); 4];
    for start in (0..M * N).step_by(4) {
        let mut four = [acc[start]; 4];
        for l in 1..4 {
            four[l] = acc[last.min(start + l)];
        }
        let (i, four) = (start % S::LANES / 4, s.fours(four));
        fours[i] = four;
        if start < whole && start % S::LANES + 4 == S::LANES {
            let sums = &mut sums[start + 4 - S::LANES..][..S::LANES];
            s.store(s.add_all_fours(fours, s.load(sums)), sums);
        } else if start >= whole {
            let sums = &mut sums[start..(start + 4).min(M * N)];
            let mut totals = [0.0; 4];
            totals[..sums.len()].copy_from_slice(sums);
            sums.copy_from_slice(&s.add_fours(four, totals)[..sums.len()]);
        }
    }
}
