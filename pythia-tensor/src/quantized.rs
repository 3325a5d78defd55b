//! [`Quantized`]: a matrix of int8 or int4 weights in the layout that the kernels read.
//!
//! ```text
//! weight ~= scale * (code - 128)          code: a byte, scale: f32 per row and block of 512 elements of K
//! int8:     code is stored
//! int4:     code = 128 + step * (nibble - zero)    step, zero: 4 bits each per row and group of 32; nibble: 4 bits
//! ```
//!
//! So int4 is int8 whose bytes are told in fewer bits: a group's codes stand at equal steps, and the step is an integer.
//! Expanding a nibble is exact integer arithmetic, and the rest (the kernels, their rounding) is the same for both. A step and a zero
//! are such that all 16 codes fit a byte: what other steps and zeros stand for differs from one instruction set to another.
//! With K a multiple of 512, int8 takes 8.0625 bits a weight, int4 4.3125. (A short block keeps room for all groups' steps: with K = 768 4.42.)
//!
//! Blocks have 512 elements, not 256 as at first: on two Zen 5 cores prompts of 512 tokens (410m, 1.4b) run 1.03 to 1.05 times as fast in int8 and
//! 1.05 to 1.07 in int4 (410m with AVX2 1.08 and 1.04), 16 sequences decode 1.08 times as fast, one in int4 1.04. Other machines were not measured. The error of rounding
//! has at most twice the mean square that a scale for each half would leave, if it is uniform. What was lost, with blocks of 256 and of 512:
//!
//! | | int8 | int4 |
//! |---|---|---|
//! | perplexity of a small trained model (its K are 128, but for one matrix of each layer of 512) | +0.06 %, +0.03 % | +2.1 %, +2.0 % |
//! | divergence of the next token, 70m with random weights, nats | 1.2e-4, 1.4e-4 | 7.7e-3, 7.4e-3 |
//! | 410m | 2.0e-4, 2.2e-4 | 1.4e-2, 1.5e-2 |
//!
//! Channels of activations that are far larger than others, as large trained models have, are in none of these.
//!
//! Sixteen rows make a panel, which is one sequential stream, padded with zeros to whole rows and groups:
//!
//! ```text
//! [N / 16] panels of [K / 512] blocks of
//!     scales  [16] f32, little-endian
//!     groups  [16][16] bytes, int4 only: step in the low half, zero in the high half (absent groups of a short block: 0)
//!     codes   int8: [K / 4][16][4] bytes: a cache line is 16 rows of 4 elements
//!             int4: [K / 8][16][4] bytes: elements 0..4 of a step in the low halves, 4..8 in the high halves
//! ```
//!
//! Every part starts at a multiple of 64 bytes.

mod fit;

use crate::memory::Lines;
use crate::{Crew, Error, MatMut, SharedBytes, Tensor, Tile, Tiles};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Rows of a panel.
pub(crate) const PANEL: usize = 16;
/// Elements of K that share a scale, of the weights and of the activations.
pub(crate) const BLOCK: usize = 512;
/// Elements of K that share an integer step, in int4.
pub(crate) const GROUP: usize = 32;
/// What stands for zero in a code.
pub(crate) const ZERO: u8 = 128;

/// How many bits a weight's code has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bits {
    /// Eight.
    Int8,
    /// Four.
    Int4,
}

impl Bits {
    /// Bytes before the codes of a block: the scales, and for int4 the groups.
    pub(crate) const fn header(self) -> usize {
        match self {
            Self::Int8 => 4 * PANEL,
            Self::Int4 => 4 * PANEL + BLOCK / GROUP * PANEL,
        }
    }

    /// Bytes of the codes of a panel over `k` elements, a multiple of [`GROUP`].
    pub(crate) const fn codes(self, k: usize) -> usize {
        match self {
            Self::Int8 => k * PANEL,
            Self::Int4 => k * PANEL / 2,
        }
    }

    /// Bytes of a panel over `k` elements, or `None` if they cannot be counted.
    fn panel(self, k: usize) -> Option<usize> {
        let padded = k.checked_next_multiple_of(GROUP)?;
        padded.checked_mul(PANEL)?;
        k.div_ceil(BLOCK).checked_mul(self.header())?.checked_add(self.codes(padded))
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

/// A matrix `[N, K]` of int8 or int4 weights in the layout that the kernels read. Cloning shares the memory.
///
/// ```
/// use pythia_tensor::{Bits, Quantized, Team, Tensor};
/// let weight = Tensor::from_slice(&[1.0_f32, -0.5, 0.25, 0.0, 3.0, -3.0], &[2, 3]);
/// let quantized = Team::new(1)?.enter(|crew| Quantized::quantize(crew, &weight, Bits::Int8));
/// assert_eq!(quantized.shape(), [2, 3]);
/// for (w, q) in weight.to_f32().iter().zip(quantized.dequantize()) {
///     assert!((w - q).abs() <= 3.0 / 127.0 / 2.0 * 1.001);
/// }
/// # Ok::<(), pythia_tensor::Error>(())
/// ```
#[derive(Clone)]
pub struct Quantized {
    bits: Bits,
    shape: [usize; 2],
    bytes: SharedBytes,
    range: Range<usize>,
}

impl Quantized {
    /// The version of the layout and of the way to the codes: bytes of another version are not to be read.
    pub const LAYOUT: u32 = 2;

    /// The bytes that a matrix `[N, K]` takes.
    ///
    /// # Errors
    /// If they cannot be counted in a `usize`.
    pub fn byte_len(bits: Bits, shape: [usize; 2]) -> Result<usize, Error> {
        let [n, k] = shape;
        let len = bits.panel(k).and_then(|panel| panel.checked_mul(n.div_ceil(PANEL)));
        len.ok_or(Error::QuantizedOverflow { bits, shape })
    }

    /// Quantises a weight `[N, K]` into memory of its own. The bytes do not depend on the threads or the instruction set.
    ///
    /// # Panics
    /// If the weight is not a matrix, or one of more elements than can be addressed.
    pub fn quantize(crew: &Crew<'_>, weight: &Tensor, bits: Bits) -> Self {
        let &[n, k] = weight.shape() else { panic!("{weight:?} is not a matrix") };
        let len = Self::byte_len(bits, [n, k]).unwrap_or_else(|e| panic!("{e}"));
        let mut lines = Lines::new(len);
        if len > 0 {
            let isa = crew.isa();
            let panel = len / n.div_ceil(PANEL) / size_of::<f32>();
            let work = |mut tile: Tile<'_>| {
                for p in tile.rows() {
                    let rows = weight.rows(p * PANEL..n.min((p + 1) * PANEL));
                    fit::panel(isa, bits, &rows.to_f32(), k, bytemuck::cast_slice_mut(tile.row_mut(p)));
                }
            };
            let out = MatMut::new(bytemuck::cast_slice_mut(lines.bytes_mut(len)), panel);
            crew.run(&mut [Tiles::new(out, 1, panel, &work)]);
        }
        Self { bits, shape: [n, k], bytes: Arc::new(lines), range: 0..len }
    }

    /// A matrix over `range` of shared bytes, without copying.
    ///
    /// # Errors
    /// If the range is not exactly what the shape needs, lies outside the bytes, or does not start at a multiple of 64
    /// bytes in memory.
    pub fn from_shared(
        bits: Bits,
        shape: [usize; 2],
        bytes: SharedBytes,
        range: Range<usize>,
    ) -> Result<Self, Error> {
        let expected = Self::byte_len(bits, shape)?;
        let all = (*bytes).as_ref();
        let length = |found| Error::QuantizedLength { bits, shape, expected, found };
        let found = all.get(range.clone()).ok_or(length(all.len().saturating_sub(range.start)))?;
        if found.len() != expected {
            return Err(length(found.len()));
        }
        if !found.as_ptr().addr().is_multiple_of(64) {
            return Err(Error::QuantizedMisaligned { bits });
        }
        Ok(Self { bits, shape, bytes, range })
    }

    /// The width of the codes.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// `[N, K]`.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The panels as they lie in memory.
    pub fn bytes(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.range.clone()]
    }

    /// The weights that the codes stand for, `[N, K]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let [n, k] = self.shape;
        (0..n * k).map(|i| self.scale(i / k, i % k) * self.code(i / k, i % k) as f32).collect()
    }

    /// Bytes of a panel.
    pub(crate) fn panel_bytes(&self) -> usize {
        self.range.len().checked_div(self.shape[0].div_ceil(PANEL)).unwrap_or(0)
    }

    /// The block that holds element `k` of row `n`.
    fn block(&self, n: usize, k: usize) -> &[u8] {
        let block = self.bits.header() + self.bits.codes(BLOCK);
        &self.bytes()[n / PANEL * self.panel_bytes() + k / BLOCK * block..]
    }

    /// The scale of element `k` of row `n`.
    pub(crate) fn scale(&self, n: usize, k: usize) -> f32 {
        bytemuck::cast_slice::<u8, f32>(&self.block(n, k)[..4 * PANEL])[n % PANEL]
    }

    /// The code of element `k` of row `n`, less [`ZERO`].
    pub(crate) fn code(&self, n: usize, k: usize) -> i32 {
        let (block, row, at) = (self.block(n, k), n % PANEL, k % BLOCK);
        let codes = &block[self.bits.header()..];
        let byte = match self.bits {
            Bits::Int8 => codes[(at / 4 * PANEL + row) * 4 + at % 4],
            Bits::Int4 => {
                let pair = codes[(at / 8 * PANEL + row) * 4 + at % 4];
                let nibble = if at % 8 < 4 { pair & 15 } else { pair >> 4 };
                let group = block[4 * PANEL + at / GROUP * PANEL + row];
                expand(nibble, group)
            }
        };
        i32::from(byte) - i32::from(ZERO)
    }
}

/// The byte that a nibble stands for in a group of this step and zero, modulo 256 as in kernels for bytes.
pub(crate) fn expand(nibble: u8, group: u8) -> u8 {
    let (step, zero) = (group & 15, group >> 4);
    ZERO.wrapping_sub(step * zero).wrapping_add(step * nibble)
}

impl fmt::Debug for Quantized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quantized({} {:?})", self.bits, self.shape)
    }
}
