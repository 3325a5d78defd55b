//! [`Parts`]: a tensor that the ranks of model parallelism share.

use super::names::Split;
use crate::weights::file::TensorFile;
use crate::{Error, Result};
use half::{bf16, f16};
use pythia_tensor::{DType, Tensor};
use std::ops::Range;

/// A tensor of the model, as one file of each rank has it.
pub(in crate::weights) struct Parts {
    /// What the files call it.
    pub(super) stored: String,
    /// Their places among the checkpoint's files, rank by rank.
    pub(super) files: Range<usize>,
    pub(super) split: Split,
}

impl Parts {
    /// The first of its files.
    pub(in crate::weights) fn first<'a>(&self, files: &'a [TensorFile]) -> Option<&'a TensorFile> {
        files.get(self.files.start)
    }

    /// The type and the shape of the whole.
    ///
    /// # Errors
    /// If a rank lacks it, or has another type or shape than the first.
    pub(in crate::weights) fn info(&self, files: &[TensorFile]) -> Result<Option<(DType, Vec<usize>)>> {
        let Some((first, others)) = files.get(self.files.clone()).and_then(<[_]>::split_first) else {
            return Ok(None);
        };
        let (dtype, shape) = self.part(first)?;
        for file in others {
            let (found_dtype, found) = self.part(file)?;
            if (found_dtype, found) != (dtype, shape) {
                let rank_0 = first.path().file_name().unwrap_or_default().display();
                let message =
                    format!("expected {dtype} {shape:?} as in {rank_0}, found {found_dtype} {found:?}");
                return Err(Error::tensor(file.path(), &*self.stored, message));
            }
        }
        let (mut whole, ranks) = (shape.to_vec(), self.files.len());
        let split = match self.split {
            Split::Rows => Some(0),
            Split::Columns => Some(1),
            Split::Copies | Split::Terms => None,
        };
        if let Some(dimension) = split.filter(|_| ranks > 1) {
            let size = whole.get_mut(dimension).and_then(|n| {
                *n = n.checked_mul(ranks)?;
                Some(n)
            });
            if size.is_none() {
                let message = format!("{shape:?} is no part of a tensor split over {ranks} ranks");
                return Err(Error::tensor(first.path(), &*self.stored, message));
            }
        }
        Ok(Some((dtype, whole)))
    }

    /// The tensor: mapped if there is one rank, else merged in memory of its own.
    ///
    /// # Errors
    /// As [`Parts::info`] and [`TensorFile::tensor`].
    pub(in crate::weights) fn tensor(&self, files: &[TensorFile]) -> Result<Option<Tensor>> {
        let (Some((dtype, shape)), Some(first)) = (self.info(files)?, self.first(files)) else {
            return Ok(None);
        };
        let files = files.get(self.files.clone()).unwrap_or_default();
        let part = |file: &TensorFile| file.tensor(&self.stored)?.ok_or_else(|| self.missing(file));
        let parts: Vec<Tensor> = files.iter().map(part).collect::<Result<_>>()?;
        if let [whole] = &parts[..] {
            return Ok(Some(whole.clone()));
        }
        let rows = shape.first().copied().unwrap_or(0);
        let merged = match self.split {
            Split::Rows => Tensor::filled(dtype, &shape, |whole| interleave(whole, &parts, 1)),
            Split::Columns => Tensor::filled(dtype, &shape, |whole| interleave(whole, &parts, rows)),
            Split::Copies => Ok(sum(&parts, dtype, &shape, parts.len() as f64)),
            Split::Terms => Ok(sum(&parts, dtype, &shape, 1.0)),
        };
        merged.map(Some).map_err(|e| Error::tensor(first.path(), &*self.stored, e.to_string()))
    }

    /// The type and the shape of a rank's part.
    fn part<'a>(&self, file: &'a TensorFile) -> Result<(DType, &'a [usize])> {
        file.info(&self.stored)?.ok_or_else(|| self.missing(file))
    }

    fn missing(&self, file: &TensorFile) -> Error {
        Error::tensor(file.path(), &*self.stored, "missing: the same layer of another rank has it")
    }
}

/// Cuts each part into `rows` equal pieces, and lays the first of every part side by side, then the second of every part,
/// and so on.
fn interleave(whole: &mut [u8], parts: &[Tensor], rows: usize) {
    let mut rest = whole;
    for row in 0..rows {
        for part in parts.iter().map(Tensor::bytes) {
            let length = part.len() / rows;
            let (piece, behind) = rest.split_at_mut(length);
            piece.copy_from_slice(&part[row * length..][..length]);
            rest = behind;
        }
    }
}

/// The sum of the parts over `divisor`: in `f64`, then rounded to `dtype`.
fn sum(parts: &[Tensor], dtype: DType, shape: &[usize], divisor: f64) -> Tensor {
    let wide = |part: &Tensor| part.to_f32().into_iter().map(f64::from);
    let sums = parts.iter().map(|part| wide(part).collect::<Vec<_>>()).reduce(|mut sums, part| {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        sums
    });
    let numbers = sums.unwrap_or_default().into_iter().map(|sum| sum / divisor);
    match dtype {
        DType::F16 => Tensor::from_slice(&numbers.map(f16::from_f64).collect::<Vec<_>>(), shape),
        DType::BF16 => Tensor::from_slice(&numbers.map(bf16::from_f64).collect::<Vec<_>>(), shape),
        _ => Tensor::from_slice(&numbers.map(|x| x as f32).collect::<Vec<_>>(), shape),
    }
}
