//! GPT-NeoX, as EleutherAI's Pythia models use it.
#![deny(unsafe_code)]

mod batch;
mod beam;
mod cache;
mod config;
pub mod convert;
pub mod diff;
mod disk;
mod error;
pub mod fingerprint;
mod generate;
mod json;
mod model;
mod precision;
pub mod quantized;
mod sampling;
mod score;
mod sizes;
mod stream;
pub mod suite;
pub mod synth;
pub mod taps;
#[cfg(test)]
mod test_models;
mod tokenizer;
mod weights;
mod workspace;

pub use batch::Sequence;
pub use beam::{BeamConfig, BeamSearch, Hypothesis};
pub use cache::Cache;
pub use config::{Config, Parameters};
pub use disk::{Pieces, read_ahead, write_whole};
pub use error::{Error, Result};
pub use fingerprint::Fingerprint;
pub use generate::{
    Finish, Generated, GenerationConfig, Speculation, Step, generate, generate_speculatively,
};
pub use model::Model;
pub use precision::Precision;
pub use sampling::{LogitsProcessors, Sampler, SamplingConfig, log_softmax, log_sum_exp, top_log_probs};
pub use score::{next, score};
pub use sizes::{SIZES, Size};
pub use stream::{Piece, TextStream};
pub use tokenizer::{Encoding, Tokenizer};
pub use weights::{FileStamp, LayerNormWeights, LayerWeights, Linear, TensorFile, Weights};
pub use workspace::Workspace;

/// The README's example runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
