//! The checksums by which the Hub, and the cache, call files.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_128;

/// What an etag says of the bytes: 64 hex digits are a sha256, 40 are git's sha1 of a blob, anything else says nothing.
pub(crate) enum Checksum {
    /// With the bytes' XXH3, which is known for the next time then.
    Sha256(Sha256, Box<XxHash3_128>),
    GitBlob(Sha1),
    None,
}

/// A checksum's digest.
#[derive(Debug)]
pub(crate) struct Sum {
    pub(crate) hex: String,
    /// The XXH3 of the same bytes, if the digest is a SHA-256.
    pub(crate) xxh3: Option<u128>,
}

impl Checksum {
    pub(crate) fn new(etag: &str, size: u64) -> Self {
        let hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
        match etag.len() {
            64 if hex => Self::Sha256(Sha256::new(), Box::default()),
            40 if hex => Self::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
            _ => Self::None,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sha, xxh3) => {
                sha.update(bytes);
                xxh3.write(bytes);
            }
            Self::GitBlob(sha) => sha.update(bytes),
            Self::None => {}
        }
    }

    /// The digest, if the etag is one.
    pub(crate) fn finish(self) -> Option<Sum> {
        let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or_default();
        let hex = |digest: &[u8]| digest.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect();
        match self {
            Self::Sha256(sha, xxh3) => Some(Sum { hex: hex(&sha.finalize()), xxh3: Some(xxh3.finish_128()) }),
            Self::GitBlob(sha) => Some(Sum { hex: hex(&sha.finalize()), xxh3: None }),
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(etag: &str, bytes: &[u8]) -> Option<String> {
        let mut checksum = Checksum::new(etag, bytes.len() as u64);
        bytes.chunks(2).for_each(|c| checksum.update(c));
        checksum.finish().map(|sum| sum.hex)
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
