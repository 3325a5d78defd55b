//! What changes logits before anything is sampled: biases, penalties and bans.

use super::SamplingConfig;
use crate::{Error, Result};

/// transformers' logits processors, in its order: `logit_bias` (there `sequence_bias`), `repetition_penalty`,
/// `frequency_penalty` and `presence_penalty` (which it does not have), `no_repeat_ngram_size`, `min_new_tokens`,
/// `suppress_tokens`. [`Sampler`](crate::Sampler) applies them to logits; for beam search apply them to
/// log-probabilities, as transformers does.
#[derive(Clone, Debug)]
pub struct LogitsProcessors {
    logit_bias: Vec<(u32, f32)>,
    repetition_penalty: f32,
    frequency_penalty: f32,
    presence_penalty: f32,
    no_repeat_ngram_size: usize,
    min_new_tokens: usize,
    eos_token_ids: Vec<u32>,
    suppress_tokens: Vec<u32>,
    /// How often each id occurs in what a penalty looks at; all zero between calls.
    counts: Vec<u32>,
}

impl LogitsProcessors {
    /// The processors that `config` asks for.
    ///
    /// # Errors
    /// If an option is out of its range ([`SamplingConfig::validate`]).
    pub fn new(config: &SamplingConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            logit_bias: config.logit_bias.clone(),
            repetition_penalty: config.repetition_penalty as f32,
            frequency_penalty: config.frequency_penalty as f32,
            presence_penalty: config.presence_penalty as f32,
            no_repeat_ngram_size: config.no_repeat_ngram_size,
            min_new_tokens: 0,
            eos_token_ids: Vec::new(),
            suppress_tokens: config.suppress_tokens.clone(),
            counts: Vec::new(),
        })
    }

    /// Bans `eos_token_ids` while fewer than `min_new_tokens` tokens have been generated.
    #[must_use]
    pub fn with_min_new_tokens(mut self, min_new_tokens: usize, eos_token_ids: &[u32]) -> Self {
        self.min_new_tokens = min_new_tokens;
        self.eos_token_ids = eos_token_ids.to_vec();
        self
    }

    /// Changes `scores`, one for each id of the vocabulary, for the token that follows `prompt` and `generated`. A
    /// ban is a score of -inf. Ids in the two that have no score are passed over.
    ///
    /// # Errors
    /// If `logit_bias` names an id that has no score.
    pub fn process(&mut self, scores: &mut [f32], prompt: &[u32], generated: &[u32]) -> Result<()> {
        let vocab = scores.len();
        for &(id, bias) in &self.logit_bias {
            let score = scores.get_mut(id as usize).ok_or_else(|| {
                Error::Argument(format!(
                    "`logit_bias` names token {id}, but the vocabulary has {vocab} tokens"
                ))
            })?;
            // -inf bans even what the model scores +inf; their sum would be NaN.
            *score = if bias == f32::NEG_INFINITY { bias } else { *score + bias };
        }
        if self.repetition_penalty != 1.0 {
            let penalty = self.repetition_penalty;
            self.for_each_distinct(scores, &[prompt, generated], |score, _| {
                if score < 0.0 { score * penalty } else { score / penalty }
            });
        }
        if self.frequency_penalty != 0.0 || self.presence_penalty != 0.0 {
            let (frequency, presence) = (self.frequency_penalty, self.presence_penalty);
            self.for_each_distinct(scores, &[generated], |score, count| {
                score - (count as f32 * frequency + presence)
            });
        }
        ban_repeated_ngrams(scores, self.no_repeat_ngram_size, prompt, generated);
        if generated.len() < self.min_new_tokens {
            ban(scores, &self.eos_token_ids);
        }
        ban(scores, &self.suppress_tokens);
        Ok(())
    }

    /// Replaces the score of every id in `texts` by `change(score, how often the id occurs)`, once per id.
    fn for_each_distinct(&mut self, scores: &mut [f32], texts: &[&[u32]], change: impl Fn(f32, u32) -> f32) {
        self.counts.resize(scores.len(), 0);
        for &id in texts.iter().copied().flatten() {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count = count.saturating_add(1);
            }
        }
        for id in texts.iter().copied().flatten().map(|&id| id as usize) {
            match self.counts.get_mut(id).map(std::mem::take) {
                Some(count) if count > 0 => scores[id] = change(scores[id], count),
                _ => {}
            }
        }
    }
}

fn ban(scores: &mut [f32], ids: &[u32]) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Bans each id that, with the `n - 1` last ids, would form a sequence of `n` that has occurred.
fn ban_repeated_ngrams(scores: &mut [f32], n: usize, prompt: &[u32], generated: &[u32]) {
    let len = prompt.len() + generated.len();
    if n == 0 || len < n {
        return;
    }
    let at = |i: usize| if i < prompt.len() { prompt[i] } else { generated[i - prompt.len()] };
    for start in 0..=len - n {
        if (0..n - 1).all(|i| at(start + i) == at(len - (n - 1) + i)) {
            ban(scores, &[at(start + n - 1)]);
        }
    }
}
