//! Beam search with a model: [`BeamSearch`] chooses, the model and its caches follow.

use super::{Finish, Generated, Request, Step};
use crate::sampling::refuse_nan;
use crate::{
    BeamConfig, BeamSearch, Cache, Hypothesis, LogitsProcessors, Result, Sequence, Workspace, log_softmax,
};
use pythia_tensor::Crew;
use std::ops::ControlFlow;

impl Request<'_> {
    /// Beam search from the prompt.
    pub(super) fn search(
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
            let mut text = self.begin()?;
            for id in hypothesis.ids {
                // The texts are there, wanted or not.
                let _ = self.push(&mut text, sample, id, &mut watch);
            }
            text.finish.get_or_insert(end);
            Ok(Generated { score: Some(hypothesis.score), ..text.finish() })
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
