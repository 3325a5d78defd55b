//! How far apart two distributions are that are given by logits.

use super::rows::softmax_reference;

/// The Kullback-Leibler divergence `sum of p ln(p / q)` of the distributions that two rows of logits stand for, in nats, in
/// `f64`: 0 for equal rows, exactly.
///
/// With `A` and `B` for the sums of `e^a` and `e^b`, it is `(sum of e^a (a - b)) / A - ln A + ln B`, which takes one pass
/// beside that for the largest logits.
pub(crate) fn divergence_row(a: &[f32], b: &[f32]) -> f64 {
    let top = |x: &[f32]| f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let (a_top, b_top) = (top(a), top(b));
    let (mut a_sum, mut b_sum, mut weighted) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a) - a_top, f64::from(b) - b_top);
        let (e_a, e_b) = (a.exp(), b.exp());
        a_sum += e_a;
        b_sum += e_b;
        weighted += e_a * (a - b);
    }
    // Rounding may leave a little less than nothing; what is not a number stays.
    let divergence = weighted / a_sum - (a_sum.ln() - b_sum.ln());
    if divergence < 0.0 { 0.0 } else { divergence }
}

/// The plain twin: the definition (Kullback and Leibler 1951, equation 2.4), on probabilities.
pub fn divergence_reference(a: &[f32], b: &[f32]) -> f64 {
    let (p, q) = (softmax_reference(a), softmax_reference(b));
    p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum()
}
