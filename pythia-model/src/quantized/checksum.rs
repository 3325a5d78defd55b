//! Checksums: of all bytes, on all cores, and of some, in no time.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::hash::Hasher as _;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use twox_hash::XxHash3_64;

/// An XXH3 hash of 64 bits, in hexadecimal digits. It tells damage, not malice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checksum(String);

/// Bytes that one thread hashes at a time.
const BLOCK: usize = 1 << 20;

/// Bytes of a sample, one page of memory.
const PAGE: usize = 4096;

/// Pages that stand for a matrix.
const PAGES: usize = 4;

impl Checksum {
    fn new(hash: u64) -> Self {
        Self(format!("{hash:016x}"))
    }

    /// As long as any other.
    pub(super) fn blank() -> Self {
        Self::new(0)
    }

    /// Of all bytes: the hash of the hashes of their blocks of 1 MB.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let blocks: Vec<[u8; 8]> =
            bytes.par_chunks(BLOCK).map(|block| XxHash3_64::oneshot(block).to_le_bytes()).collect();
        Self::new(XxHash3_64::oneshot(blocks.as_flattened()))
    }

    /// Of a sample: four pages from the first to the last, as far apart as can be; everything if that is no more.
    pub(super) fn of_sample(bytes: &[u8]) -> Self {
        let mut hash = XxHash3_64::new();
        pages(bytes.len()).for_each(|page| hash.write(&bytes[page]));
        Self::new(hash.finish())
    }

    /// The same of the `len` bytes of a file from `start` on, which are read.
    pub(super) fn of_sample_of_file(mut file: &File, start: u64, len: usize) -> io::Result<Self> {
        let mut hash = XxHash3_64::new();
        for page in pages(len) {
            let mut bytes = vec![0; page.len()];
            file.seek(SeekFrom::Start(start + page.start as u64))?;
            file.read_exact(&mut bytes)?;
            hash.write(&bytes);
        }
        Ok(Self::new(hash.finish()))
    }
}

/// Where the sample of `len` bytes lies.
fn pages(len: usize) -> impl Iterator<Item = Range<usize>> {
    let (count, size) = if len > PAGES * PAGE { (PAGES, PAGE) } else { (1, len) };
    // The last one at the very end, the others where pages of memory lie.
    let start = move |i| if i + 1 == count { len - size } else { len / (PAGES - 1) * i / PAGE * PAGE };
    (0..count).map(move |i| start(i)..start(i) + size)
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn hashes_are_those_of_everybody() {
        // By another implementation.
        let bytes: Vec<u8> = (0..100_000_usize).map(|i| ((i * i) >> 7) as u8).collect();
        for (bytes, hash) in [(&[][..], 0x2d06_8005_38d3_94c2), (&bytes, 0xad76_882b_407c_13f9)] {
            let mut pieces = XxHash3_64::new();
            bytes.chunks(1001).for_each(|piece| pieces.write(piece));
            assert_eq!((XxHash3_64::oneshot(bytes), pieces.finish()), (hash, hash));
        }
    }

    #[test]
    fn every_byte_counts_and_of_a_sample_those_of_its_pages() {
        let mut bytes: Vec<u8> = (0..3 * BLOCK + 5).map(|i| (i * 7 % 251) as u8).collect();
        let (all, sample) = (Checksum::of(&bytes), Checksum::of_sample(&bytes));
        let last = bytes.len() - 1;
        for (at, sampled) in
            [(0, true), (PAGE, false), (BLOCK + PAGE, false), (last - PAGE, false), (last, true)]
        {
            bytes[at] ^= 1;
            assert_ne!(Checksum::of(&bytes), all, "{at}");
            assert_eq!(Checksum::of_sample(&bytes) != sample, sampled, "{at}");
            bytes[at] ^= 1;
        }
        assert_eq!((Checksum::of(&bytes), Checksum::of_sample(&bytes)), (all, sample));
        for len in [0, 1, PAGES * PAGE - 1, PAGES * PAGE, PAGES * PAGE + 1] {
            let sample = Checksum::of_sample(&bytes[..len]);
            assert_eq!(sample.to_string().len(), Checksum::blank().to_string().len());
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[b"front", &bytes[..len]].concat()).unwrap();
            assert_eq!(Checksum::of_sample_of_file(&file, 5, len).unwrap(), sample, "{len}");
            assert!(Checksum::of_sample_of_file(&file, 6, len).is_err() || len == 0, "{len}");
        }
    }
}
