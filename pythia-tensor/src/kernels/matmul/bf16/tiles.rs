//! With AMX: panels as they are, 32 rows of activations at a time.
//!
//! ```text
//! for each 128 columns:                          their panels are packed, for all of K
//!     for each 32 rows of activations:
//!         for each 256 elements of K:            these activations stay in the first-level cache
//!             for each panel: sums +=            in tiles
//!         the epilogue
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
//! | the halves of 32 rows one after another, in tiles of their own | 0.20 |
//!
//! What is read from the second-level cache holds the tiles at half of their peak, with K = 4096 at a third; packing takes a fifth of the
//! time, finishing the output a sixth. Asking for the next 128 columns while these are multiplied brought nothing; asking for weights
//! ahead of the tiles neither. Five to 16 rows with weights rounded in place of the activations, without transposing them, are no faster;
//! up to 12, `f32` is (8 rows: 25 GB/s of weights instead of 14, and 16 with `vdpbf16ps`), which is what `ops` takes then.

use super::{PANEL, pack};
use crate::kernels::rows::{Epilogue, ask, epilogue};
use crate::simd::amx::{LINE, Matrix, ROWS, Start, TILE};
use crate::simd::{Amx, Avx512, Pairs};
use crate::{Element, Mat, Tile};

/// Columns that share a pass over the activations.
const COLUMNS: usize = 4 * PANEL;

/// Steps of a block of K.
const STEPS: usize = 8;

/// 32-bit words of the panels of `COLUMNS` columns of `k` weights.
pub(super) fn panels_len(k: usize) -> usize {
    COLUMNS * k.div_ceil(2 * TILE) * TILE
}

/// Finishes the tile of the output: `a` has whole steps, `panels` is room for [`panels_len`] words.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn linear<W: Element>(
    (s, pairs, amx): (Avx512, Pairs, Amx),
    a: Mat<'_>,
    (w, k): (&[W], usize),
    then: Epilogue<'_>,
    out: &mut Tile<'_>,
    panels: &mut [f32],
) {
    #[repr(align(64))]
    struct Sums([[f32; COLUMNS]; ROWS]);
    let mut sums = Sums([[0.0; COLUMNS]; ROWS]);
    let (rows, cols) = (out.rows(), out.cols());
    let len = panels_len(k) / COLUMNS * PANEL;
    let mut tiles = amx.tiles();
    for n0 in cols.clone().step_by(COLUMNS) {
        let n1 = cols.end.min(n0 + COLUMNS);
        let panels = &mut panels[..(n1 - n0).div_ceil(PANEL) * len];
        for (panel, w) in panels.chunks_exact_mut(len).zip(w[n0 * k..n1 * k].chunks(PANEL * k)) {
            pack((s, pairs), w, k, panel);
        }
        let then = then.slice(n0..n1);
        for m in (0..a.rows()).step_by(ROWS) {
            let a = a.slice_rows(m..a.rows().min(m + ROWS));
            tiles.shape(a.rows());
            for r in 0..a.rows() {
                ask(s, &out.row_mut(rows.start + m + r)[n0 - cols.start..n1 - cols.start]);
            }
            for step in (0..a.cols() / TILE).step_by(STEPS) {
                let steps = STEPS.min(a.cols() / TILE - step);
                let start = if step == 0 { Start::Zero } else { Start::Sums };
                let a = a.slice_cols(step * TILE..(step + steps) * TILE).lines();
                for (p, panel) in panels.chunks_exact(len).enumerate() {
                    let panel: &[u8] = bytemuck::cast_slice(&panel[step * TILE * PANEL..]);
                    let w = [0, LINE].map(|at| Matrix { bytes: &panel[at..], stride: 4 * PANEL });
                    tiles.bf16(a, w, steps, start, &mut sums.0.as_flattened_mut()[p * PANEL..], COLUMNS);
                }
            }
            for (r, sums) in sums.0[..a.rows()].iter().enumerate() {
                let out = &mut out.row_mut(rows.start + m + r)[n0 - cols.start..n1 - cols.start];
                epilogue(s, &sums[..n1 - n0], then, out);
            }
        }
    }
}
