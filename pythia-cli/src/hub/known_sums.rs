//! [`KnownSums`]: a faster checksum of bytes whose SHA-256 is known.

use super::cache::write_whole;
use super::checksum::{Digest, is_sha256};
use crate::cache_folder::cache_folder;
use std::fs;
use std::path::PathBuf;

/// Notes of which XXH3 the bytes with a SHA-256 have, one small file each in `~/.cache/pythia-cli/checksums`.
///
/// Bytes have one SHA-256 and one XXH3, whatever file they are in, so that a note never goes stale: who has computed both
/// may make one, and a file with the XXH3 of the note has its SHA-256. That holds for accidents (a change goes unseen
/// once in 2^128), not for malice: XXH3 is no cryptographic hash.
#[derive(Debug, Default)]
pub(crate) struct KnownSums {
    /// None if there is no place for notes.
    folder: Option<PathBuf>,
}

impl KnownSums {
    /// Those of the user.
    pub(crate) fn of_user() -> Self {
        Self { folder: cache_folder("checksums").ok() }
    }

    /// The XXH3, of 128 bits, of the bytes that have a SHA-256.
    pub(crate) fn get(&self, sha256: &str) -> Option<u128> {
        let text = fs::read_to_string(self.path(sha256)?).ok()?;
        let hex = Some(text.trim_end()).filter(|hex| hex.len() == 32)?;
        u128::from_str_radix(hex, 16).ok()
    }

    /// Makes a note of a SHA-256. If that fails, the next who asks computes it.
    pub(crate) fn note(&self, Digest { hex, xxh3 }: &Digest) {
        if let (Some(path), Some(xxh3)) = (self.path(hex), xxh3)
            && self.get(hex) != Some(*xxh3)
        {
            let _ = write_whole(&path, format!("{xxh3:032x}\n").as_bytes());
        }
    }

    fn path(&self, sha256: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref().filter(|_| is_sha256(sha256))?;
        Some(folder.join(sha256.to_ascii_lowercase()))
    }
}

#[cfg(test)]
impl KnownSums {
    /// Notes in a folder of the test's.
    pub(crate) fn in_folder(folder: &std::path::Path) -> Self {
        Self { folder: Some(folder.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_found_again_and_damaged_ones_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join("a/b");
        let sums = KnownSums::in_folder(&notes);
        let digest = |hex: &str, xxh3| Digest { hex: hex.to_owned(), xxh3 };
        let sha256 = "ab".repeat(32);
        assert_eq!(sums.get(&sha256), None);
        sums.note(&digest(&sha256, Some(0x12)));
        assert_eq!((sums.get(&sha256), sums.get(&"0".repeat(64))), (Some(0x12), None));
        for text in ["", "12", &"g".repeat(32), &"1".repeat(33)] {
            fs::write(notes.join(&sha256), text).unwrap();
            assert_eq!(sums.get(&sha256), None, "{text}");
        }
        sums.note(&digest(&sha256, Some(u128::MAX)));
        assert_eq!(sums.get(&sha256), Some(u128::MAX));
        assert_eq!(sums.get(&sha256.to_ascii_uppercase()), Some(u128::MAX));
        // A name that is no SHA-256 leads nowhere; a git blob's checksum has no note; a folder may not be made.
        sums.note(&digest("../x", Some(1)));
        sums.note(&digest(&"1".repeat(64), None));
        assert_eq!((sums.get("../x"), fs::read_dir(&notes).unwrap().count()), (None, 1));
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
        let nowhere = KnownSums::in_folder(&notes.join(&sha256));
        nowhere.note(&digest(&sha256, Some(1)));
        assert_eq!((nowhere.get(&sha256), KnownSums::default().get(&sha256)), (None, None));
    }
}
