//! With AMX: panels as they are, 32 rows of activations at a time.
//!
//! ```text
//! for each 128 columns:
//!     for each 4096 elements of K:                   their panels are packed
//!         for each 32 rows of activations:
//!             for each 256 of these elements:        these activations stay in the first-level cache
//!                 for each panel: sums +=            in tiles
//!             the epilogue, after the last
//! ```
//!
//! Measured on two cores with AMX, 512 rows, the products of a layer of 410m, as fractions of the tiles' own peak in the same run (6.5 to
//! 7 TFLOP/s; with `vdpbf16ps` 0.23 TFLOP/s and 0.8):
//!
//! | | fraction |
//! |---|---|
//! | 512 elements of K, the output not asked for | 0.18-0.19 |
//! | 256 elements, the output's rows asked for before their sums are computed | 0.20 |
//! | the weights' rows asked for while they are packed (this) | 0.21-0.22 |
//! | 64 or 256 columns | 0.17-0.19, 0.19 |
//! | 512, 1024 or 2048 elements packed together; all | 0.20, 0.19, 0.20; 0.21 |
//! | the halves of 32 rows one after another, in tiles of their own | 0.20 |
//!
//! What is read from the second-level cache holds the tiles at half of their peak, with K = 4096 at a third; packing takes a fifth of the
//! time, finishing the output a sixth. With K = 8192, packing all of K at once made it 0.12 instead of 0.19. Asking for the next 128 columns
//! while these are multiplied brought nothing, nor did asking for panels ahead of the tiles.
//!
//! Five to 16 rows with weights rounded in place of the activations, without transposing them, are no faster than this; up to 12, `f32` is
//! (8 rows: 25 GB/s of weights instead of 14, and 16 with `vdpbf16ps`), which is what `ops` takes then.

use super::{PANEL, pack};
use crate::kernels::rows::{Epilogue, ask, epilogue};
use crate::simd::amx::{LINE, Matrix, ROWS, Start, TILE};
use crate::simd::{Amx, Avx512, Pairs};
use crate::tensor::Lines;
use crate::{Element, Mat, Tile};

// A panel is two tiles wide.
const _: () = assert!(PANEL == crate::simd::amx::COLUMNS);

/// Columns that share a pass over the activations.
const COLUMNS: usize = 4 * PANEL;

/// Steps of a block of K whose weights are packed together: few enough for the second-level cache.
const PACKED: usize = 128;

/// Steps of a part of it.
const STEPS: usize = 8;

/// Finishes the tile of the output: `a` has whole steps. The scratch memory is for panels and for sums.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn linear<W: Element>(
    (s, pairs, amx): (Avx512, Pairs, Amx),
    a: Mat<'_>,
    (w, k): (&[W], usize),
    then: Epilogue<'_>,
    out: &mut Tile<'_>,
    (panels, sums): (&mut Lines, &mut Lines),
) {
    let (rows, cols, w) = (out.rows(), out.cols(), Mat::new(w, k));
    let sums = sums.floats(a.rows() * COLUMNS);
    let all = a.cols() / TILE;
    let mut tiles = amx.tiles();
    for n0 in cols.clone().step_by(COLUMNS) {
        let n1 = cols.end.min(n0 + COLUMNS);
        let then = then.slice(n0..n1);
        for first in (0..all).step_by(PACKED) {
            let block = first..all.min(first + PACKED);
            let len = block.len() * TILE * PANEL;
            let panels = panels.floats((n1 - n0).div_ceil(PANEL) * len);
            let w = w.slice_cols(2 * TILE * block.start..k.min(2 * TILE * block.end));
            for (n, panel) in (n0..n1).step_by(PANEL).zip(panels.chunks_exact_mut(len)) {
                pack((s, pairs), w.slice_rows(n..n1.min(n + PANEL)), panel);
            }
            for m in (0..a.rows()).step_by(ROWS) {
                let a = a.slice_rows(m..a.rows().min(m + ROWS));
                let sums = &mut sums[m * COLUMNS..][..a.rows() * COLUMNS];
                let out_rows = rows.start + m..rows.start + m + a.rows();
                let out_cols = n0 - cols.start..n1 - cols.start;
                if block.end == all {
                    out_rows.clone().for_each(|row| ask(s, &out.row_mut(row)[out_cols.clone()]));
                }
                tiles.shape(a.rows());
                for step in block.clone().step_by(STEPS) {
                    let steps = STEPS.min(block.end - step);
                    let start = if step == 0 { Start::Zero } else { Start::Sums };
                    let a = a.slice_cols(step * TILE..(step + steps) * TILE).lines();
                    for (p, panel) in panels.chunks_exact(len).enumerate() {
                        let panel: &[u8] =
                            bytemuck::cast_slice(&panel[(step - block.start) * TILE * PANEL..]);
                        let w = [0, LINE].map(|at| Matrix { bytes: &panel[at..], stride: 4 * PANEL });
                        tiles.bf16(a, w, steps, start, &mut sums[p * PANEL..], COLUMNS);
                    }
                }
                if block.end == all {
                    for (row, sums) in out_rows.zip(sums.chunks_exact(COLUMNS)) {
                        epilogue(s, &sums[..n1 - n0], then, &mut out.row_mut(row)[out_cols.clone()]);
                    }
                }
            }
        }
    }
}
