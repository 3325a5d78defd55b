//! From logits to the next token: transformers' logits processors and sampling filters, in its order.

mod best;
mod config;
mod filters;
mod log_probs;
mod processors;
mod rng;
mod speculative;

pub(crate) use best::keep_best;
pub use config::SamplingConfig;
pub use log_probs::{log_softmax, log_sum_exp, top_log_probs};
pub use processors::LogitsProcessors;
pub(crate) use speculative::Proposal;

use crate::{Error, Result};
use filters::Filters;
use rng::Rng;

/// Chooses the next token of one sequence. It holds the state of that sequence's random numbers and the memory
/// it works in, so that choosing allocates nothing once the first tokens have been chosen.
///
/// The steps are those of transformers' `generate`: [`LogitsProcessors`], then, unless the temperature is 0,
/// temperature, top-k, top-p, min-p and typical-p, each on what the one before has left, then a draw.
#[derive(Clone, Debug)]
pub struct Sampler {
    processors: LogitsProcessors,
    filters: Filters,
    temperature: f32,
    vocab_limit: usize,
    rng: Rng,
    scores: Vec<f32>,
}

impl Sampler {
    /// A sampler with the options of `config`. `stream` numbers the samples that are drawn from one prompt:
    /// the same seed gives each of them its own random numbers, always the same ones.
    ///
    /// # Errors
    /// If an option is out of its range ([`SamplingConfig::validate`]).
    pub fn new(config: &SamplingConfig, stream: u64) -> Result<Self> {
        Ok(Self {
            processors: LogitsProcessors::new(config)?,
            filters: Filters::new(config),
            // Below this a quotient of logits could overflow; it is as good as greedy anyway.
            temperature: match config.temperature {
                0.0 => 0.0,
                t => (t as f32).max(f32::MIN_POSITIVE),
            },
            vocab_limit: usize::MAX,
            rng: Rng::new(config.seed, stream),
            scores: Vec::new(),
        })
    }

    /// Never to sample ids from `limit` on: the model's rows beyond the tokenizer's
    /// [`vocab_size`](crate::Tokenizer::vocab_size) only pad its matrices.
    #[must_use]
    pub fn with_vocab_limit(mut self, limit: usize) -> Self {
        self.vocab_limit = limit;
        self
    }

    /// Never to sample one of `eos_token_ids` as one of the first `min_new_tokens` tokens.
    #[must_use]
    pub fn with_min_new_tokens(mut self, min_new_tokens: usize, eos_token_ids: &[u32]) -> Self {
        self.processors = self.processors.with_min_new_tokens(min_new_tokens, eos_token_ids);
        self
    }

    /// The next token after `prompt` and the tokens `generated` so far, given the model's `logits` (`[V]`).
    ///
    /// At temperature 0 it is the token with the highest processed logit, the lowest id among equals.
    ///
    /// # Errors
    /// If a logit is NaN, if no token is left to choose from, or if an option names an id outside the vocabulary.
    pub fn sample(&mut self, logits: &[f32], prompt: &[u32], generated: &[u32]) -> Result<u32> {
        self.choose(logits, prompt, generated)?.ok_or_else(nothing_left)
    }

    /// As [`Sampler::sample`], but `None` if no token is left to choose from.
    fn choose(&mut self, logits: &[f32], prompt: &[u32], generated: &[u32]) -> Result<Option<u32>> {
        let best = self.process(logits, prompt, generated)?;
        match best {
            Some(_) if self.temperature != 0.0 => Ok(self.filters.pick(self.rng.next_f64())),
            best => Ok(best),
        }
    }

    /// The best token; unless the temperature is 0, the candidates are in `filters` then. `None` if no token is left.
    fn process(&mut self, logits: &[f32], prompt: &[u32], generated: &[u32]) -> Result<Option<u32>> {
        refuse_nan(logits)?;
        self.scores.clear();
        self.scores.extend_from_slice(&logits[..logits.len().min(self.vocab_limit)]);
        self.processors.process(&mut self.scores, prompt, generated)?;
        let Some((best, max)) = argmax(&self.scores) else { return Ok(None) };
        if self.temperature != 0.0 {
            scale(&mut self.scores, max, self.temperature);
            self.filters.apply(&self.scores);
        }
        Ok(Some(best as u32))
    }
}

/// The index and value of the highest score, the first among equals; `None` if all are -inf.
fn argmax(scores: &[f32]) -> Option<(usize, f32)> {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return None;
    }
    scores.iter().position(|&s| s == max).map(|id| (id, max))
}

/// Divides by the temperature, relative to the highest score `max`: softmax does not see the shift, and nothing
/// can overflow. Scores of +inf share everything among them.
fn scale(scores: &mut [f32], max: f32, temperature: f32) {
    for s in scores {
        *s = if *s == max { 0.0 } else { (*s - max) / temperature };
    }
}

/// Refuses logits of one token of which one is NaN.
pub(crate) fn refuse_nan(logits: &[f32]) -> Result<()> {
    let nan = logits.iter().position(|l| l.is_nan());
    nan.map_or(Ok(()), |id| Err(produced_nan(&format!("the logit of token {id}, perhaps others"))))
}

/// The error about NaN, which was found at `place`.
pub(crate) fn produced_nan(place: &str) -> Error {
    Error::Argument(format!(
        "the model produced NaN ({place}): its weights are damaged or its numbers overflowed; verify the files and \
         run it in `exact` precision"
    ))
}

/// The error when every token is forbidden.
pub(crate) fn nothing_left() -> Error {
    Error::Argument(
        "no token is left to choose from: the logits, `logit_bias`, `suppress_tokens`, `no_repeat_ngram_size` and \
         `min_new_tokens` forbid every id; loosen one of the options"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests;
