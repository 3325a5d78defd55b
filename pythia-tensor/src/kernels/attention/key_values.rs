//! [`KeyValues`]: what earlier tokens left behind for the attention of later ones.

use super::BLOCK;
use crate::Mat;
use crate::kernels::rotary::Rotary;

/// Columns of values that lie side by side; the widest vector.
pub(super) const STRIP: usize = 16;

/// D rounded up to whole strips.
pub(super) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(STRIP)
}

/// The keys and values of one layer of one sequence, in `f32`, for all heads.
///
/// A head's memory is one stream: a block of rotated keys, its values, the next block.
#[derive(Debug, Clone)]
pub struct KeyValues {
    heads: usize,
    dim: usize,
    /// Blocks of `BLOCK` positions that there is room for.
    blocks: usize,
    /// `[head][block]`, each block keys, `[D][BLOCK]`, and values, `[D / STRIP][BLOCK][STRIP]`.
    data: CacheAligned,
}

impl KeyValues {
    /// Room for at least `positions` positions of `heads` heads of `dim` dimensions. The system provides the memory
    /// as it is written to.
    pub fn new(heads: usize, dim: usize, positions: usize) -> Self {
        let blocks = positions.div_ceil(BLOCK);
        Self { heads, dim, blocks, data: CacheAligned::zeros(heads * blocks * block_len(dim)) }
    }

    /// The number of heads and their dimension.
    pub fn shape(&self) -> (usize, usize) {
        (self.heads, self.dim)
    }

    /// How many positions there is room for.
    pub fn capacity(&self) -> usize {
        self.blocks * BLOCK
    }

    /// Writes the keys (rotated) and values of `qkv`'s rows, `[T, H * 3 * D]` with rows `[head][q, k, v][D]`, at the
    /// positions from `start` on, on the calling thread; [`ops::append`](crate::ops::append) does it on all.
    ///
    /// # Panics
    /// If the shapes do not fit or there is no room.
    pub fn append(&mut self, qkv: Mat<'_>, start: usize, rotary: &Rotary) {
        self.check(qkv, start);
        for (h, mut head) in self.heads_mut().enumerate() {
            head.write(qkv, h, start, rotary);
        }
    }

    /// Panics unless `qkv`'s keys and values fit in at `start`.
    pub(crate) fn check(&self, qkv: Mat<'_>, start: usize) {
        assert_eq!(qkv.cols(), self.heads * 3 * self.dim, "columns of qkv");
        let capacity = self.capacity();
        assert!(start + qkv.rows() <= capacity, "{} keys at {start} of {capacity}", qkv.rows());
    }

    /// Makes this the same as `other`'s first `len` positions. Later positions are undefined.
    ///
    /// # Panics
    /// If the shapes differ or `len` exceeds the room of either.
    pub fn copy_prefix(&mut self, other: &Self, len: usize) {
        assert_eq!((self.heads, self.dim), (other.heads, other.dim), "heads and dimensions");
        assert!(len <= self.capacity().min(other.capacity()), "{len} positions");
        let copied = len.div_ceil(BLOCK) * block_len(self.dim);
        for (h, mine) in self.heads_mut().enumerate() {
            mine.data[..copied].copy_from_slice(&other.head(h).data[..copied]);
        }
    }

    /// The keys and values of one head.
    pub(crate) fn head(&self, head: usize) -> Head<'_> {
        let len = self.blocks * block_len(self.dim);
        Head { dim: self.dim, data: &self.data.get()[head * len..][..len] }
    }

    /// Every head's, to write to.
    pub(crate) fn heads_mut(&mut self) -> impl Iterator<Item = HeadMut<'_>> {
        let (dim, len) = (self.dim, (self.blocks * block_len(self.dim)).max(1));
        self.data.get_mut().chunks_exact_mut(len).map(move |data| HeadMut { dim, data })
    }
}

/// The length of a block of keys and values.
fn block_len(dim: usize) -> usize {
    BLOCK * (dim + padded(dim))
}

/// How far ahead a single query asks for its keys and values, in numbers: 4 KB.
const AHEAD: usize = 1024;

/// One head's part of [`KeyValues`].
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(super) dim: usize,
    data: &'a [f32],
}

/// A block's values: for each strip of columns, the positions one after the other.
pub(super) type Strip = [[f32; STRIP]; BLOCK];

impl<'a> Head<'a> {
    /// The keys, `[D]`, and the values, `[D / STRIP]`, of block number `block`.
    #[inline(always)]
    pub(super) fn block(self, block: usize) -> (&'a [[f32; BLOCK]], &'a [Strip]) {
        let len = block_len(self.dim);
        let (keys, values) = self.data[block * len..][..len].split_at(BLOCK * self.dim);
        (keys.as_chunks().0, values.as_chunks().0.as_chunks().0)
    }

    /// What lies `AHEAD` beyond element `at` of block number `block`.
    #[inline(always)]
    pub(super) fn ahead(self, block: usize, at: usize) -> &'a [f32] {
        self.data.get(block * block_len(self.dim) + at + AHEAD..).unwrap_or_default()
    }

    /// What nothing lies before that could ask for it.
    #[inline(always)]
    pub(super) fn first(self) -> &'a [f32] {
        &self.data[..AHEAD.min(self.data.len())]
    }
}

/// One head's part of [`KeyValues`], to write to.
pub(crate) struct HeadMut<'a> {
    dim: usize,
    data: &'a mut [f32],
}

impl HeadMut<'_> {
    /// The same, to read.
    pub(crate) fn reborrow(&self) -> Head<'_> {
        Head { dim: self.dim, data: self.data }
    }

    /// Writes head `h`'s keys (rotated) and values of `qkv`'s rows at the positions from `start` on.
    pub(crate) fn write(&mut self, qkv: Mat<'_>, h: usize, start: usize, rotary: &Rotary) {
        let dim = self.dim;
        let mut key = [0.0; 256];
        let mut long = Vec::new();
        let key = if dim <= key.len() {
            &mut key[..dim]
        } else {
            long.resize(dim, 0.0);
            &mut long[..]
        };
        for t in 0..qkv.rows() {
            let position = start + t;
            let row = &qkv.row(t)[h * 3 * dim..][..3 * dim];
            let block = &mut self.data[position / BLOCK * block_len(dim)..][..block_len(dim)];
            let (keys, values) = block.split_at_mut(BLOCK * dim);
            key.copy_from_slice(&row[dim..2 * dim]);
            rotary.rotate(key, position);
            for (slot, &k) in keys.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&*key) {
                slot[position % BLOCK] = k;
            }
            let strips = values.as_chunks_mut::<STRIP>().0.as_chunks_mut::<BLOCK>().0;
            for (strip, value) in strips.iter_mut().zip(row[2 * dim..].chunks(STRIP)) {
                strip[position % BLOCK][..value.len()].copy_from_slice(value);
            }
        }
    }
}

/// Numbers from a cache line's start on, so that no vector straddles two. Zeros that were never written to take no memory,
/// which an allocation of aligned lines would not give.
#[derive(Debug)]
pub(super) struct CacheAligned {
    /// As many numbers as a line holds before or after those that count.
    data: Vec<f32>,
}

/// A cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl CacheAligned {
    /// `len` zeros; `len` is a multiple of 16.
    pub(super) fn zeros(len: usize) -> Self {
        Self { data: vec![0.0; len + 16] }
    }

    pub(super) fn get(&self) -> &[f32] {
        let skipped = bytemuck::pod_align_to::<f32, Line>(&self.data).0.len();
        &self.data[skipped..][..self.data.len() - 16]
    }

    pub(super) fn get_mut(&mut self) -> &mut [f32] {
        let skipped = bytemuck::pod_align_to::<f32, Line>(&self.data).0.len();
        let len = self.data.len() - 16;
        &mut self.data[skipped..][..len]
    }
}

impl Clone for CacheAligned {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.get().len());
        copy.get_mut().copy_from_slice(self.get());
        copy
    }
}
