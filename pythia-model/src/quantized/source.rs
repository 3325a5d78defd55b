//! [`Source`]: which weights a file was quantised from.

use super::SMALL;
use super::checksum::Checksum;
use crate::{FileStamp, Weights};
use pythia_tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::UNIX_EPOCH;

/// What identifies weights without reading gigabytes: their files' lengths and times, and a checksum of the matrices.
/// The checksum is of all their bytes up to 64 MB together; above, of four pages of 4 KB of each matrix, about 400 in all.
///
/// So a file that was written again is always noticed, unless somebody put its time back and left all the pages as
/// they were. A copy of the same file is other weights, if it has another time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    files: Vec<File>,
    content: Checksum,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct File {
    /// For whoever reads the header: models may move.
    path: String,
    length: u64,
    /// Nanoseconds since 1970.
    modified: Option<u64>,
}

impl PartialEq for File {
    fn eq(&self, other: &Self) -> bool {
        (self.length, self.modified) == (other.length, other.modified)
    }
}

impl Eq for File {}

impl Source {
    pub(super) fn of(weights: &Weights) -> Self {
        let small = weights.matrices().map(|(_, m)| m.bytes().len()).sum::<usize>() <= SMALL;
        let files: Vec<_> = weights
            .files
            .iter()
            .filter_map(|stamp| Some((stamp, fs::File::open(&stamp.path).ok()?)))
            .collect();
        let checksum = |bytes: &[u8]| if small { Checksum::of(bytes) } else { sample(&files, bytes) };
        let line = |(name, matrix): (String, &Tensor)| {
            let (dtype, shape, checksum) = (matrix.dtype(), matrix.shape(), checksum(matrix.bytes()));
            format!("{name} {dtype} {shape:?} {checksum}\n")
        };
        let lines = weights.matrices().map(line).collect::<Vec<_>>().concat();
        Self { files: weights.files.iter().map(File::of).collect(), content: Checksum::of(lines.as_bytes()) }
    }

    /// What differs from `now`, if anything does.
    pub(super) fn difference(&self, now: &Self) -> Option<String> {
        if self == now {
            return None;
        }
        let changed = self.files.iter().zip(&now.files).find(|(then, now)| then != now);
        Some(match changed {
            Some((then, now)) if then.length != now.length => {
                format!("{} has {} bytes, not {}", now.path, now.length, then.length)
            }
            Some((_, now)) => format!("{} was written since", now.path),
            None if self.files.len() != now.files.len() => {
                format!("they lie in {} files, not {}", now.files.len(), self.files.len())
            }
            None => "the matrices have other numbers".to_owned(),
        })
    }
}

/// The checksum of some pages of a matrix. Those of a mapped file are read, as looking at them would map up to 2 MB
/// around each: 320 MB more that seem to be resident for 410m, whose weights are not needed any more.
fn sample(files: &[(&FileStamp, fs::File)], bytes: &[u8]) -> Checksum {
    let read = |(stamp, file): &(&FileStamp, fs::File)| {
        Checksum::of_sample_of_file(file, stamp.offset(bytes)?, bytes.len()).ok()
    };
    files.iter().find_map(read).unwrap_or_else(|| Checksum::of_sample(bytes))
}

impl File {
    fn of(stamp: &FileStamp) -> Self {
        let since = stamp.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            path: stamp.path.display().to_string(),
            length: stamp.length,
            modified: since.and_then(|since| u64::try_from(since.as_nanos()).ok()),
        }
    }
}
