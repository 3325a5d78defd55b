//! The same bits: a logit does not depend on the number of threads, on the batch it was computed in, on how the prompt
//! was split between calls, or on who watches. For every precision and every instruction set of this machine.

use proptest::prelude::*;
use pythia_model::taps::{At, Point, TapAt};
use pythia_model::{Cache, Model, Precision, Sequence, Size, Workspace};
use pythia_tensor::{Crew, Isa, Team};
use pythia_tests::{fingerprint, fixtures, synthetic};
use std::sync::LazyLock;

/// K is one block of the matmul's sums (1024) and a bit more, and four and a bit in the MLP; heads are 130 wide.
const WIDE: Size =
    Size { name: "wide", num_hidden_layers: 2, hidden_size: 1040, num_attention_heads: 8, vocab_size: 200 };

/// Small enough for many random cases, with the published context of 2048.
const SMALL: Size =
    Size { name: "small", num_hidden_layers: 2, hidden_size: 48, num_attention_heads: 3, vocab_size: 90 };

fn model(size: &Size) -> Model {
    // The weights stay mapped when the folder is deleted.
    Model::open(synthetic(size)).unwrap()
}

fn fixture(name: &str) -> Model {
    Model::open(fixtures().join("variants").join(name)).unwrap()
}

/// The model in every precision that an instruction set has.
fn in_each_precision(model: &Model, isa: Isa) -> Vec<Model> {
    let can = Precision::ALL.into_iter().filter(|precision| precision.runs_on(isa));
    let team = Team::with_isa(2, isa).unwrap();
    can.map(|p| team.enter(|crew| model.clone().with_precision(crew, p)).unwrap()).collect()
}

/// Whether the batch and the split of a prompt may not matter either. `bf16` promises only the threads: it sums passes
/// of few tokens in another order.
fn in_any_company(model: &Model) -> bool {
    model.precision() != Precision::Bf16
}

/// `len` ids that a seed chooses.
fn prompt(model: &Model, len: usize, seed: u64) -> Vec<u32> {
    let v = model.config().vocab_size as u64;
    (1..=len as u64)
        .map(|i| ((seed + i).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % v)
        .map(|id| id as u32)
        .collect()
}

/// A fingerprint of each row of logits, from one call.
fn at_once(crew: &Crew<'_>, model: &Model, ids: &[u32]) -> Vec<u64> {
    split(crew, model, ids, &[])
}

/// The same, the prompt cut at `cuts` (ascending), one call for each piece.
fn split(crew: &Crew<'_>, model: &Model, ids: &[u32], cuts: &[usize]) -> Vec<u64> {
    let (mut cache, mut workspace, mut start) = (model.cache(ids.len()).unwrap(), Workspace::new(), 0);
    let mut rows = Vec::new();
    for &end in cuts.iter().chain([&ids.len()]) {
        let batch = &mut [Sequence::all(&ids[start..end], &mut cache)];
        let logits = model.forward(crew, batch, &mut workspace).unwrap();
        rows.extend((0..logits.rows()).map(|r| fingerprint(logits.row(r))));
        start = end;
    }
    rows
}

/// The fingerprints of several prompts in one call, in the order of the batch.
fn together(crew: &Crew<'_>, model: &Model, prompts: &[&[u32]], workspace: &mut Workspace) -> Vec<Vec<u64>> {
    let mut caches: Vec<Cache> = prompts.iter().map(|p| model.cache(p.len()).unwrap()).collect();
    let mut batch: Vec<Sequence<'_>> =
        prompts.iter().zip(&mut caches).map(|(ids, cache)| Sequence::all(ids, cache)).collect();
    let logits = model.forward(crew, &mut batch, workspace).unwrap();
    let mut rows = (0..logits.rows()).map(|r| fingerprint(logits.row(r)));
    prompts.iter().map(|p| rows.by_ref().take(p.len()).collect()).collect()
}

/// A run of tokens of each length that a kernel treats in its own way: 1 to 6 rows and more, a block of attention, a block of keys.
fn pieces(len: usize) -> Vec<usize> {
    let ends = [1, 1, 2, 3, 4, 5, 31, 32, 33, 1, 6, 9, 12, 128].iter().scan(0, |end, piece| {
        *end += piece;
        Some(*end)
    });
    ends.take_while(|&end| end < len).collect()
}

/// Numbers of threads, more than this machine may have included.
const THREADS: [usize; 4] = [1, 2, 3, 8];

/// Everything that may not matter, on one model and one prompt.
fn check(model: &Model, len: usize, isa: Isa, threads: &[usize]) {
    let ids = prompt(model, len, 7);
    let others = [prompt(model, 1, 1), prompt(model, len / 2 + 3, 2), prompt(model, 33.min(len), 3)];
    let [a, b, c] = others.each_ref().map(Vec::as_slice);
    let want = Team::with_isa(1, isa).unwrap().enter(|crew| at_once(crew, model, &ids));
    assert_eq!(want.len(), len);
    for &threads in threads {
        let case = |what: &str| {
            let (precision, c) = (model.precision(), model.config().hidden_size);
            format!("{what}, {threads} threads, {isa}, {precision}, hidden size {c}")
        };
        Team::with_isa(threads, isa).unwrap().enter(|crew| {
            assert_eq!(at_once(crew, model, &ids), want, "{}", case("alone"));
            if !in_any_company(model) {
                return;
            }
            assert_eq!(split(crew, model, &ids, &pieces(len)), want, "{}", case("in pieces"));
            let mut workspace = Workspace::new();
            for batch in [&[&ids, a, b, c][..], &[c, b, &ids, a], &[a, &ids], &[&ids, &ids]] {
                let place = batch.iter().position(|p| *p == ids).unwrap();
                let got = together(crew, model, batch, &mut workspace);
                assert_eq!(got[place], want, "{}", case(&format!("number {place} of {}", batch.len())));
            }
        });
    }
}

#[test]
fn fixtures_have_the_same_bits_in_any_company() {
    for name in ["parallel-f16", "sequential-rotary-full", "odd-sizes"] {
        for &isa in Isa::available() {
            for model in in_each_precision(&fixture(name), isa) {
                check(&model, 64, isa, &THREADS);
            }
        }
    }
}

#[test]
fn several_blocks_of_keys_and_of_sums_have_the_same_bits_in_any_company() {
    let model = model(&WIDE);
    for &isa in Isa::available() {
        // The portable kernels are slow, and threads share the work in the same way for all.
        let threads = if isa == Isa::best() { &THREADS[..] } else { &[2] };
        in_each_precision(&model, isa).iter().for_each(|model| check(model, 280, isa, threads));
    }
}

/// The smallest published size: its unembedding is cut into many tiles.
#[test]
fn a_published_size_has_the_same_bits_in_any_company() {
    for model in in_each_precision(&model(Size::named("14m").unwrap()), Isa::best()) {
        check(&model, 70, Isa::best(), &THREADS);
    }
}

#[test]
fn tokens_one_by_one_have_the_bits_of_a_prompt() {
    let model = model(&WIDE);
    let ids = prompt(&model, 140, 11);
    for &isa in Isa::available() {
        for model in in_each_precision(&model, isa).into_iter().filter(in_any_company) {
            Team::with_isa(2, isa).unwrap().enter(|crew| {
                let (each, precision): (Vec<usize>, _) = ((1..ids.len()).collect(), model.precision());
                let whole = at_once(crew, &model, &ids);
                assert_eq!(split(crew, &model, &ids, &each), whole, "{isa}, {precision}");
            });
        }
    }
}

/// Sequences at different positions decode together as each would alone.
#[test]
fn decoding_together_has_the_bits_of_decoding_alone() {
    let model = model(&SMALL);
    let prompts = [prompt(&model, 5, 1), prompt(&model, 130, 2), prompt(&model, 64, 3)];
    Team::new(2).unwrap().enter(|crew| {
        let (mut workspace, new) = (Workspace::new(), prompt(&model, 20, 4));
        let mut caches = [(); 3].map(|()| model.cache(160).unwrap());
        let mut batch: Vec<Sequence<'_>> =
            prompts.iter().zip(&mut caches).map(|(ids, cache)| Sequence::none(ids, cache)).collect();
        model.forward(crew, &mut batch, &mut workspace).unwrap();
        for t in 0..new.len() {
            let mut batch: Vec<Sequence<'_>> =
                caches.iter_mut().map(|cache| Sequence::last(&new[t..=t], cache)).collect();
            let logits = model.forward(crew, &mut batch, &mut workspace).unwrap();
            let got: Vec<u64> = (0..3).map(|r| fingerprint(logits.row(r))).collect();
            for (got, prompt) in got.iter().zip(&prompts) {
                let alone = at_once(crew, &model, &[prompt, &new[..=t]].concat());
                assert_eq!(Some(got), alone.last(), "token {t} after {}", prompt.len());
            }
        }
    });
}

/// A cache that was cut back or copied leaves no trace of what it held.
#[test]
fn a_cache_that_was_used_before_gives_the_same_bits() {
    let model = model(&SMALL);
    let (ids, other) = (prompt(&model, 150, 1), prompt(&model, 200, 2));
    Team::new(2).unwrap().enter(|crew| {
        let (mut workspace, want) = (Workspace::new(), at_once(crew, &model, &ids));
        let (mut cache, mut copy) = (model.cache(200).unwrap(), model.cache(333).unwrap());
        model.forward(crew, &mut [Sequence::none(&other, &mut cache)], &mut workspace).unwrap();
        model.forward(crew, &mut [Sequence::none(&other, &mut copy)], &mut workspace).unwrap();
        // After the first round, what is kept was computed from the prompt itself.
        for keep in [0, 1, 70, 127] {
            cache.truncate(keep);
            let batch = &mut [Sequence::all(&ids[keep..], &mut cache)];
            let logits = model.forward(crew, batch, &mut workspace).unwrap();
            let got: Vec<u64> = (0..logits.rows()).map(|r| fingerprint(logits.row(r))).collect();
            assert_eq!(got, want[keep..], "{keep} kept");
        }
        cache.truncate(101);
        copy.copy_from(&cache);
        assert_eq!(copy.len(), 101);
        let logits =
            model.forward(crew, &mut [Sequence::all(&ids[101..], &mut copy)], &mut workspace).unwrap();
        let got: Vec<u64> = (0..logits.rows()).map(|r| fingerprint(logits.row(r))).collect();
        assert_eq!(got, want[101..], "copied");
    });
}

/// Points that a pass without taps does not make: with them, attention is computed step by step.
fn is_of_attention(at: At) -> bool {
    matches!(at, At::Scores | At::Pattern)
}

#[test]
fn watching_does_not_change_a_bit() {
    for model in
        [fixture("parallel-f16"), fixture("sequential-rotary-full"), fixture("odd-sizes"), model(&WIDE)]
    {
        let len = model.config().max_position_embeddings.min(150);
        let (ids, layers) = (prompt(&model, len, 5), model.config().num_hidden_layers);
        for &isa in Isa::available() {
            Team::with_isa(3, isa).unwrap().enter(|crew| {
                let block = |l| {
                    At::ALL.into_iter().filter(|&at| !is_of_attention(at)).map(move |at| Point::Block(l, at))
                };
                let exists = |point: &Point| point.check(model.config()).is_ok();
                let all = (0..layers).flat_map(block).filter(exists).chain([Point::Embed, Point::LnFinal]);
                let mut calls = 0;
                let mut taps = TapAt::new(all, |_| calls += 1);
                let (mut cache, mut workspace) = (model.cache(len).unwrap(), Workspace::new());
                let batch = &mut [Sequence::all(&ids, &mut cache)];
                let logits = model.forward_with_taps(crew, batch, &mut workspace, &mut taps).unwrap();
                let got: Vec<u64> = (0..len).map(|r| fingerprint(logits.row(r))).collect();
                assert_eq!(
                    got,
                    at_once(crew, &model, &ids),
                    "{isa}, hidden size {}",
                    model.config().hidden_size
                );
                // Every point of the layers; of the residual stream's middle there is one without parallel residual only.
                let parallel = usize::from(model.config().use_parallel_residual);
                assert_eq!(calls, layers * (At::ALL.len() - 2 - parallel) + 2);
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_splits_and_batches_have_the_same_bits(
        len in 1..180_usize,
        cuts in prop::collection::btree_set(1..180_usize, 0..12),
        others in prop::collection::vec(1..100_usize, 0..6),
        place in 0..6_usize,
        threads in 1..5_usize,
        isa in 0..Isa::available().len(),
        precision in 0..12_usize,
        seed in 0..1000_u64,
    ) {
        static MODELS: LazyLock<Vec<Vec<Model>>> = LazyLock::new(|| {
            let model = model(&SMALL);
            let models = |&isa| in_each_precision(&model, isa).into_iter().filter(in_any_company).collect();
            Isa::available().iter().map(models).collect()
        });
        let (models, isa) = (&MODELS[isa], Isa::available()[isa]);
        let model = &models[precision % models.len()];
        let ids = prompt(model, len, seed);
        let cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut < len).collect();
        let mut prompts: Vec<Vec<u32>> = others.iter().map(|&len| prompt(model, len, seed + 1)).collect();
        let place = place.min(prompts.len());
        prompts.insert(place, ids.clone());
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let want = Team::with_isa(1, isa).unwrap().enter(|crew| at_once(crew, model, &ids));
        Team::with_isa(threads, isa).unwrap().enter(|crew| {
            prop_assert_eq!(&split(crew, model, &ids, &cuts), &want);
            prop_assert_eq!(&together(crew, model, &prompts, &mut Workspace::new())[place], &want);
            Ok(())
        })?;
    }
}
