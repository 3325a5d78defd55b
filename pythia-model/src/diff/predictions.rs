//! What two models predict, token by token of a text.

use crate::sampling::refuse_nan;
use crate::{Error, Model, Result, Sequence, Workspace};
use pythia_tensor::{Crew, Mat, ops};

/// Rows of logits of either model that exist at a time.
const ROWS: usize = 32;

/// What a model's unembedding reads on a text: its predictions, in far less memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Hidden {
    ids: Vec<u32>,
    /// `[T, C]`.
    states: Vec<f32>,
}

impl Hidden {
    /// Reads `ids` with `model`.
    ///
    /// # Errors
    /// If there are no tokens, more than the context holds, or ids outside the vocabulary, or the crew's instruction set does
    /// not have the model's precision.
    pub fn of(crew: &Crew<'_>, model: &Model, ids: &[u32]) -> Result<Self> {
        let (mut cache, mut workspace) = (model.cache(ids.len())?, Workspace::new());
        let hidden = model.forward_hidden(crew, &mut [Sequence::none(ids, &mut cache)], &mut workspace)?;
        let states = (0..hidden.rows()).flat_map(|t| hidden.row(t)).copied().collect();
        Ok(Self { ids: ids.to_owned(), states })
    }
}

/// How far apart two models' next-token distributions are on a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// KL(A‖B), the divergence of B's distribution from A's after each token, in nats.
    pub divergences: Vec<f32>,
    /// Tokens after which both find the same one most probable.
    pub agreeing: usize,
    /// The log-probability of the text by either, natural logarithms; of all tokens but the first.
    pub log_probs: [f64; 2],
    /// The tokens that the distributions are over: all rows of the unembedding, or those that both models have.
    pub vocabulary: usize,
}

impl Predictions {
    /// The mean divergence.
    pub fn mean(&self) -> f64 {
        self.divergences.iter().map(|&d| f64::from(d)).sum::<f64>() / self.divergences.len() as f64
    }

    /// The largest divergence, and the number of the token that it comes after, counted from 0.
    pub fn largest(&self) -> (usize, f32) {
        let larger = |most: (usize, f32), (at, &d): (usize, &f32)| if d > most.1 { (at, d) } else { most };
        self.divergences.iter().enumerate().fold((0, 0.0), larger)
    }

    /// The part of the tokens after which both find the same one most probable.
    pub fn agreement(&self) -> f64 {
        self.agreeing as f64 / self.divergences.len() as f64
    }
}

/// Compares what two models predict after each token of the text that both have read. Where one vocabulary has more rows, the
/// distributions are those over the rows that both have.
///
/// # Errors
/// If the models have read different texts, or one produces NaN.
pub fn predictions(crew: &Crew<'_>, a: (&Model, &Hidden), b: (&Model, &Hidden)) -> Result<Predictions> {
    let ids = &a.1.ids;
    if *ids != b.1.ids {
        return Err(Error::Argument("the two models have read different texts".to_owned()));
    }
    let vocabulary = a.0.config().vocab_size.min(b.0.config().vocab_size);
    let mut sides = [Side::new(a, vocabulary), Side::new(b, vocabulary)];
    let mut divergences = vec![0.0; ids.len()];
    let mut agreeing = 0;
    for (i, divergences) in divergences.chunks_mut(ROWS).enumerate() {
        let start = i * ROWS;
        let next = ids.get(start + 1..).unwrap_or_default();
        let [a, b] = &mut sides;
        let a = a.read(crew, start, divergences.len(), next)?;
        let b = b.read(crew, start, divergences.len(), next)?;
        ops::divergence(crew, divergences, a, b);
        agreeing += (0..a.rows()).filter(|&r| best(a.row(r)) == best(b.row(r))).count();
    }
    Ok(Predictions { divergences, agreeing, log_probs: sides.map(|side| side.log_prob), vocabulary })
}

/// One model and its part of the comparison so far.
struct Side<'a> {
    model: &'a Model,
    hidden: Mat<'a>,
    vocabulary: usize,
    logits: Vec<f32>,
    log_prob: f64,
}

impl<'a> Side<'a> {
    fn new((model, hidden): (&'a Model, &'a Hidden), vocabulary: usize) -> Self {
        let hidden = Mat::new(&hidden.states, model.config().hidden_size);
        let logits = vec![0.0; ROWS.min(hidden.rows()) * model.config().vocab_size];
        Self { model, hidden, vocabulary, logits, log_prob: 0.0 }
    }

    /// The logits after `rows` tokens from `start` on; and takes the log-probabilities of the tokens that come `next`.
    fn read(&mut self, crew: &Crew<'_>, start: usize, rows: usize, next: &[u32]) -> Result<Mat<'_>> {
        let v = self.model.config().vocab_size;
        let logits = self.logits.get_mut(..rows * v).unwrap_or_default();
        self.model.unembed(crew, self.hidden.slice_rows(start..start + rows), logits);
        logits.chunks_exact(v).try_for_each(refuse_nan)?;
        let logits = Mat::new(logits, v).slice_cols(0..self.vocabulary);
        // The same arithmetic as in `score`, so that both say the same of the same token.
        let mut totals = vec![0.0; rows];
        ops::log_sum_exp(crew, &mut totals, logits);
        for (r, (&id, total)) in next.iter().zip(totals).enumerate() {
            self.log_prob +=
                logits.row(r).get(id as usize).map_or(f64::NEG_INFINITY, |&l| f64::from(l - total));
        }
        Ok(logits)
    }
}

/// The place of the largest logit, the first among equals.
fn best(logits: &[f32]) -> usize {
    let larger = |best: (usize, f32), (at, &l): (usize, &f32)| if l > best.1 { (at, l) } else { best };
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), larger).0
}
