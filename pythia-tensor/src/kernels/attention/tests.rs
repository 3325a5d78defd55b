use super::*;
use crate::Isa;
use half::bf16;
use proptest::prelude::*;

/// One head's q, k, v in a row of `[q, k, v][D]` for each of `t` positions.
fn qkv(t: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    (0..t * 3 * dim)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 22) as f32 - 2.0
        })
        .collect()
}

/// Empty caches of every kind.
fn caches(dim: usize, positions: usize) -> [KeyValues; 2] {
    [KeyValues::new(1, dim, positions), KeyValues::new_bf16(1, dim, positions)]
}

fn attend_all(isa: Isa, qkv: Mat<'_>, dim: usize, rotary: &Rotary, split: &[usize]) -> Vec<f32> {
    attend_with(isa, KeyValues::new(1, dim, qkv.rows()), qkv, rotary, split)
}

fn attend_with(isa: Isa, mut cache: KeyValues, qkv: Mat<'_>, rotary: &Rotary, split: &[usize]) -> Vec<f32> {
    let dim = cache.shape().1;
    let mut out = vec![f32::NAN; qkv.rows() * dim];
    let mut start = 0;
    for &len in split {
        cache.append(qkv.slice_rows(start..start + len), start, rotary);
        for t in (start..start + len).step_by(QUERIES) {
            let q = qkv.slice_rows(t..(t + QUERIES).min(start + len)).slice_cols(0..dim);
            let mut out = Tile::whole(&mut out[t * dim..][..q.rows() * dim], dim);
            cache.with_head(0, |head| attend(isa, q, t, head, rotary, &mut Running::default(), &mut out));
        }
        start += len;
    }
    out
}

/// Two keys, of which one has the score 0, and values 0 and 1: the result is `1 / (1 + 2^-s)`. `s` is rounded twice, its exponential is off by
/// at most 1.25 units in the last place, and at most a quarter of both reaches the result; the sum and the quotient are rounded.
/// What is meant for `bf16` alone ([`math::exp2_for_bf16`]) would be off by 11 u.
#[test]
fn a_weight_in_f32_is_as_exact_as_its_score() {
    let (dim, rotary, u) = (16, Rotary::new(0, 10000.0, 2), f64::from(f32::EPSILON / 2.0));
    for (&isa, step) in Isa::available().iter().flat_map(|isa| (-64..=64).map(move |step| (isa, step))) {
        let query = step as f32 / 16.0;
        let mut qkv = vec![0.0; 2 * 3 * dim];
        let (_, last) = qkv.split_at_mut(3 * dim);
        (last[0], last[dim], last[2 * dim]) = (query, 1.0, 1.0);
        let got = attend_all(isa, Mat::new(&qkv, 3 * dim), dim, &rotary, &[2])[dim];
        let want = 1.0 / (1.0 + (-f64::from(query) / (dim as f64).sqrt()).exp());
        // |s| is at most 1.5.
        let bound = (0.25 * (2.0 * 1.5 * std::f64::consts::LN_2 + 2.0 * 1.25) + 2.0) * u;
        assert!((f64::from(got) - want).abs() <= bound, "{isa} {query}: {got} for {want}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Scores up to 4 sqrt(D) carry an absolute error of D u times that, which the exponential makes relative; sums
    /// over up to T keys add T u. Values are at most 2.
    #[test]
    fn matches_the_reference(t in 1..300_usize, dim in prop::sample::select(vec![7, 24, 32, 35, 64, 80, 128, 256]), seed: u64) {
        let data = qkv(t, dim, seed);
        let qkv = Mat::new(&data, 3 * dim);
        let rotary = Rotary::new(dim / 4 / 2 * 2, 10000.0, t);
        let rotated = |part: usize| {
            let mut x: Vec<f32> = (0..t).flat_map(|p| qkv.row(p)[part * dim..][..dim].to_vec()).collect();
            x.chunks_mut(dim).enumerate().for_each(|(p, x)| if part < 2 { rotary.rotate(x, p) });
            x
        };
        let (q, k, v) = (rotated(0), rotated(1), rotated(2));
        let want = attention_reference(Mat::new(&q, dim), Mat::new(&k, dim), Mat::new(&v, dim), 0).concat();
        let bound = 2.0 * (4.0 * (dim as f64).sqrt() * (dim as f64 + 4.0) + t as f64 + 40.0) * f64::from(f32::EPSILON / 2.0);
        for &isa in Isa::available() {
            let got = attend_all(isa, qkv, dim, &rotary, &[t]);
            for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
                prop_assert!((f64::from(got) - want).abs() <= bound, "{} {} at {}: {} {}", isa, dim, i, got, want);
            }
        }
    }

    /// Against the reference with keys, values and scaled queries rounded to bf16: then only the weights are rounded to it,
    /// by 2^-9 each (what their exponentials are off by is a thousandth of that), and a mix of values up to 2 by no more than that in proportion.
    #[test]
    fn pairs_of_bf16_match_the_reference(t in 1..300_usize, dim in prop::sample::select(vec![7, 24, 32, 35, 64, 80, 128, 256]), seed: u64) {
        let data = qkv(t, dim, seed);
        let qkv = Mat::new(&data, 3 * dim);
        let rotary = Rotary::new(dim / 4 / 2 * 2, 10000.0, t);
        let scale = std::f32::consts::LOG2_E / (dim as f32).sqrt();
        let rounded = |part: usize| {
            let mut x: Vec<f32> = (0..t).flat_map(|p| qkv.row(p)[part * dim..][..dim].to_vec()).collect();
            if part == 0 {
                x.iter_mut().for_each(|x| *x *= scale);
            }
            x.chunks_mut(dim).enumerate().for_each(|(p, x)| if part < 2 { rotary.rotate(x, p) });
            x.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
            x
        };
        let (mut q, k, v) = (rounded(0), rounded(1), rounded(2));
        q.iter_mut().for_each(|q| *q /= scale);
        let want = attention_reference(Mat::new(&q, dim), Mat::new(&k, dim), Mat::new(&v, dim), 0).concat();
        let single = 2.0 * (4.0 * (dim as f64).sqrt() * (dim as f64 + 4.0) + t as f64 + 40.0) * f64::from(f32::EPSILON / 2.0);
        let bound = single + 2.0 * 2_f64.powi(-9) * 1.01;
        for &isa in Isa::available() {
            let got = attend_with(isa, KeyValues::new_bf16(1, dim, t), qkv, &rotary, &[t]);
            for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
                prop_assert!((f64::from(got) - want).abs() <= bound, "{} {} at {}: {} {}", isa, dim, i, got, want);
            }
        }
    }

    #[test]
    fn any_split_of_the_prompt_gives_the_same_bits(lens in prop::collection::vec(1..70_usize, 1..5), dim in prop::sample::select(vec![24, 32, 35, 80, 128]), seed: u64) {
        let t = lens.iter().sum();
        let data = qkv(t, dim, seed);
        let rotary = Rotary::new(8, 10000.0, t);
        for &isa in Isa::available() {
            for cache in caches(dim, t) {
                let attend = |split: &[usize]| attend_with(isa, cache.clone(), Mat::new(&data, 3 * dim), &rotary, split);
                let whole = attend(&[t]);
                prop_assert_eq!(&whole, &attend(&lens));
                prop_assert_eq!(&whole, &attend(&vec![1; t]));
            }
        }
    }

    /// The two halves that taps use give what the fused walk gives, up to rounding.
    #[test]
    fn scores_and_mix_make_attention(t in 1..300_usize, seed: u64) {
        let dim = 32;
        let data = qkv(t, dim, seed);
        let qkv = Mat::new(&data, 3 * dim);
        let rotary = Rotary::new(8, 10000.0, t);
        for (isa, mut cache) in Isa::available().iter().flat_map(|&isa| caches(dim, t).into_iter().map(move |c| (isa, c))) {
            let fused = attend_with(isa, cache.clone(), qkv, &rotary, &[t]);
            cache.append(qkv, 0, &rotary);
            let mut q = qkv.row(t - 1)[..dim].to_vec();
            rotary.rotate(&mut q, t - 1);
            let mut pattern = vec![f32::NAN; t];
            cache.with_head(0, |head| scores(isa, &q, head, &mut pattern));
            crate::kernels::rows::softmax_row(isa, &mut pattern);
            let mut z = vec![f32::NAN; dim];
            cache.with_head(0, |head| mix(isa, &pattern, head, &mut z));
            // Queries and weights are rounded to bf16 at different scales.
            let rounding = if cache.with_head(0, |head| head.numbers) == 1 { 0.0 } else { 2_f32.powi(-8) * (1.0 + 4.0 * (dim as f32).sqrt()) };
            let bound = 2.0 * ((2.0 * t as f32 + 40.0) * f32::EPSILON + rounding);
            for (a, b) in z.iter().zip(&fused[(t - 1) * dim..]) {
                prop_assert!((a - b).abs() <= bound, "{} {} {}", isa, a, b);
            }
        }
    }
}

#[test]
fn a_copied_prefix_continues_alike() {
    // The last value is the first of its pair.
    let (dim, t) = (24, 141);
    let data = qkv(t, dim, 5);
    let rotary = Rotary::new(6, 10000.0, t);
    let qkv = Mat::new(&data, 3 * dim);
    let kinds = caches(dim, 200).into_iter().zip(caches(dim, 160));
    for (&isa, (mut cache, mut copy)) in
        Isa::available().iter().flat_map(|isa| kinds.clone().map(move |kind| (isa, kind)))
    {
        cache.append(qkv, 0, &rotary);
        copy.copy_prefix(&cache, t);
        let last = |cache: &KeyValues| {
            let (mut z, q) = (vec![f32::NAN; dim], qkv.slice_rows(t - 1..t).slice_cols(0..dim));
            let mut out = Tile::whole(&mut z, dim);
            cache
                .with_head(0, |head| attend(isa, q, t - 1, head, &rotary, &mut Running::default(), &mut out));
            z
        };
        assert_eq!(last(&cache), last(&copy));
    }
}

/// Causality: whatever a later token holds, earlier queries do not see it.
#[test]
fn an_infinite_value_does_not_reach_earlier_queries() {
    for (dim, bad) in [24, 64].into_iter().flat_map(|dim| [3, 65, 127, 128, 130, 257].map(|bad| (dim, bad))) {
        let t = 300;
        let rotary = Rotary::new(6, 10000.0, t);
        let clean = qkv(t, dim, 9);
        let mut data = clean.clone();
        data[bad * 3 * dim + 2 * dim..(bad + 1) * 3 * dim].fill(f32::INFINITY);
        for &isa in Isa::available() {
            for cache in caches(dim, t) {
                let attend = |data| attend_with(isa, cache.clone(), Mat::new(data, 3 * dim), &rotary, &[t]);
                let (want, got) = (attend(&clean), attend(&data));
                assert_eq!(got[..bad * dim], want[..bad * dim], "{isa}, {dim} dimensions, token {bad}");
                assert!(
                    got[bad * dim..].iter().all(|z| !z.is_finite()),
                    "{isa}, {dim} dimensions, token {bad}"
                );
            }
        }
    }
}

/// Pythia's key biases have norms of about 300: scores of a thousand, whose maximum moves from block to block or stays in the first.
#[test]
fn scores_of_a_thousand_match_the_reference() {
    for rising in [true, false] {
        let (dim, t) = (32, 400);
        let rotary = Rotary::new(0, 10000.0, t);
        let mut data = qkv(t, dim, 4);
        for (p, row) in data.chunks_mut(3 * dim).enumerate() {
            row[..dim].fill(40.0);
            // The scores rise and fall along the keys, in each 64 of them higher or lower, up to +-1000.
            let height = if rising { 1 + p / 64 } else { 7 - p / 64 } as f32 / 7.0;
            row[dim..2 * dim].fill((((p * 37) % 101) as f32 / 101.0 * 9.0 - 4.5) * height);
        }
        let qkv = Mat::new(&data, 3 * dim);
        let part =
            |i: usize| (0..t).flat_map(|p| qkv.row(p)[i * dim..][..dim].to_vec()).collect::<Vec<f32>>();
        let (q, k, v) = (part(0), part(1), part(2));
        let want = attention_reference(Mat::new(&q, dim), Mat::new(&k, dim), Mat::new(&v, dim), 0).concat();
        // Scores of up to 1020 with D roundings each, made relative by the exponential; values are at most 2.
        let bound = 2.0 * (1020.0 * (dim as f64 + 4.0) + t as f64 + 40.0) * f64::from(f32::EPSILON / 2.0);
        for &isa in Isa::available() {
            let got = attend_all(isa, qkv, dim, &rotary, &[t]);
            for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
                assert!(
                    (f64::from(got) - want).abs() <= bound,
                    "{isa} at {i}, rising {rising}: {got} {want}"
                );
            }
        }
    }
}

/// A single query asks for what it reads two pages later, and for nothing where none follow.
#[test]
fn what_is_asked_for_lies_two_pages_ahead() {
    let dim = 48;
    for cache in [KeyValues::new(1, dim, 160), KeyValues::new_bf16(1, dim, 160)] {
        cache.with_head(0, |head| {
            let (strips, pages) = (2 * head.numbers, 160 / (16 * head.numbers));
            for page in 0..pages {
                let keys = page * head.numbers;
                let at = [(head.keys_at(keys), head.rows()), (head.values_at(page), dim)];
                let later = [(keys + strips, true), (page + 2, false)].map(|(i, is_keys)| {
                    (page + 2 < pages).then(|| if is_keys { head.keys_at(i) } else { head.values_at(i) })
                });
                for ((at, rows), later) in at.into_iter().zip(later) {
                    let expected = later.map(|later| head.lanes(later, rows).as_ptr());
                    assert_eq!(head.ahead(at, rows).map(<[_]>::as_ptr), expected, "page {page} of {pages}");
                }
            }
        });
    }
}
