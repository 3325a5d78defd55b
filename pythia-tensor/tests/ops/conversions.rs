//! Every number of the small types, through every way by which weights become `f32`.

use crate::numbers::on_every_team;
use half::{bf16, f16};
use pythia_tensor::ops::{Product, Then, Weight, embedding, matmul};
use pythia_tensor::{DType, Element, Isa, Mat, MatMut, Tensor};

/// How many numbers 16 bits can be.
const COUNT: usize = 1 << 16;

/// What the 16 bits of an IEEE 754 binary16 mean, by the standard's table 3.1 and section 3.4, without any conversion
/// of the machine or of a crate.
fn binary16(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2.0_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2.0_f64.powi(exponent - 25),
    };
    (sign * magnitude) as f32
}

/// A bfloat16 is the upper half of an `f32`.
fn bfloat16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The type's name, its numbers in the order of their bits, and what they are.
fn types() -> [(DType, Vec<u8>, Vec<f32>); 2] {
    let bytes = |bits: u16| bits.to_le_bytes();
    [(DType::F16, binary16 as fn(u16) -> f32), (DType::BF16, bfloat16)].map(|(dtype, meaning)| {
        (dtype, (0..=u16::MAX).flat_map(bytes).collect(), (0..=u16::MAX).map(meaning).collect())
    })
}

fn same_bits(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Sums start from +0, which -0 does not survive.
fn same_number(a: f32, b: f32) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

#[track_caller]
fn assert_all(same: fn(f32, f32) -> bool, got: &[f32], want: &[f32], what: impl std::fmt::Display) {
    assert_eq!(got.len(), want.len(), "{what}");
    let wrong = got.iter().zip(want).position(|(&g, &w)| !same(g, w));
    assert!(
        wrong.is_none(),
        "{what}, {wrong:?}: {:?} for {:?}",
        wrong.map(|i| got[i]),
        wrong.map(|i| want[i])
    );
}

#[test]
fn one_by_one() {
    for (dtype, bytes, want) in types() {
        let tensor = Tensor::from_bytes(&bytes, dtype, &[COUNT]).unwrap();
        assert_all(same_bits, &tensor.to_f32(), &want, dtype);
    }
    let all = 0..=u16::MAX;
    assert!(all.clone().all(|bits| same_bits(Element::to_f32(f16::from_bits(bits)), binary16(bits))));
    assert!(all.clone().all(|bits| same_bits(Element::to_f32(bf16::from_bits(bits)), bfloat16(bits))));
    // And back, rounding being exact.
    let not_nan = |x: &f32| !x.is_nan();
    assert!(
        all.clone()
            .map(binary16)
            .filter(not_nan)
            .all(|x| binary16(<f16 as Element>::from_f32(x).to_bits()) == x)
    );
    assert!(
        all.map(bfloat16).filter(not_nan).all(|x| bfloat16(<bf16 as Element>::from_f32(x).to_bits()) == x)
    );
}

#[test]
fn by_embedding() {
    let (rows, cols) = (1024, 64);
    let ids: Vec<u32> = (0..rows as u32).rev().collect();
    for (dtype, bytes, numbers) in types() {
        let table = Tensor::from_bytes(&bytes, dtype, &[rows, cols]).unwrap();
        let results = on_every_team(|crew| {
            let mut out = vec![0.0; COUNT];
            embedding(crew, MatMut::new(&mut out, cols), &ids, &table);
            // A NaN's payload is not of interest.
            out.iter().map(|&x| if x.is_nan() { f32::NAN } else { x }).collect()
        });
        let want: Vec<f32> = numbers.chunks(cols).rev().flatten().copied().collect();
        for (isa, got) in results {
            assert_all(same_bits, &got, &want, format_args!("{dtype} {isa}"));
        }
    }
}

/// What a product in `f32` takes a number for. Tiles take it for the sum of its parts: nothing of an infinite number is left, and a part
/// that is subnormal is zero.
fn taken(isa: Isa, x: f32) -> f32 {
    if isa.name() != "amx" {
        return x;
    }
    let upper = |x: f32| f32::from_bits(x.to_bits() & 0xFFFF_0000);
    let (first, rest) = (upper(x), x - upper(x));
    let parts = [first, upper(rest), rest - upper(rest)];
    let sum = parts.into_iter().filter(|part| !part.is_subnormal()).sum::<f32>();
    if x.is_finite() { sum } else { f32::NAN }
}

/// A weight in a row of zeros, times a row of zeros with a one in its place: the product is the weight itself, however it
/// is loaded. Each row of weights holds one number only, since zero times infinity is none. Every number goes through
/// whole vectors and through the rest at the end, alone and with other rows of activations.
#[test]
fn by_matmul() {
    // Whole vectors of 16, of 8 and of 4, and a rest for each of them.
    let k = 31;
    for (dtype, bytes, want) in types() {
        for column in [0, 5, 15, 17, 28, 30] {
            let mut rows = vec![0; 2 * k * COUNT];
            for (row, number) in rows.chunks_exact_mut(2 * k).zip(bytes.chunks_exact(2)) {
                row[2 * column..][..2].copy_from_slice(number);
            }
            let weight = Tensor::from_bytes(&rows, dtype, &[COUNT, k]).unwrap();
            for m in [1, 2, 3, 4, 5] {
                let one_hot = |i: usize| f32::from(u8::from(i % k == column));
                let a: Vec<f32> = (0..m * k).map(one_hot).collect();
                let results = on_every_team(|crew| {
                    let mut out = vec![0.5; m * COUNT];
                    let product = Product {
                        a: Mat::new(&a, k),
                        weight: Weight::Exact(&weight),
                        bias: None,
                        then: Then::Store,
                    };
                    matmul(crew, MatMut::new(&mut out, COUNT), product);
                    out.iter().map(|&x| if x.is_nan() { f32::NAN } else { x }).collect()
                });
                for (isa, got) in results {
                    let want: Vec<f32> = want.iter().map(|&x| taken(isa, x)).collect();
                    for row in got.chunks(COUNT) {
                        assert_all(
                            same_number,
                            row,
                            &want,
                            format_args!("{dtype} {isa}, column {column}, {m} rows"),
                        );
                    }
                }
            }
        }
    }
}

/// The identity times a matrix of all finite numbers is its transpose: every lane is where it belongs.
#[test]
fn the_identity_transposes() {
    let k = 64;
    let identity: Vec<f32> = (0..k * k).map(|i| f32::from(u8::from(i / k == i % k))).collect();
    for (dtype, bytes, numbers) in types() {
        let finite = |x: &&f32| x.is_finite();
        let (mut weights, want): (Vec<u8>, Vec<f32>) =
            (Vec::new(), numbers.iter().filter(finite).copied().collect());
        for (number, bytes) in numbers.iter().zip(bytes.chunks_exact(2)) {
            if number.is_finite() {
                weights.extend(bytes);
            }
        }
        let n = want.len() / k;
        assert_eq!(n * k, want.len(), "{dtype}: whole rows");
        let weight = Tensor::from_bytes(&weights, dtype, &[n, k]).unwrap();
        // All rows in one call, and few at a time, by the kernels for few.
        for rows in [k, 1, 2, 3, 4] {
            let results = on_every_team(|crew| {
                let mut out = vec![0.5; k * n];
                for (m, out) in out.chunks_mut(rows * n).enumerate() {
                    let rows = m * rows..(m * rows + rows).min(k);
                    let a = Mat::new(&identity, k).slice_rows(rows);
                    matmul(
                        crew,
                        MatMut::new(out, n),
                        Product { a, weight: Weight::Exact(&weight), bias: None, then: Then::Store },
                    );
                }
                out
            });
            for (isa, got) in results {
                let back: Vec<f32> = (0..n * k).map(|i| got[i % k * n + i / k]).collect();
                let want: Vec<f32> = want.iter().map(|&x| taken(isa, x)).collect();
                assert_all(same_number, &back, &want, format_args!("{dtype} {isa}, {rows} rows at a time"));
            }
        }
    }
}

/// Any `f32` is taken as it is, the smallest too: nothing is flushed to zero, but by tiles. In rows of whole vectors and of others.
#[test]
fn any_f32_passes_unchanged() {
    let some = |i: u32| f32::from_bits(i.wrapping_mul(0x9E37_79B9));
    // The last two have bits where tiles look for those of their neighbours.
    let small = [1, 2, 0x0040_0000, 0x007F_FFFF, 0x0080_0000, 0x3F80, 0x7F80].map(f32::from_bits);
    for k in [31, 64] {
        let mut want: Vec<f32> = (0..5000).map(some).filter(|x| x.is_finite()).collect();
        want.extend(small.into_iter().cycle().take(3 * k));
        want.resize(want.len() / k * k, 0.0);
        let n = want.len() / k;
        let weight = Tensor::from_slice(&want, &[n, k]);
        let identity: Vec<f32> = (0..k * k).map(|i| f32::from(u8::from(i / k == i % k))).collect();
        let results = on_every_team(|crew| {
            let mut out = vec![0.5; k * n];
            let product = Product {
                a: Mat::new(&identity, k),
                weight: Weight::Exact(&weight),
                bias: None,
                then: Then::Store,
            };
            matmul(crew, MatMut::new(&mut out, n), product);
            out
        });
        for (isa, got) in results {
            let back: Vec<f32> = (0..n * k).map(|i| got[i % k * n + i / k]).collect();
            let want: Vec<f32> = want.iter().map(|&x| taken(isa, x)).collect();
            assert_all(same_number, &back, &want, format_args!("{isa}, rows of {k}"));
        }
    }
}
