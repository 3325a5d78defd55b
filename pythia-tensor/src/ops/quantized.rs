//! What a product with rounded activations needs beside its kernel: the activations in codes or in bf16, once for all tiles
//! and products.

use super::matmul::{Product, Weight};
#[cfg(target_arch = "x86_64")]
use crate::kernels::matmul::round_row;
use crate::kernels::quantized::{COLS, Rounded, round_activations, rounded_len};
use crate::{Crew, Isa, Mat, MatMut, Tile, Tiles};

/// Activations below which waking other threads costs more than rounding them.
const ALONE: usize = 1 << 14;

/// What activations are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Codes,
    Bf16,
}

impl To {
    fn of(product: &Product<'_>) -> Option<Self> {
        match product.weight {
            Weight::Exact(_) => None,
            Weight::Bf16(_) => Some(Self::Bf16),
            Weight::Quantized(_) => Some(Self::Codes),
        }
    }

    /// 32-bit words of a row of `k` activations.
    fn words(self, k: usize) -> usize {
        match self {
            Self::Codes => rounded_len(k),
            // A whole number of cache lines, and one more: rows a power of two apart would share their places in the cache.
            Self::Bf16 => k.div_ceil(2).next_multiple_of(16) + 16,
        }
    }

    fn round(self, isa: Isa, row: &[f32], words: &mut [f32]) {
        match self {
            Self::Codes => round_activations(isa, row, words),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => round_row(isa, row, words),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bf16 => panic!("products of bf16 need `avx512bf16`, not `{isa}`"),
        }
    }
}

/// Rounded activations, for every matrix that some weight with such arithmetic is multiplied with. It keeps its memory.
#[derive(Default)]
pub(super) struct Activations {
    words: Vec<f32>,
    /// Whose they are, what they are, and where they start.
    starts: Vec<([usize; 4], To, usize)>,
}

impl Activations {
    /// Rounds the activations of those of `products` that need it; a matrix that several of them share, once.
    pub(super) fn round<'a>(&mut self, crew: &Crew<'_>, products: impl Iterator<Item = &'a Product<'a>>) {
        self.starts.clear();
        let mut len = 0;
        for product in products {
            let (a, Some(to)) = (product.a, To::of(product)) else { continue };
            if self.starts.iter().any(|&(key, other, _)| (key, other) == (a.key(), to)) {
                continue;
            }
            let (start, words) = (len, to.words(a.cols()));
            len += a.rows() * words;
            if self.words.len() < len {
                self.words.resize(len, 0.0);
            }
            self.starts.push((a.key(), to, start));
            if len == start {
                continue;
            }
            let isa = crew.isa();
            let work =
                |mut tile: Tile<'_>| tile.rows().for_each(|m| to.round(isa, a.row(m), tile.row_mut(m)));
            let parts = if a.rows() * a.cols() < ALONE { 1 } else { 4 * crew.threads() };
            let out = MatMut::new(&mut self.words[start..len], words);
            crew.run(&mut [Tiles::new(out, a.rows().div_ceil(parts), words, &work)]);
        }
    }

    /// The words of `a`.
    ///
    /// # Panics
    /// If it was not among the products.
    fn words(&self, a: Mat<'_>, to: To) -> &[f32] {
        let found = self.starts.iter().find(|&&(key, other, _)| (key, other) == (a.key(), to));
        let &(_, _, start) = found.unwrap_or_else(|| panic!("{a:?} was not rounded"));
        &self.words[start..][..a.rows() * to.words(a.cols())]
    }

    /// The codes of `a`.
    pub(super) fn codes(&self, a: Mat<'_>) -> Rounded<'_> {
        Rounded::new(self.words(a, To::Codes), a.cols())
    }

    /// `a` in pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn pairs(&self, a: Mat<'_>) -> Mat<'_> {
        Mat::new(self.words(a, To::Bf16), To::Bf16.words(a.cols())).slice_cols(0..a.cols().div_ceil(2))
    }
}

/// Rows of a tile at most: enough to pay for expanding int4 weights once a tile.
const ROWS: usize = 256;

/// How to cut `[m, n]`: rows into equal parts, columns into whole groups of those that the kernel computes together, so that
/// every thread gets several tiles.
pub(super) fn tile_size(m: usize, n: usize, threads: usize) -> (usize, usize) {
    let blocks = m.div_ceil(ROWS).max(1);
    let even = (n * blocks).div_ceil(8 * threads);
    (m.div_ceil(blocks).max(1), even.clamp(1, 1024).next_multiple_of(COLS))
}
