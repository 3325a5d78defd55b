//! Speculative decoding: tokens that are cheaply had are proposed, and the model checks several of them in one pass.

use super::draft::{DraftModel, check_vocabulary};
use super::{Continuation, Generated, Request, Step, lookup};
use crate::sampling::Proposal;
use crate::{Cache, Model, Result, Sampler, Sequence, Tokenizer, Workspace};
use pythia_tensor::{Crew, Mat};
use std::ops::ControlFlow;

/// Where proposed tokens come from, and how many of them were right.
///
/// A pass reads all weights whether it runs one token or a few, and on a CPU this reading is most of the time that
/// one token takes. So [`generate_speculatively`](crate::generate_speculatively) runs proposed tokens along with the last
/// chosen one, chooses after each as ever, and goes on from the first place where the choice is another than was proposed.
///
/// What is chosen does not depend on what is proposed. Greedy text is that of [`generate`](crate::generate), token for
/// token, as a logit in `exact` precision has the same bits whatever it was computed with. Sampled text has the same
/// distribution: with [`Speculation::lookup`] a seed gives the very text of [`generate`](crate::generate); with
/// [`Speculation::draft`] it gives always the same text, but another one (Leviathan, Kalman and Matias 2023, algorithm 1).
///
/// How many tokens are proposed follows how many were right: up to a maximum, and none for a while where they are wrong.
#[derive(Debug)]
pub struct Speculation<'m> {
    source: Source<'m>,
    pace: Pace,
    /// What has been proposed for the next pass.
    proposals: Vec<Proposal>,
    proposed: usize,
    accepted: usize,
    /// The text and the proposals after it.
    text: Vec<u32>,
}

#[derive(Debug)]
enum Source<'m> {
    Lookup,
    Draft(Box<DraftModel<'m>>),
}

impl<'m> Speculation<'m> {
    /// The most tokens that are proposed at once, unless the caller wants another number: with the one before them 16 rows,
    /// up to which a product is one of few rows.
    pub const MAX_TOKENS: usize = 15;

    /// Proposes what followed the last time that the text read as it does now: for texts that repeat themselves or their
    /// prompt. Never more than `max_tokens` at once.
    pub fn lookup(max_tokens: usize) -> Self {
        // With the token before them four rows, which cost hardly more than one: fewer would gain less.
        Self::new(Source::Lookup, Pace::new(3, max_tokens))
    }

    /// Proposes what `draft` writes, a model with the vocabulary of `model` and much faster. Never more than `max_tokens` at
    /// once. Its memory is kept between generations, which may continue each other.
    ///
    /// # Errors
    /// If the two models have different tokens. Rows that only pad a model's matrices do not count.
    pub fn draft(
        draft: (&'m Model, Option<&Tokenizer>),
        model: (&Model, Option<&Tokenizer>),
        max_tokens: usize,
    ) -> Result<Self> {
        check_vocabulary(draft, model)?;
        // Each of them costs a pass of the draft.
        Ok(Self::new(Source::Draft(Box::new(DraftModel::new(draft.0)?)), Pace::new(1, max_tokens)))
    }

    fn new(source: Source<'m>, pace: Pace) -> Self {
        let (proposals, text) = (Vec::new(), Vec::new());
        Self { source, pace, proposals, proposed: 0, accepted: 0, text }
    }

    /// How many tokens were proposed in the last generation.
    pub fn proposed(&self) -> usize {
        self.proposed
    }

    /// How many of them were right.
    pub fn accepted(&self) -> usize {
        self.accepted
    }

    fn begin(&mut self, request: &Request<'_>) -> Result<()> {
        self.pace = Pace::new(self.pace.least, self.pace.max);
        (self.proposed, self.accepted) = (0, 0);
        self.proposals.clear();
        match &mut self.source {
            Source::Lookup => Ok(()),
            Source::Draft(draft) => draft.begin(request),
        }
    }

    /// Proposes what may follow `generated`, at most `room` tokens.
    fn propose(&mut self, crew: &Crew<'_>, prompt: &[u32], generated: &[u32], room: usize) -> Result<()> {
        self.proposals.clear();
        self.text.clear();
        self.text.extend_from_slice(prompt);
        self.text.extend_from_slice(generated);
        let (n, len) = (self.pace.tokens().min(room), self.text.len());
        match &mut self.source {
            _ if n == 0 => {}
            Source::Lookup => {
                lookup::extend(&mut self.text, n);
                self.proposals.extend(self.text[len..].iter().map(|&id| Proposal::certain(id)));
            }
            Source::Draft(draft) => {
                draft.extend(crew, &mut self.text, prompt.len(), n, &mut self.proposals)?;
            }
        }
        self.proposed += self.proposals.len();
        Ok(())
    }

    /// Compares what was proposed with what was chosen.
    fn learn(&mut self, chosen: &[u32]) {
        let right = self.proposals.iter().zip(chosen).take_while(|(p, id)| p.id == **id).count();
        self.accepted += right;
        self.pace.learn(self.proposals.len(), right);
    }
}

/// How many tokens to propose, from how many were right.
///
/// Simulated for lookup with the times that passes of 1 to 16 tokens took for 410m (4 tokens: 1.2 times one, 16: 2.9 times),
/// on texts of the embedded model: greedy text, half of it loops, becomes 2.0 times as fast, and text sampled at temperature
/// 0.7 or 1 loses 1 %. With always 15 tokens that is 1.8 times and 11 %; without pauses too, 1.7 times and 42 %; with never
/// more than 3 tokens, 1.9 times and 1 %.
#[derive(Debug)]
struct Pace {
    /// The bounds, where any are proposed.
    least: usize,
    max: usize,
    next: usize,
    /// Proposing nothing for so many tokens, and how long the last such pause was to be.
    wait: usize,
    pause: usize,
}

impl Pace {
    /// The longest pause: a wrong guess once in 32 tokens costs little.
    const LONGEST_PAUSE: usize = 31;

    fn new(least: usize, max: usize) -> Self {
        Self { least: least.min(max), max, next: least.min(max), wait: 0, pause: 0 }
    }

    /// The number to propose now.
    fn tokens(&mut self) -> usize {
        if self.wait > 0 {
            self.wait -= 1;
            return 0;
        }
        self.next
    }

    /// All right: twice as many. Some: as many as were right. None: a pause, each time twice as long.
    fn learn(&mut self, proposed: usize, right: usize) {
        match right {
            _ if proposed == 0 => return,
            0 => {
                self.pause = (2 * self.pause + 1).min(Self::LONGEST_PAUSE);
                self.wait = self.pause;
            }
            _ => self.pause = 0,
        }
        let wish = if right == proposed { 2 * proposed + 1 } else { right };
        self.next = wish.clamp(self.least, self.max);
    }
}

impl<'a> Request<'a> {
    /// One continuation, several tokens in a pass where proposals are right.
    pub(super) fn speculate(
        &self,
        crew: &Crew<'_>,
        workspace: &mut Workspace,
        cache: &mut Cache,
        speculation: &mut Speculation<'_>,
        watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Generated>> {
        let (mut sampler, mut text) = (self.sampler(0)?, self.begin()?);
        speculation.begin(self)?;
        let mut next = self.prompt[cache.len()..].to_vec();
        loop {
            let proposals = &speculation.proposals;
            let logits = next.len() - 1 - proposals.len()..next.len();
            let batch = &mut [Sequence { ids: &next, cache, logits }];
            let logits = self.model.forward(crew, batch, workspace)?;
            let before = text.ids.len();
            let chosen = self.choose(&mut text, &mut sampler, logits, proposals, watch);
            // What was wrongly proposed is forgotten; the last token has not been run.
            cache.truncate(self.prompt.len() + text.ids.len() - 1);
            speculation.learn(&text.ids[before..]);
            if chosen?.is_break() || text.finish.is_some() {
                return Ok(vec![text.finish()]);
            }
            // The model adds one more to those that are right.
            let room = self.config.max_new_tokens - text.ids.len() - 1;
            speculation.propose(crew, self.prompt, &text.ids, room)?;
            next.clear();
            next.extend(text.ids.last());
            next.extend(speculation.proposals.iter().map(|p| p.id));
        }
    }

    /// Chooses a token by the first of `logits`, and by each next one as long as what was chosen is what was proposed.
    fn choose(
        &self,
        text: &mut Continuation<'a>,
        sampler: &mut Sampler,
        logits: Mat<'_>,
        proposals: &[Proposal],
        watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        for (row, proposal) in proposals.iter().enumerate() {
            let id = sampler.verify(logits.row(row), self.prompt, &text.ids, proposal)?;
            let wish = self.push(text, 0, id, watch);
            if wish.is_break() || text.finish.is_some() || id != proposal.id {
                return Ok(wish);
            }
        }
        let id = sampler.sample(logits.row(proposals.len()), self.prompt, &text.ids)?;
        Ok(self.push(text, 0, id, watch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_what_was_right() {
        let mut pace = Pace::new(3, 15);
        let mut told = Vec::new();
        for right in [3, 7, 15, 15, 5, 2, 3] {
            let n = pace.tokens();
            told.push(n);
            pace.learn(n, right);
        }
        assert_eq!((told, pace.tokens()), (vec![3, 7, 15, 15, 15, 5, 3], 7));
        let mut small = Pace::new(3, 2);
        assert_eq!(small.tokens(), 2);
        small.learn(2, 2);
        assert_eq!(small.tokens(), 2);
    }

    #[test]
    fn wrong_guesses_become_rare_and_one_that_is_right_ends_that() {
        let mut pace = Pace::new(3, 15);
        let guesses: Vec<usize> = (0..80)
            .filter(|_| {
                let n = pace.tokens();
                pace.learn(n, 0);
                n > 0
            })
            .collect();
        assert_eq!(guesses, [0, 2, 6, 14, 30, 62]);
        while pace.tokens() == 0 {}
        pace.learn(3, 1);
        assert_eq!(pace.tokens(), 3);
        pace.learn(3, 0);
        assert_eq!([pace.tokens(), pace.tokens()], [0, 3]);
    }
}
