//! GPT-NeoX, as EleutherAI's Pythia models use it.
#![deny(unsafe_code)]

mod config;
mod disk;
mod error;
mod sizes;
pub mod synth;
mod weights;

pub use config::{Activation, Config, Parameters};
pub use error::{Error, Result};
pub use sizes::{SIZES, Size};
pub use weights::{LayerNormWeights, LayerWeights, Linear, TensorFile, Weights};
