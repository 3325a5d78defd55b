//! The two products of attention, a tile of sums in registers at a time. A lane of keys and values holds an `f32`, or a pair of
//! `bf16`, and so do queries and weights as [`Product`] prepares them: of neighbouring dimensions in queries and keys, of neighbouring positions in weights and values.

use super::BLOCK;
use super::key_values::STRIP;
use crate::simd::{Product, Simd};

/// `scores[r][j] = sum over d of q[r][d] * keys[d][j]`, d in order, for whole vectors that cover the keys `0..seen`.
#[inline(always)]
pub(super) fn score_block<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    s: S,
    product: P,
    q: [&[f32]; R],
    keys: &[[f32; BLOCK]],
    seen: usize,
    ahead: &[f32],
    scores: &mut [[f32; BLOCK]; R],
) {
    let mut j = 0;
    while j < seen {
        if N > 1 && seen > j + S::LANES {
            score_tile::<S, P, R, N>(s, product, q, keys, j, ahead, scores);
            j += N * S::LANES;
        } else {
            score_tile::<S, P, R, 1>(s, product, q, keys, j, ahead, scores);
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
    keys: &[[f32; BLOCK]],
    j: usize,
    ahead: &[f32],
    scores: &mut [[f32; BLOCK]; R],
) {
    assert!(j + N * S::LANES <= BLOCK, "{N} vectors of keys at {j}");
    let q = q.map(|q| &q[..keys.len() * P::WORDS]);
    let mut acc = [[s.zero(); N]; R];
    for (d, keys) in keys.iter().enumerate() {
        let mut k = [s.zero(); N];
        for v in 0..N {
            k[v] = s.load(&keys[j + v * S::LANES..]);
            ask_ahead::<S, R>(s, ahead, d * BLOCK + j + v * S::LANES);
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

/// Asks for element `at` of the stream ahead where so few rows share what is read that memory sets the pace.
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

/// `z[r] = z[r] * rescale[r] + sum over j of p[r][j] * value(j)`, over the j that row `r` sees, in order. What it does not
/// see is left out, not weighed with 0: it may be infinite. `z` is `[R, D padded]`,
/// `values` are `[D / STRIP][BLOCK]`.
#[inline(always)]
pub(super) fn mix_block<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    s: S,
    product: P,
    p: &[[f32; BLOCK]; R],
    rescale: &[f32; R],
    values: &[[f32; STRIP]],
    seen: Seen,
    ahead: &[f32],
    z: &mut [f32],
) {
    let width = values.len() / (BLOCK / P::NUMBERS) * STRIP;
    let mut column = 0;
    while column < width {
        if N > 1 && width - column >= N * S::LANES {
            mix_tile::<S, P, R, N>(s, product, p, rescale, values, seen, column, ahead, z);
            column += N * S::LANES;
        } else {
            mix_tile::<S, P, R, 1>(s, product, p, rescale, values, seen, column, ahead, z);
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
    values: &[[f32; STRIP]],
    seen: Seen,
    column: usize,
    ahead: &[f32],
    z: &mut [f32],
) {
    let width = values.len() / (BLOCK / P::NUMBERS) * STRIP;
    let lanes = BLOCK / P::NUMBERS;
    assert!(seen.common + seen.diagonal <= lanes, "{} + {} lanes of values", seen.common, seen.diagonal);
    let strips: [&[[f32; STRIP]]; N] =
        std::array::from_fn(|v| &values[(column + v * S::LANES) / STRIP * lanes..][..lanes]);
    let offsets: [usize; N] = std::array::from_fn(|v| (column + v * S::LANES) % STRIP);
    let mut acc = [[s.zero(); N]; R];
    for r in 0..R {
        let rescale = s.splat(rescale[r]);
        for v in 0..N {
            acc[r][v] = s.mul(s.load(&z[r * width + column + v * S::LANES..]), rescale);
        }
    }
    for j in 0..seen.common {
        let mut x = [s.zero(); N];
        for v in 0..N {
            x[v] = s.load(&strips[v][j][offsets[v]..]);
            ask_ahead::<S, R>(s, ahead, ((column + v * S::LANES) / STRIP * lanes + j) * STRIP);
        }
        for r in 0..R {
            let p = product.splat(s, &p[r], j);
            for v in 0..N {
                acc[r][v] = product.mul_add(s, p, x[v], acc[r][v]);
            }
        }
    }
    for i in 0..R {
        if i < seen.diagonal {
            let j = seen.common + i;
            let mut x = [s.zero(); N];
            for v in 0..N {
                x[v] = s.load(&strips[v][j][offsets[v]..]);
            }
            // With two values a lane, this row sees the first of them only.
            if P::NUMBERS > 1 && P::NUMBERS * i < R {
                let r = P::NUMBERS * i;
                let p = product.splat(s, &p[r], j);
                for v in 0..N {
                    acc[r][v] = product.mul_add(s, p, product.first(s, x[v]), acc[r][v]);
                }
            }
            for r in P::NUMBERS * i + 1..R {
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
}
