//! Tensors over owned or mapped memory, and the CPU kernels of a transformer.
mod dtype;
mod error;
mod kernels;
pub mod simd;
mod team;
mod tensor;

pub use dtype::{DType, Element};
pub use error::Error;
pub use simd::Isa;
pub use team::{Crew, Mat, MatMut, Team, Tile, Tiles};
pub use tensor::{SharedBytes, Tensor};
