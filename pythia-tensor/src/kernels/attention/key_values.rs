//! [`KeyValues`]: what earlier tokens left behind for the attention of later ones.

use super::write::write;
use crate::kernels::rotary::Rotary;
use crate::{Isa, Mat};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Positions of keys, and columns of values, that lie side by side; the widest vector.
pub(super) const STRIP: usize = 16;

/// D rounded up to whole strips.
pub(super) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(STRIP)
}

/// The keys and values of one layer of one sequence, in `f32` or `bf16`, for all heads.
///
/// With `bf16`, attention also rounds queries and the weights of the mix to `bf16` and multiplies pairs of them; scores, the
/// softmax and all sums stay in `f32`. Each rounding is of 2^-9: a score errs by up to 2^-8 of the sum of its terms'
/// magnitudes, which makes a relative error of its weight, and beyond that an output by up to 2^-8 of the largest value.
/// Neither kind's results depend on how a prompt is split, on the batch or on the threads.
///
/// A head's memory is one stream of pages: the rotated keys and the values of 16 positions in `f32`, or of 32 in `bf16`. So what a query reads
/// is its beginning, and what a token writes lies together.
#[derive(Debug)]
pub struct KeyValues {
    dim: usize,
    /// Pages that there is room for.
    pages: usize,
    /// `f32` if 1, `bf16` if 2.
    numbers: usize,
    /// For each head `[page]`, each page keys, `[numbers][D / numbers][STRIP]`, and values, `[D / STRIP][STRIP][STRIP]`. A lane holds `numbers`
    /// numbers: neighbouring dimensions of a key, or neighbouring positions of a value.
    ///
    /// The locks let each task of a region write to its own head; no task ever waits for another.
    heads: Vec<RwLock<CacheAligned>>,
}

impl KeyValues {
    /// Room for at least `positions` positions of `heads` heads of `dim` dimensions. The system provides the memory
    /// as it is written to.
    pub fn new(heads: usize, dim: usize, positions: usize) -> Self {
        Self::with_numbers(heads, dim, positions, 1)
    }

    /// As [`KeyValues::new`], but in `bf16`: half the memory, and for attention half the bytes, and twice the arithmetic
    /// peak where the processor multiplies `bf16`.
    pub fn new_bf16(heads: usize, dim: usize, positions: usize) -> Self {
        Self::with_numbers(heads, dim, positions, 2)
    }

    fn with_numbers(heads: usize, dim: usize, positions: usize, numbers: usize) -> Self {
        let pages = positions.div_ceil(STRIP * numbers);
        let head = |_| RwLock::new(CacheAligned::zeros(pages * page_len(dim, numbers)));
        Self { dim, pages, numbers, heads: (0..heads).map(head).collect() }
    }

    /// The number of heads and their dimension.
    pub fn shape(&self) -> (usize, usize) {
        (self.heads.len(), self.dim)
    }

    /// Whether they are in `bf16`.
    pub fn is_bf16(&self) -> bool {
        self.numbers == 2
    }

    /// How many positions there is room for.
    pub fn capacity(&self) -> usize {
        self.pages * STRIP * self.numbers
    }

    /// Writes the keys (rotated) and values of `qkv`'s rows, `[T, H * 3 * D]` with rows `[head][q, k, v][D]`, at the
    /// positions from `start` on, on the calling thread; [`ops::append`](crate::ops::append) does it on all.
    ///
    /// # Panics
    /// If the shapes do not fit or there is no room.
    pub fn append(&mut self, qkv: Mat<'_>, start: usize, rotary: &Rotary) {
        self.check(qkv, start);
        let mut room = Vec::new();
        for h in 0..self.heads.len() {
            self.with_head_mut(h, |mut head| head.write(Isa::best(), qkv, h, start, rotary, &mut room));
        }
    }

    /// Panics unless `qkv`'s keys and values fit in at `start`.
    pub(crate) fn check(&self, qkv: Mat<'_>, start: usize) {
        assert_eq!(qkv.cols(), self.heads.len() * 3 * self.dim, "columns of qkv");
        let capacity = self.capacity();
        assert!(start + qkv.rows() <= capacity, "{} keys at {start} of {capacity}", qkv.rows());
    }

    /// Makes this the same as `other`'s first `len` positions. Later positions are undefined.
    ///
    /// # Panics
    /// If the shapes differ or `len` exceeds the room of either.
    pub fn copy_prefix(&mut self, other: &Self, len: usize) {
        let shape = |kv: &Self| (kv.heads.len(), kv.dim, kv.numbers);
        assert_eq!(shape(self), shape(other), "heads and dimensions");
        assert!(len <= self.capacity().min(other.capacity()), "{len} positions");
        let copied = len.div_ceil(STRIP * self.numbers) * page_len(self.dim, self.numbers);
        for (mine, theirs) in self.heads.iter_mut().zip(&other.heads) {
            let mine = mine.get_mut().unwrap_or_else(PoisonError::into_inner);
            mine.get_mut()[..copied].copy_from_slice(&read(theirs).get()[..copied]);
        }
    }

    /// Calls `f` with the keys and values of one head.
    pub(crate) fn with_head<R>(&self, head: usize, f: impl FnOnce(Head<'_>) -> R) -> R {
        f(Head { dim: self.dim, numbers: self.numbers, data: read(&self.heads[head]).get() })
    }

    /// Calls `f` with the keys and values of one head, to write to.
    pub(crate) fn with_head_mut<R>(&self, head: usize, f: impl FnOnce(HeadMut<'_>) -> R) -> R {
        let mut data = self.heads[head].write().unwrap_or_else(PoisonError::into_inner);
        f(HeadMut { dim: self.dim, numbers: self.numbers, data: data.get_mut() })
    }
}

fn read(head: &RwLock<CacheAligned>) -> RwLockReadGuard<'_, CacheAligned> {
    // Nobody panics between two writes that belong together.
    head.read().unwrap_or_else(PoisonError::into_inner)
}

impl Clone for KeyValues {
    fn clone(&self) -> Self {
        let heads = self.heads.iter().map(|head| RwLock::new(read(head).clone())).collect();
        Self { heads, ..*self }
    }
}

/// One head's part of [`KeyValues`], to write to.
pub(crate) struct HeadMut<'a> {
    dim: usize,
    pub(super) numbers: usize,
    data: &'a mut [f32],
}

impl HeadMut<'_> {
    /// What is in it.
    #[inline(always)]
    pub(crate) fn get(&self) -> Head<'_> {
        Head { dim: self.dim, numbers: self.numbers, data: self.data }
    }

    /// Writes the keys (rotated) and values of `qkv`'s rows, as head number `h`, at the positions from `start` on. `room` is to work in.
    pub(crate) fn write(
        &mut self,
        isa: Isa,
        qkv: Mat<'_>,
        h: usize,
        start: usize,
        rotary: &Rotary,
        room: &mut Vec<f32>,
    ) {
        let kv = [1, 2].map(|i| qkv.slice_cols((3 * h + i) * self.dim..(3 * h + i + 1) * self.dim));
        write(isa, self, kv, start, rotary, room);
    }

    /// Strip number `strip` of the keys, [`Head::keys_at`].
    #[inline(always)]
    pub(super) fn keys_mut(&mut self, strip: usize) -> &mut [[f32; STRIP]] {
        let (at, rows) = (self.get().keys_at(strip), self.get().rows());
        &mut self.data.as_chunks_mut().0[at / STRIP..][..rows]
    }

    /// The values of page number `page`, [`Head::values_at`].
    #[inline(always)]
    pub(super) fn values_mut(&mut self, page: usize) -> &mut [[f32; STRIP]] {
        let at = self.get().values_at(page);
        &mut self.data.as_chunks_mut().0[at / STRIP..][..padded(self.dim)]
    }
}

/// The lanes of a key.
fn rows(dim: usize, numbers: usize) -> usize {
    dim.div_ceil(numbers)
}

/// The lanes of a page's keys.
fn keys_len(dim: usize, numbers: usize) -> usize {
    numbers * rows(dim, numbers) * STRIP
}

/// The lanes of a page.
fn page_len(dim: usize, numbers: usize) -> usize {
    keys_len(dim, numbers) + STRIP * padded(dim)
}

/// How far ahead a single query asks for its keys and values, in pages: the next may be read at the same time, as two strips of keys are side by
/// side.
const AHEAD: usize = 2;

/// One head's part of [`KeyValues`].
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    dim: usize,
    /// Numbers in a lane: 1 (`f32`) or 2 (`bf16`).
    pub(super) numbers: usize,
    data: &'a [f32],
}

impl<'a> Head<'a> {
    /// Its dimensions.
    #[inline(always)]
    pub(crate) fn dim(self) -> usize {
        self.dim
    }

    /// The lanes of a key.
    #[inline(always)]
    pub(super) fn rows(self) -> usize {
        rows(self.dim, self.numbers)
    }

    /// Where strip number `strip` of the keys begins: those of 16 positions, `[D / numbers][STRIP]`.
    #[inline(always)]
    pub(super) fn keys_at(self, strip: usize) -> usize {
        let (page, strip) = (strip / self.numbers, strip % self.numbers);
        page * page_len(self.dim, self.numbers) + strip * self.rows() * STRIP
    }

    /// Where the values of page number `page` begin, `[D / STRIP][STRIP][STRIP]`.
    #[inline(always)]
    pub(super) fn values_at(self, page: usize) -> usize {
        page * page_len(self.dim, self.numbers) + keys_len(self.dim, self.numbers)
    }

    /// `rows` rows of lanes from `at` on.
    #[inline(always)]
    pub(super) fn lanes(self, at: usize, rows: usize) -> &'a [[f32; STRIP]] {
        self.data[at..][..rows * STRIP].as_chunks().0
    }

    /// Only the pages that hold the first `positions` positions.
    #[inline(always)]
    pub(crate) fn first(self, positions: usize) -> Self {
        let len = positions.div_ceil(STRIP * self.numbers) * page_len(self.dim, self.numbers);
        Self { data: &self.data[..len], ..self }
    }

    /// `rows` rows of lanes as far ahead of `at` as a single query asks for, if there are that many.
    #[inline(always)]
    pub(super) fn ahead(self, at: usize, rows: usize) -> Option<&'a [[f32; STRIP]]> {
        let lanes = self.data.get(at + AHEAD * page_len(self.dim, self.numbers)..)?.get(..rows * STRIP)?;
        Some(lanes.as_chunks().0)
    }

    /// What nothing lies before that could ask for it.
    #[inline(always)]
    pub(crate) fn beginning(self) -> &'a [f32] {
        &self.data[..self.data.len().min(AHEAD * page_len(self.dim, self.numbers))]
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
