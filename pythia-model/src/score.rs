//! Scoring: how probable the model finds a text, and what it expects next.

use crate::sampling::refuse_nan;
use crate::{Model, Result, Sequence, Workspace, top_log_probs};
use pythia_tensor::{Crew, Mat, ops};

/// Rows of logits that exist at a time: [`score`] never holds `[T, V]`.
const ROWS: usize = 32;

/// The log-probability (natural logarithm) of each token given those before it; `None` for the first.
///
/// # Errors
/// If there are no tokens, more than the context holds, or ids outside the vocabulary, or if the model produces NaN.
pub fn score(
    model: &Model,
    crew: &Crew<'_>,
    workspace: &mut Workspace,
    ids: &[u32],
) -> Result<Vec<Option<f32>>> {
    let mut cache = model.cache(ids.len())?;
    let hidden = model.forward_hidden(crew, &mut [Sequence::none(ids, &mut cache)], workspace)?;
    let v = model.config().vocab_size;
    let mut logits = vec![0.0; ROWS.min(ids.len()) * v];
    let mut totals = [0.0; ROWS];
    let mut scores = vec![None];
    for start in (0..ids.len() - 1).step_by(ROWS) {
        let rows = start..(start + ROWS).min(ids.len() - 1);
        let (logits, totals) = (&mut logits[..rows.len() * v], &mut totals[..rows.len()]);
        model.unembed(crew, hidden.slice_rows(rows.clone()), logits);
        logits.chunks_exact(v).try_for_each(refuse_nan)?;
        ops::log_sum_exp(crew, totals, Mat::new(logits, v));
        let targets = &ids[rows.start + 1..=rows.end];
        let row = |((&id, total), logits): ((&u32, &mut f32), &[f32])| Some(logits[id as usize] - *total);
        scores.extend(targets.iter().zip(totals).zip(logits.chunks_exact(v)).map(row));
    }
    Ok(scores)
}

/// The `top` most likely tokens after `ids` and their log-probabilities, best first. Probabilities are over all rows
/// of the unembedding, as transformers has them; tokens from `vocab_limit` on, its padding, are not listed.
///
/// # Errors
/// As [`score`].
pub fn next(
    model: &Model,
    crew: &Crew<'_>,
    workspace: &mut Workspace,
    ids: &[u32],
    top: usize,
    vocab_limit: usize,
) -> Result<Vec<(u32, f32)>> {
    let mut cache = model.cache(ids.len())?;
    let logits = model.forward(crew, &mut [Sequence::last(ids, &mut cache)], workspace)?;
    refuse_nan(logits.row(0))?;
    let padding = model.config().vocab_size.saturating_sub(vocab_limit);
    let mut best = top_log_probs(logits.row(0), top.saturating_add(padding));
    best.retain(|&(id, _)| (id as usize) < vocab_limit);
    best.truncate(top);
    // The same arithmetic as in `score`, so that both say the same of the same token.
    let mut total = [0.0];
    ops::log_sum_exp(crew, &mut total, logits);
    best.iter_mut().for_each(|(id, log_prob)| *log_prob = logits.row(0)[*id as usize] - total[0]);
    Ok(best)
}
