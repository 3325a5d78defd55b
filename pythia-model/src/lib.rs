//! GPT-NeoX, as EleutherAI's Pythia models use it.
#![deny(unsafe_code)]

mod batch;
mod cache;
mod config;
mod disk;
mod error;
mod model;
mod sizes;
pub mod synth;
pub mod taps;
mod weights;
mod workspace;

pub use batch::Sequence;
pub use cache::Cache;
pub use config::{Config, Parameters};
pub use error::{Error, Result};
pub use model::Model;
pub use sizes::{SIZES, Size};
pub use weights::{LayerNormWeights, LayerWeights, Linear, TensorFile, Weights};
pub use workspace::Workspace;
