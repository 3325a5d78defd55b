//! The checksums by which the Hub, and the cache, call files.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What an etag says of the bytes: 64 hex digits are a sha256, 40 are git's sha1 of a blob, anything else says nothing.
#[derive(Debug)]
pub(crate) enum Checksum {
    Sha256(Sha256),
    GitBlob(Sha1),
    None,
}

impl Checksum {
    pub(crate) fn new(etag: &str, size: u64) -> Self {
        let hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
        match etag.len() {
            64 if hex => Self::Sha256(Sha256::new()),
            40 if hex => Self::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
            _ => Self::None,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sha) => sha.update(bytes),
            Self::GitBlob(sha) => sha.update(bytes),
            Self::None => {}
        }
    }

    /// The digest in hex, if the etag is one.
    pub(crate) fn hex(self) -> Option<String> {
        let digest = match self {
            Self::Sha256(sha) => sha.finalize().to_vec(),
            Self::GitBlob(sha) => sha.finalize().to_vec(),
            Self::None => return None,
        };
        let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or_default();
        Some(digest.into_iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(etag: &str, bytes: &[u8]) -> Option<String> {
        let mut checksum = Checksum::new(etag, bytes.len() as u64);
        bytes.chunks(2).for_each(|c| checksum.update(c));
        checksum.hex()
    }

    #[test]
    fn the_etag_says_which_checksum() {
        // `printf hello | sha256sum` and `printf hello | git hash-object --stdin`.
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        assert_eq!(checksum(sha256, b"hello").as_deref(), Some(sha256));
        assert_eq!(checksum(git, b"hello").as_deref(), Some(git));
        assert_eq!(checksum("abc-2", b"hello"), None);
        assert_eq!(checksum(&"z".repeat(64), b"hello"), None);
    }
}
