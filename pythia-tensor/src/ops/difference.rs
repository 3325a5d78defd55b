//! Two models' numbers beside each other: weights, and distributions.

use crate::dtype::with_element;
use crate::kernels::difference::{Difference, NUMBERS, PIECE, difference_row, squares_row};
use crate::kernels::divergence::divergence_row;
use crate::{Crew, DType, Element, Mat, MatMut, Tensor, Tile, Tiles};
use std::borrow::Cow;

/// Every row of `a`, `[N, K]`, beside that of `b`, which may have another type; a tensor of one dimension is one row.
///
/// # Panics
/// If the shapes differ, or are empty.
pub fn differences(crew: &Crew<'_>, a: &Tensor, b: &Tensor) -> Vec<Difference> {
    assert!(a.shape() == b.shape() && !a.is_empty(), "differences of {a:?} and {b:?}");
    let rows = if a.shape().len() > 1 { a.shape()[0] } else { 1 };
    let (cols, isa) = (a.len() / rows, crew.isa());
    let numbers = NUMBERS * cols.div_ceil(PIECE);
    let mut pieces = vec![0.0; rows * numbers];
    with_element!(a.dtype(), A => with_element!(b.dtype(), B => {
        let (a, b): (&[A], &[B]) = (bytemuck::cast_slice(a.bytes()), bytemuck::cast_slice(b.bytes()));
        let work = |mut tile: Tile<'_>| {
            for r in tile.rows() {
                let row = r * cols..(r + 1) * cols;
                difference_row(isa, &a[row.clone()], &b[row], tile.row_mut(r));
            }
        };
        let per_tile = rows.div_ceil(4 * crew.threads());
        crew.run(&mut [Tiles::new(MatMut::new(&mut pieces, numbers), per_tile, numbers, &work)]);
    }));
    pieces.chunks_exact(numbers).map(Difference::of_pieces).collect()
}

/// The sum of the squares of the elements that `bytes`, at whatever address, are: the `squares` of a [`Difference`], on one thread.
/// The first 512 elements are summed in `f32`, then the next 512, and so on.
///
/// # Panics
/// If the last element is not whole.
pub fn sum_of_squares(crew: &Crew<'_>, dtype: DType, bytes: &[u8]) -> f64 {
    with_element!(dtype, A => {
        let aligned = bytemuck::try_cast_slice(bytes).map(Cow::Borrowed);
        let numbers: Cow<'_, [A]> = aligned.unwrap_or_else(|_| Cow::Owned(copied(bytes)));
        squares_row(crew.isa(), &numbers)
    })
}

fn copied<A: Element>(bytes: &[u8]) -> Vec<A> {
    let mut numbers = vec![A::zeroed(); bytes.len() / size_of::<A>()];
    bytemuck::cast_slice_mut(&mut numbers).copy_from_slice(bytes);
    numbers
}

/// The Kullback-Leibler divergence `sum of p ln(p / q)`, in nats, of the distribution that each row of the logits `a` stands for
/// from that of `b`'s, one number a row; summed in `f64`.
///
/// # Panics
/// If the shapes differ, or `out` does not have one element for each row.
pub fn divergence(crew: &Crew<'_>, out: &mut [f32], a: Mat<'_>, b: Mat<'_>) {
    assert!((a.rows(), a.cols()) == (b.rows(), b.cols()), "divergence of {a:?} and {b:?}");
    assert_eq!(out.len(), a.rows(), "one result a row");
    let work = |mut tile: Tile<'_>| {
        tile.rows().for_each(|r| tile.row_mut(r)[0] = divergence_row(a.row(r), b.row(r)) as f32);
    };
    crew.run(&mut [Tiles::new(MatMut::new(out, 1), 1, 1, &work)]);
}
