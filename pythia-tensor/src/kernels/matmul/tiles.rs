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
//!     for each 1024 elements of K:
//!         for each unit of activations, of 32 rows:
//!             for each 16 rows of weights: sums +=        the first time they are turned into bf16 numbers as well
//!             the epilogue, after the last
//! ```
//!
//! One or two units of activations go with all of K, and turn the weights for themselves, of as many columns as stay in the
//! second-level cache.
//!
//! The rows of weights that are multiplied together lie far apart, so that each is a long stream through memory, which the
//! machine's own prefetching follows; the rows after them are the next to be multiplied.
//!
//! An output is summed in an order that only K decides, so that a row's bits are the same in any company. Of random numbers, sums differ
//! from the true ones by 1.6e-7 of them with K = 1024 (`f32` multiply-adds of AVX-512 by 1.6e-7, of AVX2 by 2.1e-7, portable 2.9e-7), and
//! with K = 4096 by 3.4e-7 (2.1e-7, 2.9e-7, 4.2e-7).
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
//! | 64 rows | fraction |
//! |---|---|
//! | the second unit multiplied with kept weights | 0.82-0.92 |
//! | weights turned again for it, as now | 1.15 |
//!
//! | rows | 1 | 5 | 8 | 16 | 32 | 64 |
//! |---|---|---|---|---|---|---|
//! | `f32` | 0.063 | 0.29 | 0.36 | 0.45 | 0.45 | 0.46 |
//! | this | 0.057 | 0.24 | 0.39 | 0.69 | 0.86 | 0.83; now 1.15 |
//!
//! What is read from the second-level cache is the limit of many rows: from the first, the tiles run at 0.8 of their peak, here at 0.45.
//!
//! One row is held up by the turning of weights into bf16 numbers: from the caches 1 KB of weights takes 52 ns, of which the vector units
//! alone would need 26 and the tiles alone 21, but they share the ports that load; from memory a core's share is 61 ns. For one row, two
//! tiles of sums for the two halves of a step and turning two rows after each product brought 0.03 each; 32 rows instead of 16, turned
//! before they are multiplied, 0.7 of the speed; neighbouring rows 0.9; groups one by one instead of one after another without a pause
//! 0.92; asking 1024 bytes ahead instead of 512, 0.96. Asking for half a kilobyte of one row after another brought 1.03 in bf16 and 0.98
//! in `exact`.
//!
//! In bf16, 512 rows run at 0.19-0.2 of the tiles' peak, as with weights packed as second operands, and 64 rows 1.25 times as fast.

use crate::kernels::rows::{Epilogue, epilogue};
use crate::simd::amx::split::{Columns, HALF, STEP, Split, Sums};
use crate::simd::amx::{Start, TILE, Tiles};
use crate::simd::{Amx, Arithmetic, Avx512, Pairs, Simd};
use crate::tensor::Lines;
use crate::{Element, Isa, Mat, Tile};
use std::ops::Range;

/// Columns of the output that share a pass over more than a few activations, which then stay in the second-level cache.
const COLUMNS: usize = 256;

/// Steps of a block of K of these.
const STEPS: usize = 16;

/// Rows of activations that are multiplied together.
const ROWS: usize = 2 * TILE;

/// Rows of activations for which weights become bf16 numbers again for each unit.
const FEW: usize = 2 * ROWS;

/// Bytes of weights that stay in the second-level cache from one unit to the next.
const CACHED: usize = 1 << 20;

/// Columns of the output that are finished together.
const FINISHED: usize = 64;

/// How a product is computed in tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiled {
    amx: Amx,
    split: Split,
    /// Tiles of a unit of activations.
    tiles: usize,
    /// Columns of a tile.
    width: usize,
}

impl Tiled {
    /// Rows of activations of a unit.
    pub(crate) const ROWS: usize = ROWS;

    /// Rows of activations for which weights become bf16 numbers again for each unit.
    pub(crate) const FEW: usize = FEW;

    /// Columns of the output that are computed together with more rows than these.
    pub(crate) const COLS: usize = COLUMNS;

    /// For so many rows of activations, if the instruction set has tiles: `rounded` to bf16 with their weights, or not.
    pub(crate) fn of(isa: Isa, rounded: bool, rows: usize) -> Option<Self> {
        let split = if rounded { Split::Nearest } else { Split::Whole };
        let (tiles, width) = if rows > TILE { (2, TILE) } else { (1, rows.max(1).next_power_of_two()) };
        isa.amx().map(|amx| Self { amx, split, tiles, width })
    }

    /// Words of half a step of a unit of activations.
    const fn half_len(self) -> usize {
        self.split.activations() * self.tiles * HALF
    }

    /// Words of a packed unit of `k` activations a row.
    pub(crate) fn unit_len(self, k: usize) -> usize {
        k.div_ceil(STEP) * 2 * self.half_len()
    }

    /// Packs a unit of activations.
    pub(crate) fn pack(self, a: Mat<'_>, words: &mut [f32]) {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        fn pack(tiled: Tiled, (s, pairs): (Avx512, Pairs), a: Mat<'_>, words: &mut [f32]) {
            let mut columns = [[s.zero(); ROWS]; 3];
            for (half, words) in words.chunks_exact_mut(tiled.half_len()).enumerate() {
                for row in 0..a.rows() {
                    let parts = split_half(tiled.split, (s, pairs), a.row(row), half);
                    for (columns, part) in columns.iter_mut().zip(parts) {
                        columns[row] = part;
                    }
                }
                let columns = columns.as_flattened().as_chunks::<TILE>().0;
                for (i, words) in words.chunks_exact_mut(HALF).enumerate() {
                    let columns = columns[i / tiled.tiles * 2 + i % tiled.tiles];
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
        unsafe { linear(self, (Avx512::new(), Pairs::new()), a, w, then, out, scratch) }
    }
}

/// [`Tiled::linear`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn linear<W: Element>(
    tiled: Tiled,
    simd: (Avx512, Pairs),
    a: &[f32],
    (w, k): (&[W], usize),
    then: Epilogue<'_>,
    out: &mut Tile<'_>,
    (room, sums): (&mut Lines, &mut Lines),
) {
    let Tiled { split, tiles: count, width, .. } = tiled;
    let (rows, cols, unit_len) = (out.rows(), out.cols(), tiled.unit_len(k));
    assert!(rows.start.is_multiple_of(ROWS), "rows {rows:?} in units of {ROWS}");
    let a = &a[rows.start / ROWS * unit_len..];
    let (all, few) = (k.div_ceil(STEP), rows.len() <= FEW);
    // Weights that a second unit needs again stay in the cache.
    let cached = if rows.len() > ROWS {
        (CACHED / (k * size_of::<W>()).max(1)).max(1).next_multiple_of(ROWS)
    } else {
        cols.len()
    };
    let (columns, block_len) = if few { (cached.min(cols.len()), all) } else { (COLUMNS, STEPS.min(all)) };
    let parts = split.parts(W::DTYPE);
    let group_len = 2 * parts * HALF * block_len;
    // Of more than two units, all groups of rows of weights are kept to be multiplied again.
    let kept = if few { 1 } else { COLUMNS / TILE };
    let room = room.floats((kept * group_len).max(4 * parts * HALF));
    // From one column's sums to the next one's: those of a unit. They wait for the next block of K, if there is one.
    let stride = count * width;
    let len = columns.next_multiple_of(TILE) * stride;
    let waiting = if all > block_len { rows.len().div_ceil(ROWS) } else { 1 };
    let (finished, sums) = sums.floats(FINISHED * ROWS + waiting * len).split_at_mut(FINISHED * ROWS);
    let mut tiles = tiled.amx.tiles();
    tiles.shape_columns(width);
    for n0 in cols.clone().step_by(columns) {
        let n1 = cols.end.min(n0 + columns);
        let (w, whole, groups) = (&w[n0 * k..n1 * k], (n1 - n0) / TILE, (n1 - n0).div_ceil(TILE));
        for block in (0..all).step_by(block_len).map(|start| start..all.min(start + block_len)) {
            let start = if block.start == 0 { Start::Zero } else { Start::Sums };
            // Groups that lie in whole steps.
            let streams = if block.end * STEP <= k { whole } else { 0 };
            for (unit, first) in rows.clone().step_by(ROWS).enumerate() {
                let rows = first..rows.end.min(first + ROWS);
                let words = &a[unit * unit_len..][block.start * 2 * tiled.half_len()..];
                let a = Again {
                    split,
                    a: Columns { words, tiles: count },
                    columns: rows.len().div_ceil(TILE),
                    parts,
                    group_len,
                };
                let sums = &mut sums[unit % waiting * len..][..len];
                let converted = unit > 0 && !few;
                if converted {
                    a.again(&tiles, room, (groups, block.len()), Sums { first: sums, stride, start });
                } else if few && streams > 0 {
                    let (room, sums) = (&mut room[..4 * parts * HALF], Sums { first: sums, stride, start });
                    tiles.stream(split, a.a, (w, whole * k), (whole, all), room, sums);
                } else {
                    for group in 0..streams {
                        let w = (&w[group * k + block.start * STEP..], whole * k);
                        let room = &mut room[group * group_len..][..group_len];
                        let sums = Sums { first: &mut sums[group * TILE * stride..], stride, start };
                        tiles.stream(split, a.a, w, (1, block.len()), room, sums);
                    }
                }
                let ready = if converted { groups } else { streams };
                for group in ready..groups {
                    let (first, apart) = if group < whole { (group, whole) } else { (whole * TILE, 1) };
                    let w = Mat::new(w, k).slice_rows(first..n1 - n0);
                    let room = &mut room[if few { 0 } else { group * group_len }..][..group_len];
                    convert(split, simd, w, apart, block.clone(), room);
                    let sums = Sums { first: &mut sums[group * TILE * stride..], stride, start };
                    a.again(&tiles, room, (1, block.len()), sums);
                }
                if block.end == all {
                    finish(simd.0, tiled, sums, then.slice(n0..n1), (rows, n0..n1), out, finished);
                }
            }
        }
    }
}

/// A unit of activations, and what it is multiplied with.
#[derive(Clone, Copy)]
struct Again<'a> {
    split: Split,
    a: Columns<'a>,
    /// Tiles in use.
    columns: usize,
    /// Of weights.
    parts: usize,
    /// Words from one group of rows of weights to the next.
    group_len: usize,
}

impl Again<'_> {
    /// [`Tiles::again`] for groups of rows of weights one after another.
    fn again(self, tiles: &Tiles, w: &[f32], (groups, steps): (usize, usize), sums: Sums<'_>) {
        let Sums { first, stride, start } = sums;
        for group in (0..groups).step_by(2) {
            // The last group, if it is alone, is multiplied twice, with the same result.
            let second = usize::from(group + 1 < groups);
            let w = [0, second].map(|i| &w[(group + i) * self.group_len..]);
            let sums = Sums { first: &mut first[group * TILE * stride..], stride, start };
            let below = second * TILE * stride;
            tiles.again(self.split, (self.a, self.columns), (w, self.parts), steps, sums, below);
        }
    }
}

/// What [`Tiles::stream`] leaves of up to sixteen rows of weights, `apart` from each other: of fewer, too, and where they end within a
/// step.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn convert<W: Element>(
    split: Split,
    simd: (Avx512, Pairs),
    w: Mat<'_, W>,
    apart: usize,
    block: Range<usize>,
    room: &mut [f32],
) {
    room.fill(0.0);
    let parts = split.parts(W::DTYPE);
    for (i, row) in (0..w.rows()).step_by(apart).take(TILE).enumerate() {
        for (half, room) in (2 * block.start..2 * block.end).zip(room.chunks_exact_mut(parts * HALF)) {
            let words = split_half(split, simd, w.row(row), half);
            for (words, part) in words.into_iter().zip(room.chunks_exact_mut(HALF)) {
                simd.0.store(words, &mut part[i * TILE..]);
            }
        }
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
    let whole = cols.len() / TILE;
    // Where the sums of a column are: groups take every so many.
    let place = |c: usize| if c < whole * TILE { c % whole * TILE + c / whole } else { c };
    for n in (0..cols.len()).step_by(FINISHED) {
        let part = n..cols.len().min(n + FINISHED);
        for c in part.clone().step_by(TILE) {
            for (tile, finished) in
                finished.chunks_exact_mut(TILE * FINISHED).take(rows.len().div_ceil(TILE)).enumerate()
            {
                let mut columns = [s.zero(); TILE];
                for i in 0..TILE {
                    columns[i] = s.load_part(&sums[place(c + i) * stride + tile * TILE..][..tiled.width]);
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
