//! [`Cache`]: what a sequence's tokens so far left behind for the attention of later ones.

use crate::{Config, Error, Result};
use pythia_tensor::KeyValues;

/// The keys and values of every layer for one sequence.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(crate) layers: Vec<KeyValues>,
    len: usize,
    /// Tokens there is room for, as asked for: the layers may have more.
    capacity: usize,
}

impl Cache {
    /// An empty cache with room for `positions` tokens, in `f32` or in `bf16`. Its memory is provided by the system as it fills.
    ///
    /// # Errors
    /// If the model's context is shorter than that.
    pub(crate) fn new(config: &Config, positions: usize, bf16: bool) -> Result<Self> {
        if positions > config.max_position_embeddings {
            return Err(Error::Argument(format!(
                "{positions} tokens do not fit into the model's context of {}",
                config.max_position_embeddings
            )));
        }
        let (heads, dim) = (config.num_attention_heads, config.head_dim());
        let layer = if bf16 { KeyValues::new_bf16 } else { KeyValues::new };
        Ok(Self {
            layers: (0..config.num_hidden_layers).map(|_| layer(heads, dim, positions)).collect(),
            len: 0,
            capacity: positions,
        })
    }

    /// The number of tokens in the cache: the position of the next one.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of tokens that there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets the tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes this cache hold what `other` holds, for two continuations of one prompt.
    ///
    /// # Panics
    /// If the caches are of different models or `other` holds more than there is room for.
    pub fn copy_from(&mut self, other: &Self) {
        assert_eq!(self.layers.len(), other.layers.len(), "layers");
        assert!(other.len <= self.capacity, "{} tokens into room for {}", other.len, self.capacity);
        for (mine, theirs) in self.layers.iter_mut().zip(&other.layers) {
            mine.copy_prefix(theirs, other.len);
        }
        self.len = other.len;
    }

    /// Whether this is a cache of models of this shape.
    pub(crate) fn fits(&self, config: &Config) -> bool {
        let shape = (config.num_attention_heads, config.head_dim());
        self.layers.len() == config.num_hidden_layers && self.layers.iter().all(|l| l.shape() == shape)
    }

    /// Notes that a forward pass has written `tokens` more.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
