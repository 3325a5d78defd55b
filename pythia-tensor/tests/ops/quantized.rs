//! int8 and int4 weights: what the codes keep of a weight, and `ops::matmul` with them against the reference.

use crate::numbers::{DTYPES, U, assert_near, numbers, on_every_team, tensor};
use proptest::prelude::*;
use pythia_tensor::ops::{Product, Then, Weight, matmul, matmuls};
use pythia_tensor::reference::{matmul_reference, quantized_matmul_reference};
use pythia_tensor::{Bits, Crew, DType, Error, Gelu, Isa, Mat, MatMut, Quantized, SharedBytes, Team, Tensor};
use std::sync::Arc;

const BITS: [Bits; 2] = [Bits::Int8, Bits::Int4];

/// Elements of K that share a scale.
const BLOCK: usize = 512;

/// Elements of K that share an int4 step.
const GROUP: usize = 32;

fn quantize(weight: &Tensor, bits: Bits) -> Quantized {
    Team::new(1).unwrap().enter(|crew| Quantized::quantize(crew, weight, bits))
}

/// Lengths of K around groups and blocks, and beyond two of these.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![1..80_usize, BLOCK - 40..BLOCK + 40, 2 * BLOCK..3 * BLOCK + 5]
}

/// A few rows, and more than a pass of any kernel takes.
fn rows() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1..20_usize, 1 => 31..70_usize]
}

fn product<'a>(a: &'a [f32], k: usize, weight: &'a Quantized) -> Product<'a> {
    Product { a: Mat::new(a, k), weight: Weight::Quantized(weight), bias: None, then: Then::Store }
}

fn run(crew: &Crew<'_>, a: &[f32], weight: &Quantized) -> Vec<f32> {
    let [n, k] = weight.shape().try_into().unwrap();
    let mut out = vec![f32::NAN; a.len() / k * n];
    matmul(crew, MatMut::new(&mut out, n), product(a, k, weight));
    out
}

/// The sum of a block is exact; its product with the two scales rounds twice, and every block is added with a rounding
/// to what came before: at most `(blocks + 2) u` of the blocks' magnitudes, and one for what the bound itself neglects.
fn bounds(a: &[f32], weight: &Quantized) -> Vec<f64> {
    let [n, k] = weight.shape().try_into().unwrap();
    let mut magnitudes = vec![0.0; a.len() / k * n];
    for start in (0..k).step_by(BLOCK) {
        let block = start..k.min(start + BLOCK);
        let only = |x: &[f32]| -> Vec<f32> {
            x.iter().enumerate().map(|(i, &x)| if block.contains(&(i % k)) { x } else { 0.0 }).collect()
        };
        let of_block = quantized_matmul_reference(Mat::new(&only(a), k), weight);
        magnitudes.iter_mut().zip(of_block).for_each(|(sum, x)| *sum += x.abs());
    }
    magnitudes.into_iter().map(|sum| (k.div_ceil(BLOCK) + 3) as f64 * U * sum).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// And the same bits on every instruction set, for integers do not round and the rest is in one order.
    #[test]
    fn matches_the_reference_for_odd_shapes(m in rows(), n in 1..150_usize, k in lengths(), seed: u64) {
        let a = numbers(seed, m * k, 3.0);
        let weight = tensor(&numbers(!seed, n * k, 0.1), DType::F16, &[n, k]);
        for bits in BITS {
            let weight = quantize(&weight, bits);
            let (want, bound) = (quantized_matmul_reference(Mat::new(&a, k), &weight), bounds(&a, &weight));
            let results = on_every_team(|crew| run(crew, &a, &weight));
            for (isa, got) in &results {
                assert_near(got, &want, |i| bound[i], format_args!("{isa} {bits} {m}x{n}x{k}"));
                prop_assert_eq!(got, &results[0].1, "{} {}", isa, bits);
            }
        }
    }

    /// Tiles of so many columns that several panels lie between those that are read together.
    #[test]
    fn panels_far_apart_match_the_reference(m in 1..14_usize, n in 1000..1200_usize, k in 1..1200_usize, seed: u64) {
        let a = numbers(seed, m * k, 3.0);
        let weight = tensor(&numbers(!seed, n * k, 0.1), DType::F16, &[n, k]);
        for bits in BITS {
            let weight = quantize(&weight, bits);
            let (want, bound) = (quantized_matmul_reference(Mat::new(&a, k), &weight), bounds(&a, &weight));
            for &isa in Isa::available() {
                let got = Team::with_isa(1, isa).unwrap().enter(|crew| run(crew, &a, &weight));
                assert_near(&got, &want, |i| bound[i], format_args!("{isa} {bits} {m}x{n}x{k}"));
            }
        }
    }

    #[test]
    fn a_row_has_its_bits_in_any_company(m in 2..40_usize, n in 1..100_usize, k in lengths(), seed: u64) {
        let a = numbers(seed, m * k, 1.0);
        for bits in BITS {
            let weight = quantize(&tensor(&numbers(!seed, n * k, 1.0), DType::F32, &[n, k]), bits);
            for ((isa, all), first) in on_every_team(|crew| run(crew, &a, &weight)).into_iter().zip(0..) {
                let rows = [0..1, m - 1..m, first % m..m, 0..m.div_ceil(2)];
                for rows in rows {
                    let part = &a[rows.start * k..rows.end * k];
                    let got = Team::with_isa(2, isa).unwrap().enter(|crew| run(crew, part, &weight));
                    prop_assert_eq!(&got[..], &all[rows.start * n..rows.end * n], "{} {} {:?}", isa, bits, rows);
                }
            }
        }
    }

    /// A code is the nearest of its block: half a scale away, and a rounding of the quotient, of at most 127 units.
    #[test]
    fn int8_keeps_weights_within_half_a_scale(n in 1..40_usize, k in lengths(), amp in 1e-6_f32..1e3, seed: u64) {
        for dtype in DTYPES {
            let weight = tensor(&numbers(seed, n * k, amp), dtype, &[n, k]);
            let got = quantize(&weight, Bits::Int8).dequantize();
            for (w, got) in weight.to_f32().chunks(k).zip(got.chunks(k)) {
                for (w, got) in w.chunks(BLOCK).zip(got.chunks(BLOCK)) {
                    let scale = f64::from(w.iter().fold(0.0_f32, |top, w| top.max(w.abs()))) / 127.0;
                    for (&w, &got) in w.iter().zip(got) {
                        let error = (f64::from(w) - f64::from(got)).abs();
                        prop_assert!(error <= scale * (0.5 + 127.0 * 8.0 * U), "{} {} {}", w, got, scale);
                    }
                }
            }
        }
    }

    /// The error is the least of several candidates. One of them has a step that tells the whole range of its group, a
    /// whole multiple of a scale that tells the block's, with a zero that leaves no weight farther than a step away.
    #[test]
    fn int4_keeps_weights_within_a_step_on_average(
        n in 1..20_usize, k in lengths(), shift in -2.0_f32..2.0, seed: u64,
    ) {
        let shifted: Vec<f32> = numbers(seed, n * k, 1.0).iter().map(|x| x * x * x + shift).collect();
        let got = quantize(&tensor(&shifted, DType::F32, &[n, k]), Bits::Int4).dequantize();
        for (w, got) in shifted.chunks(k).zip(got.chunks(k)) {
            for (w, got) in w.chunks(BLOCK).zip(got.chunks(BLOCK)) {
                let range = |w: &[f32]| {
                    w.iter().fold((0.0_f32, 0.0_f32), |(low, high), &w| (low.min(w), high.max(w)))
                };
                let ranges: Vec<(f32, f32)> = w.chunks(GROUP).map(range).collect();
                let scale = ranges.iter().fold(0.0_f32, |scale, (low, high)| {
                    scale.max((high - low) / 225.0).max(high.max(-low) / 127.0)
                });
                let steps = ranges.iter().map(|(low, high)| f64::from((high - low) / 15.0 + scale));
                let most: f64 = steps.map(|step| GROUP as f64 * step * step).sum();
                let error: f64 = w.iter().zip(got).map(|(w, got)| f64::from(w - got).powi(2)).sum();
                prop_assert!(error <= most, "{} {}", error, most);
            }
        }
    }

    /// Whatever bytes a file holds, they are numbers: nothing panics. If its codes fit a byte, one instruction set reads them like
    /// another.
    #[test]
    fn any_bytes_are_weights(bytes in prop::collection::vec(any::<u8>(), 4096), m in 1..9_usize, seed: u64) {
        // With and without a group at the end that is not there.
        for (n, k, bits) in [20, 60, 90].into_iter().flat_map(|k| BITS.map(|bits| (40, k, bits))) {
            let a = numbers(seed, m * k, 1.0);
            let len = Quantized::byte_len(bits, [n, k]).unwrap();
            let mut some: Vec<u8> = bytes.iter().copied().cycle().take(len).collect();
            let run = |some: &[u8]| {
                let weight = Quantized::from_shared(bits, [n, k], shared(some), 0..len).unwrap();
                on_every_team(|crew| {
                    // Bits of a NaN may differ.
                    run(crew, &a, &weight).into_iter().map(|x| if x.is_nan() { 0.0 } else { x }).collect()
                })
            };
            prop_assert!(run(&some).iter().all(|(_, got)| got.len() == m * n));
            if bits == Bits::Int4 {
                // Steps of at most 7: 15 of them are 105. They follow the 16 scales of a panel's only block.
                for panel in some.chunks_mut(len / n.div_ceil(16)) {
                    panel[64..64 + BLOCK / GROUP * 16].iter_mut().for_each(|group| *group &= 0xF7);
                }
            }
            let results = run(&some);
            for (isa, got) in &results {
                prop_assert_eq!(got, &results[0].1, "{} {}", isa, bits);
            }
        }
    }
}

/// The largest codes against the largest activations, all of one sign: sums of 16 bits, where kernels have any, must hold a group's.
#[test]
fn sums_of_the_largest_codes_fit() {
    let (n, k) = (16, BLOCK);
    let a: Vec<f32> = [1.0, -1.0].into_iter().flat_map(|x| vec![x; k]).collect();
    let int8 = [0, 255].map(|byte: u8| (Bits::Int8, f64::from(byte) - 128.0, vec![byte; k * 16]));
    // Step and zero of a group, and its nibbles.
    let int4 = [(8, 15), (8 | 15 << 4, 0), (15 | 7 << 4, 15), (15 | 8 << 4, 0)].map(|(group, nibble)| {
        let code = f64::from(group & 15) * (f64::from(nibble) - f64::from(group >> 4));
        let nibbles = vec![nibble | nibble << 4; k * 16 / 2];
        (Bits::Int4, code, [vec![group; BLOCK / GROUP * 16], nibbles].concat())
    });
    for (bits, code, codes) in int8.into_iter().chain(int4) {
        let bytes = [1.0_f32.to_le_bytes().repeat(16), codes].concat();
        let weight = Quantized::from_shared(bits, [n, k], shared(&bytes), 0..bytes.len()).unwrap();
        for rows in [1, 2, 6, 7, 9, 12, 20] {
            let a: Vec<f32> = a.iter().copied().cycle().take(rows * k).collect();
            for (isa, got) in on_every_team(|crew| run(crew, &a, &weight)) {
                for (i, &got) in got.iter().enumerate() {
                    let want = code * k as f64 * if i / n % 2 == 0 { 1.0 } else { -1.0 };
                    // 127 activation codes of 1 / 127: two roundings.
                    let error = (f64::from(got) - want).abs();
                    assert!(
                        error <= 3.0 * U * want.abs(),
                        "{isa} {bits} {code} {rows} rows: {got} for {want}"
                    );
                }
            }
        }
    }
}

/// Files keep these bytes. Where they change, so must [`Quantized::LAYOUT`].
#[test]
fn the_layout_is_that_of_its_version() {
    // FNV-1a.
    let hash = |bytes: &[u8]| {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    };
    let weight = tensor(&numbers(7, 20 * 700, 0.2), DType::F32, &[20, 700]);
    let hashes = BITS.map(|bits| hash(quantize(&weight, bits).bytes()));
    assert_eq!((Quantized::LAYOUT, hashes), (2, [0xad43_1e27_82ee_f6ce, 0x1ea0_940f_404a_575f]));
}

#[test]
fn the_bytes_depend_on_nothing_but_the_weight() {
    let weight = tensor(&numbers(3, 77 * 613, 0.2), DType::BF16, &[77, 613]);
    for bits in BITS {
        let bytes: Vec<Vec<f32>> = on_every_team(|crew| {
            Quantized::quantize(crew, &weight, bits).bytes().iter().map(|&byte| f32::from(byte)).collect()
        })
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect();
        assert!(bytes.iter().all(|other| *other == bytes[0]), "{bits}");
    }
}

/// One activation matrix for two outputs, another for a chain, biases, GELU, the residual stream, and an exact product.
#[test]
fn regions_mix_products_of_every_kind() {
    let (m, k) = (7, 600);
    let (a, b, x) = (numbers(1, m * k, 1.0), numbers(2, m * k, 2.0), numbers(3, m * 50, 1.0));
    let exact = tensor(&numbers(4, 50 * k, 1.0), DType::F16, &[50, k]);
    let bias = numbers(5, 50, 1.0);
    for (bits, rounded) in BITS.into_iter().flat_map(|bits| [(bits, false), (bits, true)]) {
        let weight = quantize(&exact, bits);
        let products = [
            Product { bias: Some(&bias), then: Then::Gelu(Gelu::Erf), ..product(&a, k, &weight) },
            Product { bias: Some(&bias), then: Then::Add, ..product(&a, k, &weight) },
            Product { then: Then::Add, weight: Weight::Exact(&exact), ..product(&b, k, &weight) },
            Product { then: Then::Add, ..product(&b, k, &weight) },
        ];
        // In bf16, where there is such, columns are cut more finely.
        let of = |crew: &Crew<'_>| {
            let mut products = products;
            if rounded && crew.isa().has_bf16() {
                products[2].weight = Weight::Bf16(&exact);
            }
            products
        };
        let together = on_every_team(|crew| {
            let products = of(crew);
            let (mut one, mut two) = (x.clone(), x.clone());
            matmuls(
                crew,
                [(MatMut::new(&mut one, 50), &products[..1]), (MatMut::new(&mut two, 50), &products[1..])],
            );
            [one, two].concat()
        });
        let one_by_one = on_every_team(|crew| {
            let products = of(crew);
            let (mut one, mut two) = (x.clone(), x.clone());
            matmul(crew, MatMut::new(&mut one, 50), products[0]);
            products[1..].iter().for_each(|&product| matmul(crew, MatMut::new(&mut two, 50), product));
            [one, two].concat()
        });
        assert_eq!(together, one_by_one, "{bits}");
    }
}

/// Each rounds the activations in its own way, or not at all.
#[test]
fn one_matrix_of_activations_for_both_widths_and_exact() {
    let (m, n, k) = (5, 40, 600);
    let a = numbers(1, m * k, 1.0);
    let exact = tensor(&numbers(2, n * k, 1.0), DType::F16, &[n, k]);
    let quantized = BITS.map(|bits| quantize(&exact, bits));
    let products = [
        Product { then: Then::Add, ..product(&a, k, &quantized[0]) },
        Product { then: Then::Add, ..product(&a, k, &quantized[1]) },
        Product { then: Then::Add, weight: Weight::Exact(&exact), ..product(&a, k, &quantized[0]) },
    ];
    let together = on_every_team(|crew| {
        let mut out = vec![0.0; m * n];
        matmuls(crew, [(MatMut::new(&mut out, n), &products)]);
        out
    });
    let one_by_one = on_every_team(|crew| {
        let mut out = vec![0.0; m * n];
        products.iter().for_each(|&product| matmul(crew, MatMut::new(&mut out, n), product));
        out
    });
    assert_eq!(together, one_by_one);
}

/// The largest of them divides 127 into no `f32`: zeros, and no infinity times zero.
#[test]
fn activations_too_small_for_a_scale_are_zeros() {
    let (n, k) = (20, 600);
    let a: Vec<f32> = numbers(1, k, 1.0).iter().map(|x| x * 1e-38).collect();
    for bits in BITS {
        let weight = quantize(&tensor(&numbers(2, n * k, 1.0), DType::F32, &[n, k]), bits);
        for (isa, got) in on_every_team(|crew| run(crew, &a, &weight)) {
            assert!(got.iter().all(|&x| x == 0.0), "{isa} {bits}: {got:?}");
        }
    }
}

/// More rows than a tile has, and more columns.
#[test]
fn shapes_of_many_tiles() {
    for (m, n, k) in [(1, 9000, 40), (513, 70, 33), (600, 9, 600), (5, 1700, 31), (64, 2100, 64)] {
        let (a, weight) = (numbers(1, m * k, 1.0), tensor(&numbers(2, n * k, 1.0), DType::F16, &[n, k]));
        for bits in BITS {
            let weight = quantize(&weight, bits);
            let (want, bound) = (quantized_matmul_reference(Mat::new(&a, k), &weight), bounds(&a, &weight));
            for (isa, got) in on_every_team(|crew| run(crew, &a, &weight)) {
                assert_near(&got, &want, |i| bound[i], format_args!("{isa} {bits} {m}x{n}x{k}"));
            }
        }
    }
}

/// Against what the weights were: the errors of the codes have both signs, so their sum grows with the root of K.
#[test]
fn products_are_near_those_of_the_exact_weights() {
    let (m, n, k) = (5, 64, 1024);
    let (a, w) = (numbers(1, m * k, 1.0), numbers(2, n * k, 1.0));
    let want = matmul_reference(Mat::new(&a, k), &w);
    let size = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
    // Uniform numbers: codes at steps of 1/127 of the largest are off by 1 / (127 sqrt 12) on average, those of 2/15 by
    // 2 / (15 sqrt 12); numbers are 1 / sqrt 3 large. Activations add an int8's error. Twice that is allowed.
    for (bits, error) in [(Bits::Int8, 2.0_f64.sqrt() / 127.0 / 2.0), (Bits::Int4, 1.0 / 15.0)] {
        let weight = quantize(&tensor(&w, DType::F32, &[n, k]), bits);
        let got = quantized_matmul_reference(Mat::new(&a, k), &weight);
        let off =
            got.iter().zip(&want).map(|(got, want)| (got - want).powi(2)).sum::<f64>() / want.len() as f64;
        println!("{bits}: {:.5} of {size:.2}", off.sqrt() / size);
        assert!(off.sqrt() <= 2.0 * error * size, "{bits}: {} {size}", off.sqrt());
    }
}

#[test]
fn a_nan_or_infinity_reaches_its_row_and_no_other() {
    for (bad, m) in [(f32::NAN, 1), (f32::NAN, 9), (f32::INFINITY, 3), (f32::NEG_INFINITY, 8)] {
        let (n, k) = (50, 600);
        let mut a = numbers(1, m * k, 1.0);
        a[(m - 1) * k + k - 1] = bad;
        for bits in BITS {
            let weight = quantize(&tensor(&numbers(2, n * k, 1.0), DType::F32, &[n, k]), bits);
            on_every_team(|crew| {
                let out = run(crew, &a, &weight);
                assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i / n == m - 1)), "{bad} {bits}");
                Vec::new()
            });
        }
    }
}

#[test]
fn zeros_and_no_rows_are_fine() {
    let weight = tensor(&[0.0; 40 * 70], DType::F32, &[40, 70]);
    for bits in BITS {
        let weight = quantize(&weight, bits);
        assert!(weight.dequantize().iter().all(|&w| w == 0.0));
        on_every_team(|crew| {
            assert!(run(crew, &numbers(1, 140, 1.0), &weight).iter().all(|&x| x == 0.0));
            assert!(run(crew, &[0.0; 70], &weight).iter().all(|&x| x == 0.0));
            run(crew, &[], &weight)
        });
    }
}

/// `bytes` at the start of a cache line.
fn shared(bytes: &[u8]) -> SharedBytes {
    struct Aligned(Tensor);
    impl AsRef<[u8]> for Aligned {
        fn as_ref(&self) -> &[u8] {
            self.0.bytes()
        }
    }
    let padded: Vec<u8> = [bytes, &[0; 4][..bytes.len().wrapping_neg() % 4]].concat();
    Arc::new(Aligned(Tensor::from_bytes(&padded, DType::F32, &[padded.len() / 4]).unwrap()))
}

#[test]
fn shared_bytes_are_read_in_place() {
    let weight = quantize(&tensor(&numbers(1, 20 * 600, 1.0), DType::F32, &[20, 600]), Bits::Int4);
    let bytes = shared(&[&[0; 128], weight.bytes()].concat());
    let range = 128..128 + weight.bytes().len();
    let same = Quantized::from_shared(Bits::Int4, [20, 600], bytes.clone(), range).unwrap();
    assert_eq!(same.bytes().as_ptr(), (*bytes).as_ref()[128..].as_ptr());
    assert_eq!(same.dequantize(), weight.dequantize());
    assert_eq!(format!("{same:?}"), "Quantized(int4 [20, 600])");
}

#[test]
fn wrong_lengths_ranges_and_alignments_are_errors() {
    let bytes = shared(&[0; 8192]);
    let make = |bits, shape, range| Quantized::from_shared(bits, shape, bytes.clone(), range).map(|_| ());
    let len = Quantized::byte_len(Bits::Int8, [16, 256]).unwrap();
    assert_eq!(len, 16 * 256 + 16 * 4);
    assert_eq!(Quantized::byte_len(Bits::Int4, [17, 513]), Ok(2 * (2 * (64 + 256) + (512 + 32) * 8)));
    assert_eq!(Quantized::byte_len(Bits::Int4, [0, 513]), Ok(0));
    assert_eq!(make(Bits::Int8, [16, 256], 64..64 + len), Ok(()));
    assert_eq!(make(Bits::Int8, [0, 256], 0..0), Ok(()));
    let found =
        |found| Err(Error::QuantizedLength { bits: Bits::Int8, shape: [16, 256], expected: len, found });
    assert_eq!(make(Bits::Int8, [16, 256], 0..len - 1), found(len - 1));
    assert_eq!(make(Bits::Int8, [16, 256], 0..len + 64), found(len + 64));
    assert_eq!(make(Bits::Int8, [16, 256], 8128..8128 + len), found(64));
    assert_eq!(make(Bits::Int8, [16, 256], usize::MAX - 1..usize::MAX), found(0));
    #[allow(clippy::reversed_empty_ranges, reason = "what a hostile file may ask for")]
    let reversed = make(Bits::Int8, [16, 256], 128..64);
    assert_eq!(reversed, found(8064));
    let misaligned = Err(Error::QuantizedMisaligned { bits: Bits::Int8 });
    assert_eq!(make(Bits::Int8, [16, 256], 4..4 + len), misaligned);
    for shape in [[usize::MAX, 1], [1, usize::MAX], [usize::MAX, usize::MAX], [1 << 40, 1 << 40]] {
        for bits in BITS {
            let overflow = Err(Error::QuantizedOverflow { bits, shape });
            assert_eq!(make(bits, shape, 0..64), overflow, "{bits} {shape:?}");
        }
    }
    let message = found(3).unwrap_err().to_string();
    assert_eq!(message, "int8 [16, 256] needs 4160 bytes, found 3");
}
