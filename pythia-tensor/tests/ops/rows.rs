//! Embedding, layer norm, GELU, softmax and their relatives.

use crate::numbers::{DTYPES, U, assert_near, numbers, on_every_team, tensor};
use proptest::prelude::*;
use pythia_tensor::ops::{embedding, gelu, layer_norm, log_softmax, log_sum_exp, softmax};
use pythia_tensor::reference::{
    gelu_reference, layer_norm_reference, log_sum_exp_reference, softmax_reference,
};
use pythia_tensor::{Gelu, Mat, MatMut};

/// Rows and columns, from one number to enough for all threads of a team.
fn shape() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![(1..8_usize, 1..100_usize), (1..40_usize, 300..2000_usize)]
}

/// The relative error of a sum of `n` positive exponentials of numbers up to 40 below the largest: each lane, of four
/// at least, adds `n / 4` of them; the argument's rounding weighs 40 u; the rest is for `exp`, the lanes and a division.
fn softmax_error(n: usize) -> f64 {
    (n as f64 / 4.0 + 60.0) * U
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn softmax_is_the_references((rows, cols) in shape(), seed: u64) {
        let x = numbers(seed, rows * cols, 20.0);
        let want: Vec<f64> = x.chunks(cols).flat_map(softmax_reference).collect();
        let results = on_every_team(|crew| {
            let mut x = x.clone();
            softmax(crew, MatMut::new(&mut x, cols));
            x
        });
        for (isa, got) in results {
            assert_near(&got, &want, |i| softmax_error(cols) * want[i] + 1e-37, format_args!("{isa} {rows}x{cols}"));
        }
    }

    /// The logarithm turns the relative error of the sum into an absolute one and rounds twice.
    #[test]
    fn log_sum_exp_and_log_softmax_are_the_references((rows, cols) in shape(), seed: u64) {
        let x = numbers(seed, rows * cols, 20.0);
        let totals: Vec<f64> = x.chunks(cols).map(log_sum_exp_reference).collect();
        let want: Vec<f64> = x.iter().enumerate().map(|(i, &x)| f64::from(x) - totals[i / cols]).collect();
        let bound = |total: f64| softmax_error(cols) + 2.0 * U * total.abs();
        let sums = on_every_team(|crew| {
            let mut out = vec![f32::NAN; rows];
            log_sum_exp(crew, &mut out, Mat::new(&x, cols));
            out
        });
        for (isa, got) in sums {
            assert_near(&got, &totals, |i| bound(totals[i]), format_args!("sums, {isa} {rows}x{cols}"));
        }
        let results = on_every_team(|crew| {
            let mut x = x.clone();
            log_softmax(crew, MatMut::new(&mut x, cols));
            x
        });
        for (isa, got) in results {
            let bound = |i: usize| bound(totals[i / cols]) + U * (want[i].abs() + 1e-3);
            assert_near(&got, &want, bound, format_args!("{isa} {rows}x{cols}"));
        }
    }

    #[test]
    fn gelu_is_the_references((rows, cols) in shape(), amp in 0.1_f32..20.0, seed: u64) {
        let x = numbers(seed, rows * cols, amp);
        for form in [Gelu::Erf, Gelu::Tanh] {
            let want: Vec<f64> = x.iter().map(|&x| gelu_reference(x, form)).collect();
            let results = on_every_team(|crew| {
                let mut x = x.clone();
                gelu(crew, MatMut::new(&mut x, cols), form);
                x
            });
            for (isa, got) in results {
                // 1 + erf rounds to 2u, times x/2, plus the rounding of the argument.
                assert_near(&got, &want, |i| 8.0 * U * f64::from(x[i]).abs(), format_args!("{form:?} {isa} {rows}x{cols}"));
            }
        }
    }

    /// The mean of n numbers errs by `d = n u rms(x)`. The variance is at its least around the true mean: there it errs
    /// by `(n + 4) u` of itself and by `d^2`. Each of the last three steps rounds once.
    #[test]
    fn layer_norm_is_the_references((rows, cols) in shape(), centre in -5.0_f32..5.0, seed: u64) {
        let eps = 1e-5;
        let x: Vec<f32> = numbers(seed, rows * cols, 2.0).into_iter().map(|x| x + centre).collect();
        let (weight, bias) = (numbers(seed ^ 1, cols, 3.0), numbers(seed ^ 2, cols, 1.0));
        let want: Vec<f64> = x.chunks(cols).flat_map(|x| layer_norm_reference(x, &weight, &bias, eps)).collect();
        let n = cols as f64;
        // For each row, what the error of the mean becomes, and the relative error of the rest.
        let errors: Vec<(f64, f64)> = x.chunks(cols).map(|x| {
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n + f64::from(eps);
            let rms = (x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n).sqrt();
            let d = (n + 2.0) * U * rms / variance.sqrt();
            (d, (n / 2.0 + 8.0) * U + d * d)
        }).collect();
        let bound = |i: usize| {
            let ((d, relative), w, b) = (errors[i / cols], f64::from(weight[i % cols]), f64::from(bias[i % cols]));
            (w * d).abs() + relative * ((want[i] - b).abs() + (w * d).abs()) + U * (want[i].abs() + b.abs())
        };
        let results = on_every_team(|crew| {
            let mut out = vec![f32::NAN; rows * cols];
            layer_norm(crew, MatMut::new(&mut out, cols), Mat::new(&x, cols), &weight, &bias, eps);
            out
        });
        for (isa, got) in results {
            assert_near(&got, &want, bound, format_args!("{isa} {rows}x{cols}"));
        }
    }

    #[test]
    fn embedding_copies_rows_of_every_type((rows, cols) in shape(), vocab in 1..300_usize, seed: u64) {
        let table = numbers(seed, vocab * cols, 3.0);
        let ids: Vec<u32> = (0..rows as u64).map(|t| (t.wrapping_mul(seed | 1) >> 20) as u32 % vocab as u32).collect();
        for dtype in DTYPES {
            let table = tensor(&table, dtype, &[vocab, cols]);
            let want: Vec<f32> = ids.iter().flat_map(|&id| table.rows(id as usize..id as usize + 1).to_f32()).collect();
            let results = on_every_team(|crew| {
                let mut out = vec![f32::NAN; rows * cols];
                embedding(crew, MatMut::new(&mut out, cols), &ids, &table);
                out
            });
            for (isa, got) in results {
                prop_assert!(got == want, "{} {} {}x{}", isa, dtype, rows, cols);
            }
        }
    }
}

/// A row of Pythia's vocabulary, and an odd one.
#[test]
fn rows_of_a_vocabulary() {
    for cols in [50_304, 50_277] {
        let x = numbers(9, 2 * cols, 20.0);
        let want: Vec<f64> = x.chunks(cols).flat_map(softmax_reference).collect();
        let results = on_every_team(|crew| {
            let mut x = x.clone();
            softmax(crew, MatMut::new(&mut x, cols));
            x
        });
        for (isa, got) in results {
            assert_near(&got, &want, |i| softmax_error(cols) * want[i] + 1e-37, isa);
            let total: f64 = got[..cols].iter().map(|&p| f64::from(p)).sum();
            assert!((total - 1.0).abs() <= softmax_error(cols), "{isa}: probabilities sum to {total}");
        }
    }
}

/// What is not a number stays visible, in its own row.
#[test]
fn a_nan_reaches_its_row_and_no_other() {
    let (rows, cols) = (3, 37);
    for place in [0, 15, 31, 36] {
        let mut x = numbers(4, rows * cols, 2.0);
        x[cols + place] = f32::NAN;
        let nans = on_every_team(|crew| {
            let (mut soft, mut log, mut sums, mut normed) = (x.clone(), x.clone(), [0.0; 3], x.clone());
            softmax(crew, MatMut::new(&mut soft, cols));
            log_softmax(crew, MatMut::new(&mut log, cols));
            log_sum_exp(crew, &mut sums, Mat::new(&x, cols));
            let (weight, bias) = (vec![1.0; cols], vec![0.0; cols]);
            layer_norm(crew, MatMut::new(&mut normed, cols), Mat::new(&x, cols), &weight, &bias, 1e-5);
            let share = |x: &[f32]| x.iter().filter(|x| x.is_nan()).count() as f32 / x.len() as f32;
            let of_rows =
                [soft, log, normed].into_iter().flat_map(|x| x.chunks(cols).map(share).collect::<Vec<_>>());
            of_rows.chain(sums.map(|sum| share(&[sum]))).collect()
        });
        for (isa, nans) in nans {
            assert_eq!(
                nans,
                [0.0, 1.0, 0.0].repeat(4),
                "{isa}, NaN at {place}: softmax, log-softmax, layer norm, sums"
            );
        }
    }
}

#[test]
fn gelu_of_infinity_zero_and_nan() {
    for form in [Gelu::Erf, Gelu::Tanh] {
        let results = on_every_team(|crew| {
            let mut x = [f32::INFINITY, 0.0, -0.0, f32::MIN_POSITIVE, -100.0, 100.0, f32::NAN];
            gelu(crew, MatMut::new(&mut x, 7), form);
            assert!(x[6].is_nan(), "NaN became {}", x[6]);
            x[..6].to_vec()
        });
        for (isa, got) in results {
            let want = [f32::INFINITY, 0.0, 0.0, f32::MIN_POSITIVE / 2.0, 0.0, 100.0];
            assert_eq!(got, want, "{isa} {form:?}");
        }
    }
}

/// Tokens that are ruled out have logits of minus infinity.
#[test]
fn minus_infinity_has_no_probability() {
    let x = [f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY, 3.0];
    let results = on_every_team(|crew| {
        let (mut soft, mut log, mut sum) = (x, x, [0.0]);
        softmax(crew, MatMut::new(&mut soft, 4));
        log_softmax(crew, MatMut::new(&mut log, 4));
        log_sum_exp(crew, &mut sum, Mat::new(&x, 4));
        [&soft[..], &log, &sum].concat()
    });
    for (isa, got) in results {
        assert_eq!(got[..4], [0.0, 0.5, 0.0, 0.5], "{isa}");
        assert_eq!(got[4], f32::NEG_INFINITY, "{isa}");
        assert!((got[5] + 2.0_f32.ln()).abs() <= 4.0 * f32::EPSILON, "{isa} {}", got[5]);
        assert!((got[8] - 3.0 - 2.0_f32.ln()).abs() <= 4.0 * f32::EPSILON, "{isa} {}", got[8]);
    }
}
