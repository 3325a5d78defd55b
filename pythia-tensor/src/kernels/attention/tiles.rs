//! The two products of attention, a tile of sums in registers at a time. A lane of keys and values holds an `f32`, or a pair of
//! `bf16`, and so do queries and weights as [`Product`] prepares them: of neighbouring dimensions in queries and keys, of neighbouring positions in weights and values.

use super::key_values::{STRIP, padded};
use super::{BLOCK, Head};
use crate::simd::{Product, Simd};

/// `scores[r][j] = sum over d of q[r][d] * key(j)[d]`, d in order, for whole vectors that cover the first `seen` keys of the block that begins with key `first`.
#[inline(always)]
pub(super) fn score_block<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    s: S,
    product: P,
    q: [&[f32]; R],
    (head, first): (Head<'_>, usize),
    seen: usize,
    scores: &mut [[f32; BLOCK]; R],
) {
    let mut j = 0;
    while j < seen {
        let left = (seen - j).div_ceil(S::LANES);
        if N > 1 && left >= N {
            score_tile::<S, P, R, N>(s, product, q, (head, first), j, scores);
            j += N * S::LANES;
        } else if N > 2 && left >= 2 {
            score_tile::<S, P, R, 2>(s, product, q, (head, first), j, scores);
            j += 2 * S::LANES;
        } else {
            score_tile::<S, P, R, 1>(s, product, q, (head, first), j, scores);
            j += S::LANES;
        }
    }
}

/// `N` vectors of [`score_block`], from key `j` on.
#[inline(always)]
fn score_tile<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    s: S,
    product: P,
    q: [&[f32]; R],
    (head, first): (Head<'_>, usize),
    j: usize,
    scores: &mut [[f32; BLOCK]; R],
) {
    assert!(j + N * S::LANES <= BLOCK, "{N} vectors of keys at {j}");
    let rows = head.rows();
    let q = q.map(|q| &q[..rows * P::WORDS]);
    let at: [usize; N] = std::array::from_fn(|v| head.keys_at((first + j + v * S::LANES) / STRIP));
    let (strips, ahead) = (at.map(|at| head.lanes(at, rows)), at.map(|at| head.ahead(at)));
    let offsets: [usize; N] = std::array::from_fn(|v| (j + v * S::LANES) % STRIP);
    let mut acc = [[s.zero(); N]; R];
    for d in 0..rows {
        let mut k = [s.zero(); N];
        for v in 0..N {
            k[v] = s.load(&strips[v][d][offsets[v]..]);
            ask_ahead::<S, R>(s, ahead[v], d * STRIP);
        }
        for r in 0..R {
            let q = product.splat(s, q[r], d);
            for v in 0..N {
                acc[r][v] = product.mul_add(s, q, k[v], acc[r][v]);
            }
        }
    }
    for r in 0..R {
        for v in 0..N {
            s.store(acc[r][v], &mut scores[r][j + v * S::LANES..]);
        }
    }
}

/// Asks for element `at` of what lies ahead where so few rows share what is read that memory sets the pace.
#[inline(always)]
fn ask_ahead<S: Simd, const R: usize>(s: S, ahead: &[f32], at: usize) {
    if R <= 2 {
        ahead.get(at).into_iter().for_each(|x| s.prefetch(x));
    }
}

/// Which of a block's values the rows of a mix see, in lanes.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// All rows see all of these, from the first on.
    common: usize,
    /// Of these, the later rows see more than the earlier.
    diagonal: usize,
}

impl Seen {
    /// All rows see the first `values` values, row `r` another `r` of them. Where a lane holds several values,
    /// either there is one row, or `values` is one more than a multiple of their number.
    pub(super) fn diagonal<S: Simd, P: Product<S>>(values: usize, rows: usize) -> Self {
        let common = values / P::NUMBERS;
        Self { common, diagonal: (values + rows - 1).div_ceil(P::NUMBERS) - common }
    }

    /// All rows see the first `values` values.
    pub(super) fn all<S: Simd, P: Product<S>>(values: usize) -> Self {
        Self::diagonal::<S, P>(values, 1)
    }
}

/// `z[r] = z[r] * rescale[r] + sum over j of p[r][j] * value(j)`, over the j of a block that row `r` sees, in order. What it does not
/// see is left out, not weighed with 0: it may be infinite. `z` is `[R, D padded]`.
#[inline(always)]
pub(super) fn mix_block<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    s: S,
    product: P,
    p: &[[f32; BLOCK]; R],
    rescale: &[f32; R],
    (head, first): (Head<'_>, usize),
    seen: Seen,
    z: &mut [f32],
) {
    let width = padded(head.dim());
    let mut column = 0;
    while column < width {
        if N > 1 && width - column >= N * S::LANES {
            mix_tile::<S, P, R, N>(s, product, p, rescale, (head, first), seen, column, z);
            column += N * S::LANES;
        } else {
            mix_tile::<S, P, R, 1>(s, product, p, rescale, (head, first), seen, column, z);
            column += S::LANES;
        }
    }
}

/// `N` vectors of columns of [`mix_block`], from column `column` on.
#[inline(always)]
fn mix_tile<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    s: S,
    product: P,
    p: &[[f32; BLOCK]; R],
    rescale: &[f32; R],
    (head, first): (Head<'_>, usize),
    seen: Seen,
    column: usize,
    z: &mut [f32],
) {
    let (width, page) = (padded(head.dim()), first / P::NUMBERS / STRIP);
    assert!(
        seen.common + seen.diagonal <= BLOCK / P::NUMBERS,
        "{} + {} lanes of values",
        seen.common,
        seen.diagonal
    );
    let firsts: [usize; N] = std::array::from_fn(|v| (column + v * S::LANES) / STRIP * STRIP * STRIP);
    let offsets: [usize; N] = std::array::from_fn(|v| (column + v * S::LANES) % STRIP);
    let mut acc = [[s.zero(); N]; R];
    for r in 0..R {
        let rescale = s.splat(rescale[r]);
        for v in 0..N {
            acc[r][v] = s.mul(s.load(&z[r * width + column + v * S::LANES..]), rescale);
        }
    }
    for start in (0..seen.common).step_by(STRIP) {
        let at = firsts.map(|first| head.values_at(page + start / STRIP) + first);
        let (strips, ahead) = (at.map(|at| head.lanes(at, STRIP)), at.map(|at| head.ahead(at)));
        for j in start..seen.common.min(start + STRIP) {
            let mut x = [s.zero(); N];
            for v in 0..N {
                x[v] = s.load(&strips[v][j - start][offsets[v]..]);
                ask_ahead::<S, R>(s, ahead[v], (j - start) * STRIP);
            }
            for r in 0..R {
                let p = product.splat(s, &p[r], j);
                for v in 0..N {
                    acc[r][v] = product.mul_add(s, p, x[v], acc[r][v]);
                }
            }
        }
    }
    for r in 0..R {
        for v in 0..N {
            s.store(acc[r][v], &mut z[r * width + column + v * S::LANES..]);
        }
    }
    if seen.diagonal > 0 {
        mix_diagonal::<S, P, R, N>(s, product, p, (head, first), seen, column, z);
    }
}

/// What the later rows of [`mix_tile`] see more than the earlier, row after row. Apart from the tile: a loop from a row that varies says only at run
/// time which sums it means, and then the compiler kept the tile's in memory (13 of 16 were stored at each step).
#[inline(always)]
fn mix_diagonal<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    s: S,
    product: P,
    p: &[[f32; BLOCK]; R],
    (head, first): (Head<'_>, usize),
    seen: Seen,
    column: usize,
    z: &mut [f32],
) {
    let (width, page) = (padded(head.dim()), first / P::NUMBERS / STRIP);
    for r in 0..R {
        // Where a lane holds two values, every other row sees the first only of its last.
        let whole = r.div_ceil(P::NUMBERS);
        let part = P::NUMBERS > 1 && r.is_multiple_of(P::NUMBERS);
        let z = &mut z[r * width + column..];
        let mut sums = [s.zero(); N];
        for v in 0..N {
            sums[v] = s.load(&z[v * S::LANES..]);
        }
        for i in 0..(whole + usize::from(part)).min(seen.diagonal) {
            let j = seen.common + i;
            let (page, p) = (head.values_at(page + j / STRIP), product.splat(s, &p[r], j));
            for v in 0..N {
                let column = column + v * S::LANES;
                let strip = head.lanes(page + column / STRIP * STRIP * STRIP, STRIP);
                let x = s.load(&strip[j % STRIP][column % STRIP..]);
                let x = if i < whole { x } else { product.first(s, x) };
                sums[v] = product.mul_add(s, p, x, sums[v]);
            }
        }
        for v in 0..N {
            s.store(sums[v], &mut z[v * S::LANES..]);
        }
    }
}
