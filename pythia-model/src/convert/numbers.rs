//! The numbers of a tensor in another type, piece by piece.

use super::gguf::BLOCK;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pythia_tensor::{DType, Tensor};
use std::io::{self, Write};
use std::ops::Range;

/// Elements that are widened at a time.
const PIECE: usize = 1 << 20;

/// Calls `each` with the rows of a tensor, widened to `f32`, some at a time.
fn for_pieces(
    tensor: &Tensor,
    rows: Range<usize>,
    mut each: impl FnMut(&[f32]) -> io::Result<()>,
) -> io::Result<()> {
    let row: usize = tensor.shape().iter().skip(1).product();
    let at_once = (PIECE / row.max(1)).max(1);
    for start in rows.clone().step_by(at_once) {
        each(&tensor.rows(start..rows.end.min(start + at_once)).to_f32())?;
    }
    Ok(())
}

/// Writes rows of a tensor as `dtype`: the bits that are there, if that is its type.
///
/// # Errors
/// If a number does not fit; if the system cannot write.
pub(super) fn write_rows(
    out: &mut impl Write,
    tensor: &Tensor,
    rows: Range<usize>,
    dtype: DType,
) -> io::Result<()> {
    if dtype == tensor.dtype() {
        return out.write_all(tensor.rows(rows).bytes());
    }
    for_pieces(tensor, rows, |numbers| match dtype {
        DType::F16 => out.write_all(&halves::<f16>(numbers, f16::is_infinite)?),
        DType::BF16 => out.write_all(&halves::<bf16>(numbers, bf16::is_infinite)?),
        _ => out.write_all(bytemuck::cast_slice(numbers)),
    })
}

/// Writes rows of a tensor, multiples of 32 numbers, as ggml's blocks of 8 bits: a scale in `f16` that makes the largest
/// number 127, and 32 numbers rounded to the nearest, halves away from zero.
pub(super) fn write_q8_0(out: &mut impl Write, tensor: &Tensor, rows: Range<usize>) -> io::Result<()> {
    for_pieces(tensor, rows, |numbers| {
        let mut bytes = Vec::with_capacity(numbers.len() / BLOCK * (2 + BLOCK));
        for block in numbers.chunks_exact(BLOCK) {
            let scale = block.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / 127.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            bytes.extend(f16::from_f32(scale).to_le_bytes());
            bytes.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
        }
        out.write_all(&bytes)
    })
}

/// The bytes of `numbers`, rounded to the nearest of a type of two bytes.
fn halves<H: Copy + Default + bytemuck::Pod>(
    numbers: &[f32],
    is_infinite: fn(H) -> bool,
) -> io::Result<Vec<u8>>
where
    [H]: HalfFloatSliceExt,
{
    let mut bytes = vec![0; 2 * numbers.len()];
    let halves: &mut [H] = bytemuck::cast_slice_mut(&mut bytes);
    halves.convert_from_f32_slice(numbers);
    let lost = halves.iter().zip(numbers).find(|&(&half, x)| is_infinite(half) && x.is_finite());
    match lost {
        Some((_, x)) => Err(io::Error::other(format!("the number {x} is too large for this type"))),
        None => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole_and_bits_are_kept() {
        let (rows, columns) = (3, PIECE / 2 + 1);
        let numbers: Vec<_> = (0..rows * columns).map(|i| bf16::from_bits(i as u16)).collect();
        let tensor = Tensor::from_slice(&numbers, &[rows, columns]);
        let written = |rows, dtype| {
            let mut out = Vec::new();
            write_rows(&mut out, &tensor, rows, dtype).map(|()| out)
        };
        // The bits of every number, NaNs too.
        assert_eq!(written(0..rows, DType::BF16).unwrap(), tensor.bytes());
        assert_eq!(written(1..3, DType::BF16).unwrap(), tensor.rows(1..3).bytes());
        let wide: Vec<u8> = numbers.iter().flat_map(|x| x.to_f32().to_le_bytes()).collect();
        assert_eq!(written(0..rows, DType::F32).unwrap(), wide);
        let message = written(0..rows, DType::F16).unwrap_err().to_string();
        assert!(message.starts_with("the number 65536 is too large"), "{message}");
    }
}
