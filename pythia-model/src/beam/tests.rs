use super::*;
use crate::log_softmax;
use proptest::prelude::*;

/// A model whose next token depends on the last one only: rows of log-probabilities, and the last prompt token.
#[derive(Debug)]
struct Markov {
    rows: Vec<Vec<f32>>,
    start: usize,
}

impl Markov {
    fn new(vocab: usize, start: usize, logit: impl Fn(usize, usize) -> f32) -> Self {
        let row = |i| {
            let mut row: Vec<f32> = (0..vocab).map(|j| logit(i, j)).collect();
            log_softmax(&mut row);
            row
        };
        Self { rows: (0..vocab).map(row).collect(), start }
    }

    fn after(&self, ids: &[u32]) -> &[f32] {
        &self.rows[ids.last().map_or(self.start, |&id| id as usize)]
    }

    fn search(&self, config: BeamConfig) -> Vec<Hypothesis> {
        let mut search = BeamSearch::new(config).unwrap();
        while !search.is_done() {
            let rows: Vec<&[f32]> = (0..search.live()).map(|beam| self.after(search.ids(beam))).collect();
            let parents: Vec<Vec<u32>> = (0..search.live()).map(|beam| search.ids(beam).to_vec()).collect();
            let steps = search.step(&rows).unwrap();
            // The steps tell how the texts that are unfinished now came about.
            for (beam, &(parent, token)) in steps.iter().enumerate() {
                assert_eq!(search.ids(beam), [&parents[parent][..], &[token]].concat());
            }
            assert!(search.is_done() || steps.len() == search.live());
        }
        search.finish()
    }

    /// Every text that ends with one of `eos` or has `max` tokens, best first.
    fn all_texts(&self, config: &BeamConfig) -> Vec<Hypothesis> {
        let mut unfinished = vec![(Vec::new(), 0.0)];
        let mut finished = Vec::new();
        while let Some((ids, sum)) = unfinished.pop() {
            for (token, &p) in (0..).zip(self.after(&ids)) {
                let ids: Vec<u32> = [&ids[..], &[token]].concat();
                let sum = sum + f64::from(p);
                if config.eos_token_ids.contains(&token) || ids.len() == config.max_new_tokens {
                    let score = sum / (ids.len() as f64).powf(config.length_penalty);
                    finished.push(Hypothesis { ids, score });
                } else {
                    unfinished.push((ids, sum));
                }
            }
        }
        finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        finished
    }
}

/// The ids and scores are those of transformers 5's `generate` with the same table as its model.
#[test]
fn the_search_agrees_with_transformers() {
    let model = Markov::new(12, 2, |i, j| {
        ((i * 131 + j * 71 + i * j * 37 + (i + 1) * (j + 3) * (j + 1) * 11) % 101) as f32 / 16.0
    });
    let check = |num_beams: usize,
                 length_penalty,
                 early_stopping,
                 eos: &[u32],
                 max_new_tokens,
                 expected: &[(&[u32], f64)]| {
        let found = model.search(BeamConfig {
            num_beams,
            length_penalty,
            early_stopping,
            num_return_sequences: num_beams,
            eos_token_ids: eos.to_vec(),
            max_new_tokens,
            vocab_limit: usize::MAX,
        });
        assert_eq!(found.len(), expected.len());
        for (found, &(ids, score)) in found.iter().zip(expected) {
            assert_eq!(found.ids, ids);
            assert!((found.score - score).abs() < 2e-5 * score.abs().max(0.1), "{} {score}", found.score);
        }
    };
    let six_five: &[u32] = &[6, 5, 6, 5, 6, 5, 6, 5];
    let seven: [&[u32]; 2] = [&[7, 3, 11, 7, 3, 11, 7, 3], &[7, 3, 11, 7, 3, 11, 4, 7]];
    for early_stopping in [false, true] {
        check(
            3,
            1.0,
            early_stopping,
            &[0],
            8,
            &[(six_five, -1.172_311), (seven[0], -1.206_814), (seven[1], -1.225_242)],
        );
    }
    check(
        3,
        -1.0,
        false,
        &[0],
        8,
        &[(six_five, -75.027_878), (seven[0], -77.236_099), (seven[1], -78.415_52)],
    );
    check(3, 2.0, true, &[0, 7], 8, &[(&[3, 11, 7], -0.456_585), (&[4, 7], -0.795_724), (&[7], -1.792_607)]);
    check(
        4,
        0.0,
        false,
        &[0, 7],
        6,
        &[(&[7], -1.792_607), (&[4, 7], -3.182_895), (&[3, 11, 7], -4.109_269), (&[3, 11, 4, 7], -5.499_557)],
    );
    check(
        4,
        1.0,
        false,
        &[],
        5,
        &[
            (&[6, 5, 6, 5, 6], -1.203_798),
            (&[3, 11, 7, 3, 11], -1.224_734),
            (&[7, 3, 11, 7, 3], -1.268_998),
            (&[7, 3, 11, 4, 7], -1.298_483),
        ],
    );
    check(
        2,
        0.6,
        false,
        &[4],
        10,
        &[(&[6, 5, 6, 5, 6, 5, 6, 5, 6, 5], -2.894_428), (&[7, 3, 11, 7, 3, 11, 7, 3, 11, 7], -2.944_226)],
    );
    check(
        3,
        3.0,
        false,
        &[0, 4, 9],
        12,
        &[
            (&[6, 5, 6, 5, 6, 5, 6, 5, 6, 5, 6, 5], -0.007_909),
            (&[7, 3, 11, 7, 3, 11, 7, 3, 11, 7, 3, 11], -0.007_949),
            (&[6, 5, 6, 5, 6, 5, 6, 5, 6, 10, 10, 10], -0.008_123),
        ],
    );
}

fn any_model() -> impl Strategy<Value = Markov> {
    (2_usize..5)
        .prop_flat_map(|v| (prop::collection::vec(-4.0_f32..4.0, v * v), Just(v), 0..v))
        .prop_map(|(logits, v, start)| Markov::new(v, start, |i, j| logits[i * v + j]))
}

proptest! {
    #[test]
    fn with_enough_beams_the_search_is_exhaustive(
        model in any_model(), max_new_tokens in 1_usize..5, length_penalty in -1.0_f64..2.0, eos in prop::option::of(0_u32..5),
    ) {
        let num_beams = model.rows.len().pow(max_new_tokens as u32);
        let config = BeamConfig {
            num_beams, length_penalty, max_new_tokens, num_return_sequences: num_beams,
            eos_token_ids: eos.into_iter().collect(), ..Default::default()
        };
        let (found, all) = (model.search(config.clone()), model.all_texts(&config));
        prop_assert_eq!(found.len(), all.len());
        for (found, expected) in found.iter().zip(&all) {
            prop_assert!((found.score - expected.score).abs() < 1e-9);
        }
        // Texts with the same transitions in another order score the same, so the order of ids is not compared.
        let sorted = |texts: Vec<Hypothesis>| {
            let mut ids: Vec<_> = texts.into_iter().map(|text| text.ids).collect();
            ids.sort();
            ids
        };
        prop_assert_eq!(sorted(found), sorted(all));
    }

    #[test]
    fn one_beam_is_greedy(model in any_model(), max_new_tokens in 1_usize..8, length_penalty in -1.0_f64..2.0, early_stopping in any::<bool>()) {
        let config = BeamConfig { max_new_tokens, length_penalty, early_stopping, eos_token_ids: vec![0], ..Default::default() };
        let mut greedy: Vec<u32> = Vec::new();
        while greedy.len() < max_new_tokens && greedy.last() != Some(&0) {
            let row = model.after(&greedy);
            let best = (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b]));
            greedy.extend(best.map(|id| id as u32));
        }
        let found = model.search(config);
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!(&found[0].ids, &greedy);
    }

    /// More beams than there is need for: every text that comes out is one, with its score, in order.
    #[test]
    fn what_is_found_is_real_and_ranked(
        model in any_model(), num_beams in 1_usize..6, max_new_tokens in 1_usize..6, early_stopping in any::<bool>(),
    ) {
        let config = BeamConfig {
            num_beams, max_new_tokens, early_stopping, num_return_sequences: num_beams, eos_token_ids: vec![1], ..Default::default()
        };
        let (found, all) = (model.search(config.clone()), model.all_texts(&config));
        prop_assert!(found.windows(2).all(|w| w[0].score >= w[1].score && w[0].ids != w[1].ids));
        prop_assert!(!found.is_empty());
        for hypothesis in &found {
            let real = all.iter().find(|text| text.ids == hypothesis.ids);
            prop_assert!(real.is_some_and(|text| (text.score - hypothesis.score).abs() < 1e-9), "{:?}", hypothesis);
        }
    }
}

#[test]
fn early_stopping_stops_with_enough_texts_and_otherwise_the_search_goes_on() {
    // Ending is likely at once, but "1" for ever has probability one, so that long texts score better and better.
    let model = Markov::new(3, 0, |i, j| [[1.0, 0.9, -9.0], [-9.0, 9.0, -9.0], [0.0, 0.0, 0.0]][i][j]);
    let config = BeamConfig { eos_token_ids: vec![0], max_new_tokens: 10, ..Default::default() };
    let early = model.search(BeamConfig { early_stopping: true, ..config.clone() });
    assert_eq!(early[0].ids, [0]);
    // The best unfinished text of the same length is worse, and its future does not count.
    assert_eq!(model.search(config.clone())[0].ids, [0]);
    // With two beams a second text has to be found, and by then the long one is far better.
    let two = model.search(BeamConfig { num_beams: 2, ..config });
    assert_eq!(two[0].ids, [1; 10]);
}

#[test]
fn ids_beyond_the_vocabulary_and_forbidden_ones_are_not_chosen() {
    let row = [-1.0, f32::NEG_INFINITY, -2.0, -0.1];
    let config = BeamConfig { num_beams: 4, vocab_limit: 3, max_new_tokens: 3, ..Default::default() };
    let mut search = BeamSearch::new(config).unwrap();
    assert_eq!(search.step(&[&row]).unwrap(), [(0, 0), (0, 2)]);
    assert_eq!(search.step(&[&row, &row]).unwrap(), [(0, 0), (0, 2), (1, 0), (1, 2)]);
}

#[test]
fn a_search_that_is_cut_short_returns_unfinished_texts() {
    let config =
        BeamConfig { num_beams: 2, num_return_sequences: 2, eos_token_ids: vec![0], ..Default::default() };
    let mut search = BeamSearch::new(config).unwrap();
    search.step(&[&[-3.0, -1.0, -2.0]]).unwrap();
    search.step(&[&[-9.0, -1.0, -8.0], &[-0.5, -9.0, -9.0]]).unwrap();
    let found = search.finish();
    assert_eq!(found[0], Hypothesis { ids: vec![1, 1], score: -1.0 });
    assert_eq!(found[1], Hypothesis { ids: vec![2, 0], score: -1.25 });
    let nothing = BeamSearch::new(BeamConfig::default()).unwrap().finish();
    assert_eq!(nothing, []);
}

#[test]
fn a_search_in_which_every_text_ends_is_over() {
    let config = BeamConfig { num_beams: 3, eos_token_ids: vec![0], ..Default::default() };
    let mut search = BeamSearch::new(config).unwrap();
    assert_eq!(search.step(&[&[-0.5, f32::NEG_INFINITY]]).unwrap(), []);
    assert!(search.is_done());
    assert_eq!(search.step(&[]).unwrap(), []);
    assert_eq!(search.finish(), [Hypothesis { ids: vec![0], score: -0.5 }]);
}

#[test]
fn wrong_options_and_rows_are_errors() {
    let error = |config| BeamSearch::new(config).unwrap_err().to_string();
    let default = BeamConfig::default;
    assert_eq!(error(BeamConfig { num_beams: 0, ..default() }), "`num_beams` must be at least 1, found 0");
    assert_eq!(
        error(BeamConfig { num_beams: 2, num_return_sequences: 3, ..default() }),
        "`num_return_sequences` must be from 1 to `num_beams` (2), found 3"
    );
    assert_eq!(
        error(BeamConfig { length_penalty: f64::NAN, ..default() }),
        "`length_penalty` must be a finite number, found NaN"
    );
    assert!(error(BeamConfig { max_new_tokens: 0, ..default() }).starts_with("`max_new_tokens`"));
    let mut search = BeamSearch::new(default()).unwrap();
    let rows = search.step(&[&[0.0], &[0.0]]).unwrap_err().to_string();
    assert_eq!(
        rows,
        "beam search has 1 unfinished texts and needs as many rows of log-probabilities, found 2"
    );
    let nan = search.step(&[&[0.0, f32::NAN]]).unwrap_err().to_string();
    assert!(nan.starts_with("the model produced NaN (in beam 0)"), "{nan}");
}

#[test]
fn a_search_in_which_no_text_can_go_on_keeps_them() {
    let nothing: &[f32] = &[f32::NEG_INFINITY; 3];
    let config =
        BeamConfig { num_beams: 2, num_return_sequences: 2, eos_token_ids: vec![0], ..Default::default() };
    let mut search = BeamSearch::new(config.clone()).unwrap();
    search.step(&[&[-9.0, -1.0, -2.0]]).unwrap();
    assert_eq!(search.step(&[nothing, nothing]).unwrap(), []);
    assert!(search.is_done());
    let text = |ids: &[u32], score| Hypothesis { ids: ids.to_vec(), score };
    assert_eq!(search.finish(), [text(&[1], -1.0), text(&[2], -2.0)]);

    let mut search = BeamSearch::new(config).unwrap();
    let error = search.step(&[nothing]).unwrap_err().to_string();
    assert!(error.starts_with("no token is left to choose from") && !search.is_done(), "{error}");
}
