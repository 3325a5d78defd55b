//! GPT-NeoX, as EleutherAI's Pythia models use it.
mod error;

pub use error::{Error, Result};
