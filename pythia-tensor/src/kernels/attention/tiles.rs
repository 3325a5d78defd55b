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
    let mut lines = [Stream::default(); N];
    for v in 0..N {
        let j = j + v * S::LANES;
        lines[v] = Stream::new(head, head.keys_at((first + j) / STRIP), rows, j % STRIP);
    }
    let acc = add_lines::<S, P, R, N>(s, product, (q, 0), lines, [[s.zero(); N]; R]);
    for r in 0..R {
        for v in 0..N {
            s.store(acc[r][v], &mut scores[r][j + v * S::LANES..]);
        }
    }
}

/// Lines of keys or values, one after another in memory.
#[derive(Clone, Copy, Default)]
struct Stream<'a> {
    now: &'a [[f32; STRIP]],
    /// Where in each the vector lies that is meant.
    offset: usize,
    /// As many lines that are needed later; the same ones where none follow.
    ahead: &'a [[f32; STRIP]],
}

impl<'a> Stream<'a> {
    /// `len` lines from `at` on.
    #[inline(always)]
    fn new(head: Head<'a>, at: usize, len: usize, offset: usize) -> Self {
        let now = head.lanes(at, len);
        Self { now, offset, ahead: head.ahead(at, len).unwrap_or(now) }
    }

    /// The vector of one of them.
    #[inline(always)]
    fn load<S: Simd>(self, s: S, line: &[f32; STRIP]) -> S::F32 {
        s.load(&line[self.offset..])
    }
}

/// Whether so few rows share what is read that memory sets the pace.
pub(super) const fn memory_bound(rows: usize) -> bool {
    rows <= 2
}

/// Lines between two branches. Where memory sets the pace, a core waits for as many lines at a time as its window of instructions holds loads of: few
/// instructions a line are what makes reading fast. `attention.rs` has the figures.
const UNROLLED: usize = 4;

/// `acc[r][v] + sum over i of a[r][first + i] * lines[v][i]`, i in order.
#[inline(always)]
fn add_lines<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    s: S,
    product: P,
    (a, first): ([&[f32]; R], usize),
    lines: [Stream<'_>; N],
    mut acc: [[S::F32; N]; R],
) -> [[S::F32; N]; R] {
    let len = lines[0].now.len();
    // Once, so that no vector is checked.
    for v in 0..N {
        assert!(
            lines[v].offset <= STRIP - S::LANES && lines[v].now.len() == len && lines[v].ahead.len() == len,
            "vectors in lines"
        );
    }
    // With AVX2, whose 4 x 2 sums are just as many as the latency of its multiply-adds asks for, prompts ran at 0.95 with more lines than one.
    let unrolled = if const { memory_bound(R) || S::LANES == STRIP } { len / UNROLLED } else { 0 };
    for c in 0..unrolled {
        let mut a = a;
        for r in 0..R {
            a[r] = &a[r][(first + c * UNROLLED) * P::WORDS..][..UNROLLED * P::WORDS];
        }
        let (mut x, mut ahead) = ([&[[0.0; STRIP]; UNROLLED]; N], [&[[0.0; STRIP]; UNROLLED]; N]);
        for v in 0..N {
            (x[v], ahead[v]) = (&lines[v].now.as_chunks().0[c], &lines[v].ahead.as_chunks().0[c]);
        }
        for i in 0..UNROLLED {
            let mut vectors = [s.zero(); N];
            for v in 0..N {
                vectors[v] = lines[v].load(s, &x[v][i]);
                if memory_bound(R) {
                    s.prefetch(ahead[v][i].as_ptr());
                }
            }
            acc = add_products(s, product, a, i, vectors, acc);
        }
    }
    // They ask for nothing: few, of dimensions that are no multiples of eight or of a page that is not seen whole.
    for i in unrolled * UNROLLED..len {
        let mut vectors = [s.zero(); N];
        for v in 0..N {
            vectors[v] = lines[v].load(s, &lines[v].now[i]);
        }
        acc = add_products(s, product, a, first + i, vectors, acc);
    }
    acc
}

/// `acc[r][v] + a[r][i] * x[v]`.
#[inline(always)]
fn add_products<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    s: S,
    product: P,
    a: [&[f32]; R],
    i: usize,
    x: [S::F32; N],
    mut acc: [[S::F32; N]; R],
) -> [[S::F32; N]; R] {
    for r in 0..R {
        let a = product.splat(s, a[r], i);
        for v in 0..N {
            acc[r][v] = product.mul_add(s, a, x[v], acc[r][v]);
        }
    }
    acc
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
    let mut acc = [[s.zero(); N]; R];
    for r in 0..R {
        let rescale = s.splat(rescale[r]);
        for v in 0..N {
            acc[r][v] = s.mul(s.load(&z[r * width + column + v * S::LANES..]), rescale);
        }
    }
    let mut weights: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        weights[r] = &p[r];
    }
    for start in (0..seen.common).step_by(STRIP) {
        let (at, len) = (head.values_at(page + start / STRIP), STRIP.min(seen.common - start));
        let mut lines = [Stream::default(); N];
        for v in 0..N {
            let column = column + v * S::LANES;
            lines[v] = Stream::new(head, at + column / STRIP * STRIP * STRIP, len, column % STRIP);
        }
        acc = add_lines::<S, P, R, N>(s, product, (weights, start), lines, acc);
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
