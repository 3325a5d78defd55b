use super::*;
use crate::SamplingConfig;
use crate::sampling::rng::Rng;

/// What is beyond this happens once in ten thousand seeds: chi-squared with `n` degrees of freedom, by the cube-root
/// approximation of Wilson and Hilferty (1931).
fn chi_squared_limit(n: usize) -> f64 {
    let v = 2.0 / (9.0 * n as f64);
    n as f64 * (1.0 - v + 3.719 * v.sqrt()).powi(3)
}

/// Whether `counts` of the ids of `expected` are as probable as they should be. No other ids may occur.
fn assert_distributed(counts: &[usize], expected: &[(u32, f64)]) {
    let draws: usize = counts.iter().sum();
    let found: usize = expected.iter().map(|&(id, _)| counts[id as usize]).sum();
    assert_eq!(found, draws, "ids that have no probability: {counts:?}");
    let term = |&(id, p): &(u32, f64)| {
        let want = p * draws as f64;
        assert!(want >= 5.0, "too few draws for token {id}");
        (counts[id as usize] as f64 - want).powi(2) / want
    };
    let chi_squared: f64 = expected.iter().map(term).sum();
    let limit = chi_squared_limit(expected.len() - 1);
    assert!(chi_squared < limit, "{chi_squared} > {limit}: {counts:?} {expected:?}");
}

#[test]
fn the_limit_is_that_of_the_tables() {
    // Quantiles of 0.9999.
    for (n, limit) in [(2, 18.42), (9, 33.72), (40, 82.06)] {
        assert!((1.0..1.05).contains(&(chi_squared_limit(n) / limit)), "{n}: {}", chi_squared_limit(n));
    }
}

#[test]
fn what_comes_out_is_distributed_as_p_whatever_q_is() {
    let p = [(0, 0.1), (2, 0.4), (3, 0.3), (5, 0.2)];
    let cases: [&[(u32, f64)]; 5] = [
        &p,
        &[(0, 0.25), (2, 0.25), (3, 0.25), (5, 0.25)],
        &[(2, 0.05), (3, 0.95)],
        &[(1, 0.5), (2, 0.3), (4, 0.2)],
        &[(1, 0.7), (7, 0.3)],
    ];
    let mut rng = Rng::new(5, 0);
    for q in cases {
        let (mut counts, mut kept) = (vec![0; 8], 0);
        for _ in 0..40_000 {
            let x = draw(q.iter().copied(), rng.next_f64()).unwrap();
            let y = accept_or_redraw(&p, q, x, || rng.next_f64());
            kept += usize::from(x == y);
            counts[y as usize] += 1;
        }
        assert_distributed(&counts, &p);
        // The paper's acceptance rate, the sum of min(p, q), within four standard deviations, each at most 1 / 2 sqrt(n).
        let of = |id| q.iter().find(|c| c.0 == id).map_or(0.0, |c| c.1);
        let rate: f64 = p.iter().map(|&(id, p)| f64::min(p, of(id))).sum();
        assert!((kept as f64 / 40_000.0 - rate).abs() < 0.01, "{kept} of 40000 were kept, expected {rate}");
    }
}

#[test]
fn equal_distributions_keep_every_token_and_rounding_does_no_harm() {
    let p = [(1, 0.5), (4, 0.5)];
    assert_eq!(accept_or_redraw(&p, &p, 4, || 1.0 - f64::EPSILON), 4);
    // Nothing of p exceeds q, yet x is not kept.
    let q = [(1, 0.5), (4, 0.5), (6, 1e-20)];
    assert_eq!(accept_or_redraw(&p, &q, 6, || 0.0), 1);
}

/// Two models' logits, far apart.
fn logits() -> [Vec<f32>; 2] {
    [37, 29].map(|step| (0..24).map(|i| ((i * step + 11) % 53 - 26) as f32 / 16.0).collect())
}

/// Through the filters: the draft's may leave other tokens.
#[test]
fn a_verified_token_is_distributed_as_a_sampled_one() {
    let [target, draft] = logits();
    let configs = [
        SamplingConfig { temperature: 1.0, ..Default::default() },
        SamplingConfig { temperature: 0.7, top_k: 6, ..Default::default() },
        SamplingConfig { temperature: 1.3, top_p: 0.8, repetition_penalty: 1.5, ..Default::default() },
    ];
    for config in configs {
        let sampler = |stream| Sampler::new(&config, stream).unwrap();
        let (mut sampler, mut drafter, mut plain) = (sampler(0), sampler(1), sampler(2));
        let (prompt, generated) = (&[3, 5][..], &[7, 9][..]);
        let expected = plain.propose(&target, prompt, generated).unwrap().unwrap().distribution;
        let (mut counts, mut kept) = (vec![0; 24], 0);
        for _ in 0..40_000 {
            let proposal = drafter.propose(&draft, prompt, generated).unwrap().unwrap();
            let id = sampler.verify(&target, prompt, generated, &proposal).unwrap();
            kept += usize::from(id == proposal.id);
            counts[id as usize] += 1;
        }
        assert_distributed(&counts, &expected);
        assert!((1..40_000).contains(&kept), "nothing is tested if all or none are kept: {kept}");
    }
}

/// Greedy, and where the proposal was not drawn: seed for seed what would have been sampled.
#[test]
fn a_certain_proposal_does_not_change_what_is_sampled() {
    let [target, draft] = logits();
    for temperature in [0.0, 1.0] {
        let config = SamplingConfig { temperature, ..Default::default() };
        let [mut sampler, mut plain] = [0, 0].map(|stream| Sampler::new(&config, stream).unwrap());
        let greedy = SamplingConfig::default();
        let proposal = Sampler::new(&greedy, 0).unwrap().propose(&draft, &[], &[]).unwrap().unwrap();
        assert_eq!(proposal, Proposal::certain(proposal.id));
        for _ in 0..200 {
            let id = sampler.verify(&target, &[], &[], &proposal).unwrap();
            assert_eq!(id, plain.sample(&target, &[], &[]).unwrap());
        }
    }
}

#[test]
fn where_no_token_is_left_nothing_is_proposed_and_nothing_verified() {
    let config =
        SamplingConfig { temperature: 1.0, suppress_tokens: (0..24).collect(), ..Default::default() };
    let mut sampler = Sampler::new(&config, 0).unwrap();
    let [target, _] = logits();
    assert_eq!(sampler.propose(&target, &[], &[]).unwrap(), None);
    let proposal = Proposal { id: 3, distribution: vec![(3, 1.0)] };
    for proposal in [proposal, Proposal::certain(3)] {
        let message = sampler.verify(&target, &[], &[], &proposal).unwrap_err().to_string();
        assert!(message.starts_with("no token is left"), "{message}");
    }
}
