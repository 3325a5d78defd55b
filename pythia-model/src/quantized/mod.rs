//! Quantised weights, made from the stored ones: in memory, or in a file that is kept and mapped.
//!
//! Every matrix that activations are multiplied with is quantised: four in each layer and the unembedding. The
//! embedding, whose rows are only looked up, and the vectors stay as they are stored.
//!
//! **What is noticed.** A file of quantised weights is used only if
//! - its header has its checksum, this version's layout, the precision asked for and the matrices of the model;
//! - it was made from the same weights: from files of the same length and time of writing, and of the same content as far
//!   as 16 KB of each matrix tell (all bytes, if the matrices have no more than 64 MB);
//! - its length is what the header says, and so are the checksums of 16 KB of each matrix, the first and the last 4 KB
//!   among them. The checksums of *all* bytes are compared if the file has no more than 64 MB, if it was changed since it
//!   was written (by its time), if it was written just now, and with [`Check::Full`].
//!
//! So a file that is cut short, stale, of another version or changed in any byte by a program is noticed at each
//! opening; a bit that the disk itself has lost elsewhere in a large file, only with [`Check::Full`].
//!
//! The file is mapped, and like the weights (see [`TensorFile`](crate::TensorFile)) must not be changed in place while
//! it is in use. Writers replace it as a whole, so any number of processes may write and read it at once.

mod checksum;
mod file;
mod source;
#[cfg(test)]
mod tests;

use crate::{Error, Precision, Result, Weights};
use pythia_tensor::{Bits, Crew, Quantized, Tensor};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// What has no more bytes is looked at in full: it takes no time. (Tests have large files, too, which are less large.)
const SMALL: usize = if cfg!(test) { 1 << 18 } else { 64 << 20 };

/// How far quantising has come, in bytes of the quantised weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// How much of a file is looked at before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// What takes milliseconds at any size.
    #[default]
    Quick,
    /// Every byte.
    Full,
}

/// What became of the file that quantised weights are kept in.
#[derive(Debug, Default)]
pub struct Kept {
    /// Why the file that was there could not be used.
    pub unusable: Option<Error>,
    /// Whether it was written now.
    pub written: bool,
    /// Why it could not be written: then the weights are in memory only.
    pub not_written: Option<Error>,
}

/// The bits of the quantised weights of a precision.
///
/// # Errors
/// If it has none.
pub(crate) fn bits_of(precision: Precision) -> Result<Bits> {
    let message = || format!("precision `{precision}` has no quantised weights: ask for int8 or int4");
    precision.bits().ok_or_else(|| Error::Argument(message()))
}

/// Quantises every matrix in memory, in the order of [`Weights::matrices`].
pub(crate) fn in_memory(
    weights: &Weights,
    bits: Bits,
    crew: &Crew<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Quantized>> {
    let (mut done, total) = (0, file::total(weights, bits)?);
    progress(Progress { done, total });
    let quantize = |(_, matrix): (String, &Tensor)| {
        let quantized = Quantized::quantize(crew, matrix, bits);
        done += quantized.bytes().len() as u64;
        progress(Progress { done, total });
        quantized
    };
    Ok(weights.matrices().map(quantize).collect())
}

/// Every matrix quantised, from the file `path`; if there is none, or none that can be used, it is written first, with
/// the folders above it. If it cannot be written, the weights are quantised in memory.
///
/// # Errors
/// If the weights are too large for memory.
pub(crate) fn kept(
    path: &Path,
    weights: &Weights,
    bits: Bits,
    check: Check,
    crew: &Crew<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Vec<Quantized>, Kept)> {
    let unusable = match file::open(path, weights, bits, check) {
        Ok(quantized) => return Ok((quantized, Kept::default())),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => None,
        Err(e) => Some(e),
    };
    let mut write = || {
        let folder = path.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        file::write(path, weights, bits, crew, progress)?;
        file::open(path, weights, bits, Check::Full)
    };
    match write() {
        Ok(quantized) => Ok((quantized, Kept { unusable, written: true, not_written: None })),
        Err(e) => {
            let quantized = in_memory(weights, bits, crew, progress)?;
            Ok((quantized, Kept { unusable, written: false, not_written: Some(e) }))
        }
    }
}
