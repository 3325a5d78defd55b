//! What the layer files call the model's tensors, and how ranks hold them.

use crate::weights::layout::{EMBED_IN, EMBED_OUT, FINAL_LAYER_NORM, LAYER_NORMS, LINEARS, in_layer};

/// How the ranks of model parallelism hold a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// Each has some of the rows.
    Rows,
    /// Each has some of the columns.
    Columns,
    /// Each has all of it.
    Copies,
    /// It is the sum of what they have.
    Terms,
}

/// What a layer file is of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    Embedding,
    Transformer(usize),
    FinalNorm,
    Unembedding,
}

pub(super) const WORD_EMBEDDINGS: &str = "word_embeddings.weight";
pub(super) const FINAL_LINEAR: &str = "final_linear.weight";
pub(super) const NORM: &str = "norm.weight";

impl Layer {
    /// The files of a model with so many transformer layers: their numbers, and what they are.
    pub(super) fn all(transformers: usize, tied: bool) -> impl Iterator<Item = (usize, Self)> {
        let layers = (0..transformers).map(|layer| (layer + 2, Self::Transformer(layer)));
        let unembedding = (!tied).then_some((transformers + 4, Self::Unembedding));
        let ends = [(transformers + 3, Self::FinalNorm)].into_iter().chain(unembedding);
        [(0, Self::Embedding)].into_iter().chain(layers).chain(ends)
    }

    /// The name in a checkpoint of what its file calls `stored`, and how ranks hold it; `None` if no GPT-NeoX that
    /// transformers knows has such a tensor there.
    pub(super) fn tensor(self, stored: &str, parallel_residual: bool) -> Option<(String, Split)> {
        match (self, stored) {
            (Self::Embedding, WORD_EMBEDDINGS) => Some((EMBED_IN.to_owned(), Split::Rows)),
            (Self::Unembedding, FINAL_LINEAR) => Some((EMBED_OUT.to_owned(), Split::Rows)),
            (Self::FinalNorm, NORM | "norm.bias") => {
                Some((stored.replacen("norm", FINAL_LAYER_NORM, 1), Split::Copies))
            }
            (Self::Transformer(layer), _) => {
                Some((in_layer(layer, stored), split(stored, parallel_residual)?))
            }
            _ => None,
        }
    }
}

/// How ranks hold a tensor of a transformer layer.
fn split(stored: &str, parallel_residual: bool) -> Option<Split> {
    let [qkv, dense, up, down] = LINEARS;
    let (module, kind) = stored.rsplit_once('.')?;
    let by_columns = [dense, down].contains(&module);
    match kind {
        "weight" | "bias" if LAYER_NORMS.contains(&module) => Some(Split::Copies),
        "weight" | "bias" if [qkv, up].contains(&module) => Some(Split::Rows),
        "weight" if by_columns => Some(Split::Columns),
        "bias" if by_columns => Some(if parallel_residual { Split::Terms } else { Split::Copies }),
        _ => None,
    }
}
