//! Generation against transformers' greedy text, against scoring, and against itself.

use pythia_model::{
    Cache, Finish, Generated, GenerationConfig, Model, SamplingConfig, Step, Tokenizer, Workspace, generate,
    next, score,
};
use pythia_tensor::{Crew, Team};
use pythia_tests::{Reference, fixtures, worst};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn variant(name: &str) -> (Model, Reference) {
    let dir = fixtures().join("variants").join(name);
    (Model::open(&dir).unwrap(), Reference::open(dir.join("reference.safetensors")))
}

/// The model embedded in the program, and its tokenizer.
fn mini() -> (Model, Tokenizer) {
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pythia-cli/assets/mini");
    (Model::open(&dir).unwrap(), Tokenizer::from_file(dir.join("tokenizer.json")).unwrap())
}

fn run(
    crew: &Crew<'_>,
    model: &Model,
    tokenizer: Option<&Tokenizer>,
    prompt: &[u32],
    config: &GenerationConfig,
) -> pythia_model::Result<Vec<Generated>> {
    let mut cache = model.cache(model.config().max_position_embeddings)?;
    let (mut workspace, mut watch) = (Workspace::new(), |_: Step<'_>| ControlFlow::Continue(()));
    generate(model, tokenizer, crew, &mut workspace, &mut cache, prompt, config, &mut watch)
}

fn tokens(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig { max_new_tokens, ignore_eos: true, ..Default::default() }
}

fn sampled(n: usize, seed: u64) -> GenerationConfig {
    let sampling = SamplingConfig { temperature: 1.0, seed, ..Default::default() };
    GenerationConfig { num_return_sequences: n, sampling, ..tokens(20) }
}

#[test]
fn greedy_text_is_that_of_transformers() {
    for name in ["parallel-f16", "sequential-rotary-full", "odd-sizes"] {
        let (model, reference) = variant(name);
        let want = reference.ids("greedy");
        let (prompt, want) = want.split_at(want.len() - 24);
        let got = Team::new(2).unwrap().enter(|crew| run(crew, &model, None, prompt, &tokens(24))).unwrap();
        assert_eq!((&got[0].ids[..], got[0].finish), (want, Finish::Length), "{name}");
    }
}

#[test]
fn a_sample_does_not_depend_on_how_many_there_are() {
    let (model, tokenizer) = mini();
    let prompt = tokenizer.encode("Once upon a time").unwrap();
    Team::new(2).unwrap().enter(|crew| {
        let one = run(crew, &model, Some(&tokenizer), &prompt, &sampled(1, 7)).unwrap();
        let five = run(crew, &model, Some(&tokenizer), &prompt, &sampled(5, 7)).unwrap();
        assert_eq!(one[0], five[0]);
        assert!(five.iter().skip(1).all(|other| other.ids != five[0].ids), "samples repeat each other");
        assert_ne!(
            one,
            run(crew, &model, Some(&tokenizer), &prompt, &sampled(1, 8)).unwrap(),
            "seed ignored"
        );
    });
}

#[test]
fn a_text_goes_on_from_its_cache() {
    let (model, tokenizer) = mini();
    let prompt = tokenizer.encode("The king said").unwrap();
    Team::new(2).unwrap().enter(|crew| {
        let whole = run(crew, &model, Some(&tokenizer), &prompt, &tokens(30)).unwrap();
        let (mut cache, mut workspace) = (model.cache(100).unwrap(), Workspace::new());
        let mut text = prompt.clone();
        for part in [10, 1, 19] {
            let mut watch = |_: Step<'_>| ControlFlow::Continue(());
            let got = generate(
                &model,
                Some(&tokenizer),
                crew,
                &mut workspace,
                &mut cache,
                &text,
                &tokens(part),
                &mut watch,
            );
            text.extend(&got.unwrap()[0].ids);
            assert_eq!(cache.len(), text.len() - 1, "the last token has not been run");
        }
        assert_eq!(text[prompt.len()..], whole[0].ids);
    });
}

#[test]
fn what_is_streamed_is_the_text() {
    let (model, tokenizer) = mini();
    let prompt = tokenizer.encode("There was a").unwrap();
    let beams = GenerationConfig { num_beams: 4, num_return_sequences: 3, ..tokens(20) };
    Team::new(2).unwrap().enter(|crew| {
        for config in [sampled(3, 1), beams] {
            let (mut cache, mut workspace) = (model.cache(100).unwrap(), Workspace::new());
            let mut streamed = vec![(String::new(), Vec::new()); 3];
            let mut watch = |step: Step<'_>| {
                streamed[step.sample].0 += step.text;
                streamed[step.sample].1.extend(step.id);
                ControlFlow::Continue(())
            };
            let tokenizer = Some(&tokenizer);
            let memory = (&mut workspace, &mut cache);
            let got = generate(&model, tokenizer, crew, memory.0, memory.1, &prompt, &config, &mut watch);
            for (got, streamed) in got.unwrap().into_iter().zip(streamed) {
                assert_eq!((&got.text, &got.ids), (&streamed.0, &streamed.1));
                assert_eq!(tokenizer.map(|t| t.decode(&got.ids)), Some(got.text));
            }
        }
    });
}

#[test]
fn a_stop_string_ends_the_text_and_is_cut_off() {
    let (model, tokenizer) = mini();
    let prompt = tokenizer.encode("Once upon a time").unwrap();
    Team::new(2).unwrap().enter(|crew| {
        let free = &run(crew, &model, Some(&tokenizer), &prompt, &tokens(40)).unwrap()[0];
        // Some characters from the middle, which need not begin or end with a token.
        let from = free.text.char_indices().nth(20).unwrap().0;
        let stop: String = free.text[from..].chars().take(5).collect();
        let config = GenerationConfig { stop: vec!["never said".to_owned(), stop.clone()], ..tokens(40) };
        let got = &run(crew, &model, Some(&tokenizer), &prompt, &config).unwrap()[0];
        assert_eq!(got.finish, Finish::Stop);
        assert_eq!(got.text, free.text[..free.text.find(&stop).unwrap()]);
        assert!(got.ids.len() < free.ids.len() && free.ids.starts_with(&got.ids));
    });
}

#[test]
fn the_ending_token_ends_unless_it_is_too_early_or_ignored() {
    let (model, tokenizer) = mini();
    let (prompt, eos) = (tokenizer.encode("Once").unwrap(), model.config().eos_token_ids[0]);
    let sampling = SamplingConfig { logit_bias: vec![(eos, 100.0)], ..Default::default() };
    let config = GenerationConfig { max_new_tokens: 9, sampling, ..Default::default() };
    Team::new(2).unwrap().enter(|crew| {
        let finish = |config: &GenerationConfig| {
            let got = run(crew, &model, Some(&tokenizer), &prompt, config).unwrap().remove(0);
            (got.ids.iter().position(|&id| id == eos), got.ids.len(), got.finish)
        };
        assert_eq!(finish(&config), (Some(0), 1, Finish::Eos));
        assert_eq!(
            finish(&GenerationConfig { min_new_tokens: 4, ..config.clone() }),
            (Some(4), 5, Finish::Eos)
        );
        assert_eq!(
            finish(&GenerationConfig { ignore_eos: true, ..config.clone() }),
            (Some(0), 9, Finish::Length)
        );
    });
}

#[test]
fn the_caller_can_cancel() {
    let (model, tokenizer) = mini();
    let prompt = tokenizer.encode("Once").unwrap();
    Team::new(2).unwrap().enter(|crew| {
        let (mut cache, mut workspace, mut seen) = (model.cache(100).unwrap(), Workspace::new(), 0);
        let mut watch = |_: Step<'_>| {
            seen += 1;
            if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let config = tokens(50);
        let got = generate(
            &model,
            Some(&tokenizer),
            crew,
            &mut workspace,
            &mut cache,
            &prompt,
            &config,
            &mut watch,
        );
        assert_eq!(got.as_ref().unwrap()[0].ids.len(), 3);
        assert_eq!(got.unwrap()[0].finish, Finish::Cancelled);
    });
}

/// A wrong cache behind any beam would change its text's log-probability.
#[test]
fn beam_search_scores_are_those_of_scoring_and_beat_greedy() {
    let (model, tokenizer) = mini();
    let prompt = tokenizer.encode("The old woman").unwrap();
    Team::new(2).unwrap().enter(|crew| {
        let sum = |ids: &[u32]| {
            let scores = score(&model, crew, &mut Workspace::new(), &[&prompt, ids].concat()).unwrap();
            scores[prompt.len()..].iter().flatten().map(|&s| f64::from(s)).sum::<f64>()
        };
        let config =
            GenerationConfig { num_beams: 4, num_return_sequences: 4, length_penalty: 0.0, ..tokens(16) };
        let beams = run(crew, &model, Some(&tokenizer), &prompt, &config).unwrap();
        assert_eq!(beams.len(), 4);
        for beam in &beams {
            // Sixteen f32 log-probabilities of about 2, each rounded.
            assert!((beam.score.unwrap() - sum(&beam.ids)).abs() < 1e-4, "{beam:?}: {}", sum(&beam.ids));
        }
        let greedy = run(crew, &model, Some(&tokenizer), &prompt, &tokens(16)).unwrap();
        assert!(beams[0].score.unwrap() > sum(&greedy[0].ids) - 1e-6);
        assert!(beams.is_sorted_by(|a, b| a.score >= b.score));
    });
}

#[test]
fn next_and_score_say_the_same() {
    let (model, tokenizer) = mini();
    let ids = tokenizer.encode("Once upon a time there was a king").unwrap();
    Team::new(2).unwrap().enter(|crew| {
        let mut workspace = Workspace::new();
        let scores = score(&model, crew, &mut workspace, &ids).unwrap();
        assert_eq!((scores.len(), scores[0]), (ids.len(), None));
        for t in 1..ids.len() {
            let all = next(&model, crew, &mut workspace, &ids[..t], usize::MAX, usize::MAX).unwrap();
            let same = all.iter().find(|(id, _)| *id == ids[t]).unwrap().1;
            assert_eq!(Some(same), scores[t], "token {t}");
            let total: f64 = all.iter().map(|(_, p)| f64::from(*p).exp()).sum();
            assert!((total - 1.0).abs() < 1e-5 && all.is_sorted_by(|a, b| a.1 >= b.1));
        }
        assert_eq!(score(&model, crew, &mut workspace, &ids[..1]).unwrap(), [None]);
    });
}

#[test]
fn a_copied_cache_continues_like_the_original() {
    let (model, reference) = variant("odd-sizes");
    let ids = &reference.ids("input_ids")[..20];
    Team::new(2).unwrap().enter(|crew| {
        let mut workspace = Workspace::new();
        let mut logits = |ids: &[u32], cache: &mut Cache| {
            let mut batch = [pythia_model::Sequence::last(ids, cache)];
            model.forward(crew, &mut batch, &mut workspace).unwrap().row(0).to_vec()
        };
        let mut cache = model.cache(20).unwrap();
        logits(&ids[..12], &mut cache);
        let mut copy = model.cache(64).unwrap();
        copy.copy_from(&cache);
        assert_eq!(worst(&logits(&ids[12..], &mut cache), &logits(&ids[12..], &mut copy)), 0.0);
    });
}

#[test]
fn requests_that_cannot_work_say_why() {
    let (model, tokenizer) = mini();
    let ids = vec![5; 600];
    Team::new(1).unwrap().enter(|crew| {
        let message = |prompt: &[u32], tokenizer: Option<&Tokenizer>, config: GenerationConfig| {
            run(crew, &model, tokenizer, prompt, &config).unwrap_err().to_string()
        };
        let check = |message: String, parts: &[&str]| {
            assert!(parts.iter().all(|p| message.contains(p)), "{message}: expected {parts:?}");
        };
        check(message(&ids, None, tokens(4)), &["600 tokens", "context of 512"]);
        check(message(&ids[..500], None, tokens(64)), &["500 tokens and 64 new ones", "512", "at most 12"]);
        check(message(&[], None, tokens(4)), &["prompt is empty"]);
        check(message(&[4096], None, tokens(4)), &["token id 4096", "4096 (ids 0 to 4095)"]);
        check(message(&[1], None, tokens(0)), &["max_new_tokens", "at least 1"]);
        let stop = GenerationConfig { stop: vec!["x".to_owned()], ..tokens(4) };
        check(message(&[1], None, stop.clone()), &["stop strings", "tokenizer"]);
        check(message(&[1], Some(&tokenizer), GenerationConfig { num_beams: 2, ..stop }), &["stop", "beam"]);
        let beams = GenerationConfig { num_beams: 2, num_return_sequences: 3, ..tokens(4) };
        check(message(&[1], None, beams), &["num_return_sequences", "num_beams"]);
        check(message(&[1], None, GenerationConfig { num_beams: 2, ..sampled(1, 0) }), &["temperature"]);
        check(
            message(&[1], None, GenerationConfig { min_new_tokens: 9, ..tokens(4) }),
            &["min_new_tokens (9)", "(4)"],
        );
    });
}

/// As [`run`], with a caller who breaks at call number `last`; also tells how often the caller was asked.
fn run_until(
    crew: &Crew<'_>,
    model: &Model,
    tokenizer: &Tokenizer,
    last: usize,
    config: &GenerationConfig,
) -> (Vec<Generated>, usize) {
    let prompt = tokenizer.encode("Once upon").unwrap();
    let (mut cache, mut workspace, mut calls) = (model.cache(100).unwrap(), Workspace::new(), 0);
    let mut watch = |_: Step<'_>| {
        calls += 1;
        if calls == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let got = generate(model, Some(tokenizer), crew, &mut workspace, &mut cache, &prompt, config, &mut watch)
        .unwrap();
    (got, calls)
}

#[test]
fn a_break_ends_all_samples_at_once() {
    let (model, tokenizer) = mini();
    Team::new(2).unwrap().enter(|crew| {
        let ends = |config: &GenerationConfig, last| {
            let (got, calls) = run_until(crew, &model, &tokenizer, last, config);
            assert_eq!(calls, last, "asked again after the break");
            got.iter().map(|g| (g.ids.len(), g.finish)).collect::<Vec<_>>()
        };
        let cut = |lengths: [usize; 3]| lengths.map(|n| (n, Finish::Cancelled));
        assert_eq!(ends(&sampled(3, 5), 1), cut([1, 0, 0]));
        assert_eq!(ends(&sampled(3, 5), 8), cut([3, 3, 2]));
        // The break comes with a token that ends its sample anyway: the others end, too.
        let mut config = GenerationConfig { ignore_eos: false, ..sampled(3, 5) };
        config.sampling.logit_bias = vec![(model.config().eos_token_ids[0], 100.0)];
        let cancelled = (0, Finish::Cancelled);
        assert_eq!(ends(&config, 1), [(1, Finish::Eos), cancelled, cancelled]);
    });
}

#[test]
fn a_beam_search_can_be_cancelled_at_every_step() {
    let (model, tokenizer) = mini();
    let config = GenerationConfig { num_beams: 3, num_return_sequences: 2, ..tokens(50) };
    Team::new(2).unwrap().enter(|crew| {
        for last in [1, 4] {
            let (got, calls) = run_until(crew, &model, &tokenizer, last, &config);
            assert_eq!((got.len(), calls), (2, last));
            for text in got {
                assert_eq!((text.ids.len(), text.finish), (last, Finish::Cancelled));
                assert_eq!(text.text, tokenizer.decode(&text.ids));
            }
        }
    });
}

#[test]
fn a_model_that_produces_nan_is_refused_everywhere() {
    let (model, _) = mini();
    let mut weights = model.weights().clone();
    weights.final_layer_norm.bias[3] = f32::NAN;
    let model = Model::new(model.config().clone(), weights);
    Team::new(2).unwrap().enter(|crew| {
        let mut workspace = Workspace::new();
        let generated = |config| run(crew, &model, None, &[1, 2], &config).map(|_| ());
        let beams = GenerationConfig { num_beams: 2, ..tokens(4) };
        for result in [
            generated(tokens(4)),
            generated(beams),
            score(&model, crew, &mut workspace, &[1, 2, 3]).map(|_| ()),
            next(&model, crew, &mut workspace, &[1, 2, 3], 5, usize::MAX).map(|_| ()),
        ] {
            let message = result.unwrap_err().to_string();
            assert!(
                message.starts_with("the model produced NaN (the logit of token 0, perhaps"),
                "{message}"
            );
        }
    });
}

/// All ids but some.
fn only(left: &[u32]) -> SamplingConfig {
    let suppress_tokens = (0..4096).filter(|id| !left.contains(id)).collect();
    SamplingConfig { suppress_tokens, ..Default::default() }
}

#[test]
fn a_beam_search_with_nothing_to_choose_fails_as_sampling_does() {
    let (model, tokenizer) = mini();
    let greedy = GenerationConfig { sampling: only(&[]), ..tokens(4) };
    let beams = GenerationConfig { num_beams: 3, ..greedy.clone() };
    Team::new(2).unwrap().enter(|crew| {
        let [greedy, beams] = [greedy, beams]
            .map(|config| run(crew, &model, Some(&tokenizer), &[1], &config).unwrap_err().to_string());
        assert!(greedy.starts_with("no token is left to choose from"), "{greedy}");
        assert_eq!(beams, greedy);
    });
}

#[test]
fn a_beam_search_that_gets_stuck_keeps_its_texts() {
    let (model, tokenizer) = mini();
    // Three ids, each to be used once.
    let sampling = SamplingConfig { no_repeat_ngram_size: 1, ..only(&[300, 301, 302]) };
    let config = GenerationConfig { num_beams: 2, num_return_sequences: 2, sampling, ..tokens(9) };
    let got = Team::new(2).unwrap().enter(|crew| run(crew, &model, Some(&tokenizer), &[1], &config)).unwrap();
    assert_eq!(got.len(), 2);
    for mut text in got {
        text.ids.sort_unstable();
        assert_eq!((text.ids, text.finish), (vec![300, 301, 302], Finish::Length));
    }
}

/// The tokenizer of the embedded model without its last token, whose row is padding then.
fn one_token_less() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pythia-cli/assets/mini/tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let last = vocab.iter().find(|(_, id)| **id == 4095).unwrap().0.clone();
    vocab.remove(&last);
    json["model"]["merges"].as_array_mut().unwrap().retain(|merge| match merge.as_str() {
        Some(merge) => merge.replace(' ', "") != last,
        None => merge.as_array().unwrap().iter().filter_map(|part| part.as_str()).collect::<String>() != last,
    });
    Tokenizer::from_bytes("shorter", json.to_string().as_bytes()).unwrap()
}

#[test]
fn padding_rows_are_outside_of_sampling_and_of_beam_search() {
    let ((model, _), tokenizer) = (mini(), one_token_less());
    assert_eq!((tokenizer.vocab_size(), model.config().vocab_size), (4095, 4096));
    Team::new(2).unwrap().enter(|crew| {
        for num_beams in [1, 2] {
            let sampling = SamplingConfig { logit_bias: vec![(4095, 100.0)], ..Default::default() };
            let config = GenerationConfig { num_beams, sampling, ..tokens(4) };
            let message = run(crew, &model, Some(&tokenizer), &[1], &config).unwrap_err().to_string();
            assert_eq!(message, "`logit_bias` names token 4095, but the vocabulary has 4095 tokens");
        }
    });
}

/// Each sample goes on from its own copy of the prompt's cache.
#[test]
fn greedy_samples_are_all_the_same() {
    let (model, reference) = variant("parallel-f16");
    let prompt = &reference.ids("greedy")[..20];
    Team::new(2).unwrap().enter(|crew| {
        let one = run(crew, &model, None, prompt, &tokens(24)).unwrap().remove(0);
        let config = GenerationConfig { num_return_sequences: 3, ..tokens(24) };
        assert_eq!(run(crew, &model, None, prompt, &config).unwrap(), vec![one; 3]);
    });
}
