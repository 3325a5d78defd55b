//! Activations as the kernels take them: rounded to codes or to bf16, or packed; once for all tiles and products.

use super::matmul::{Product, Weight};
use crate::kernels::matmul::{Packed, Panels};
#[cfg(target_arch = "x86_64")]
use crate::kernels::matmul::{Tiled, round_row};
use crate::kernels::quantized::{Form, Rounded, round_activations};
use crate::memory::Lines;
use crate::{Bits, Crew, Isa, Mat, MatMut, Tile, Tiles};
use std::ops::Range;

/// Activations below which waking other threads costs more than preparing them.
const ALONE: usize = 1 << 14;

/// Columns of activations in tiles that are packed together.
#[cfg(target_arch = "x86_64")]
const PIECE: usize = 256;

/// What becomes of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Codes(Form),
    Bf16,
    Panels(Panels),
    #[cfg(target_arch = "x86_64")]
    Tiles(Tiled),
}

impl To {
    fn of(isa: Isa, product: &Product<'_>) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if let Some(tiled) = product.tiled(isa) {
            return Some(Self::Tiles(tiled));
        }
        match product.weight {
            Weight::Exact(_) => Panels::of(isa, product.a.rows()).map(Self::Panels),
            Weight::Bf16(_) => Some(Self::Bf16),
            Weight::Quantized(w) => Some(Self::Codes(Form::of(isa, w.bits()))),
        }
    }

    /// How many rows and columns of activations of length `k` become so many 32-bit words together.
    fn units(self, k: usize) -> (usize, usize, usize) {
        match self {
            Self::Codes(form) => (1, k, form.len(k)),
            // A whole number of cache lines, and one more: rows a power of two apart would share their places in the cache.
            Self::Bf16 => (1, k, k.div_ceil(2).next_multiple_of(16) + 16),
            Self::Panels(panels) => (panels.rows(), k, panels.group_len(k)),
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(tiled) => {
                // A unit follows its columns. Of a single one, every thread should get some.
                let cols = if k.is_multiple_of(PIECE) { PIECE } else { k };
                (tiled.unit_rows(), cols, tiled.unit_len(cols))
            }
        }
    }

    /// Prepares the activations of one unit.
    fn prepare(self, isa: Isa, a: Mat<'_>, words: &mut [f32]) {
        match self {
            Self::Codes(form) => round_activations(isa, form, a.row(0), words),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => round_row(isa, a.row(0), words),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bf16 => panic!("products of bf16 need `avx512bf16` or `amx`, not `{isa}`"),
            Self::Panels(panels) => panels.pack(a, words),
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(tiled) => tiled.pack(a, words),
        }
    }
}

/// Prepared activations, for every matrix whose kernel does not read it where it lies. It keeps its memory.
#[derive(Default)]
pub(super) struct Activations {
    words: Lines,
    /// Whose they are, what they are, and where they lie.
    places: Vec<([usize; 4], To, Range<usize>)>,
}

impl Activations {
    /// Prepares the activations of those of `products` that need it; a matrix that several of them share, once.
    pub(super) fn prepare<'a>(&mut self, crew: &Crew<'_>, products: impl Iterator<Item = &'a Product<'a>>) {
        self.places.clear();
        let (isa, mut start) = (crew.isa(), 0);
        for product in products {
            let (a, Some(to)) = (product.a, To::of(isa, product)) else { continue };
            if self.places.iter().any(|&(key, other, _)| (key, other) == (a.key(), to)) {
                continue;
            }
            let (rows, cols, words) = to.units(a.cols());
            let across = a.cols() / cols;
            let units = a.rows().div_ceil(rows) * across;
            let place = start..start + units * words;
            start = place.end;
            self.places.push((a.key(), to, place.clone()));
            if place.is_empty() {
                continue;
            }
            let prepare = |unit: usize, words: &mut [f32]| {
                let (first, column) = (unit / across * rows, unit % across * cols);
                let a = a.slice_rows(first..a.rows().min(first + rows));
                to.prepare(isa, a.slice_cols(column..column + cols), words);
            };
            let out = &mut self.words.floats(start)[place];
            if a.rows() * a.cols() < ALONE {
                out.chunks_exact_mut(words).enumerate().for_each(|(unit, words)| prepare(unit, words));
            } else {
                let work =
                    |mut tile: Tile<'_>| tile.rows().for_each(|unit| prepare(unit, tile.row_mut(unit)));
                let each = units.div_ceil(4 * crew.threads());
                crew.run(&mut [Tiles::new(MatMut::new(out, words), each, words, &work)]);
            }
        }
    }

    /// What became of `a`.
    ///
    /// # Panics
    /// If it was not among the products.
    fn words(&self, a: Mat<'_>, to: To) -> &[f32] {
        let found = self.places.iter().find(|&&(key, other, _)| (key, other) == (a.key(), to));
        let (_, _, place) = found.unwrap_or_else(|| panic!("{a:?} was not prepared"));
        &bytemuck::cast_slice(self.words.as_ref())[place.clone()]
    }

    /// The codes of `a`, for weights of so many bits.
    pub(super) fn codes(&self, isa: Isa, a: Mat<'_>, bits: Bits) -> Rounded<'_> {
        let form = Form::of(isa, bits);
        Rounded::new(self.words(a, To::Codes(form)), a.cols(), form)
    }

    /// `a` in pairs of bf16, whole cache lines of them.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn pairs(&self, a: Mat<'_>) -> Mat<'_> {
        Mat::new(self.words(a, To::Bf16), To::Bf16.units(a.cols()).2)
            .slice_cols(0..a.cols().div_ceil(32) * 16)
    }

    /// `a` packed.
    pub(super) fn packed(&self, a: Mat<'_>, panels: Panels) -> Packed<'_> {
        Packed { groups: self.words(a, To::Panels(panels)), k: a.cols() }
    }

    /// `a` in tiles.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tiles(&self, a: Mat<'_>, tiled: Tiled) -> &[f32] {
        self.words(a, To::Tiles(tiled))
    }
}
