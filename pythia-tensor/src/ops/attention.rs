//! Causal attention of a ragged batch, fused or step by step.

use crate::kernels::attention::{Head, KeyValues, QUERIES, Running, attend, mix, scores};
use crate::kernels::rotary::Rotary;
use crate::kernels::rows::ask_for;
use crate::{Crew, Isa, Mat, MatMut, Tile, Tiles};
use std::cell::RefCell;

/// Tasks for each thread of a region of many sequences.
const TASKS: usize = 8;

thread_local! {
    static RUNNING: RefCell<Running> = RefCell::default();
}

/// Writes the keys (rotated) and values of one sequence's rows of `qkv`, `[T, H * 3 * D]` with rows `[head][q, k, v][D]`, to
/// its cache, at the positions from `start` on.
///
/// # Panics
/// If the shapes do not fit or there is no room.
pub fn append(crew: &Crew<'_>, cache: &mut KeyValues, qkv: Mat<'_>, start: usize, rotary: &Rotary) {
    cache.check(qkv, start);
    let (isa, mut none) = (crew.isa(), vec![0.0; cache.shape().0]);
    let write = |tile: Tile<'_>| {
        let h = tile.rows().start;
        RUNNING.with_borrow_mut(|running| {
            cache.with_head_mut(h, |mut head| head.write(isa, qkv, h, start, rotary, &mut running.keys));
        });
    };
    crew.run(&mut [Tiles::new(MatMut::new(&mut none, 1), 1, 1, &write)]);
}

/// Attention of every sequence's new tokens over its cache, which already holds their keys and values.
///
/// `qkv` is `[T, H * 3 * D]` with rows `[head][q, k, v][D]`, queries not yet rotated; `out` is `[T, H * D]`.
/// `blocks` cuts the rows into runs of at most 32 that belong to one sequence: block `i` is rows
/// `blocks[i]..blocks[i + 1]`, and `block(i)` gives its sequence's cache and the position of its first row.
///
/// # Panics
/// If the shapes do not fit, or a block is longer than 32 rows.
pub fn attention<'c>(
    crew: &Crew<'_>,
    out: MatMut<'_>,
    qkv: Mat<'_>,
    rotary: &Rotary,
    dim: usize,
    blocks: &[usize],
    block: impl Fn(usize) -> (&'c KeyValues, usize) + Sync,
) {
    check(&out, qkv, dim, blocks);
    let isa = crew.isa();
    let work = |mut tile: Tile<'_>| {
        let ((cache, start), h) = (block(tile.row_block()), tile.cols().start / dim);
        RUNNING.with_borrow_mut(|running| {
            cache.with_head(h, |head| {
                attend_tile(isa, &mut tile, (h, dim), qkv, start, head, rotary, running);
            });
        });
    };
    crew.run(&mut [Tiles::ragged(out, blocks, dim, &work)]);
}

/// [`append`] and [`attention`] in one parallel region, for sequences of few new tokens each: sequence `i` has the rows
/// `bounds[i]..bounds[i + 1]`, at most 32, and `sequence(i)` gives its cache, which no other has, and the position of its first
/// row.
///
/// Each task writes the keys and values of a head of its sequence, or of several, before it reads them: one region less for each layer, and the
/// lines that a thread writes are those that it reads next.
///
/// # Panics
/// If the shapes do not fit, there is no room, or a sequence has more than 32 rows.
pub fn append_and_attend<'c>(
    crew: &Crew<'_>,
    out: MatMut<'_>,
    qkv: Mat<'_>,
    rotary: &Rotary,
    dim: usize,
    bounds: &[usize],
    sequence: impl Fn(usize) -> (&'c KeyValues, usize) + Sync,
) {
    check(&out, qkv, dim, bounds);
    for (i, rows) in bounds.windows(2).enumerate() {
        let (cache, start) = sequence(i);
        cache.check(qkv.slice_rows(rows[0]..rows[1]), start);
    }
    let isa = crew.isa();
    let work = |mut tile: Tile<'_>| {
        let (cache, start) = sequence(tile.row_block());
        let rows = qkv.slice_rows(tile.rows());
        RUNNING.with_borrow_mut(|running| {
            for h in tile.cols().start / dim..tile.cols().end / dim {
                cache.with_head_mut(h, |mut head| {
                    ask_for(isa, head.get().first(start + rows.rows()).beginning());
                    head.write(isa, rows, h, start, rotary, &mut running.keys);
                    attend_tile(isa, &mut tile, (h, dim), qkv, start, head.get(), rotary, running);
                });
            }
        });
    };
    // With many sequences, a task is several heads of one: neighbours in memory.
    let heads = out.cols() / dim;
    let together = (heads * bounds.windows(2).len() / (TASKS * crew.threads())).clamp(1, heads);
    crew.run(&mut [Tiles::ragged(out, bounds, together * dim, &work)]);
}

fn check(out: &MatMut<'_>, qkv: Mat<'_>, dim: usize, blocks: &[usize]) {
    assert!(qkv.rows() == out.rows() && qkv.cols() == 3 * out.cols(), "attention of {qkv:?}");
    assert!(out.cols().is_multiple_of(dim), "heads of {dim} in {} columns", out.cols());
    assert!(blocks.windows(2).all(|b| b[1] - b[0] <= QUERIES), "blocks of at most {QUERIES} rows");
}

/// Head `h` of a tile whose rows are queries, the first at position `start`.
fn attend_tile(
    isa: Isa,
    tile: &mut Tile<'_>,
    (h, dim): (usize, usize),
    qkv: Mat<'_>,
    start: usize,
    head: Head<'_>,
    rotary: &Rotary,
    running: &mut Running,
) {
    let q = qkv.slice_rows(tile.rows()).slice_cols(3 * h * dim..(3 * h + 1) * dim);
    attend(isa, q, start, head, rotary, running, &mut tile.slice_cols(h * dim..(h + 1) * dim));
}

/// The attention scores of one sequence's new tokens, before the softmax: `out` is `[H * T, start + T]`, row `h * T + t`
/// holds query `t` of head `h` against all positions, minus infinity for those after it. With [`softmax`] and
/// [`attention_mix`] it makes attention step by step, for looking into a model; [`attention`] never makes the scores.
///
/// # Panics
/// If the shapes do not fit.
///
/// [`softmax`]: crate::ops::softmax
pub fn attention_scores(
    crew: &Crew<'_>,
    out: MatMut<'_>,
    qkv: Mat<'_>,
    rotary: &Rotary,
    dim: usize,
    (cache, start): (&KeyValues, usize),
) {
    let tokens = qkv.rows();
    assert_eq!(
        [out.rows() * 3 * dim, out.cols()],
        [tokens * qkv.cols(), start + tokens],
        "shape of the scores"
    );
    let (isa, cols) = (crew.isa(), out.cols());
    let work = |mut tile: Tile<'_>| {
        let mut q = vec![0.0; dim];
        for row in tile.rows() {
            let (h, t) = (row / tokens, row % tokens);
            q.copy_from_slice(&qkv.row(t)[h * 3 * dim..][..dim]);
            rotary.rotate(&mut q, start + t);
            let (seen, unseen) = tile.row_mut(row).split_at_mut(start + t + 1);
            cache.with_head(h, |head| scores(isa, &q, head, seen));
            unseen.fill(f32::NEG_INFINITY);
        }
    };
    crew.run(&mut [Tiles::new(out, 16, cols, &work)]);
}

/// The mix of values that a `pattern` (the softmax of [`attention_scores`], possibly edited) asks for: `out` is `[T, H * D]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn attention_mix(crew: &Crew<'_>, out: MatMut<'_>, pattern: Mat<'_>, dim: usize, cache: &KeyValues) {
    let tokens = out.rows();
    assert_eq!(pattern.rows() * dim, tokens * out.cols(), "rows of the pattern");
    let isa = crew.isa();
    let work = |mut tile: Tile<'_>| {
        let h = tile.cols().start / dim;
        for t in tile.rows() {
            cache.with_head(h, |head| mix(isa, pattern.row(h * tokens + t), head, tile.row_mut(t)));
        }
    };
    crew.run(&mut [Tiles::new(out, 16, dim, &work)]);
}
