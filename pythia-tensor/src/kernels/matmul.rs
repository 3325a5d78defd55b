//! `a · wᵀ`: rows of activations times rows of weights, as the weights lie on disk.
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
//! Up to four rows go through [`narrow`], which reads the weights once, straight from memory. More go through
//! [`wide`]: a block of activations is packed so that the tile reads it in sequence, and each group of NR weight rows
//! is widened once into the first-level cache and used for all rows of the block.
//!
//! Measured on a Granite Rapids core (two 512-bit multiply-adds a cycle, 2 MB of second-level cache) as the best of
//! interleaved runs of `[512, 1024] x [1024..8192, 1024..4096]`, as a fraction of the same core's peak:
//!
//! | variant | fraction |
//! |---|---|
//! | 4 x 6 tile, KC 512, sums scattered one by one, iterator-based packing | 0.47 |
//! | the same with packing by index | 0.57 |
//! | 3 x 8 tile (a row's eight sums are two vector additions), KC 512 | 0.62-0.69 |
//! | KC 1024, 128 rows a block, 768 columns a tile (this) | 0.62-0.71 |
//! | two or three groups of weight rows per packed panel | no gain |
//!
//! The tile alone, packed data at hand, runs at 0.80-0.83 there; 4 x 6 and 5 x 5 tiles reach 0.84 and 0.77. With one row,
//! asking for the next group's rows ahead of time is worth 17 % of decoding speed.

use crate::simd::{Simd, stamp};
use crate::{Element, Mat};

/// Elements of K per block. Each output pays one reduction per block; a packed block of activations
/// (`ROWS x KC`) must stay in the second-level cache.
const KC: usize = 1024;

/// Rows of activations that one call of the kernel takes at most.
pub(crate) const ROWS: usize = 128;

/// The kernel's working memory, one per thread.
#[derive(Default)]
pub(crate) struct Scratch {
    /// A block of activations, `[rows / MR][KC / LANES][MR][LANES]`.
    a: Vec<Line>,
    /// A group of widened weight rows, `[KC / LANES][NR][LANES]`.
    w: Vec<Line>,
}

/// Sixteen numbers at a cache line's start, so that no vector straddles two.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

fn at_least(lines: &mut Vec<Line>, len: usize) -> &mut [f32] {
    let needed = len.div_ceil(16);
    if lines.len() < needed {
        lines.resize(needed, Line([0.0; 16]));
    }
    &mut bytemuck::cast_slice_mut(lines)[..len]
}

stamp! {
    /// `out[m][n] = sum over k of a[m][k] * w[n][k]`; `w` is `[N, K]`, `out` is `[M, N]`, `M <= ROWS`.
    pub(crate) fn dot_products[W: Element](a: Mat<'_>, w: &[W], out: &mut [f32], scratch: &mut Scratch) = dot_products_body;
}

/// The plain twin of the kernel: the same sums in `f64`, in order.
pub fn matmul_reference<W: Element>(a: Mat<'_>, w: &[W]) -> Vec<f64> {
    let dot = |a: &[f32], w: &[W]| -> f64 {
        a.iter().zip(w).map(|(&a, w)| f64::from(a) * f64::from(w.to_f32())).sum()
    };
    let rows = (0..a.rows()).map(|m| a.row(m));
    rows.flat_map(|a| w.chunks(a.len()).map(move |w| dot(a, w))).collect()
}

#[inline(always)]
fn dot_products_body<S: Simd, W: Element>(s: S, a: Mat<'_>, w: &[W], out: &mut [f32], scratch: &mut Scratch) {
    assert!(a.rows() <= ROWS && w.len().is_multiple_of(a.cols()), "{a:?} times {} weights", w.len());
    assert_eq!(out.len(), a.rows() * (w.len() / a.cols()), "outputs");
    out.fill(0.0);
    // As many sums as the registers hold: 32 of 16 lanes with AVX-512, 16 otherwise.
    match (a.rows(), S::LANES) {
        (0, _) => {}
        (1, _) => narrow::<S, W, 1, 8>(s, a, w, out),
        (2, 16) => narrow::<S, W, 2, 8>(s, a, w, out),
        (3, 16) => narrow::<S, W, 3, 8>(s, a, w, out),
        (2, _) => narrow::<S, W, 2, 4>(s, a, w, out),
        (3, _) => narrow::<S, W, 3, 4>(s, a, w, out),
        (4, _) => narrow::<S, W, 4, 4>(s, a, w, out),
        (_, 16) => wide::<S, W, 3, 8>(s, a, w, out, scratch),
        (_, _) => wide::<S, W, 3, 4>(s, a, w, out, scratch),
    }
}

/// Adds the sums of `M x N` vectors, `N` a multiple of four, to rows of `out` that are `stride` apart.
#[inline(always)]
fn add_sums<S: Simd, const M: usize, const N: usize>(
    s: S,
    acc: &[[S::F32; N]; M],
    out: &mut [f32],
    stride: usize,
) {
    for i in 0..M {
        for j in (0..N).step_by(4) {
            let sums = s.sum4([acc[i][j], acc[i][j + 1], acc[i][j + 2], acc[i][j + 3]]);
            out[i * stride + j..][..4].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        }
    }
}

/// Calls `add(part of out, stride)` for the `M x N` outputs at `at`, through a copy where the matrix ends earlier.
#[inline(always)]
fn at_edge<const M: usize, const N: usize>(
    out: &mut [f32],
    (rows, cols): (usize, usize),
    at: (usize, usize),
    add: impl FnOnce(&mut [f32], usize),
) {
    let mut copy = [[0.0; N]; M];
    let whole = at.0 + M <= rows && at.1 + N <= cols;
    let (part, stride) =
        if whole { (&mut out[at.0 * cols + at.1..], cols) } else { (copy.as_flattened_mut(), N) };
    add(part, stride);
    if !whole {
        for (row, sums) in out[at.0 * cols..].chunks_mut(cols).zip(&copy) {
            row[at.1..].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        }
    }
}

/// `M` rows of activations against `N` rows of weights at a time, both read in place.
#[inline(always)]
fn narrow<S: Simd, W: Element, const M: usize, const N: usize>(s: S, a: Mat<'_>, w: &[W], out: &mut [f32]) {
    let k = a.cols();
    let n = w.len() / k;
    let a: [&[f32]; M] = std::array::from_fn(|i| a.row(i));
    for n0 in (0..n).step_by(N) {
        let ahead = w.get((n0 + N) * k..).unwrap_or_default();
        // Past the last row of weights, it is used again and its result dropped.
        let w: [&[W]; N] = std::array::from_fn(|j| &w[(n0 + j).min(n - 1) * k..][..k]);
        for k0 in (0..k).step_by(KC) {
            let end = k.min(k0 + KC);
            let whole = k0 + (end - k0) / S::LANES * S::LANES;
            let mut acc = [[s.zero(); N]; M];
            let mut at = k0;
            while at < whole {
                let mut x = [s.zero(); M];
                for i in 0..M {
                    // SAFETY: `at + LANES <= whole <= k`, the length of every row.
                    x[i] = s.load(unsafe { a[i].get_unchecked(at..at + S::LANES) });
                }
                // Rows are too short for the hardware's prefetcher to get up to speed: ask for the next group's.
                if (at * size_of::<W>()).is_multiple_of(64) {
                    for j in 0..N {
                        ahead.get(j * k + at).into_iter().for_each(|w| s.prefetch(w));
                    }
                }
                for j in 0..N {
                    // SAFETY: as above.
                    let w = W::load(s, unsafe { w[j].get_unchecked(at..at + S::LANES) });
                    for i in 0..M {
                        acc[i][j] = s.mul_add(x[i], w, acc[i][j]);
                    }
                }
                at += S::LANES;
            }
            if whole < end {
                for j in 0..N {
                    let w = W::load_part(s, &w[j][whole..end]);
                    for i in 0..M {
                        acc[i][j] = s.mul_add(s.load_part(&a[i][whole..end]), w, acc[i][j]);
                    }
                }
            }
            at_edge::<M, N>(out, (M, n), (0, n0), |out, stride| add_sums(s, &acc, out, stride));
        }
    }
}

/// Any number of rows, through packed copies.
#[inline(always)]
fn wide<S: Simd, W: Element, const MR: usize, const NR: usize>(
    s: S,
    a: Mat<'_>,
    w: &[W],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let (m, k) = (a.rows(), a.cols());
    let (n, panels) = (w.len() / k, m.div_ceil(MR));
    for k0 in (0..k).step_by(KC) {
        let block = k0..k.min(k0 + KC);
        let steps = block.len().div_ceil(S::LANES);
        let packed = at_least(&mut scratch.a, panels * MR * steps * S::LANES);
        for (i, panel) in packed.chunks_exact_mut(MR * steps * S::LANES).enumerate() {
            pack::<S, f32, MR>(s, |r| (i * MR + r < m).then(|| &a.row(i * MR + r)[block.clone()]), panel);
        }
        let widened = at_least(&mut scratch.w, NR * steps * S::LANES);
        for n0 in (0..n).step_by(NR) {
            pack::<S, W, NR>(s, |r| (n0 + r < n).then(|| &w[(n0 + r) * k..][block.clone()]), widened);
            // The next group is on its way while this one is used, some cache lines for each tile: rows this short do
            // not wake the hardware's prefetcher.
            let per_line = 64 / size_of::<W>();
            let lines = NR * block.len().div_ceil(per_line);
            for (i, panel) in packed.chunks_exact(MR * steps * S::LANES).enumerate() {
                for line in i * lines / panels..(i + 1) * lines / panels {
                    let (r, at) = (n0 + NR + line % NR, block.start + line / NR * per_line);
                    w.get(r * k + at).into_iter().for_each(|w| s.prefetch(w));
                }
                at_edge::<MR, NR>(out, (m, n), (i * MR, n0), |out, stride| {
                    tile::<S, MR, NR>(s, panel, widened, out, stride);
                });
            }
        }
    }
}

/// Lays `R` rows side by side, `[steps][R][LANES]`, widened; absent rows and the end of the last step are zeros.
#[inline(always)]
fn pack<'w, S: Simd, W: Element, const R: usize>(
    s: S,
    row: impl Fn(usize) -> Option<&'w [W]>,
    out: &mut [f32],
) {
    let steps = out.len() / (R * S::LANES);
    for r in 0..R {
        let row = row(r).unwrap_or_default();
        let whole = (row.len() / S::LANES).min(steps);
        for step in 0..whole {
            // SAFETY: `step` is below the whole vectors of `row` and below the steps of `out`, `r` below `R`.
            let (x, out) = unsafe {
                let at = (step * R + r) * S::LANES;
                (
                    row.get_unchecked(step * S::LANES..(step + 1) * S::LANES),
                    out.get_unchecked_mut(at..at + S::LANES),
                )
            };
            s.store(W::load(s, x), out);
        }
        for step in whole..steps {
            let rest = row.get(step * S::LANES..).unwrap_or_default();
            s.store(W::load_part(s, rest), &mut out[(step * R + r) * S::LANES..]);
        }
    }
}

/// Adds the dot products of `MR` packed rows with `NR` packed rows over one block to rows of `out` that are `stride` apart.
///
/// The loads are unchecked because a check in the innermost loop keeps it from being unrolled at lower optimisation
/// levels, and then the sums live in memory.
#[inline(always)]
fn tile<S: Simd, const MR: usize, const NR: usize>(
    s: S,
    a: &[f32],
    w: &[f32],
    out: &mut [f32],
    stride: usize,
) {
    let steps = w.len() / (NR * S::LANES);
    assert!(a.len() >= steps * MR * S::LANES, "panels of {} and {}", a.len(), w.len());
    let mut acc = [[s.zero(); NR]; MR];
    for step in 0..steps {
        let (a_at, w_at) = (step * MR * S::LANES, step * NR * S::LANES);
        let mut x = [s.zero(); MR];
        for i in 0..MR {
            // SAFETY: `step < steps`, and `a` holds `steps * MR` vectors.
            x[i] = s.load(unsafe { a.get_unchecked(a_at + i * S::LANES..a_at + (i + 1) * S::LANES) });
        }
        for j in 0..NR {
            // SAFETY: `step < steps`, and `w` holds `steps * NR` vectors.
            let w = s.load(unsafe { w.get_unchecked(w_at + j * S::LANES..w_at + (j + 1) * S::LANES) });
            for i in 0..MR {
                acc[i][j] = s.mul_add(x[i], w, acc[i][j]);
            }
        }
    }
    add_sums(s, &acc, out, stride);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
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

    /// A dot product of K terms in f32 differs from the exact one by at most `(K/LANES + lanes' tree + blocks + 1) * u *
    /// sum |a w|` (Higham, section 3.1); K + 8 stands for all of that on every instruction set.
    fn check<W: Element>(isa: Isa, m: usize, n: usize, k: usize, seed: u64) {
        let a = numbers(seed, m * k);
        let w: Vec<W> = numbers(!seed, n * k).into_iter().map(W::from_f32).collect();
        let mut out = vec![f32::NAN; m * n];
        dot_products::<W>(isa, Mat::new(&a, k), &w, &mut out, &mut Scratch::default());
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
                let run = |a: &[f32], w: &[f16]| {
                    let mut out = vec![f32::NAN; a.len() / k * (w.len() / k)];
                    dot_products(isa, Mat::new(a, k), w, &mut out, &mut Scratch::default());
                    out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let all = run(&a, &w);
                for rows in 1..=m.min(6) {
                    prop_assert_eq!(&run(&a[..rows * k], &w)[..], &all[..rows * n], "{} {} rows", isa, rows);
                }
                let last = run(&a[(m - 1) * k..], &w[(n - 1) * k..]);
                prop_assert_eq!(last[0], all[m * n - 1]);
            }
        }
    }
}
