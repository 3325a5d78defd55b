//! Long prompts: both operands packed, and multiplied as outer products.
//!
//! A tile of dot products keeps a sum for every lane to the end: 12 of 16 registers hold the sums of 12 outputs. Here they
//! hold those of 12 vectors of outputs: six rows of activations times a panel of two vectors of columns, a number of each at
//! a time.
//!
//! The sums have the bits of the dot products, because lanes become time. Lane `c` of a dot product sums the elements `c`,
//! `c + LANES`, `c + 2 LANES`, ... of a block of K. Here this chain of terms is one sum, and the chains are computed one after
//! another and joined in the order in which [`Simd::fours`] and [`Simd::add_fours`] join lanes: the sum of four is added to the total. The loops, from the outside:
//!
//! ```text
//! two panels of columns
//!     blocks of KC elements         the panels' weights are packed
//!         as many groups of rows as the second-level cache holds the sums of
//!             chains                their part of the panels stays in the first-level cache
//!                 groups            their part of the activations streams through, and is used twice
//! ```
//!
//! Measured with AVX2 on a Zen 3 core, 512 rows, the products of a layer with C = 1024, as fractions of the same run's peak (best of
//! several runs; other machines' work on the same core moves them by 0.05):
//!
//! | | fraction |
//! |---|---|
//! | 2 x 6 dot products (before) | 0.70 |
//! | panels, a group's chains one after another | 0.72 |
//! | a chain's groups one after another | 0.74 |
//! | outputs finished between groups instead of after all: their lines come and go meanwhile | 0.78 |
//! | the next panel's weights asked for evenly by the last chain's groups | 0.80 |
//! | a chain's groups in one call (the last chain's apart), four steps between branches, GELU two vectors at a time (this) | 0.82 |
//!
//! The last row is more where another machine's work shares the core and each instruction counts: both kernels in turns, medians of 40,
//! 1.02 to 1.04 of the speed when it was quiet and 1.07 to 1.12 when not. GELU's part of it is 1.01 (two vectors take 0.7 of the time of
//! one after the other).
//!
//! Asked for while the panel before is packed, its weights have left the second-level cache when they are needed (packing takes
//! 7 % of the time instead of 3). Packing makes it lose below about 100 rows: 48 rows 0.62, dot products 0.73. The tile's own loop
//! runs at 0.98 and takes 83 % of the time; joining chains 4 %, GELU and the outputs 5 %, packing weights 2.5 %, activations 1.5 %, asking 1 %. Two panels for each pass
//! over the activations (this) halve what is read of them, and lose 0.01 there: it is not the third-level cache that holds that machine up. Nor does it help
//! to keep a tile's packed panels and go through them with as many groups as the second-level cache holds (384, 256 or 128 KB): with two
//! threads 0.92 to 1.04 of the speed, medians of seven runs in turns, from one width to another. (It is done now, for what it brings a Zen 5
//! with either vectors, below; with today's packing and sums it was not measured here.) Two chains of a group one after another,
//! joined before they are stored: 0.93 to 0.99. Activations in huge pages (asked of the allocator): 0.90 to 0.98 of the speed of a
//! prefill. Asking for the lines that packing will write, or packing from slices of the rows: 1.00, 0.98. Adding the output's rows to the
//! sums before any is written: 1.01 where they are added, 0.99 elsewhere.
//!
//! On two cores of an Intel Xeon (two 256-bit multiply-adds a cycle, first level 48 KB, second 2 MB), shared with other machines, C = 1024, means of
//! five or six runs in turns:
//!
//! | 512 rows | fraction, when others work | when it is quiet |
//! |---|---|---|
//! | a panel for each pass; the next group's activations asked for at each step, at every second | 0.79-0.81, 0.80-0.82 | 0.82 |
//! | the same, into the first level; not at all | 0.81; 0.70 | |
//! | two panels for each pass (this), three, four | 0.85 | 0.82, 0.79, 0.82 |
//!
//! A whole prompt of 410m with two panels is 1.01 times as fast; attention takes 6 % of it.
//!
//! The same machine with AVX-512 without AMX (twelve rows a group), in turns: 0.65 instead of 0.46 with dot products (C = 2048: 0.69, 0.47); 96 rows 0.53
//! instead of 0.47, 48 rows 0.46 instead of 0.47. On a Zen 4 core, with one 512-bit multiply-add a cycle, dot products reached 0.87 to 0.92; these were not measured there.
//!
//! On two Zen 5 cores (two 512-bit multiply-adds a cycle, first level 48 KB, second 1 MB), in turns, 512 rows:
//!
//! | | C = 1024 | C = 2048 |
//! |---|---|---|
//! | dot products | 0.70 | 0.72 |
//! | dot products with eight rows of weights widened into the first-level cache once for all rows | 0.59 | 0.46 |
//! | panels (this, before what follows) | 0.78 | 0.82 |
//! | two chains of six rows side by side, joined in registers: half the sums to store | 0.74-0.78 | 0.80 |
//! | two or four chains of a group one after another, their first sums in the first-level cache | 0.77-0.78 | - |
//! | asking for 128 or 256 bytes of a row ahead while packing | 0.78-0.79 | 0.81 |
//!
//! The tile's own loop runs at the peak there and takes 71 % of a prompt's time (410m), joining and storing chains 7 %, packing weights 3 % (before what follows: 6),
//! activations 2 to 5 %, GELU and the outputs 3.5 %, attention 5 %. Whole prompts of 512 tokens, run in turns, as speeds beside that without:
//!
//! | | 160m | 410m | 1.4b | 410m, AVX2 |
//! |---|---|---|---|---|
//! | eight rows packed at a time instead of sixteen, in parts whose next eight rows are asked for: 512 bytes of a row (this); 1 KB | 1.05, 1.05 | 1.02, 1.02 | 1.03, 1.01 | 1.01, 1.00 |
//! | passes of groups with 192 KB of sums (this), of five for each output; 384 KB | 1.01, 1.01 | 1.02, 1.01 | 1.03, 1.03 | 1.02, 1.01 |
//! | one panel for each pass over the activations, in place of those passes; with them | 1.02, 1.02 | 1.01-1.02, 1.02 | 1.01, 1.00 | - |
//! | sums stored without checks of their length | - | 1.00 | - | - |
//! | sums of four chains added to the total (this) instead of pairs, pairs of pairs, and so on: fewer sums that wait | 1.02-1.07 | 1.02 | 1.01 | - |
//! | each chain added to the total, which would take dot products twice the shuffles | - | 1.03 | 1.02-1.03 | - |
//!
//! No packing of weights at all would be 1.04 to 1.06 (before), all sums and activations in the first level 1.04, chains not joined 1.05 to 1.09 (both before the last two rows).

use super::KC;
use crate::kernels::rows::{Epilogue, epilogue};
use crate::memory::Lines;
use crate::simd::{Simd, stamp};
use crate::{Element, Isa, Mat, Tile};
use std::array;
use std::ops::Range;

/// Steps of a chain between two branches.
const STEPS: usize = 4;

/// Panels that are multiplied with a group of activations.
const PANELS: usize = 2;

/// Sums, or hardly more, of the groups that go through all chains before others: they stay in the second-level cache beside the panels. In unit
/// tests fewer, so that small products take several passes with every instruction set.
const PASS: usize = if cfg!(test) { 6 << 10 } else { 48 << 10 };

/// Numbers of a cache line.
const LINE: usize = 16;

/// Cache lines of a row that are packed before those of other rows: what they become stays in the first-level cache until it is whole.
const LINES: usize = 8;

/// Rows of activations that are worth packing.
const MANY: usize = 96;

/// The same on a Zen 5 ([`Isa::zen5`]). There, in turns, dot products compute a prompt of 96 tokens (160m to 1.4b) 1.06 to 1.12
/// times as fast, of 150 1.05 to 1.07, 180 1.02, 190 1.00, 240 0.97 to 0.98 times.
const MANY_ZEN5: usize = 192;

/// How operands are packed for an instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panels(Isa);

/// Activations as [`Panels::pack`] packs them: groups of [`Panels::rows`] rows, of `k` numbers each.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) groups: &'a [f32],
    pub(crate) k: usize,
}

impl Panels {
    /// How to pack so many rows of activations, if it is worth it.
    pub(crate) fn of(isa: Isa, rows: usize) -> Option<Self> {
        let many = if isa.zen5() { MANY_ZEN5 } else { MANY };
        (rows >= many).then_some(Self(isa))
    }

    /// Rows of activations in a group: with two vectors of weights and one of an activation, their sums fill the registers.
    pub(crate) fn rows(self) -> usize {
        group_rows(self.0.lanes())
    }

    /// Columns of the output that are computed together: those of some panels.
    pub(crate) fn cols(self) -> usize {
        PANELS * self.width()
    }

    /// Rows of weights in a panel, columns of the output.
    fn width(self) -> usize {
        2 * self.0.lanes()
    }

    /// Numbers of a packed group of rows of `k` activations.
    pub(crate) fn group_len(self, k: usize) -> usize {
        blocks(k).map(|block| self.0.lanes() * chain_room(self.0.lanes(), block.len(), self.rows())).sum()
    }

    /// Packs a group of at most [`Panels::rows`] rows of activations.
    pub(crate) fn pack(self, a: Mat<'_>, mut group: &mut [f32]) {
        let lanes = self.0.lanes();
        for block in blocks(a.cols()) {
            let (part, rest) = group.split_at_mut(lanes * chain_room(lanes, block.len(), self.rows()));
            pack(self.0, a.slice_cols(block), self.rows(), part);
            group = rest;
        }
    }

    /// One tile of `out = epilogue(a · wᵀ)`: `a` is `[M, K]`, `w` is all of `[N, K]`; the tile says which rows and columns. `panel` and
    /// `sums` are room to work in.
    ///
    /// # Panics
    /// If the tile's first row is not the first of a group.
    pub(crate) fn linear<W: Element>(
        self,
        a: Packed<'_>,
        w: &[W],
        then: Epilogue<'_>,
        out: &mut Tile<'_>,
        (panel, sums): (&mut Lines, &mut Lines),
    ) {
        let (rows, cols, k, w) = (out.rows(), out.cols(), a.k, Mat::new(w, a.k));
        let (isa, lanes, height, width) = (self.0, self.0.lanes(), self.rows(), self.width());
        assert!(rows.start.is_multiple_of(height), "rows {rows:?} in groups of {height}");
        let (count, group_len) = (rows.len().div_ceil(height), self.group_len(k));
        let groups = &a.groups[rows.start / height * group_len..][..count * group_len];
        let (total, len) = (height * width, sums_len(lanes));
        let panel_room = lanes * chain_room(lanes, k.min(KC), width);
        let together = count.div_ceil((count * PANELS * len).div_ceil(PASS).max(1)).max(1);
        let (sums, panels) = (sums.floats(count * PANELS * len), panel.floats(PANELS * panel_room));
        for n0 in cols.clone().step_by(self.cols()) {
            let n1 = cols.end.min(n0 + self.cols());
            let used = (n1 - n0).div_ceil(width);
            let sums = &mut sums[..count * used * len];
            sums.chunks_exact_mut(len).for_each(|sums| sums[total..].fill(0.0));
            let mut start = 0;
            for block in blocks(k) {
                for (n, panel) in (n0..n1).step_by(width).zip(panels.chunks_exact_mut(panel_room)) {
                    let w = w.slice_rows(n..n1.min(n + width)).slice_cols(block.clone());
                    pack(isa, w, width, panel);
                }
                let ahead = match block.end {
                    end if end < k => w.slice_rows(n0..n1).slice_cols(end..k.min(end + KC)),
                    _ => w.slice_rows(n1..cols.end.min(n1 + self.cols())).slice_cols(0..k.min(KC)),
                };
                for first in (0..count).step_by(together) {
                    let pass = first..count.min(first + together);
                    let a = Blocks { numbers: &groups[first * group_len + start..], stride: group_len };
                    let w = Blocks { numbers: panels, stride: panel_room };
                    let sums = &mut sums[pass.start * used * len..pass.end * used * len];
                    self.chains(a, (w, used), block.len(), sums, |i, sums| {
                        let group = first + i;
                        ask(isa, ahead, [group, group + 1].map(|group| group * ahead.cols() / count));
                        if block.end == k {
                            // Now, so that the output's lines come and go while other groups are multiplied.
                            let row = rows.start + group * height;
                            let rows = row..rows.end.min(row + height);
                            for (n, sums) in (n0..n1).step_by(width).zip(sums.chunks_exact(len)) {
                                let cols = n..n1.min(n + width);
                                let part = (rows.clone(), cols.clone());
                                finish(isa, &sums[total..], width, then.slice(cols), part, out);
                            }
                        }
                    });
                }
                start += lanes * chain_room(lanes, block.len(), height);
            }
        }
    }

    /// Adds the products of a block of `k` numbers of groups of activations and so many panels of weights to the groups' sums, a chain after another. Calls
    /// `done` with a group's sums when it has the last of its chains, and with which of these groups it is.
    fn chains(
        self,
        a: Blocks<'_>,
        (w, used): (Blocks<'_>, usize),
        k: usize,
        sums: &mut [f32],
        mut done: impl FnMut(usize, &[f32]),
    ) {
        let (isa, lanes) = (self.0, self.0.lanes());
        for chain in 0..lanes {
            let (a, w) = (a.chain(lanes, k, self.rows(), chain), w.chain(lanes, k, self.width(), chain));
            if chain + 1 < lanes {
                tiles(isa, a, (w, used), chain, sums);
                continue;
            }
            for (i, sums) in sums.chunks_exact_mut(used * sums_len(lanes)).enumerate() {
                tiles(isa, a.skip(i), (w, used), chain, sums);
                done(i, sums);
            }
        }
    }
}

/// The same block of several groups of activations, or panels of weights, as they are packed.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    numbers: &'a [f32],
    /// From one to the next.
    stride: usize,
}

impl<'a> Blocks<'a> {
    /// A chain of each, of blocks of `k` numbers of `width` rows.
    fn chain(self, lanes: usize, k: usize, width: usize, chain: usize) -> Chains<'a> {
        let numbers = &self.numbers[chain * chain_room(lanes, k, width)..];
        Chains { numbers, stride: self.stride, len: chain_len(lanes, k, width) }
    }
}

/// The same chain of several groups of activations, or panels of weights.
#[derive(Clone, Copy)]
struct Chains<'a> {
    numbers: &'a [f32],
    /// From one to the next.
    stride: usize,
    /// Of a chain.
    len: usize,
}

impl<'a> Chains<'a> {
    /// Without the first few.
    #[inline(always)]
    fn skip(self, few: usize) -> Self {
        Self { numbers: &self.numbers[few * self.stride..], ..self }
    }

    /// That of the first, and where the next one's lies.
    #[inline(always)]
    fn first(self) -> (&'a [f32], *const f32) {
        (&self.numbers[..self.len], self.numbers.as_ptr().wrapping_add(self.stride))
    }
}

/// The blocks of `k`.
fn blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k).step_by(KC).map(move |start| start..k.min(start + KC))
}

/// Rows of activations in a group.
const fn group_rows(lanes: usize) -> usize {
    match lanes {
        16 => 12,
        8 => 6,
        _ => 4,
    }
}

/// Numbers of a group's and a panel's sums: of the chains of a four so far, and the totals.
const fn sums_len(lanes: usize) -> usize {
    2 * group_rows(lanes) * 2 * lanes
}

/// Numbers of a chain of a block of `k`, for `width` rows.
const fn chain_len(lanes: usize, k: usize, width: usize) -> usize {
    k.div_ceil(lanes) * width
}

/// The same with room for an even number of steps and another one: packing writes two steps at a time, and of the last past `width`; and chains
/// a power of two apart would share their places in the cache.
const fn chain_room(lanes: usize, k: usize, width: usize) -> usize {
    (k.div_ceil(2 * lanes) * 2 + 1) * width
}

stamp! {
    /// Packs a block of up to `width` rows: a chain after another, and of each, a number of every row after another.
    fn pack[W: Element](rows: Mat<'_, W>, width: usize, out: &mut [f32]) = pack_body;
    /// Adds a chain's products of groups of activations and so many panels of weights to the sums of the chains before, group after group.
    ///
    /// Not inlined, because then constants of other code are loaded in its loop for want of registers.
    #[inline(never)]
    fn tiles(a: Chains<'_>, w: (Chains<'_>, usize), chain: usize, sums: &mut [f32]) = tiles_body;
    /// Asks for the columns from one to another of every row.
    fn ask[W: Element](rows: Mat<'_, W>, cols: [usize; 2]) = ask_body;
    /// Finishes some rows and columns of the tile from their sums, rows of `width` numbers. Asks for as many rows after them.
    fn finish(sums: &[f32], width: usize, then: Epilogue<'_>, part: (Range<usize>, Range<usize>), out: &mut Tile<'_>) = finish_body;
}

#[inline(always)]
fn pack_body<S: Simd, W: Element>(s: S, rows: Mat<'_, W>, width: usize, out: &mut [f32]) {
    let (k, chain) = (rows.cols(), chain_room(S::LANES, rows.cols(), width));
    // Two vectors of half as many rows are transposed at a time. Rows often lie a power of two apart and share few places in the first-level
    // cache: lines of sixteen would not all stay there from the first to the second half of each.
    let (two, half) = (2 * S::LANES, S::LANES / 2);
    let groups = width.div_ceil(half);
    // The last row stands for those that are missing, and in shorter vectors' arrays the first for those past `half`.
    let row = |group: usize, r: usize| rows.row((group * half + r % half).min(rows.rows() - 1));
    let part = LINES * 64 / size_of::<W>();
    for start in (0..k).step_by(part) {
        // The last group first: what it writes past `width`, or into the next part, is written anew.
        for group in (0..groups).rev() {
            let (next, ahead) = if group > 0 { (group - 1, 0) } else { (groups - 1, part) };
            let rows: [&[W]; 8] = array::from_fn(|r| row(group, r));
            let next: [*const W; 8] = array::from_fn(|r| row(next, r).as_ptr().wrapping_add(ahead));
            for k0 in (start..k.min(start + part)).step_by(two) {
                let mut lanes = [s.zero(); 16];
                for r in 0..half {
                    if k0 + two <= k {
                        let row = &rows[r][k0..k0 + two];
                        (lanes[r], lanes[half + r]) = (W::load(s, row), W::load(s, &row[S::LANES..]));
                        let bytes = [k0, k0 + two].map(|k| k * size_of::<W>());
                        for line in (bytes[0].next_multiple_of(64)..bytes[1]).step_by(64) {
                            s.prefetch(next[r].wrapping_byte_add(line));
                        }
                    } else {
                        let row = super::padded(&rows[r][k0..]);
                        (lanes[r], lanes[half + r]) = (W::load(s, &row), W::load(s, &row[S::LANES..]));
                    }
                }
                let lanes = s.transpose(lanes);
                for c in 0..S::LANES {
                    let step = c * chain + k0 / S::LANES * width;
                    let (low, high) = out[step + group * half..][..width + half].split_at_mut(width);
                    s.store_halves(lanes[c], low, high);
                }
            }
        }
    }
}

#[inline(always)]
fn tiles_body<S: Simd>(s: S, a: Chains<'_>, w: (Chains<'_>, usize), chain: usize, sums: &mut [f32]) {
    match S::LANES {
        16 => tiles_of::<S, { group_rows(16) }>(s, a, w, chain, sums),
        8 => tiles_of::<S, { group_rows(8) }>(s, a, w, chain, sums),
        _ => tiles_of::<S, { group_rows(4) }>(s, a, w, chain, sums),
    }
}

#[inline(always)]
fn tiles_of<S: Simd, const M: usize>(
    s: S,
    a: Chains<'_>,
    (w, used): (Chains<'_>, usize),
    chain: usize,
    sums: &mut [f32],
) {
    for (group, sums) in sums.chunks_exact_mut(used * sums_len(S::LANES)).enumerate() {
        let (a, next) = a.skip(group).first();
        for (panel, sums) in sums.chunks_exact_mut(sums_len(S::LANES)).enumerate() {
            // The panels share the asking.
            let next = next.wrapping_add(panel * STEPS / PANELS * M);
            tile::<S, M>(s, a, w.skip(panel).first().0, next, chain, sums);
        }
    }
}

/// `sum over k of a[k][m] * w[k][n]`, joined with the sums of the chains before. Asks for the lines of a panel's share
/// of each stretch of `STEPS` from `next` on.
#[inline(always)]
fn tile<S: Simd, const M: usize>(
    s: S,
    a: &[f32],
    w: &[f32],
    next: *const f32,
    chain: usize,
    sums: &mut [f32],
) {
    let mut acc = [[s.zero(); 2]; M];
    // Several steps between branches: a step's own instructions are few.
    let (a, w) = (a.chunks_exact(STEPS * M), w.chunks_exact(STEPS * 2 * S::LANES));
    let rest = a.remainder().chunks_exact(M).zip(w.remainder().chunks_exact(2 * S::LANES));
    for (k, (a, w)) in a.zip(w).enumerate() {
        for line in 0..const { (STEPS * M / PANELS).div_ceil(LINE) } {
            s.prefetch(next.wrapping_add(STEPS * k * M + line * LINE));
        }
        for i in 0..STEPS {
            acc = outer_product(s, &a[i * M..], &w[i * 2 * S::LANES..], acc);
        }
    }
    for (a, w) in rest {
        acc = outer_product(s, a, w, acc);
    }
    let (four, totals) = sums.split_at_mut(2 * S::LANES * M);
    let of_four = chain % 4;
    if of_four > 0 {
        add(s, &mut acc, four);
    }
    if of_four == 3 {
        add(s, &mut acc, totals);
    }
    let sums = if of_four == 3 { totals } else { four };
    for m in 0..M {
        for v in 0..2 {
            s.store(acc[m][v], &mut sums[(2 * m + v) * S::LANES..]);
        }
    }
}

/// Adds `sums` to `acc`, each of these to one of those.
#[inline(always)]
fn add<S: Simd, const M: usize>(s: S, acc: &mut [[S::F32; 2]; M], sums: &[f32]) {
    for m in 0..M {
        for v in 0..2 {
            acc[m][v] = s.add(s.load(&sums[(2 * m + v) * S::LANES..]), acc[m][v]);
        }
    }
}

/// `sums[m] + a[m] * w`, for two vectors of weights.
#[inline(always)]
fn outer_product<S: Simd, const M: usize>(
    s: S,
    a: &[f32],
    w: &[f32],
    mut sums: [[S::F32; 2]; M],
) -> [[S::F32; 2]; M] {
    let w = [s.load(w), s.load(&w[S::LANES..])];
    for m in 0..M {
        let x = s.splat(a[m]);
        sums[m][0] = s.mul_add(x, w[0], sums[m][0]);
        sums[m][1] = s.mul_add(x, w[1], sums[m][1]);
    }
    sums
}

#[inline(always)]
fn ask_body<S: Simd, W: Element>(s: S, rows: Mat<'_, W>, [start, end]: [usize; 2]) {
    for r in 0..rows.rows() {
        for line in rows.row(r)[start..end].chunks(64 / size_of::<W>()) {
            s.prefetch_far(line.as_ptr());
        }
    }
}

#[inline(always)]
fn finish_body<S: Simd>(
    s: S,
    sums: &[f32],
    width: usize,
    then: Epilogue<'_>,
    (rows, cols): (Range<usize>, Range<usize>),
    out: &mut Tile<'_>,
) {
    let last = out.rows().end - 1;
    let cols = cols.start - out.cols().start..cols.end - out.cols().start;
    for (row, sums) in rows.clone().zip(sums.chunks_exact(width)) {
        s.prefetch(out.row_mut(last.min(row + rows.len()))[cols.start..].as_ptr());
        epilogue(s, &sums[..cols.len()], then, &mut out.row_mut(row)[cols.clone()]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear;
    use super::*;
    use crate::{Gelu, MatMut, Team, Tiles};
    use half::{bf16, f16};
    use proptest::prelude::*;

    /// `[m, n]` by dot products, in tiles of 48 rows and 32 columns, or by panels, in tiles of several panels and passes.
    fn run<W: Element>(isa: Isa, a: Mat<'_>, w: &[W], then: Epilogue<'_>, packed: bool) -> Vec<u32> {
        let (panels, n, k) = (Panels(isa), w.len() / a.cols(), a.cols());
        let mut out: Vec<f32> = (0..a.rows() * n).map(|i| i as f32).collect();
        let mut groups = vec![f32::NAN; a.rows().div_ceil(panels.rows()) * panels.group_len(k)];
        for (g, group) in groups.chunks_exact_mut(panels.group_len(k)).enumerate() {
            panels.pack(a.slice_rows(g * panels.rows()..a.rows().min((g + 1) * panels.rows())), group);
        }
        let a_packed = Packed { groups: &groups, k };
        let work = |mut tile: Tile<'_>| {
            if packed {
                // What other products left there must not matter.
                let mut stale = [(); 2].map(|()| Lines::default());
                stale.iter_mut().for_each(|room| room.floats(1 << 18).fill(f32::NAN));
                let [panel, sums] = &mut stale;
                panels.linear(a_packed, w, then, &mut tile, (panel, sums));
            } else {
                linear(isa, a, w, then, &mut tile);
            }
        };
        let (rows, cols) = if packed { (240, 96) } else { (48, 32) };
        let team = Team::with_isa(1, isa).expect("a team of one");
        team.enter(|crew| crew.run(&mut [Tiles::new(MatMut::new(&mut out, n), rows, cols, &work)]));
        out.into_iter().map(f32::to_bits).collect()
    }

    fn check<W: Element>(m: usize, n: usize, k: usize, seed: u64) {
        let numbers = |seed, len| super::super::tests::numbers(seed, len);
        let (a, bias) = (numbers(seed, m * k), numbers(seed ^ 1, n));
        let w: Vec<W> = numbers(!seed, n * k).into_iter().map(W::from_f32).collect();
        for &isa in Isa::available() {
            for (gelu, add) in [(None, true), (Some(Gelu::Erf), false)] {
                let then = Epilogue { bias: Some(&bias), gelu, add };
                let [dots, panels] = [false, true].map(|packed| run(isa, Mat::new(&a, k), &w, then, packed));
                assert_eq!(dots, panels, "{isa} {} {m}x{n}x{k}", W::DTYPE);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever else is said of dot products is thereby said of panels.
        #[test]
        fn panels_have_the_bits_of_dot_products(
            m in 1..260_usize,
            n in 1..110_usize,
            k in super::super::tests::lengths(),
            seed: u64,
        ) {
            check::<f16>(m, n, k, seed);
            check::<bf16>(m, n, k, seed);
            check::<f32>(m, n, k, seed);
        }
    }
}
