//! Attention of a ragged batch, fused and step by step.

use crate::numbers::{U, assert_near, numbers, on_every_team};
use proptest::prelude::*;
use pythia_tensor::ops::{append_and_attend, attention, attention_mix, attention_scores, softmax};
use pythia_tensor::reference::attention_reference;
use pythia_tensor::{KeyValues, Mat, MatMut, Rotary};

/// The largest query, key and value element.
const AMP: f32 = 2.0;

/// A sequence of a batch: all its tokens, of which the first `start` came in earlier calls.
struct Sequence {
    qkv: Vec<f32>,
    start: usize,
    tokens: usize,
    cache: KeyValues,
}

struct Batch {
    heads: usize,
    dim: usize,
    rotary: Rotary,
    sequences: Vec<Sequence>,
}

impl Batch {
    /// Sequences of `(start, new tokens)`.
    fn new(heads: usize, dim: usize, lens: &[(usize, usize)], seed: u64) -> Self {
        let positions = lens.iter().map(|(start, new)| start + new).max().unwrap();
        let rotary = Rotary::new(dim / 4 / 2 * 2, 10_000.0, positions);
        let sequence = |(i, &(start, new))| {
            let (tokens, cols) = (start + new, heads * 3 * dim);
            let qkv = numbers(seed ^ i as u64, tokens * cols, AMP);
            // More room than is needed, differently for each, and what was there before is overwritten.
            let mut cache = KeyValues::new(heads, dim, tokens + 70 * i);
            cache.append(Mat::new(&numbers(!seed, tokens * cols, 100.0), cols), 0, &rotary);
            cache.append(Mat::new(&qkv[..start * cols], cols), 0, &rotary);
            cache.append(Mat::new(&qkv[start * cols..], cols), start, &rotary);
            Sequence { qkv, start, tokens, cache }
        };
        let sequences = lens.iter().enumerate().map(sequence).collect();
        Self { heads, dim, rotary, sequences }
    }

    fn cols(&self) -> usize {
        self.heads * 3 * self.dim
    }

    /// The new tokens of all sequences, end to end.
    fn qkv(&self) -> Vec<f32> {
        self.sequences.iter().flat_map(|s| &s.qkv[s.start * self.cols()..]).copied().collect()
    }

    /// The rows cut into blocks of at most `most`, and each block's sequence and first position.
    fn blocks(&self, most: usize) -> (Vec<usize>, Vec<(usize, usize)>) {
        let (mut bounds, mut of) = (vec![0], Vec::new());
        for (i, sequence) in self.sequences.iter().enumerate() {
            for position in (sequence.start..sequence.tokens).step_by(most) {
                let rows = most.min(sequence.tokens - position);
                bounds.push(bounds[bounds.len() - 1] + rows);
                of.push((i, position));
            }
        }
        (bounds, of)
    }

    /// The operation on every team, cut into blocks of at most `most` rows.
    fn run(&self, most: usize) -> Vec<(pythia_tensor::Isa, Vec<f32>)> {
        let (qkv, (bounds, of)) = (self.qkv(), self.blocks(most));
        on_every_team(|crew| {
            let mut out = vec![f32::NAN; qkv.len() / 3];
            let qkv = Mat::new(&qkv, self.cols());
            let out_mat = MatMut::new(&mut out, self.heads * self.dim);
            attention(crew, out_mat, qkv, &self.rotary, self.dim, &bounds, |block| {
                let (sequence, position) = of[block];
                (&self.sequences[sequence].cache, position)
            });
            out
        })
    }

    /// One part (0: queries, 1: keys, 2: values) of a head of a sequence, `[tokens, D]`, rotated where it must be.
    fn part(&self, sequence: &Sequence, head: usize, part: usize) -> Vec<f32> {
        let rows = sequence.qkv.chunks(self.cols()).enumerate();
        let of_row = |(position, row): (usize, &[f32])| {
            let mut x = row[(head * 3 + part) * self.dim..][..self.dim].to_vec();
            if part < 2 {
                self.rotary.rotate(&mut x, position);
            }
            x
        };
        rows.flat_map(of_row).collect()
    }

    /// What attention is, `[T, H * D]`, and for each row the number of keys it sees.
    fn reference(&self) -> (Vec<f64>, Vec<usize>) {
        let (mut out, mut keys) = (Vec::new(), Vec::new());
        for sequence in &self.sequences {
            let of_head = |head| {
                let [q, k, v] = [0, 1, 2].map(|part| self.part(sequence, head, part));
                let [q, k, v] = [&q, &k, &v].map(|x| Mat::new(x, self.dim));
                let new = q.slice_rows(sequence.start..sequence.tokens);
                attention_reference(new, k, v, sequence.start)
            };
            let heads: Vec<_> = (0..self.heads).map(of_head).collect();
            for t in 0..sequence.tokens - sequence.start {
                out.extend(heads.iter().flat_map(|head| &head[t]));
                keys.push(sequence.start + t + 1);
            }
        }
        (out, keys)
    }
}

/// The error of a score: rotation keeps a query's length, at most `AMP sqrt(D)`, so that a score is at most
/// `AMP^2 sqrt(D)`, and is a sum of D terms.
fn score_error(dim: usize) -> f64 {
    f64::from(AMP * AMP) * (dim as f64).sqrt() * (dim as f64 + 4.0) * U
}

/// The error of an output: the exponential makes the score's error relative; the sums over the keys, in order, and the
/// exponentials themselves add to it; and a mix of values up to `AMP` errs by `AMP` times that.
fn mix_error(dim: usize, keys: usize) -> f64 {
    f64::from(AMP) * (score_error(dim) + (keys as f64 + 40.0) * U)
}

fn dims() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![6, 10, 32, 64, 80, 96, 128, 256])
}

fn lens() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let start = prop_oneof![Just(0_usize), 0..150_usize];
    let new = prop_oneof![Just(1_usize), 1..80_usize];
    prop::collection::vec((start, new), 1..5)
}

/// Keys and values that the region itself writes are those that were there before it.
fn check_appending(batch: &Batch) {
    let (heads, dim) = (batch.heads, batch.dim);
    let (qkv, (bounds, _)) = (batch.qkv(), batch.blocks(32));
    let results = on_every_team(|crew| {
        let before = |s: &Sequence| {
            let mut cache = KeyValues::new(heads, dim, s.tokens);
            cache.append(Mat::new(&s.qkv[..s.start * batch.cols()], batch.cols()), 0, &batch.rotary);
            cache
        };
        let caches: Vec<_> = batch.sequences.iter().map(before).collect();
        let sequence = |i: usize| (&caches[i], batch.sequences[i].start);
        let mut out = vec![f32::NAN; qkv.len() / 3];
        let out_mat = MatMut::new(&mut out, heads * dim);
        append_and_attend(crew, out_mat, Mat::new(&qkv, batch.cols()), &batch.rotary, dim, &bounds, sequence);
        out
    });
    assert!(results == batch.run(32), "{heads} heads of {dim}, {} sequences", batch.sequences.len());
}

/// So many that a task takes several heads of a sequence, and, on some teams, the last of a sequence fewer than the others.
#[test]
fn heads_in_one_task_change_nothing() {
    for sequences in [8, 13, 24] {
        let lens: Vec<_> = (0..sequences).map(|i| (7 * i % 40, 1 + i % 3)).collect();
        check_appending(&Batch::new(5, 12, &lens, 7));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_ragged_batch_is_the_references(heads in 1..4_usize, dim in dims(), lens in lens(), seed: u64) {
        let batch = Batch::new(heads, dim, &lens, seed);
        let (want, keys) = batch.reference();
        for (isa, got) in batch.run(32) {
            let bound = |i: usize| mix_error(dim, keys[i / (heads * dim)]);
            assert_near(&got, &want, bound, format_args!("{isa}, {heads} heads of {dim}, {lens:?}"));
        }
    }

    /// Neither the blocks nor the neighbours change a bit.
    #[test]
    fn blocks_and_company_do_not_matter(dim in dims(), lens in lens(), most in 1..33_usize, seed: u64) {
        let batch = Batch::new(2, dim, &lens, seed);
        let together = batch.run(32);
        prop_assert!(together == batch.run(most), "blocks of {}", most);
        let mut row = 0;
        for sequence in batch.sequences {
            let rows = row..row + sequence.tokens - sequence.start;
            row = rows.end;
            let alone = Batch { heads: 2, dim, rotary: batch.rotary.clone(), sequences: vec![sequence] };
            for ((isa, alone), (_, all)) in alone.run(32).iter().zip(&together) {
                prop_assert!(alone[..] == all[rows.start * 2 * dim..rows.end * 2 * dim], "{} rows {:?}", isa, rows);
            }
        }
    }

    #[test]
    fn appending_in_the_same_region_changes_nothing(heads in 1..4_usize, dim in dims(), lens in lens(), seed: u64) {
        let lens: Vec<_> = lens.into_iter().map(|(start, new)| (start, new.min(32))).collect();
        check_appending(&Batch::new(heads, dim, &lens, seed));
    }

    /// The scores are the dot products, and nothing of what comes later; with the softmax and the mix, they make attention.
    #[test]
    fn step_by_step_is_attention(heads in 1..4_usize, dim in dims(), len in lens(), seed: u64) {
        let (start, new) = len[0];
        let batch = Batch::new(heads, dim, &[(start, new)], seed);
        let (keys, sequence, qkv) = (start + new, &batch.sequences[0], batch.qkv());
        let results = on_every_team(|crew| {
            let qkv = Mat::new(&qkv, batch.cols());
            let mut scores = vec![f32::NAN; heads * new * keys];
            attention_scores(crew, MatMut::new(&mut scores, keys), qkv, &batch.rotary, dim, (&sequence.cache, start));
            let mut pattern = scores.clone();
            softmax(crew, MatMut::new(&mut pattern, keys));
            let mut out = vec![f32::NAN; new * heads * dim];
            attention_mix(crew, MatMut::new(&mut out, heads * dim), Mat::new(&pattern, keys), dim, &sequence.cache);
            [scores, out].concat()
        });
        let want_scores: Vec<f64> = (0..heads).flat_map(|head| {
            let [q, k] = [0, 1].map(|part| batch.part(sequence, head, part));
            let score = move |t: usize, j: usize| {
                let (q, k) = (&q[t * dim..][..dim], &k[j * dim..][..dim]);
                let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                if j <= t { dot / (dim as f64).sqrt() } else { f64::NEG_INFINITY }
            };
            (start..keys).flat_map(|t| (0..keys).map(move |j| (t, j))).map(|(t, j)| score(t, j)).collect::<Vec<_>>()
        }).collect();
        for ((isa, got), (_, fused)) in results.iter().zip(batch.run(32)) {
            let (scores, out) = got.split_at(want_scores.len());
            let seen = |i: &usize| want_scores[*i].is_finite();
            prop_assert!((0..scores.len()).all(|i| seen(&i) || scores[i] == f32::NEG_INFINITY), "{} sees what comes", isa);
            let pairs = (0..scores.len()).filter(seen).map(|i| (scores[i], want_scores[i]));
            let (got, want): (Vec<f32>, Vec<f64>) = pairs.unzip();
            assert_near(&got, &want, |_| score_error(dim), format_args!("scores, {isa}"));
            // The same scores: only the sums over the keys are done in another order, by both.
            let fused: Vec<f64> = fused.into_iter().map(f64::from).collect();
            let bound = f64::from(AMP) * 2.0 * (keys as f64 + 40.0) * U;
            assert_near(out, &fused, |_| bound, format_args!("fused, {isa}, {heads} heads of {dim}, {start} + {new}"));
        }
    }

    /// A pattern need not be causal or sum to one: the mix is the sum that it asks for.
    #[test]
    fn the_mix_of_any_pattern(heads in 1..4_usize, dim in dims(), tokens in 1..10_usize, keys in 1..200_usize, seed: u64) {
        let batch = Batch::new(heads, dim, &[(0, keys)], seed);
        let sequence = &batch.sequences[0];
        let pattern = numbers(seed ^ 3, heads * tokens * keys, 1.0);
        let values: Vec<Vec<f32>> = (0..heads).map(|head| batch.part(sequence, head, 2)).collect();
        let (mut want, mut magnitude) = (Vec::new(), Vec::new());
        for i in 0..tokens * heads * dim {
            let (t, head, d) = (i / dim / heads, i / dim % heads, i % dim);
            let weights = &pattern[(head * tokens + t) * keys..][..keys];
            let terms = (0..keys).map(|j| f64::from(weights[j]) * f64::from(values[head][j * dim + d]));
            want.push(terms.clone().sum::<f64>());
            magnitude.push(terms.map(f64::abs).sum::<f64>());
        }
        let results = on_every_team(|crew| {
            let mut out = vec![f32::NAN; want.len()];
            attention_mix(crew, MatMut::new(&mut out, heads * dim), Mat::new(&pattern, keys), dim, &sequence.cache);
            out
        });
        for (isa, got) in results {
            assert_near(&got, &want, |i| (keys as f64 + 2.0) * U * magnitude[i], format_args!("{isa} {tokens} of {keys}"));
        }
    }
}

/// The first token can only copy its own value.
#[test]
fn a_token_alone_gets_its_value() {
    let (heads, dim) = (3, 80);
    let batch = Batch::new(heads, dim, &[(0, 1)], 5);
    let want: Vec<f32> = (0..heads).flat_map(|head| batch.part(&batch.sequences[0], head, 2)).collect();
    for (isa, got) in batch.run(32) {
        assert_eq!(got, want, "{isa}");
    }
}

/// What is not a number in one key reaches every later token of its sequence and head, and nothing else.
#[test]
fn a_nan_is_seen_by_those_after_it() {
    let (heads, dim, tokens, bad) = (2, 32, 90, 70);
    let mut batch = Batch::new(heads, dim, &[(0, tokens), (0, 80)], 6);
    let (cols, rotary) = (batch.cols(), batch.rotary.clone());
    let sequence = &mut batch.sequences[0];
    // The second head's key.
    sequence.qkv[bad * cols + 4 * dim + 9] = f32::NAN;
    sequence.cache.append(Mat::new(&sequence.qkv, cols), 0, &rotary);
    let (qkv, (bounds, of)) = (batch.qkv(), batch.blocks(32));
    let results = on_every_team(|crew| {
        let mut out = vec![0.0; qkv.len() / 3];
        let out_mat = MatMut::new(&mut out, heads * dim);
        attention(crew, out_mat, Mat::new(&qkv, cols), &rotary, dim, &bounds, |block| {
            let (sequence, position) = of[block];
            (&batch.sequences[sequence].cache, position)
        });
        out.iter().map(|x| f32::from(u8::from(x.is_nan()))).collect()
    });
    for (isa, nan) in results {
        for (i, &nan) in nan.iter().enumerate() {
            let (row, head) = (i / (heads * dim), i / dim % heads);
            let expected = (bad..tokens).contains(&row) && head == 1;
            assert_eq!(nan == 1.0, expected, "{isa}, row {row}, head {head}");
        }
    }
}
