//! Speculative decoding: whatever is proposed, the text is that of plain generation, or distributed as it is.

use pythia_model::{
    Cache, Finish, Generated, GenerationConfig, Model, SamplingConfig, Sequence, Speculation, Step,
    Tokenizer, Workspace, generate, generate_speculatively, log_sum_exp,
};
use pythia_tensor::{Crew, Team};
use pythia_tests::{fixtures, shared};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The model embedded in the program, and its tokenizer.
fn mini() -> (Model, Tokenizer) {
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pythia-cli/assets/mini");
    (Model::open(&dir).unwrap(), Tokenizer::from_file(dir.join("tokenizer.json")).unwrap())
}

/// A model that often, but not always, agrees with this one.
fn disturbed(model: &Model, by: f32) -> Model {
    let mut weights = model.weights().clone();
    let norm = &mut weights.final_layer_norm.weight;
    norm.iter_mut().enumerate().for_each(|(i, w)| *w *= 1.0 + by * (i as f32 * 1.7).sin());
    Model::new(model.config().clone(), weights)
}

fn tokens(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig { max_new_tokens, ignore_eos: true, ..Default::default() }
}

/// A generation and all that can be seen of it: what was streamed, and what the cache holds.
#[derive(Debug, PartialEq)]
struct Seen {
    generated: Vec<Generated>,
    steps: Vec<(Option<u32>, String)>,
    cached: usize,
    /// The bits of the logits after one more token.
    next: Vec<u32>,
}

/// A model with its tokenizer, at work.
struct Writer<'a> {
    model: &'a Model,
    tokenizer: Option<&'a Tokenizer>,
    crew: &'a Crew<'a>,
}

impl Writer<'_> {
    /// Continues `prompt`, until `last` tokens have come.
    fn write(
        &self,
        prompt: &[u32],
        config: &GenerationConfig,
        last: usize,
        speculation: Option<&mut Speculation<'_>>,
    ) -> pythia_model::Result<Seen> {
        let (model, tokenizer, crew) = (self.model, self.tokenizer, self.crew);
        let context = model.config().max_position_embeddings;
        let mut cache = model.cache((prompt.len() + config.max_new_tokens).min(context))?;
        let (mut workspace, mut steps) = (Workspace::new(), Vec::new());
        let mut watch = |step: Step<'_>| {
            steps.push((step.id, step.text.to_owned()));
            if steps.len() == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let ws = &mut workspace;
        let generated = match speculation {
            None => generate(model, tokenizer, crew, ws, &mut cache, prompt, config, &mut watch)?,
            Some(s) => {
                generate_speculatively(model, tokenizer, crew, ws, &mut cache, prompt, config, s, &mut watch)?
            }
        };
        let cached = cache.len();
        let next = self.bits(&mut cache, ws);
        Ok(Seen { generated, steps, cached, next })
    }

    fn bits(&self, cache: &mut Cache, workspace: &mut Workspace) -> Vec<u32> {
        let logits = self.model.forward(self.crew, &mut [Sequence::last(&[17], cache)], workspace).unwrap();
        logits.row(0).iter().map(|x| x.to_bits()).collect()
    }

    fn plain(&self, prompt: &[u32], config: &GenerationConfig) -> Seen {
        self.write(prompt, config, usize::MAX, None).unwrap()
    }

    /// Checks that nothing differs for any kind of speculation: the tokens that were proposed and accepted in all.
    #[track_caller]
    fn check_same(&self, prompt: &[u32], config: &GenerationConfig, last: usize) -> (usize, usize) {
        let plain = self.write(prompt, config, last, None).unwrap();
        let drafts = [self.model.clone(), disturbed(self.model, 0.5), disturbed(self.model, 3.0)];
        let (mut proposed, mut accepted) = (0, 0);
        let mut check = |name: &str, mut speculation: Speculation<'_>| {
            let seen = self.write(prompt, config, last, Some(&mut speculation)).unwrap();
            assert_eq!(seen, plain, "{name}, {config:?}");
            assert!(speculation.accepted() <= speculation.proposed());
            proposed += speculation.proposed();
            accepted += speculation.accepted();
        };
        for most in [1, 4, 15] {
            check("lookup", Speculation::lookup(most));
            for draft in &drafts {
                let (draft, model) = ((draft, self.tokenizer), (self.model, self.tokenizer));
                check("draft", Speculation::draft(draft, model, most).unwrap());
            }
        }
        (proposed, accepted)
    }
}

/// Runs `f` with the embedded model.
fn with_mini<R: Send>(f: impl FnOnce(&Writer<'_>, &Tokenizer) -> R + Send) -> R {
    let (model, tokenizer) = mini();
    Team::new(2)
        .unwrap()
        .enter(|crew| f(&Writer { model: &model, tokenizer: Some(&tokenizer), crew }, &tokenizer))
}

#[test]
fn greedy_text_is_the_same_with_every_option() {
    let greedy = SamplingConfig::default;
    let samplings = [
        greedy(),
        SamplingConfig { repetition_penalty: 1.2, ..greedy() },
        SamplingConfig { frequency_penalty: 0.3, presence_penalty: 0.2, ..greedy() },
        SamplingConfig { no_repeat_ngram_size: 3, ..greedy() },
        SamplingConfig { logit_bias: vec![(5, 2.0), (11, f32::NEG_INFINITY)], ..greedy() },
        SamplingConfig { suppress_tokens: (300..330).collect(), ..greedy() },
    ];
    with_mini(|writer, tokenizer| {
        for sampling in samplings {
            for text in ["The cat sat on the", "Once upon a time there was a king. Once upon a time there"] {
                let prompt = tokenizer.encode(text).unwrap();
                let config = GenerationConfig { sampling: sampling.clone(), ..tokens(60) };
                let (proposed, accepted) = writer.check_same(&prompt, &config, usize::MAX);
                assert!(accepted > 0 && accepted < proposed, "{accepted} of {proposed}: {config:?}");
            }
        }
    });
}

#[test]
fn texts_end_where_they_ended() {
    with_mini(|writer, tokenizer| {
        let prompt = tokenizer.encode("The cat sat on the").unwrap();
        let free = writer.plain(&prompt, &tokens(60)).generated.remove(0);
        let characters = free.text.chars().count();
        // Stop strings at many places, which need not begin or end with a token.
        for from in (3..characters - 8).step_by(7) {
            let stop: String = free.text.chars().skip(from).take(6).collect();
            let config = GenerationConfig { stop: vec!["never said".to_owned(), stop], ..tokens(60) };
            assert_eq!(writer.plain(&prompt, &config).generated[0].finish, Finish::Stop);
            writer.check_same(&prompt, &config, usize::MAX);
        }
        // Every length.
        for n in 1..24 {
            writer.check_same(&prompt, &tokens(n), usize::MAX);
        }
        // A token of the text as the one that ends it, too early at first.
        let mut config = writer.model.config().clone();
        config.eos_token_ids = vec![free.ids[20]];
        let model = Model::new(config, writer.model.weights().clone());
        let writer = Writer { model: &model, ..*writer };
        for min_new_tokens in [0, 1, 19, 20, 21, 25, 40] {
            let config = GenerationConfig { min_new_tokens, ignore_eos: false, ..tokens(60) };
            writer.check_same(&prompt, &config, usize::MAX);
        }
        let config = GenerationConfig { ignore_eos: false, ..tokens(60) };
        assert_eq!(writer.plain(&prompt, &config).generated[0].finish, Finish::Eos);
    });
}

#[test]
fn the_caller_can_cancel_at_every_token() {
    with_mini(|writer, tokenizer| {
        let prompt = tokenizer.encode("The cat sat on the").unwrap();
        for last in 1..24 {
            writer.check_same(&prompt, &tokens(40), last);
        }
        let mut speculation = Speculation::lookup(15);
        let seen = writer.write(&prompt, &tokens(40), 23, Some(&mut speculation)).unwrap();
        assert_eq!((seen.generated[0].finish, seen.generated[0].ids.len()), (Finish::Cancelled, 23));
    });
}

#[test]
fn the_context_is_used_to_its_end() {
    with_mini(|writer, tokenizer| {
        let context = writer.model.config().max_position_embeddings;
        let prompt = tokenizer.encode(&"the cat and the dog ".repeat(200)).unwrap();
        for new in [1, 2, 9, 40] {
            // The last token has not been run: there is room for the one that looks at the cache.
            let (_, accepted) = writer.check_same(&prompt[..context - new], &tokens(new), usize::MAX);
            assert!(accepted > 0 || new < 3);
        }
    });
}

/// The draft's context is shorter than the text, and it lacks tokens: it falls silent.
#[test]
fn a_small_draft_helps_as_long_as_it_can() {
    with_mini(|writer, tokenizer| {
        let prompt = tokenizer.encode("The cat sat on the").unwrap();
        let plain = writer.plain(&prompt, &tokens(60));
        let mut config = writer.model.config().clone();
        config.max_position_embeddings = prompt.len() + 20;
        let draft = Model::new(config, writer.model.weights().clone());
        let (draft, model) = ((&draft, Some(tokenizer)), (writer.model, Some(tokenizer)));
        let mut speculation = Speculation::draft(draft, model, 15).unwrap();
        assert_eq!(writer.write(&prompt, &tokens(60), usize::MAX, Some(&mut speculation)).unwrap(), plain);
        let accepted = speculation.accepted();
        assert!(accepted == speculation.proposed() && (10..=20).contains(&accepted), "{accepted}");
    });
}

#[test]
fn a_text_goes_on_from_its_cache_and_another_one_begins() {
    with_mini(|writer, tokenizer| {
        let (model, crew) = (writer.model, writer.crew);
        let near = disturbed(model, 0.5);
        let draft = Speculation::draft((&near, Some(tokenizer)), (model, Some(tokenizer)), 8).unwrap();
        for mut speculation in [Speculation::lookup(8), draft] {
            let mut workspace = Workspace::new();
            for text in ["The king said", "Once upon", "The king said to the"] {
                let prompt = tokenizer.encode(text).unwrap();
                let whole = writer.plain(&prompt, &tokens(50)).generated.remove(0).ids;
                let (mut cache, mut text) = (model.cache(100).unwrap(), prompt.clone());
                for part in [30, 1, 19] {
                    let got = generate_speculatively(
                        model,
                        Some(tokenizer),
                        crew,
                        &mut workspace,
                        &mut cache,
                        &text,
                        &tokens(part),
                        &mut speculation,
                        &mut |_| ControlFlow::Continue(()),
                    );
                    text.extend(&got.unwrap()[0].ids);
                    assert_eq!(cache.len(), text.len() - 1, "the last token has not been run");
                }
                assert_eq!(text[prompt.len()..], whole);
            }
        }
    });
}

#[test]
fn a_seed_gives_the_same_sampled_text_with_lookup_and_always_the_same_with_a_draft() {
    with_mini(|writer, tokenizer| {
        let prompt = tokenizer.encode("The cat sat on the mat. The cat sat on the").unwrap();
        let near = disturbed(writer.model, 0.5);
        let mut drafted = 0;
        for seed in 0..20 {
            let sampling = SamplingConfig { temperature: 0.6, top_k: 40, seed, ..Default::default() };
            let config = GenerationConfig { sampling, ..tokens(40) };
            let plain = writer.plain(&prompt, &config);
            let lookup = writer.write(&prompt, &config, usize::MAX, Some(&mut Speculation::lookup(8)));
            assert_eq!(lookup.unwrap(), plain, "seed {seed}");
            let model = (writer.model, Some(tokenizer));
            let mut draft = Speculation::draft((&near, Some(tokenizer)), model, 8).unwrap();
            let mut twice = || writer.write(&prompt, &config, usize::MAX, Some(&mut draft)).unwrap();
            assert_eq!(twice(), twice(), "seed {seed}");
            drafted += draft.accepted();
        }
        assert!(drafted > 20, "{drafted} drafted tokens were accepted in 20 texts");
    });
}

/// The probability of every text of `n` tokens after `prompt`, by the definition.
fn probabilities(writer: &Writer<'_>, prompt: &[u32], allowed: &[u32], n: usize) -> Vec<(Vec<u32>, f64)> {
    let (mut workspace, mut texts) = (Workspace::new(), vec![(Vec::new(), 1.0)]);
    for _ in 0..n {
        let mut longer = Vec::new();
        for (text, p) in texts {
            let ids = [prompt, &text].concat();
            let mut cache = writer.model.cache(ids.len()).unwrap();
            let batch = &mut [Sequence::last(&ids, &mut cache)];
            let logits = writer.model.forward(writer.crew, batch, &mut workspace).unwrap();
            let left: Vec<f32> = allowed.iter().map(|&id| logits.row(0)[id as usize]).collect();
            let sum = log_sum_exp(&left);
            for (&id, &logit) in allowed.iter().zip(&left) {
                longer.push(([&text[..], &[id]].concat(), p * (f64::from(logit) - sum).exp()));
            }
        }
        texts = longer;
    }
    texts
}

/// Texts of four tokens from an alphabet of three: chi-squared over all 81 of them.
#[test]
fn sampled_texts_are_distributed_as_without_a_draft() {
    const TEXTS: u64 = 5000;
    with_mini(|writer, tokenizer| {
        let prompt = tokenizer.encode("The cat").unwrap();
        let allowed = tokenizer.encode(" and, the").unwrap();
        assert_eq!(allowed.len(), 3);
        let expected = probabilities(writer, &prompt, &allowed, 4);
        let all: f64 = expected.iter().map(|(_, p)| p).sum();
        assert!((all - 1.0).abs() < 1e-6);
        let suppress_tokens: Vec<u32> = (0..4096).filter(|id| !allowed.contains(id)).collect();
        let far = disturbed(writer.model, 1.0);
        let (draft, model) = ((&far, Some(tokenizer)), (writer.model, Some(tokenizer)));
        let mut speculation = Speculation::draft(draft, model, 3).unwrap();
        let (mut workspace, mut cache) = (Workspace::new(), writer.model.cache(64).unwrap());
        let (mut counts, mut proposed, mut accepted) = (HashMap::<Vec<u32>, f64>::new(), 0, 0);
        for seed in 0..TEXTS {
            let sampling = SamplingConfig {
                temperature: 1.0,
                suppress_tokens: suppress_tokens.clone(),
                seed,
                ..Default::default()
            };
            let config = GenerationConfig { sampling, ..tokens(4) };
            let got = generate_speculatively(
                writer.model,
                Some(tokenizer),
                writer.crew,
                &mut workspace,
                &mut cache,
                &prompt,
                &config,
                &mut speculation,
                &mut |_| ControlFlow::Continue(()),
            );
            *counts.entry(got.unwrap().remove(0).ids).or_default() += 1.0;
            proposed += speculation.proposed();
            accepted += speculation.accepted();
        }
        let rate = f64::from(accepted as u32) / f64::from(proposed as u32);
        println!("{accepted} of {proposed} accepted");
        assert!((0.2..0.95).contains(&rate), "nothing is tested if all or none are right: {rate}");
        // Texts that are too rare for the approximation by chi-squared count together.
        let (mut chi_squared, mut cells, mut rare, mut rare_found) = (0.0, 0, 0.0, 0.0);
        for (text, p) in expected {
            let (want, found) = (p * TEXTS as f64, counts.remove(&text).unwrap_or(0.0));
            if want < 10.0 {
                (rare, rare_found) = (rare + want, rare_found + found);
            } else {
                chi_squared += (found - want).powi(2) / want;
                cells += 1;
            }
        }
        assert!(counts.is_empty(), "texts with other tokens: {counts:?}");
        if rare >= 10.0 {
            chi_squared += (rare_found - rare).powi(2) / rare;
            cells += 1;
        }
        // One in ten thousand seeds is beyond this (Wilson and Hilferty 1931): the seeds are fixed.
        let n = f64::from(cells - 1);
        let v = 2.0 / (9.0 * n);
        let limit = n * (1.0 - v + 3.719 * v.sqrt()).powi(3);
        println!("chi-squared {chi_squared:.1} of at most {limit:.1} with {n} degrees of freedom");
        assert!(cells > 12 && chi_squared < limit, "{chi_squared} > {limit}");
    });
}

/// Earlier checkpoints of the training as drafts of the last one.
#[test]
fn drafts_of_the_suite_leave_the_text_as_it_is() {
    let Some(suite) = shared("mini-suite") else { return };
    let open = |step: usize| Model::open(suite.join(format!("step{step}"))).unwrap();
    let (model, tokenizer) = (open(3000), Tokenizer::from_file(suite.join("tokenizer.json")).unwrap());
    Team::new(2).unwrap().enter(|crew| {
        let writer = Writer { model: &model, tokenizer: Some(&tokenizer), crew };
        let prompt = tokenizer.encode("Once upon a time, there was a").unwrap();
        let plain = writer.plain(&prompt, &tokens(200));
        for step in [0, 256, 1000, 2000, 3000] {
            let draft = open(step);
            let (draft, model) = ((&draft, Some(&tokenizer)), (&model, Some(&tokenizer)));
            let mut speculation = Speculation::draft(draft, model, 15).unwrap();
            let seen = writer.write(&prompt, &tokens(200), usize::MAX, Some(&mut speculation)).unwrap();
            assert_eq!(seen, plain, "step {step}");
            println!("step {step}: {} of {}", speculation.accepted(), speculation.proposed());
        }
    });
}

#[test]
fn other_vocabularies_are_refused() {
    let ((model, tokenizer), path) = (mini(), "../pythia-cli/assets/mini/tokenizer.json");
    let json = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let mut changed: serde_json::Value = serde_json::from_str(&json).unwrap();
    let vocab = changed["model"]["vocab"].as_object_mut().unwrap();
    let name = |id: u64| vocab.iter().find(|(_, v)| v.as_u64() == Some(id)).unwrap().0.clone();
    let (a, b) = (name(70), name(71));
    vocab.insert(a, 71.into());
    vocab.insert(b, 70.into());
    let changed = Tokenizer::from_bytes("changed", changed.to_string().as_bytes()).unwrap();
    let refusal = Speculation::draft((&model, Some(&changed)), (&model, Some(&tokenizer)), 4);
    let message = refusal.unwrap_err().to_string();
    let parts = ["the model's vocabulary", "its token 70 is", "the same family"];
    assert!(parts.iter().all(|p| message.contains(p)), "{message}");

    // Without tokenizers, the numbers of rows must be alike.
    let other = Model::open(fixtures().join("variants/parallel-f16")).unwrap();
    let (theirs, ours) = (other.config().vocab_size, model.config().vocab_size);
    let message = Speculation::draft((&other, None), (&model, None), 4).unwrap_err().to_string();
    assert!(message.contains(&format!("it has {theirs} tokens and the model {ours}")), "{message}");
}

#[test]
fn several_texts_at_once_are_refused() {
    with_mini(|writer, _| {
        for (num_beams, num_return_sequences) in [(2, 1), (1, 2)] {
            let config = GenerationConfig { num_beams, num_return_sequences, ..tokens(4) };
            let speculation = &mut Speculation::lookup(4);
            let refusal = writer.write(&[5], &config, usize::MAX, Some(speculation)).unwrap_err().to_string();
            assert!(refusal.contains("one text at a time") && refusal.contains("num_beams"), "{refusal}");
        }
    });
}

#[test]
fn a_draft_that_produces_nan_is_named() {
    with_mini(|writer, tokenizer| {
        let mut weights = writer.model.weights().clone();
        weights.final_layer_norm.bias[3] = f32::NAN;
        let broken = Model::new(writer.model.config().clone(), weights);
        let model = (writer.model, Some(tokenizer));
        let mut speculation = Speculation::draft((&broken, Some(tokenizer)), model, 4).unwrap();
        let refusal = writer.write(&[5], &tokens(9), usize::MAX, Some(&mut speculation)).unwrap_err();
        assert!(refusal.to_string().starts_with("the draft model: the model produced NaN"), "{refusal}");
    });
}
