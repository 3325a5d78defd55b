//! Weights and distributions beside each other.

use crate::numbers::{DTYPES, U, assert_near, numbers, on_every_team, tensor};
use proptest::prelude::*;
use pythia_tensor::ops::{differences, divergence, sum_of_squares};
use pythia_tensor::reference::{difference_reference, divergence_reference};
use pythia_tensor::{Difference, Isa, Mat, Tensor};

/// The differences of all rows on every instruction set, which must be the same bits for any number of threads.
fn on_every_isa(a: &Tensor, b: &Tensor) -> Vec<(Isa, Vec<Difference>)> {
    // As `f32`, pairs of them hold all bits of an `f64`.
    let halves =
        |x: f64| [x.to_bits() >> 32, x.to_bits() & 0xFFFF_FFFF].map(|bits| f32::from_bits(bits as u32));
    let whole = |x: &[f32]| f64::from_bits((u64::from(x[0].to_bits()) << 32) | u64::from(x[1].to_bits()));
    let results = on_every_team(|crew| {
        let flat = |d: &Difference| {
            let sums = [d.squares[0], d.squares[1], d.product, d.distance_squared, f64::from(d.largest)];
            sums.map(halves).concat()
        };
        differences(crew, a, b).iter().flat_map(flat).collect()
    });
    let row = |x: &[f32]| Difference {
        squares: [whole(x), whole(&x[2..])],
        product: whole(&x[4..]),
        distance_squared: whole(&x[6..]),
        largest: whole(&x[8..]) as f32,
    };
    results.into_iter().map(|(isa, x)| (isa, x.chunks(10).map(row).collect())).collect()
}

/// Where the rounding of `f32` sums of pieces leads at most: a piece of 512 in two vectors of four lanes has 64 terms a lane, then
/// four additions; each term is rounded itself, and `b - a` was.
const RELATIVE: f64 = (64.0 + 4.0 + 4.0) * U;

fn check(got: &Difference, a: &[f32], b: &[f32], what: impl std::fmt::Display) {
    let want = difference_reference(a, b);
    let magnitude: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) * f64::from(b)).abs()).sum();
    for (name, got, want, bound) in [
        ("a²", got.squares[0], want.squares[0], want.squares[0]),
        ("b²", got.squares[1], want.squares[1], want.squares[1]),
        ("ab", got.product, want.product, magnitude),
        ("(b - a)²", got.distance_squared, want.distance_squared, want.distance_squared),
    ] {
        assert!((got - want).abs() <= RELATIVE * bound, "{what}: {name}: {got} for {want}");
    }
    assert_eq!(got.largest, want.largest, "{what}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Of every pair of types: rows of less than a vector, of pieces, and of more.
    #[test]
    fn differences_are_the_references(
        (rows, cols) in prop_oneof![(1..8_usize, 1..70_usize), (1..5_usize, 500..1600_usize)],
        near in 0.0_f32..1.0,
        seed: u64,
    ) {
        let x = numbers(seed, rows * cols, 2.0);
        let y: Vec<f32> = x.iter().zip(numbers(seed ^ 1, rows * cols, near)).map(|(x, d)| x + d).collect();
        for a in DTYPES.map(|dtype| tensor(&x, dtype, &[rows, cols])) {
            for b in DTYPES.map(|dtype| tensor(&y, dtype, &[rows, cols])) {
                let (wide_a, wide_b) = (a.to_f32(), b.to_f32());
                for (isa, got) in on_every_isa(&a, &b) {
                    prop_assert_eq!(got.len(), rows);
                    let pairs = wide_a.chunks(cols).zip(wide_b.chunks(cols));
                    for (r, (got, (a_row, b_row))) in got.iter().zip(pairs).enumerate() {
                        check(got, a_row, b_row, format_args!("{isa}, {a:?} and {b:?}, row {r}"));
                    }
                }
            }
        }
    }

    /// Each of two logarithms and a quotient of sums of n terms errs by n units of `f64`; what is given is an `f32`.
    #[test]
    fn divergences_are_the_references(rows in 1..6_usize, cols in 1..3000_usize, near in 0.0_f32..20.0, seed: u64) {
        let a = numbers(seed, rows * cols, 10.0);
        let b: Vec<f32> = a.iter().zip(numbers(seed ^ 1, rows * cols, near)).map(|(x, d)| x + d + 50.0).collect();
        let want: Vec<f64> =
            a.chunks(cols).zip(b.chunks(cols)).map(|(a, b)| divergence_reference(a, b)).collect();
        let results = on_every_team(|crew| {
            let mut out = vec![f32::NAN; rows];
            divergence(crew, &mut out, Mat::new(&a, cols), Mat::new(&b, cols));
            out
        });
        let unit = f64::EPSILON * cols as f64 * 40.0;
        for (isa, got) in results {
            assert_near(&got, &want, |i| U * want[i] + unit, format_args!("{isa} {rows}x{cols}"));
        }
    }
}

/// They are those of differences to the bit, wherever the bytes lie.
#[test]
fn sums_of_squares_are_those_of_a_row_beside_itself() {
    for n in [0, 1, 511, 512, 513, 5000] {
        for t in DTYPES.map(|dtype| tensor(&numbers(5, n, 2.0), dtype, &[n])) {
            on_every_team(|crew| {
                let want = if n == 0 { 0.0 } else { differences(crew, &t, &t)[0].squares[0] };
                let moved = [&[0], t.bytes()].concat();
                for bytes in [t.bytes(), &moved[1..]] {
                    assert_eq!(sum_of_squares(crew, t.dtype(), bytes), want, "{t:?}");
                }
                Vec::new()
            });
        }
    }
}

/// A model beside itself has moved by nothing, in no direction.
#[test]
fn what_is_equal_has_no_distance_and_no_angle() {
    let x = numbers(3, 4 * 700, 0.02);
    for t in DTYPES.map(|dtype| tensor(&x, dtype, &[4, 700])) {
        for (isa, rows) in on_every_isa(&t, &t) {
            for d in rows {
                assert_eq!((d.distance_squared, d.largest), (0.0, 0.0), "{isa}");
                assert_eq!([d.product; 2], d.squares, "{isa}");
            }
        }
    }
    let equal = on_every_team(|crew| {
        let mut out = [f32::NAN; 4];
        divergence(crew, &mut out, Mat::new(&x, 700), Mat::new(&x, 700));
        out.to_vec()
    });
    assert!(equal.iter().all(|(_, out)| out == &[0.0; 4]), "{equal:?}");
}

/// The digits of a tensor as large as an unembedding: in `f32` throughout, a million equal squares lose five of seven.
#[test]
fn long_sums_keep_their_digits() {
    let n = 1 << 22;
    let (a, b) = (Tensor::from_slice(&vec![0.1_f32; n], &[n]), Tensor::from_slice(&vec![0.3_f32; n], &[n]));
    for (isa, rows) in on_every_isa(&a, &b) {
        assert_eq!(rows.len(), 1);
        check(&rows[0], &a.to_f32(), &b.to_f32(), isa);
    }
}

#[test]
fn what_is_not_a_number_shows_in_the_sums_and_not_in_the_largest() {
    for place in [0, 7, 33, 599] {
        let (a, mut b) = (vec![1.0_f32; 1200], vec![3.0_f32; 1200]);
        b[place] = f32::NAN;
        let (a, b) = (Tensor::from_slice(&a, &[2, 600]), Tensor::from_slice(&b, &[2, 600]));
        for (isa, rows) in on_every_isa(&a, &b) {
            let nan = |d: &Difference| d.distance_squared.is_nan() && d.squares[1].is_nan();
            assert!(nan(&rows[0]) && !nan(&rows[1]), "{isa}, {place}: {rows:?}");
            assert_eq!(
                (rows[0].largest, rows[1].largest, rows[0].squares[0]),
                (2.0, 2.0, 600.0),
                "{isa}, {place}"
            );
        }
    }
}
