//! What a product with quantised weights needs beside its kernel: activations in codes, once for all tiles and products.

use super::matmul::{Product, Weight};
use crate::kernels::quantized::{Rounded, round_activations, rounded_len};
use crate::{Crew, Mat, MatMut, Tile, Tiles};

/// Activations below which waking other threads costs more than rounding them.
const ALONE: usize = 1 << 14;

/// Activations in codes, for every matrix that some quantised weight is multiplied with. It keeps its memory.
#[derive(Default)]
pub(super) struct Activations {
    words: Vec<f32>,
    /// Whose they are, and where they start.
    starts: Vec<([usize; 4], usize)>,
}

impl Activations {
    /// Rounds the activations of all quantised products among `products`; a matrix that several of them share, once.
    pub(super) fn round<'a>(&mut self, crew: &Crew<'_>, products: impl Iterator<Item = &'a Product<'a>>) {
        self.starts.clear();
        let mut len = 0;
        for product in products.filter(|p| matches!(p.weight, Weight::Quantized(_))) {
            let a = product.a;
            if self.starts.iter().any(|&(key, _)| key == a.key()) {
                continue;
            }
            let (start, words) = (len, rounded_len(a.cols()));
            len += a.rows() * words;
            if self.words.len() < len {
                self.words.resize(len, 0.0);
            }
            self.starts.push((a.key(), start));
            if len == start {
                continue;
            }
            let isa = crew.isa();
            let work = |mut tile: Tile<'_>| {
                tile.rows().for_each(|m| round_activations(isa, a.row(m), tile.row_mut(m)))
            };
            let parts = if a.rows() * a.cols() < ALONE { 1 } else { 4 * crew.threads() };
            let out = MatMut::new(&mut self.words[start..len], words);
            crew.run(&mut [Tiles::new(out, a.rows().div_ceil(parts), words, &work)]);
        }
    }

    /// The codes of `a`.
    ///
    /// # Panics
    /// If it was not among the products.
    pub(super) fn of(&self, a: Mat<'_>) -> Rounded<'_> {
        let found = self.starts.iter().find(|(key, _)| *key == a.key());
        let &(_, start) = found.unwrap_or_else(|| panic!("{a:?} was not rounded"));
        Rounded::new(&self.words[start..][..a.rows() * rounded_len(a.cols())], a.cols())
    }
}

/// Columns of a tile: whole groups of four panels, for which every thread gets several tiles.
pub(super) fn tile_size(m: usize, n: usize, threads: usize) -> (usize, usize) {
    let blocks = m.div_ceil(512).max(1);
    let cols = (n * blocks).div_ceil(4 * threads).clamp(1, if m == 1 { 4096 } else { 1024 });
    (m.div_ceil(blocks).max(1), cols.next_multiple_of(64))
}
