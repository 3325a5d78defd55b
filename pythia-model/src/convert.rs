//! Conversion: a model of any format that this crate reads, written as safetensors or GGUF.
//!
//! Tensors are read from the mapped source, one after another, and written in pieces: the memory needed does not depend
//! on the model's size. Where a tensor keeps its type, its bits are copied.

mod gguf;
mod numbers;
mod safetensors;
mod source;
#[cfg(test)]
mod tests;

pub use crate::quantized::Progress;
pub use gguf::{Encoding, to_gguf};
pub use safetensors::to_safetensors;
pub use source::Source;

use pythia_tensor::DType;

/// How a model is written as safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The type of all tensors; if there is none, each keeps its own.
    pub dtype: Option<DType>,
    /// The most bytes of tensors in one file. A larger model is written as several files and an index; a single tensor
    /// that is larger gets a file of its own.
    pub max_shard_size: u64,
}

impl Default for Options {
    /// Types as they are, shards of 5 GB.
    fn default() -> Self {
        Self { dtype: None, max_shard_size: 5_000_000_000 }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The names of the files, weights first.
    pub files: Vec<String>,
    /// The bytes of all tensors.
    pub bytes: u64,
}
