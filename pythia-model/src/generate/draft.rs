//! A draft model: a small one of the same vocabulary that writes ahead.

use super::Request;
use crate::sampling::Proposal;
use crate::{Cache, Error, Model, Result, Sampler, SamplingConfig, Sequence, Tokenizer, Workspace};
use pythia_tensor::Crew;

/// A model at work as the draft of another.
#[derive(Debug)]
pub(super) struct DraftModel<'m> {
    model: &'m Model,
    workspace: Workspace,
    cache: Cache,
    /// The tokens in the cache.
    seen: Vec<u32>,
    sampler: Sampler,
    /// The tokens that end the text.
    ends: Vec<u32>,
}

impl<'m> DraftModel<'m> {
    pub(super) fn new(model: &'m Model) -> Result<Self> {
        let cache = model.cache(model.config().max_position_embeddings)?;
        let sampler = Sampler::new(&SamplingConfig::default(), 0)?;
        Ok(Self { model, workspace: Workspace::new(), cache, seen: Vec::new(), sampler, ends: Vec::new() })
    }

    /// Makes ready for a generation: tokens are to be chosen as it chooses its own, with other random numbers.
    pub(super) fn begin(&mut self, request: &Request<'_>) -> Result<()> {
        let vocab = request.vocab_limit().min(request.model.config().vocab_size);
        let mut sampling = request.config.sampling.clone();
        sampling.logit_bias.retain(|&(id, _)| (id as usize) < vocab.min(self.model.config().vocab_size));
        let sampler = Sampler::new(&sampling, u64::MAX)?.with_vocab_limit(vocab);
        self.sampler = sampler.with_min_new_tokens(request.config.min_new_tokens, request.eos());
        self.ends = if request.config.ignore_eos { Vec::new() } else { request.eos().to_vec() };
        Ok(())
    }

    /// Adds up to `n` tokens to `text`, of which the first `prompt` are the prompt: fewer if the text ends with one of
    /// them, if the draft's context is full, or if it lacks a token of the text.
    pub(super) fn extend(
        &mut self,
        crew: &Crew<'_>,
        text: &mut Vec<u32>,
        prompt: usize,
        n: usize,
        proposals: &mut Vec<Proposal>,
    ) -> Result<()> {
        let same = self.seen.iter().zip(text.iter()).take_while(|(a, b)| a == b).count();
        // The last token must be run for its logits.
        self.seen.truncate(same.min(text.len() - 1));
        self.cache.truncate(self.seen.len());
        let vocab = self.model.config().vocab_size;
        for _ in 0..n {
            let new = &text[self.seen.len()..];
            if text.len() > self.cache.capacity() || new.iter().any(|&id| id as usize >= vocab) {
                break;
            }
            let batch = &mut [Sequence::last(new, &mut self.cache)];
            let logits = self.model.forward(crew, batch, &mut self.workspace)?;
            self.seen.extend_from_slice(new);
            let (prompt, generated) = text.split_at(prompt);
            let proposal = self.sampler.propose(logits.row(0), prompt, generated);
            let Some(proposal) = proposal.map_err(|e| Error::Argument(format!("the draft model: {e}")))?
            else {
                break;
            };
            text.push(proposal.id);
            let end = self.ends.contains(&proposal.id);
            proposals.push(proposal);
            if end {
                break;
            }
        }
        Ok(())
    }
}

/// Pythia's sizes pad their matrices to multiples of 128, 256 or 512 rows.
const PADDING: usize = 512;

/// Refuses a draft that has other tokens than the model it is to help.
pub(super) fn check_vocabulary(
    (draft, draft_tokenizer): (&Model, Option<&Tokenizer>),
    (model, tokenizer): (&Model, Option<&Tokenizer>),
) -> Result<()> {
    let difference = if let (Some(draft), Some(model)) = (draft_tokenizer, tokenizer) {
        let mut ids = 0..draft.vocab_size().max(model.vocab_size()) as u32;
        let spelled = |of: &Tokenizer, id| of.token(id).map_or("nothing".to_owned(), |t| format!("{t:?}"));
        ids.find(|&id| draft.token_bytes(id) != model.token_bytes(id)).map(|id| {
            format!("its token {id} is {} and the model's is {}", spelled(draft, id), spelled(model, id))
        })
    } else {
        // Nothing says which ids are tokens: the numbers of rows must be alike.
        let (draft, model) = (draft.config().vocab_size, model.config().vocab_size);
        (draft.abs_diff(model) >= PADDING).then(|| format!("it has {draft} tokens and the model {model}"))
    };
    let refuse = |difference| {
        Err(Error::Argument(format!(
            "a draft must have the model's vocabulary, but {difference}: choose a draft of the same family"
        )))
    };
    difference.map_or(Ok(()), refuse)
}
