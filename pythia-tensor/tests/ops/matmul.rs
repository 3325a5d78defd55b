//! `ops::matmul` and `ops::matmuls` against the reference: several outputs, chains of products, every type.

use crate::numbers::{DTYPES, U, assert_near, numbers, on_every_team, tensor};
use proptest::prelude::*;
use pythia_tensor::ops::{Product, Then, Weight, matmul, matmuls};
use pythia_tensor::reference::{gelu_reference, matmul_reference};
use pythia_tensor::{DType, Gelu, Isa, Mat, MatMut, Team, Tensor};

/// The largest slope of both GELUs is 1.129.
const GELU_SLOPE: f64 = 1.13;

/// One linear layer with its own input.
#[derive(Debug)]
struct Layer {
    /// `[M, K]` as the first columns of `[M, K + gap]`.
    a: Vec<f32>,
    k: usize,
    gap: usize,
    weight: Tensor,
    bias: Option<Vec<f32>>,
    then: Then,
}

/// What a layer is made from; its numbers of rows and columns are the output's.
#[derive(Debug, Clone)]
struct Plan {
    k: usize,
    gap: usize,
    dtype: DType,
    biased: bool,
    then: Then,
    seed: u64,
}

fn plan() -> impl Strategy<Value = Plan> {
    let then = prop::sample::select(vec![
        Then::Store,
        Then::Gelu(Gelu::Erf),
        Then::Gelu(Gelu::Tanh),
        Then::Add,
        Then::Add,
    ]);
    (
        prop_oneof![1..80_usize, 400..2300_usize],
        0..3_usize,
        prop::sample::select(&DTYPES[..]),
        any::<bool>(),
        then,
        any::<u64>(),
    )
        .prop_map(|(k, gap, dtype, biased, then, seed)| Plan { k, gap, dtype, biased, then, seed })
}

impl Layer {
    fn new(m: usize, n: usize, plan: &Plan) -> Self {
        let &Plan { k, gap, dtype, biased, then, seed } = plan;
        Self {
            a: numbers(seed, m * (k + gap), 1.0),
            k,
            gap,
            weight: tensor(&numbers(!seed, n * k, 1.0), dtype, &[n, k]),
            bias: biased.then(|| numbers(seed ^ 7, n, 3.0)),
            then,
        }
    }

    fn a(&self) -> Mat<'_> {
        Mat::new(&self.a, self.k + self.gap).slice_cols(0..self.k)
    }

    fn product(&self) -> Product<'_> {
        Product {
            a: self.a(),
            weight: Weight::Exact(&self.weight),
            bias: self.bias.as_deref(),
            then: self.then,
        }
    }

    /// Does to `out` what the layer does, and to `error`, its bound, what that does to the error.
    ///
    /// A dot product of K terms differs from the exact one by at most `(K + 8) u sum |a w|` (Higham 2002, section 3.1;
    /// the 8 are for the blocks, the lanes' tree and a multiplication that rounds apart), and of each term so many `u` may be left
    /// out; the bias and the residual stream round the sum once each, and GELU adds `8 u |x|` of its own.
    fn reference(&self, left_out: usize, out: &mut [f64], error: &mut [f64]) {
        let (n, weight) = (self.weight.shape()[0], self.weight.to_f32());
        let sums = matmul_reference(self.a(), &weight);
        for (i, sum) in sums.into_iter().enumerate() {
            let terms = self.a().row(i / n).iter().zip(&weight[i % n * self.k..]);
            let magnitude: f64 = terms.map(|(&a, &w)| f64::from(a).abs() * f64::from(w).abs()).sum();
            let mut e = (self.k + 8 + left_out) as f64 * U * magnitude;
            let mut x = sum;
            if let Some(bias) = &self.bias {
                x += f64::from(bias[i % n]);
                e += U * (x.abs() + e);
            }
            (out[i], error[i]) = match self.then {
                Then::Store => (x, e),
                Then::Gelu(form) => (gelu_f64(x, form), GELU_SLOPE * e + 8.0 * U * x.abs()),
                Then::Add => {
                    let total = out[i] + x;
                    let e = error[i] + e;
                    (total, e + U * (total.abs() + e))
                }
            };
        }
    }
}

/// The reference GELU takes `f32`: its value there, and along its slope to `x`.
fn gelu_f64(x: f64, form: Gelu) -> f64 {
    let near = x as f32;
    let step = 1e-3_f32.max(near.abs() * 1e-3);
    let (below, above) = (gelu_reference(near - step, form), gelu_reference(near + step, form));
    let slope = (above - below) / (f64::from(near + step) - f64::from(near - step));
    gelu_reference(near, form) + slope * (x - f64::from(near))
}

/// Runs the layers of each output, chained, in one region, and compares with the reference.
fn check<const J: usize>(m: usize, jobs: [(usize, &[Plan]); J]) {
    let before: Vec<Vec<f32>> = jobs.iter().map(|&(n, _)| numbers(n as u64, m * n, 2.0)).collect();
    let layers = jobs.map(|(n, plans)| plans.iter().map(|p| Layer::new(m, n, p)).collect::<Vec<_>>());
    let products: [Vec<Product<'_>>; J] =
        std::array::from_fn(|j| layers[j].iter().map(Layer::product).collect());
    // Tiles leave out products of parts: two that are less than 2^-22 of a term, and a third of a 256th of that.
    let [exact, tiles] = [0, 9].map(|left_out| {
        let (mut want, mut bound) = (Vec::new(), Vec::new());
        for (layers, before) in layers.iter().zip(&before) {
            let mut out: Vec<f64> = before.iter().map(|&x| f64::from(x)).collect();
            let mut error = vec![0.0; out.len()];
            layers.iter().for_each(|layer| layer.reference(left_out, &mut out, &mut error));
            want.extend(out);
            bound.extend(error);
        }
        (want, bound)
    });
    let results = on_every_team(|crew| {
        let mut outs = before.clone();
        let mut rest = outs.iter_mut();
        let jobs: [(MatMut<'_>, &[Product<'_>]); J] =
            std::array::from_fn(|j| (MatMut::new(rest.next().unwrap(), jobs[j].0), &products[j][..]));
        matmuls(crew, jobs);
        outs.concat()
    });
    for (isa, got) in results {
        let (want, bound) = if isa.name() == "amx" { &tiles } else { &exact };
        assert_near(&got, want, |i| bound[i], format_args!("{isa}, {m} rows, {jobs:?}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Outputs of one region need have nothing in common but the rows. An output without products stays as it is.
    #[test]
    fn several_outputs_with_chains_of_products(
        m in 1..24_usize,
        n in [1..60_usize, 1..60, 1..60],
        first in prop::collection::vec(plan(), 1..4),
        second in prop::collection::vec(plan(), 0..3),
        third in prop::collection::vec(plan(), 1..2),
    ) {
        check(m, [(n[0], &first), (n[1], &second), (n[2], &third)]);
    }
}

fn simple(k: usize, dtype: DType, then: Then) -> Plan {
    Plan { k, gap: 0, dtype, biased: true, then, seed: 3 }
}

/// More rows than the kernel takes at a time, more columns than a tile has, and one more than each.
#[test]
fn shapes_of_many_tiles() {
    for (m, n, k) in [
        (256, 30, 40),
        (257, 50, 33),
        (600, 9, 7),
        (5, 1700, 31),
        (1, 9000, 40),
        (4, 4200, 9),
        (30, 800, 513),
        (50, 50, 768),
        (130, 50, 512),
        (97, 53, 2152),
        (1, 2100, 128),
        (33, 2100, 128),
        (64, 4200, 128),
        (8, 8300, 33),
        (128, 4300, 9),
        (129, 6300, 9),
    ] {
        for dtype in DTYPES {
            check(m, [(n, &[simple(k, dtype, Then::Gelu(Gelu::Erf)), simple(k, dtype, Then::Add)])]);
        }
    }
}

/// `(x + attention) + mlp`, in this order: the bits of two calls one after the other.
#[test]
fn a_chain_has_the_bits_of_its_products_one_by_one() {
    let (m, n) = (7, 50);
    let plans = [
        simple(300, DType::F16, Then::Add),
        simple(1200, DType::F16, Then::Add),
        simple(33, DType::BF16, Then::Gelu(Gelu::Tanh)),
        simple(600, DType::F32, Then::Add),
    ];
    let layers: Vec<Layer> = plans.iter().map(|plan| Layer::new(m, n, plan)).collect();
    let products: Vec<Product<'_>> = layers.iter().map(Layer::product).collect();
    let x = numbers(5, m * n, 1.0);
    let chained = on_every_team(|crew| {
        let mut out = x.clone();
        matmuls(crew, [(MatMut::new(&mut out, n), &products[..])]);
        out
    });
    let one_by_one = on_every_team(|crew| {
        let mut out = x.clone();
        products.iter().for_each(|&product| matmul(crew, MatMut::new(&mut out, n), product));
        out
    });
    assert_eq!(chained, one_by_one);
}

/// A row's bits do not depend on the rows beside it, whichever kernel and tile they make it go through.
#[test]
fn a_row_has_its_bits_among_any_number_of_rows() {
    let (m, n) = (300, 70);
    let layer = Layer::new(m, n, &simple(1100, DType::F16, Then::Gelu(Gelu::Erf)));
    let run = |rows: std::ops::Range<usize>| {
        on_every_team(|crew| {
            let mut out = vec![f32::NAN; rows.len() * n];
            let product = Product { a: layer.a().slice_rows(rows.clone()), ..layer.product() };
            matmul(crew, MatMut::new(&mut out, n), product);
            out
        })
    };
    let all = run(0..m);
    for rows in [0..1, 9..11, 100..103, 50..54, 7..12, 20..52, 255..257, 10..290] {
        for ((isa, got), (_, all)) in run(rows.clone()).iter().zip(&all) {
            assert!(got[..] == all[rows.start * n..rows.end * n], "{isa}, rows {rows:?}");
        }
    }
}

#[test]
fn no_rows_are_no_work() {
    let layer = Layer::new(0, 5, &simple(4, DType::F16, Then::Store));
    let results = on_every_team(|crew| {
        matmul(crew, MatMut::new(&mut [], 5), layer.product());
        Vec::new()
    });
    assert!(results.iter().all(|(_, out)| out.is_empty()));
}

/// What is not a number is not hidden by any path, and stays in its row.
#[test]
fn a_nan_reaches_its_row_and_no_other() {
    for (m, k) in [(1, 20), (3, 20), (7, 20), (7, 1100)] {
        let mut layer = Layer::new(m, 5, &simple(k, DType::F16, Then::Gelu(Gelu::Erf)));
        let bad = m / 2;
        layer.a[bad * k + k - 1] = f32::NAN;
        let results = on_every_team(|crew| {
            let mut out = vec![0.0; m * 5];
            matmul(crew, MatMut::new(&mut out, 5), layer.product());
            // Bits of a NaN may differ between threads; that it is one may not.
            out.iter().map(|x| f32::from(u8::from(x.is_nan()))).collect()
        });
        for (isa, nan) in results {
            let rows: Vec<bool> = nan.chunks(5).map(|row| row.iter().all(|&x| x == 1.0)).collect();
            let any = nan.iter().filter(|&&x| x == 1.0).count();
            assert!(rows[bad] && any == 5, "{isa}, {m} rows of {k}: {nan:?}");
        }
    }
}

/// Around the numbers of rows where another kernel is taken. Activations are rounded, which these feel.
#[test]
fn bf16_rounds_activations_of_any_number_of_rows() {
    let (k, n) = (96, 100);
    let weight = tensor(&numbers(3, n * k, 0.1), DType::F16, &[n, k]);
    for isa in Isa::available().iter().copied().filter(|isa| isa.has_bf16()) {
        let team = Team::with_isa(2, isa).unwrap();
        for rows in [1, 5, 6, 7, 8, 9, 12, 13, 16, 17, 95, 96, 97, 191, 192, 200] {
            let a = numbers(4, rows * k, 1.0);
            let run = |weight| {
                let mut out = vec![f32::NAN; rows * n];
                let product = Product { a: Mat::new(&a, k), weight, bias: None, then: Then::Store };
                team.enter(|crew| matmul(crew, MatMut::new(&mut out, n), product));
                out
            };
            let (exact, bf16) = (run(Weight::Exact(&weight)), run(Weight::Bf16(&weight)));
            // Rounding a number is an error of at most 2^-9 of it, and both factors are rounded.
            let bound = 2.1 * 2_f32.powi(-9) * 0.1 * k as f32;
            let error = exact.iter().zip(&bf16).map(|(e, b)| (e - b).abs()).fold(0.0, f32::max);
            assert!(error <= bound, "{isa}, {rows} rows: {error} of {bound}");
            assert_ne!(exact, bf16, "{isa}, {rows} rows");
        }
    }
}

/// However an instruction set makes its sums in `f32`, those of 1024 products are as near to the true ones as the plainest's, of four partial sums
/// (of 4096, tiles' are a tenth further away). Bounds
/// are for the worst case and would not notice a missing part of a number.
#[test]
fn exact_sums_are_as_near_on_every_instruction_set() {
    let (m, n, k) = (8, 256, 1024);
    for dtype in DTYPES {
        let (a, weight) = (numbers(1, m * k, 1.0), tensor(&numbers(2, n * k, 1.0), dtype, &[n, k]));
        let want = matmul_reference(Mat::new(&a, k), &weight.to_f32());
        let errors = on_every_team(|crew| {
            let mut out = vec![f32::NAN; m * n];
            let product =
                Product { a: Mat::new(&a, k), weight: Weight::Exact(&weight), bias: None, then: Then::Store };
            matmul(crew, MatMut::new(&mut out, n), product);
            let squares = out.iter().zip(&want).map(|(&got, want)| (f64::from(got) - want).powi(2));
            vec![squares.sum::<f64>() as f32]
        });
        let plain = errors[0].1[0];
        for (isa, error) in errors {
            assert!(error[0] <= plain, "{dtype} {isa}: {} of {plain}", error[0]);
        }
    }
}
