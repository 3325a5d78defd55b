//! Queries and blocks of keys before them, with AMX: up to 32 queries and 64 keys together. For heads of whole 32 dimensions.
//!
//! Keys lie as pairs of dimensions and values as pairs of positions, which are the tiles' own layouts. The block with a query's
//! diagonal goes through `step` as elsewhere; so a query's result depends on its position alone here, too.

use super::key_values::{STRIP, padded};
use super::tiles::memory_bound;
use super::{BLOCK, GROUP, Head, QUERIES, Running, TILED_BLOCK, soften};
use crate::kernels::rotary::Rotary;
use crate::simd::amx::{COLUMNS, LINE, Matrix, ROWS, Start, TILE, Tiles};
use crate::simd::{Amx, Arithmetic, Avx512, Pairs, Simd};
use crate::{Mat, Tile};
use std::ops::Range;

/// Dimensions, or positions, of a step of the tiles.
const STEP: usize = 32;

// Strips of values and groups of queries are tiles.
const _: () = assert!(STRIP == TILE && QUERIES <= ROWS);

/// Whether a head's dimensions are whole steps.
pub(super) fn fits(head: Head<'_>) -> bool {
    head.dim().is_multiple_of(STEP)
}

#[inline(always)]
pub(super) fn attend_body(
    s: Avx512,
    pairs: Pairs,
    amx: Amx,
    q: Mat<'_>,
    start: usize,
    head: Head<'_>,
    rotary: &Rotary,
    running: &mut Running,
    out: &mut Tile<'_>,
) {
    let mut tiles = amx.tiles();
    let whole = |queries: Range<usize>, first: usize, running: &mut Running| {
        // SAFETY: `s` and `pairs` prove that the machine has the instructions.
        unsafe { whole_block((s, pairs), &mut tiles, queries, first, head, running) };
    };
    super::attend_body(s, pairs, Some(whole), q, start, head, rotary, running, out);
}

/// Takes `queries` through all of the block that begins with key `first`. With features of its own, as a closure is not inlined into what has them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn whole_block(
    (s, pairs): (Avx512, Pairs),
    tiles: &mut Tiles,
    queries: Range<usize>,
    first: usize,
    head: Head<'_>,
    running: &mut Running,
) {
    let (width, steps, pages) = (padded(head.dim()), head.dim() / STEP, TILED_BLOCK / STEP);
    tiles.shape(queries.len());
    if memory_bound(queries.len()) {
        for page in 0..pages {
            let lines = head.ahead(head.keys_at((first + page * STEP) / STRIP), 2 * width);
            lines.into_iter().flatten().for_each(|line| s.prefetch(line));
        }
    }

    let q = Mat::new(&running.q.get()[queries.start * width..], width).lines();
    let p = &mut running.p.0[..queries.len()];
    for j in (0..TILED_BLOCK).step_by(COLUMNS) {
        let keys = [j, j + TILE].map(|j| head.lanes(head.keys_at((first + j) / STRIP), head.rows()));
        tiles.bf16(
            q,
            (keys.map(matrix), TILE * LINE),
            steps,
            Start::Zero,
            &mut p.as_flattened_mut()[j..],
            BLOCK,
        );
    }

    let z = &mut running.z.get_mut()[queries.start * width..][..queries.len() * width];
    let mut t = 0;
    while t < queries.len() {
        let n = GROUP.min(1 << (queries.len() - t).ilog2());
        let state = (&mut running.m[queries.start + t..], &mut running.l[queries.start + t..]);
        let (p, z) = (&mut p[t..], &mut z[t * width..][..n * width]);
        match n {
            8 => weigh::<8>((s, pairs), p, state, z),
            4 => weigh::<4>((s, pairs), p, state, z),
            2 => weigh::<2>((s, pairs), p, state, z),
            _ => weigh::<1>((s, pairs), p, state, z),
        }
        // Long enough without a store, and the next one would have to wait.
        tiles.stay_awake();
        t += n;
    }

    let p = Mat::new(p.as_flattened(), BLOCK).lines();
    let (at, page) = (head.values_at(first / STEP), head.values_at(1) - head.values_at(0));
    for column in (0..head.dim()).step_by(COLUMNS) {
        let values = [column, column + STRIP]
            .map(|column| head.lanes(at + column * STRIP, (pages - 1) * page / STRIP + STRIP));
        tiles.bf16(p, (values.map(matrix), 4 * page), pages, Start::Sums, &mut z[column..], width);
    }
}

/// Rows of lanes as an operand of tiles.
fn matrix(lanes: &[[f32; STRIP]]) -> Matrix<'_> {
    Matrix { bytes: bytemuck::cast_slice(lanes.as_flattened()), stride: LINE }
}

/// Turns the scores of `R` queries into weights, in pairs, and shrinks what they have mixed so far.
#[inline(always)]
fn weigh<const R: usize>(
    (s, pairs): (Avx512, Pairs),
    p: &mut [[f32; BLOCK]],
    (m, l): (&mut [f32], &mut [[f32; 16]]),
    z: &mut [f32],
) {
    let p = p.first_chunk_mut::<R>().expect("a query's scores");
    let m = m.first_chunk_mut().expect("a query's largest score");
    let l = l.first_chunk_mut().expect("a query's sums");
    let rescale = soften::<Avx512, Pairs, R>(s, pairs, p, TILED_BLOCK, m, l);
    let width = z.len() / R;
    for r in 0..R {
        let rescale = s.splat(rescale[r]);
        for z in z[r * width..][..width].chunks_exact_mut(Avx512::LANES) {
            s.store(s.mul(s.load(z), rescale), z);
        }
    }
}
