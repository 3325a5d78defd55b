//! The tales of the reference data's validation set, and how well a model predicts them.

use pythia_model::{Cache, Model, Sequence, Tokenizer, Workspace};
use pythia_tensor::{Crew, ops};
use serde_json::Value;
use std::path::Path;

/// Tokens whose loss a window gives.
pub const WINDOW: usize = 256;

/// Windows in one forward pass.
const WINDOWS: usize = 16;

/// The tales of a file of JSON lines, each as `[0] + ids`, end to end.
///
/// # Panics
/// If the file cannot be read.
pub fn ids(tokenizer: &Tokenizer, tales: &Path) -> Vec<u32> {
    let tales = std::fs::read_to_string(tales).unwrap_or_else(|e| panic!("{}: {e}", tales.display()));
    let mut ids = Vec::new();
    for tale in tales.lines() {
        let tale: Value = serde_json::from_str(tale).expect("a line of JSON");
        ids.push(0);
        ids.extend(tokenizer.encode(tale["text"].as_str().expect("a text")).expect("token ids"));
    }
    ids
}

/// The mean loss over all windows of `WINDOW + 1` ids, each of which starts with the last id of the one before.
///
/// # Panics
/// If the model does not take the ids.
pub fn mean_loss(crew: &Crew<'_>, model: &Model, ids: &[u32]) -> f64 {
    let starts: Vec<usize> = (0..ids.len() - WINDOW).step_by(WINDOW).collect();
    let mut caches: Vec<Cache> = (0..WINDOWS).map(|_| model.cache(WINDOW).expect("a cache")).collect();
    let mut workspace = Workspace::new();
    let mut sum = 0.0;
    for starts in starts.chunks(WINDOWS) {
        for cache in &mut caches {
            cache.truncate(0);
        }
        let mut batch: Vec<Sequence<'_>> = starts
            .iter()
            .zip(&mut caches)
            .map(|(&start, cache)| Sequence::all(&ids[start..start + WINDOW], cache))
            .collect();
        let logits = model.forward(crew, &mut batch, &mut workspace).unwrap_or_else(|e| panic!("{e}"));
        let mut log_sums = vec![0.0; logits.rows()];
        ops::log_sum_exp(crew, &mut log_sums, logits);
        let next = starts.iter().flat_map(|&start| &ids[start + 1..=start + WINDOW]);
        sum += next
            .zip(log_sums)
            .enumerate()
            .map(|(row, (&id, log_sum))| f64::from(log_sum) - f64::from(logits.row(row)[id as usize]))
            .sum::<f64>();
    }
    sum / (starts.len() * WINDOW) as f64
}
