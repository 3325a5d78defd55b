//! What one forward pass works on: sequences whose tokens lie end to end.

use crate::{Cache, Config, Error, Result};
use std::ops::Range;

/// One sequence's part of a batch: its new tokens, what came before them, and where logits are wanted.
#[derive(Debug)]
pub struct Sequence<'a> {
    /// The new tokens. They stand at the positions from `cache.len()` on.
    pub ids: &'a [u32],
    /// The tokens before; the pass adds the new ones.
    pub cache: &'a mut Cache,
    /// The new tokens (counted from the first) after which logits are wanted.
    pub logits: Range<usize>,
}

impl<'a> Sequence<'a> {
    /// New tokens, with logits after the last one.
    pub fn last(ids: &'a [u32], cache: &'a mut Cache) -> Self {
        Self { ids, cache, logits: ids.len().saturating_sub(1)..ids.len() }
    }

    /// New tokens, with logits after each.
    pub fn all(ids: &'a [u32], cache: &'a mut Cache) -> Self {
        Self { ids, cache, logits: 0..ids.len() }
    }

    /// New tokens, without logits.
    pub fn none(ids: &'a [u32], cache: &'a mut Cache) -> Self {
        Self { ids, cache, logits: 0..0 }
    }

    /// Whether the model can take this.
    pub(crate) fn check(&self, config: &Config) -> Result<()> {
        let (new, before) = (self.ids.len(), self.cache.len());
        if new == 0 {
            return Err(Error::Argument("no tokens: a prompt needs at least one".to_owned()));
        }
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(Error::Argument(format!(
                "token id {id} is outside the model's vocabulary of {} (ids 0 to {})",
                config.vocab_size,
                config.vocab_size - 1
            )));
        }
        if before + new > config.max_position_embeddings {
            let after = if before > 0 { format!(" after {before} earlier ones") } else { String::new() };
            return Err(Error::Argument(format!(
                "{new} tokens{after} are longer than the model's context of {}",
                config.max_position_embeddings
            )));
        }
        if !self.cache.fits(config) {
            return Err(Error::Argument("the cache was made for a model of another shape".to_owned()));
        }
        if before + new > self.cache.capacity() {
            let room = self.cache.capacity();
            return Err(Error::Argument(format!(
                "the cache has room for {room} tokens, not for {}",
                before + new
            )));
        }
        if self.logits.start > self.logits.end || self.logits.end > new {
            return Err(Error::Argument(format!("logits asked for at {:?} of {new} tokens", self.logits)));
        }
        Ok(())
    }
}
