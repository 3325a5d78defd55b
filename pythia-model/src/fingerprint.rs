//! [`Fingerprint`]: what tells the weights of one checkpoint from those of another.

mod compare;
mod sums;
#[cfg(test)]
mod tests;

pub use compare::{Common, Extent, compare};
pub use sums::{FileSums, Summed};

use crate::weights::layout::{EMBED_IN, EMBED_OUT, LINEARS, in_layer};
use crate::{FileStamp, LayerNormWeights, LayerWeights, Weights};
use pythia_tensor::ops::sum_of_squares;
use pythia_tensor::{Crew, DType, Tensor};
use std::hash::Hasher as _;
use std::path::Path;
use sums::{TensorSum, middle};
use twox_hash::XxHash3_64;

/// What tells some weights from others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// The square root of the sum of the squares of all numbers: 512 at a time in `f32`, their sums in `f64`.
    pub norm: f64,
    /// An XXH3 hash of 64 bits of all bytes. It tells a difference, not malice.
    pub hash: u64,
}

/// Bytes that are looked at at once: few enough to be in the cache the second time.
const BLOCK: usize = 1 << 17;

/// The fingerprint of a checkpoint.
#[derive(Debug, Clone)]
pub struct Fingerprint {
    /// The embedding's.
    pub embedding: Part,
    /// That of the middle layer, biases and layer norms included.
    pub layer: Part,
    /// Which layer that is, counted from 0.
    pub layer_index: usize,
    /// The unembedding's; the embedding's where they are tied.
    pub unembedding: Part,
    /// The hash of all weights.
    pub hash: u64,
    /// The names of the files that the weights lie in.
    files: Vec<String>,
    matrices: Vec<Matrix>,
}

/// A matrix by its name in a checkpoint.
#[derive(Debug, Clone)]
struct Matrix {
    name: String,
    hash: u64,
    /// Which of the files it lies in, if it is not a copy in memory.
    file: Option<usize>,
}

impl Fingerprint {
    /// Reads all weights, once, but for the matrices whose sums `summed` has, by the file that they lie in; `read` is told of
    /// the bytes, as they are read.
    pub fn of<'s>(
        crew: &Crew<'_>,
        weights: &Weights,
        summed: &dyn Fn(&FileStamp) -> Option<&'s Summed>,
        read: &mut dyn FnMut(u64),
    ) -> Self {
        let file_name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
        let files = weights.files.iter().map(|file| file_name(&file.path)).collect();
        let summed = weights.files.iter().map(summed).collect();
        let mut reader = Reader { crew, weights, summed, read, matrices: Vec::new() };
        let layer_index = middle(weights.layers.len());
        let embedding = reader.table(EMBED_IN, &weights.embed_in);
        let mut all = Sum::default();
        all.add(embedding);
        let mut middle = Sum::default();
        for (l, layer) in weights.layers.iter().enumerate() {
            let part = reader.layer(l, layer, l == layer_index);
            all.add(part.part());
            if l == layer_index {
                middle = part;
            }
        }
        all.layer_norm(crew, &weights.final_layer_norm);
        let tied = weights.embed_out.bytes().as_ptr_range() == weights.embed_in.bytes().as_ptr_range();
        let unembedding = if tied { embedding } else { reader.table(EMBED_OUT, &weights.embed_out) };
        all.add(unembedding);
        let (layer, hash) = (middle.part(), all.part().hash);
        Self { embedding, layer, layer_index, unembedding, hash, files, matrices: reader.matrices }
    }
}

/// Parts, put together.
#[derive(Default)]
struct Sum {
    squares: f64,
    hash: XxHash3_64,
}

impl Sum {
    fn add(&mut self, part: Part) {
        self.squares += part.norm * part.norm;
        self.hash.write(&part.hash.to_le_bytes());
    }

    fn vector(&mut self, crew: &Crew<'_>, numbers: &[f32]) {
        let bytes = bytemuck::cast_slice(numbers);
        self.squares += sum_of_squares(crew, DType::F32, bytes);
        self.hash.write(bytes);
    }

    fn layer_norm(&mut self, crew: &Crew<'_>, LayerNormWeights { weight, bias }: &LayerNormWeights) {
        self.vector(crew, weight);
        self.vector(crew, bias);
    }

    fn part(&self) -> Part {
        Part { norm: self.squares.sqrt(), hash: self.hash.finish() }
    }
}

/// Goes through the weights.
struct Reader<'a> {
    crew: &'a Crew<'a>,
    weights: &'a Weights,
    /// Of each of the files.
    summed: Vec<Option<&'a Summed>>,
    read: &'a mut dyn FnMut(u64),
    matrices: Vec<Matrix>,
}

impl Reader<'_> {
    fn table(&mut self, name: &str, table: &Tensor) -> Part {
        self.matrix(name.to_owned(), table, true)
    }

    fn layer(&mut self, l: usize, layer: &LayerWeights, with_norm: bool) -> Sum {
        let mut sum = Sum::default();
        sum.layer_norm(self.crew, &layer.input_layernorm);
        sum.layer_norm(self.crew, &layer.post_attention_layernorm);
        for (name, linear) in LINEARS.into_iter().zip(layer.linears()) {
            sum.add(self.matrix(in_layer(l, name) + ".weight", &linear.weight, with_norm));
            linear.bias.iter().for_each(|bias| sum.vector(self.crew, bias));
        }
        sum
    }

    fn matrix(&mut self, name: String, matrix: &Tensor, with_norm: bool) -> Part {
        let bytes = matrix.bytes();
        let offset = |file: &FileStamp| Some(file.offset(bytes)? as usize);
        let mut places = self.weights.files.iter().map(offset).enumerate();
        let place = places.find_map(|(file, offset)| Some((file, offset?)));
        let summed = |(file, start): (usize, usize)| {
            self.summed.get(file).copied()??.get(&(start..start + bytes.len()))
        };
        let part = place.and_then(summed).unwrap_or_else(|| {
            let mut sum = TensorSum::new(matrix.dtype(), with_norm);
            for block in bytes.chunks(BLOCK) {
                sum.update(self.crew, block);
                (self.read)(block.len() as u64);
            }
            sum.finish(self.crew)
        });
        let file = place.map(|(file, _)| file);
        self.matrices.push(Matrix { name, hash: part.hash, file });
        part
    }
}
