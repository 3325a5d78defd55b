//! Products against their plain twin, and a row's bits in any company.

use super::*;
use crate::memory::Lines;
use crate::{Isa, MatMut, Team, Tiles};
use half::{bf16, f16};
use proptest::prelude::*;

/// Lengths of K around one block and beyond two.
pub(super) fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![1..100_usize, KC - 20..KC + 20, 2 * KC..2 * KC + 40]
}

pub(super) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The kernel on all of a matrix, as one tile.
fn run<W: Element>(isa: Isa, a: Mat<'_>, w: &[W], out: &mut [f32]) {
    let cols = out.len() / a.rows();
    let work = |mut tile: Tile<'_>| linear(isa, a, w, Epilogue::default(), &mut tile);
    let team = Team::with_isa(1, isa).expect("a team of one");
    team.enter(|crew| crew.run(&mut [Tiles::new(MatMut::new(out, cols), ROWS, cols, &work)]));
}

/// A dot product of K terms in f32 differs from the exact one by at most `(K/LANES + 3 + LANES/4 for each block) * u *
/// sum |a w|` (Higham, section 3.1; three additions within four lanes, one for each four); K + 8 stands for all of that on every instruction set.
fn check<W: Element>(isa: Isa, m: usize, n: usize, k: usize, seed: u64) {
    let a = numbers(seed, m * k);
    let w: Vec<W> = numbers(!seed, n * k).into_iter().map(W::from_f32).collect();
    let mut out = vec![f32::NAN; m * n];
    run(isa, Mat::new(&a, k), &w, &mut out);
    let want = matmul_reference(Mat::new(&a, k), &w);
    for (i, (&got, &want)) in out.iter().zip(&want).enumerate() {
        let terms = a[i / n * k..][..k].iter().zip(&w[i % n * k..][..k]);
        let magnitude: f64 = terms.map(|(a, w)| f64::from((a * w.to_f32()).abs())).sum();
        let bound = (k + 8) as f64 * f64::from(f32::EPSILON / 2.0) * magnitude;
        assert!(
            (f64::from(got) - want).abs() <= bound,
            "{isa} {} {m}x{n}x{k} at {i}: {got} {want}",
            W::DTYPE
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn matches_the_reference_for_odd_shapes(m in 1..20_usize, n in 1..40_usize, k in lengths(), seed: u64) {
        for &isa in Isa::available() {
            check::<f32>(isa, m, n, k, seed);
            check::<f16>(isa, m, n, k, seed);
            check::<bf16>(isa, m, n, k, seed);
        }
    }

    /// Rows of weights far apart come in parts, of as many columns as there is memory for their sums.
    #[test]
    fn many_columns_match_the_reference(m in 1..40_usize, n in 60..300_usize, k in lengths(), seed: u64) {
        for &isa in Isa::available() {
            check::<f16>(isa, m, n, k, seed);
        }
    }

    /// The promise that everything above rests on: a row's bits are its own.
    #[test]
    fn a_row_has_the_same_bits_in_any_company(m in 2..2 * FAR, n in 1..100_usize, k in lengths(), seed: u64) {
        let a = numbers(seed, m * k);
        let w: Vec<f16> = numbers(!seed, n * k).into_iter().map(f16::from_f32).collect();
        for &isa in Isa::available() {
            let product = |a: &[f32], w: &[f16]| {
                let mut out = vec![f32::NAN; a.len() / k * (w.len() / k)];
                run(isa, Mat::new(a, k), w, &mut out);
                out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let all = product(&a, &w);
            for rows in 1..=m.min(6) {
                prop_assert_eq!(&product(&a[..rows * k], &w)[..], &all[..rows * n], "{} {} rows", isa, rows);
            }
            let last = product(&a[(m - 1) * k..], &w[(n - 1) * k..]);
            prop_assert_eq!(last[0], all[m * n - 1]);
        }
    }
}

/// The bf16 kernel on all of a matrix, as one tile.
#[cfg(target_arch = "x86_64")]
fn run_bf16<W: Element>(isa: Isa, a: Mat<'_>, w: &[W], cols: usize) -> Vec<f32> {
    let k = a.cols();
    let words = k.div_ceil(2).next_multiple_of(16);
    let mut rounded = vec![f32::NAN; a.rows() * words];
    for (i, out) in rounded.chunks_exact_mut(words).enumerate() {
        round_row(isa, a.row(i), out);
    }
    let rounded = Mat::new(&rounded, words);
    let mut out = vec![f32::NAN; a.rows() * cols];
    let work = |mut tile: Tile<'_>| {
        // What other products left there must not matter.
        let mut panels = Lines::default();
        panels.floats(1 << 18).fill(f32::NAN);
        linear_bf16(isa, rounded, (w, k), Epilogue::default(), &mut tile, &mut panels);
    };
    let team = Team::with_isa(1, isa).expect("a team of one");
    team.enter(|crew| crew.run(&mut [Tiles::new(MatMut::new(&mut out, cols), a.rows(), cols, &work)]));
    out
}

/// Of the products of numbers rounded to bf16, only the sums round: the bound is the exact kernel's, with inputs rounded first.
#[cfg(target_arch = "x86_64")]
fn check_bf16<W: Element>(isa: Isa, [m, n, k]: [usize; 3], a: &[f32], w: &[W]) -> Vec<f32> {
    let round = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect::<Vec<_>>();
    let rounded = round(&w.iter().map(|w| w.to_f32()).collect::<Vec<_>>());
    let out = run_bf16(isa, Mat::new(a, k), w, n);
    let want = matmul_reference(Mat::new(&round(a), k), &rounded);
    for (i, (&got, &want)) in out.iter().zip(&want).enumerate() {
        let terms = a[i / n * k..][..k].iter().zip(&rounded[i % n * k..][..k]);
        let magnitude: f64 = terms.map(|(a, w)| f64::from((a * w).abs()) * 1.01).sum();
        let bound = (k + 8) as f64 * f64::from(f32::EPSILON / 2.0) * magnitude;
        assert!((f64::from(got) - want).abs() <= bound, "{isa} {m}x{n}x{k} at {i}: {got} {want}");
    }
    out
}

#[cfg(target_arch = "x86_64")]
fn with_bf16() -> impl Iterator<Item = Isa> {
    Isa::available().iter().copied().filter(|isa| isa.has_bf16())
}

/// More elements of K than most rows have.
#[test]
#[cfg(target_arch = "x86_64")]
fn bf16_of_long_rows_matches_the_reference() {
    let [m, n, k] = [33, 70, 8192 + 300];
    let w: Vec<f16> = numbers(2, n * k).into_iter().map(f16::from_f32).collect();
    for isa in with_bf16() {
        check_bf16(isa, [m, n, k], &numbers(1, m * k), &w);
    }
}

/// Packing takes parts of rows by their bytes: several, with something left, of every type.
#[test]
#[cfg(target_arch = "x86_64")]
fn bf16_of_every_type_of_weights_matches_the_reference() {
    fn check<W: Element>() {
        let [m, n, k] = [21, 37, 1024 + 90];
        let w: Vec<W> = numbers(2, n * k).into_iter().map(W::from_f32).collect();
        for isa in with_bf16() {
            check_bf16(isa, [m, n, k], &numbers(1, m * k), &w);
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

#[cfg(target_arch = "x86_64")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Among at most `FEW` rows, and among more, a row's bits are its own.
    #[test]
    fn bf16_is_the_reference_of_rounded_numbers(m in 1..80_usize, n in 1..300_usize, k in lengths(), seed: u64) {
        let a = numbers(seed, m * k);
        let w: Vec<f16> = numbers(!seed, n * k).into_iter().map(f16::from_f32).collect();
        for isa in with_bf16() {
            let out = check_bf16(isa, [m, n, k], &a, &w);
            for rows in [1, 2, 5, 6, 7, 8, 9, FEW, FEW + 1, 31, 32, 33, m - 1].into_iter().filter(|&rows| {
                0 < rows && rows < m && (rows > FEW) == (m > FEW)
            }) {
                let part = run_bf16(isa, Mat::new(&a[..rows * k], k), &w, n);
                prop_assert_eq!(&part[..], &out[..rows * n], "{} {} rows", isa, rows);
            }
        }
    }
}

/// The kernel for tiles on all of a matrix, whose output is cut into `[rows, cols]`. None where there are no tiles.
#[cfg(target_arch = "x86_64")]
fn run_tiled<W: Element>(isa: Isa, rounded: bool, a: Mat<'_>, w: &[W], cut: [usize; 2]) -> Option<Vec<u32>> {
    let (k, n) = (a.cols(), w.len() / a.cols());
    let tiled = Tiled::of(isa, rounded, a.rows())?;
    let unit = tiled.unit_rows();
    let mut units = vec![f32::NAN; a.rows().div_ceil(unit) * tiled.unit_len(k)];
    for (i, words) in units.chunks_exact_mut(tiled.unit_len(k)).enumerate() {
        let rows = i * unit..a.rows().min((i + 1) * unit);
        tiled.pack(a.slice_rows(rows), words);
    }
    let mut out = vec![f32::NAN; a.rows() * n];
    let work = |mut tile: Tile<'_>| {
        // What other products left there must not matter.
        let (mut room, mut sums) = (Lines::default(), Lines::default());
        room.floats(1 << 18).fill(f32::NAN);
        sums.floats(1 << 18).fill(f32::NAN);
        tiled.linear(&units, (w, k), Epilogue::default(), &mut tile, (&mut room, &mut sums));
    };
    let team = Team::with_isa(1, isa).expect("a team of one");
    team.enter(|crew| crew.run(&mut [Tiles::new(MatMut::new(&mut out, n), cut[0], cut[1], &work)]));
    Some(out.into_iter().map(f32::to_bits).collect())
}

/// As `check`. Products that tiles leave out are less than `2^-22`, 4 `u`, of a term: of an `f16` weight one, of an `f32` two, and a third
/// that is less than a 256th of these.
#[cfg(target_arch = "x86_64")]
fn check_tiled<W: Element>(isa: Isa, rounded: bool, [m, n, k]: [usize; 3], seed: u64) {
    let a = numbers(seed, m * k);
    let w: Vec<W> = numbers(!seed, n * k).into_iter().map(W::from_f32).collect();
    let Some(out) = run_tiled(isa, rounded, Mat::new(&a, k), &w, [1024, 320]) else { return };
    let round = |x: f32| if rounded { bf16::from_f32(x).to_f32() } else { x };
    let a: Vec<f32> = a.into_iter().map(round).collect();
    let w: Vec<f32> = w.into_iter().map(|w| round(w.to_f32())).collect();
    let want = matmul_reference(Mat::new(&a, k), &w);
    for (i, (&got, &want)) in out.iter().zip(&want).enumerate() {
        let terms = a[i / n * k..][..k].iter().zip(&w[i % n * k..][..k]);
        let magnitude: f64 = terms.map(|(a, w)| f64::from(*a).abs() * f64::from(*w).abs()).sum();
        let bound = (k + 8 + 9) as f64 * f64::from(f32::EPSILON / 2.0) * magnitude;
        let got = f64::from(f32::from_bits(got));
        assert!((got - want).abs() <= bound, "{isa} {} {m}x{n}x{k} at {i}: {got} {want}", W::DTYPE);
    }
}

/// Some of the rows, and some of the columns, have the bits that they have among all.
#[cfg(target_arch = "x86_64")]
fn check_company<W: Element>(isa: Isa, rounded: bool, [m, n, k]: [usize; 3], seed: u64) {
    let a = numbers(seed, m * k);
    let w: Vec<W> = numbers(!seed, n * k).into_iter().map(W::from_f32).collect();
    let Some(all) = run_tiled(isa, rounded, Mat::new(&a, k), &w, [1024, 320]) else { return };
    for rows in [1, 2, 3, 5, 16, 17, 32, 33, 48, 49, 64, 65].into_iter().filter(|&rows| rows < m) {
        let part = run_tiled(isa, rounded, Mat::new(&a[..rows * k], k), &w, [1024, n]);
        assert!(part.unwrap()[..] == all[..rows * n], "{} {rows} rows of {m}x{n}x{k}", W::DTYPE);
    }
    let unit = Tiled::of(isa, rounded, m).expect("it has tiles").unit_rows();
    let cut = run_tiled(isa, rounded, Mat::new(&a, k), &w, [unit, 32]);
    assert!(cut.unwrap() == all, "{} {m}x{n}x{k} cut into tiles", W::DTYPE);
    let last = run_tiled(isa, rounded, Mat::new(&a[(m - 1) * k..], k), &w[(n - 1) * k..], [64, 1]);
    assert_eq!(last.unwrap()[0], all[m * n - 1], "{} the last of {m}x{n}x{k}", W::DTYPE);
}

/// Lengths of K of whole steps, around blocks of them, and any.
#[cfg(target_arch = "x86_64")]
fn lengths_of_steps() -> impl Strategy<Value = usize> {
    prop_oneof![1..200_usize, (1..40_usize).prop_map(|steps| 64 * steps), 2000..2100_usize]
}

#[cfg(target_arch = "x86_64")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn tiles_match_the_reference(m in 1..150_usize, n in 1..300_usize, k in lengths_of_steps(), seed: u64) {
        for &isa in Isa::available() {
            for rounded in [false, true] {
                check_tiled::<f16>(isa, rounded, [m, n, k], seed);
                check_tiled::<bf16>(isa, rounded, [m, n, k], seed);
                check_tiled::<f32>(isa, rounded, [m, n, k], seed);
            }
        }
    }

    /// A row's bits are its own, and so are a column's: among few and many, in whole groups of rows of weights and in what is left.
    #[test]
    fn tiles_have_the_same_bits_in_any_company(
        m in 2..150_usize,
        n in 2..300_usize,
        k in lengths_of_steps(),
        seed: u64,
    ) {
        for &isa in Isa::available() {
            for rounded in [false, true] {
                check_company::<f16>(isa, rounded, [m, n, k], seed);
                check_company::<bf16>(isa, rounded, [m, n, k], seed);
                check_company::<f32>(isa, rounded, [m, n, k], seed);
            }
        }
    }

    /// Weights have the same results in every type that holds them.
    #[test]
    fn tiles_of_widened_weights_have_the_same_bits(
        m in 1..100_usize,
        n in 1..100_usize,
        k in lengths_of_steps(),
        seed: u64,
    ) {
        let a = numbers(seed, m * k);
        let halves: Vec<f16> = numbers(!seed, n * k).into_iter().map(f16::from_f32).collect();
        let short: Vec<bf16> = numbers(!seed, n * k).into_iter().map(bf16::from_f32).collect();
        for &isa in Isa::available() {
            let a = Mat::new(&a, k);
            let wide: Vec<f32> = halves.iter().map(|w| w.to_f32()).collect();
            prop_assert!(run_tiled(isa, false, a, &halves, [1024, 64]) == run_tiled(isa, false, a, &wide, [1024, 64]));
            let wide: Vec<f32> = short.iter().map(|w| w.to_f32()).collect();
            prop_assert!(run_tiled(isa, false, a, &short, [1024, 64]) == run_tiled(isa, false, a, &wide, [1024, 64]));
        }
    }
}

/// The last block of K is shorter than the one before, and so many rows are multiplied with it that weights are kept.
#[test]
#[cfg(target_arch = "x86_64")]
fn tiles_of_a_short_last_block_match_the_reference() {
    for &isa in Isa::available() {
        check_tiled::<f16>(isa, false, [97, 53, 2152], 7);
        check_tiled::<f16>(isa, false, [70, 300, 1088], 7);
    }
}

/// A unit of activations is larger than what should stay in the cache: of whole steps, and of others; and so is a single row of weights.
#[test]
#[cfg(target_arch = "x86_64")]
fn tiles_of_longer_rows_than_the_cache_match_the_reference() {
    for &isa in Isa::available() {
        for [m, n, k] in [[64, 40, 4096], [49, 33, 5001], [65, 18, 4160]] {
            check_tiled::<f16>(isa, false, [m, n, k], 7);
            check_company::<f16>(isa, false, [m, n, k], 7);
        }
        check_tiled::<f32>(isa, true, [33, 2, (1 << 18) + 1], 7);
        // A single tile, of 16 columns.
        check_tiled::<f16>(isa, false, [16, 20, 11000], 7);
        check_tiled::<f16>(isa, true, [16, 20, 33000], 7);
        check_company::<f16>(isa, true, [17, 20, 33000], 7);
    }
}

/// Weights of all magnitudes, among them those that are subnormal as `f16`, are whole sums of their parts.
#[test]
#[cfg(target_arch = "x86_64")]
fn tiles_of_every_f16_are_exact() {
    let w: Vec<f16> =
        (0..=u16::MAX).map(f16::from_bits).map(|w| if w.is_finite() { w } else { f16::ONE }).collect();
    let k = 64;
    let mut one = vec![0.0; k];
    one[37] = 1.0 + f32::EPSILON;
    for &isa in Isa::available() {
        let Some(out) = run_tiled(isa, false, Mat::new(&one, k), &w, [64, 1024]) else { continue };
        for (row, &got) in w.chunks_exact(k).zip(&out) {
            let want = f64::from(row[37].to_f32()) * f64::from(one[37]);
            let error = (f64::from(f32::from_bits(got)) - want).abs();
            assert!(error <= f64::from(f32::EPSILON) * want.abs(), "{isa}: {} {want}", f32::from_bits(got));
        }
    }
}

/// A bug of the past: an even number of groups, whose rows of weights shared a few sets of the cache.
#[cfg(target_arch = "x86_64")]
#[test]
fn rows_of_weights_that_are_multiplied_together_lie_an_odd_number_of_rows_apart() {
    for height in [8, 16] {
        for (n, tiles) in [1, 16, 17, 32, 512, 700, 1024, 3072, 4096, 50304]
            .into_iter()
            .flat_map(|n| [1, 2, 4, 6, 16].map(|tiles| (n, tiles)))
        {
            let parts = super::Tiled::few_cols(n, tiles, height);
            let what = format!("{n} in {tiles}: {parts:?}");
            let mut end = 0;
            let mut groups = vec![];
            for part in (0..parts.count).map(|i| parts.part(i, n)) {
                assert!(part.start == end && !part.is_empty(), "{what}: {part:?}");
                end = part.end;
                groups.push(part.len().div_ceil(height));
            }
            assert_eq!(end, n, "{what}");
            let even = n.div_ceil(height) < tiles || groups.len().is_multiple_of(tiles);
            assert!(even && (groups.len() <= tiles || n > 2048 * tiles), "{what}");
            let last = groups.pop().unwrap();
            assert!(groups.iter().all(|groups| groups % 2 == 1), "{what}");
            let odd = groups.iter().min().copied().unwrap_or(last);
            assert!(groups.iter().all(|&groups| groups <= odd + 2) && last <= odd + 1, "{what}");
            assert!(groups.is_empty() || odd * height <= 2048 + height, "{what}");
        }
    }
}

/// The order that the module's docs promise, of one dot product, in bits: two blocks of K, the second of no whole vectors.
#[test]
fn sums_are_of_lanes_then_of_fours_then_of_blocks() {
    let k = KC + 53;
    let (a, w) = (numbers(5, k), numbers(6, k));
    for &isa in Isa::available() {
        // The portable instruction set rounds a product before it is added.
        let fused = |a: f32, w: f32, sum: f32| if isa.lanes() > 4 { a.mul_add(w, sum) } else { a * w + sum };
        let mut want = 0.0;
        for (a, w) in a.chunks(KC).zip(w.chunks(KC)) {
            let mut sums = vec![0.0; isa.lanes()];
            for (i, (&a, &w)) in a.iter().zip(w).enumerate() {
                sums[i % isa.lanes()] = fused(a, w, sums[i % isa.lanes()]);
            }
            want = sums.chunks(4).fold(want, |total, l| total + (((l[0] + l[1]) + l[2]) + l[3]));
        }
        let mut out = [f32::NAN];
        run(isa, Mat::new(&a, k), &w, &mut out);
        assert_eq!(out[0].to_bits(), f32::to_bits(want), "{isa}: {} and {want}", out[0]);
    }
}
