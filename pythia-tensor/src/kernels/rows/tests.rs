use super::*;
use crate::Isa;
use crate::simd::stamp;
use proptest::prelude::*;

const U: f64 = f32::EPSILON as f64 / 2.0;

fn close(got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64, what: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!(got.len(), want.len());
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        prop_assert!((f64::from(got) - want).abs() <= bound(i), "{} at {}: {} for {}", what, i, got, want);
    }
    Ok(())
}

fn row(max: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-20.0_f32..20.0, 1..max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Each of the n additions of a sum rounds once, so relative errors stay below (n + 20) u of the magnitudes.
    #[test]
    fn softmax_and_log_sum_exp(x in row(300)) {
        let want = softmax_reference(&x);
        // The argument x - max, up to 40, is rounded before the exponential.
        let relative = (x.len() as f64 + 60.0) * U;
        for &isa in Isa::available() {
            let mut got = x.clone();
            softmax_row(isa, &mut got);
            close(&got, &want, |i| relative * want[i] + 1e-37, isa.name())?;
            let lse = f64::from(log_sum_exp_row(isa, &x));
            let want = log_sum_exp_reference(&x);
            prop_assert!((lse - want).abs() <= relative + 2.0 * U * want.abs(), "{} {} {}", isa, lse, want);
        }
    }

    #[test]
    fn layer_norm(x in row(300), scale in 0.1_f32..10.0) {
        let weight: Vec<f32> = x.iter().map(|x| x * 0.1 + 1.0).collect();
        let bias: Vec<f32> = x.iter().rev().map(|x| x * scale).collect();
        let want = layer_norm_reference(&x, &weight, &bias, 1e-5);
        let n = x.len() as f64;
        let std = (x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n).sqrt();
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        // Errors of the mean (n u times the typical magnitude) are magnified by 1 / sqrt(variance + eps).
        let rstd = 1.0 / (variance + 1e-5).sqrt();
        let bound = |i: usize| {
            let w = f64::from(weight[i]).abs();
            (n + 20.0) * U * (want[i].abs() + f64::from(bias[i]).abs() + w * rstd * (std + f64::from(x[i]).abs()) * (1.0 + n.sqrt()))
        };
        for &isa in Isa::available() {
            let mut got = vec![f32::NAN; x.len()];
            layer_norm_row(isa, &x, &weight, &bias, 1e-5, &mut got);
            close(&got, &want, bound, isa.name())?;
        }
    }

    /// GELU's absolute error: 1 + erf rounds to 2u, times x/2, plus the rounding of the argument.
    #[test]
    fn gelu_forms(x in row(100)) {
        for form in [Gelu::Erf, Gelu::Tanh] {
            let want: Vec<f64> = x.iter().map(|&x| gelu_reference(x, form)).collect();
            for &isa in Isa::available() {
                let mut got = x.clone();
                gelu_row(isa, &mut got, form);
                close(&got, &want, |i| 8.0 * U * f64::from(x[i]).abs(), isa.name())?;
            }
        }
    }

    /// The fused epilogue gives the bits of its parts done one after another.
    #[test]
    fn epilogue_is_its_parts(x in row(100), add: bool, biased: bool, form in 0..3) {
        let form = [None, Some(Gelu::Erf), Some(Gelu::Tanh)][form as usize];
        let bias: Vec<f32> = x.iter().rev().copied().collect();
        for &isa in Isa::available() {
            let mut parts: Vec<f32> = x.iter().zip(&bias).map(|(x, b)| if biased { x + b } else { *x }).collect();
            if let Some(form) = form {
                gelu_row(isa, &mut parts, form);
            }
            if add {
                parts.iter_mut().zip(&x).for_each(|(p, r)| *p += r);
            }
            let mut fused = x.clone();
            let then = Epilogue { bias: biased.then_some(&bias[..]), gelu: form, add };
            epilogue_row(isa, &x, then, &mut fused);
            prop_assert_eq!(fused, parts);
        }
    }
}

#[test]
fn softmax_ignores_masked_entries() {
    for &isa in Isa::available() {
        let mut x = [0.0, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        softmax_row(isa, &mut x);
        assert_eq!(x, [0.5, 0.0, 0.5, 0.0, 0.0], "{isa}");
    }
}

stamp! {
    fn gelu_by_single_vectors(x: &mut [f32], form: Gelu) = gelu_all;
}

#[test]
fn two_vectors_side_by_side_have_the_bits_of_one() {
    let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
    for &isa in Isa::available() {
        for form in [Gelu::Erf, Gelu::Tanh] {
            for len in 0..=4 * isa.lanes() + 1 {
                let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.77 - 9.0) * 0.4).collect();
                let (mut two, mut one) = (x.clone(), x);
                gelu_row(isa, &mut two, form);
                gelu_by_single_vectors(isa, &mut one, form);
                assert_eq!(bits(&two), bits(&one), "{isa}, {form:?}, {len} elements");
            }
        }
    }
}
