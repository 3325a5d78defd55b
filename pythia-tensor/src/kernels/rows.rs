//! Kernels that work row by row: layer norm, GELU, softmax, log-softmax, additions.

use super::math;
use crate::simd::{Arithmetic, Simd, Two, stamp};
use std::ops::Range;

/// Which form of GELU a model was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// `x/2 (1 + erf(x / sqrt 2))`, transformers' `gelu`.
    Erf,
    /// The approximation by tanh, transformers' `gelu_new` and `gelu_pytorch_tanh`.
    Tanh,
}

stamp! {
    /// `out = (x - mean) / sqrt(variance + eps) * weight + bias`.
    pub(crate) fn layer_norm_row(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) = layer_norm_body;
    /// GELU of each element, in place.
    pub(crate) fn gelu_row(x: &mut [f32], form: Gelu) = gelu_body;
    /// `x = e^(x - max) / sum`.
    pub(crate) fn softmax_row(x: &mut [f32]) = softmax_body;
    /// Finishes a row of `sums` into `out`.
    pub(crate) fn epilogue_row(sums: &[f32], then: Epilogue<'_>, out: &mut [f32]) = epilogue;
    /// Asks for a row that will be needed soon. Rows of activations lie pages apart, where no prefetcher of the hardware follows.
    pub(crate) fn ask_for(row: &[f32]) = ask;
    /// `ln(sum of e^x)`.
    pub(crate) fn log_sum_exp_row(x: &[f32]) -> f32 = log_sum_exp_body;
}

/// Asks for what will be needed soon, a cache line after another.
#[inline(always)]
pub(crate) fn ask<S: Simd, T>(s: S, x: &[T]) {
    x.chunks(64 / size_of::<T>()).for_each(|line| s.prefetch(line.as_ptr()));
}

/// Applies `f` to each vector of `x`, the rest at the end included. `f` sees only lanes, so an element's result does
/// not depend on where it stands.
///
/// Closures over vectors are called at one place only, here and below: one that is called at two is not inlined, and
/// then not compiled for the instruction set (it cost 15 % of a prefill).
#[inline(always)]
fn map<S: Simd>(s: S, x: &mut [f32], f: impl Fn(S::F32) -> S::F32) {
    for x in x.chunks_mut(S::LANES) {
        s.store_part(f(s.load_part(x)), x);
    }
}

/// The sum of `f(x)` over all elements: LANES partial sums, then [`Simd::sum`].
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32], f: impl Fn(S::F32) -> S::F32) -> f32 {
    let mut total = s.zero();
    for x in x.chunks(S::LANES) {
        total = s.add(total, s.keep(f(s.load_part(x)), x.len()));
    }
    s.sum(total)
}

#[inline(always)]
fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let whole = x.chunks_exact(S::LANES);
    let rest = whole.remainder();
    let mut top = s.splat(f32::NEG_INFINITY);
    for x in whole {
        top = s.max(s.load(x), top);
    }
    rest.iter().fold(s.reduce_max(top), |a, &b| if b > a { b } else { a })
}

#[inline(always)]
fn layer_norm_body<S: Simd>(s: S, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = s.splat(sum(s, x, |x| x) / n);
    let variance = sum(s, x, |x| {
        let d = s.sub(x, mean);
        s.mul(d, d)
    }) / n;
    let rstd = s.splat(1.0 / (variance + eps).sqrt());
    for (i, out) in out.chunks_mut(S::LANES).enumerate() {
        let at = i * S::LANES..i * S::LANES + out.len();
        let (x, weight) = (s.load_part(&x[at.clone()]), s.load_part(&weight[at.clone()]));
        let bias = s.load_part(&bias[at]);
        s.store_part(s.mul_add(s.mul(s.sub(x, mean), rstd), weight, bias), out);
    }
}

#[inline(always)]
fn gelu<S: Arithmetic>(s: S, x: S::F32, form: Gelu) -> S::F32 {
    match form {
        Gelu::Erf => math::gelu_erf(s, x),
        Gelu::Tanh => math::gelu_tanh(s, x),
    }
}

#[inline(always)]
fn gelu_body<S: Simd>(s: S, x: &mut [f32], form: Gelu) {
    let (pairs, rest) = x.split_at_mut(whole_pairs::<S>(x.len()));
    gelu_all(Two(s), pairs, form);
    gelu_all(s, rest, form);
}

#[inline(always)]
fn gelu_all<S: Arithmetic>(s: S, x: &mut [f32], form: Gelu) {
    for x in x.chunks_mut(S::LANES) {
        s.store_part(gelu(s, s.load_part(x), form), x);
    }
}

/// How many of `len` elements fill pairs of vectors. Only these go side by side: for an empty second vector, half the work would be wasted
/// (AVX-512's tiles of 16 columns are one vector wide).
fn whole_pairs<S: Simd>(len: usize) -> usize {
    len / Two::<S>::LANES * Two::<S>::LANES
}

#[inline(always)]
fn softmax_body<S: Simd>(s: S, x: &mut [f32]) {
    let top = s.splat(max(s, x));
    map(s, x, |x| math::exp(s, s.sub(x, top)));
    let total = s.splat(sum(s, x, |x| x));
    map(s, x, |x| s.div(x, total));
}

#[inline(always)]
fn log_sum_exp_body<S: Simd>(s: S, x: &[f32]) -> f32 {
    let top = max(s, x);
    let shift = s.splat(top);
    top + sum(s, x, |x| math::exp(s, s.sub(x, shift))).ln()
}

/// What becomes of the sums of a linear layer.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// Added first, one number a column.
    pub(crate) bias: Option<&'a [f32]>,
    /// Then applied.
    pub(crate) gelu: Option<Gelu>,
    /// Whether the result is added to what the output holds, the residual stream, or replaces it.
    pub(crate) add: bool,
}

impl Epilogue<'_> {
    /// The same for some of the columns.
    pub(crate) fn slice(self, cols: Range<usize>) -> Self {
        Self { bias: self.bias.map(|bias| &bias[cols]), ..self }
    }
}

/// Finishes a row of `sums` into `out`.
#[inline(always)]
pub(super) fn epilogue<S: Simd>(s: S, sums: &[f32], then: Epilogue<'_>, out: &mut [f32]) {
    let (pairs, cols) = (whole_pairs::<S>(out.len()), out.len());
    let (first, rest) = out.split_at_mut(pairs);
    finish(Two(s), &sums[..pairs], then.slice(0..pairs), first);
    finish(s, &sums[pairs..], then.slice(pairs..cols), rest);
}

#[inline(always)]
fn finish<S: Arithmetic>(s: S, sums: &[f32], then: Epilogue<'_>, out: &mut [f32]) {
    for (i, out) in out.chunks_mut(S::LANES).enumerate() {
        let at = i * S::LANES..i * S::LANES + out.len();
        let mut x = s.load_part(&sums[at.clone()]);
        if let Some(bias) = then.bias {
            x = s.add(x, s.load_part(&bias[at]));
        }
        if let Some(form) = then.gelu {
            x = gelu(s, x, form);
        }
        if then.add {
            x = s.add(s.load_part(out), x);
        }
        s.store_part(x, out);
    }
}

/// The plain twin of layer norm, in `f64` (Ba et al. 2016, equation 4).
pub fn layer_norm_reference(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    let rstd = 1.0 / (variance + f64::from(eps)).sqrt();
    let affine = weight.iter().zip(bias).map(|(&w, &b)| (f64::from(w), f64::from(b)));
    x.iter().zip(affine).map(|(&x, (w, b))| (f64::from(x) - mean) * rstd * w + b).collect()
}

/// The plain twin of softmax, in `f64`.
pub fn softmax_reference(x: &[f32]) -> Vec<f64> {
    let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f64> = x.iter().map(|&x| (f64::from(x) - f64::from(top)).exp()).collect();
    let total: f64 = e.iter().sum();
    e.into_iter().map(|e| e / total).collect()
}

/// The plain twin of the logarithm of a sum of exponentials, in `f64`.
pub fn log_sum_exp_reference(x: &[f32]) -> f64 {
    let top = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    top + x.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln()
}

/// The plain twin of both GELUs, in `f64`, with the error function by its Taylor series or continued fraction.
pub fn gelu_reference(x: f32, form: Gelu) -> f64 {
    let x = f64::from(x);
    let gate = match form {
        Gelu::Erf => math::erf_reference(x * std::f64::consts::FRAC_1_SQRT_2),
        Gelu::Tanh => ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh(),
    };
    0.5 * x * (1.0 + gate)
}

#[cfg(test)]
mod tests;
