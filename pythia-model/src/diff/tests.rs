use super::*;
use crate::test_models::{SMALL, synthetic};
use crate::{Model, Sequence, Size, Workspace, score, synth};
use pythia_tensor::{Crew, Difference, Team};

/// One more layer, more rows of vocabulary.
const LARGER: Size = Size { num_hidden_layers: 3, vocab_size: 96, ..SMALL };

/// A unit of rounding of `f32`.
const U: f64 = f32::EPSILON as f64 / 2.0;
/// Of a sum of at most 64 terms a lane, as the kernel's documentation says, and of the square root of one.
const RELATIVE: f64 = 72.0 * U;

fn model(size: &Size, seed: u64) -> Model {
    Model::open(synthetic(size, seed)).unwrap()
}

fn with_crew<R>(f: impl FnOnce(&Crew<'_>) -> R) -> R {
    Team::new(2).unwrap().enter(f)
}

fn compare(a: &Model, b: &Model) -> WeightsDifference {
    with_crew(|crew| weights(crew, a, b, &mut |_| {})).unwrap()
}

/// What the formulas give in `f64`: relative distance, cosine, norms.
fn plain(a: &[f32], b: &[f32]) -> [f64; 4] {
    let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let [a, b, ab, d] = [
        pairs().map(|(a, _)| a * a).sum::<f64>().sqrt(),
        pairs().map(|(_, b)| b * b).sum::<f64>().sqrt(),
        pairs().map(|(a, b)| a * b).sum::<f64>(),
        pairs().map(|(a, b)| (b - a).powi(2)).sum::<f64>().sqrt(),
    ];
    [d / a, ab / (a * b), a, b]
}

#[track_caller]
fn check(got: &Difference, want: [f64; 4], what: &str) {
    let [a, b] = got.norms();
    let got = [got.relative(), got.cosine().unwrap(), a, b];
    for (got, want) in got.into_iter().zip(want) {
        // A product of numbers of both signs errs with the norms, that is absolutely.
        assert!((got - want).abs() <= RELATIVE * want.abs().max(1.0), "{what}: {got} for {want}");
    }
}

#[test]
fn every_tensor_is_compared_as_the_formulas_say() {
    let [a, b] = [1, 2].map(|seed| model(&SMALL, seed));
    let all = compare(&a, &b);
    let names: Vec<String> = a.config().tensors().into_iter().map(|(name, _)| name).collect();
    assert_eq!(all.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>(), names);
    assert_eq!(all.uneven, []);
    for t in &all.tensors {
        let read = |seed| -> Vec<f32> {
            synth::tensor(&t.name, &t.shape, seed).into_iter().map(f32::from).collect()
        };
        let (a, b) = (read(1), read(2));
        check(&t.difference, plain(&a, &b), &t.name);
        let change = |&i: &usize| (b[i] - a[i]).abs();
        let most = (0..a.len()).map(|i| change(&i)).fold(0.0, f32::max);
        let at = (0..a.len()).find(|i| change(i) == most).unwrap();
        let columns = t.shape[t.shape.len() - 1];
        let want = Largest { values: [a[at], b[at]], row: at / columns, column: at % columns };
        assert_eq!((t.largest, t.difference.largest), (Some(want), most), "{}", t.name);
    }
    let (total, sum) = (all.all(), all.tensors.iter().map(|t| t.difference.distance_squared).sum::<f64>());
    assert!((total.distance_squared - sum).abs() <= 1e-12 * sum);
}

#[test]
fn layers_and_kinds_are_sums_of_their_tensors() {
    let [a, b] = [1, 2].map(|seed| model(&SMALL, seed));
    let all = compare(&a, &b);
    let layers = all.layers();
    assert_eq!(layers.iter().map(|(l, _)| *l).collect::<Vec<_>>(), [0, 1]);
    let of_layer = all.tensors.iter().filter(|t| t.name.contains("layers.1."));
    let distance: f64 = of_layer.map(|t| t.difference.distance_squared).sum();
    assert!((layers[1].1.distance_squared - distance).abs() <= 1e-12 * distance);

    let kinds = all.kinds();
    let names: Vec<_> = kinds.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(names[0], "gpt_neox.embed_in.weight");
    assert_eq!(names[5..8], ["attention.query.weight", "attention.key.weight", "attention.value.weight"]);
    assert_eq!((names.len(), names[names.len() - 1]), (20, "embed_out.weight"));
    let total: f64 = kinds.iter().map(|(_, d)| d.distance_squared).sum();
    assert!((total - all.all().distance_squared).abs() <= 1e-12 * total);
    // Keys are the second of three runs of D = 16 rows, of each of three heads, of both layers; a bias is one column.
    for (kind, name, columns) in [("attention.key.weight", "weight", 48), ("attention.key.bias", "bias", 1)] {
        let keys = |model: &Model| -> Vec<f32> {
            let of_layer = |layer: &crate::LayerWeights| match columns {
                1 => layer.query_key_value.bias.clone().unwrap(),
                _ => layer.query_key_value.weight.to_f32(),
            };
            let all = model.weights().layers.iter().flat_map(of_layer).collect::<Vec<f32>>();
            all.chunks(16 * columns).skip(1).step_by(3).flatten().copied().collect()
        };
        let difference = kinds.iter().find(|(k, _)| *k == kind).unwrap().1;
        check(&difference, plain(&keys(&a), &keys(&b)), name);
    }
}

#[test]
fn the_rows_of_tokens_are_told_one_by_one() {
    let [a, b] = [1, 2].map(|seed| model(&SMALL, seed));
    let all = compare(&a, &b);
    let names: Vec<_> = all.tokens.iter().map(|(name, rows)| (&name[..], rows.len())).collect();
    assert_eq!(names, [("gpt_neox.embed_in.weight", 90), ("embed_out.weight", 90)]);
    let row = |model: &Model| model.weights().embed_out.rows(7..8).to_f32();
    check(&all.tokens[1].1[7], plain(&row(&a), &row(&b)), "row 7");
    let order = most_changed(all.tokens[1].1.iter(), 90);
    let relative: Vec<f64> = order.iter().map(|&id| all.tokens[1].1[id].relative()).collect();
    assert!(relative.len() == 90 && relative.is_sorted_by(|a, b| a >= b), "{relative:?}");
}

#[test]
fn a_model_beside_itself_has_not_moved() {
    let a = model(&SMALL, 1);
    let all = compare(&a, &a);
    for t in &all.tensors {
        assert_eq!(
            (t.difference.relative(), t.difference.cosine(), t.largest),
            (0.0, Some(1.0), None),
            "{}",
            t.name
        );
    }
    assert_eq!((all.all().relative(), all.all().cosine()), (0.0, Some(1.0)));
    let ids: Vec<u32> = (0..40).collect();
    let same = with_crew(|crew| {
        let hidden = Hidden::of(crew, &a, &ids).unwrap();
        predictions(crew, (&a, &hidden), (&a, &hidden)).unwrap()
    });
    assert_eq!((same.mean(), same.largest(), same.agreement()), (0.0, (0, 0.0), 1.0));
    assert_eq!(same.log_probs[0], same.log_probs[1]);
}

#[test]
fn what_only_one_model_has_is_told() {
    let (a, b) = (model(&SMALL, 1), model(&LARGER, 1));
    let all = compare(&a, &b);
    let told = |uneven: &Uneven| (uneven.shapes.clone(), uneven.compared_rows);
    let rows = (Some(vec![90, 48]), Some(vec![96, 48]));
    for (i, name) in [(0, "gpt_neox.embed_in.weight"), (1, "embed_out.weight")] {
        assert_eq!(all.uneven[i].name, name);
        assert_eq!(told(&all.uneven[i]), ([rows.0.clone(), rows.1.clone()], 90));
    }
    let third = &all.uneven[2..];
    assert_eq!(third.len(), 12);
    assert!(
        third.iter().all(|u| u.name.starts_with("gpt_neox.layers.2.") && u.shapes[0].is_none()),
        "{third:?}"
    );
    assert_eq!((all.layers().len(), all.tokens[0].1.len()), (2, 90));
    // The other way round.
    let back = compare(&b, &a);
    assert_eq!(back.uneven.len(), 14);
    assert!(back.uneven.iter().all(|u| u.shapes[0].is_some()));

    let wide = model(&Size { hidden_size: 96, ..SMALL }, 1);
    let error = with_crew(|crew| weights(crew, &a, &wide, &mut |_| {})).unwrap_err().to_string();
    assert!(error.contains("48 and 96 channels (`hidden_size`)"), "{error}");
}

/// Heads of other sizes cannot be told apart, but the matrix as a whole can be compared.
#[test]
fn other_heads_are_compared_whole() {
    let all = compare(&model(&SMALL, 1), &model(&Size { num_attention_heads: 6, ..SMALL }, 2));
    assert!(all.kinds().iter().any(|(kind, _)| *kind == "attention.query_key_value.weight"));
    assert!(!all.kinds().iter().any(|(kind, _)| kind.contains("query.")));
}

#[test]
fn what_was_zero_has_no_relative_distance_and_no_rank() {
    let difference =
        |a: f64, d: f64| Difference { squares: [a, 1.0], distance_squared: d, ..Difference::default() };
    let all =
        [difference(0.0, 1.0), difference(4.0, 1.0), difference(1.0, 1.0), difference(f64::NAN, f64::NAN)];
    assert_eq!(all[0].relative(), f64::INFINITY);
    assert_eq!(all[0].cosine(), None);
    assert_eq!(most_changed(all.iter(), 9), [2, 1]);
    assert_eq!(difference(0.0, 0.0).relative(), 0.0);
}

#[test]
fn progress_ends_with_all_bytes() {
    let [a, b] = [1, 2].map(|seed| model(&SMALL, seed));
    let mut told = Vec::new();
    with_crew(|crew| weights(crew, &a, &b, &mut |p| told.push(p))).unwrap();
    let last = told[told.len() - 1];
    assert_eq!((told[0].done, told.len(), last.done), (0, 29, last.total));
    assert!(told.is_sorted_by_key(|p| p.done));
    let matrices = 2 * 2 * (2 * 90 * 48 + 2 * 12 * 48 * 48);
    assert!(last.total > matrices && last.total < matrices * 21 / 20, "{last:?}");
}

/// `sum p ln(p / q)` of two rows of logits, by its definition.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let probabilities = |x: &[f32]| {
        let e: Vec<f64> = x.iter().map(|&x| f64::from(x).exp()).collect();
        let total: f64 = e.iter().sum();
        e.into_iter().map(|e| e / total).collect::<Vec<f64>>()
    };
    probabilities(a).iter().zip(probabilities(b)).map(|(p, q)| p * (p / q).ln()).sum()
}

#[test]
fn predictions_are_compared_as_the_formulas_say() {
    // More than two chunks of rows, and not a whole number of them.
    let ids: Vec<u32> = (0..70).map(|i| i * 37 % 90).collect();
    let (a, b) = (model(&SMALL, 1), model(&LARGER, 2));
    with_crew(|crew| {
        let logits = |model: &Model| -> Vec<Vec<f32>> {
            let (mut cache, mut workspace) = (model.cache(ids.len()).unwrap(), Workspace::new());
            let logits = model.forward(crew, &mut [Sequence::all(&ids, &mut cache)], &mut workspace).unwrap();
            (0..ids.len()).map(|t| logits.row(t)[..90].to_vec()).collect()
        };
        let hidden = |model: &Model| Hidden::of(crew, model, &ids).unwrap();
        let got = predictions(crew, (&a, &hidden(&a)), (&b, &hidden(&b))).unwrap();
        let (la, lb) = (logits(&a), logits(&b));
        let want: Vec<f64> = la.iter().zip(&lb).map(|(a, b)| divergence(a, b)).collect();
        for (got, want) in got.divergences.iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() <= 2.0 * U * want + 1e-12, "{got} for {want}");
        }
        assert!(want.iter().all(|&d| d > 1e-4), "{want:?}");
        let mean = want.iter().sum::<f64>() / 70.0;
        assert!((got.mean() - mean).abs() <= 2.0 * U * mean + 1e-12);
        let most = (0..70).max_by(|&x, &y| want[x].total_cmp(&want[y])).unwrap();
        assert_eq!(got.largest().0, most);
        let best = |row: &Vec<f32>| (0..90).rev().max_by(|&x, &y| row[x].total_cmp(&row[y])).unwrap();
        assert_eq!(got.agreeing, la.iter().zip(&lb).filter(|(a, b)| best(a) == best(b)).count());
        assert_eq!((got.vocabulary, got.divergences.len()), (90, 70));

        // Of a model whose rows all count, `score` says the same.
        let scores = score(&a, crew, &mut Workspace::new(), &ids).unwrap();
        let sum: f64 = scores.iter().flatten().map(|&l| f64::from(l)).sum();
        assert_eq!(got.log_probs[0], sum);
        let other = Hidden::of(crew, &b, &ids[..3]).unwrap();
        let error = predictions(crew, (&a, &hidden(&a)), (&b, &other)).unwrap_err().to_string();
        assert!(error.contains("different texts"), "{error}");
    });
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let [a, b] = [1, 2].map(|seed| model(&SMALL, seed));
    let ids: Vec<u32> = (0..40).collect();
    let with = |threads| {
        Team::new(threads).unwrap().enter(|crew| {
            let [x, y] = [&a, &b].map(|model| Hidden::of(crew, model, &ids).unwrap());
            let predicted = predictions(crew, (&a, &x), (&b, &y)).unwrap();
            (weights(crew, &a, &b, &mut |_| {}).unwrap(), predicted)
        })
    };
    assert_eq!(with(1), with(3));
}
