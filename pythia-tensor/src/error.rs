//! What can be wrong with the bytes or the shape that a [`Tensor`](crate::Tensor) is built from, or with a
//! request for threads or an instruction set.

use crate::{Bits, DType};

/// An error of this crate. Kernels themselves never return one: a wrong shape there is a bug of the caller and panics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The number of bytes is not what shape and dtype ask for.
    #[error("{dtype} {shape:?} needs {expected} bytes, found {found}")]
    Length {
        /// The element type.
        dtype: DType,
        /// The shape asked for.
        shape: Vec<usize>,
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The number of elements or bytes overflows `usize`.
    #[error("{dtype} {shape:?} is too large to address")]
    Overflow {
        /// The element type.
        dtype: DType,
        /// The shape asked for.
        shape: Vec<usize>,
    },
    /// The bytes do not start at a multiple of the element size.
    #[error("{dtype} data must start at a multiple of {} bytes", dtype.size())]
    Misaligned {
        /// The element type.
        dtype: DType,
    },
    /// The number of bytes is not what a quantised matrix of this shape takes.
    #[error("{bits} {shape:?} needs {expected} bytes, found {found}")]
    QuantizedLength {
        /// The width of the codes.
        bits: Bits,
        /// `[N, K]`.
        shape: [usize; 2],
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The number of bytes of a quantised matrix overflows `usize`.
    #[error("{bits} {shape:?} is too large to address")]
    QuantizedOverflow {
        /// The width of the codes.
        bits: Bits,
        /// `[N, K]`.
        shape: [usize; 2],
    },
    /// The bytes of a quantised matrix do not start at a cache line.
    #[error("{bits} data must start at a multiple of 64 bytes")]
    QuantizedMisaligned {
        /// The width of the codes.
        bits: Bits,
    },
    /// The tensor holds another element type.
    #[error("expected {expected} elements, found {found}")]
    DType {
        /// The element type asked for.
        expected: DType,
        /// The element type of the tensor.
        found: DType,
    },
    /// `PYTHIA_ISA` or a caller names an instruction set that this machine or build does not have.
    #[error("instruction set `{name}` is not available here; available: {available}")]
    Isa {
        /// What was asked for.
        name: String,
        /// What there is, separated by commas.
        available: String,
    },
    /// The system refused to start threads.
    #[error("cannot start {threads} threads: {message}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        message: String,
    },
}
