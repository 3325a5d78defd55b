//! [`BeamSearch`]: the bookkeeping of beam search, as in transformers. It knows nothing of the model.

use crate::sampling::{keep_best, nothing_left, produced_nan};
use crate::{Error, Result};

/// The options of beam search, in transformers' names and meanings.
#[derive(Clone, Debug, PartialEq)]
pub struct BeamConfig {
    /// How many texts are followed at once.
    pub num_beams: usize,
    /// The score of a text is the sum of its log-probabilities divided by its length to this power: above 0 favours
    /// long texts, below 0 short ones.
    pub length_penalty: f64,
    /// Whether to stop as soon as there are `num_beams` finished texts. Otherwise the search goes on until the best
    /// unfinished text, as long as it is now, scores no better than the worst of them.
    pub early_stopping: bool,
    /// How many texts are wanted, at most `num_beams`.
    pub num_return_sequences: usize,
    /// The tokens that finish a text.
    pub eos_token_ids: Vec<u32>,
    /// The length at which a text is finished without such a token.
    pub max_new_tokens: usize,
    /// Ids from here on are never chosen: they only pad the model's matrices.
    pub vocab_limit: usize,
}

impl Default for BeamConfig {
    fn default() -> Self {
        Self {
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: false,
            num_return_sequences: 1,
            eos_token_ids: Vec::new(),
            max_new_tokens: usize::MAX,
            vocab_limit: usize::MAX,
        }
    }
}

/// A finished text.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// The generated ids, the end-of-text token included.
    pub ids: Vec<u32>,
    /// The sum of the log-probabilities of `ids`, divided by their number to the power of the length penalty.
    pub score: f64,
}

/// One search, for one prompt.
///
/// ```
/// use pythia_model::{BeamConfig, BeamSearch};
/// # let log_probs_after = |ids: &[u32]| [[-2.0_f32, -0.2, -3.0], [-0.1, -3.0, -2.5]][ids.len() % 2];
/// let config = BeamConfig { num_beams: 2, eos_token_ids: vec![0], max_new_tokens: 8, ..Default::default() };
/// let mut search = BeamSearch::new(config)?;
/// while !search.is_done() {
///     let rows: Vec<_> = (0..search.live()).map(|beam| log_probs_after(search.ids(beam))).collect();
///     let rows: Vec<&[f32]> = rows.iter().map(|row| &row[..]).collect();
///     for (parent, token) in search.step(&rows)? {
///         // Copy the cache of `parent` and feed it `token`.
///     }
/// }
/// assert_eq!(search.finish()[0].ids, [1, 0]);
/// # Ok::<(), pythia_model::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BeamSearch {
    config: BeamConfig,
    /// The unfinished texts, best first.
    beams: Vec<Beam>,
    /// The best finished texts, at most `num_beams`, best first.
    finished: Vec<Hypothesis>,
    /// How many tokens each unfinished text has.
    len: usize,
    done: bool,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Debug, Default)]
struct Beam {
    ids: Vec<u32>,
    sum: f64,
}

/// A text of `parent`'s ids and `token`.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    sum: f64,
    parent: usize,
    token: u32,
}

impl BeamSearch {
    /// A search that starts from a prompt, as one beam without tokens.
    ///
    /// # Errors
    /// If an option is out of its range.
    pub fn new(mut config: BeamConfig) -> Result<Self> {
        let BeamConfig { num_beams, num_return_sequences, length_penalty, max_new_tokens, .. } = config;
        let problem = if num_beams == 0 {
            "`num_beams` must be at least 1, found 0".to_owned()
        } else if !(1..=num_beams).contains(&num_return_sequences) {
            format!(
                "`num_return_sequences` must be from 1 to `num_beams` ({num_beams}), found {num_return_sequences}"
            )
        } else if !length_penalty.is_finite() {
            format!("`length_penalty` must be a finite number, found {length_penalty}")
        } else if max_new_tokens == 0 {
            "`max_new_tokens` must be at least 1 for beam search, found 0".to_owned()
        } else {
            config.eos_token_ids.sort_unstable();
            config.eos_token_ids.dedup();
            let beams = vec![Beam::default()];
            return Ok(Self {
                config,
                beams,
                finished: Vec::new(),
                len: 0,
                done: false,
                candidates: Vec::new(),
            });
        };
        Err(Error::Argument(problem))
    }

    /// How many unfinished texts there are: the number of rows that [`BeamSearch::step`] expects.
    pub fn live(&self) -> usize {
        self.beams.len()
    }

    /// The ids that the unfinished text number `beam` has so far.
    ///
    /// # Panics
    /// If `beam` is not below [`BeamSearch::live`].
    pub fn ids(&self, beam: usize) -> &[u32] {
        &self.beams[beam].ids
    }

    /// Whether the search is over. Then [`BeamSearch::finish`] has the result.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Extends the unfinished texts by one token. `log_probs` has one row `[V]` for each of them: log-probabilities
    /// (perhaps changed by [`LogitsProcessors`](crate::LogitsProcessors)), -inf for a token that is forbidden.
    ///
    /// Returns, for each text that is unfinished now, the number of the one that it continues and its new token.
    /// Nothing is returned once the search is over, which it also is if no unfinished text can go on: they end then
    /// as if their length were the limit.
    ///
    /// # Errors
    /// If the number of rows is wrong, one holds a NaN, or the first one forbids every token.
    pub fn step(&mut self, log_probs: &[&[f32]]) -> Result<Vec<(usize, u32)>> {
        if self.done {
            return Ok(Vec::new());
        }
        self.check(log_probs)?;
        self.find_candidates(log_probs);
        if self.candidates.is_empty() {
            if self.len == 0 {
                return Err(nothing_left());
            }
            self.end_unfinished();
            self.done = true;
            return Ok(Vec::new());
        }
        self.len += 1;
        let at_limit = self.len >= self.config.max_new_tokens;
        let mut steps = Vec::with_capacity(self.config.num_beams.min(self.candidates.len()));
        let mut beams = Vec::with_capacity(steps.capacity());
        for (rank, candidate) in self.candidates.iter().enumerate() {
            let Candidate { sum, parent, token } = *candidate;
            let ended = at_limit || self.config.eos_token_ids.contains(&token);
            if (ended && rank >= self.config.num_beams) || (!ended && beams.len() >= self.config.num_beams) {
                continue;
            }
            let ids: Vec<u32> = self.beams[parent].ids.iter().copied().chain([token]).collect();
            if ended {
                self.finished.push(Hypothesis { ids, score: self.score(sum) });
            } else {
                beams.push(Beam { ids, sum });
                steps.push((parent, token));
            }
        }
        self.beams = beams;
        self.rank_finished();
        self.done = self.is_over();
        if self.done {
            steps.clear();
        }
        Ok(steps)
    }

    /// The best texts, best first, at most `num_return_sequences`. If the search is not over, unfinished texts are
    /// among them, as if their length were the limit.
    pub fn finish(mut self) -> Vec<Hypothesis> {
        if !self.done && self.len > 0 {
            self.end_unfinished();
        }
        self.finished.truncate(self.config.num_return_sequences);
        self.finished
    }

    /// Ranks the unfinished texts among the finished ones.
    fn end_unfinished(&mut self) {
        for beam in std::mem::take(&mut self.beams) {
            let score = self.score(beam.sum);
            self.finished.push(Hypothesis { ids: beam.ids, score });
        }
        self.rank_finished();
    }

    fn check(&self, log_probs: &[&[f32]]) -> Result<()> {
        if log_probs.len() != self.live() {
            return Err(Error::Argument(format!(
                "beam search has {} unfinished texts and needs as many rows of log-probabilities, found {}",
                self.live(),
                log_probs.len()
            )));
        }
        if let Some(beam) = log_probs.iter().position(|row| row.iter().any(|p| p.is_nan())) {
            return Err(produced_nan(&format!("in beam {beam}")));
        }
        Ok(())
    }

    /// The best continuations, best first, of equal ones the better beam's and then the lower id. There are enough
    /// for `num_beams` unfinished texts even if each beam's best continuations are the tokens that end it.
    fn find_candidates(&mut self, log_probs: &[&[f32]]) {
        let count = self.config.num_beams.saturating_mul((1 + self.config.eos_token_ids.len()).max(2));
        let all = self.beams.iter().zip(log_probs).enumerate().flat_map(|(parent, (beam, row))| {
            let row = (0_u32..).zip(row.iter().take(self.config.vocab_limit));
            row.map(move |(token, &p)| Candidate { sum: beam.sum + f64::from(p), parent, token })
        });
        let order = |a: &Candidate, b: &Candidate| {
            b.sum.total_cmp(&a.sum).then(a.parent.cmp(&b.parent)).then(a.token.cmp(&b.token))
        };
        let possible = all.filter(|c| c.sum > f64::NEG_INFINITY);
        keep_best(possible, count, &mut self.candidates, order);
        self.candidates.sort_unstable_by(order);
    }

    /// The score of a text of the present length whose log-probabilities add up to `sum`.
    fn score(&self, sum: f64) -> f64 {
        sum / (self.len as f64).powf(self.config.length_penalty)
    }

    fn rank_finished(&mut self) {
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(self.config.num_beams);
    }

    fn is_over(&self) -> bool {
        let Some(best) = self.beams.first() else { return true };
        let full = self.finished.len() == self.config.num_beams;
        let worst = self.finished.last().map_or(f64::NEG_INFINITY, |h| h.score);
        full && (self.config.early_stopping || self.score(best.sum) <= worst)
    }
}

#[cfg(test)]
mod tests;
