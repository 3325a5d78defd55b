//! Two models side by side: how far apart their weights are, and what they predict.
//!
//! The first of the two, A, is the one that the other is measured by: distances are relative to its norms, and divergences are
//! those of the other's distributions from its own, KL(A‖B). Weights are compared as they are stored, in any two types, and read
//! once from where they are mapped. Neither part depends on the number of threads, bit for bit.

mod predictions;
#[cfg(test)]
mod tests;
mod weights;

pub use crate::quantized::Progress;
pub use predictions::{Hidden, Predictions, predictions};
pub use weights::{Largest, Part, TensorDifference, Uneven, WeightsDifference, most_changed, weights};
