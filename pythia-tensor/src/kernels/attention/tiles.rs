//! The two products of attention, a tile of sums in registers at a time.

use super::BLOCK;
use super::key_values::{STRIP, Strip};
use crate::simd::Simd;

/// `scores[r][j] = sum over d of q[r][d] * keys[d][j]`, d in order, for whole vectors that cover the keys `0..seen`.
#[inline(always)]
pub(super) fn score_block<S: Simd, const R: usize, const N: usize>(
    s: S,
    q: [&[f32]; R],
    keys: &[[f32; BLOCK]],
    seen: usize,
    ahead: &[f32],
    scores: &mut [[f32; BLOCK]; R],
) {
    let mut j = 0;
    while j < seen {
        if N > 1 && seen > j + S::LANES {
            score_tile::<S, R, N>(s, q, keys, j, ahead, scores);
            j += N * S::LANES;
        } else {
            score_tile::<S, R, 1>(s, q, keys, j, ahead, scores);
            j += S::LANES;
        }
    }
}

/// `N` vectors of [`score_block`], from key `j` on.
#[inline(always)]
fn score_tile<S: Simd, const R: usize, const N: usize>(
    s: S,
    q: [&[f32]; R],
    keys: &[[f32; BLOCK]],
    j: usize,
    ahead: &[f32],
    scores: &mut [[f32; BLOCK]; R],
) {
    assert!(j + N * S::LANES <= BLOCK, "{N} vectors of keys at {j}");
    let q = q.map(|q| &q[..keys.len()]);
    let mut acc = [[s.zero(); N]; R];
    for (d, keys) in keys.iter().enumerate() {
        let mut k = [s.zero(); N];
        for v in 0..N {
            k[v] = s.load(&keys[j + v * S::LANES..]);
            ask_ahead::<S, R>(s, ahead, d * BLOCK + j + v * S::LANES);
        }
        for r in 0..R {
            let q = s.splat(q[r][d]);
            for v in 0..N {
                acc[r][v] = s.mul_add(q, k[v], acc[r][v]);
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

/// Which of a block's values the rows of a mix see.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// All rows see the values `0..common`.
    pub(super) common: usize,
    /// Row `r` also sees the `r` values after those.
    pub(super) triangle: bool,
}

/// `z[r] = z[r] * rescale[r] + sum over j of p[r][j] * value(j)`, over the j that row `r` sees, in order. What it does not
/// see is left out, not weighed with 0: it may be infinite. `z` is `[R, D padded]`.
#[inline(always)]
pub(super) fn mix_block<S: Simd, const R: usize, const N: usize>(
    s: S,
    p: &[[f32; BLOCK]; R],
    rescale: &[f32; R],
    values: &[Strip],
    seen: Seen,
    ahead: &[f32],
    z: &mut [f32],
) {
    let width = values.len() * STRIP;
    let mut column = 0;
    while column < width {
        if N > 1 && width - column >= N * S::LANES {
            mix_tile::<S, R, N>(s, p, rescale, values, seen, column, ahead, z);
            column += N * S::LANES;
        } else {
            mix_tile::<S, R, 1>(s, p, rescale, values, seen, column, ahead, z);
            column += S::LANES;
        }
    }
}

/// `N` vectors of columns of [`mix_block`], from column `column` on.
#[inline(always)]
fn mix_tile<S: Simd, const R: usize, const N: usize>(
    s: S,
    p: &[[f32; BLOCK]; R],
    rescale: &[f32; R],
    values: &[Strip],
    seen: Seen,
    column: usize,
    ahead: &[f32],
    z: &mut [f32],
) {
    let width = values.len() * STRIP;
    let Seen { common, triangle } = seen;
    assert!(common <= BLOCK && (!triangle || common + R <= BLOCK + 1), "{common} values");
    let strips: [&Strip; N] = std::array::from_fn(|v| &values[(column + v * S::LANES) / STRIP]);
    let offsets: [usize; N] = std::array::from_fn(|v| (column + v * S::LANES) % STRIP);
    let mut acc = [[s.zero(); N]; R];
    for r in 0..R {
        let rescale = s.splat(rescale[r]);
        for v in 0..N {
            acc[r][v] = s.mul(s.load(&z[r * width + column + v * S::LANES..]), rescale);
        }
    }
    for j in 0..common {
        let mut x = [s.zero(); N];
        for v in 0..N {
            x[v] = s.load(&strips[v][j][offsets[v]..]);
            ask_ahead::<S, R>(s, ahead, ((column + v * S::LANES) / STRIP * BLOCK + j) * STRIP);
        }
        for r in 0..R {
            let p = s.splat(p[r][j]);
            for v in 0..N {
                acc[r][v] = s.mul_add(p, x[v], acc[r][v]);
            }
        }
    }
    if triangle {
        for i in 1..R {
            let j = common + i - 1;
            let mut x = [s.zero(); N];
            for v in 0..N {
                x[v] = s.load(&strips[v][j][offsets[v]..]);
            }
            for r in i..R {
                let p = s.splat(p[r][j]);
                for v in 0..N {
                    acc[r][v] = s.mul_add(p, x[v], acc[r][v]);
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
