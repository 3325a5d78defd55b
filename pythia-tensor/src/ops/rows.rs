//! Operations on whole rows: embedding, layer norm, GELU, softmax, log-softmax.

use crate::dtype::with_element;
use crate::kernels::rows::{Gelu, gelu_row, layer_norm_row, log_sum_exp_row, softmax_row};
use crate::{Crew, Element, Mat, MatMut, Tensor, Tile, Tiles};

/// Elements below which waking other threads costs more than the work.
const ALONE: usize = 1 << 14;

/// Runs `f(row number, row)` for every row of `out`, in parallel where that pays.
fn for_rows(crew: &Crew<'_>, out: MatMut<'_>, f: impl Fn(usize, &mut [f32]) + Sync) {
    let (rows, cols) = (out.rows(), out.cols());
    let per_tile = if rows * cols < ALONE { rows } else { rows.div_ceil(4 * crew.threads()) };
    let work = |mut tile: Tile<'_>| tile.rows().for_each(|r| f(r, tile.row_mut(r)));
    crew.run(&mut [Tiles::new(out, per_tile.max(1), cols, &work)]);
}

/// `out[t] = table[ids[t]]`, widened: `table` is `[V, C]`, `out` is `[T, C]`.
///
/// # Panics
/// If the shapes do not fit or an id is not below V.
pub fn embedding(crew: &Crew<'_>, out: MatMut<'_>, ids: &[u32], table: &Tensor) {
    let cols = out.cols();
    assert!(out.rows() == ids.len() && table.shape().get(1) == Some(&cols), "{} ids in {table:?}", ids.len());
    with_element!(table.dtype(), W => {
        let table: &[W] = bytemuck::cast_slice(table.bytes());
        for_rows(crew, out, |t, row| {
            let entry = &table[ids[t] as usize * cols..][..cols];
            row.iter_mut().zip(entry).for_each(|(x, &e)| *x = Element::to_f32(e));
        });
    });
}

/// `out = (x - mean) / sqrt(variance + eps) * weight + bias`, row by row; the variance is the population's.
///
/// # Panics
/// If the shapes do not fit.
pub fn layer_norm(crew: &Crew<'_>, out: MatMut<'_>, x: Mat<'_>, weight: &[f32], bias: &[f32], eps: f32) {
    let c = x.cols();
    assert!(
        out.rows() == x.rows() && [out.cols(), weight.len(), bias.len()] == [c; 3],
        "layer norm of {x:?}"
    );
    let isa = crew.isa();
    for_rows(crew, out, |t, row| layer_norm_row(isa, x.row(t), weight, bias, eps, row));
}

/// GELU of every element, in place.
pub fn gelu(crew: &Crew<'_>, x: MatMut<'_>, form: Gelu) {
    let isa = crew.isa();
    for_rows(crew, x, |_, row| gelu_row(isa, row, form));
}

/// `e^x / sum of e^x` of every row, in place.
pub fn softmax(crew: &Crew<'_>, x: MatMut<'_>) {
    let isa = crew.isa();
    for_rows(crew, x, |_, row| softmax_row(isa, row));
}

/// `x - ln(sum of e^x)` of every row, in place.
pub fn log_softmax(crew: &Crew<'_>, x: MatMut<'_>) {
    let isa = crew.isa();
    for_rows(crew, x, |_, row| {
        let total = log_sum_exp_row(isa, row);
        row.iter_mut().for_each(|x| *x -= total);
    });
}

/// `ln(sum of e^x)` of every row of `x` into `out`, one number a row.
///
/// # Panics
/// If `out` does not have one element for each row.
pub fn log_sum_exp(crew: &Crew<'_>, out: &mut [f32], x: Mat<'_>) {
    assert_eq!(out.len(), x.rows(), "one result a row");
    let isa = crew.isa();
    let rows = x.rows().div_ceil(4 * crew.threads()).max(1);
    let work =
        |mut tile: Tile<'_>| tile.rows().for_each(|r| tile.row_mut(r)[0] = log_sum_exp_row(isa, x.row(r)));
    crew.run(&mut [Tiles::new(MatMut::new(out, 1), rows, 1, &work)]);
}
