//! Generation: one forward pass for the prompt, then one for the next token of every text that is being written, or, with
//! [`Speculation`], for that token and those proposed after it.

mod beams;
mod config;
mod continuation;
mod draft;
mod lookup;
mod speculation;

pub use config::GenerationConfig;
pub use speculation::Speculation;

use crate::{Cache, Error, Model, Result, Sampler, Sequence, Tokenizer, Workspace};
use continuation::Continuation;
use pythia_tensor::Crew;
use std::ops::ControlFlow;

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// `max_new_tokens` were generated, or beam search found no token to go on with.
    Length,
    /// A stop string appeared.
    Stop,
    /// A token that ends a text was chosen.
    Eos,
    /// The caller asked to stop.
    Cancelled,
}

impl Finish {
    /// `length`, `stop`, `eos` or `cancelled`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Stop => "stop",
            Self::Eos => "eos",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A continuation of the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The generated tokens, the one that ended the text included.
    pub ids: Vec<u32>,
    /// Their text without the ending token or stop string; empty if there is no tokenizer.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Beam search's score of it.
    pub score: Option<f64>,
}

/// One more token, or one more step of a beam search.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Which of the continuations it belongs to.
    pub sample: usize,
    /// The token; `None` while a beam search is on its way, which knows its tokens only at the end.
    pub id: Option<u32>,
    /// The text that is now certain: never half a character, nothing that may be the beginning of a stop string.
    pub text: &'a str,
}

/// Continues `prompt`, the whole text so far, of which `cache` holds the first `cache.len()` tokens (a new one: none).
/// Afterwards the cache holds what has been run of the first continuation, so that the text can go on from there
/// (after a beam search: the prompt).
///
/// Calls `watch` for every token; once it breaks, it is not called again, and all continuations that have not ended are
/// [`Finish::Cancelled`]. Beam search calls it after every step, without a token, and at the end for every token of
/// the texts that it has found; when it breaks on the way, the best texts so far are returned.
///
/// # Errors
/// If an option is out of its range, the prompt is empty or has ids outside the vocabulary, stop strings come without
/// a tokenizer, prompt and new tokens together are longer than the context or the cache, the options forbid every
/// token, or the model produces NaN.
pub fn generate(
    model: &Model,
    tokenizer: Option<&Tokenizer>,
    crew: &Crew<'_>,
    workspace: &mut Workspace,
    cache: &mut Cache,
    prompt: &[u32],
    config: &GenerationConfig,
    watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
) -> Result<Vec<Generated>> {
    let request = Request::new(model, tokenizer, cache, prompt, config)?;
    if config.num_beams > 1 {
        request.search(crew, workspace, cache, watch)
    } else {
        request.sample(crew, workspace, cache, watch)
    }
}

/// As [`generate`], with tokens that `speculation` proposes and that are checked several in one pass: faster where they
/// are right. What is chosen is what [`generate`] would choose: see [`Speculation`].
///
/// # Errors
/// As [`generate`]; if more than one text is asked for (`num_beams`, `num_return_sequences`); or if the draft model
/// produces NaN.
pub fn generate_speculatively(
    model: &Model,
    tokenizer: Option<&Tokenizer>,
    crew: &Crew<'_>,
    workspace: &mut Workspace,
    cache: &mut Cache,
    prompt: &[u32],
    config: &GenerationConfig,
    speculation: &mut Speculation<'_>,
    watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
) -> Result<Vec<Generated>> {
    if config.num_beams > 1 || config.num_return_sequences > 1 {
        return Err(Error::Argument(
            "speculative decoding writes one text at a time: leave out num_beams and num_return_sequences"
                .to_owned(),
        ));
    }
    Request::new(model, tokenizer, cache, prompt, config)?.speculate(
        crew,
        workspace,
        cache,
        speculation,
        watch,
    )
}

fn check_length(model: &Model, cache: &Cache, prompt: &[u32], config: &GenerationConfig) -> Result<()> {
    let (have, new, context) = (prompt.len(), config.max_new_tokens, model.config().max_position_embeddings);
    if have == 0 {
        return Err(Error::Argument("the prompt is empty: it needs at least one token".to_owned()));
    }
    if have >= context {
        return Err(Error::Argument(format!(
            "the prompt of {have} tokens leaves no room in the model's context of {context}: shorten it"
        )));
    }
    if new > context - have {
        return Err(Error::Argument(format!(
            "the prompt of {have} tokens and {new} new ones exceed the model's context of {context}: \
             shorten the prompt or generate at most {} tokens",
            context - have
        )));
    }
    if have + new > cache.capacity() {
        let room = cache.capacity();
        return Err(Error::Argument(format!("the cache has room for {room} tokens, not for {}", have + new)));
    }
    Ok(())
}

/// A checked call of [`generate`].
struct Request<'a> {
    model: &'a Model,
    tokenizer: Option<&'a Tokenizer>,
    prompt: &'a [u32],
    config: &'a GenerationConfig,
}

impl<'a> Request<'a> {
    /// Checks the call and leaves in the cache what can be used.
    fn new(
        model: &'a Model,
        tokenizer: Option<&'a Tokenizer>,
        cache: &mut Cache,
        prompt: &'a [u32],
        config: &'a GenerationConfig,
    ) -> Result<Self> {
        config.validate()?;
        check_length(model, cache, prompt, config)?;
        if tokenizer.is_none() && !config.stop.is_empty() {
            return Err(Error::Argument("stop strings need the model's tokenizer".to_owned()));
        }
        // The last token of the prompt must be run for its logits.
        cache.truncate(prompt.len() - 1);
        Ok(Self { model, tokenizer, prompt, config })
    }

    /// Ids from here on are never chosen.
    fn vocab_limit(&self) -> usize {
        self.tokenizer.map_or(usize::MAX, Tokenizer::vocab_size)
    }

    fn eos(&self) -> &'a [u32] {
        &self.model.config().eos_token_ids
    }

    /// Whether a text ends with this token.
    fn ends(&self, id: u32) -> bool {
        !self.config.ignore_eos && self.eos().contains(&id)
    }

    fn sampler(&self, stream: u64) -> Result<Sampler> {
        let sampler = Sampler::new(&self.config.sampling, stream)?.with_vocab_limit(self.vocab_limit());
        Ok(sampler.with_min_new_tokens(self.config.min_new_tokens, self.eos()))
    }

    /// Token after token of all continuations side by side.
    fn sample(
        &self,
        crew: &Crew<'_>,
        workspace: &mut Workspace,
        cache: &mut Cache,
        watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Generated>> {
        let n = self.config.num_return_sequences;
        let mut samplers = (0..n).map(|stream| self.sampler(stream as u64)).collect::<Result<Vec<_>>>()?;
        let mut texts = (0..n).map(|_| self.begin()).collect::<Result<Vec<_>>>()?;

        let new = &self.prompt[cache.len()..];
        let mut logits = self.model.forward(crew, &mut [Sequence::last(new, cache)], workspace)?;
        let mut copies = (1..n).map(|_| self.model.cache(cache.capacity())).collect::<Result<Vec<_>>>()?;
        copies.iter_mut().for_each(|copy| copy.copy_from(cache));
        let mut caches: Vec<&mut Cache> = std::iter::once(cache).chain(&mut copies).collect();

        'steps: for step in 0.. {
            let live = texts.iter_mut().enumerate().filter(|(_, text)| text.finish.is_none());
            for (row, (sample, text)) in live.enumerate() {
                // The prompt's logits serve all samples.
                let row = if step == 0 { 0 } else { row };
                let id = samplers[sample].sample(logits.row(row), self.prompt, &text.ids)?;
                if self.push(text, sample, id, watch).is_break() {
                    break 'steps;
                }
            }
            let mut batch: Vec<_> = texts
                .iter()
                .zip(&mut caches)
                .filter(|(text, _)| text.finish.is_none())
                .map(|(text, cache)| Sequence::last(&text.ids[step..], cache))
                .collect();
            if batch.is_empty() {
                break;
            }
            logits = self.model.forward(crew, &mut batch, workspace)?;
        }
        Ok(texts.into_iter().map(Continuation::finish).collect())
    }
}
