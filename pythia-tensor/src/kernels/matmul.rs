//! `a · wᵀ`: rows of activations times rows of weights, both as they lie in memory or on disk.
//!
//! Every output is a dot product over K, and is computed in one fixed order whatever the number of rows, so that a
//! row's result does not depend on what else is in the batch:
//!
//! ```text
//! for each block of KC elements:                        (blocks in order)
//!     LANES partial sums run over the block             (fused multiply-add)
//!     their sum in the order of Simd::sum4 is added     (one f32 addition, to 0 at first)
//! ```
//!
//! The loops, from the outside: blocks of columns of the output; blocks of K; groups of `N` weight rows, whose dot
//! products with up to three rows of activations at a time stand in registers. A group is read from memory by its first
//! tile and from the cache by the others. Nothing is packed or widened ahead: activations and weights are read where
//! they lie.
//!
//! How the rows of a group are chosen depends on what limits the work ([`Order`]). Many activations: neighbours,
//! `COLUMNS` columns at a time. Few: rows far apart, so that each of the `N` is a long stream through memory.
//!
//! Measured on a Zen 4 core (one 512-bit multiply-add a cycle), as fractions of the same run's peak; the machine is
//! shared and a difference below 0.02 means nothing:
//!
//! | 512 rows, `[1024..8192, 1024..8192]` | fraction |
//! |---|---|
//! | 3 x 8 tile, both operands packed, weights widened to `f32` per 8 rows, KC 1024 | 0.86-0.90 |
//! | 4 x 6 tile, the same | 0.84-0.88 |
//! | 3 x 8, nothing packed, KC 2048 (this) | 0.87-0.92 |
//! | the same with KC 512, 1024 | 0.67-0.84, 0.69-0.85 |
//! | 6 x 4, activations packed | 0.87-0.91 |
//!
//! The tile alone, from the caches, runs at 0.96. One row of activations, as GB/s of one core that reads 26 at best:
//!
//! | 1 row, rows of 2 KB | GB/s |
//! |---|---|
//! | 8 neighbouring rows, the hardware's prefetcher alone | 11.5 |
//! | the same, asking for the next 8 rows: into L2, into L1 | 18.5, 12.5 |
//! | 8 rows far apart, asking 1 KB ahead into L2 | 23 |
//! | 4 rows far apart, the same (this) | 26 |

#[cfg(target_arch = "x86_64")]
mod bf16;

use super::rows::{Epilogue, epilogue};
use crate::simd::{Simd, stamp};
use crate::{Element, Mat, Tile};
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16::{linear_bf16, round_row};
use bytemuck::Zeroable;
use std::marker::PhantomData;
use std::ops::Range;

/// Elements of K per block. Each output pays one reduction per block; three rows of activations and a group of weight
/// rows of one block pass through the first-level cache together.
const KC: usize = 2048;

/// Rows of activations that one call of the kernel takes at most: a block of them stays in the second-level cache.
pub(crate) const ROWS: usize = 126;

/// Columns of the output that are finished together: whole cache lines, and a multiple of every group of weight rows.
pub(crate) const COLUMNS: usize = 16;

/// Up to so many rows of activations, reading the weights is what takes the time.
pub(crate) const FEW: usize = 16;

/// Room for the sums of a block of columns.
const SUMS: usize = 4096;

/// Elements of K that are asked for at a time, and how far ahead in a stream: 1 KB of f16.
const AHEAD: usize = 128;
const FAR: usize = 512;

/// Columns of a tile with few rows `m` at most.
pub(crate) const fn few_columns(m: usize) -> usize {
    SUMS / m
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
    /// A weight as it is multiplied.
    type Ready: Element;
    /// Where weights are made ready.
    type Memory;
    /// A vector of `STEP` activations or weights.
    type V: Copy;
    const STEP: usize;

    /// Room to make a group of weights ready.
    fn memory() -> Self::Memory;

    /// The group's first `len` weights of each of `N` rows, ready.
    fn ready<'w, const N: usize>(
        self,
        s: S,
        group: Group<'w, Self::W>,
        len: usize,
        memory: &'w mut Self::Memory,
    ) -> Group<'w, Self::Ready>;

    /// A vector of the first `STEP` activations.
    fn activations(self, s: S, x: &[Self::A]) -> Self::V;
    /// A vector of the first `STEP` weights.
    fn weights(self, s: S, x: &[Self::Ready]) -> Self::V;
    /// `sum + a * w`.
    fn mul_add(self, s: S, a: Self::V, w: Self::V, sum: S::F32) -> S::F32;
}

/// Rows of weights that lie `stride` apart.
#[derive(Clone, Copy)]
struct Group<'w, W> {
    rows: &'w [W],
    stride: usize,
    /// Elements from a weight to the one to ask memory for while it is used, if memory is where they come from.
    ahead: Option<usize>,
}

impl<W> Group<'_, W> {
    /// Asks for what comes after the columns `part` of `n` rows.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, n: usize, part: Range<usize>) {
        let Some(ahead) = self.ahead else { return };
        for j in 0..n {
            for k in part.clone().step_by(64 / size_of::<W>()) {
                self.rows.get(j * self.stride + k + ahead).into_iter().for_each(|w| s.prefetch(w));
            }
        }
    }
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
    type Ready = W;
    type Memory = ();
    type V = S::F32;
    const STEP: usize = S::LANES;

    fn memory() {}

    #[inline(always)]
    fn ready<'w, const N: usize>(self, _: S, group: Group<'w, W>, _: usize, (): &'w mut ()) -> Group<'w, W> {
        group
    }
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
    let (m, width) = (out.rows().len(), out.cols().len());
    let (a, dot) = (a.slice_rows(out.rows()), Exact::<W>(PhantomData));
    // As many sums as the registers hold: 32 of 16 lanes with AVX-512, 16 otherwise.
    match (m, S::LANES) {
        (1, _) => columns::<S, _, 4>(s, dot, a, w, width, then, out),
        (2..=FEW, 16) => columns::<S, _, 8>(s, dot, a, w, width, then, out),
        (2..=FEW, _) => columns::<S, _, 4>(s, dot, a, w, width, then, out),
        (_, 16) => columns::<S, _, 8>(s, dot, a, w, COLUMNS, then, out),
        (_, _) => columns::<S, _, 4>(s, dot, a, w, COLUMNS, then, out),
    }
}

/// How a block of columns is divided into groups of `N`: group `g` has the columns `g * next + j * apart`.
#[derive(Clone, Copy)]
struct Order {
    groups: usize,
    next: usize,
    apart: usize,
    /// Elements from a weight to the one that is asked for while it is used.
    ahead: usize,
}

impl Order {
    /// Neighbours if a block is `COLUMNS` wide; else far apart.
    fn new(columns: usize, n: usize, k: usize) -> Self {
        let groups = columns / n;
        if columns <= COLUMNS {
            Self { groups, next: n, apart: 1, ahead: n * k }
        } else {
            Self { groups, next: 1, apart: groups, ahead: FAR }
        }
    }
}

/// Finishes the tile's columns, `width` at a time.
#[inline(always)]
fn columns<S: Simd, D: Dot<S>, const N: usize>(
    s: S,
    dot: D,
    a: Mat<'_, D::A>,
    w: &[D::W],
    width: usize,
    then: Epilogue<'_>,
    out: &mut Tile<'_>,
) {
    let (cols, k) = (out.cols(), a.cols());
    let (mut memory, mut ready) = ([0.0; SUMS], D::memory());
    for n0 in cols.clone().step_by(width) {
        let n1 = cols.end.min(n0 + width);
        let order = Order::new(n1 - n0, N, k);
        let sums = &mut memory[..a.rows() * (n1 - n0)];
        sums.fill(0.0);
        // Few activations: a row of weights after another. Many: a block of them stays in the cache for all weight rows.
        let blocks = k.div_ceil(KC);
        for turn in 0..blocks * order.groups {
            let (g, b) = if order.apart > 1 {
                (turn / blocks, turn % blocks)
            } else {
                (turn % order.groups, turn / order.groups)
            };
            let block = b * KC..k.min((b + 1) * KC);
            let rows = &w[(n0 + g * order.next) * k + block.start..];
            let w = Group { rows, stride: order.apart * k, ahead: Some(order.ahead) };
            group::<S, D, N>(s, dot, a, block, w, &mut ready, g * N, sums);
        }
        // The last rows of a matrix of odd height, one by one.
        for n in order.groups * N..n1 - n0 {
            for k0 in (0..k).step_by(KC) {
                let w = Group { rows: &w[(n0 + n) * k + k0..], stride: k, ahead: None };
                group::<S, D, 1>(s, dot, a, k0..k.min(k0 + KC), w, &mut ready, n, sums);
            }
        }
        let then = then.slice(n0..n1);
        let (first, mut sorted) = (out.rows().start, [0.0; SUMS]);
        for (i, mut sums) in sums.chunks_exact(n1 - n0).enumerate() {
            if order.apart > 1 {
                let sorted = &mut sorted[..sums.len()];
                for (at, &sum) in sums.iter().enumerate() {
                    let of_group = at < order.groups * N;
                    sorted[if of_group { at / N + at % N * order.apart } else { at }] = sum;
                }
                sums = sorted;
            }
            epilogue(s, sums, then, &mut out.row_mut(first + i)[n0 - cols.start..n1 - cols.start]);
        }
    }
}

/// Adds one block of all rows of `a` times `N` rows of weights to the columns from `at` on of `sums`, `[M, columns]`.
#[inline(always)]
fn group<S: Simd, D: Dot<S>, const N: usize>(
    s: S,
    dot: D,
    a: Mat<'_, D::A>,
    block: Range<usize>,
    w: Group<'_, D::W>,
    memory: &mut D::Memory,
    at: usize,
    sums: &mut [f32],
) {
    let (m, columns) = (a.rows(), sums.len() / a.rows());
    let row = |i: usize| &a.row(i)[block.clone()];
    let mut w = dot.ready::<N>(s, w, block.len(), memory);
    let mut i = 0;
    while i < m {
        let sums = (&mut sums[i * columns + at..], columns);
        // No thin tile at the end: four rows are two and two.
        i += match m - i {
            1 => tile::<S, D, 1, N>(s, dot, [row(i)], w, sums),
            2 | 4 => tile::<S, D, 2, N>(s, dot, [row(i), row(i + 1)], w, sums),
            _ => tile::<S, D, 3, N>(s, dot, [row(i), row(i + 1), row(i + 2)], w, sums),
        };
        // The first tile has asked for what is next.
        w.ahead = None;
    }
}

/// Adds the dot products of `M` rows with `N` rows of weights to rows of `sums` that are `columns` apart. Gives `M`.
///
/// The loads are unchecked because a check in the innermost loop keeps it from being unrolled at lower optimisation
/// levels, and then the sums live in memory.
#[inline(always)]
fn tile<S: Simd, D: Dot<S>, const M: usize, const N: usize>(
    s: S,
    dot: D,
    a: [&[D::A]; M],
    w: Group<'_, D::Ready>,
    (sums, columns): (&mut [f32], usize),
) -> usize {
    let (len, Group { rows, stride, .. }) = (a[0].len(), w);
    assert!(a.iter().all(|a| a.len() == len) && (N - 1) * stride + len <= rows.len(), "rows of {len}");
    let whole = len / D::STEP * D::STEP;
    let mut acc = [[s.zero(); N]; M];
    let mut k = 0;
    while k < whole {
        // Prefetching stands outside of the loop over vectors, which it would cost its registers.
        let part = k..whole.min(k + AHEAD);
        w.prefetch(s, N, part.clone());
        while k < part.end {
            let mut x = [dot.activations(s, &[D::A::zeroed(); 32]); M];
            for i in 0..M {
                // SAFETY: `k + STEP <= whole <= len`, the length of every row.
                x[i] = dot.activations(s, unsafe { a[i].get_unchecked(k..k + D::STEP) });
            }
            for j in 0..N {
                let at = j * stride + k;
                // SAFETY: as above; the last row of weights has `len` elements too.
                let w = dot.weights(s, unsafe { rows.get_unchecked(at..at + D::STEP) });
                for i in 0..M {
                    acc[i][j] = dot.mul_add(s, x[i], w, acc[i][j]);
                }
            }
            k += D::STEP;
        }
    }
    if whole < len {
        for j in 0..N {
            let w = dot.weights(s, &padded(&rows[j * stride..][whole..len]));
            for i in 0..M {
                let a = dot.activations(s, &padded(&a[i][whole..]));
                acc[i][j] = dot.mul_add(s, a, w, acc[i][j]);
            }
        }
    }
    for i in 0..M {
        let sums = &mut sums[i * columns..][..N];
        if N == 1 {
            sums[0] += s.sum(acc[i][0]);
            continue;
        }
        for j in (0..N).step_by(4) {
            let four = s.sum4([acc[i][j], acc[i][j + 1], acc[i][j + 2], acc[i][j + 3]]);
            sums[j..][..4].iter_mut().zip(four).for_each(|(sum, x)| *sum += x);
        }
    }
    M
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, MatMut, Team, Tiles};
    use half::{bf16, f16};
    use proptest::prelude::*;

    /// Lengths of K around one block and beyond two.
    fn lengths() -> impl Strategy<Value = usize> {
        prop_oneof![1..100_usize, KC - 20..KC + 20, 2 * KC..2 * KC + 40]
    }

    fn numbers(seed: u64, len: usize) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// The kernel on all of a matrix, as one tile.
    fn run<W: Element>(isa: Isa, a: Mat<'_>, w: &[W], out: &mut [f32]) {
        let cols = out.len() / a.rows();
        let work = |mut tile: Tile<'_>| linear(isa, a, w, Epilogue::default(), &mut tile);
        let team = Team::with_isa(1, isa).expect("a team of one");
        team.enter(|crew| crew.run(&mut [Tiles::new(MatMut::new(out, cols), ROWS, cols, &work)]));
    }

    /// A dot product of K terms in f32 differs from the exact one by at most `(K/LANES + lanes' tree + blocks + 1) * u *
    /// sum |a w|` (Higham, section 3.1); K + 8 stands for all of that on every instruction set.
    fn check<W: Element>(isa: Isa, m: usize, n: usize, k: usize, seed: u64) {
        let a = numbers(seed, m * k);
        let w: Vec<W> = numbers(!seed, n * k).into_iter().map(W::from_f32).collect();
        let mut out = vec![f32::NAN; m * n];
        run(isa, Mat::new(&a, k), &w, &mut out);
        let want = matmul_reference(Mat::new(&a, k), &w);
        for (i, (&got, &want)) in out.iter().zip(&want).enumerate() {
            let terms = a[i / n * k..][..k].iter().zip(&w[i % n * k..][..k]);
            let magnitude: f64 = terms.map(|(a, w)| f64::from((a * w.to_f32()).abs())).sum();
            let bound = (k + 8) as f64 * f64::from(f32::EPSILON / 2.0) * magnitude;
            assert!(
                (f64::from(got) - want).abs() <= bound,
                "{isa} {} {m}x{n}x{k} at {i}: {got} {want}",
                W::DTYPE
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn matches_the_reference_for_odd_shapes(m in 1..20_usize, n in 1..40_usize, k in lengths(), seed: u64) {
            for &isa in Isa::available() {
                check::<f32>(isa, m, n, k, seed);
                check::<f16>(isa, m, n, k, seed);
                check::<bf16>(isa, m, n, k, seed);
            }
        }

        /// The promise that everything above rests on: a row's bits are its own.
        #[test]
        fn a_row_has_the_same_bits_in_any_company(m in 2..20_usize, n in 1..30_usize, k in lengths(), seed: u64) {
            let a = numbers(seed, m * k);
            let w: Vec<f16> = numbers(!seed, n * k).into_iter().map(f16::from_f32).collect();
            for &isa in Isa::available() {
                let product = |a: &[f32], w: &[f16]| {
                    let mut out = vec![f32::NAN; a.len() / k * (w.len() / k)];
                    run(isa, Mat::new(a, k), w, &mut out);
                    out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let all = product(&a, &w);
                for rows in 1..=m.min(6) {
                    prop_assert_eq!(&product(&a[..rows * k], &w)[..], &all[..rows * n], "{} {} rows", isa, rows);
                }
                let last = product(&a[(m - 1) * k..], &w[(n - 1) * k..]);
                prop_assert_eq!(last[0], all[m * n - 1]);
            }
        }
    }

    /// The bf16 kernel on all of a matrix, as one tile; nothing where the machine has none.
    #[cfg(target_arch = "x86_64")]
    fn run_bf16<W: Element>(a: Mat<'_>, w: &[W], cols: usize) -> Option<Vec<f32>> {
        let isa = Isa::available().iter().copied().find(|isa| isa.has_bf16())?;
        let k = a.cols();
        let mut rounded = vec![bf16::ZERO; a.rows() * k];
        for (i, out) in rounded.chunks_exact_mut(k).enumerate() {
            round_row(isa, a.row(i), out);
        }
        let mut out = vec![f32::NAN; a.rows() * cols];
        let work = |mut tile: Tile<'_>| {
            linear_bf16(isa, Mat::new(&rounded, k), w, Epilogue::default(), &mut tile);
        };
        let team = Team::with_isa(1, isa).expect("a team of one");
        team.enter(|crew| crew.run(&mut [Tiles::new(MatMut::new(&mut out, cols), 2 * ROWS, cols, &work)]));
        Some(out)
    }

    #[cfg(target_arch = "x86_64")]
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Products of bf16 numbers are exact in `f32`, so only the sums round: the bound is the exact kernel's, with inputs
        /// rounded first. Rows in one company have the bits that they have in another.
        #[test]
        fn bf16_is_the_reference_of_rounded_numbers(m in 1..20_usize, n in 1..40_usize, k in lengths(), seed: u64) {
            let round = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect::<Vec<_>>();
            let a = numbers(seed, m * k);
            let w: Vec<f16> = numbers(!seed, n * k).into_iter().map(f16::from_f32).collect();
            let rounded = round(&w.iter().map(|w| w.to_f32()).collect::<Vec<_>>());
            if let Some(out) = run_bf16(Mat::new(&a, k), &w, n) {
                let want = matmul_reference(Mat::new(&round(&a), k), &rounded);
                for (i, (&got, &want)) in out.iter().zip(&want).enumerate() {
                    let terms = a[i / n * k..][..k].iter().zip(&rounded[i % n * k..][..k]);
                    let magnitude: f64 = terms.map(|(a, w)| f64::from((a * w).abs()) * 1.01).sum();
                    let bound = (k + 8) as f64 * f64::from(f32::EPSILON / 2.0) * magnitude;
                    prop_assert!((f64::from(got) - want).abs() <= bound, "{}x{}x{} at {}: {} {}", m, n, k, i, got, want);
                }
                for rows in 1..m {
                    let few = run_bf16(Mat::new(&a[..rows * k], k), &w, n);
                    prop_assert_eq!(&few.unwrap_or_default()[..], &out[..rows * n], "{} rows", rows);
                }
            }
        }
    }
}
