//! Linear layers: `out = act(a · wᵀ + bias)`, one or several in a region.

use super::activations::Activations;
use crate::dtype::with_element;
use crate::kernels::matmul::{self, COLUMNS, FEW, Panels, linear};
#[cfg(target_arch = "x86_64")]
use crate::kernels::matmul::{PANEL, Tiled, linear_bf16};
use crate::kernels::quantized::{self, quantized_products};
use crate::kernels::rows::{Epilogue, Gelu, ask_for, epilogue_row};
use crate::memory::Lines;
#[cfg(target_arch = "x86_64")]
use crate::team::Uneven;
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

#[cfg(target_arch = "x86_64")]
impl Product<'_> {
    /// How it is computed in tiles, if the instruction set has them.
    pub(super) fn tiled(&self, isa: Isa) -> Option<Tiled> {
        let rounded = match self.weight {
            Weight::Exact(_) => false,
            Weight::Bf16(_) => true,
            Weight::Quantized(_) => return None,
        };
        Tiled::of(isa, rounded, self.a.rows())
    }
}

/// A matrix of weights, `[N, K]`, and the arithmetic it is multiplied with.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// Weights of any [`DType`](crate::DType), widened to `f32`; products and sums in `f32`. With `amx`, products are exact sums of those of
    /// bf16 parts, but for what is less than 2^-21 of each, and sums are in `f32`: what is infinite gives NaN, and parts and sums below 2^-126
    /// are taken for zeros.
    Exact(&'a Tensor),
    /// Weights of any [`DType`](crate::DType) and activations, rounded to bf16 as they are used; sums in `f32`. For the
    /// instruction sets `avx512bf16` and `amx` only ([`Isa::has_bf16`]); any other panics. With `avx512bf16`, up to 16 rows of
    /// activations are summed in another order than more: a row's bits may differ between these and those. With `amx` they are the same
    /// in any company.
    Bf16(&'a Tensor),
    /// int8 or int4 weights; activations rounded to int8, products summed as integers.
    Quantized(&'a Quantized),
}

impl Weight<'_> {
    /// `[N, K]`.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Exact(tensor) | Self::Bf16(tensor) => tensor.shape(),
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

/// Tiles for each thread of a product of many rows, if it is large enough: more divide the work more evenly.
const TILES: usize = 8;

/// The same of few rows, whose weights take the time: the streams through memory are longer, and less is asked for past their ends. Decoding
/// with two Zen 5 cores, in turns token by token, as speeds beside that with eight tiles (410m; one row while memory gave 65 to 75 GB/s):
///
/// | tiles | exact, 1 row | bf16 | int8 | int4 | exact, bf16, int8, int4, 8 rows | 64 rows | 100 rows (`exact` packed) |
/// |---|---|---|---|---|---|---|---|
/// | 4 | 1.03 | 1.02 | 1.02 | 1.04 | 1.01, 1.02, 1.01, 1.03 | 1.00, 1.02, 1.01, 1.01 | 1.01, 1.02, 1.01, 1.01 |
/// | 2 (this) | 1.05 | 1.07 | 1.10 | 1.19 | 1.02, 1.02, 1.03, 1.04 | 1.00, 1.04, 1.03, 1.02 | 1.01, 1.03, 1.01, 1.02 |
/// | 1 | 1.07 | 1.08 | 1.13 | 1.23 | 1.02, 1.02, 1.03, 1.05 | 1.00, 1.05, 1.03, 1.02 | 1.02, 1.04, 1.02, 1.02 |
///
/// With AVX2, one row: 1.11, int8 1.12, int4 1.23. One tile a thread would wait for whichever core is held up. With AMX, where it is of up to 64 rows of floating-point
/// numbers: one row and eight are 1.01 to 1.03 times as fast as with four, 64 rows 1.03 times; one tile a thread is no faster; eight and sixteen
/// take 1.05 to 1.2 times as long as four.
const FEW_TILES: usize = 2;

/// Up to so many rows are few in this.
const FEW_ROWS: usize = 128;

/// Columns of a tile of many rows at most.
const COLS: usize = 768;

/// The same of few rows; and how many sums such a tile has at most (a megabyte), if [`COLS`] columns do not have more.
const FEW_COLS: usize = 4096;
const FEW_SUMS: usize = 1 << 18;

/// Rows of a tile at most where a panel of weights is packed for it.
const PANEL_ROWS: usize = 1024;

/// Rows of a tile of a quantised product at most: enough to pay for expanding int4 weights once a tile.
const QUANTIZED_ROWS: usize = 256;

/// Columns of such a tile of many rows at most.
const QUANTIZED_COLS: usize = 1024;

thread_local! {
    /// Weights, expanded or packed, and the sums of a tile.
    static SCRATCH: RefCell<(Lines, Lines)> = RefCell::default();
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
        activations.prepare(crew, jobs.iter().flat_map(|(_, products)| *products));
        let (isa, activations) = (crew.isa(), &*activations);
        let works = jobs.each_ref().map(|&(_, products)| {
            move |mut tile: Tile<'_>| products.iter().for_each(|p| apply(isa, p, activations, &mut tile))
        });
        let cuts = jobs
            .each_ref()
            .map(|(out, products)| Cut::of(isa, [out.rows(), out.cols()], crew.threads(), products));
        let mut parts = works.iter().zip(&cuts);
        let mut tiles = jobs.map(|(out, _)| match parts.next().expect("one work per job") {
            (work, &Cut::Every(rows, cols)) => Tiles::new(out, rows, cols, work),
            #[cfg(target_arch = "x86_64")]
            (work, &Cut::Columns(parts)) => Tiles::columns(out, parts, work),
        });
        crew.run(&mut tiles);
    });
}

/// How an output is cut into tiles.
enum Cut {
    /// So many rows of so many columns.
    Every(usize, usize),
    /// All rows of parts of the columns.
    #[cfg(target_arch = "x86_64")]
    Columns(Uneven),
}

impl Cut {
    fn of(isa: Isa, [m, n]: [usize; 2], threads: usize, products: &[Product<'_>]) -> Self {
        let quantized = products.iter().filter(|p| matches!(p.weight, Weight::Quantized(_))).count();
        if quantized == products.len() && quantized > 0 {
            let (rows, cols) = quantized_tile_size(isa, [m, n], threads);
            return Self::Every(rows, cols);
        }
        #[cfg(target_arch = "x86_64")]
        if isa.has_tiles() && m <= Tiled::FEW {
            // The most that a product multiplies together. Products of integers may start at any multiple of 16 columns.
            let heights = products.iter().map(|p| p.tiled(isa).map_or(Tiled::HEIGHT, Tiled::height));
            let height = heights.max().unwrap_or(Tiled::HEIGHT);
            return Self::Columns(Tiled::few_cols(n, FEW_TILES * threads, height));
        }
        let (rows, cols) = tile_size(isa, [m, n], threads, products);
        Self::Every(rows, cols)
    }
}

/// Columns of each tile of `[m, n]` whose rows are cut into `blocks`: whole `unit`s, at most `most` if the rows are many. Of few rows the fewest tiles that
/// come out even, to a sixteenth of a thread's work, or else the most even.
fn columns_of(
    isa: Isa,
    [m, n]: [usize; 2],
    blocks: usize,
    threads: usize,
    unit: usize,
    most: usize,
) -> usize {
    // With AMX, what comes here was not measured with fewer tiles.
    let few = m <= FEW_ROWS && !isa.has_tiles();
    let most = if few { (FEW_SUMS / m.max(1) / most * most).clamp(most, FEW_COLS) } else { most };
    let columns = |tiles: usize| (n * blocks).div_ceil(tiles * threads).clamp(1, most).next_multiple_of(unit);
    let longest = |columns: usize| (n.div_ceil(columns) * blocks).div_ceil(threads) * columns;
    let sixteenth = (n * blocks).div_ceil(16 * threads).max(1);
    let tiles = if few { FEW_TILES..=TILES } else { TILES..=TILES };
    tiles.map(columns).min_by_key(|&columns| longest(columns) / sixteenth).unwrap_or(unit)
}

/// How to cut `[m, n]` for products of floating-point numbers: rows into equal parts that the kernel takes, columns so that
/// every thread gets several tiles.
fn tile_size(isa: Isa, [m, n]: [usize; 2], threads: usize, products: &[Product<'_>]) -> (usize, usize) {
    let (most, group, columns) = units(isa, [m, n], threads, products);
    let blocks = m.div_ceil(most).max(1);
    let rows = m.div_ceil(blocks).max(1).next_multiple_of(group).min(most);
    (rows, columns_of(isa, [m, n], blocks, threads, columns, COLS))
}

/// Of a tile for `m` rows (with AMX, more than [`Tiled::FEW`]): rows at most, of which groups stay together, and columns that do.
fn units(isa: Isa, [m, n]: [usize; 2], threads: usize, products: &[Product<'_>]) -> (usize, usize, usize) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_tiles() {
        // Wide tiles, if there is one for every thread.
        let wide = n * m.div_ceil(PANEL_ROWS) >= threads * Tiled::COLS;
        return (PANEL_ROWS, Tiled::ROWS, if wide { Tiled::COLS } else { Tiled::ROWS });
    }
    let same = products.iter().all(|p| !matches!(p.weight, Weight::Quantized(_)));
    #[cfg(target_arch = "x86_64")]
    if m > FEW && same && products.iter().all(|p| matches!(p.weight, Weight::Bf16(_))) {
        return (PANEL_ROWS, 1, PANEL);
    }
    match Panels::of(isa, m) {
        Some(panels) if same => (PANEL_ROWS / panels.rows() * panels.rows(), panels.rows(), panels.cols()),
        Some(panels) => (panels.rows(), panels.rows(), COLUMNS),
        None if same => (matmul::ROWS, 3, COLUMNS),
        None => (FEW, 1, COLUMNS),
    }
}

/// How to cut `[m, n]` for products of integers: rows into equal parts, columns into whole groups of those that the kernel
/// computes together, so that every thread gets several tiles.
fn quantized_tile_size(isa: Isa, [m, n]: [usize; 2], threads: usize) -> (usize, usize) {
    let blocks = m.div_ceil(QUANTIZED_ROWS).max(1);
    let rows = m.div_ceil(blocks).max(1);
    (rows, columns_of(isa, [m, n], blocks, threads, quantized::COLS, QUANTIZED_COLS))
}

fn apply(isa: Isa, product: &Product<'_>, activations: &Activations, tile: &mut Tile<'_>) {
    let (gelu, add) = match product.then {
        Then::Store => (None, false),
        Then::Gelu(form) => (Some(form), false),
        Then::Add => (None, true),
    };
    let then = Epilogue { bias: product.bias, gelu, add };
    #[cfg(target_arch = "x86_64")]
    if let (Some(tiled), Weight::Exact(w) | Weight::Bf16(w)) = (product.tiled(isa), product.weight) {
        return SCRATCH.with_borrow_mut(|(room, sums)| {
            let (a, k) = (activations.tiles(product.a, tiled), product.a.cols());
            with_element!(w.dtype(), W => {
                tiled.linear::<W>(a, (bytemuck::cast_slice(w.bytes()), k), then, tile, (room, sums));
            });
        });
    }
    match product.weight {
        Weight::Exact(w) => with_element!(w.dtype(), W => {
            let (a, w) = (product.a, bytemuck::cast_slice(w.bytes()));
            match Panels::of(isa, a.rows()) {
                None => linear::<W>(isa, a, w, then, tile),
                Some(panels) => SCRATCH.with_borrow_mut(|(panel, sums)| {
                    panels.linear::<W>(activations.packed(a, panels), w, then, tile, (panel, sums));
                }),
            }
        }),
        #[cfg(target_arch = "x86_64")]
        Weight::Bf16(w) => SCRATCH.with_borrow_mut(|(panels, _)| {
            let (a, k) = (activations.pairs(product.a), product.a.cols());
            with_element!(w.dtype(), W => {
                linear_bf16::<W>(isa, a, (bytemuck::cast_slice(w.bytes()), k), then, tile, panels);
            });
        }),
        #[cfg(not(target_arch = "x86_64"))]
        Weight::Bf16(_) => panic!("products of bf16 need `avx512bf16` or `amx`, not `{isa}`"),
        Weight::Quantized(w) => SCRATCH.with_borrow_mut(|(expanded, sums)| {
            let (rows, cols) = (tile.rows(), tile.cols());
            // Quantised weights give sums for whole groups of columns.
            let stride = cols.len().next_multiple_of(quantized::COLS);
            let len = rows.len() * stride;
            let sums = sums.floats(len);
            let a = activations.codes(isa, product.a, w.bits()).slice_rows(rows.clone());
            quantized_products(isa, a, w, cols.clone(), sums, expanded);
            let then = then.slice(cols.clone());
            let last = rows.end - 1;
            for (row, sums) in rows.zip(sums.chunks_exact(stride)) {
                // The output's rows lie pages apart, where no prefetcher of the hardware follows.
                ask_for(isa, tile.row_mut(last.min(row + 2)));
                epilogue_row(isa, &sums[..cols.len()], then, tile.row_mut(row));
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Team;
    use std::thread;

    /// Panels have the bits of dot products, so that results do not tell which was computed: the memory for packed weights does.
    #[test]
    fn weights_are_packed_for_many_rows_and_always_for_tiles() {
        let packs = |isa: Isa, rows: usize| {
            let (k, n) = (40, 24);
            let (a, mut out) = (vec![1.0; rows * k], vec![0.0; rows * n]);
            let weight = Tensor::from_slice(&vec![1.0_f32; n * k], &[n, k]);
            let product =
                Product { a: Mat::new(&a, k), weight: Weight::Exact(&weight), bias: None, then: Then::Store };
            Team::with_isa(1, isa).unwrap().enter(|crew| matmul(crew, MatMut::new(&mut out, n), product));
            assert!(out.iter().all(|&x| x == k as f32));
            SCRATCH.with_borrow(|(panel, _)| !panel.as_ref().is_empty())
        };
        for &isa in Isa::available() {
            let many = if isa.zen5() { 192 } else { 96 };
            for rows in [1, many - 1, many, 400] {
                // Each has the scratch memory of its own thread.
                let packs = thread::spawn(move || packs(isa, rows)).join().unwrap();
                let expected = isa.has_tiles() || rows >= many;
                assert_eq!(packs, expected, "{isa}, {rows} rows");
            }
        }
    }

    /// Widths of the suite's products: no thread has more than 9/8 of its share and one unit, which cannot be cut.
    #[test]
    fn few_rows_are_cut_evenly() {
        let isa = Isa::available().iter().copied().find(|isa| !isa.has_tiles()).unwrap();
        for threads in 1..=16 {
            for n in [512, 768, 1024, 2048, 2304, 3072, 5120, 6144, 15360, 20480, 50304] {
                for (unit, most) in [(3, COLS), (COLUMNS, COLS), (quantized::COLS, QUANTIZED_COLS)] {
                    for m in [1, 8, 128] {
                        let columns = columns_of(isa, [m, n], 1, threads, unit, most);
                        assert!(
                            columns.is_multiple_of(unit)
                                && columns * m <= FEW_SUMS.max(most.next_multiple_of(unit) * m)
                        );
                        let longest = n.div_ceil(columns).div_ceil(threads) * columns;
                        let shares = n.div_ceil(threads) * 9 / 8 + unit;
                        assert!(
                            longest <= shares,
                            "{m} x {n}, {threads} threads: {columns} columns, {longest} of {shares}"
                        );
                    }
                }
            }
        }
        assert_eq!(columns_of(isa, [1, 4096], 1, 2, COLUMNS, COLS), 1024);
        assert_eq!(columns_of(isa, [200, 4096], 1, 2, COLUMNS, COLS), 256);
    }
}
