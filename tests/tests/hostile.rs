//! What callers and folders get wrong, seen from the outside: an error that says it all, and nothing has changed.

use pythia_model::{Cache, Model, Sequence, Workspace};
use pythia_tensor::Team;
use pythia_tests::{fixtures, temporary};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

fn model() -> Model {
    Model::open(fixtures().join("variants/parallel-f16")).unwrap()
}

/// The message with which the model refuses `ids` after `before` tokens in a cache for `room`, and the cache's length
/// afterwards.
fn refusal(model: &Model, before: usize, room: usize, ids: &[u32]) -> (String, usize) {
    let (mut cache, mut workspace) = (model.cache(room).unwrap(), Workspace::new());
    let message = Team::new(2).unwrap().enter(|crew| {
        if before > 0 {
            let earlier = &vec![1; before];
            model.forward(crew, &mut [Sequence::none(earlier, &mut cache)], &mut workspace).unwrap();
        }
        let batch = &mut [Sequence::last(ids, &mut cache)];
        model.forward(crew, batch, &mut workspace).unwrap_err().to_string()
    });
    (message, cache.len())
}

#[test]
fn prompts_that_do_not_fit_are_refused_with_both_lengths() {
    let model = model();
    let cases = [
        (0, 64, 65, "65 tokens are longer than the model's context of 64"),
        (60, 64, 5, "5 tokens after 60 earlier ones are longer than the model's context of 64"),
        (0, 64, 0, "no tokens: a prompt needs at least one"),
    ];
    for (before, room, new, message) in cases {
        assert_eq!(refusal(&model, before, room, &vec![1; new]), (message.to_owned(), before));
    }
    assert_eq!(
        model.cache(65).unwrap_err().to_string(),
        "65 tokens do not fit into the model's context of 64"
    );
}

#[test]
fn ids_outside_the_vocabulary_are_refused() {
    for id in [131, 50_000, u32::MAX] {
        let (message, _) = refusal(&model(), 0, 64, &[5, id, 7]);
        assert_eq!(message, format!("token id {id} is outside the model's vocabulary of 131 (ids 0 to 130)"));
    }
}

/// Room is what was asked for, though memory comes in pages of 16 positions.
#[test]
fn a_cache_that_is_too_small_is_refused() {
    let (model, message) = (model(), "the cache has room for 10 tokens, not for 11");
    assert_eq!(refusal(&model, 0, 10, &[1; 11]), (message.to_owned(), 0));
    assert_eq!(refusal(&model, 8, 10, &[1; 3]), (message.to_owned(), 8));
}

#[test]
fn logits_of_tokens_that_are_not_there_are_refused() {
    let (model, mut workspace) = (model(), Workspace::new());
    let mut cache = model.cache(8).unwrap();
    let mut batch = [Sequence { ids: &[1, 2, 3], cache: &mut cache, logits: 2..4 }];
    let result = Team::new(1).unwrap().enter(|crew| {
        model.forward(crew, &mut batch, &mut workspace).map(|l| l.rows()).map_err(|e| e.to_string())
    });
    assert_eq!(result, Err("logits asked for at 2..4 of 3 tokens".to_owned()));
}

/// One bad sequence of a batch: the good ones are as if the call had not been made.
#[test]
fn a_refused_batch_changes_nothing() {
    let model = model();
    Team::new(2).unwrap().enter(|crew| {
        let mut workspace = Workspace::new();
        let mut caches: Vec<Cache> = (0..2).map(|_| model.cache(64).unwrap()).collect();
        let want = {
            let batch = &mut [Sequence::all(&[3, 1, 4, 1, 5], &mut caches[0])];
            let logits = model.forward(crew, batch, &mut workspace).unwrap();
            logits.row(4).to_vec()
        };
        caches[0].truncate(3);
        let [good, bad] = &mut caches[..] else { unreachable!() };
        let mut batch = [Sequence::last(&[9, 9], good), Sequence::last(&[131], bad)];
        model.forward(crew, &mut batch, &mut workspace).unwrap_err();
        assert_eq!((caches[0].len(), caches[1].len()), (3, 0));
        let batch = &mut [Sequence::last(&[1, 5], &mut caches[0])];
        assert_eq!(model.forward(crew, batch, &mut workspace).unwrap().row(0), want);
    });
}

#[test]
fn a_batch_of_no_sequences_gives_no_logits() {
    let (model, mut workspace) = (model(), Workspace::new());
    let logits = Team::new(2).unwrap().enter(|crew| {
        let logits = model.forward(crew, &mut [], &mut workspace).unwrap();
        (logits.rows(), logits.cols())
    });
    assert_eq!(logits, (0, 131));
}

/// The fixture with some keys of its config changed.
fn changed(changes: &Value) -> TempDir {
    let (dir, from) = (temporary(), fixtures().join("variants/parallel-f16"));
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(from.join("config.json")).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn a_config_that_contradicts_the_weights_is_an_error_that_names_both() {
    let cases = [
        (
            json!({ "vocab_size": 132 }),
            "`gpt_neox.embed_in.weight`: config contradicts weights: expected [132, 64] by `vocab_size` and `hidden_size`, found [131, 64]",
        ),
        (json!({ "num_hidden_layers": 3 }), "`gpt_neox.layers.2."),
        (json!({ "num_hidden_layers": 1 }), "`gpt_neox.layers.1."),
        (json!({ "intermediate_size": 255 }), "found [256, 64]"),
        (json!({ "hidden_size": 66 }), "found [131, 64]"),
        (json!({ "attention_bias": false }), "`attention_bias` is false"),
        (json!({ "tie_word_embeddings": true }), "`tie_word_embeddings` is true, but this is not equal to"),
    ];
    for (changes, expected) in cases {
        let dir = changed(&changes);
        let message = Model::open(&dir).unwrap_err().to_string();
        let path = dir.path().join("model.safetensors");
        assert!(message.starts_with(&format!("{}: tensor `", path.display())), "{changes}: {message}");
        assert!(message.contains(expected), "{changes}: {message}");
    }
}

#[test]
fn a_config_that_is_wrong_in_itself_is_an_error_that_names_the_key() {
    for (changes, key) in [
        (json!({ "num_attention_heads": 3 }), "num_attention_heads"),
        (json!({ "rotary_pct": 7.5 }), "rotary_pct"),
        (json!({ "hidden_act": "relu" }), "hidden_act"),
        (json!({ "max_position_embeddings": -1 }), "max_position_embeddings"),
    ] {
        let dir = changed(&changes);
        let message = Model::open(&dir).unwrap_err().to_string();
        let path = dir.path().join("config.json");
        assert!(message.starts_with(&format!("{}: ", path.display())), "{changes}: {message}");
        assert!(message.contains(&format!("`{key}`")), "{changes}: {message}");
    }
}

#[test]
fn damaged_and_absent_files_are_errors_that_name_the_file() {
    let dir = changed(&json!({}));
    let weights = dir.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    let message = Model::open(&dir).unwrap_err().to_string();
    assert!(
        message.starts_with(&weights.display().to_string()) && message.contains("download it again"),
        "{message}"
    );
    for file in ["model.safetensors", "config.json"] {
        fs::remove_file(dir.path().join(file)).unwrap();
        let message = Model::open(&dir).unwrap_err().to_string();
        assert!(message.contains(&dir.path().display().to_string()) && message.contains(file), "{message}");
    }
}
