//! [`Workspace`]: every activation of a forward pass, kept from pass to pass.

use crate::{Config, Sequence};
use pythia_tensor::Floats;

/// The memory of forward passes. It grows to the largest batch it has seen; after that a pass allocates nothing for
/// its activations.
#[derive(Debug, Default)]
pub struct Workspace {
    /// The new tokens of all sequences, end to end, `[T]`.
    pub(crate) ids: Vec<u32>,
    /// The residual stream, `[T, C]`.
    pub(crate) x: Floats,
    /// What attention reads, `[T, C]`; after the last layer, what the unembedding reads.
    pub(crate) ln1: Floats,
    /// What the MLP reads, `[T, C]`.
    pub(crate) ln2: Floats,
    /// `[T, 3 C]`, rows `[head][q, k, v][D]`.
    pub(crate) qkv: Floats,
    /// The heads' mixes of values, `[T, C]`.
    pub(crate) z: Floats,
    /// The MLP's neurons, `[T, intermediate_size]`.
    pub(crate) neurons: Floats,
    /// What attention and the MLP add to the residual stream, `[T, C]` each, where they are computed apart.
    pub(crate) attn_out: Floats,
    pub(crate) mlp_out: Floats,
    /// The rows whose logits are wanted, `[R, C]`.
    pub(crate) picked: Floats,
    /// `[R, V]`.
    pub(crate) logits: Floats,
    /// Attention's blocks of rows, each of one sequence: where they end and begin.
    pub(crate) blocks: Vec<usize>,
    /// For each block, its sequence and the position of its first row.
    pub(crate) block_of: Vec<(usize, usize)>,
}

/// Rows of a block of attention: as many queries as its kernel takes.
const BLOCK_ROWS: usize = 32;

impl Workspace {
    /// A workspace without memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lays the batch out: ids end to end, attention's blocks, and room for the activations.
    pub(crate) fn begin(&mut self, config: &Config, batch: &[Sequence<'_>]) {
        self.ids.clear();
        self.blocks.clear();
        self.blocks.push(0);
        self.block_of.clear();
        for (i, sequence) in batch.iter().enumerate() {
            for (b, block) in sequence.ids.chunks(BLOCK_ROWS).enumerate() {
                self.ids.extend_from_slice(block);
                self.blocks.push(self.ids.len());
                self.block_of.push((i, sequence.cache.len() + b * BLOCK_ROWS));
            }
        }
        let (t, c) = (self.ids.len(), config.hidden_size);
        let wanted: usize = batch.iter().map(|s| s.logits.len()).sum();
        for (buffer, len) in [
            (&mut self.x, t * c),
            (&mut self.ln1, t * c),
            (&mut self.ln2, t * c),
            (&mut self.qkv, t * 3 * c),
            (&mut self.z, t * c),
            (&mut self.neurons, t * config.intermediate_size),
            (&mut self.picked, wanted * c),
            (&mut self.logits, wanted * config.vocab_size),
        ] {
            buffer.resize(len);
        }
    }
}
