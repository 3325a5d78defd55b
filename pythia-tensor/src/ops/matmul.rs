//! Linear layers: `out = act(a · wᵀ + bias)`, one or several in a region.

use super::quantized::{self, Activations};
use crate::dtype::with_element;
use crate::kernels::matmul::{ROWS, Scratch, dot_products};
use crate::kernels::quantized::quantized_products;
use crate::kernels::rows::{Gelu, epilogue_row};
use crate::tensor::Lines;
use crate::{Crew, Isa, Mat, MatMut, Quantized, Tensor, Tile, Tiles};
use std::cell::RefCell;

/// One linear layer: `a` is `[M, K]`, `weight` is `[N, K]` as on disk, `bias` is `[N]`.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// The activations, `[M, K]`.
    pub a: Mat<'a>,
    /// The weights, `[N, K]`, and the arithmetic.
    pub weight: Weight<'a>,
    /// Added to every row, `[N]`.
    pub bias: Option<&'a [f32]>,
    /// What becomes of the result.
    pub then: Then,
}

/// A matrix of weights, `[N, K]`, and the arithmetic it is multiplied with.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// Weights of any [`DType`](crate::DType), widened to `f32`; products and sums in `f32`.
    Exact(&'a Tensor),
    /// int8 or int4 weights; activations rounded to int8, products summed as integers.
    Quantized(&'a Quantized),
}

impl Weight<'_> {
    /// `[N, K]`.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Exact(tensor) => tensor.shape(),
            Self::Quantized(weight) => weight.shape(),
        }
    }
}

/// What becomes of `a · wᵀ + bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is the output.
    Store,
    /// Its GELU is the output.
    Gelu(Gelu),
    /// It is added to what the output holds: the residual stream.
    Add,
}

/// Columns of a wide product's tile: enough to pay for packing the activations once a tile, few enough to divide
/// work evenly. A multiple of every kernel's group of weight rows, and of a quantised weight's panels.
const COLS: usize = 768;

thread_local! {
    static SCRATCH: RefCell<(Scratch, Lines, Lines)> = RefCell::default();
    static ACTIVATIONS: RefCell<Activations> = RefCell::default();
}

/// Computes one linear layer into `out`, `[M, N]`.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn matmul(crew: &Crew<'_>, out: MatMut<'_>, product: Product<'_>) {
    matmuls(crew, [(out, &[product])]);
}

/// Computes several outputs in one region. The products of one output are applied to it one after another, so that
/// `[attention, mlp]` with [`Then::Add`] gives `(x + attention) + mlp`.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn matmuls<const J: usize>(crew: &Crew<'_>, jobs: [(MatMut<'_>, &[Product<'_>]); J]) {
    for (out, products) in &jobs {
        for p in *products {
            let (m, n, k) = (out.rows(), out.cols(), p.a.cols());
            assert!(
                p.a.rows() == m && p.weight.shape() == [n, k],
                "{:?} x {:?} into [{m}, {n}]",
                p.a,
                p.weight
            );
            assert!(p.bias.is_none_or(|b| b.len() == n), "bias of {:?}", p.weight);
        }
    }
    ACTIVATIONS.with_borrow_mut(|activations| {
        activations.round(crew, jobs.iter().flat_map(|(_, products)| *products));
        let (isa, activations) = (crew.isa(), &*activations);
        let works = jobs.each_ref().map(|&(_, products)| {
            move |mut tile: Tile<'_>| products.iter().for_each(|p| apply(isa, p, activations, &mut tile))
        });
        let mut works = works.iter();
        let mut tiles = jobs.map(|(out, products)| {
            let (m, n) = (out.rows(), out.cols());
            let quantized = |p: &&Product<'_>| matches!(p.weight, Weight::Quantized(_));
            let (rows, cols) = match products.iter().filter(quantized).count() {
                0 => tile_size(m, n, crew.threads()),
                count if count == products.len() => quantized::tile_size(m, n, crew.threads()),
                _ => (ROWS, COLS),
            };
            Tiles::new(out, rows, cols, works.next().expect("one work per job"))
        });
        crew.run(&mut tiles);
    });
}

/// How to cut `[m, n]`: rows into equal parts that the kernel takes, columns so that every thread gets several tiles.
fn tile_size(m: usize, n: usize, threads: usize) -> (usize, usize) {
    let blocks = m.div_ceil(ROWS).max(1);
    let rows = m.div_ceil(blocks).max(1).next_multiple_of(4).min(ROWS);
    let even = (n * blocks).div_ceil(4 * threads);
    let most = if m <= 4 { 4096 } else { COLS };
    (rows, even.clamp(1, most).next_multiple_of(24))
}

fn apply(isa: Isa, product: &Product<'_>, activations: &Activations, tile: &mut Tile<'_>) {
    let (rows, cols, k) = (tile.rows(), tile.cols(), product.a.cols());
    SCRATCH.with_borrow_mut(|(scratch, expanded, sums)| {
        // Quantised weights give sums for whole groups of columns.
        let stride = match product.weight {
            Weight::Exact(_) => cols.len(),
            Weight::Quantized(_) => cols.len().next_multiple_of(crate::kernels::quantized::COLS),
        };
        let len = rows.len() * stride;
        let sums: &mut [f32] = bytemuck::cast_slice_mut(sums.at_least(len * size_of::<f32>()));
        match product.weight {
            Weight::Exact(w) => with_element!(w.dtype(), W => {
                let weight: &[W] = &bytemuck::cast_slice(w.bytes())[cols.start * k..cols.end * k];
                dot_products(isa, product.a.slice_rows(rows.clone()), weight, sums, scratch);
            }),
            Weight::Quantized(w) => {
                let a = activations.of(product.a).slice_rows(rows.clone());
                quantized_products(isa, a, w, cols.clone(), sums, expanded);
            }
        }
        let bias = product.bias.map(|b| &b[cols.clone()]);
        let (gelu, add) = match product.then {
            Then::Store => (None, false),
            Then::Gelu(form) => (Some(form), false),
            Then::Add => (None, true),
        };
        for (row, sums) in rows.zip(sums.chunks_exact(stride)) {
            epilogue_row(isa, &sums[..cols.len()], bias, gelu, add, tile.row_mut(row));
        }
    });
}
