//! `a · wᵀ` with int8 or int4 weights and activations that are rounded to int8.

use crate::Mat;
use crate::quantized::{BLOCK, Quantized};
use std::ops::Range;

/// The codes and the scale of up to [`BLOCK`] activations.
fn quantize_activations(a: &[f32]) -> (Vec<i8>, f32) {
    let top = a.iter().fold(0.0_f32, |top, x| x.abs().max(top));
    let not_finite = a.iter().map(|x| x * 0.0).sum::<f32>();
    let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
    let codes = a.iter().map(|x| (x * inverse).round_ties_even() as i8).collect();
    (codes, top / 127.0 + not_finite)
}

/// `out[m][n] = sum over k of a[m][k] * w[cols][k]`.
pub(crate) fn quantized_products(a: Mat<'_>, w: &Quantized, cols: Range<usize>, out: &mut [f32]) {
    out.fill(0.0);
    for m in 0..a.rows() {
        let out = &mut out[m * cols.len()..][..cols.len()];
        for (b, block) in a.row(m).chunks(BLOCK).enumerate() {
            let (codes, scale) = quantize_activations(block);
            for (n, out) in cols.clone().zip(out.iter_mut()) {
                let sum: i32 =
                    codes.iter().enumerate().map(|(k, &a)| i32::from(a) * w.code(n, b * BLOCK + k)).sum();
                *out += sum as f32 * (w.scale(n, b * BLOCK) * scale);
            }
        }
    }
}

/// The plain twin of the kernel: the same codes, in `f64`.
pub fn quantized_matmul_reference(a: Mat<'_>, w: &Quantized) -> Vec<f64> {
    let mut out = Vec::new();
    for m in 0..a.rows() {
        for n in 0..w.shape()[0] {
            let blocks = a.row(m).chunks(BLOCK).enumerate().map(|(b, block)| {
                let (codes, scale) = quantize_activations(block);
                let terms =
                    codes.iter().zip(b * BLOCK..).map(|(&a, k)| i64::from(a) * i64::from(w.code(n, k)));
                terms.sum::<i64>() as f64 * f64::from(scale) * f64::from(w.scale(n, b * BLOCK))
            });
            out.push(blocks.sum());
        }
    }
    out
}
