//! [`KeyValues`]: what earlier tokens left behind for the attention of later ones.

use super::BLOCK;
use crate::Mat;
use crate::kernels::rotary::Rotary;
use crate::simd::pair;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Columns of values that lie side by side; the widest vector.
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
/// A head's memory is one stream: a block of rotated keys, its values, the next block.
#[derive(Debug)]
pub struct KeyValues {
    dim: usize,
    /// Blocks of `BLOCK` positions that there is room for.
    blocks: usize,
    /// `f32` if 1, `bf16` if 2.
    numbers: usize,
    /// For each head `[block]`, each block keys, `[D][BLOCK]`, and values, `[D / STRIP][BLOCK][STRIP]`. A lane holds `numbers`
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
        let blocks = positions.div_ceil(BLOCK);
        let head = |_| RwLock::new(CacheAligned::zeros(blocks * block_len(dim, numbers)));
        Self { dim, blocks, numbers, heads: (0..heads).map(head).collect() }
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
        self.blocks * BLOCK
    }

    /// Writes the keys (rotated) and values of `qkv`'s rows, `[T, H * 3 * D]` with rows `[head][q, k, v][D]`, at the
    /// positions from `start` on, on the calling thread; [`ops::append`](crate::ops::append) does it on all.
    ///
    /// # Panics
    /// If the shapes do not fit or there is no room.
    pub fn append(&mut self, qkv: Mat<'_>, start: usize, rotary: &Rotary) {
        self.check(qkv, start);
        let mut key = Vec::new();
        (0..self.heads.len()).for_each(|h| self.write(qkv, h, start, rotary, &mut key));
    }

    /// Writes head `h`'s keys (rotated) and values of `qkv`'s rows at the positions from `start` on. `key` is room for one.
    pub(crate) fn write(&self, qkv: Mat<'_>, h: usize, start: usize, rotary: &Rotary, key: &mut Vec<f32>) {
        let (dim, numbers, len) = (self.dim, self.numbers, block_len(self.dim, self.numbers));
        let mut data = self.heads[h].write().unwrap_or_else(PoisonError::into_inner);
        for t in 0..qkv.rows() {
            let position = start + t;
            let row = &qkv.row(t)[h * 3 * dim..][..3 * dim];
            key.clear();
            key.extend_from_slice(&row[dim..2 * dim]);
            rotary.rotate(key, position);
            let block = &mut data.get_mut()[position / BLOCK * len..][..len];
            let (keys, values) = block.split_at_mut(keys_len(dim, numbers));
            let (keys, at) = (keys.as_chunks_mut::<BLOCK>().0, position % BLOCK);
            let strips = values.as_chunks_mut::<STRIP>().0.chunks_exact_mut(BLOCK / numbers);
            let strips = strips.zip(row[2 * dim..].chunks(STRIP));
            if numbers == 1 {
                keys.iter_mut().zip(&*key).for_each(|(lanes, &k)| lanes[at] = k);
                strips.for_each(|(strip, value)| strip[at][..value.len()].copy_from_slice(value));
            } else {
                keys.iter_mut().zip(key.chunks(2)).for_each(|(lanes, k)| {
                    lanes[at] = pair(k[0], k.get(1).copied().unwrap_or_default());
                });
                for (strip, value) in strips {
                    for (lane, &v) in strip[at / 2].iter_mut().zip(value) {
                        let first = f32::from_bits(lane.to_bits() << 16);
                        *lane = if at % 2 == 0 { pair(v, 0.0) } else { pair(first, v) };
                    }
                }
            }
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
        let copied = len.div_ceil(BLOCK) * block_len(self.dim, self.numbers);
        for (mine, theirs) in self.heads.iter_mut().zip(&other.heads) {
            let mine = mine.get_mut().unwrap_or_else(PoisonError::into_inner);
            mine.get_mut()[..copied].copy_from_slice(&read(theirs).get()[..copied]);
        }
    }

    /// Calls `f` with the keys and values of one head.
    pub(crate) fn with_head<R>(&self, head: usize, f: impl FnOnce(Head<'_>) -> R) -> R {
        f(Head { dim: self.dim, numbers: self.numbers, data: read(&self.heads[head]).get() })
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

/// The lanes of a block's keys.
fn keys_len(dim: usize, numbers: usize) -> usize {
    BLOCK * dim.div_ceil(numbers)
}

/// The lanes of a block of keys and values.
fn block_len(dim: usize, numbers: usize) -> usize {
    keys_len(dim, numbers) + BLOCK / numbers * padded(dim)
}

/// How far ahead a single query asks for its keys and values, in lanes: 16 KB, as four strips of 4 KB are read side by
/// side, and with less the first three would ask for what the next is reading.
const AHEAD: usize = 4096;

/// One head's part of [`KeyValues`].
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(super) dim: usize,
    /// Numbers in a lane: 1 (`f32`) or 2 (`bf16`).
    pub(super) numbers: usize,
    data: &'a [f32],
}

impl<'a> Head<'a> {
    /// The keys, `[D]`, and the values, `[D / STRIP][BLOCK]`, of block number `block`, in lanes.
    #[inline(always)]
    pub(super) fn block(self, block: usize) -> (&'a [[f32; BLOCK]], &'a [[f32; STRIP]]) {
        let len = block_len(self.dim, self.numbers);
        let (keys, values) = self.data[block * len..][..len].split_at(keys_len(self.dim, self.numbers));
        (keys.as_chunks().0, values.as_chunks().0)
    }

    /// Only the blocks that hold the first `positions` positions.
    #[inline(always)]
    pub(super) fn first(self, positions: usize) -> Self {
        let len = positions.div_ceil(BLOCK) * block_len(self.dim, self.numbers);
        Self { data: &self.data[..len], ..self }
    }

    /// What lies `AHEAD` beyond the start of block number `block`, and beyond that of its values.
    #[inline(always)]
    pub(super) fn ahead(self, block: usize) -> (&'a [f32], &'a [f32]) {
        let from = block * block_len(self.dim, self.numbers) + AHEAD;
        let values = from + keys_len(self.dim, self.numbers);
        (self.data.get(from..).unwrap_or_default(), self.data.get(values..).unwrap_or_default())
    }

    /// What nothing lies before that could ask for it.
    #[inline(always)]
    pub(super) fn beginning(self) -> &'a [f32] {
        &self.data[..AHEAD.min(self.data.len())]
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
