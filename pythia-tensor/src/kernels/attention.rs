//! Causal attention over a cache of keys and values, with the online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
//!
//! Each query walks the keys in blocks of [`BLOCK`] (or [`TILED_BLOCK`]) from position 0 and keeps a running maximum `m`, sum `l` and mix
//! `z`; a block rescales them by `e^(m_old - m_new)`. The blocks lie at fixed positions and every query's numbers stay
//! in lanes of their own, so a query's result does not depend on how the prompt was split or on its neighbours.
//!
//! Scores are kept in units of `log2(e)`: the queries are scaled by `log2(e) / sqrt(D)` as they are rotated, and the
//! weights are `2^(score - m)`. `l` is a sum for each lane, added up at the end only.
//!
//! Up to eight queries go through a block together, [`score_block`] and [`mix_block`], as many rows of a tile of sums in
//! registers. A group's first position is a multiple of its size, so that its diagonal lies in one block: scores are
//! computed for the vectors of keys that the group's last query sees, and the last few values, which fewer and fewer rows see,
//! are added row after row.
//!
//! Measured on a Zen 4 core (one 512-bit multiply-add and one 512-bit load a cycle), as a fraction of its peak in the same
//! run, operations counted where a query sees the key:
//!
//! | 16 heads of 64, 512 tokens, one thread | fraction |
//! |---|---|
//! | keys `[position / 16][D][16]`, values row by row, 4 x 4 tiles, the diagonal's rows one by one | 0.60 |
//! | a stream of blocks, 8 x 2 tiles, the diagonal in the tile | 0.59 |
//! | the same, all rows of queries copied before the first is rotated | 0.75 |
//! | the same, rows asked for ahead | 0.75 |
//! | the same, scaled while copied; a tile reads eight rows instead of a transposed copy (then the diagonal left the tile) | 0.77 |
//! | blocks of 128 keys | 0.77 |
//! | 64 queries a call | 0.78 |
//!
//! The rows of `qkv` lie pages apart: waiting for one after the other took a fifth of the time. Now the tiles take 83 %,
//! at the peak; exponentials 3 %, maxima 2 %. With 2048 tokens: 0.84 for heads of 64, 0.88 for 128, 0.75 for 32.
//!
//! On an Intel Xeon with AMX, 16 heads of 64, two threads, as fractions of the peak of `f32` multiply-adds:
//!
//! | 64, 512 tokens | `f32` | `bf16` | AVX2, `f32` |
//! |---|---|---|---|
//! | what a mask hides passes through subnormal numbers to 0 | 0.16, 0.45 | -, 0.69 | 0.26, 0.51 |
//! | it is 0 at once ([`math::exp2`]; this) | 0.24, 0.51 | -, 0.86 | 0.33, 0.54 |
//!
//! There a tile of 8 x 2 alone reaches 0.83 with heads of 64. All scores of a call before the first weight, all weights before the first mix: 0.95. With AVX2 6 x 2
//! tiles, or 4 x 3: 0.93; and with four dimensions between two branches: 1.0. Asking for the next block: 0.92. Exponentials of two vectors side by side: 0.97 to 1.02. 16 or 64 queries
//! a call: 1.0 to 1.05.
//!
//! On 256-bit vectors (8 of them on the same core, tiles of 4 x 2): 0.64 where it was 0.38.
//!
//! With keys and values in `bf16` ([`Product`], pairs of numbers in a lane), the same walk runs at 1.3 times the `f32` peak for heads of 64
//! and 512 tokens, 1.4 with 2048 tokens, 1.5 for heads of 128: 0.65 to 0.75 of the peak of its own multiply-adds.
//!
//! On two Zen 5 cores, 16 heads of 64 and 512 tokens, with the diagonal in the tile, whose sums the compiler then stored at each step, and apart (this, before what follows):
//! 0.57 and 0.58 of the `f32` peak, in `bf16` 0.62 and 0.88, with AVX2 in `f32` 0.60 and 0.60.
//!
//! There, on a later day 0.68 of the `f32` peak and in `bf16` 0.56 of that of its own multiply-adds; as speeds beside that without what is named, of 512 and 2048
//! tokens and heads of 64 and 128, in turns or by processes in turns (with AVX2 all of it 0.97 to 1.07, with AMX not measured):
//!
//! | | `f32` | `bf16` |
//! |---|---|---|
//! | rows of queries found in a loop instead of `from_fn`, which was not inlined | 1.00 | 1.05 |
//! | maxima of four rows together, weights rounded as they are computed | 1.00 | 1.01-1.03 |
//! | results written to their rows at once, without a call for each row and without asking for these before | 1.02 | 1.01 |
//! | blocks of 128 keys instead of 64 (this); 256 | 1.01-1.04; 1.00 of this | 1.01-1.05; 0.98-1.02 of this |
//! | the queries of the task after the next asked for; each group's prepared before its first block | 0.99; 1.00 | 0.99; 0.99 |
//! | multiplied by the inverse of `l`; no checks in the score's tile | 1.00; 1.00 | 1.00; 1.00 |
//! | a block's scores of all 32 queries before the first weight, all weights before the first mix | 0.99-1.00 | 0.92-1.01 |
//! | exponentials that guard themselves by a mask instead of a maximum and a selection; of degree 4 for weights in `bf16` | 1.002-1.012 | 1.015-1.04 |
//!
//! Before the last row `f32` reached 0.73 and 0.75 of its peak with heads of 64, 0.73 and 0.79 of 128, `bf16` 0.63, 0.65, 0.67 and 0.73 of that of its own multiply-adds.
//!
//! With AMX, queries go through the blocks that they see all of in tiles (`whole`; heads of whole 32 dimensions): where `vdpbf16ps` does half of what `f32` does, an
//! int8 prompt of 512 tokens runs 1.2 times as fast (410m), and attention takes 14 % of it.
//!
//! Where no instruction multiplies `bf16`, they are widened ([`Widened`]): on a Zen 3 core, prompts of 512 tokens take the same time as
//! with `f32`, those of 2048 1.1 times; a single query takes 0.6 of the time with 512 tokens, 0.5 with 2048. Widening queries and weights
//! as well, two instructions for each, cost another 6 % of a whole prompt of 1500 tokens (70m in int8).
//!
//! A single query is bound by reading the cache. With 2048 tokens, two threads, heads of 64, as a fraction of the bandwidth: 0.76
//! when left to the hardware's prefetcher, 0.85 when asking 4 or 8 KB ahead, 0.98 with 16 KB.
//!
//! On two Zen 5 cores a single query reached 0.65 to 0.77 of it before the last row. What else was asked for, as speeds of decoding with 410m (its keys and values in `f32`, in `bf16`):
//!
//! | | 1 sequence of 1800 tokens | 8 of 128 | 8 of 500 | 64 of 64 |
//! |---|---|---|---|---|
//! | one page ahead instead of two | 0.985, 1.02 | -, 1.00 | -, 0.99 | -, 0.98 |
//! | three, four or six pages; into the second level; the cache in pages of 2 MB | 1.00, 1.00 | | | |
//! | values one page ahead, keys two | 1.01, 1.01 | 1.00, 1.00 | 1.01, 1.01 | 1.00, 1.01 |
//! | three quarters of a tile of keys or of a page's values ahead | 1.01-1.03, 1.00 | 1.01, 1.00 | 1.00-1.02, 1.01 | 1.01, 1.02 |
//! | four lines of keys or values between two branches, without checks (this; eight are the same) | 1.04, 1.04 | - | 1.02, 1.00 | 1.00, 1.00 |
//!
//! In the last row, the loops take 6 instructions a line instead of 13 (attention itself 1.05 to 1.2 times as fast). The same lines read by such a loop that does nothing else came at
//! 0.97 of the bandwidth in any order of keys and values, from pages that lie scattered, with the exponentials or without: what had been slow was the loop, not the place of what it reads. Four pages of keys side by side are 1.0 to 1.05 times as fast while memory is slow, and
//! 0.95 while it is fast. The same loops take prompts of 512 and 2048 tokens 1.01 (`f32`) and 1.015 times (`bf16`) as fast; eight lines 0.97 and 0.99, two 0.97 and 1.00.
//!
//! So are many sequences, whose caches lie in many places. 64 sequences of 64 to 96 tokens of 410m, two cores with AMX, tokens a second in `exact` and
//! in bf16, all of the model:
//!
//! | 64 sequences | exact | bf16 |
//! |---|---|---|
//! | keys `[D][64]`, and then values, of blocks of 64 positions | 333 | 504 |
//! | keys `[4][D][16]` | 363 | 503 |
//! | pages of 16 or 32 positions; no more of them asked for than are there; one lock for writing and reading | 387 | 546 |
//! | all heads of a sequence in a task (this) | 409 | 579 |
//! | the next head's first pages asked for, too; the first left to the hardware's prefetcher | 411; 409 | 580; 555 |
//!
//! Asking for every second line, in the hope that the hardware brings the other of each pair, made it 0.94 and 0.92 of that.

mod key_values;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod whole;
mod write;

use super::math;
use super::rotary::Rotary;
use super::rows::ask;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Amx, Avx512, Pairs};
use crate::simd::{Product, Simd, Single, Widened, stamp, stamp_pairs};
use crate::{Isa, Mat, Tile};
pub(crate) use key_values::Head;
pub use key_values::KeyValues;
use key_values::{CacheAligned, padded};
use std::ops::Range;
use tiles::{Seen, mix_block, score_block};

/// Keys per step of the online softmax.
pub(crate) const BLOCK: usize = 128;

/// The same where AMX takes queries through the blocks before that of their diagonal (`whole`): the shorter a block, the more of the keys.
const TILED_BLOCK: usize = 64;

/// Queries that one call takes at most: their mixes stay in the first-level cache while a block of keys passes.
pub(crate) const QUERIES: usize = 32;

/// Queries that go through a block of keys together at most.
const GROUP: usize = 8;

/// The queries of one call and what is known of their softmax so far. One per thread, reused.
pub(crate) struct Running {
    /// Rotated queries times `log2(e) / sqrt(D)`, `[query][D padded]`.
    q: CacheAligned,
    /// Unnormalised mixes of values, `[query][D padded]`.
    z: CacheAligned,
    /// Scores with a block of keys, then their weights `2^(score - m)`: a group's, or those of all queries.
    p: Scores,
    /// Largest score of each query.
    m: [f32; QUERIES],
    /// Sums of `2^(score - m)` of each query, over the keys that fall into each lane.
    l: [[f32; 16]; QUERIES],
    /// Keys on their way to the cache.
    pub(crate) keys: Vec<f32>,
}

#[repr(align(64))]
struct Scores([[f32; BLOCK]; QUERIES]);

impl Default for Running {
    fn default() -> Self {
        Self {
            q: CacheAligned::zeros(0),
            z: CacheAligned::zeros(0),
            p: Scores([[0.0; BLOCK]; QUERIES]),
            m: [0.0; QUERIES],
            l: [[0.0; 16]; QUERIES],
            keys: Vec::new(),
        }
    }
}

/// Attention of up to `QUERIES` queries, `[T, D]` not yet rotated, the first of which stands at position `start`.
/// The results are the rows of `out`, `[T, D]`.
pub(crate) fn attend(
    isa: Isa,
    q: Mat<'_>,
    start: usize,
    head: Head<'_>,
    rotary: &Rotary,
    running: &mut Running,
    out: &mut Tile<'_>,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = isa.amx()
        && head.numbers == 2
        && whole::fits(head)
    {
        return attend_tiles(isa, amx, q, start, head, rotary, running, out);
    }
    let attend = match head.numbers {
        1 => attend_single,
        _ if isa.has_bf16() => attend_pairs,
        _ => attend_widened,
    };
    attend(isa, q, start, head, rotary, running, out);
}

/// The scores of one rotated query with the keys at `0..scores.len()`, scaled by `1 / sqrt(D)`.
pub(crate) fn scores(isa: Isa, q: &[f32], head: Head<'_>, scores: &mut [f32]) {
    let score = match head.numbers {
        1 => score_single,
        _ if isa.has_bf16() => score_pairs,
        _ => score_widened,
    };
    score(isa, q, head, scores);
}

/// The mix of the values at `0..pattern.len()` with the weights of `pattern`, `[D]`.
pub(crate) fn mix(isa: Isa, pattern: &[f32], head: Head<'_>, out: &mut [f32]) {
    let mix = match head.numbers {
        1 => mix_single,
        _ if isa.has_bf16() => mix_pairs,
        _ => mix_widened,
    };
    mix(isa, pattern, head, out);
}

stamp! {
    fn attend_single(q: Mat<'_>, start: usize, head: Head<'_>, rotary: &Rotary, running: &mut Running, out: &mut Tile<'_>) = attend_single_body;
    fn score_single(q: &[f32], head: Head<'_>, scores: &mut [f32]) = score_single_body;
    fn mix_single(pattern: &[f32], head: Head<'_>, out: &mut [f32]) = mix_single_body;
    fn attend_widened(q: Mat<'_>, start: usize, head: Head<'_>, rotary: &Rotary, running: &mut Running, out: &mut Tile<'_>) = attend_widened_body;
    fn score_widened(q: &[f32], head: Head<'_>, scores: &mut [f32]) = score_widened_body;
    fn mix_widened(pattern: &[f32], head: Head<'_>, out: &mut [f32]) = mix_widened_body;
}

stamp_pairs! {
    fn attend_pairs(q: Mat<'_>, start: usize, head: Head<'_>, rotary: &Rotary, running: &mut Running, out: &mut Tile<'_>) = attend_pairs_body;
    fn attend_tiles(amx: Amx, q: Mat<'_>, start: usize, head: Head<'_>, rotary: &Rotary, running: &mut Running, out: &mut Tile<'_>) = whole::attend_body;
    fn score_pairs(q: &[f32], head: Head<'_>, scores: &mut [f32]) = scores_body;
    fn mix_pairs(pattern: &[f32], head: Head<'_>, out: &mut [f32]) = mix_body;
}

/// The bodies for one kind of product on every instruction set.
macro_rules! bodies {
    ($product:expr => $attend:ident, $score:ident, $mix:ident) => {
        #[inline(always)]
        fn $attend<S: Simd>(
            s: S,
            q: Mat<'_>,
            start: usize,
            head: Head<'_>,
            rotary: &Rotary,
            running: &mut Running,
            out: &mut Tile<'_>,
        ) {
            attend_body(s, $product, NEVER, q, start, head, rotary, running, out);
        }

        #[inline(always)]
        fn $score<S: Simd>(s: S, q: &[f32], head: Head<'_>, scores: &mut [f32]) {
            scores_body(s, $product, q, head, scores);
        }

        #[inline(always)]
        fn $mix<S: Simd>(s: S, pattern: &[f32], head: Head<'_>, out: &mut [f32]) {
            mix_body(s, $product, pattern, head, out);
        }
    };
}
bodies!(Single => attend_single_body, score_single_body, mix_single_body);
bodies!(Widened => attend_widened_body, score_widened_body, mix_widened_body);

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn attend_pairs_body(
    s: Avx512,
    pairs: Pairs,
    q: Mat<'_>,
    start: usize,
    head: Head<'_>,
    rotary: &Rotary,
    running: &mut Running,
    out: &mut Tile<'_>,
) {
    attend_body(s, pairs, NEVER, q, start, head, rotary, running, out);
}

/// Takes queries through a block that they see all of: which queries, and the first of the keys.
type Whole = fn(Range<usize>, usize, &mut Running);

/// No other way than [`step`].
const NEVER: Option<Whole> = None;

/// How many of the queries from `position` to `end` are taken together: a power of two that divides their position, so that
/// their diagonal lies in one block of keys.
fn group(position: usize, end: usize, most: usize) -> usize {
    let mut n = most;
    while !position.is_multiple_of(n) || position + n > end {
        n /= 2;
    }
    n
}

#[inline(always)]
fn attend_body<S: Simd, P: Product<S>, F: FnMut(Range<usize>, usize, &mut Running)>(
    s: S,
    product: P,
    mut whole: Option<F>,
    q: Mat<'_>,
    start: usize,
    head: Head<'_>,
    rotary: &Rotary,
    running: &mut Running,
    out: &mut Tile<'_>,
) {
    let (queries, dim) = (q.rows(), head.dim());
    assert!(queries <= QUERIES && q.cols() == dim, "queries {q:?} of {dim} dimensions");
    assert!(out.rows().len() == queries && out.cols().len() == dim, "{out:?} for {q:?}");
    let end = start + queries;
    let head = head.first(end);
    let most = if S::LANES == 16 { GROUP } else { GROUP / 2 };
    // The rows lie pages apart.
    for t in 0..queries {
        ask(s, q.row(t));
    }
    running.begin(s, product, q, start, rotary);
    let len = if whole.is_some() { TILED_BLOCK } else { BLOCK };
    for first in (0..end).step_by(len) {
        // Queries before the block see nothing of it, those after it all.
        let mut position = start.max(first);
        let after = start.max(first + len);
        let mut last = end;
        if let Some(whole) = &mut whole
            && after < end
        {
            whole(after - start..queries, first, running);
            last = after;
        }
        while position < last {
            let n = group(position, last, most);
            let t = position - start;
            match (n, S::LANES) {
                (8, _) => step::<S, P, 8, 2, 2>(s, product, t, position, (first, len), head, running),
                (4, 16) => step::<S, P, 4, 4, 4>(s, product, t, position, (first, len), head, running),
                (4, _) => step::<S, P, 4, 2, 2>(s, product, t, position, (first, len), head, running),
                (2, _) => step::<S, P, 2, 2, 4>(s, product, t, position, (first, len), head, running),
                _ => step::<S, P, 1, 2, 4>(s, product, t, position, (first, len), head, running),
            }
            position += n;
        }
    }
    let width = padded(dim);
    for (t, z) in running.z.get_mut().chunks_exact_mut(width).take(queries).enumerate() {
        let l = s.splat(s.sum(s.load(&running.l[t])));
        let out = out.row_mut(out.rows().start + t);
        for (z, out) in z.chunks_exact(S::LANES).zip(out.chunks_mut(S::LANES)) {
            s.store_part(s.div(s.load(z), l), out);
        }
    }
}

impl Running {
    /// Rotates and scales the queries and forgets the earlier ones.
    #[inline(always)]
    fn begin<S: Simd, P: Product<S>>(
        &mut self,
        s: S,
        product: P,
        queries: Mat<'_>,
        start: usize,
        rotary: &Rotary,
    ) {
        let (dim, width) = (queries.cols(), padded(queries.cols()));
        let scale = s.splat(std::f32::consts::LOG2_E / (dim as f32).sqrt());
        if self.z.get_mut().len() < QUERIES * width {
            (self.q, self.z) = (CacheAligned::zeros(QUERIES * width), CacheAligned::zeros(QUERIES * width));
        }
        let q = self.q.get_mut().chunks_exact_mut(width);
        for (t, q) in q.take(queries.rows()).enumerate() {
            let row = queries.row(t);
            for (row, q) in row.chunks(S::LANES).zip(q.chunks_exact_mut(S::LANES)) {
                s.store(s.mul(s.load_part(row), scale), q);
            }
            rotary.rotate(&mut q[..dim], start + t);
            product.prepare(s, q);
        }
        self.z.get_mut()[..queries.rows() * width].fill(0.0);
        self.m = [f32::NEG_INFINITY; QUERIES];
        self.l = [[0.0; 16]; QUERIES];
    }
}

/// Takes the `R` queries from number `t` on, the first at `position`, through one block, `K` vectors of keys and `V` of values at a time.
#[inline(always)]
fn step<S: Simd, P: Product<S>, const R: usize, const K: usize, const V: usize>(
    s: S,
    product: P,
    t: usize,
    position: usize,
    (first, len): (usize, usize),
    head: Head<'_>,
    running: &mut Running,
) {
    let width = padded(head.dim());
    let before = position - first;
    // The last query sees the most keys.
    let seen = (before + R).min(len);
    let p = running.p.0.first_chunk_mut::<R>().expect("R <= GROUP");
    let q = running.q.get();
    // Not by `from_fn`, which was not inlined: 1.05 in `bf16`.
    let mut rows: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        rows[r] = &q[(t + r) * width..][..width];
    }
    score_block::<S, P, R, K>(s, product, rows, (head, first), seen, p);
    let diagonal = before < len;
    let seen = seen.next_multiple_of(S::LANES);
    if diagonal {
        for r in 0..R {
            p[r][before + r + 1..seen].fill(f32::NEG_INFINITY);
        }
    }
    let m = running.m[t..].first_chunk_mut().expect("t + R <= QUERIES");
    let l = running.l[t..].first_chunk_mut().expect("t + R <= QUERIES");
    let rescale = soften::<S, P, R>(s, product, p, seen, m, l);
    let seen = if diagonal { Seen::diagonal::<S, P>(before + 1, R) } else { Seen::all::<S, P>(len) };
    let z = &mut running.z.get_mut()[t * width..];
    mix_block::<S, P, R, V>(s, product, p, &rescale, (head, first), seen, z);
}

/// Turns each query's scores with the first `seen` keys into weights relative to the largest score so far, rounded for [`Product::splat`], and gives
/// the factors that its earlier weights shrink by.
#[inline(always)]
fn soften<S: Simd, P: Product<S>, const R: usize>(
    s: S,
    product: P,
    p: &mut [[f32; BLOCK]; R],
    seen: usize,
    m: &mut [f32; R],
    l: &mut [[f32; 16]; R],
) -> [f32; R] {
    let (mut old, mut new) = ([0.0; 16], [0.0; 16]);
    old[..R].copy_from_slice(m);
    let mut tops = [s.zero(); R];
    for r in 0..R {
        // A NaN is passed over here; its weight is one all the same.
        tops[r] = s.splat(m[r]);
        for p in p[r][..seen].chunks_exact(S::LANES) {
            tops[r] = s.max(s.load(p), tops[r]);
        }
    }
    if R.is_multiple_of(4) {
        for r in (0..R).step_by(4) {
            let four = s.max4([tops[r], tops[r + 1], tops[r + 2], tops[r + 3]]);
            new[r..r + 4].copy_from_slice(&four);
        }
    } else {
        for r in 0..R {
            new[r] = s.reduce_max(tops[r]);
        }
    }
    m.copy_from_slice(&new[..R]);
    s.store(math::exp2(s, s.sub(s.load(&old), s.load(&new))), &mut old);
    let mut rescale = [0.0; R];
    rescale.copy_from_slice(&old[..R]);
    for r in 0..R {
        let top = s.splat(m[r]);
        let mut sum = s.mul(s.load(&l[r]), s.splat(rescale[r]));
        for i in 0..seen / S::LANES {
            let x = s.sub(s.load(&p[r][i * S::LANES..]), top);
            let e = if P::NUMBERS > 1 { math::exp2_for_bf16(s, x) } else { math::exp2(s, x) };
            sum = s.add(sum, e);
            product.put(s, e, i, &mut p[r]);
        }
        s.store(sum, &mut l[r]);
    }
    rescale
}

#[inline(always)]
fn scores_body<S: Simd, P: Product<S>>(s: S, product: P, q: &[f32], head: Head<'_>, scores: &mut [f32]) {
    let scale = 1.0 / (head.dim() as f32).sqrt();
    let mut lanes = vec![0.0; padded(q.len())];
    lanes[..q.len()].copy_from_slice(q);
    product.prepare(s, &mut lanes);
    for (b, out) in scores.chunks_mut(BLOCK).enumerate() {
        let mut block = [[0.0; BLOCK]];
        score_block::<S, P, 1, 4>(s, product, [&lanes], (head, b * BLOCK), out.len(), &mut block);
        out.iter_mut().zip(block[0]).for_each(|(out, score)| *out = score * scale);
    }
}

#[inline(always)]
fn mix_body<S: Simd, P: Product<S>>(s: S, product: P, pattern: &[f32], head: Head<'_>, out: &mut [f32]) {
    let mut z = vec![0.0; padded(head.dim())];
    // Positions after the last weight are left out: a later token's value may be infinite.
    let seen = pattern.iter().rposition(|&p| p != 0.0).map_or(0, |last| last + 1);
    for (b, weights) in pattern[..seen].chunks(BLOCK).enumerate() {
        let mut p = [[0.0; BLOCK]];
        p[0][..weights.len()].copy_from_slice(weights);
        product.prepare(s, &mut p[0]);
        let seen = Seen::all::<S, P>(weights.len());
        mix_block::<S, P, 1, 4>(s, product, &p, &[1.0], (head, b * BLOCK), seen, &mut z);
    }
    out.copy_from_slice(&z[..head.dim()]);
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
