//! Products of pairs of bf16 numbers with sums in `f32` (`vdpbf16ps`), for weights of any type. Activations are rounded to bf16
//! once a product ([`round_row`]).
//!
//! Up to [`FEW`] rows go through the exact kernel's loops with vectors of twice as many elements; weights are rounded in
//! registers. More rows: weights are rounded and transposed once a *panel* of [`PANEL`] rows,
//!
//! ```text
//! panel   [K / 2][PANEL] pairs of bf16
//! ```
//!
//! so that a lane of the sums is a column of the output: no sum across lanes is left to do, which costs the other way a
//! tenth at K = 1024. The two ways add in different orders, so that a row's bits are its own only among at most [`FEW`] rows or
//! among more.
//!
//! Measured on two Zen 4 cores, as fractions of the same run's peak of these products (470 GFLOP/s):
//!
//! | 512 rows, the products of a layer of 410m | fraction |
//! |---|---|
//! | the exact kernel's loops, weights rounded into the cache per 8 rows, sums across lanes | 0.67 |
//! | panels, 14 rows a tile (this) | 0.81 |
//! | the same with the tile inlined | 0.77 |
//! | rows of activations a power of two apart | 0.70 |
//! | 12 rows a tile | 0.70-0.74 |
//! | asking for the output's rows ahead of a tile; at most 256 or 344 rows of activations a panel | 0.80-0.82 |
//!
//! On two Zen 5 cores (two 512-bit products a cycle), in turns:
//!
//! | 512 rows, the products of a layer | C = 1024 | C = 2048 |
//! |---|---|---|
//! | as above | 0.83 | 0.88 |
//! | activations asked for as they are rounded; weights into the second level: 32 rows a power of two apart do not fit the first | 0.85 | 0.92 |
//! | the next panel's weights asked for from memory by the tiles instead of by packing (this, before what follows) | 0.85 | 0.92 |
//! | the output's rows asked for ahead of a tile | 0.85 | - |
//! | asking for a block of all rows at once; loads of sixteen rows written out instead of in a loop | 0.80, 0.80 | - |
//!
//! With 64 rows, where packing took a quarter of the time, the tiles' asking made it 0.70 instead of 0.65 and (C = 2048) 0.72 instead of 0.66. If
//! packing read no other lines than those of two rows, it would be 0.75: what was left was the way from the second level to the first. For that, eight rows are packed
//! at a time, not sixteen, in parts of rows, and the next eight asked for. Whole prompts in turns, beside sixteen rows over all of K:
//!
//! | bytes of a row in a part | 410m, 512 tokens | 1.4b | 160m | 410m, 64 tokens |
//! |---|---|---|---|---|
//! | 256 | 1.01 | 1.02 | 1.01 | 1.06 |
//! | 512 | 1.015 | 1.02 | 1.01 | 1.09 |
//! | 1024 (this) | 1.02 | 1.025 | 1.01 | 1.10 |
//! | 2048 | 1.02 | 1.015 | 1.01 | 1.10 |
//!
//! (As a loop over the vectors that are stored, which the compiler does not unroll, 0.97 to 1.00.) No packing at all would have been 1.04 with 512 tokens, no outputs
//! finished 1.06. Through the exact kernel's loops, a prompt of 24 tokens takes the same time, one of 32 ran at 0.89 and of 64 at 0.74 of the speed before.
//!
//! Since then the loop takes whole pairs of steps, and what a row has left is packed after it, so that vectors wait in registers to be transposed, and not in
//! memory: 64 sequences decode 1.04 to 1.05, a prompt of 64 tokens runs 1.05, one of 512 1.00 times as fast. (The same change of `exact`'s packing: 1.00.)
//!
//! Of sixteen rows, asking four, six or eight lines ahead instead of two: the same speed. Half or a quarter as many tiles: 1.0 to 1.05 times, with 512 rows 1.0 and 0.96.
//!
//! A few rows on two Zen 5 cores, rows of 2 KB from memory, in GB/s of 46 (medians in turns):
//!
//! | rows | 6 | 8 | 9 | 12 | 16 |
//! |---|---|---|---|---|---|
//! | 8 x 2 (before) | 38 | 37 | 29 | 26 | 22 |
//! | 4 x 4 | 40 | 38 | 30 | 28 | 26 |
//! | 4 x 6, as in `f32` (this, from nine rows on) | 40 | 37 | 31 | 29 | 28 |
//!
//! From the first-level cache, weights rounded twice for eight rows leave 4 x 6 at 0.7 of the peak. 8 x 3 tiles round them once and run at 0.95, if weights wait in
//! registers for activations; the other way round they run at 0.65, for the compiler keeps sums in memory, and 8 x 2 runs at 0.75, as a sum can be added to
//! every ten cycles only. In the model (410m, token by token in turns, asking 2 KB ahead), beside 4 x 6: six sequences 1.07, eight 1.03 to 1.10, twelve 0.95,
//! sixteen 0.93.
//!
//! Packing a panel costs 2 % at 512 rows. From the caches, the tile alone runs at 0.99.

use super::{Dot, FEW, columns};
use crate::kernels::rows::{Epilogue, epilogue};
use crate::memory::Lines;
use crate::simd::{AHEAD, Arithmetic, Avx512, Pairs, Part, Product, Simd, outline};
use crate::{Element, Isa, Mat, Tile};
use half::bf16;
use std::array;
use std::marker::PhantomData;

/// Rows of weights of a panel: two vectors of sums.
pub(crate) const PANEL: usize = 32;

/// Rows of activations that are multiplied with a panel together: 28 sums, two vectors of weights, one of activations.
const TILE: usize = 14;

/// Weights of a row that become a vector of pairs.
const STEP: usize = 32;

/// Rows of weights that are packed together: two steps of each become two vectors' halves.
const ROWS: usize = 8;

/// Bytes of a row that are packed before those of other rows: what they become stays in the first-level cache until it is whole.
const PART: usize = 1024;

/// Pairs of a cache line of weights in 16 bits.
const LINE: usize = 16;

type V = <Avx512 as Arithmetic>::F32;

/// The proof that the instructions exist, for weights `W`.
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
    type V = V;
    const STEP: usize = STEP;

    #[inline(always)]
    fn activations(self, _: Avx512, x: &[bf16]) -> V {
        self.0.load(x)
    }
    #[inline(always)]
    fn weights(self, s: Avx512, x: &[W]) -> V {
        self.0.round(W::load(s, x), W::load(s, &x[16..]))
    }
    #[inline(always)]
    fn mul_add(self, s: Avx512, a: V, w: V, sum: V) -> V {
        Product::mul_add(self.0, s, a, w, sum)
    }
    #[inline(always)]
    fn outline(self, s: Avx512, part: impl Part<Avx512>) {
        outline!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16", Avx512, s, part);
    }
}

/// As the exact kernel, in bf16: `a` is rounded already, `[M, K / 2]` pairs in whole vectors; `w` is all of `[N, K]`. The scratch memory
/// is for panels.
///
/// # Panics
/// If the instruction set has no products of bf16.
pub(crate) fn linear_bf16<W: Element>(
    isa: Isa,
    a: Mat<'_>,
    (w, k): (&[W], usize),
    then: Epilogue<'_>,
    out: &mut Tile<'_>,
    panels: &mut Lines,
) {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn few<W: Element>(
        (s, pairs): (Avx512, Pairs),
        a: Mat<'_, bf16>,
        w: &[W],
        then: Epilogue<'_>,
        out: &mut Tile<'_>,
    ) {
        let dot = Rounded::<W>(pairs, PhantomData);
        match a.rows() {
            1 => columns::<_, _, 1, 4>(s, dot, a, w, then, out),
            2..=5 => columns::<_, _, 5, 4>(s, dot, a, w, then, out),
            6..=8 => columns::<_, _, 8, 3>(s, dot, a, w, then, out),
            _ => columns::<_, _, 4, 6>(s, dot, a, w, then, out),
        }
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn many<W: Element>(
        simd: (Avx512, Pairs),
        a: Mat<'_>,
        w: (&[W], usize),
        then: Epilogue<'_>,
        out: &mut Tile<'_>,
        panel: &mut [f32],
    ) {
        self::panels(simd, a, w, then, out, panel);
    }
    assert!(isa.has_bf16(), "products of bf16 need `avx512bf16` or `amx`, not `{isa}`");
    assert_eq!(a.cols(), k.div_ceil(32) * 16, "pairs");
    let a = a.slice_rows(out.rows());
    // SAFETY: an `Isa` exists only for instruction sets that were detected on this machine.
    let simd = unsafe { (Avx512::new(), Pairs::new()) };
    if a.rows() <= FEW {
        let a = a.halves().slice_cols(0..k);
        // SAFETY: as above.
        unsafe { few(simd, a, w, then, out) };
    } else {
        let a = a.slice_cols(0..k.div_ceil(2));
        let panel = panels.floats(k.next_multiple_of(2 * STEP) / 2 * PANEL);
        // SAFETY: as above.
        unsafe { many(simd, a, (w, k), then, out, panel) };
    }
}

/// Rounds a row of activations to pairs of bf16, to nearest, ties to even; subnormal numbers become zero. What `x` does not fill
/// of `pairs` becomes zero.
///
/// # Panics
/// As [`linear_bf16`]; and if `pairs` is not a whole number of vectors, or too short.
pub(crate) fn round_row(isa: Isa, x: &[f32], pairs: &mut [f32]) {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn avx512((s, pairs): (Avx512, Pairs), x: &[f32], out: &mut [f32]) {
        for (i, out) in out.chunks_exact_mut(16).enumerate() {
            let x = x.get(32 * i..).unwrap_or_default();
            let (low, high) = x.split_at(x.len().min(16));
            // Other cores wrote them, as those that are rounded to int8.
            (0..2).for_each(|line| s.prefetch(x.as_ptr().wrapping_byte_add(AHEAD + 64 * line)));
            s.store(pairs.round(s.load_part(low), s.load_part(high)), out);
        }
    }
    assert!(isa.has_bf16(), "rounding to bf16 needs `avx512bf16` or `amx`, not `{isa}`");
    assert!(pairs.len().is_multiple_of(16) && 2 * pairs.len() >= x.len(), "room for {}", x.len());
    // SAFETY: as above.
    unsafe { avx512((Avx512::new(), Pairs::new()), x, pairs) }
}

/// Finishes the tile, a panel after another.
#[inline(always)]
fn panels<W: Element>(
    simd: (Avx512, Pairs),
    a: Mat<'_>,
    (w, k): (&[W], usize),
    then: Epilogue<'_>,
    out: &mut Tile<'_>,
    panel: &mut [f32],
) {
    let (rows, cols) = (out.rows(), out.cols());
    let mut sums = [[0.0; PANEL]; TILE];
    for n0 in cols.clone().step_by(PANEL) {
        let n1 = cols.end.min(n0 + PANEL);
        pack(simd, Mat::new(&w[n0 * k..n1 * k], k), panel);
        let next = n1..(w.len() / k).min(n1 + PANEL);
        let then = then.slice(n0..n1);
        let tiles = a.rows().div_ceil(TILE);
        for t in 0..tiles {
            let [i, end] = [t, t + 1].map(|t| t * a.rows() / tiles);
            let [first, last] = [t, t + 1].map(|t| next.start + t * next.len() / tiles);
            let ahead = Ahead::rows(&w[first * k..last * k], k);
            tile_of(simd, a.slice_rows(i..end), panel, &mut sums, ahead);
            for (r, sums) in sums[..end - i].iter().enumerate() {
                let out = &mut out.row_mut(rows.start + i + r)[n0 - cols.start..n1 - cols.start];
                epilogue(simd.0, &sums[..n1 - n0], then, out);
            }
        }
    }
}

/// Rounds up to `PANEL` rows of weights into a panel of an even number of [`STEP`]s; the last row stands for those that are missing. Eight rows
/// at a time: more, a power of two apart, would not fit the few places that they share in the first-level cache. The next eight are
/// asked for meanwhile, from the second level, where tiles have had them brought if they had a panel before.
#[inline(always)]
fn pack<W: Element>((s, pairs): (Avx512, Pairs), rows: Mat<'_, W>, panel: &mut [f32]) {
    let (k, groups, dot) = (rows.cols(), PANEL / ROWS, Rounded::<W>(pairs, PhantomData));
    let row = |group: usize, r: usize| rows.row((group * ROWS + r).min(rows.rows() - 1));
    let part = PART / size_of::<W>();
    for start in (0..k).step_by(part) {
        for group in 0..groups {
            let (next, ahead) = if group + 1 < groups { (group + 1, 0) } else { (0, part) };
            let rows: [&[W]; ROWS] = array::from_fn(|r| row(group, r));
            let next: [*const W; ROWS] = array::from_fn(|r| row(next, r).as_ptr().wrapping_add(ahead));
            let end = k.min(start + part);
            let whole = start + (end - start) / (2 * STEP) * (2 * STEP);
            // What is left has a place of its own: with a branch in the loop, the compiler kept the lanes in memory.
            for k0 in (start..whole).step_by(2 * STEP) {
                let mut lanes = [s.zero(); 2 * ROWS];
                for r in 0..ROWS {
                    let x = &rows[r][k0..][..2 * STEP];
                    (lanes[r], lanes[ROWS + r]) = (dot.weights(s, x), dot.weights(s, &x[STEP..]));
                }
                store_steps(s, lanes, group, &mut panel[k0 / 2 * PANEL..]);
                for r in 0..ROWS {
                    for line in (0..2 * STEP * size_of::<W>()).step_by(64) {
                        s.prefetch(next[r].wrapping_add(k0).wrapping_byte_add(line));
                    }
                }
            }
            if whole < end {
                let mut lanes = [s.zero(); 2 * ROWS];
                for r in 0..ROWS {
                    let (low, high) = rows[r][whole..].split_at(STEP.min(k - whole));
                    let weights = |x| dot.weights(s, &super::padded(x));
                    (lanes[r], lanes[ROWS + r]) = (weights(low), weights(high));
                }
                store_steps(s, lanes, group, &mut panel[whole / 2 * PANEL..]);
            }
        }
    }
}

/// Writes two steps of the rows of a group, `[step][row]`, to where they begin in the panel.
#[inline(always)]
fn store_steps(s: Avx512, lanes: [V; 2 * ROWS], group: usize, panel: &mut [f32]) {
    let lanes = s.transpose(lanes);
    let (low, high) = panel[..STEP * PANEL].split_at_mut(STEP / 2 * PANEL);
    let steps = low.chunks_exact_mut(PANEL).zip(high.chunks_exact_mut(PANEL));
    for ((low, high), lanes) in steps.zip(lanes) {
        s.store_halves(lanes, &mut low[group * ROWS..], &mut high[group * ROWS..]);
    }
}

/// Rows of weights that memory is asked for, in bytes.
#[derive(Clone, Copy)]
struct Ahead<'w> {
    rows: &'w [u8],
    stride: usize,
    /// Of a step of [`LINE`] pairs.
    step: usize,
}

impl<'w> Ahead<'w> {
    fn rows<W: Element>(w: &'w [W], k: usize) -> Self {
        Self { rows: bytemuck::cast_slice(w), stride: k * size_of::<W>(), step: 2 * LINE * size_of::<W>() }
    }

    /// Asks for a step of every row.
    #[inline(always)]
    fn ask(self, s: Avx512, step: usize) {
        for row in self.rows.chunks_exact(self.stride) {
            for line in (0..self.step).step_by(64) {
                s.prefetch_far(row.as_ptr().wrapping_add(step * self.step + line));
            }
        }
    }
}

/// [`tile`] for any number of rows up to [`TILE`].
#[inline(always)]
fn tile_of(
    simd: (Avx512, Pairs),
    a: Mat<'_>,
    panel: &[f32],
    sums: &mut [[f32; PANEL]; TILE],
    ahead: Ahead<'_>,
) {
    macro_rules! tile_of {
        ($($m:literal)*) => {
            match a.rows() {
                // SAFETY: `simd` proves that the machine has the instructions.
                $($m => unsafe { tile::<$m>(simd, &array::from_fn(|i| a.row(i)), panel, sums, ahead) },)*
                rows => panic!("{rows} rows in a tile of {TILE}"),
            }
        };
    }
    tile_of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// `sums[m][n] = sum over k of a[m][k] * panel[k][n]`, a pair after another.
///
/// Not inlined, because then constants of other code are loaded in its loop for want of registers.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn tile<const M: usize>(
    (s, pairs): (Avx512, Pairs),
    a: &[&[f32]; M],
    panel: &[f32],
    sums: &mut [[f32; PANEL]; TILE],
    ahead: Ahead<'_>,
) {
    let len = a[0].len();
    assert!(
        a.iter().all(|a| a.len() == len) && len * PANEL <= panel.len(),
        "a panel of {} words",
        panel.len()
    );
    let mut acc = [[s.zero(); 2]; M];
    for (step, panel) in panel[..len * PANEL].chunks(LINE * PANEL).enumerate() {
        ahead.ask(s, step);
        for (k, w) in (step * LINE..).zip(panel.chunks_exact(PANEL)) {
            let w = [s.load(w), s.load(&w[16..])];
            for i in 0..M {
                // SAFETY: `k < len`, the length of every row, where the panel is cut.
                let x = s.splat(*unsafe { a[i].get_unchecked(k) });
                acc[i][0] = Product::mul_add(pairs, s, x, w[0], acc[i][0]);
                acc[i][1] = Product::mul_add(pairs, s, x, w[1], acc[i][1]);
            }
        }
    }
    for i in 0..M {
        s.store(acc[i][0], &mut sums[i]);
        s.store(acc[i][1], &mut sums[i][16..]);
    }
}
