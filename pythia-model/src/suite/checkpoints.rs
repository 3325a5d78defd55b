//! The steps at which checkpoints were saved.

use super::{Published, TOKENS_PER_STEP, Variant};
use crate::{Error, Result};
use std::ops::RangeInclusive;

/// A checkpoint of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The N of its branch `stepN`.
    pub step: u64,
    /// Steps that its training had taken: fewer than `step` where they were of more tokens.
    pub steps_taken: u64,
    /// Tokens that its training had seen.
    pub tokens: u64,
}

impl Published {
    /// Its checkpoints, in order: 154 for most models, at the steps 0, 1, 2, 4, ..., 512, 1000, 2000, ..., 143000; for first
    /// versions the 143 from 1000 on; with an intervention, those since it began.
    pub fn checkpoints(&self) -> impl DoubleEndedIterator<Item = Checkpoint> + use<> {
        let batch = self.batch_tokens();
        self.steps().map(move |step| {
            let tokens = step * TOKENS_PER_STEP;
            Checkpoint { step, steps_taken: tokens / batch, tokens }
        })
    }

    fn steps(&self) -> impl DoubleEndedIterator<Item = u64> + use<> {
        let (early, thousands): (bool, RangeInclusive<u64>) = match self.variant {
            Variant::V0 | Variant::DedupedV0 => (false, 1..=143),
            Variant::Intervention => (false, 134..=143),
            Variant::LongIntervention => (false, 114..=143),
            _ => (true, 1..=143),
        };
        let early = std::iter::once(0).chain((0..10).map(|i| 1 << i)).filter(move |_| early);
        early.chain(thousands.map(|k| 1000 * k))
    }

    /// Nothing, if there is a checkpoint `stepN`.
    ///
    /// # Errors
    /// If not; the text names the nearest ones.
    pub fn check_step(&self, step: u64) -> Result<()> {
        if self.steps().any(|saved| saved == step) {
            return Ok(());
        }
        let below = self.steps().rev().find(|saved| *saved < step).map(|saved| format!("step{saved}"));
        let above = self.steps().find(|saved| *saved > step).map(|saved| format!("step{saved}"));
        let nearest = match (below, above) {
            (Some(below), Some(above)) => format!("nearest are {below} and {above}"),
            (below, above) => format!("nearest is {}", below.or(above).unwrap_or_default()),
        };
        Err(Error::Argument(format!("{} has no checkpoint step{step}: {nearest}", self.hub_id())))
    }

    /// Nothing, if `revision` is `stepN` for a step with a checkpoint, or is not a step at all: a branch, a tag, a commit.
    ///
    /// # Errors
    /// If there is no such step; the text names the nearest ones.
    pub fn check_revision(&self, revision: &str) -> Result<()> {
        let digits = revision.strip_prefix("step").unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(());
        }
        // More digits than fit are more than any step.
        let step = digits.parse().unwrap_or(u64::MAX);
        self.check_step(step)?;
        if digits == step.to_string() {
            return Ok(());
        }
        Err(Error::Argument(format!(
            "{} has no checkpoint {revision}: it is called step{step}",
            self.hub_id()
        )))
    }
}
