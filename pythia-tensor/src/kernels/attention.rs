//! Causal attention over a cache of keys and values, with the online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
//!
//! Each query walks the keys in blocks of [`BLOCK`] from position 0 and keeps a running maximum `m`, sum `l` and mix
//! `z`; a block rescales them by `e^(m_old - m_new)`. The blocks lie at fixed positions and every query's numbers stay
//! in lanes of their own, so a query's result does not depend on how the prompt was split or on its neighbours.
//!
//! Keys are stored so that a vector holds one dimension of [`PANEL`] positions: scores then need no horizontal sum.
//! Measured against keys stored row by row with a reduction per score, as the weights are: not yet (speed issue).

use super::math;
use super::rotary::Rotary;
use crate::simd::{Simd, stamp};
use crate::{Mat, MatMut};
use std::ops::Range;

/// Keys per step of the online softmax.
pub(crate) const BLOCK: usize = 64;

/// Queries that one call takes at most: their mixes stay in the first-level cache while a block of keys passes.
pub(crate) const QUERIES: usize = 32;

/// Positions that lie side by side in the keys; the widest vector.
const PANEL: usize = 16;

/// The keys and values of one layer of one sequence, in `f32`, for all heads.
#[derive(Debug, Clone)]
pub struct KeyValues {
    heads: usize,
    dim: usize,
    /// Positions there is room for, a multiple of `BLOCK`.
    capacity: usize,
    /// Rotated keys, `[head][position / PANEL][D][PANEL]`.
    keys: Vec<f32>,
    /// `[head][position][D padded]`.
    values: Vec<f32>,
    /// A key while it is rotated, `[D]`.
    key: Vec<f32>,
}

/// D rounded up to whole vectors.
fn padded(dim: usize) -> usize {
    dim.next_multiple_of(PANEL)
}

/// Writes head `h`'s keys to its part of the cache; `key` is room for one, `[D]`.
pub(crate) fn write_keys(
    qkv: Mat<'_>,
    h: usize,
    start: usize,
    rotary: &Rotary,
    key: &mut [f32],
    keys: &mut [f32],
) {
    let dim = key.len();
    for t in 0..qkv.rows() {
        let position = start + t;
        key.copy_from_slice(&qkv.row(t)[(h * 3 + 1) * dim..][..dim]);
        rotary.rotate(key, position);
        let panel = &mut keys[position / PANEL * PANEL * dim + position % PANEL..];
        panel.iter_mut().step_by(PANEL).zip(&*key).for_each(|(slot, &k)| *slot = k);
    }
}

/// Writes head `h`'s values to its part of the cache.
pub(crate) fn write_values(qkv: Mat<'_>, h: usize, start: usize, dim: usize, values: &mut [f32]) {
    for (t, out) in values.chunks_exact_mut(padded(dim)).skip(start).take(qkv.rows()).enumerate() {
        out[..dim].copy_from_slice(&qkv.row(t)[(h * 3 + 2) * dim..][..dim]);
    }
}

impl KeyValues {
    /// Room for at least `positions` positions of `heads` heads of `dim` dimensions. The system provides the memory
    /// as it is written to.
    pub fn new(heads: usize, dim: usize, positions: usize) -> Self {
        let capacity = positions.next_multiple_of(BLOCK);
        Self {
            heads,
            dim,
            capacity,
            keys: vec![0.0; heads * capacity * dim],
            values: vec![0.0; heads * capacity * padded(dim)],
            key: vec![0.0; dim],
        }
    }

    /// The number of heads and their dimension.
    pub fn shape(&self) -> (usize, usize) {
        (self.heads, self.dim)
    }

    /// How many positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Writes the keys (rotated) and values of `qkv`'s rows, `[T, H * 3 * D]` with rows `[head][q, k, v][D]`, at the
    /// positions from `start` on, on the calling thread; [`ops::append`](crate::ops::append) does it on all.
    ///
    /// # Panics
    /// If the shapes do not fit or there is no room.
    pub fn append(&mut self, qkv: Mat<'_>, start: usize, rotary: &Rotary) {
        self.check(qkv, start);
        let dim = self.dim;
        let keys = self.keys.chunks_exact_mut(self.capacity * dim);
        let values = self.values.chunks_exact_mut(self.capacity * padded(dim));
        for (h, (keys, values)) in keys.zip(values).enumerate() {
            write_keys(qkv, h, start, rotary, &mut self.key, keys);
            write_values(qkv, h, start, dim, values);
        }
    }

    /// Panics unless `qkv`'s keys and values fit in at `start`.
    pub(crate) fn check(&self, qkv: Mat<'_>, start: usize) {
        assert_eq!(qkv.cols(), self.heads * 3 * self.dim, "columns of qkv");
        assert!(start + qkv.rows() <= self.capacity, "{} keys at {start} of {}", qkv.rows(), self.capacity);
    }

    /// All keys and all values, a row for each head.
    pub(crate) fn rows_mut(&mut self) -> (MatMut<'_>, MatMut<'_>) {
        let (keys, values) = (self.capacity * self.dim, self.capacity * padded(self.dim));
        (MatMut::new(&mut self.keys, keys), MatMut::new(&mut self.values, values))
    }

    /// Makes this the same as `other`'s first `len` positions. Later positions are undefined.
    ///
    /// # Panics
    /// If the shapes differ or `len` exceeds the room of either.
    pub fn copy_prefix(&mut self, other: &Self, len: usize) {
        assert_eq!((self.heads, self.dim), (other.heads, other.dim), "heads and dimensions");
        assert!(len <= self.capacity.min(other.capacity), "{len} positions");
        let panels = len.next_multiple_of(PANEL);
        let rows = |n: usize, row: usize| {
            move |h: usize, capacity: usize| h * capacity * row..(h * capacity + n) * row
        };
        let (keys, values) = (rows(panels, self.dim), rows(len, padded(self.dim)));
        for h in 0..self.heads {
            self.keys[keys(h, self.capacity)].copy_from_slice(&other.keys[keys(h, other.capacity)]);
            self.values[values(h, self.capacity)].copy_from_slice(&other.values[values(h, other.capacity)]);
        }
    }

    /// The keys and values of one head.
    pub(crate) fn head(&self, head: usize) -> Head<'_> {
        let (keys, values) = (self.capacity * self.dim, self.capacity * padded(self.dim));
        Head {
            dim: self.dim,
            keys: &self.keys[head * keys..][..keys],
            values: &self.values[head * values..][..values],
        }
    }
}

/// One head's part of [`KeyValues`].
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    dim: usize,
    keys: &'a [f32],
    values: &'a [f32],
}

/// The queries of one call and what is known of their softmax so far. One per thread, reused.
#[derive(Default)]
pub(crate) struct Running {
    /// Rotated queries, `[query][D]`.
    q: Vec<f32>,
    /// Unnormalised mixes of values, `[query][D padded]`.
    z: Vec<f32>,
    /// Largest score of each query.
    m: [f32; QUERIES],
    /// Sum of `e^(score - m)` of each query.
    l: [f32; QUERIES],
}

stamp! {
    /// Attention of up to `QUERIES` queries, `[T, D]` not yet rotated, the first of which stands at position `start`.
    /// Calls `put(t, mix)` with each query's result, `[D]`.
    pub(crate) fn attend(q: Mat<'_>, start: usize, head: Head<'_>, rotary: &Rotary, running: &mut Running, put: &mut dyn FnMut(usize, &[f32])) = attend_body;
    /// The scores of one rotated query with the keys at `0..scores.len()`, scaled by `1 / sqrt(D)`.
    pub(crate) fn scores(q: &[f32], head: Head<'_>, scores: &mut [f32]) = scores_body;
    /// The mix of the values at `0..pattern.len()` with the weights of `pattern`, `[D]`.
    pub(crate) fn mix(pattern: &[f32], head: Head<'_>, out: &mut [f32]) = mix_body;
}

#[inline(always)]
fn attend_body<S: Simd>(
    s: S,
    q: Mat<'_>,
    start: usize,
    head: Head<'_>,
    rotary: &Rotary,
    running: &mut Running,
    put: &mut dyn FnMut(usize, &[f32]),
) {
    let (queries, dim) = (q.rows(), head.dim);
    assert!(queries <= QUERIES && q.cols() == dim, "queries {q:?} of {dim} dimensions");
    running.q.clear();
    for t in 0..queries {
        running.q.extend_from_slice(q.row(t));
        rotary.rotate(&mut running.q[t * dim..], start + t);
    }
    running.z.clear();
    running.z.resize(queries * padded(dim), 0.0);
    running.m = [f32::NEG_INFINITY; QUERIES];
    running.l = [0.0; QUERIES];
    for block in (0..start + queries).step_by(BLOCK) {
        // Queries before the block see nothing of it.
        let mut t = block.saturating_sub(start);
        while t < queries {
            if queries - t >= 4 {
                step::<S, 4>(s, t..t + 4, start, block, head, running);
                t += 4;
            } else {
                step::<S, 1>(s, t..t + 1, start, block, head, running);
                t += 1;
            }
        }
    }
    for t in 0..queries {
        let z = &mut running.z[t * padded(dim)..][..padded(dim)];
        let l = s.splat(running.l[t]);
        for z in z.chunks_exact_mut(S::LANES) {
            s.store(s.div(s.load(z), l), z);
        }
        put(t, &z[..dim]);
    }
}

/// Takes `R` queries through one block of keys.
#[inline(always)]
fn step<S: Simd, const R: usize>(
    s: S,
    queries: Range<usize>,
    start: usize,
    block: usize,
    head: Head<'_>,
    running: &mut Running,
) {
    let mut p = [[0.0; BLOCK]; R];
    let q: [&[f32]; R] = std::array::from_fn(|r| &running.q[(queries.start + r) * head.dim..][..head.dim]);
    // The last query sees the most keys; what a query must not see weighs nothing.
    let keys = (start + queries.end - block).min(BLOCK);
    score_block(s, q, head, block, keys, &mut p);
    let mut rescale = [0.0; R];
    for r in 0..R {
        let t = queries.start + r;
        p[r][(start + t + 1 - block).min(BLOCK)..].fill(f32::NEG_INFINITY);
        let mut top = s.load(&p[r]);
        for p in p[r].chunks_exact(S::LANES) {
            top = s.max(s.load(p), top);
        }
        let (old, new) = (running.m[t], running.m[t].max(s.reduce_max(top)));
        let shift = s.splat(new);
        let mut sum = s.zero();
        for p in p[r].chunks_exact_mut(S::LANES) {
            let e = math::exp(s, s.sub(s.load(p), shift));
            sum = s.add(sum, e);
            s.store(e, p);
        }
        let mut lanes = [0.0; PANEL];
        s.store(math::exp(s, s.splat(old - new)), &mut lanes);
        rescale[r] = lanes[0];
        running.l[t] = running.l[t] * rescale[r] + s.sum(sum);
        running.m[t] = new;
    }
    // What a query must not see is left out, not weighed with 0: it may be infinite.
    let width = padded(head.dim);
    let common = (start + queries.start + 1 - block).min(BLOCK);
    let z = &mut running.z[queries.start * width..];
    mix_block(s, &p, rescale, head, block, 0..common, z);
    for r in 1..R {
        let own = (common + r).min(keys);
        if own > common {
            let z = &mut running.z[(queries.start + r) * width..];
            mix_block(s, &[p[r]], [1.0], head, block, common..own, z);
        }
    }
}

/// `scores[r][j] = q[r] . key(block + j) / sqrt(D)` for whole vectors that cover the first `keys` keys.
#[inline(always)]
fn score_block<S: Simd, const R: usize>(
    s: S,
    q: [&[f32]; R],
    head: Head<'_>,
    block: usize,
    keys: usize,
    scores: &mut [[f32; BLOCK]; R],
) {
    let scale = s.splat(1.0 / (head.dim as f32).sqrt());
    for j in (0..keys).step_by(4 * S::LANES.min(PANEL)) {
        // Four vectors of keys; where a panel is wider than a vector, they lie in the same or the next panel.
        let at: [&[f32]; 4] = std::array::from_fn(|v| {
            let key = block + j + v * S::LANES;
            &head.keys[key / PANEL * PANEL * head.dim + key % PANEL..]
        });
        let mut acc = [[s.zero(); 4]; R];
        for d in 0..head.dim {
            let mut k = [s.zero(); 4];
            for v in 0..4 {
                k[v] = s.load(&at[v][d * PANEL..]);
            }
            for r in 0..R {
                let q = s.splat(q[r][d]);
                for v in 0..4 {
                    acc[r][v] = s.mul_add(q, k[v], acc[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..4 {
                s.store(s.mul(acc[r][v], scale), &mut scores[r][j + v * S::LANES..]);
            }
        }
    }
}

/// `z[r] = z[r] * rescale[r] + sum over j in keys of p[r][j] * value(block + j)`, j in order.
#[inline(always)]
fn mix_block<S: Simd, const R: usize>(
    s: S,
    p: &[[f32; BLOCK]; R],
    rescale: [f32; R],
    head: Head<'_>,
    block: usize,
    keys: Range<usize>,
    z: &mut [f32],
) {
    let width = padded(head.dim);
    let values = &head.values[(block + keys.start) * width..(block + keys.end) * width];
    let first = keys.start;
    let mut d = 0;
    while d < width {
        if width - d >= 4 * S::LANES {
            mix_columns::<S, R, 4>(s, p, first, rescale, values, width, d, z);
            d += 4 * S::LANES;
        } else {
            mix_columns::<S, R, 1>(s, p, first, rescale, values, width, d, z);
            d += S::LANES;
        }
    }
}

/// `N` vectors' worth of columns of [`mix_block`], from column `d` on; `values` begin with key `first` of the block.
#[inline(always)]
fn mix_columns<S: Simd, const R: usize, const N: usize>(
    s: S,
    p: &[[f32; BLOCK]; R],
    first: usize,
    rescale: [f32; R],
    values: &[f32],
    width: usize,
    d: usize,
    z: &mut [f32],
) {
    let mut acc = [[s.zero(); N]; R];
    for r in 0..R {
        let rescale = s.splat(rescale[r]);
        for v in 0..N {
            acc[r][v] = s.mul(s.load(&z[r * width + d + v * S::LANES..]), rescale);
        }
    }
    for (j, value) in values.chunks_exact(width).enumerate() {
        let mut x = [s.zero(); N];
        for v in 0..N {
            x[v] = s.load(&value[d + v * S::LANES..]);
        }
        for r in 0..R {
            let p = s.splat(p[r][first + j]);
            for v in 0..N {
                acc[r][v] = s.mul_add(p, x[v], acc[r][v]);
            }
        }
    }
    for r in 0..R {
        for v in 0..N {
            s.store(acc[r][v], &mut z[r * width + d + v * S::LANES..]);
        }
    }
}

#[inline(always)]
fn scores_body<S: Simd>(s: S, q: &[f32], head: Head<'_>, scores: &mut [f32]) {
    for (b, out) in scores.chunks_mut(BLOCK).enumerate() {
        let mut block = [[0.0; BLOCK]];
        score_block(s, [q], head, b * BLOCK, out.len(), &mut block);
        out.copy_from_slice(&block[0][..out.len()]);
    }
}

#[inline(always)]
fn mix_body<S: Simd>(s: S, pattern: &[f32], head: Head<'_>, out: &mut [f32]) {
    let mut z = vec![0.0; padded(head.dim)];
    // Positions after the last weight are left out: a later token's value may be infinite.
    let seen = pattern.iter().rposition(|&p| p != 0.0).map_or(0, |last| last + 1);
    for (b, weights) in pattern[..seen].chunks(BLOCK).enumerate() {
        let mut p = [[0.0; BLOCK]];
        p[0][..weights.len()].copy_from_slice(weights);
        mix_block(s, &p, [1.0], head, b * BLOCK, 0..weights.len(), &mut z);
    }
    out.copy_from_slice(&z[..head.dim]);
}

/// The plain twin: attention of one head's rotated queries `q`, keys `k` and values `v`, each `[T][D]`, in `f64`
/// (Vaswani et al. 2017, equation 1, with the causal mask). Query `t` sees the keys `0..=start + t`.
pub fn attention_reference(q: Mat<'_>, k: Mat<'_>, v: Mat<'_>, start: usize) -> Vec<Vec<f64>> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let attend = |t: usize| {
        let scores: Vec<f64> =
            (0..=start + t).map(|j| dot(q.row(t), k.row(j)) / (q.cols() as f64).sqrt()).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let p: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
        let total: f64 = p.iter().sum();
        (0..v.cols())
            .map(|d| p.iter().enumerate().map(|(j, p)| p / total * f64::from(v.row(j)[d])).sum())
            .collect()
    };
    (0..q.rows()).map(attend).collect()
}

#[cfg(test)]
mod tests;
