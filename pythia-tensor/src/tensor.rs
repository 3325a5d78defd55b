//! [`Tensor`]: a shape over bytes that are owned or shared, for instance a slice of a mapped file.

use crate::dtype::with_element;
use crate::memory::Lines;
use crate::{DType, Element, Error};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that somebody owns and several tensors may look into: a mapped file, a buffer.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// An immutable row-major array of one [`DType`]. Cloning and slicing share the memory.
///
/// Weights are tensors; activations are plain `f32` matrices ([`Mat`](crate::Mat)).
///
/// ```
/// use pythia_tensor::{DType, Tensor};
/// let t = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[3, 2]);
/// assert_eq!((t.shape(), t.dtype()), (&[3, 2][..], DType::F32));
/// assert_eq!(t.rows(1..3).to_f32(), [3.0, 4.0, 5.0, 6.0]);
/// ```
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: SharedBytes,
    range: Range<usize>,
}

fn byte_len(dtype: DType, shape: &[usize]) -> Result<usize, Error> {
    shape
        .iter()
        .try_fold(dtype.size(), |n, &d| n.checked_mul(d))
        .ok_or_else(|| Error::Overflow { dtype, shape: shape.to_vec() })
}

impl Tensor {
    /// A tensor over `range` of shared bytes, without copying.
    ///
    /// # Errors
    /// If the range is not exactly what shape and dtype need, lies outside the bytes, or is not aligned to the
    /// element size.
    pub fn from_shared(
        bytes: SharedBytes,
        range: Range<usize>,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Self, Error> {
        let expected = byte_len(dtype, shape)?;
        let found = (*bytes).as_ref().get(range.clone()).ok_or(Error::Length {
            dtype,
            shape: shape.to_vec(),
            expected,
            found: (*bytes).as_ref().len().saturating_sub(range.start),
        })?;
        if found.len() != expected {
            return Err(Error::Length { dtype, shape: shape.to_vec(), expected, found: found.len() });
        }
        if !found.as_ptr().addr().is_multiple_of(dtype.size()) {
            return Err(Error::Misaligned { dtype });
        }
        Ok(Self { dtype, shape: shape.to_vec(), bytes, range })
    }

    /// A tensor over its own copy of `bytes`, aligned to a cache line.
    ///
    /// # Errors
    /// If the number of bytes is not what shape and dtype need.
    pub fn from_bytes(bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Self, Error> {
        let expected = byte_len(dtype, shape)?;
        if bytes.len() != expected {
            return Err(Error::Length { dtype, shape: shape.to_vec(), expected, found: bytes.len() });
        }
        Self::filled(dtype, shape, |own| own.copy_from_slice(bytes))
    }

    /// A tensor over memory of its own, aligned to a cache line, whose bytes `fill` writes; until then they are zeros.
    ///
    /// # Errors
    /// If the number of bytes that shape and dtype need overflows.
    pub fn filled(dtype: DType, shape: &[usize], fill: impl FnOnce(&mut [u8])) -> Result<Self, Error> {
        let length = byte_len(dtype, shape)?;
        let mut lines = Lines::new(length);
        fill(lines.bytes_mut(length));
        Ok(Self { dtype, shape: shape.to_vec(), bytes: Arc::new(lines), range: 0..length })
    }

    /// A tensor over its own copy of `data`.
    ///
    /// # Panics
    /// If `data` does not have the number of elements of `shape`.
    pub fn from_slice<W: Element>(data: &[W], shape: &[usize]) -> Self {
        Self::from_bytes(bytemuck::cast_slice(data), W::DTYPE, shape).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The size of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.range.len() / self.dtype.size()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The elements as they lie in memory, row by row.
    pub fn bytes(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.range.clone()]
    }

    /// The elements.
    ///
    /// # Errors
    /// If the tensor holds another type than `W`.
    pub fn as_slice<W: Element>(&self) -> Result<&[W], Error> {
        if self.dtype == W::DTYPE {
            Ok(bytemuck::cast_slice(self.bytes()))
        } else {
            Err(Error::DType { expected: W::DTYPE, found: self.dtype })
        }
    }

    /// A copy of the elements, widened to `f32`.
    pub fn to_f32(&self) -> Vec<f32> {
        with_element!(self.dtype, W => {
            bytemuck::cast_slice::<u8, W>(self.bytes()).iter().map(|&w| Element::to_f32(w)).collect()
        })
    }

    /// The same elements in another shape, sharing the memory.
    ///
    /// # Panics
    /// If that has another number of elements.
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        assert!(byte_len(self.dtype, shape) == Ok(self.range.len()), "{self:?} as {shape:?}");
        Self { shape: shape.to_vec(), ..self.clone() }
    }

    /// The slice `range` of the outermost dimension, sharing the memory.
    ///
    /// # Panics
    /// If the tensor has no dimension or the range leaves it.
    pub fn rows(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.shape[0], "rows {range:?} of {:?}", self.shape);
        let row = self.range.len().checked_div(self.shape[0]).unwrap_or(0);
        let start = self.range.start + range.start * row;
        let mut shape = self.shape.clone();
        shape[0] = range.len();
        Self { dtype: self.dtype, shape, bytes: self.bytes.clone(), range: start..start + range.len() * row }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn owned_tensors_are_aligned_to_cache_lines() {
        let t = Tensor::from_slice(&[f16::ONE; 33], &[3, 11]);
        assert_eq!(t.bytes().as_ptr().addr() % 64, 0);
        assert_eq!(t.as_slice::<f16>().unwrap(), [f16::ONE; 33]);
    }

    #[test]
    fn filled_tensors_have_the_bytes_written_and_zeros_elsewhere() {
        let t = Tensor::filled(DType::F16, &[3, 11], |bytes| bytes[64..].fill(1)).unwrap();
        assert_eq!((t.bytes().as_ptr().addr() % 64, t.len()), (0, 33));
        assert_eq!(t.bytes(), [[0; 64].as_slice(), &[1, 1]].concat());
        let huge = Tensor::filled(DType::F16, &[usize::MAX, 2], |_| panic!("no such memory"));
        assert!(matches!(huge, Err(Error::Overflow { .. })));
    }

    #[test]
    fn rows_share_memory() {
        let t = Tensor::from_slice(&[0.0_f32, 1.0, 2.0, 3.0], &[4, 1]);
        let r = t.rows(2..4);
        assert_eq!(r.bytes().as_ptr(), t.bytes()[8..].as_ptr());
        assert_eq!(t.rows(1..1).len(), 0);
    }

    #[test]
    fn another_shape_shares_memory() {
        let t = Tensor::from_slice(&[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0], &[3, 2]).rows(1..3);
        let r = t.reshaped(&[1, 4]);
        assert_eq!((r.shape(), r.bytes().as_ptr()), (&[1, 4][..], t.bytes().as_ptr()));
    }

    #[test]
    #[should_panic(expected = "Tensor(f32 [2, 2]) as [3]")]
    fn another_number_of_elements_is_no_shape() {
        let _ = Tensor::from_slice(&[0.0_f32; 4], &[2, 2]).reshaped(&[3]);
    }

    #[test]
    fn wrong_lengths_types_and_alignments_are_errors() {
        let shared: SharedBytes = Arc::new(Lines::new(64));
        let make = |range, dtype, shape: &[usize]| Tensor::from_shared(shared.clone(), range, dtype, shape);
        assert!(make(0..64, DType::F32, &[4, 4]).is_ok());
        assert!(matches!(
            make(0..60, DType::F32, &[4, 4]),
            Err(Error::Length { expected: 64, found: 60, .. })
        ));
        assert!(matches!(make(4..68, DType::F32, &[4, 4]), Err(Error::Length { found: 60, .. })));
        assert!(matches!(make(2..6, DType::F32, &[1]), Err(Error::Misaligned { dtype: DType::F32 })));
        assert!(matches!(make(0..0, DType::F32, &[usize::MAX, 2]), Err(Error::Overflow { .. })));
        let wrong = make(0..4, DType::BF16, &[2]).unwrap();
        assert!(matches!(wrong.as_slice::<f32>(), Err(Error::DType { found: DType::BF16, .. })));
    }
}
