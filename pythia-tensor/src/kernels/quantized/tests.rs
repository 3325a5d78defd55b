use super::*;
use crate::{Team, Tensor};

stamp_int8! {
    /// By streams, with vectors of a line; otherwise `out` stays.
    fn few_int8(a: Rounded<'_>, w: Panels<'_>, out: &mut [f32]) = few_of_int8;
    fn few_int4(a: Rounded<'_>, w: Panels<'_>, out: &mut [f32]) = few_of_int4, avx2 = none;
    fn many_int8(a: Rounded<'_>, w: Panels<'_>, out: &mut [f32]) = many_of_int8;
    fn many_int4(a: Rounded<'_>, w: Panels<'_>, out: &mut [f32]) = many_of_int4, avx2 = none;
}

fn few_of_int8<D: Int8>(d: D, a: Rounded<'_>, w: Panels<'_>, out: &mut [f32]) {
    if D::LANES == PANEL {
        few_rows::<D, AsInt8>(d, a, w, out);
    }
}
fn few_of_int4<D: Expand>(d: D, a: Rounded<'_>, w: Panels<'_>, out: &mut [f32]) {
    if D::LANES == PANEL {
        few_rows::<D, AsInt4>(d, a, w, out);
    }
}
fn many_of_int8<D: Int8>(d: D, a: Rounded<'_>, w: Panels<'_>, out: &mut [f32]) {
    if D::LANES == PANEL {
        many_rows::<D, AsInt8, 1, 4, 1>(d, a, w, out, &mut Lines::default());
    }
}
fn many_of_int4<D: Expand>(d: D, a: Rounded<'_>, w: Panels<'_>, out: &mut [f32]) {
    if D::LANES == PANEL {
        many_rows::<D, AsInt4, 1, 4, 1>(d, a, w, out, &mut Lines::default());
    }
}
#[cfg(target_arch = "x86_64")]
fn none<D: Int8>(_: D, _: Rounded<'_>, _: Panels<'_>, _: &mut [f32]) {}

/// From -0.5 to 0.5, in no order.
fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i + seed) * 7919 % 1009) as f32 / 1008.0 - 0.5).collect()
}

/// Which of the two is taken depends on the processor; both are tested on every one that has them.
#[test]
fn streams_have_the_bits_of_many_rows() {
    for &isa in Isa::available() {
        if isa.lanes() < PANEL {
            continue;
        }
        for (bits, panels, k) in [Bits::Int8, Bits::Int4]
            .into_iter()
            .flat_map(|bits| [(bits, 1, 70), (bits, 5, 600), (bits, 4, 1024)])
        {
            let (n, form) = (panels * PANEL, Form::of(isa, bits));
            let weight = Tensor::from_slice(&numbers(1, n * k), &[n, k]);
            let weight = Team::with_isa(1, isa)
                .expect("a team of one")
                .enter(|crew| Quantized::quantize(crew, &weight, bits));
            let w = Panels { bytes: weight.bytes(), len: weight.panel_bytes() };
            for rows in 1..=FEW_NEAR {
                let mut words = vec![0.0; rows * form.len(k)];
                for (a, words) in
                    numbers(2, rows * k).chunks_exact(k).zip(words.chunks_exact_mut(form.len(k)))
                {
                    round_activations(isa, form, a, words);
                }
                let (a, len) = (Rounded::new(&words, k, form), rows * n.next_multiple_of(COLS));
                let (mut few, mut many) = (vec![0.0; len], vec![f32::NAN; len]);
                match bits {
                    Bits::Int8 => (few_int8(isa, a, w, &mut few), many_int8(isa, a, w, &mut many)),
                    Bits::Int4 => (few_int4(isa, a, w, &mut few), many_int4(isa, a, w, &mut many)),
                };
                let stride = len / rows;
                for (few, many) in few.chunks_exact(stride).zip(many.chunks_exact(stride)) {
                    assert!(few[..n].iter().any(|&x| x != 0.0), "{isa} {bits} {rows} rows");
                    assert_eq!(few[..n], many[..n], "{isa} {bits} {rows} rows of {k}, {panels} panels");
                }
            }
        }
    }
}
