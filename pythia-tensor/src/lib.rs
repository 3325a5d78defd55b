//! Tensors over owned or mapped memory, and the CPU kernels of a transformer.
//!
//! - [`Tensor`]: weights as they lie in memory or in a mapped file, `f32`, `f16` or `bf16`.
//! - [`Mat`] and [`MatMut`]: `f32` activations.
//! - [`Team`]: threads that walk through many small parallel regions together.
//! - [`ops`]: the operations, on all threads of a team.
//! - [`reference`](mod@reference): a plain twin of each kernel, to test against and to read.
//!
//! A result is the same, bit for bit, for any number of threads and any batch that a row is computed in. It may differ
//! in its last bits between instruction sets ([`Isa`]).
//!
//! ```
//! use pythia_tensor::ops::{Product, Then, Weight, matmul};
//! use pythia_tensor::{Mat, MatMut, Team, Tensor};
//!
//! let team = Team::new(2)?;
//! let weight = Tensor::from_slice(&[1.0_f32, 0.0, 0.0, 1.0, 1.0, 1.0], &[3, 2]);
//! let a = [2.0, 5.0];
//! let mut out = [0.0; 3];
//! team.enter(|crew| {
//!     let product = Product { a: Mat::new(&a, 2), weight: Weight::Exact(&weight), bias: None, then: Then::Store };
//!     matmul(crew, MatMut::new(&mut out, 3), product);
//! });
//! assert_eq!(out, [2.0, 5.0, 7.0]);
//! # Ok::<(), pythia_tensor::Error>(())
//! ```

mod dtype;
mod error;
mod kernels;
mod memory;
pub mod ops;
pub mod peak;
mod quantized;
pub mod simd;
mod team;
mod tensor;

/// A plain twin of each kernel, in `f64` and in the order of its formula.
pub mod reference {
    pub use crate::kernels::attention::attention_reference;
    pub use crate::kernels::difference::difference_reference;
    pub use crate::kernels::divergence::divergence_reference;
    pub use crate::kernels::matmul::matmul_reference;
    pub use crate::kernels::quantized::quantized_matmul_reference;
    pub use crate::kernels::rotary::rotary_reference;
    pub use crate::kernels::rows::{
        gelu_reference, layer_norm_reference, log_sum_exp_reference, softmax_reference,
    };
}

pub use dtype::{DType, Element};
pub use error::Error;
pub use kernels::attention::KeyValues;
pub use kernels::difference::Difference;
pub use kernels::rotary::Rotary;
pub use kernels::rows::Gelu;
pub use memory::{Floats, mapped_bytes};
pub use quantized::{Bits, Quantized};
pub use simd::Isa;
pub use team::{Crew, Mat, MatMut, Team, Tile, Tiles};
pub use tensor::{SharedBytes, Tensor};
