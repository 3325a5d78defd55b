//! Element types, and how each is read from memory.

use crate::simd::Simd;
use half::{bf16, f16};
use std::fmt;

/// The type of a tensor's elements as they lie in memory (little-endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16, the type of nearly all published Pythia weights.
    F16,
    /// bfloat16: the upper half of a binary32 (Pythia 1b).
    BF16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

/// A type that kernels can read as weights: it widens to `f32` without loss.
pub trait Element: bytemuck::Pod + Send + Sync + 'static {
    /// The name of this type at run time.
    const DTYPE: DType;

    /// The same number as an `f32`.
    fn to_f32(self) -> f32;

    /// The nearest number of this type, ties to even.
    fn from_f32(x: f32) -> Self;

    /// The first `S::LANES` elements of `x`, widened.
    ///
    /// # Panics
    /// If `x` is shorter than `S::LANES`.
    fn load<S: Simd>(simd: S, x: &[Self]) -> S::F32;

    /// The elements of `x` in the first lanes, zeros in the others.
    #[inline(always)]
    fn load_part<S: Simd>(simd: S, x: &[Self]) -> S::F32 {
        let mut lanes = [Self::zeroed(); 16];
        let n = x.len().min(S::LANES);
        lanes[..n].copy_from_slice(&x[..n]);
        Self::load(simd, &lanes)
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self]) -> S::F32 {
        simd.load(x)
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self]) -> S::F32 {
        simd.load_f16(x)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self]) -> S::F32 {
        simd.load_bf16(x)
    }
}

/// Runs `$body` with the type `$W` bound to the Rust type of a [`DType`].
macro_rules! with_element {
    ($dtype:expr, $W:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $W = f32;
                $body
            }
            $crate::DType::F16 => {
                type $W = half::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $W = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_element;
