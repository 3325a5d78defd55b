//! With AMX: products of bf16 numbers in tiles, for any number of rows. In `exact`, arithmetic in `f32` is made of them: an activation is the
//! sum of three bf16 numbers, and a weight of as many as its type needs ([`Split`]). Their products are exact, and are summed in `f32`:
//!
//! ```text
//! a = a0 + a1 + a2,  w = w0 + w1 (+ w2)        8 bits each
//! a w = w0 a2 + w0 a1 + w0 a0 + w1 a0 + w1 a1 (+ w2 a0)
//! ```
//!
//! The loops, from the outside:
//!
//! ```text
//! for each 256 columns of the output:
//!     for each 1024 elements of K, or a little fewer:
//!         for each unit of activations, of 32 rows:
//!             for each 16 rows of weights: sums +=        the first time they are turned into bf16 numbers as well
//!             the epilogue, after the last
//! ```
//!
//! Up to 64 rows of activations are a single unit, of one to four tiles. Weights go by once, over as much of K as the second-level cache
//! holds of the activations.
//!
//! The rows of weights that are multiplied together, sixteen (or eight: in bf16, up to 16 rows of activations), lie far apart, so that each is a long stream
//! through memory, which the machine's own prefetching follows; the rows after them are the next to be multiplied.
//!
//! An output is summed in an order that only K decides, so that a row's bits are the same in any company. Of random numbers, sums differ
//! from the true ones by 2.3e-7 of them with K = 1024 (`f32` multiply-adds of AVX-512 by 1.6e-7, of AVX2 by 2.1e-7, portable 2.9e-7), and
//! with K = 4096 by 4.6e-7 (2.1e-7, 2.9e-7, 4.2e-7). Two sums, for the halves of a step, came to 1.6e-7 and 3.4e-7, but had to be carried to
//! and from memory twice.
//!
//! Measured on two cores with AMX, C = 1024, the products of a layer in `exact`, as fractions of the peak of `f32` multiply-adds of the same
//! run (460 GFLOP/s; the tiles' own is 7 TFLOP/s), medians of several runs (a shared machine: 0.03 means nothing):
//!
//! | 512 rows | fraction |
//! |---|---|
//! | panels in `f32`, 9 x 3 | 0.65 |
//! | this | 1.15 |
//! | three columns an activation, with sums of their own: six products instead of five | 0.83-0.94 |
//! | these, 128 columns together instead of 256; parts of K of 128, 256 or 512 | 0.80; 0.76 |
//! | these, the next steps asked for into the first level | + 0.03 to 0.06 |
//!
//! The same on another day, where this was at 1.26 to 1.28:
//!
//! | 512 rows | fraction |
//! |---|---|
//! | a tile stored now and then while weights are multiplied again, as now | 1.30 |
//! | this, blocks of K of 512 instead of 1024 | 1.21-1.26 |
//! | this, 512 columns together; both | 1.20; 1.24-1.25 |
//!
//! On a third day, in `exact` as before, in bf16 as fractions of the tiles' peak:
//!
//! | rows | 32 | 48 | 64 | 512 |
//! |---|---|---|---|---|
//! | sums of their own for the halves of a step; 33 to 64 rows as two units, one after the other | 0.98 | | 1.17 | 1.24 |
//! | one sum | 1.03 | 0.94 | 1.24 | 1.34 |
//! | three or four tiles of activations together | | 1.20 | 1.19 | |
//! | these packed by all threads (this) | 1.20 | | 1.30-1.43 | 1.29-1.35 |
//! | with K = 8192, all of it at once: 0.75; by parts that the cache holds (this): 1.17 | | | | |
//! | in bf16: halves; one sum; this | 0.092; 0.092; 0.10 | -; 0.092; 0.12 | 0.12; 0.11; 0.147 | 0.20; 0.217; 0.217 |
//!
//! | rows, from memory | 1 | 5 | 8 | 16 | 32 | 64 |
//! |---|---|---|---|---|---|---|
//! | `f32` | 0.063 | 0.29 | 0.36 | 0.45 | 0.45 | 0.46 |
//! | this | 0.057 | 0.24 | 0.38 | 0.71 | 1.20 | 1.30-1.43 |
//!
//! With 64 rows, weights kept as bf16 numbers for a second unit were slower than turned again for it (0.93 instead of 1.23).
//!
//! Sums lie in the order of the output's columns. Those of a group's rows side by side, to be put in order with a division for each column when
//! they were finished, took 1.05 times as long in bf16 with 64 rows and 1.03 times with one, which needs no transposing now.
//!
//! Tried for 512 rows, with nothing or too little to show: the weights of the next pass asked for into the second level while these are
//! multiplied again (`exact` 1.01 to 1.03, bf16 0.98 to 1.0); in bf16 half of K at a time, whose activations fit into the first level, with
//! weights loaded by `tileloaddt1` past it (1.01 to 1.03; without that hint 0.9; in `exact` the hint costs 0.03); in bf16 both operands asked for into the
//! first level, a step or half of one ahead (1.03, and 0.93 with the two together); activations asked for before they are packed (nothing).
//!
//! What is read from the second-level cache is the limit of many rows: from the first, the tiles run at 0.8 of their peak, here at 0.45.
//!
//! One row is held up by the turning of weights into bf16 numbers: from the caches 1 KB of weights takes 42 ns, of which the vector units
//! alone would need 27 and the tiles alone 24 (16 cycles a product), but they share the ports that load; from memory a core's share is 61 ns. For one row,
//! turning two rows after each product brought 0.03; 32 rows instead of 16, turned
//! before they are multiplied, 0.7 of the speed; neighbouring rows 0.9, and 0.75 with all of the next sixteen asked for in the order of memory (from
//! the caches 1.1): a core's own requests are too few; groups one by one instead of one after another without a pause
//! 0.92. Asking for half a kilobyte of one row after another brought 1.03 in bf16 and 0.98 in `exact`.
//!
//! What one row reads is kept in the first level, of 48 KB in sets of twelve lines. Products of a layer in turns with the build before, GB/s of weights from memory
//! where reading alone reaches 28 to 30:
//!
//! | 1 row | `exact` | bf16 |
//! |---|---|---|
//! | a tile of activations every 1024 bytes, in four of the 64 sets; asked for into the second level, 512 bytes ahead | 22.0 | 22.6 |
//! | one after another (this) | 24.7 | 25.1 |
//! | that, asked for into the first level: 512, 256, 384 bytes ahead (this) | 24.7, 24.5, 25.5 | 24.7, 25.4, 25.7 |
//! | the same, both lines of a row before either is read | 24.2 | 25.0 |
//! | tiles as equal as they can be, instead of a last one that is shorter | +0.1 | +0.3 |
//! | and by eight rows (this, in bf16) | | +1.5 |
//!
//! Sixteen rows a multiple of 4 KB apart (K from 2048 on) fall into one set; eight fit there. In `exact` eight would not pay, because a product of eight rows
//! takes 12 cycles. With 2 to 64 rows asking into the first level made no difference (1), or
//! 0.95 to 1 (2 to 4 tiles); with 512 rows 0.96 in bf16. Turning one half of a step after the other, or steps that do not lie 4 KB apart: 0.98 to 1.02.
//!
//! One product of the layer beside attention, which leaves the memory idle: 0.99 to 1.01 for one sequence in all precisions.
//!
//! The rows are an odd number of rows apart but in the last tile of a product ([`Tiled::few_cols`]). An even number apart, as before, they fell into the same few sets of the second-level
//! cache: one sequence in `exact` ran at 0.85 (70m) to 0.95 (410m, 1.4b) of the speed, eight of 1.4b at 0.8. With many rows, whose
//! weights are read once for all units, neighbouring rows instead of those 16 apart made no difference.
//!
//! Asking for the places of the results before they are finished made no difference, nor did a waiting thread that asks for the first 4 KB of each of the next
//! product's rows (0.99 to 1.01).
//!
//! An `f16` can be cut in its own arithmetic, with AVX-512's FP16: its upper bits and the rest, both times 2^10 and then moved three bits to the right, are bf16
//! numbers times 2^-102, in 8 instructions for 32 of them instead of 12. From the caches 1 KB takes 36 ns instead of 45, and one sequence of 70m is 1.08 times as fast,
//! of 160m 1.04 times, of 410m, from memory, no faster: not enough for weights from 64 on, which would need another way, and for activations of another scale.

use crate::kernels::rows::{Epilogue, epilogue};
use crate::memory::Lines;
use crate::simd::amx::split::{Columns, HALF, STEP, Split, Sums};
use crate::simd::amx::{Start, TILE, Tiles};
use crate::simd::{Amx, Arithmetic, Avx512, Pairs, Simd};
use crate::team::Uneven;
use crate::{DType, Element, Isa, Mat, Tile};
use std::ops::Range;

/// Columns of the output that share a pass over more than a few activations, which then stay in the second-level cache.
const COLUMNS: usize = 256;

/// Steps of a block of K of these.
const STEPS: usize = 16;

/// Rows of activations that are multiplied together where there are many.
const ROWS: usize = 2 * TILE;

/// Rows of activations that are multiplied together where there are no more: with as much of K as stays in the cache.
const FEW: usize = 4 * TILE;

/// Bytes of activations that stay in the second-level cache while weights go by.
const CACHED: usize = 1 << 20;

/// Columns of the output that are computed together with a unit alone, at most, or a few more.
const FEW_COLUMNS: usize = 2048;

/// Columns of the output that are finished together.
const FINISHED: usize = 64;

/// How a product is computed in tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiled {
    amx: Amx,
    split: Split,
    /// Whether there is one unit of activations only.
    few: bool,
    /// Tiles of a unit of activations.
    tiles: usize,
    /// Columns of a tile.
    width: usize,
}

impl Tiled {
    /// Of more rows of activations than [`Tiled::FEW`], those of a unit.
    pub(crate) const ROWS: usize = ROWS;

    /// Rows of activations that are one unit.
    pub(crate) const FEW: usize = FEW;

    /// Columns of the output that are computed together with more rows than these.
    pub(crate) const COLS: usize = COLUMNS;

    /// Rows of weights that are multiplied together at most.
    pub(crate) const HEIGHT: usize = TILE;

    /// For so many rows of activations, if the instruction set has tiles: `rounded` to bf16 with their weights, or not.
    pub(crate) fn of(isa: Isa, rounded: bool, rows: usize) -> Option<Self> {
        let split = if rounded { Split::Nearest } else { Split::Whole };
        let few = rows <= FEW;
        let tiles = if few { rows.div_ceil(TILE).max(1) } else { ROWS / TILE };
        let width = if rows > TILE { TILE } else { rows.max(1).next_power_of_two() };
        isa.amx().map(|amx| Self { amx, split, few, tiles, width })
    }

    /// Rows of weights that are multiplied together.
    pub(crate) const fn height(self) -> usize {
        self.split.height(self.tiles)
    }

    /// Rows of activations of a unit.
    pub(crate) const fn unit_rows(self) -> usize {
        if self.few { FEW } else { ROWS }
    }

    /// Words of half a step of a unit of activations.
    const fn half_len(self) -> usize {
        self.split.activations() * self.tiles * TILE * self.width
    }

    /// Words of a packed unit of `k` activations a row.
    pub(crate) fn unit_len(self, k: usize) -> usize {
        k.div_ceil(STEP) * 2 * self.half_len()
    }

    /// Where `n` columns of the output are cut into about so many tiles for up to [`Tiled::FEW`] rows: each has an odd number of groups of `height` rows of weights, and
    /// thereby of rows from one to the next of those that are multiplied together. Rows have a power of two of bytes or nearly so; an even number of
    /// them apart, all streams would fall into a few sets of the second-level cache and drive each other out before they are used.
    ///
    /// Tiles are as equal as that allows; the last has what is left.
    pub(crate) fn few_cols(n: usize, tiles: usize, height: usize) -> Uneven {
        let groups = n.div_ceil(height);
        // If that is not enough, several times as many, so that they still come out even among the threads.
        let count = (tiles * groups.div_ceil(tiles * (FEW_COLUMNS / height))).min(groups);
        let odd = (groups / count.max(1)).saturating_sub(1) | 1;
        let longer = groups.saturating_sub(odd * count) / 2;
        Uneven { count, len: odd * height, longer, more: 2 * height }
    }

    /// Packs a unit of activations.
    pub(crate) fn pack(self, a: Mat<'_>, words: &mut [f32]) {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        fn pack(tiled: Tiled, (s, pairs): (Avx512, Pairs), a: Mat<'_>, words: &mut [f32]) {
            let parts = tiled.split.activations();
            let mut columns = [[s.zero(); FEW]; 3];
            for (half, words) in words.chunks_exact_mut(tiled.half_len()).enumerate() {
                for row in 0..a.rows() {
                    let parts = split_half(tiled.split, (s, pairs), a.row(row), half);
                    for (columns, part) in columns.iter_mut().zip(parts) {
                        columns[row] = part;
                    }
                }
                let columns = columns.as_flattened().as_chunks::<TILE>().0;
                for (i, words) in words.chunks_exact_mut(TILE * tiled.width).enumerate() {
                    // The smallest part of a tile first.
                    let (tile, part) = (i / parts, parts - 1 - i % parts);
                    let columns = columns[part * (FEW / TILE) + tile];
                    if tiled.width == 1 {
                        s.store(columns[0], words);
                        continue;
                    }
                    let words = words.chunks_exact_mut(tiled.width);
                    for (pairs, words) in s.transpose(columns).into_iter().zip(words) {
                        s.store_part(pairs, words);
                    }
                }
            }
        }
        assert!(
            a.rows() <= self.tiles * self.width && words.len() == self.unit_len(a.cols()),
            "a unit of {a:?}"
        );
        // SAFETY: tiles are only there where these instructions are, and `self` proves that they are.
        unsafe { pack(self, (Avx512::new(), Pairs::new()), a, words) }
    }

    /// One tile of `out = epilogue(a · wᵀ)`: `a` is what [`Tiled::pack`] makes of `[M, K]`, a unit after another; `w` is all of
    /// `[N, K]`. The tile of the output says which rows and columns. `scratch` is room to work in.
    ///
    /// # Panics
    /// If the first row of the output's tile is not the first of a unit.
    pub(crate) fn linear<W: Element>(
        self,
        a: &[f32],
        w: (&[W], usize),
        then: Epilogue<'_>,
        out: &mut Tile<'_>,
        scratch: (&mut Lines, &mut Lines),
    ) {
        // SAFETY: as above.
        unsafe { linear(self, Avx512::new(), a, w, then, out, scratch) }
    }
}

/// [`Tiled::linear`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn linear<W: Element>(
    tiled: Tiled,
    s: Avx512,
    a: &[f32],
    (w, k): (&[W], usize),
    then: Epilogue<'_>,
    out: &mut Tile<'_>,
    (room, sums): (&mut Lines, &mut Lines),
) {
    let (Tiled { split, few, tiles: count, width, .. }, height) = (tiled, tiled.height());
    let (rows, cols, unit_rows, unit_len) = (out.rows(), out.cols(), tiled.unit_rows(), tiled.unit_len(k));
    assert!(rows.start.is_multiple_of(unit_rows), "rows {rows:?} in units of {unit_rows}");
    let a = &a[rows.start / unit_rows * unit_len..];
    let all = k.div_ceil(STEP);
    // A unit alone goes with as much of K as stays in the cache.
    let most = if few { CACHED / (2 * tiled.half_len() * size_of::<f32>()) } else { STEPS };
    let block_len = all.div_ceil(all.div_ceil(most.max(1)).max(1));
    let columns = if few { cols.len() } else { COLUMNS };
    let group_len = block_len * slot(split, W::DTYPE);
    // Of weights as bf16 numbers, two steps are there at a time, or, of many units, all that they will be multiplied with.
    let kept = if few { slot(split, W::DTYPE) * 2 } else { COLUMNS / TILE * group_len };
    let copied = height * block_len * STEP * size_of::<W>() / size_of::<f32>();
    let (room, copy) = room.floats(kept + copied).split_at_mut(kept);
    // From one column's sums to the next one's. Those of all units wait for the next block of K, if there is one.
    let stride = count * width;
    let len = columns.next_multiple_of(TILE) * stride;
    let waiting = if all > block_len { rows.len().div_ceil(unit_rows) } else { 1 };
    let (finished, sums) = sums.floats(FINISHED * FEW + waiting * len).split_at_mut(FINISHED * FEW);
    let mut tiles = tiled.amx.tiles();
    tiles.shape_columns(width, height);
    for n0 in cols.clone().step_by(columns) {
        let n1 = cols.end.min(n0 + columns);
        let w = &w[n0 * k..n1 * k];
        for block in (0..all).step_by(block_len).map(|start| start..all.min(start + block_len)) {
            let start = if block.start == 0 { Start::Zero } else { Start::Sums };
            for (unit, first) in rows.clone().step_by(unit_rows).enumerate() {
                let rows = first..rows.end.min(first + unit_rows);
                let words = &a[unit * unit_len..][block.start * 2 * tiled.half_len()..];
                let a = Columns { words, tiles: count };
                let sums = &mut sums[unit % waiting * len..][..len];
                let of_unit = UnitSums { columns: sums, stride, start };
                if unit == 0 {
                    let room = (&mut *room, if few { 0 } else { group_len });
                    stream(&tiles, split, a, (w, k), block.clone(), room, copy, of_unit);
                } else {
                    let used = rows.len().div_ceil(TILE);
                    let w = (&*room, group_len, split.parts(W::DTYPE));
                    again(&tiles, split, (a, used), w, (n1 - n0, block.len()), of_unit);
                }
                if block.end == all {
                    finish(s, tiled, sums, then.slice(n0..n1), (rows, n0..n1), out, finished);
                }
            }
        }
    }
}

/// The sums of a unit of activations: those of a column of the output, which is a row of weights, `stride` after those of the one before.
struct UnitSums<'a> {
    columns: &'a mut [f32],
    stride: usize,
    start: Start,
}

impl UnitSums<'_> {
    /// Those of a group of `height` rows of weights, and of the next one.
    fn of(&mut self, group: usize, apart: usize, height: usize) -> Sums<'_> {
        let Self { stride, start, .. } = *self;
        let (row, step) = rows_of(group, apart, height);
        let first = &mut self.columns[row * stride..];
        Sums { first, from_row: step * stride, from_group: stride, start }
    }
}

/// The first row of weights of a group, and from one to the next: `apart` groups take every so many rows, and a last one the rest.
const fn rows_of(group: usize, apart: usize, height: usize) -> (usize, usize) {
    if group < apart { (group, apart) } else { (apart * height, 1) }
}

/// Words of a step of a group of rows of weights, as bf16 numbers.
const fn slot(split: Split, dtype: DType) -> usize {
    2 * split.parts(dtype) * HALF
}

/// Sums of the first unit of activations over a block of K. Each group of rows of weights leaves its bf16 numbers in `room`, so many words after those
/// of the one before; or the last two steps of all of them, if that is 0. `copy` is room for a group.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn stream<W: Element>(
    tiles: &Tiles,
    split: Split,
    a: Columns<'_>,
    (w, k): (&[W], usize),
    block: Range<usize>,
    (room, group_len): (&mut [f32], usize),
    copy: &mut [f32],
    mut sums: UnitSums<'_>,
) {
    let (rows, steps, from) = (w.len() / k, block.len(), block.start * STEP);
    let height = split.height(a.tiles);
    let (apart, groups) = (rows / height, rows.div_ceil(height));
    // Groups that lie in whole steps.
    let whole = if block.end * STEP <= k { apart } else { 0 };
    let len = if group_len == 0 { room.len() } else { group_len };
    if group_len == 0 && whole > 0 && steps * STEP == k {
        // All groups without a pause.
        tiles.stream(split, a, (w, apart * k), (whole, steps), room, sums.of(0, apart, height));
    } else {
        for group in 0..whole {
            let room = &mut room[group * group_len..][..len];
            let w = &w[group * k + from..];
            tiles.stream(split, a, (w, apart * k), (1, steps), room, sums.of(group, apart, height));
        }
    }
    for group in whole..groups {
        // Of fewer rows, or less than whole steps: with zeros.
        copy.fill(0.0);
        let (first_row, step) = rows_of(group, apart, height);
        let copied: &mut [W] = &mut bytemuck::cast_slice_mut(copy)[..height * steps * STEP];
        let row = w.chunks_exact(k).skip(first_row).step_by(step);
        for (row, copied) in row.zip(copied.chunks_exact_mut(steps * STEP)) {
            let row = &row[from..k.min(from + copied.len())];
            copied[..row.len()].copy_from_slice(row);
        }
        let room = &mut room[group * group_len..][..len];
        tiles.stream(split, a, (copied, steps * STEP), (1, steps), room, sums.of(group, apart, height));
    }
}

/// Sums of a further unit of activations, of which `used` tiles are, with weights that are bf16 numbers already.
fn again(
    tiles: &Tiles,
    split: Split,
    (a, used): (Columns<'_>, usize),
    (w, group_len, parts): (&[f32], usize, usize),
    (rows, steps): (usize, usize),
    mut sums: UnitSums<'_>,
) {
    let apart = rows / TILE;
    let mut group = 0;
    while group < rows.div_ceil(TILE) {
        // A group that no other like it follows is multiplied twice, with the same result.
        let second = usize::from(group + 1 < apart);
        let w = [0, second].map(|i| &w[(group + i) * group_len..]);
        let mut sums = sums.of(group, apart, TILE);
        sums.from_group *= second;
        tiles.again(split, (a, used), (w, parts), steps, sums);
        group += 1 + second;
    }
}

/// The parts of half a step of a row, as pairs; zeros past its end.
#[inline(always)]
fn split_half<W: Element>(
    split: Split,
    (s, pairs): (Avx512, Pairs),
    row: &[W],
    half: usize,
) -> [<Avx512 as Arithmetic>::F32; 3] {
    let row = row.get(half * STEP / 2..).unwrap_or_default();
    let [mut low, mut high] = if row.len() >= STEP / 2 {
        [W::load(s, row), W::load(s, &row[TILE..])]
    } else {
        let (low, high) = row.split_at(row.len().min(TILE));
        [W::load_part(s, low), W::load_part(s, high)]
    };
    let mut parts = [s.zero(); 3];
    match split {
        Split::Nearest => parts[0] = pairs.round(low, high),
        Split::Whole => {
            for part in &mut parts {
                (*part, [low, high]) = pairs.cut(low, high);
            }
        }
    }
    parts
}

/// Finishes some rows and columns of the output from their sums. `finished` is room for some columns of a unit.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn finish(
    s: Avx512,
    tiled: Tiled,
    sums: &[f32],
    then: Epilogue<'_>,
    (rows, cols): (Range<usize>, Range<usize>),
    out: &mut Tile<'_>,
    finished: &mut [f32],
) {
    let (before, stride) = (cols.start - out.cols().start, tiled.tiles * tiled.width);
    if stride == 1 {
        // A single row.
        return epilogue(s, &sums[..cols.len()], then, &mut out.row_mut(rows.start)[before..][..cols.len()]);
    }
    for n in (0..cols.len()).step_by(FINISHED) {
        let part = n..cols.len().min(n + FINISHED);
        for c in part.clone().step_by(TILE) {
            for (tile, finished) in
                finished.chunks_exact_mut(TILE * FINISHED).take(rows.len().div_ceil(TILE)).enumerate()
            {
                let mut columns = [s.zero(); TILE];
                for (i, column) in columns.iter_mut().enumerate() {
                    *column = s.load_part(&sums[(c + i) * stride + tile * TILE..][..tiled.width]);
                }
                for (row, finished) in
                    s.transpose(columns).into_iter().zip(finished.chunks_exact_mut(FINISHED))
                {
                    s.store(row, &mut finished[c - n..]);
                }
            }
        }
        let then = then.slice(part.clone());
        for (row, sums) in rows.clone().zip(finished.chunks_exact(FINISHED)) {
            let out = &mut out.row_mut(row)[before + part.start..before + part.end];
            epilogue(s, &sums[..part.len()], then, out);
        }
    }
}
