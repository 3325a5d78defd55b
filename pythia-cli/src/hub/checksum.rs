//! The checksums by which the Hub, and the cache, call files.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash3_128;

/// What an etag says of the bytes: 64 hex digits are a sha256, 40 are git's sha1 of a blob, anything else says nothing.
pub(crate) enum Checksum {
    /// And the XXH3 of the same bytes, to be noted.
    Sha256(Sha256, Box<XxHash3_128>),
    GitBlob(Sha1),
    None,
}

/// A checksum's digest.
#[derive(Debug)]
pub(crate) struct Digest {
    pub(crate) hex: String,
    /// The XXH3 of the same bytes, of 128 bits, if the digest is a SHA-256.
    pub(crate) xxh3: Option<u128>,
}

/// Whether an etag is a SHA-256: 64 hex digits.
pub(super) fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Checksum {
    pub(crate) fn new(etag: &str, size: u64) -> Self {
        let hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
        match etag.len() {
            _ if is_sha256(etag) => Self::Sha256(Sha256::new(), Box::default()),
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
    pub(crate) fn finish(self) -> Option<Digest> {
        let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or_default();
        let hex = |digest: &[u8]| digest.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect();
        match self {
            Self::Sha256(sha, xxh3) => {
                Some(Digest { hex: hex(&sha.finalize()), xxh3: Some(xxh3.finish_128()) })
            }
            Self::GitBlob(sha) => Some(Digest { hex: hex(&sha.finalize()), xxh3: None }),
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(etag: &str, bytes: &[u8]) -> Option<Digest> {
        let mut checksum = Checksum::new(etag, bytes.len() as u64);
        bytes.chunks(2).for_each(|c| checksum.update(c));
        checksum.finish()
    }

    #[test]
    fn the_etag_says_which_checksum() {
        // `printf hello | sha256sum`, `printf hello | git hash-object --stdin` and `printf hello | xxh128sum`.
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        let xxh3 = 0xb5e9_c1ad_071b_3e7f_c779_cfaa_5e52_3818;
        for (etag, xxh3) in [(sha256, Some(xxh3)), (git, None)] {
            let found = digest(etag, b"hello").unwrap();
            assert_eq!((&*found.hex, found.xxh3), (etag, xxh3));
        }
        assert!(digest("abc-2", b"hello").is_none());
        assert!(digest(&"z".repeat(64), b"hello").is_none());
    }

    #[test]
    fn xxh3_is_that_of_everybody() {
        let digest = |bytes: &[u8]| digest(&"0".repeat(64), bytes).unwrap().xxh3.unwrap();
        let bytes: Vec<u8> = (0..100_000_usize).map(|i| ((i * i) >> 7) as u8).collect();
        // By another implementation.
        assert_eq!(digest(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
        assert_eq!(digest(&bytes), 0x5418_9ed9_d3f0_6bf9_ad76_882b_407c_13f9);
    }
}
