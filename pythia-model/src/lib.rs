//! GPT-NeoX, as EleutherAI's Pythia models use it.
mod beam;
mod error;
mod sampling;
mod stream;
mod tokenizer;

pub use beam::{BeamConfig, BeamSearch, Hypothesis};
pub use error::{Error, Result};
pub use sampling::{LogitsProcessors, Sampler, SamplingConfig, log_softmax, log_sum_exp, top_log_probs};
pub use stream::{Piece, TextStream};
pub use tokenizer::{Encoding, Tokenizer};
