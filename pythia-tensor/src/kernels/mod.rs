//! Kernel bodies, each written once over [`Simd`](crate::simd::Simd), with a plain `_reference` twin beside it.

pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod rows;
pub(crate) mod attention;
pub(crate) mod rotary;
