//! The mini-suite, a small model at 14 steps of its training: transformers' loss at each, and text that reads like text.

use pythia_model::{Model, Sequence, Tokenizer, Workspace, log_sum_exp};
use pythia_tensor::{Crew, Mat, Team};
use pythia_tests::tales::{self, WINDOW};
use pythia_tests::{argmax, shared};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Of the mean loss. The rounding errors of single losses, some 1e-6, have both signs.
const TOLERANCE: f64 = 1e-5;

fn read_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Compares the losses of all steps, of which there must be `count`.
fn check_losses(count: usize) {
    let (Some(suite), Some(valid)) = (shared("mini-suite"), shared("data/tales/valid.jsonl")) else { return };
    let want = read_json(&std::fs::read_to_string(suite.join("valid_loss.json")).unwrap());
    let tokenizer = Tokenizer::from_file(suite.join("tokenizer.json")).unwrap();
    let ids = tales::ids(&tokenizer, &valid);
    assert_eq!(Some(ids.len() as u64), want["ids"].as_u64());
    assert_eq!(Some(((ids.len() - 1) / WINDOW * WINDOW) as u64), want["tokens_scored"].as_u64());
    let steps: Vec<_> = want["loss"].as_object().unwrap().iter().collect();
    assert_eq!(steps.len(), count);
    Team::new(0).unwrap().enter(|crew| {
        for (step, want) in steps {
            let (model, want) = (Model::open(suite.join(step)).unwrap(), want.as_f64().unwrap());
            let got = tales::mean_loss(crew, &model, &ids);
            println!("{step}: loss {got:.8}, transformers {want:.8}, difference {:.1e}", got - want);
            assert!((got - want).abs() <= TOLERANCE, "{step}: {got} {want}");
        }
    });
}

#[test]
fn the_loss_at_every_step_is_that_of_transformers() {
    check_losses(14);
}

/// The last step, in the program if it is embedded there, else in the reference data; and its tokenizer's path.
fn last_step() -> Option<(PathBuf, PathBuf)> {
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pythia-cli/assets/mini");
    if embedded.exists() {
        return Some((embedded.clone(), embedded.join("tokenizer.json")));
    }
    let suite = shared("mini-suite")?;
    Some((suite.join("step3000"), suite.join("tokenizer.json")))
}

/// The greedy continuation of `prompt` by `tokens` ids.
fn greedy(crew: &Crew<'_>, model: &Model, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let (mut cache, mut workspace) = (model.cache(prompt.len() + tokens).unwrap(), Workspace::new());
    let (mut new, mut ids) = (prompt.to_vec(), Vec::new());
    while ids.len() < tokens {
        let logits = model.forward(crew, &mut [Sequence::last(&new, &mut cache)], &mut workspace).unwrap();
        new = vec![argmax(logits.row(0))];
        ids.extend(&new);
    }
    ids
}

/// The mean log-probability of the ids from `start` on.
fn mean_log_prob(crew: &Crew<'_>, model: &Model, ids: &[u32], start: usize) -> f64 {
    let (mut cache, mut workspace) = (model.cache(ids.len()).unwrap(), Workspace::new());
    let logits: Mat<'_> = model.forward(crew, &mut [Sequence::all(ids, &mut cache)], &mut workspace).unwrap();
    let log_prob = |t: usize| f64::from(logits.row(t - 1)[ids[t] as usize]) - log_sum_exp(logits.row(t - 1));
    (start..ids.len()).map(log_prob).sum::<f64>() / (ids.len() - start) as f64
}

/// No text is expected, which rounding could change, but what every continuation by a trained model has.
#[test]
fn the_last_step_continues_a_tale_with_words() {
    let Some((dir, tokenizer)) = last_step() else { return };
    let (model, tokenizer) = (Model::open(dir).unwrap(), Tokenizer::from_file(tokenizer).unwrap());
    let mut ids = [vec![0], tokenizer.encode("Once upon a time").unwrap()].concat();
    let prompt = ids.len();
    Team::new(0).unwrap().enter(|crew| {
        ids.extend(greedy(crew, &model, &ids, 40));
        let text = tokenizer.decode(&ids[prompt..]);
        let mean = mean_log_prob(crew, &model, &ids, prompt);
        println!("Once upon a time{text}\nmean log-probability {mean:.2}");
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_word = |word: &&&str| word.chars().any(char::is_alphabetic) && word.len() < 16;
        assert!(words.len() >= 20, "{text}");
        assert!(words.iter().filter(is_word).count() * 10 >= words.len() * 9, "{text}");
        assert!(text.chars().all(|c| c.is_ascii_graphic() || " \n’‘“”—".contains(c)), "{text:?}");
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()), text);
        // A model that knows nothing gives every token 1 / 4096: -8.3.
        assert!(mean > -3.0, "{mean}");
        if let Some(suite) = shared("mini-suite") {
            let untrained = mean_log_prob(crew, &Model::open(suite.join("step0")).unwrap(), &ids, prompt);
            println!("before training {untrained:.2}");
            assert!(mean > untrained + 4.0, "{mean} {untrained}");
        }
    });
}
