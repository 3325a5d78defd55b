//! Models for the tests of this crate.

use crate::{Size, synth};
use tempfile::TempDir;

/// Small, with heads of 16 dimensions: all that works on weights as a whole is quick.
pub(crate) const SMALL: Size =
    Size { name: "small", num_hidden_layers: 2, hidden_size: 48, num_attention_heads: 3, vocab_size: 90 };

/// A synthetic model in a folder, which is deleted when dropped. The weights of an opened model stay mapped.
pub(crate) fn synthetic(size: &Size, seed: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    synth::write(size, &dir, seed).unwrap();
    dir
}
