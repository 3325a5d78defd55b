//! Causal attention of a ragged batch, fused or step by step.

use crate::kernels::attention::{KeyValues, QUERIES, Running, attend, mix, scores, write_keys, write_values};
use crate::kernels::rotary::Rotary;
use crate::{Crew, Mat, MatMut, Tile, Tiles};
use std::cell::RefCell;

thread_local! {
    static RUNNING: RefCell<Running> = RefCell::default();
}

/// Elements below which waking other threads costs more than copying.
const ALONE: usize = 1 << 14;

/// Writes the keys (rotated) and values of one sequence's rows of `qkv`, `[T, H * 3 * D]` with rows `[head][q, k, v][D]`, to
/// its cache, at the positions from `start` on.
///
/// # Panics
/// If the shapes do not fit or there is no room.
pub fn append(crew: &Crew<'_>, cache: &mut KeyValues, qkv: Mat<'_>, start: usize, rotary: &Rotary) {
    if qkv.rows() * qkv.cols() < ALONE {
        return cache.append(qkv, start, rotary);
    }
    cache.check(qkv, start);
    let dim = cache.shape().1;
    let write_keys = |mut tile: Tile<'_>| {
        let h = tile.rows().start;
        write_keys(qkv, h, start, rotary, &mut vec![0.0; dim], tile.row_mut(h));
    };
    let write_values = |mut tile: Tile<'_>| {
        let h = tile.rows().start;
        write_values(qkv, h, start, dim, tile.row_mut(h));
    };
    let (keys, values) = cache.rows_mut();
    let (k, v) = (keys.cols(), values.cols());
    crew.run(&mut [Tiles::new(keys, 1, k, &write_keys), Tiles::new(values, 1, v, &write_values)]);
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
    assert!(qkv.rows() == out.rows() && qkv.cols() == 3 * out.cols(), "attention of {qkv:?}");
    assert!(out.cols().is_multiple_of(dim), "heads of {dim} in {} columns", out.cols());
    assert!(blocks.windows(2).all(|b| b[1] - b[0] <= QUERIES), "blocks of at most {QUERIES} rows");
    let isa = crew.isa();
    let work = |mut tile: Tile<'_>| {
        let (cache, start) = block(tile.row_block());
        let (rows, h) = (tile.rows(), tile.cols().start / dim);
        let q = qkv.slice_rows(rows.clone()).slice_cols(h * 3 * dim..(h * 3 + 1) * dim);
        RUNNING.with_borrow_mut(|running| {
            attend(isa, q, start, cache.head(h), rotary, running, &mut |t, z| {
                tile.row_mut(rows.start + t).copy_from_slice(z);
            });
        });
    };
    crew.run(&mut [Tiles::ragged(out, blocks, dim, &work)]);
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
            scores(isa, &q, cache.head(h), seen);
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
            mix(isa, pattern.row(h * tokens + t), cache.head(h), tile.row_mut(t));
        }
    };
    crew.run(&mut [Tiles::new(out, 16, dim, &work)]);
}
