//! [`FileSums`]: what the matrices of a file add up to, while somebody reads it; and how a tensor is added up.

use super::Part;
use crate::weights::layout::{EMBED_IN, EMBED_OUT, LM_HEAD, layer_of};
use crate::{Config, TensorFile};
use pythia_tensor::ops::sum_of_squares;
use pythia_tensor::{Crew, DType};
use std::collections::{HashMap, HashSet};
use std::hash::Hasher as _;
use std::ops::Range;
use std::path::Path;
use twox_hash::XxHash3_64;

/// Bytes whose squares are summed by themselves, counted from the start of a tensor: a sum must not depend on where the pieces
/// end that its bytes come in. A whole number of the kernel's own pieces, in each type.
const STEP: usize = 2048;

/// A tensor, whose bytes come in any pieces.
pub(super) struct TensorSum {
    hash: XxHash3_64,
    norm: Option<Norm>,
}

/// The sum of the squares of all numbers.
struct Norm {
    dtype: DType,
    /// The start of a step whose end has not come yet.
    begun: Vec<u8>,
    squares: f64,
}

impl TensorSum {
    /// Without its norm, which takes time, that is said to be 0.
    pub(super) fn new(dtype: DType, with_norm: bool) -> Self {
        let norm = with_norm.then(|| Norm { dtype, begun: Vec::new(), squares: 0.0 });
        Self { hash: XxHash3_64::new(), norm }
    }

    pub(super) fn update(&mut self, crew: &Crew<'_>, bytes: &[u8]) {
        self.hash.write(bytes);
        if let Some(norm) = &mut self.norm {
            norm.update(crew, bytes);
        }
    }

    pub(super) fn finish(self, crew: &Crew<'_>) -> Part {
        let squares =
            self.norm.map_or(0.0, |norm| norm.squares + sum_of_squares(crew, norm.dtype, &norm.begun));
        Part { norm: squares.sqrt(), hash: self.hash.finish() }
    }
}

impl Norm {
    fn update(&mut self, crew: &Crew<'_>, mut bytes: &[u8]) {
        if !self.begun.is_empty() {
            let (end, later) = bytes.split_at(bytes.len().min(STEP - self.begun.len()));
            self.begun.extend_from_slice(end);
            if self.begun.len() < STEP {
                return;
            }
            self.squares += sum_of_squares(crew, self.dtype, &self.begun);
            self.begun.clear();
            bytes = later;
        }
        let (steps, rest) = bytes.split_at(bytes.len() / STEP * STEP);
        self.squares += sum_of_squares(crew, self.dtype, steps);
        self.begun.extend_from_slice(rest);
    }
}

/// The sums of the matrices of one file, for [`Fingerprint::of`](super::Fingerprint::of): who reads the file anyway tells
/// them of its bytes.
#[derive(Default)]
pub struct FileSums {
    matrices: Vec<(Range<usize>, TensorSum)>,
    /// Bytes told of so far.
    position: usize,
}

impl FileSums {
    /// Of a file that is called `name` in its model's folder. It has no sums if it cannot be opened or is of another kind
    /// than safetensors and `.bin`.
    pub fn new(path: &Path, name: &str, config: &Config) -> Self {
        let open = match name.rsplit_once('.') {
            Some((_, "safetensors")) => TensorFile::open,
            Some((_, "bin")) => TensorFile::open_pytorch,
            _ => return Self::default(),
        };
        let Ok(file) = open(path) else { return Self::default() };
        // They are looked at when the matrices are summed.
        file.ask_for_vectors();
        // A file may have any number of others, all in the same place.
        let known: HashSet<String> = config.tensors().into_iter().map(|(name, _)| name).collect();
        let of_model = |name: &str| known.contains(name) || name == LM_HEAD;
        let matrices = file.plain_matrices().filter(|(name, ..)| of_model(name));
        let sum = |(name, dtype, range): (&str, DType, Range<usize>)| {
            (range, TensorSum::new(dtype, has_norm(name, config)))
        };
        Self { matrices: matrices.map(sum).collect(), position: 0 }
    }

    /// Whether there is nothing to sum.
    pub fn is_empty(&self) -> bool {
        self.matrices.is_empty()
    }

    /// Adds the next bytes of the file.
    pub fn update(&mut self, crew: &Crew<'_>, bytes: &[u8]) {
        let here = self.position..self.position + bytes.len();
        for (range, sum) in &mut self.matrices {
            let (start, end) = (range.start.max(here.start), range.end.min(here.end));
            if start < end
                && let Some(part) = bytes.get(start - here.start..end - here.start)
            {
                sum.update(crew, part);
            }
        }
        self.position = here.end;
    }

    /// The sums of what was read to its end.
    pub fn finish(self, crew: &Crew<'_>) -> Summed {
        let whole = self.matrices.into_iter().filter(|(range, _)| range.end <= self.position);
        Summed(whole.map(|(range, sum)| (range, sum.finish(crew))).collect())
    }
}

/// What [`FileSums`] found, by the matrices' places.
#[derive(Debug, Default)]
pub struct Summed(HashMap<Range<usize>, Part>);

impl Summed {
    pub(super) fn get(&self, place: &Range<usize>) -> Option<Part> {
        self.0.get(place).copied()
    }
}

/// Whether the norm of a matrix is part of a fingerprint.
fn has_norm(name: &str, config: &Config) -> bool {
    [EMBED_IN, EMBED_OUT, LM_HEAD].contains(&name) || layer_of(name) == Some(middle(config.num_hidden_layers))
}

/// The layer that stands for all, of so many.
pub(super) fn middle(layers: usize) -> usize {
    layers / 2
}
