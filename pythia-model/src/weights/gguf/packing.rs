//! [`Packing`]: tensors that do not lie in the file as they do in memory.

use half::f16;
use pythia_tensor::{DType, Error, Tensor};
use std::sync::Arc;

/// What has to be done with a tensor's bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Packing {
    /// How numbers are quantised, if they are.
    pub(super) block: Option<Block>,
    /// Of so many heads the rows are `[q, k, v][head][D]`. With one head there is no difference.
    pub(super) heads: usize,
}

/// 32 numbers with one scale, which is an `f16`: ggml's `block_q4_0` and `block_q8_0`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Block {
    /// Numbers from -8 to 7, the second 16 in the upper halves of the bytes.
    Q4_0,
    /// Numbers from -128 to 127.
    Q8_0,
}

/// Owned numbers, as the memory of a tensor.
struct Floats(Vec<f32>);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Block {
    pub(super) const NUMBERS: usize = 32;

    /// The bytes of a block.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + Self::NUMBERS / 2,
            Self::Q8_0 => 2 + Self::NUMBERS,
        }
    }

    /// Appends the numbers of a row's blocks.
    fn unpack(self, row: &[u8], out: &mut Vec<f32>) {
        for block in row.chunks_exact(self.bytes()) {
            let Some((scale, quants)) = block.split_first_chunk() else { continue };
            let scale = f16::from_le_bytes(*scale).to_f32();
            match self {
                Self::Q4_0 => {
                    out.extend(quants.iter().map(|q| scale * (f32::from(q & 15) - 8.0)));
                    out.extend(quants.iter().map(|q| scale * (f32::from(q >> 4) - 8.0)));
                }
                Self::Q8_0 => out.extend(quants.iter().map(|&q| scale * f32::from(q as i8))),
            }
        }
    }
}

impl Packing {
    /// The tensor of these bytes, as many as its shape needs.
    pub(crate) fn unpack(self, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor, Error> {
        let rows = shape.first().copied().unwrap_or(1);
        let length = bytes.len().checked_div(rows).unwrap_or(0);
        let row = |row: usize| {
            let start = self.in_file(row, rows) * length;
            bytes.get(start..start + length).unwrap_or_default()
        };
        let Some(block) = self.block else {
            let mut out = Vec::with_capacity(bytes.len());
            (0..rows).for_each(|i| out.extend_from_slice(row(i)));
            return Tensor::from_bytes(&out, dtype, shape);
        };
        let mut out = Vec::with_capacity(bytes.len() / block.bytes() * Block::NUMBERS);
        (0..rows).for_each(|i| block.unpack(row(i), &mut out));
        let range = 0..out.len() * size_of::<f32>();
        Tensor::from_shared(Arc::new(Floats(out)), range, dtype, shape)
    }

    /// Where in the file a row of the tensor lies.
    fn in_file(self, row: usize, rows: usize) -> usize {
        if self.heads < 2 || rows == 0 {
            return row;
        }
        let d = rows / (3 * self.heads);
        let (head, part) = (row / d / 3, row / d % 3);
        (part * self.heads + head) * d + row % d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_scales_and_numbers() {
        let scale = f16::from_f32(0.5).to_le_bytes();
        let quants: Vec<u8> = (0..16).map(|i| i * 17).collect();
        let q4 = [&scale[..], &quants].concat();
        let packing = |block| Packing { block: Some(block), heads: 1 };
        let numbers = packing(Block::Q4_0).unpack(&q4, DType::F32, &[1, 32]).unwrap().to_f32();
        let expected: Vec<_> = (0..32).map(|i| 0.5 * ((i % 16) as f32 - 8.0)).collect();
        assert_eq!(numbers, expected);
        let quants: Vec<u8> = (0..32).map(|i| (i * 8_u8).wrapping_add(128)).collect();
        let q8 = [&scale[..], &quants].concat();
        let numbers = packing(Block::Q8_0).unpack(&q8, DType::F32, &[1, 32]).unwrap().to_f32();
        let expected: Vec<_> = (0..32).map(|i| 0.5 * (i as f32 * 8.0 - 128.0)).collect();
        assert_eq!(numbers, expected);
    }

    #[test]
    fn heads_come_together() {
        // Two heads of two dimensions: the file has q0 q0 q1 q1 k0 ...
        let bytes: Vec<u8> = (0..12_u16).flat_map(u16::to_le_bytes).collect();
        let packing = Packing { block: None, heads: 2 };
        let tensor = packing.unpack(&bytes, DType::F16, &[12, 1]).unwrap();
        let order: &[u16] = bytemuck::cast_slice(tensor.bytes());
        assert_eq!(order, [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]);
    }
}
