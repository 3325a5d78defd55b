//! Log-probabilities from logits.

use super::keep_best;

/// The logarithm of the sum of the exponentials of `logits`, summed in f64: `logit - log_sum_exp` is the
/// log-probability of a token. NaN if a logit is NaN or +inf; -inf if there are none.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY && !logits.iter().any(|l| l.is_nan()) {
        return f64::NEG_INFINITY;
    }
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    f64::from(max) + sum.ln()
}

/// Turns `logits` into log-probabilities in place.
pub fn log_softmax(logits: &mut [f32]) {
    let log_sum = log_sum_exp(logits);
    for l in logits {
        *l = log_prob(*l, log_sum);
    }
}

/// The `n` most probable tokens with their log-probabilities, the most probable first, the lower id among equals.
///
/// The values are exactly those that [`log_softmax`] gives.
pub fn top_log_probs(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let log_sum = log_sum_exp(logits);
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut top = Vec::new();
    keep_best((0_u32..).zip(logits.iter().copied()), n, &mut top, order);
    top.sort_unstable_by(order);
    top.iter().map(|&(id, logit)| (id, log_prob(logit, log_sum))).collect()
}

fn log_prob(logit: f32, log_sum: f64) -> f32 {
    (f64::from(logit) - log_sum) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_of_known_odds() {
        // Odds 1 : 2 : 5, on top of a constant that alone would overflow `exp`.
        let mut logits = [1.0_f32, 2.0, 5.0].map(|odds| 300.0 + odds.ln());
        log_softmax(&mut logits);
        for (log_prob, p) in logits.iter().zip([0.125_f32, 0.25, 0.625]) {
            assert!((log_prob - p.ln()).abs() < 2e-5, "{log_prob} {p}");
        }
    }

    #[test]
    fn the_top_is_sorted_and_equal_to_log_softmax() {
        let logits: Vec<f32> = (0..500).map(|i| ((i * 37) % 101) as f32 / 16.0).collect();
        let mut all = logits.clone();
        log_softmax(&mut all);
        let top = top_log_probs(&logits, 3);
        // 100 = 37 i mod 101 first at i = 30, then every 101.
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [30, 131, 232]);
        assert!(top.iter().all(|&(id, p)| p.to_bits() == all[id as usize].to_bits()));
        assert_eq!(top_log_probs(&logits, 1000).len(), 500);
    }

    #[test]
    fn forbidden_tokens_have_no_probability() {
        let mut logits = [f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY];
        log_softmax(&mut logits);
        assert_eq!(logits, [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 2]), f64::NEG_INFINITY);
        assert!(log_sum_exp(&[f32::NAN]).is_nan());
    }
}
