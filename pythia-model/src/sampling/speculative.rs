//! Speculative sampling: a token drawn from one distribution is made one of another (Leviathan, Kalman and Matias 2023,
//! algorithm 1; Chen et al. 2023).

use super::filters::draw;
use super::{Sampler, nothing_left};
use crate::Result;

/// Ids with their probabilities, in the order of the ids.
type Distribution = Vec<(u32, f64)>;

/// A token that is proposed for the next place of a text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proposal {
    /// The token.
    pub(crate) id: u32,
    /// What it was drawn from; empty if it was not drawn: all probability is its own.
    distribution: Distribution,
}

impl Proposal {
    /// A token that was not drawn.
    pub(crate) fn certain(id: u32) -> Self {
        Self { id, distribution: Distribution::new() }
    }
}

impl Sampler {
    /// As [`Sampler::sample`], with the distribution that the token comes from. `None` if no token is left to choose from.
    ///
    /// # Errors
    /// If a logit is NaN, or if an option names an id outside the vocabulary.
    pub(crate) fn propose(
        &mut self,
        logits: &[f32],
        prompt: &[u32],
        generated: &[u32],
    ) -> Result<Option<Proposal>> {
        let Some(id) = self.choose(logits, prompt, generated)? else { return Ok(None) };
        if self.temperature == 0.0 {
            return Ok(Some(Proposal::certain(id)));
        }
        Ok(Some(Proposal { id, distribution: self.distribution() }))
    }

    /// The next token, distributed as [`Sampler::sample`] has it, where `proposal` was proposed: that token as often as
    /// the two distributions allow.
    ///
    /// A token `x` from `q` is kept with probability `min(1, p(x) / q(x))`; otherwise the token comes from
    /// `max(0, p - q)`, normalised. If all of `q` is at `x`, that is to draw from `p`: the token is then the very one
    /// that [`Sampler::sample`] would choose, as it is at temperature 0.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub(crate) fn verify(
        &mut self,
        logits: &[f32],
        prompt: &[u32],
        generated: &[u32],
        proposal: &Proposal,
    ) -> Result<u32> {
        if self.temperature == 0.0 || proposal.distribution.is_empty() {
            return self.sample(logits, prompt, generated);
        }
        self.process(logits, prompt, generated)?.ok_or_else(nothing_left)?;
        let p = self.distribution();
        Ok(accept_or_redraw(&p, &proposal.distribution, proposal.id, || self.rng.next_f64()))
    }

    /// What `filters` has left.
    fn distribution(&self) -> Distribution {
        let total = self.filters.total();
        self.filters.candidates().iter().map(|c| (c.id, c.weight / total)).collect()
    }
}

/// Of `x`, which was drawn from `q`, makes a token that is distributed as `p`. `uniform` gives numbers from 0 to just under 1.
fn accept_or_redraw(p: &[(u32, f64)], q: &[(u32, f64)], x: u32, mut uniform: impl FnMut() -> f64) -> u32 {
    let probability = |of: &[(u32, f64)]| of.binary_search_by_key(&x, |c| c.0).map_or(0.0, |i| of[i].1);
    if uniform() * probability(q) < probability(p) {
        return x;
    }
    let mut q = q.iter().peekable();
    let excess = |&(id, p): &(u32, f64)| {
        while q.next_if(|q| q.0 < id).is_some() {}
        (id, (p - q.next_if(|q| q.0 == id).map_or(0.0, |q| q.1)).max(0.0))
    };
    let excess: Distribution = p.iter().map(excess).collect();
    let u = uniform();
    // Where the two are equal up to rounding, nothing may exceed.
    draw(excess.iter().copied(), u).or_else(|| draw(p.iter().copied(), u)).unwrap_or(x)
}

#[cfg(test)]
mod tests;
