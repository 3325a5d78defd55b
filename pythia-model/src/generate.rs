//! Generation: one forward pass for the prompt, one for each further token of all texts that are being written.

use crate::sampling::refuse_nan;
use crate::{
    BeamConfig, BeamSearch, Cache, Error, Hypothesis, LogitsProcessors, Model, Result, Sampler,
    SamplingConfig, Sequence, TextStream, Tokenizer, Workspace, log_softmax,
};
use pythia_tensor::Crew;
use std::ops::ControlFlow;

/// How to continue a prompt, in transformers' names.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationConfig {
    /// The most tokens that are generated.
    pub max_new_tokens: usize,
    /// Until there are this many, the tokens that end a text are not chosen.
    pub min_new_tokens: usize,
    /// Texts that end the generation; they are cut off. They may span tokens.
    pub stop: Vec<String>,
    /// Whether to go on after a token that ends a text.
    pub ignore_eos: bool,
    /// How many continuations of the prompt are wanted.
    pub num_return_sequences: usize,
    /// Beam search over this many texts at once if greater than 1.
    pub num_beams: usize,
    /// See [`BeamConfig::length_penalty`].
    pub length_penalty: f64,
    /// See [`BeamConfig::early_stopping`].
    pub early_stopping: bool,
    /// How each token is chosen.
    pub sampling: SamplingConfig,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            min_new_tokens: 0,
            stop: Vec::new(),
            ignore_eos: false,
            num_return_sequences: 1,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: false,
            sampling: SamplingConfig::default(),
        }
    }
}

impl GenerationConfig {
    /// Whether the options are in their ranges and go together.
    ///
    /// # Errors
    /// The text names the option and what was found.
    pub fn validate(&self) -> Result<()> {
        self.sampling.validate()?;
        let refuse = |message: String| Err(Error::Argument(message));
        if self.max_new_tokens == 0 {
            return refuse("max_new_tokens must be at least 1".to_owned());
        }
        if self.min_new_tokens > self.max_new_tokens {
            let (min, max) = (self.min_new_tokens, self.max_new_tokens);
            return refuse(format!("min_new_tokens ({min}) exceeds max_new_tokens ({max})"));
        }
        if self.num_beams == 0 || self.num_return_sequences == 0 {
            return refuse("num_beams and num_return_sequences must be at least 1".to_owned());
        }
        if self.num_beams > 1 && self.sampling.temperature != 0.0 {
            let t = self.sampling.temperature;
            return refuse(format!(
                "beam search does not sample: with num_beams, temperature must be 0, not {t}"
            ));
        }
        if self.num_beams > 1 && !self.stop.is_empty() {
            return refuse("stop strings cannot be combined with beam search".to_owned());
        }
        Ok(())
    }
}

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
    config.validate()?;
    check_length(model, cache, prompt, config)?;
    if tokenizer.is_none() && !config.stop.is_empty() {
        return Err(Error::Argument("stop strings need the model's tokenizer".to_owned()));
    }
    // The last token of the prompt must be run for its logits.
    cache.truncate(prompt.len() - 1);
    let request = Request { model, tokenizer, prompt, config };
    if config.num_beams > 1 {
        request.search(crew, workspace, cache, watch)
    } else {
        request.sample(crew, workspace, cache, watch)
    }
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

/// A continuation being written.
struct Draft<'a> {
    ids: Vec<u32>,
    text: String,
    stream: Option<TextStream<'a>>,
    finish: Option<Finish>,
}

impl<'a> Request<'a> {
    fn vocab_limit(&self) -> usize {
        self.tokenizer.map_or(usize::MAX, Tokenizer::vocab_size)
    }

    fn eos(&self) -> &'a [u32] {
        &self.model.config().eos_token_ids
    }

    fn draft(&self) -> Result<Draft<'a>> {
        let stream = self.tokenizer.map(|t| TextStream::new(t, &self.config.stop)).transpose()?;
        Ok(Draft { ids: Vec::new(), text: String::new(), stream, finish: None })
    }

    fn sample(
        &self,
        crew: &Crew<'_>,
        workspace: &mut Workspace,
        cache: &mut Cache,
        watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Generated>> {
        let n = self.config.num_return_sequences;
        let sampler = |stream| {
            let sampler = Sampler::new(&self.config.sampling, stream as u64)?;
            let sampler = sampler.with_vocab_limit(self.vocab_limit());
            Ok(sampler.with_min_new_tokens(self.config.min_new_tokens, self.eos()))
        };
        let mut samplers = (0..n).map(sampler).collect::<Result<Vec<_>>>()?;
        let mut drafts = (0..n).map(|_| self.draft()).collect::<Result<Vec<_>>>()?;

        let new = &self.prompt[cache.len()..];
        let mut logits = self.model.forward(crew, &mut [Sequence::last(new, cache)], workspace)?;
        let mut copies = (1..n).map(|_| self.model.cache(cache.capacity())).collect::<Result<Vec<_>>>()?;
        copies.iter_mut().for_each(|copy| copy.copy_from(cache));
        let mut caches: Vec<&mut Cache> = std::iter::once(cache).chain(&mut copies).collect();

        'steps: for step in 0.. {
            let live = drafts.iter_mut().enumerate().filter(|(_, d)| d.finish.is_none());
            for (row, (sample, draft)) in live.enumerate() {
                // The prompt's logits serve all samples.
                let row = if step == 0 { 0 } else { row };
                let id = samplers[sample].sample(logits.row(row), self.prompt, &draft.ids)?;
                if self.push(draft, sample, id, watch).is_break() {
                    break 'steps;
                }
            }
            let mut batch: Vec<_> = drafts
                .iter()
                .zip(&mut caches)
                .filter(|(draft, _)| draft.finish.is_none())
                .map(|(draft, cache)| Sequence::last(&draft.ids[step..], cache))
                .collect();
            if batch.is_empty() {
                break;
            }
            logits = self.model.forward(crew, &mut batch, workspace)?;
        }
        Ok(drafts.into_iter().map(Draft::finish).collect())
    }

    /// Adds a token to a draft and finds out whether it ends there; tells `watch`, whose answer is returned.
    fn push(
        &self,
        draft: &mut Draft<'a>,
        sample: usize,
        id: u32,
        watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        draft.ids.push(id);
        let ends = self.eos().contains(&id) && !self.config.ignore_eos;
        let mut text = String::new();
        if ends {
            draft.finish = Some(Finish::Eos);
        } else if let Some(stream) = &mut draft.stream {
            let piece = stream.push(id);
            text = piece.text;
            draft.finish = piece.stopped.map(|_| Finish::Stop);
        }
        if draft.finish.is_none() && draft.ids.len() == self.config.max_new_tokens {
            draft.finish = Some(Finish::Length);
        }
        if draft.finish.is_some()
            && let Some(stream) = draft.stream.take()
        {
            text += &stream.finish();
        }
        draft.text += &text;
        watch(Step { sample, id: Some(id), text: &text })
    }

    fn search(
        &self,
        crew: &Crew<'_>,
        workspace: &mut Workspace,
        cache: &mut Cache,
        watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Generated>> {
        let eos = if self.config.ignore_eos { &[] } else { self.eos() };
        let mut search = BeamSearch::new(BeamConfig {
            num_beams: self.config.num_beams,
            length_penalty: self.config.length_penalty,
            early_stopping: self.config.early_stopping,
            num_return_sequences: self.config.num_return_sequences,
            eos_token_ids: eos.to_vec(),
            max_new_tokens: self.config.max_new_tokens,
            vocab_limit: self.vocab_limit(),
        })?;
        let mut processors = LogitsProcessors::new(&self.config.sampling)?
            .with_min_new_tokens(self.config.min_new_tokens, self.eos());
        let new = &self.prompt[cache.len()..];
        let mut logits = self.model.forward(crew, &mut [Sequence::last(new, cache)], workspace)?;
        let mut first = self.model.cache(cache.capacity())?;
        first.copy_from(cache);
        let mut caches = vec![first];
        let end = loop {
            let rows = (0..search.live())
                .map(|beam| self.log_probs(logits.row(beam), search.ids(beam), &mut processors))
                .collect::<Result<Vec<_>>>()?;
            let chosen = search.step(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            if search.is_done() {
                break Finish::Length;
            }
            if watch(Step { sample: 0, id: None, text: "" }).is_break() {
                break Finish::Cancelled;
            }
            caches = self.follow(caches, &chosen)?;
            let tokens: Vec<[u32; 1]> = chosen.iter().map(|&(_, token)| [token]).collect();
            let mut batch: Vec<_> =
                tokens.iter().zip(&mut caches).map(|(id, cache)| Sequence::last(id, cache)).collect();
            logits = self.model.forward(crew, &mut batch, workspace)?;
        };
        self.deliver(search.finish(), end, watch)
    }

    /// What beam search reads after `generated`.
    fn log_probs(
        &self,
        logits: &[f32],
        generated: &[u32],
        processors: &mut LogitsProcessors,
    ) -> Result<Vec<f32>> {
        refuse_nan(logits)?;
        let mut row = logits.to_vec();
        log_softmax(&mut row);
        row.truncate(self.vocab_limit());
        processors.process(&mut row, self.prompt, generated)?;
        Ok(row)
    }

    /// The texts that beam search has found, of which the unfinished ones end as `end`.
    fn deliver(
        &self,
        found: Vec<Hypothesis>,
        end: Finish,
        watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Generated>> {
        let mut wish =
            if end == Finish::Cancelled { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let mut watch = |step: Step<'_>| {
            if wish.is_continue() {
                wish = watch(step);
            }
            wish
        };
        let deliver = |(sample, hypothesis): (usize, Hypothesis)| {
            let mut draft = self.draft()?;
            for id in hypothesis.ids {
                // The texts are there, wanted or not.
                let _ = self.push(&mut draft, sample, id, &mut watch);
            }
            draft.finish.get_or_insert(end);
            Ok(Generated { score: Some(hypothesis.score), ..draft.finish() })
        };
        found.into_iter().enumerate().map(deliver).collect()
    }

    /// The caches of the chosen beams, each its parent's: moved for the parent's last child, copied for the others.
    fn follow(&self, caches: Vec<Cache>, chosen: &[(usize, u32)]) -> Result<Vec<Cache>> {
        let mut children = vec![0; caches.len()];
        chosen.iter().for_each(|&(parent, _)| children[parent] += 1);
        let mut caches: Vec<Option<Cache>> = caches.into_iter().map(Some).collect();
        let mut childless: Vec<Cache> =
            (0..caches.len()).filter(|&i| children[i] == 0).filter_map(|i| caches[i].take()).collect();
        let mut next = Vec::with_capacity(chosen.len());
        for &(parent, _) in chosen {
            children[parent] -= 1;
            if children[parent] == 0 {
                next.extend(caches[parent].take());
            } else if let Some(parent) = &caches[parent] {
                let mut copy = match childless.pop() {
                    Some(cache) => cache,
                    None => self.model.cache(parent.capacity())?,
                };
                copy.copy_from(parent);
                next.push(copy);
            }
        }
        Ok(next)
    }
}

impl Draft<'_> {
    fn finish(mut self) -> Generated {
        if let Some(stream) = self.stream.take() {
            self.text += &stream.finish();
        }
        Generated {
            ids: self.ids,
            text: self.text,
            finish: self.finish.unwrap_or(Finish::Cancelled),
            score: None,
        }
    }
}
