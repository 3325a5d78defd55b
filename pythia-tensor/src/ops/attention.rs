//! Causal attention of a ragged batch, fused or step by step.

use crate::kernels::attention::{Head, HeadMut, KeyValues, QUERIES, Running, ask_for, attend, mix, scores};
use crate::kernels::rotary::Rotary;
use crate::{Crew, Isa, Mat, MatMut, Tile, Tiles};
use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    let heads: Vec<_> = cache.heads_mut().map(Mutex::new).collect();
    let mut none = vec![0.0; heads.len()];
    let write = |tile: Tile<'_>| {
        let h = tile.rows().start;
        only(&heads[h]).write(qkv, h, start, rotary);
    };
    crew.run(&mut [Tiles::new(MatMut::new(&mut none, 1), 1, 1, &write)]);
}

/// A task's own head: nobody else ever holds the lock.
fn only<'h, 'a>(head: &'h Mutex<HeadMut<'a>>) -> MutexGuard<'h, HeadMut<'a>> {
    head.lock().unwrap_or_else(PoisonError::into_inner)
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
    let work = |tile: Tile<'_>| {
        let (cache, start) = block(tile.row_block());
        let head = cache.head(tile.cols().start / dim);
        attend_tile(isa, tile, qkv, start, head, rotary);
    };
    crew.run(&mut [Tiles::ragged(out, blocks, dim, &work)]);
}

/// Heads that [`append_and_attend`] takes at most.
pub const MOST_HEADS: usize = 64;

/// [`append`] and [`attention`] in one parallel region, for a sequence of few new tokens, the first at position `start`.
///
/// Each task writes the keys and values of its head before it reads them. For one token that halves the regions, and the
/// lines that it writes are those that the same thread reads next.
///
/// # Panics
/// If the shapes do not fit, there is no room, or there are more than 32 tokens or [`MOST_HEADS`] heads.
pub fn append_and_attend(
    crew: &Crew<'_>,
    out: MatMut<'_>,
    qkv: Mat<'_>,
    rotary: &Rotary,
    dim: usize,
    (cache, start): (&mut KeyValues, usize),
) {
    check(&out, qkv, dim, &[0, qkv.rows()]);
    cache.check(qkv, start);
    let count = out.cols() / dim;
    assert!(cache.shape() == (count, dim) && count <= MOST_HEADS, "{:?} heads of a cache", cache.shape());
    let (isa, rows) = (crew.isa(), qkv.rows());
    let mut heads = [const { None }; MOST_HEADS];
    heads.iter_mut().zip(cache.heads_mut()).for_each(|(slot, head)| *slot = Some(Mutex::new(head)));
    let work = |tile: Tile<'_>| {
        let h = tile.cols().start / dim;
        let Some(head) = &heads[h] else { return };
        let mut head = only(head);
        head.write(qkv.slice_rows(tile.rows()), h, start, rotary);
        attend_tile(isa, tile, qkv, start, head.reborrow(), rotary);
    };
    crew.run(&mut [Tiles::new(out, rows.max(1), dim, &work)]);
}

fn check(out: &MatMut<'_>, qkv: Mat<'_>, dim: usize, blocks: &[usize]) {
    assert!(qkv.rows() == out.rows() && qkv.cols() == 3 * out.cols(), "attention of {qkv:?}");
    assert!(out.cols().is_multiple_of(dim), "heads of {dim} in {} columns", out.cols());
    assert!(blocks.windows(2).all(|b| b[1] - b[0] <= QUERIES), "blocks of at most {QUERIES} rows");
}

/// A tile of one head: its rows are queries, the first at position `start`.
fn attend_tile(isa: Isa, mut tile: Tile<'_>, qkv: Mat<'_>, start: usize, head: Head<'_>, rotary: &Rotary) {
    let (rows, cols) = (tile.rows(), tile.cols());
    let q = qkv.slice_rows(rows.clone()).slice_cols(3 * cols.start..3 * cols.start + cols.len());
    for row in rows.clone() {
        ask_for(isa, q.row(row - rows.start));
        ask_for(isa, tile.row_mut(row));
    }
    RUNNING.with_borrow_mut(|running| {
        attend(isa, q, start, head, rotary, running, &mut |t, z| {
            tile.row_mut(rows.start + t).copy_from_slice(z);
        });
    });
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
