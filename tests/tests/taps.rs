//! Taps: what is written at a point is what the pass goes on with.

use half::f16;
use pythia_model::taps::{At, Point, TapAt, Tapped};
use pythia_model::{Model, Sequence, Workspace};
use pythia_tensor::{Crew, Team, Tensor};
use pythia_tests::{fixtures, worst};
use std::collections::BTreeMap;

/// Of logits that two orders of summation give.
const TOLERANCE: f32 = 1e-5;

const PROMPT: [u32; 12] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8];
const OTHER: [u32; 12] = [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5];

fn models() -> [Model; 2] {
    ["parallel-f16", "sequential-rotary-full"]
        .map(|name| Model::open(fixtures().join("variants").join(name)).unwrap())
}

fn enter<R>(f: impl FnOnce(&Crew<'_>) -> R) -> R {
    Team::new(2).unwrap().enter(f)
}

/// The logits of all tokens, with `edit` called at `points`.
fn edited(
    crew: &Crew<'_>,
    model: &Model,
    ids: &[u32],
    points: &[Point],
    edit: impl FnMut(Tapped<'_>),
) -> Vec<f32> {
    let (mut cache, mut workspace) = (model.cache(ids.len()).unwrap(), Workspace::new());
    let (batch, mut taps) = (&mut [Sequence::all(ids, &mut cache)], TapAt::new(points.iter().copied(), edit));
    let logits = model.forward_with_taps(crew, batch, &mut workspace, &mut taps).unwrap();
    (0..logits.rows()).flat_map(|r| logits.row(r)).copied().collect()
}

fn plain(crew: &Crew<'_>, model: &Model, ids: &[u32]) -> Vec<f32> {
    edited(crew, model, ids, &[], |_| {})
}

/// What is at `points` in an unedited pass.
fn watched(crew: &Crew<'_>, model: &Model, ids: &[u32], points: &[Point]) -> BTreeMap<Point, Vec<f32>> {
    let mut seen = BTreeMap::new();
    edited(crew, model, ids, points, |tap| {
        assert!(seen.insert(tap.point, tap.data.to_vec()).is_none(), "{} twice", tap.point);
    });
    seen
}

fn every_layer(model: &Model, ats: &[At]) -> Vec<Point> {
    (0..model.config().num_hidden_layers)
        .flat_map(|l| ats.iter().map(move |&at| Point::Block(l, at)))
        .collect()
}

fn every_point(model: &Model) -> Vec<Point> {
    let mut points = [vec![Point::Embed, Point::LnFinal], every_layer(model, &At::ALL)].concat();
    points.retain(|point| point.check(model.config()).is_ok());
    points
}

/// The logits that the embeddings alone would have, by the formulas, in `f64`.
fn without_layers(model: &Model, ids: &[u32]) -> Vec<f32> {
    let (weights, c) = (model.weights(), model.config().hidden_size);
    let (table, unembed) = (weights.embed_in.to_f32(), weights.embed_out.to_f32());
    let (norm, eps) = (&weights.final_layer_norm, f64::from(model.config().layer_norm_eps));
    let of_token = |&id: &u32| {
        let x: Vec<f64> = table[id as usize * c..][..c].iter().map(|&x| f64::from(x)).collect();
        let mean = x.iter().sum::<f64>() / c as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
        let scaled = x.iter().map(|x| (x - mean) / (variance + eps).sqrt());
        let normed: Vec<f64> = scaled
            .zip(norm.weight.iter().zip(&norm.bias))
            .map(|(x, (&w, &b))| x * f64::from(w) + f64::from(b))
            .collect();
        let logit = |row: &[f32]| row.iter().zip(&normed).map(|(&w, x)| f64::from(w) * x).sum::<f64>() as f32;
        unembed.chunks(c).map(logit).collect::<Vec<_>>()
    };
    ids.iter().flat_map(of_token).collect()
}

#[test]
fn without_what_the_layers_add_only_the_embeddings_are_left() {
    for model in models() {
        let points = every_layer(&model, &[At::AttnOut, At::MlpOut]);
        let got = enter(|crew| edited(crew, &model, &PROMPT, &points, |tap| tap.data.fill(0.0)));
        let want = without_layers(&model, &PROMPT);
        assert!(worst(&got, &want) <= TOLERANCE, "{}", worst(&got, &want));
        // The layers do add something.
        assert!(worst(&enter(|crew| plain(crew, &model, &PROMPT)), &want) > 0.1);
    }
}

#[test]
fn writing_back_what_is_there_changes_nothing() {
    for model in models() {
        enter(|crew| {
            let want = plain(crew, &model, &PROMPT);
            for point in every_point(&model) {
                let got = edited(crew, &model, &PROMPT, &[point], |tap| {
                    let same = tap.data.to_vec();
                    tap.data.copy_from_slice(&same);
                });
                // Scores and pattern exist only where attention is computed step by step.
                let of_attention = matches!(point, Point::Block(_, At::Scores | At::Pattern));
                let most = if of_attention { TOLERANCE } else { 0.0 };
                assert!(worst(&got, &want) <= most, "{point}: {}", worst(&got, &want));
            }
        });
    }
}

/// Every point matters: what is written there is used.
#[test]
fn an_edit_at_any_point_changes_the_logits() {
    for model in models() {
        enter(|crew| {
            let want = plain(crew, &model, &PROMPT);
            let points = every_point(&model);
            let in_a_layer = if model.config().use_parallel_residual { 14 } else { 15 };
            assert_eq!(points.len(), 2 + 2 * in_a_layer);
            for point in points {
                let mut called = 0;
                let got = edited(crew, &model, &PROMPT, &[point], |tap| {
                    called += 1;
                    tap.data.iter_mut().enumerate().for_each(|(i, x)| *x *= 1.5 + (i % 3) as f32);
                });
                assert_eq!(called, 1, "{point}");
                assert!(got != want, "{point}");
            }
        });
    }
}

/// The model with the columns of a head in a layer's `attention.dense` set to zero.
fn without_head(model: &Model, layer: usize, head: usize) -> Model {
    let (mut weights, c, dim) =
        (model.weights().clone(), model.config().hidden_size, model.config().head_dim());
    let dense = &mut weights.layers[layer].attention_dense.weight;
    let mut numbers = dense.as_slice::<f16>().unwrap().to_vec();
    numbers.chunks_exact_mut(c).for_each(|row| row[head * dim..][..dim].fill(f16::ZERO));
    *dense = Tensor::from_slice(&numbers, &[c, c]);
    Model::new(model.config().clone(), weights)
}

#[test]
fn a_head_ablated_at_hook_z_is_a_head_that_nobody_reads() {
    for model in models() {
        let dim = model.config().head_dim();
        enter(|crew| {
            for (layer, head) in [(0, 0), (0, 1), (1, 1)] {
                let z = [Point::Block(layer, At::Z)];
                let got = edited(crew, &model, &PROMPT, &z, |tap| {
                    assert_eq!(tap.shape, [PROMPT.len(), 2, dim]);
                    tap.data.chunks_exact_mut(2 * dim).for_each(|token| token[head * dim..][..dim].fill(0.0));
                });
                assert_eq!(
                    got,
                    plain(crew, &without_head(&model, layer, head), &PROMPT),
                    "layer {layer}, head {head}"
                );
                assert!(got != plain(crew, &model, &PROMPT));
            }
        });
    }
}

/// Rows of a sequence's own, for a first call and for one with earlier tokens in the cache.
#[test]
fn the_pattern_is_a_causal_distribution_for_each_sequence() {
    for model in models() {
        enter(|crew| {
            let (mut a, mut b) = (model.cache(64).unwrap(), model.cache(64).unwrap());
            let mut workspace = Workspace::new();
            model.forward(crew, &mut [Sequence::none(&OTHER, &mut a)], &mut workspace).unwrap();
            let mut calls = Vec::new();
            let points = every_layer(&model, &[At::Scores, At::Pattern]);
            let mut taps = TapAt::new(points, |tap: Tapped<'_>| {
                let [heads, tokens, positions] = *tap.shape else { panic!("{:?}", tap.shape) };
                let start = positions - tokens;
                assert_eq!((heads, tap.data.len()), (2, heads * tokens * positions));
                for (i, row) in tap.data.chunks_exact(positions).enumerate() {
                    let (past, future) = row.split_at(start + i % tokens + 1);
                    if matches!(tap.point, Point::Block(_, At::Scores)) {
                        assert!(past.iter().all(|s| s.is_finite()), "{}", tap.point);
                        assert!(future.iter().all(|&s| s == f32::NEG_INFINITY), "{}", tap.point);
                    } else {
                        assert!(
                            past.iter().all(|&p| p > 0.0) && future.iter().all(|&p| p == 0.0),
                            "{}",
                            tap.point
                        );
                        assert!((past.iter().sum::<f32>() - 1.0).abs() <= 1e-6, "{}", tap.point);
                    }
                }
                calls.push((tap.point, tap.sequence.unwrap(), tokens, start));
            });
            let batch = &mut [Sequence::last(&PROMPT[..5], &mut a), Sequence::last(&PROMPT, &mut b)];
            model.forward_with_taps(crew, batch, &mut workspace, &mut taps).unwrap();
            let of = |l: usize, at: At, s: usize| (Point::Block(l, at), s, [5, 12][s], [12, 0][s]);
            let want: Vec<_> = (0..2)
                .flat_map(|l| (0..2).flat_map(move |s| [of(l, At::Scores, s), of(l, At::Pattern, s)]))
                .collect();
            assert_eq!(calls, want);
        });
    }
}

#[test]
fn a_pattern_that_looks_at_itself_only_gives_the_values() {
    for model in models() {
        let (layer, tokens) = (1, PROMPT.len());
        let points = [At::V, At::Pattern, At::Z].map(|at| Point::Block(layer, at));
        let (mut values, mut z) = (Vec::new(), Vec::new());
        enter(|crew| {
            edited(crew, &model, &PROMPT, &points, |tap| match tap.point {
                Point::Block(_, At::V) => values = tap.data.to_vec(),
                Point::Block(_, At::Z) => z = tap.data.to_vec(),
                _ => tap
                    .data
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, p)| *p = f32::from(i / tokens % tokens == i % tokens)),
            });
        });
        assert!(!z.is_empty() && z == values);
    }
}

/// Hiding a token with its scores hides it as if it were not there: later tokens see the same as after a prompt in
/// which another token stood.
#[test]
fn a_token_hidden_in_the_scores_has_no_influence() {
    for model in models() {
        let mut other = PROMPT;
        other[4] = 100;
        let points = every_layer(&model, &[At::Scores]);
        let hide = |tap: Tapped<'_>| {
            let tokens = tap.shape[1];
            for (i, row) in tap.data.chunks_exact_mut(tokens).enumerate() {
                if i % tokens != 4 {
                    row[4] = f32::NEG_INFINITY;
                }
            }
        };
        enter(|crew| {
            let v = model.config().vocab_size;
            let [got, want] = [PROMPT, other].map(|ids| edited(crew, &model, &ids, &points, hide));
            assert_eq!(got[5 * v..], want[5 * v..]);
            assert!(got[4 * v..5 * v] != want[4 * v..5 * v]);
        });
    }
}

/// Activation patching: with the residual stream of another prompt, a pass goes on as that prompt's did.
#[test]
fn the_residual_stream_of_another_prompt_gives_its_logits() {
    for model in models() {
        enter(|crew| {
            let want = plain(crew, &model, &OTHER);
            for point in
                [Point::Embed, Point::Block(0, At::ResidPost), Point::Block(1, At::ResidPre), Point::LnFinal]
            {
                let other = &watched(crew, &model, &OTHER, &[point])[&point];
                let got = edited(crew, &model, &PROMPT, &[point], |tap| tap.data.copy_from_slice(other));
                assert_eq!(got, want, "{point}");
            }
        });
    }
}

#[test]
fn the_residual_stream_is_the_sum_of_its_parts() {
    for model in models() {
        let seen = enter(|crew| watched(crew, &model, &PROMPT, &every_point(&model)));
        for l in 0..2 {
            let at = |at| &seen[&Point::Block(l, at)];
            let (pre, post) = (at(At::ResidPre), at(At::ResidPost));
            let sum: Vec<f32> =
                pre.iter().zip(at(At::AttnOut)).zip(at(At::MlpOut)).map(|((x, a), m)| x + a + m).collect();
            assert_eq!(sum, *post, "layer {l}");
            if !model.config().use_parallel_residual {
                let mid: Vec<f32> = pre.iter().zip(at(At::AttnOut)).map(|(x, a)| x + a).collect();
                assert_eq!(mid, *at(At::ResidMid), "layer {l}");
            }
        }
        assert_eq!(seen[&Point::Embed], seen[&Point::Block(0, At::ResidPre)]);
        assert_eq!(seen[&Point::Block(0, At::ResidPost)], seen[&Point::Block(1, At::ResidPre)]);
    }
}

/// An edit of one sequence of a batch leaves the other's logits alone, bit for bit.
#[test]
fn an_edit_of_one_sequence_stays_in_it() {
    for model in models() {
        enter(|crew| {
            let alone = plain(crew, &model, &PROMPT);
            let (mut a, mut b, mut workspace) =
                (model.cache(12).unwrap(), model.cache(12).unwrap(), Workspace::new());
            let c = model.config().hidden_size;
            let mut taps = TapAt::new([Point::Block(0, At::MlpOut)], |tap: Tapped<'_>| {
                assert_eq!((tap.sequence, tap.shape), (None, &[24, c][..]));
                tap.data[..12 * c].fill(0.0);
            });
            let batch = &mut [Sequence::all(&OTHER, &mut a), Sequence::all(&PROMPT, &mut b)];
            let logits = model.forward_with_taps(crew, batch, &mut workspace, &mut taps).unwrap();
            let got: Vec<f32> = (0..24).flat_map(|r| logits.row(r)).copied().collect();
            assert_eq!(got[alone.len()..], alone);
            assert!(got[..alone.len()] != plain(crew, &model, &OTHER));
        });
    }
}

#[test]
fn a_tap_that_can_never_fire_is_refused() {
    let [parallel, sequential] = models();
    let refused = |model: &Model, name: &str| {
        enter(|crew| {
            let (mut cache, mut workspace) = (model.cache(12).unwrap(), Workspace::new());
            let mut taps = TapAt::new([Point::Embed, name.parse().unwrap()], |_: Tapped<'_>| {});
            let batch = &mut [Sequence::last(&PROMPT, &mut cache)];
            let result = model.forward_with_taps(crew, batch, &mut workspace, &mut taps);
            let message = result.map(|_| ()).map_err(|e| e.to_string());
            assert_eq!(cache.len(), if message.is_ok() { PROMPT.len() } else { 0 });
            message
        })
    };
    let message = refused(&sequential, "blocks.2.hook_resid_pre").unwrap_err();
    assert_eq!(message, "no tap `blocks.2.hook_resid_pre`: the model has 2 layers, `blocks.0` to `blocks.1`");
    let message = refused(&parallel, "blocks.1.hook_resid_mid").unwrap_err();
    assert!(
        message.starts_with("no tap `blocks.1.hook_resid_mid`: ") && message.contains("`hook_resid_pre`"),
        "{message}"
    );
    assert_eq!(refused(&sequential, "blocks.1.hook_resid_mid"), Ok(()));
}
