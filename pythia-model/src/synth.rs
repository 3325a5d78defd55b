//! Synthetic models: weights that are the same bytes from any language, so that full-size speed and agreement can
//! be measured without shipping gigabytes.
//!
//! Element `i` (row-major) of a tensor is `centre + amp (2 u - 1)`, computed in `f64` and rounded once to `f16`. The
//! `u` in `[0, 1)` are the upper 24 bits of the outputs of `SplitMix64`, started at the FNV-1a hash of the tensor's
//! name XOR the model's seed; `centre` and `amp` follow from the name and the shape.

use crate::weights::layout::EMBED_IN;
use crate::weights::safetensors;
use crate::{Error, Result, Size, disk};
use half::f16;
use half::slice::HalfFloatSliceExt;
use pythia_tensor::DType;
use rayon::prelude::*;
use std::fs;
use std::io::{self, Write};
use std::mem;
use std::path::Path;

/// Elements that are generated while as many are written.
const PIECE: usize = 1 << 22;
/// Elements that one thread generates at a time.
const BLOCK: usize = 1 << 16;
/// Elements that are held in `f32` on the way to `f16`.
const ROUND: usize = 1 << 10;

/// Writes a model of a published size, `model.safetensors` and `config.json`, into a folder, which is created if it
/// does not exist. Existing files are replaced; each appears whole or not at all. Memory stays below 50 MB.
///
/// # Errors
/// If the system cannot write. A half-written file is removed.
pub fn write(size: &Size, dir: impl AsRef<Path>, seed: u64) -> Result<()> {
    let (dir, config) = (dir.as_ref(), size.config());
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    // The order in which safetensors writes tensors of one type.
    let mut tensors = config.tensors();
    tensors.sort();
    disk::write_whole(&dir.join("model.safetensors"), |file| {
        let infos = tensors.iter().map(|(name, shape)| (&name[..], DType::F16, &shape[..]));
        file.write_all(&safetensors::header(infos)?)?;
        write_tensors(file, &tensors, seed)
    })?;
    disk::write_whole(&dir.join("config.json"), |file| file.write_all(config.to_json().as_bytes()))
}

/// The elements of one tensor, row by row.
///
/// # Panics
/// If the shape is too large for memory.
pub fn tensor(name: &str, shape: &[usize], seed: u64) -> Vec<f16> {
    let mut out = vec![f16::ZERO; shape.iter().product()];
    Values::of(name, shape, seed).fill(0, &mut out);
    out
}

/// Writes the tensors' elements, generating a piece while the one before it is written.
fn write_tensors(
    out: &mut (impl Write + Send),
    tensors: &[(String, Vec<usize>)],
    seed: u64,
) -> io::Result<()> {
    let (mut ready, mut next) = (Vec::new(), Vec::new());
    for (name, shape) in tensors {
        let values = Values::of(name, shape, seed);
        let n: usize = shape.iter().product();
        for start in (0..n).step_by(PIECE) {
            next.resize(PIECE.min(n - start), f16::ZERO);
            let (written, ()) =
                rayon::join(|| out.write_all(bytemuck::cast_slice(&ready)), || values.fill(start, &mut next));
            written?;
            mem::swap(&mut ready, &mut next);
        }
    }
    out.write_all(bytemuck::cast_slice(&ready))
}

/// The stream of numbers that one tensor holds.
struct Values {
    seed: u64,
    centre: f64,
    amp: f64,
}

impl Values {
    fn of(name: &str, shape: &[usize], seed: u64) -> Self {
        let (centre, amp) = match *shape {
            [_, _] if name == EMBED_IN => (0.0, 1.0),
            [_, fan_in] => {
                let into_residual =
                    name.ends_with("attention.dense.weight") || name.ends_with("mlp.dense_4h_to_h.weight");
                (0.0, (3.0 / fan_in as f64).sqrt() * if into_residual { 0.5 } else { 1.0 })
            }
            _ if name.contains("norm.weight") => (1.0, 0.1),
            _ => (0.0, 0.05),
        };
        Self { seed: fnv1a64(name) ^ seed, centre, amp }
    }

    /// Fills `out` with the elements from `start` on, using all threads.
    fn fill(&self, start: usize, out: &mut [f16]) {
        out.par_chunks_mut(BLOCK)
            .enumerate()
            .for_each(|(i, block)| self.fill_block(start + i * BLOCK, block));
    }

    fn fill_block(&self, start: usize, out: &mut [f16]) {
        let mut odd = [0.0; ROUND];
        let mut state = self.seed.wrapping_add((start as u64).wrapping_mul(GOLDEN));
        for out in out.chunks_mut(ROUND) {
            let odd = &mut odd[..out.len()];
            for x in &mut *odd {
                state = state.wrapping_add(GOLDEN);
                let u = (mix(state) >> 40) as f64 * 2.0_f64.powi(-24);
                *x = round_to_odd(self.centre + self.amp * (2.0 * u - 1.0));
            }
            out.convert_from_f32_slice(odd);
        }
    }
}

/// The distance between the states of `SplitMix64` (Steele, Lea and Flood, 2014): 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output of `SplitMix64` for a state.
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The 64-bit FNV-1a hash.
fn fnv1a64(text: &str) -> u64 {
    let offset = 0xCBF2_9CE4_8422_2325;
    text.bytes().fold(offset, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// `x` cut to an `f32`, whose last bit is set if anything was lost. Rounding that to `f16` is the same as rounding
/// `x` once, which two roundings to nearest are not (Boldo and Melquiond, "Emulation of FMA and correctly rounded
/// sums", 2008), and `half` converts slices of `f32` with the processor's own instruction; its `from_f64` rounds
/// twice where that exists. Holds for all finite `x` that an `f16` can hold, and those that round to 0.
#[inline]
fn round_to_odd(x: f64) -> f32 {
    const LOST: u64 = (1 << 29) - 1;
    let bits = x.to_bits();
    let sticky = ((bits & LOST) + LOST) & (LOST + 1);
    f64::from_bits((bits & !LOST) | sticky) as f32
}

#[cfg(test)]
mod tests;
