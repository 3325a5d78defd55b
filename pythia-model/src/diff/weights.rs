//! The weights of two models, tensor by tensor.

use super::Progress;
use crate::weights::layout::{EMBED_IN, EMBED_OUT, LINEARS, in_layer, layer_of};
use crate::{Config, Error, Model, Result};
use pythia_tensor::{Crew, Difference, Tensor, ops};
use std::collections::HashMap;

/// How far apart the weights of two models are.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsDifference {
    /// Every tensor that both have, in the order of the forward pass.
    pub tensors: Vec<TensorDifference>,
    /// The tensors that only one has, or that have other shapes.
    pub uneven: Vec<Uneven>,
    /// The embedding and, if it is not tied, the unembedding: for each, its name and the difference of every token's row.
    pub tokens: Vec<(String, Vec<Difference>)>,
}

/// How far apart a tensor is in two models.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorDifference {
    /// Its name in a checkpoint.
    pub name: String,
    /// The layer it belongs to, if any.
    pub layer: Option<usize>,
    /// The shape of what was compared.
    pub shape: Vec<usize>,
    /// All of it.
    pub difference: Difference,
    /// The element that changed most, unless all are equal.
    pub largest: Option<Largest>,
    /// What it is in any layer: one part, but of attention's first matrix and its bias queries, keys and values each.
    pub parts: Vec<Part>,
}

/// An element of a tensor in two models.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Largest {
    /// What it is in both.
    pub values: [f32; 2],
    /// Its row; 0 in a tensor of one dimension.
    pub row: usize,
    /// Its column.
    pub column: usize,
}

/// A part of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The tensor's name without its layer; `attention.query.weight` and so on for the parts of `query_key_value`.
    pub kind: String,
    /// How far apart it is.
    pub difference: Difference,
}

/// A tensor that two models do not have alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uneven {
    /// Its name in a checkpoint.
    pub name: String,
    /// Its shape in either, if it is there.
    pub shapes: [Option<Vec<usize>>; 2],
    /// The rows from the first on that were compared nonetheless: of a vocabulary, those that both have.
    pub compared_rows: usize,
}

impl WeightsDifference {
    /// All that was compared.
    pub fn all(&self) -> Difference {
        self.tensors.iter().map(|tensor| &tensor.difference).sum()
    }

    /// Each layer that has something to compare, in order.
    pub fn layers(&self) -> Vec<(usize, Difference)> {
        grouped(self.tensors.iter().filter_map(|tensor| Some((tensor.layer?, &tensor.difference))))
    }

    /// Each kind of tensor over all layers, in the order of the forward pass.
    pub fn kinds(&self) -> Vec<(&str, Difference)> {
        let parts = self.tensors.iter().flat_map(|tensor| &tensor.parts);
        grouped(parts.map(|part| (&part.kind[..], &part.difference)))
    }

    /// The `n` tensors with the largest relative distances, the largest first. Those that are zero in A, which have none, are
    /// left out.
    pub fn most_changed(&self, n: usize) -> Vec<&TensorDifference> {
        let order = most_changed(self.tensors.iter().map(|tensor| &tensor.difference), n);
        order.into_iter().filter_map(|at| self.tensors.get(at)).collect()
    }
}

/// The places of the `n` largest relative distances that are numbers, the largest first, the first among equals.
pub fn most_changed<'a>(all: impl Iterator<Item = &'a Difference>, n: usize) -> Vec<usize> {
    let relative = all.map(Difference::relative).enumerate();
    let mut order: Vec<_> = relative.filter(|(_, relative)| relative.is_finite()).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    order.into_iter().take(n).map(|(at, _)| at).collect()
}

/// The sums by key, in the order in which keys first appear.
fn grouped<'a, K: PartialEq>(all: impl Iterator<Item = (K, &'a Difference)>) -> Vec<(K, Difference)> {
    let mut groups: Vec<(K, Difference)> = Vec::new();
    for (key, difference) in all {
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, sum)) => *sum += difference,
            None => groups.push((key, *difference)),
        }
    }
    groups
}

/// Compares the stored weights of two models. `progress` is told before each tensor and at the end, in bytes of both.
///
/// Tensors of other shapes, or that only one model has, are told as [`Uneven`].
///
/// # Errors
/// If the models have other numbers of channels, so that hardly any two tensors have the same shape.
pub fn weights(
    crew: &Crew<'_>,
    a: &Model,
    b: &Model,
    progress: &mut dyn FnMut(Progress),
) -> Result<WeightsDifference> {
    let [channels, other] = [a, b].map(|model| model.config().hidden_size);
    if channels != other {
        return Err(Error::Argument(format!(
            "the models have {channels} and {other} channels (`hidden_size`), so their weights cannot be compared; only \
             what they predict can"
        )));
    }
    let (pairs, uneven) = pairs(a, b);
    let bytes = |(_, a, b): &(String, Tensor, Tensor)| (a.bytes().len() + b.bytes().len()) as u64;
    let (mut done, total) = (0, pairs.iter().map(bytes).sum());
    let heads = [a, b].map(|model| model.config().num_attention_heads);
    let mut all = WeightsDifference { tensors: Vec::new(), uneven, tokens: Vec::new() };
    for pair in &pairs {
        progress(Progress { done, total });
        done += bytes(pair);
        let (name, a, b) = pair;
        // One row for each head's queries, keys and values, if they are the same heads.
        let split = name.contains(LINEARS[0]) && heads[0] == heads[1];
        let view = |t: &Tensor| {
            if split { t.reshaped(&[3 * heads[0], t.len() / (3 * heads[0])]) } else { t.clone() }
        };
        let rows = ops::differences(crew, &view(a), &view(b));
        all.tensors.push(TensorDifference {
            layer: layer_of(name),
            shape: a.shape().to_vec(),
            difference: rows.iter().sum(),
            largest: largest(&view(a), &view(b), &rows, a.shape()),
            parts: parts(name, &rows, split),
            name: name.clone(),
        });
        if [EMBED_IN, EMBED_OUT].contains(&&name[..]) {
            all.tokens.push((name.clone(), rows));
        }
    }
    progress(Progress { done, total });
    Ok(all)
}

/// What two models have alike, and what not.
fn pairs(a: &Model, b: &Model) -> (Vec<(String, Tensor, Tensor)>, Vec<Uneven>) {
    let mut of_b: HashMap<String, Tensor> = b.weights().named(b.config()).into_iter().collect();
    let (mut pairs, mut uneven) = (Vec::new(), Vec::new());
    for (name, a) in a.weights().named(a.config()) {
        let Some(b) = of_b.remove(&name) else {
            uneven.push(Uneven { name, shapes: [Some(a.shape().to_vec()), None], compared_rows: 0 });
            continue;
        };
        if a.shape() == b.shape() {
            pairs.push((name, a, b));
            continue;
        }
        let vocabulary = [EMBED_IN, EMBED_OUT].contains(&&name[..]);
        let compared_rows = if vocabulary { a.shape()[0].min(b.shape()[0]) } else { 0 };
        let shapes = [&a, &b].map(|tensor| Some(tensor.shape().to_vec()));
        uneven.push(Uneven { name: name.clone(), shapes, compared_rows });
        if vocabulary {
            pairs.push((name, a.rows(0..compared_rows), b.rows(0..compared_rows)));
        }
    }
    let rest = b.weights().named(b.config()).into_iter().filter(|(name, _)| of_b.contains_key(name));
    let only_b = |(name, b): (String, Tensor)| Uneven {
        name,
        shapes: [None, Some(b.shape().to_vec())],
        compared_rows: 0,
    };
    uneven.extend(rest.map(only_b));
    (pairs, uneven)
}

/// The element that changed most, in a tensor of `shape` whose rows were compared as `a` and `b`, `[N, K]`, have them.
fn largest(a: &Tensor, b: &Tensor, rows: &[Difference], shape: &[usize]) -> Option<Largest> {
    let most = rows.iter().map(|row| row.largest).fold(0.0, f32::max);
    let row = rows.iter().position(|row| row.largest == most && most > 0.0)?;
    // A tensor of one dimension is one row.
    let of_row = |t: &Tensor| if t.shape().len() > 1 { t.rows(row..row + 1).to_f32() } else { t.to_f32() };
    let (a, b) = (of_row(a), of_row(b));
    let column = a.iter().zip(&b).position(|(a, b)| (b - a).abs() == most)?;
    let (place, columns) = (row * a.len() + column, *shape.last()?);
    Some(Largest {
        values: [*a.get(column)?, *b.get(column)?],
        row: place / columns,
        column: place % columns,
    })
}

fn parts(name: &str, rows: &[Difference], split: bool) -> Vec<Part> {
    let kind = layer_of(name).map_or(name, |layer| name.strip_prefix(&in_layer(layer, "")).unwrap_or(name));
    if !split {
        return vec![Part { kind: kind.to_owned(), difference: rows.iter().sum() }];
    }
    let part = |(i, part)| Part {
        kind: kind.replace("query_key_value", part),
        difference: rows.iter().skip(i).step_by(3).sum(),
    };
    ["query", "key", "value"].into_iter().enumerate().map(part).collect()
}

impl crate::Weights {
    /// Every tensor by its name in a checkpoint, in the order of the forward pass; an unembedding that is tied is the
    /// embedding. Matrices share the memory of the files.
    fn named(&self, config: &Config) -> Vec<(String, Tensor)> {
        let vector = |x: &[f32]| Tensor::from_slice(x, &[x.len()]);
        let norm = |norm: &crate::LayerNormWeights| [vector(&norm.weight), vector(&norm.bias)];
        let mut tensors = vec![self.embed_in.clone()];
        for layer in &self.layers {
            tensors.extend(norm(&layer.input_layernorm));
            tensors.extend(norm(&layer.post_attention_layernorm));
            for linear in layer.linears() {
                tensors.push(linear.weight.clone());
                tensors.extend(linear.bias.as_deref().map(vector));
            }
        }
        tensors.extend(norm(&self.final_layer_norm));
        tensors.push(self.embed_out.clone());
        config.tensors().into_iter().map(|(name, _)| name).zip(tensors).collect()
    }
}
