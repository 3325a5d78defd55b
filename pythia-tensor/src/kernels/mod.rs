//! Kernel bodies, each written once over [`Simd`](crate::simd::Simd), with a plain `_reference` twin beside it.

pub(crate) mod attention;
pub(crate) mod difference;
pub(crate) mod divergence;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod quantized;
pub(crate) mod rotary;
pub(crate) mod rows;
