//! What decides which tokens may be sampled: top-k, top-p, min-p and typical-p; and the draw.

use super::{SamplingConfig, keep_best};

/// transformers' filters, in its order, and the candidates that they leave.
#[derive(Clone, Debug)]
pub(super) struct Filters {
    top_k: usize,
    top_p: f64,
    min_p: f64,
    typical_p: f64,
    /// In the order of their ids, except inside a filter.
    candidates: Vec<Candidate>,
    best: Vec<f32>,
    distances: Vec<(f64, f64)>,
}

/// A token that may be sampled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) id: u32,
    /// Its score; the highest of all is 0.
    score: f32,
    /// `exp(score)`: its probability, not normalised.
    pub(super) weight: f64,
}

impl Filters {
    pub(super) fn new(config: &SamplingConfig) -> Self {
        Self {
            top_k: config.top_k,
            top_p: config.top_p,
            min_p: config.min_p,
            typical_p: config.typical_p,
            candidates: Vec::new(),
            best: Vec::new(),
            distances: Vec::new(),
        }
    }

    /// Makes the candidates from `scores`, which have been divided by the temperature and of which the highest is
    /// 0. At least that one remains.
    pub(super) fn apply(&mut self, scores: &[f32]) {
        self.take_top_k(scores);
        if self.top_p < 1.0 {
            self.keep_top_p();
        }
        // The highest weight is 1, and what it is normalised by does not matter for a ratio.
        if self.min_p > 0.0 {
            self.candidates.retain(|c| c.weight >= self.min_p);
        }
        if self.typical_p < 1.0 {
            self.keep_typical();
        }
    }

    /// What [`Filters::apply`] has left, in the order of the ids.
    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Draws one of the candidates with `u`: see [`draw`].
    pub(super) fn pick(&self, u: f64) -> Option<u32> {
        draw(self.candidates.iter().map(|c| (c.id, c.weight)), u)
    }

    /// The candidates' weights together.
    pub(super) fn total(&self) -> f64 {
        self.candidates.iter().map(|c| c.weight).sum()
    }

    /// `TopKLogitsWarper`: tokens equal to the k-th stay, so there may be more than k.
    fn take_top_k(&mut self, scores: &[f32]) {
        let mut threshold = f32::NEG_INFINITY;
        if (1..scores.len()).contains(&self.top_k) {
            keep_best(scores.iter().copied(), self.top_k, &mut self.best, |a, b| b.total_cmp(a));
            threshold = self.best.iter().copied().fold(f32::INFINITY, f32::min);
        }
        let kept = (0_u32..).zip(scores).filter(|&(_, &s)| s >= threshold && s > f32::NEG_INFINITY);
        self.candidates.clear();
        self.candidates.extend(kept.map(|(id, &score)| Candidate {
            id,
            score,
            weight: f64::from(score).exp(),
        }));
    }

    /// `TopPLogitsWarper`: a token stays if those before it, the most probable first, have less than `top_p`.
    fn keep_top_p(&mut self) {
        let total = self.total();
        // Tokens below this cannot be among the last to stay, as even all n of them have no more than `1 - top_p`:
        // they need not be sorted. Halving leaves room for rounding.
        let negligible = 0.5 * (1.0 - self.top_p) * total / self.candidates.len() as f64;
        self.candidates.retain(|c| c.weight >= negligible);
        let stay = self.sort_until(self.top_p * total).max(1);
        self.candidates.truncate(stay);
        self.candidates.sort_unstable_by_key(|c| c.id);
    }

    /// Sorts the candidates by probability, but only as many as it takes to reach the weight `target`: their number.
    fn sort_until(&mut self, target: f64) -> usize {
        let order = |a: &Candidate, b: &Candidate| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id));
        let (mut sum, mut sorted, mut chunk) = (0.0, 0, 64);
        while sorted < self.candidates.len() {
            let rest = &mut self.candidates[sorted..];
            if chunk < rest.len() {
                rest.select_nth_unstable_by(chunk, order);
            }
            let next = rest.len().min(chunk);
            rest[..next].sort_unstable_by(order);
            for c in &rest[..next] {
                if sum >= target {
                    return sorted;
                }
                sum += c.weight;
                sorted += 1;
            }
            chunk *= 4;
        }
        sorted
    }

    /// `TypicalLogitsWarper`: tokens whose -log p is nearest to the entropy, until they have `typical_p`; tokens as
    /// near as the last one stay too.
    fn keep_typical(&mut self) {
        let total = self.total();
        let log_total = total.ln();
        let entropy = log_total - self.candidates.iter().map(|c| c.weight * score(c)).sum::<f64>() / total;
        let distance = |c: &Candidate| (log_total - score(c) - entropy).abs();
        self.distances.clear();
        self.distances.extend(self.candidates.iter().map(|c| (distance(c), c.weight)));
        self.distances.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = 0.0;
        let last = self.distances.iter().find(|&&(_, weight)| {
            sum += weight;
            sum >= self.typical_p * total
        });
        let farthest = last.or(self.distances.last()).map_or(f64::INFINITY, |d| d.0);
        self.candidates.retain(|c| distance(c) <= farthest);
    }
}

/// The first id, in the order of `weights`, up to which they have more than the fraction `u` (from 0 to just under 1) of
/// their sum; `None` if all are 0.
pub(super) fn draw(mut weights: impl DoubleEndedIterator<Item = (u32, f64)> + Clone, u: f64) -> Option<u32> {
    let target = u * weights.clone().map(|(_, weight)| weight).sum::<f64>();
    let mut sum = 0.0;
    let found = weights.clone().find(|(_, weight)| {
        sum += weight;
        sum > target
    });
    // `u * sum` may round up to the sum, past which nothing gets.
    found.or(weights.rfind(|&(_, weight)| weight > 0.0)).map(|(id, _)| id)
}

fn score(candidate: &Candidate) -> f64 {
    f64::from(candidate.score)
}
