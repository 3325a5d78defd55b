use super::*;
use proptest::prelude::*;

/// Logits that no two ids share, multiples of 1/8.
fn logits() -> Vec<f32> {
    (0..24).map(|i| ((i * 37 + 11) % 53 - 26) as f32 / 8.0).collect()
}

const PROMPT: [u32; 5] = [3, 5, 9, 5, 9];
const GENERATED: [u32; 4] = [2, 5, 9, 2];

/// The ids whose score the processors change, with the new score.
fn processed(config: &SamplingConfig, min_new_tokens: usize) -> Vec<(u32, f32)> {
    let mut processors = LogitsProcessors::new(config).unwrap().with_min_new_tokens(min_new_tokens, &[0, 1]);
    let mut scores = logits();
    processors.process(&mut scores, &PROMPT, &GENERATED).unwrap();
    let changed = (0..).zip(scores).zip(logits()).filter(|((_, new), old)| new != old);
    changed.map(|(new, _)| new).collect()
}

fn banned(ids: &[u32]) -> Vec<(u32, f32)> {
    ids.iter().map(|&id| (id, f32::NEG_INFINITY)).collect()
}

/// The probabilities of the tokens that `config` leaves, without those that underflow to 0.
fn distribution(config: &SamplingConfig, logits: &[f32]) -> Vec<(u32, f64)> {
    let mut sampler = Sampler::new(config, 0).unwrap();
    probabilities(&mut sampler, logits, &[], &[])
}

fn probabilities(
    sampler: &mut Sampler,
    logits: &[f32],
    prompt: &[u32],
    generated: &[u32],
) -> Vec<(u32, f64)> {
    sampler.sample(logits, prompt, generated).unwrap();
    let candidates = sampler.filters.candidates();
    let total: f64 = candidates.iter().map(|c| c.weight).sum();
    candidates.iter().map(|c| (c.id, c.weight / total)).filter(|p| p.1 > 0.0).collect()
}

fn assert_close(found: &[(u32, f64)], expected: &[(u32, f64)]) {
    let ids = |of: &[(u32, f64)]| of.iter().map(|p| p.0).collect::<Vec<_>>();
    assert_eq!(ids(found), ids(expected));
    for ((id, f), (_, e)) in found.iter().zip(expected) {
        assert!((f - e).abs() < 2e-6, "token {id}: {f}, expected {e}");
    }
}

fn sampling() -> SamplingConfig {
    SamplingConfig { temperature: 1.0, ..Default::default() }
}

/// The numbers of this and the next test are those of the classes in transformers 5, for the same logits and ids.
#[test]
fn processors_agree_with_transformers() {
    let default = SamplingConfig::default();
    assert_eq!(processed(&default, 0), []);
    let repetition = SamplingConfig { repetition_penalty: 1.3, ..default.clone() };
    let expected = [(2, 0.576_923), (3, -1.625), (5, 1.057_692)];
    for (found, expected) in processed(&repetition, 0).iter().zip(expected) {
        assert!(found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-6, "{found:?} {expected:?}");
    }
    assert_eq!(processed(&repetition, 0).len(), 3);
    let ngrams = |n| processed(&SamplingConfig { no_repeat_ngram_size: n, ..Default::default() }, 0);
    assert_eq!(ngrams(1), banned(&[2, 3, 5, 9]));
    assert_eq!((ngrams(2), ngrams(3), ngrams(10)), (banned(&[5]), banned(&[5]), vec![]));
    let bias = SamplingConfig { logit_bias: vec![(4, 2.5), (7, f32::NEG_INFINITY)], ..default.clone() };
    assert_eq!(processed(&bias, 0), [(4, -0.75), (7, f32::NEG_INFINITY)]);
    assert_eq!((processed(&default, 5), processed(&default, 4)), (banned(&[0, 1]), vec![]));
    let suppress = SamplingConfig { suppress_tokens: vec![7, 6, 1000], ..default };
    assert_eq!(processed(&suppress, 0), banned(&[6, 7]));
}

#[test]
fn filters_agree_with_transformers() {
    let cases: [(SamplingConfig, &[(u32, f64)]); 8] = [
        (
            SamplingConfig { top_k: 5, ..sampling() },
            &[(1, 0.209_100_7), (8, 0.098_772_2), (11, 0.184_530_7), (14, 0.344_748_7), (21, 0.162_847_8)],
        ),
        (
            SamplingConfig { top_p: 0.8, ..sampling() },
            &[
                (1, 0.192_335_5),
                (8, 0.090_852_9),
                (11, 0.169_735_5),
                (14, 0.317_107_7),
                (18, 0.080_177_4),
                (21, 0.149_791_1),
            ],
        ),
        (SamplingConfig { top_p: 0.3, ..sampling() }, &[(1, 0.377_540_7), (14, 0.622_459_4)]),
        (SamplingConfig { top_p: 0.0, ..sampling() }, &[(14, 1.0)]),
        (
            SamplingConfig { min_p: 0.1, ..sampling() },
            &[
                (1, 0.176_204_7),
                (5, 0.044_551_5),
                (8, 0.083_233_2),
                (11, 0.155_500_1),
                (14, 0.290_512_5),
                (15, 0.039_316_6),
                (18, 0.073_453_1),
                (21, 0.137_228_4),
            ],
        ),
        (
            SamplingConfig { typical_p: 0.5, ..sampling() },
            &[(1, 0.281_648_4), (8, 0.133_041_3), (11, 0.248_553_8), (18, 0.117_408_5), (21, 0.219_348)],
        ),
        (SamplingConfig { typical_p: 0.2, ..sampling() }, &[(11, 0.531_209_4), (21, 0.468_790_7)]),
        (
            all_filters(),
            &[
                (1, 0.187_733_3),
                (8, 0.113_866),
                (11, 0.172_723),
                (14, 0.262_003),
                (18, 0.104_761_8),
                (21, 0.158_912_8),
            ],
        ),
    ];
    for (config, expected) in cases {
        assert_close(&distribution(&config, &logits()), expected);
    }
    let cool = distribution(&SamplingConfig { temperature: 0.7, ..sampling() }, &logits());
    assert_eq!(cool.len(), 24);
    assert_close(&cool[13..16], &[(13, 0.000_486_2), (14, 0.359_960_2), (15, 0.020_673_5)]);
}

fn all_filters() -> SamplingConfig {
    SamplingConfig {
        temperature: 1.5,
        top_k: 12,
        top_p: 0.9,
        min_p: 0.15,
        typical_p: 0.7,
        ..Default::default()
    }
}

#[test]
fn processors_and_filters_together_agree_with_transformers() {
    let config = SamplingConfig {
        logit_bias: vec![(5, 2.5)],
        repetition_penalty: 1.3,
        no_repeat_ngram_size: 2,
        suppress_tokens: vec![6, 7],
        ..all_filters()
    };
    let mut sampler = Sampler::new(&config, 0).unwrap().with_min_new_tokens(5, &[0, 1]);
    let expected =
        [(8, 0.140_183_1), (11, 0.212_643_2), (14, 0.322_557_9), (18, 0.128_974_6), (21, 0.195_641_2)];
    for _ in 0..3 {
        assert_close(&probabilities(&mut sampler, &logits(), &PROMPT, &GENERATED), &expected);
    }
}

#[test]
fn openai_penalties_count_generated_tokens_only() {
    let config =
        SamplingConfig { frequency_penalty: 0.5, presence_penalty: -0.125, ..SamplingConfig::default() };
    // 2 was generated twice, 5 and 9 once; 3 is only in the prompt.
    assert_eq!(processed(&config, 0), [(2, 0.75 - 0.875), (5, 1.375 - 0.375), (9, -0.375)]);
}

#[test]
fn greedy_takes_the_lowest_of_the_best_ids() {
    let greedy =
        |logits: &[f32]| Sampler::new(&SamplingConfig::default(), 0).unwrap().sample(logits, &[], &[]);
    assert_eq!(greedy(&[1.0, 3.0, 2.0, 3.0]).unwrap(), 1);
    assert_eq!(greedy(&[f32::NEG_INFINITY, -1e38, f32::NEG_INFINITY]).unwrap(), 1);
    assert_eq!(greedy(&[0.0, f32::INFINITY, f32::INFINITY]).unwrap(), 1);
    // Filters play no part, processors do.
    let config = SamplingConfig { typical_p: 0.1, suppress_tokens: vec![1], ..Default::default() };
    assert_eq!(Sampler::new(&config, 0).unwrap().sample(&[1.0, 3.0, 2.0], &[], &[]).unwrap(), 2);
}

#[test]
fn padding_rows_are_never_sampled() {
    let logits = [0.0, 1.0, 50.0, f32::NEG_INFINITY];
    for config in [SamplingConfig::default(), sampling(), all_filters()] {
        let mut sampler = Sampler::new(&config, 0).unwrap().with_vocab_limit(2);
        assert!((0..100).all(|_| sampler.sample(&logits, &[3], &[2, 2]).unwrap() < 2));
    }
}

#[test]
fn broken_logits_and_options_are_errors() {
    let error = |config: &SamplingConfig, logits: &[f32]| {
        Sampler::new(config, 0).unwrap().sample(logits, &[], &[]).unwrap_err().to_string()
    };
    for config in [SamplingConfig::default(), sampling()] {
        let nan = error(&config, &[0.0, f32::NAN]);
        assert!(nan.starts_with("the model produced NaN (the logit of token 1, perhaps others)"), "{nan}");
        assert!(error(&config, &[f32::NEG_INFINITY; 3]).starts_with("no token is left to choose from"));
        assert!(error(&config, &[]).starts_with("no token is left to choose from"));
        let config = SamplingConfig { logit_bias: vec![(3, 1.0)], ..config };
        assert_eq!(error(&config, &[0.0; 3]), "`logit_bias` names token 3, but the vocabulary has 3 tokens");
    }
    assert!(Sampler::new(&SamplingConfig { top_p: -1.0, ..sampling() }, 0).is_err());
}

#[test]
fn infinite_logits_share_everything_and_the_forbidden_get_nothing() {
    let infinite = [f32::INFINITY, 3.0, f32::INFINITY, f32::NEG_INFINITY];
    assert_close(&distribution(&sampling(), &infinite), &[(0, 0.5), (2, 0.5)]);
    let cold = SamplingConfig { temperature: 1e-300, ..sampling() };
    assert_close(&distribution(&cold, &[1.0, 3.0, 2.999, -f32::MAX]), &[(1, 1.0)]);
    let hot = SamplingConfig { temperature: 1e300, ..sampling() };
    assert_close(&distribution(&hot, &[1.0, f32::NEG_INFINITY, 90.0]), &[(0, 0.5), (2, 0.5)]);
    let bias = SamplingConfig { logit_bias: vec![(0, f32::NEG_INFINITY)], ..sampling() };
    assert_close(&distribution(&bias, &infinite), &[(2, 1.0)]);
}

#[test]
fn seeds_and_streams_decide_what_is_sampled() {
    let draw = |seed, stream| {
        let mut sampler = Sampler::new(&SamplingConfig { seed, ..sampling() }, stream).unwrap();
        (0..40).map(|_| sampler.sample(&[0.0; 10], &[], &[]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(5, 2), draw(5, 2));
    let all = [draw(5, 2), draw(5, 3), draw(6, 2)];
    assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
    // The same on every platform and in every release.
    assert_eq!(draw(0, 0)[..12], [5, 7, 6, 9, 6, 9, 4, 3, 8, 7, 1, 8]);
}

#[test]
fn what_is_sampled_follows_the_distribution() {
    let logits: Vec<f32> = (0..12).map(|i| (i % 5) as f32 * 0.4).collect();
    let config = SamplingConfig { temperature: 0.8, top_k: 9, seed: 11, ..Default::default() };
    let expected = distribution(&config, &logits);
    assert!(expected.len() >= 9);
    let mut sampler = Sampler::new(&config, 0).unwrap();
    let n = 50_000;
    let mut counts = [0_u32; 12];
    for _ in 0..n {
        counts[sampler.sample(&logits, &[], &[]).unwrap() as usize] += 1;
    }
    let chi2: f64 = expected
        .iter()
        .map(|&(id, p)| (f64::from(counts[id as usize]) - p * f64::from(n)).powi(2) / (p * f64::from(n)))
        .sum();
    assert_eq!(expected.iter().map(|&(id, _)| counts[id as usize]).sum::<u32>(), n as u32);
    // At most eleven degrees of freedom: above 31.3 for one seed in a thousand.
    assert!(chi2 < 31.3, "{chi2} {counts:?}");
}

#[test]
fn the_steady_state_needs_no_more_memory() {
    let config = SamplingConfig { repetition_penalty: 1.1, ..all_filters() };
    let mut sampler = Sampler::new(&config, 0).unwrap();
    let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 4999) as f32 / 500.0).collect();
    let place = |s: &Sampler| (s.scores.as_ptr(), s.filters.candidates().as_ptr());
    sampler.sample(&logits, &PROMPT, &GENERATED).unwrap();
    let before = place(&sampler);
    for _ in 0..20 {
        sampler.sample(&logits, &PROMPT, &GENERATED).unwrap();
    }
    assert_eq!(place(&sampler), before);
}

/// The filters, the slow way: a mask over a full sort, in f64, as transformers writes them.
fn naive(logits: &[f32], config: &SamplingConfig) -> Vec<u32> {
    // In f32 as in the sampler, lest a sum that meets a limit by a hair falls to different sides.
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut scores: Vec<f64> =
        logits.iter().map(|&l| f64::from((l - max) / config.temperature as f32)).collect();
    let by_score = |scores: &[f64]| {
        let mut ids: Vec<usize> = (0..scores.len()).collect();
        ids.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        ids
    };
    let softmax = |scores: &[f64]| {
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exp: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = exp.iter().sum();
        exp.into_iter().map(|e| e / sum).collect::<Vec<_>>()
    };
    let mask = |scores: &mut Vec<f64>, keep: &dyn Fn(usize) -> bool| {
        *scores =
            scores.iter().enumerate().map(|(i, &s)| if keep(i) { s } else { f64::NEG_INFINITY }).collect();
    };
    if config.top_k > 0 {
        let order = by_score(&scores);
        let threshold = scores[order[config.top_k.min(scores.len()) - 1]];
        let old = scores.clone();
        mask(&mut scores, &|i| old[i] >= threshold);
    }
    if config.top_p < 1.0 {
        let (p, order) = (softmax(&scores), by_score(&scores));
        let mut before = 0.0;
        let mut kept = vec![false; scores.len()];
        for (rank, &i) in order.iter().enumerate() {
            kept[i] = rank == 0 || before < config.top_p;
            before += p[i];
        }
        mask(&mut scores, &|i| kept[i]);
    }
    let p = softmax(&scores);
    let max = p.iter().copied().fold(0.0, f64::max);
    mask(&mut scores, &|i| p[i] >= config.min_p * max);
    if config.typical_p < 1.0 {
        let p = softmax(&scores);
        let entropy: f64 = -p.iter().filter(|&&p| p > 0.0).map(|p| p * p.ln()).sum::<f64>();
        let distance: Vec<f64> = p.iter().map(|p| (-p.ln() - entropy).abs()).collect();
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|&a, &b| distance[a].total_cmp(&distance[b]));
        let mut sum = 0.0;
        let last = order.iter().position(|&i| {
            sum += p[i];
            sum >= config.typical_p
        });
        let threshold = distance[order[last.unwrap_or(p.len() - 1)]] + 1e-9;
        mask(&mut scores, &|i| distance[i] <= threshold);
    }
    (0..).zip(scores).filter(|(_, s)| *s > f64::NEG_INFINITY).map(|(id, _)| id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// The logits are shuffled multiples of a step that no probability sum meets exactly, some of them equal.
    #[test]
    fn filters_keep_what_a_full_sort_keeps(
        numbers in prop::collection::vec(-60_i32..60, 1..300),
        temperature in 0.3_f64..3.0,
        top_k in 0_usize..320,
        top_p in prop_oneof![Just(1.0), 0.01_f64..0.999],
        min_p in prop_oneof![Just(0.0), 0.001_f64..0.9],
        typical_p in prop_oneof![Just(1.0), 0.05_f64..0.95],
    ) {
        let logits: Vec<f32> = numbers.iter().map(|&n| n as f32 * 0.173).collect();
        let config = SamplingConfig { temperature, top_k, top_p, min_p, typical_p, ..Default::default() };
        let kept: Vec<u32> = distribution(&config, &logits).into_iter().map(|p| p.0).collect();
        prop_assert_eq!(kept, naive(&logits, &config));
    }

    #[test]
    fn a_token_that_repeats_an_ngram_is_exactly_what_is_banned(
        prompt in prop::collection::vec(0_u32..4, 0..12),
        generated in prop::collection::vec(0_u32..4, 0..12),
        n in 1_usize..5,
    ) {
        let config = SamplingConfig { no_repeat_ngram_size: n, ..Default::default() };
        let mut scores = [0.0; 4];
        LogitsProcessors::new(&config).unwrap().process(&mut scores, &prompt, &generated).unwrap();
        let text = [prompt, generated].concat();
        for (id, score) in (0..).zip(scores) {
            let next = [text.clone(), vec![id]].concat();
            let repeats = next.len() > n && text.windows(n).any(|w| *w == next[next.len() - n..]);
            prop_assert_eq!(score == f32::NEG_INFINITY, repeats, "{:?} + {}", text, id);
        }
    }

    #[test]
    fn whatever_the_logits_are_a_token_that_is_allowed_comes_out(
        logits in prop::collection::vec(prop_oneof![
            5 => -50.0_f32..50.0, 1 => Just(f32::NEG_INFINITY), 1 => Just(f32::INFINITY),
            1 => prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL,
        ], 1..60),
        temperature in prop_oneof![Just(0.0), 1e-12_f64..1e12],
        top_p in 0.0_f64..=1.0,
        typical_p in 1e-6_f64..=1.0,
        seed in any::<u64>(),
    ) {
        let config = SamplingConfig { temperature, top_p, typical_p, seed, ..Default::default() };
        match Sampler::new(&config, 0).unwrap().sample(&logits, &[], &[]) {
            Ok(id) => prop_assert!(logits[id as usize] > f32::NEG_INFINITY),
            Err(_) => prop_assert!(logits.iter().all(|&l| l == f32::NEG_INFINITY)),
        }
    }
}
