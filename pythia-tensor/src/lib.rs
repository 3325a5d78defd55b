//! Tensors over owned or mapped memory, and the CPU kernels of a transformer.
mod dtype;
mod error;
pub mod simd;
mod tensor;

pub use dtype::{DType, Element};
pub use error::Error;
pub use simd::Isa;
pub use tensor::{SharedBytes, Tensor};
