//! Measuring one model at one prompt length and batch size.

use super::limit::{self, Bound, Needs, Peaks};
use anyhow::Result;
use pythia_model::{Cache, Config, Model, Sequence, Workspace};
use pythia_tensor::Crew;
use std::time::Instant;

/// The tokens of the prompt that come before those that decoding is measured on, at most.
const BEFORE: usize = 64;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    /// Sequences side by side.
    pub(super) batch_size: usize,
    /// Tokens of each prompt.
    pub(super) prompt_tokens: usize,
    /// Tokens to decode of each.
    pub(super) new_tokens: usize,
    /// Measurements, of which the median counts.
    pub(super) repeats: usize,
}

/// What came out, beside the peaks that were measured just before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) peaks: Peaks,
    pub(super) prefill: Speed,
    pub(super) decode: Speed,
}

/// A speed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speed {
    /// Tokens of all sequences per second: the median.
    pub(super) tok_s: f64,
    /// Half of what lies between the slowest and the fastest, as a part of the median.
    pub(super) spread: f64,
    /// The part of the limit that is reached.
    pub(super) fraction: f64,
    /// The limit.
    pub(super) bound: Bound,
}

impl Case {
    /// Whether the model's context is long enough.
    pub(super) fn check(self, model: &Model) -> Result<()> {
        model.cache(self.prompt_tokens)?;
        model.cache(self.before().saturating_add(self.new_tokens))?;
        Ok(())
    }

    /// The tokens before those that decoding is measured on.
    fn before(self) -> usize {
        self.prompt_tokens.min(BEFORE)
    }
}

/// Measures a case.
pub(super) fn measure(case: Case, model: &Model, crew: &Crew<'_>) -> Result<Measured> {
    let (config, mut workspace) = (model.config(), Workspace::new());
    let (prompt, before, new) = (case.prompt_tokens, case.before(), case.new_tokens);
    let caches = |tokens| (0..case.batch_size).map(|_| model.cache(tokens)).collect::<Result<Vec<_>, _>>();
    let (mut prompts, mut texts) = (caches(prompt)?, caches(before.saturating_add(new))?);
    let ids = ids(config, prompt);
    let mut forward = |ids: &[u32], caches: &mut [Cache]| {
        let mut batch: Vec<_> = caches.iter_mut().map(|cache| Sequence::last(ids, cache)).collect();
        model.forward(crew, &mut batch, &mut workspace).map(|_| ())
    };

    // Its prompt brings the weights into memory.
    forward(&ids[..before], &mut texts)?;
    let peaks = Peaks::measure(crew, model.precision());
    let decode = seconds(case.repeats, || {
        texts.iter_mut().for_each(|cache| cache.truncate(before));
        Ok((0..new).try_for_each(|_| forward(&ids[..1], &mut texts))?)
    })?;
    let prefill = seconds(case.repeats, || {
        prompts.iter_mut().for_each(|cache| cache.truncate(0));
        Ok(forward(&ids[..prompt], &mut prompts)?)
    })?;

    let token = limit::decode(model, case.batch_size, before as f64 + new as f64 / 2.0);
    let tokens = Needs { flops: token.flops * new as f64, bytes: token.bytes * new as f64 };
    Ok(Measured {
        peaks,
        prefill: Speed::of(
            &prefill,
            case.batch_size * prompt,
            limit::prefill(model, case.batch_size, prompt),
            peaks,
        ),
        decode: Speed::of(&decode, case.batch_size * new, tokens, peaks),
    })
}

impl Speed {
    /// The speed of work that runs `tokens` and takes as long as `seconds`, which are sorted, say.
    fn of(seconds: &[f64], tokens: usize, needs: Needs, peaks: Peaks) -> Self {
        let n = seconds.len();
        let median = f64::midpoint(seconds[(n - 1) / 2], seconds[n / 2]);
        let (limit, bound) = peaks.limit(needs);
        Self {
            tok_s: tokens as f64 / median,
            spread: (seconds[n - 1] - seconds[0]) / 2.0 / median,
            fraction: limit / median,
            bound,
        }
    }
}

/// The times that `f` takes, sorted.
fn seconds(repeats: usize, mut f: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for _ in 0..repeats {
        let start = Instant::now();
        f()?;
        seconds.push(start.elapsed().as_secs_f64().max(1e-9));
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

/// Some token ids: speed does not depend on which.
fn ids(config: &Config, n: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 % config.vocab_size) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_the_median_with_what_lies_around_it() {
        let peaks = Peaks { gflops: 100.0, read_gb_s: 10.0 };
        let speed = Speed::of(&[1.0, 1.5, 2.5, 5.0], 80, Needs { flops: 1e11, bytes: 5e9 }, peaks);
        assert_eq!((speed.tok_s, speed.spread, speed.fraction), (40.0, 1.0, 0.5));
        assert_eq!(speed.bound, Bound::Arithmetic);
    }

    #[test]
    fn times_are_sorted() {
        let mut naps = [3, 30, 1, 10].into_iter();
        let nap = || {
            std::thread::sleep(std::time::Duration::from_millis(naps.next().unwrap_or(0)));
            Ok(())
        };
        let seconds = seconds(4, nap).unwrap();
        assert!(seconds.is_sorted() && seconds[0] >= 0.001 && seconds[3] >= 0.030, "{seconds:?}");
    }
}
