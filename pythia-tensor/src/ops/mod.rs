//! The public operations: each checks shapes, cuts its output into tiles and hands them to the [`Crew`](crate::Crew).
//!
//! Letters: `B` sequences, `T` tokens, `C` channels, `H` heads, `D` head dimension, `V` vocabulary rows; `M N K` in a
//! matmul. Wrong shapes are bugs of the caller and panic.

mod activations;
mod attention;
mod difference;
mod matmul;
mod rows;

pub use attention::{append, append_and_attend, attention, attention_mix, attention_scores};
pub use difference::{differences, divergence, sum_of_squares};
pub use matmul::{Product, Then, Weight, matmul, matmuls};
pub use rows::{embedding, gelu, layer_norm, log_softmax, log_sum_exp, softmax};
