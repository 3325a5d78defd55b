//! [`Config`]: the shape of a GPT-NeoX model, from the `config.json` beside its weights.

mod json;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use write::torch_name;

use crate::weights::gguf::GgufFile;
use crate::weights::neox::NeoxFolder;
use crate::weights::said;
use crate::{Error, Result, disk};
use pythia_tensor::{DType, Gelu};
use std::path::Path;

/// The configuration of a GPT-NeoX model, in transformers' names.
///
/// A `Config` that was read from a file keeps these promises (one built by hand should):
/// no size is 0; `hidden_size` is a multiple of `num_attention_heads`; [`rotary_dims`](Config::rotary_dims) is even,
/// at least 2, at most [`head_dim`](Config::head_dim) and, times `max_position_embeddings`, at most 2^24; `layer_norm_eps` and `rotary_base` are finite and
/// positive; token ids are below `vocab_size`; and the sizes are bounded so that the bytes of all weights, or of a
/// cache of `max_position_embeddings` tokens, in `f32`, can be computed in `u64` without overflow.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Rows of the embedding and of the unembedding (`V`), including padding rows that no token has.
    pub vocab_size: usize,
    /// Channels of the residual stream (`C`).
    pub hidden_size: usize,
    /// Transformer layers (`L`).
    pub num_hidden_layers: usize,
    /// Attention heads (`H`).
    pub num_attention_heads: usize,
    /// Channels between the two matrices of the MLP.
    pub intermediate_size: usize,
    /// The activation of the MLP.
    pub hidden_act: Gelu,
    /// The part of each head's dimensions that is rotated.
    pub rotary_pct: f64,
    /// The base of the rotary wavelengths.
    pub rotary_base: f64,
    /// The number of positions that the model was trained for.
    pub max_position_embeddings: usize,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f32,
    /// `x + attn(ln1(x)) + mlp(ln2(x))` if true; else the MLP reads the sum after attention.
    pub use_parallel_residual: bool,
    /// Whether the two matrices of attention have biases.
    pub attention_bias: bool,
    /// Whether the unembedding is the embedding.
    pub tie_word_embeddings: bool,
    /// The token that starts a text, if there is one. It is never added on its own.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The type that the config says the weights have. Each tensor of a file states its own, which is what counts.
    pub torch_dtype: Option<DType>,
}

/// The number of weights of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// All weights. Tied embeddings count once.
    pub total: u64,
    /// All but the embedding and the unembedding.
    pub non_embedding: u64,
}

impl Config {
    /// Reads a `config.json` in the old spelling (`rotary_pct`, `rotary_emb_base`, `torch_dtype`) or the new one
    /// (`rope_parameters`, `dtype`). Keys that are absent have transformers' defaults, except the sizes, which must
    /// be there.
    ///
    /// # Errors
    /// If the file cannot be read or is not a JSON object; if the model is not a GPT-NeoX with a language-model head;
    /// if a key has the wrong type or is out of its range (a token id outside the vocabulary is); if two spellings
    /// of one setting disagree; or if an activation or a rope type is unknown. The text names file and key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        const LIMIT: u64 = 16 << 20; // A hundred times what configs with large label tables have.
        let path = path.as_ref();
        Self::from_bytes(path, &disk::read(path, LIMIT)?)
    }

    /// The config of the model in a folder, its `config.json`; or of a GGUF file, or of a folder that holds one, which
    /// say it themselves. Of a folder of GPT-NeoX's layer files (see [`Weights::open`](crate::Weights::open)) it is the
    /// `config.json` in it or in the one above, or else what the tensors' shapes and the training's settings
    /// (`configs/*.yml` in either) say; as in gpt-neox's own converter, `gelu` is then the erf form, though training with
    /// `bias-gelu-fusion` computed the tanh form.
    ///
    /// # Errors
    /// As [`Config::from_file`]; for layer files, if there is neither, or if settings contradict each other or the shapes.
    pub fn of_model(place: impl AsRef<Path>) -> Result<Self> {
        let place = place.as_ref();
        if let Some(gguf) = GgufFile::find(place)? {
            return gguf.config();
        }
        match NeoxFolder::find(place)? {
            Some(neox) => neox.config(),
            None => Self::from_file(place.join("config.json")),
        }
    }

    /// Reads the content of a `config.json`; `path` is what errors name.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn from_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        let path = path.as_ref();
        let json::Known(map) = serde_json::from_slice(bytes)
            .map_err(|e| Error::file(path, format!("expected a JSON object: {}", said(&e))))?;
        read::config(path, &map)
    }

    /// Dimensions of one attention head (`D`).
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The first dimensions of each head, which are rotated: `int(D * rotary_pct)`.
    pub fn rotary_dims(&self) -> usize {
        (self.head_dim() as f64 * self.rotary_pct) as usize
    }

    /// The number of weights.
    pub fn parameters(&self) -> Parameters {
        let [v, c, l] = [self.vocab_size, self.hidden_size, self.num_hidden_layers].map(|n| n as u64);
        let linears: u64 =
            (self.linears().iter()).map(|m| m.rows as u64 * (m.columns as u64 + u64::from(m.bias))).sum();
        let non_embedding = l * (linears + 4 * c) + 2 * c;
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        Parameters { total: non_embedding + embeddings * v * c, non_embedding }
    }
}
