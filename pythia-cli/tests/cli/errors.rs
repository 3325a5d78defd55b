//! What goes wrong is told in one line that names the thing and the remedy.

use crate::command::{self, error, folder, mini, path, pythia, run, run_with, text};
use std::fs;

/// The error of a command line has all of these parts.
#[track_caller]
fn says(args: &[&str], parts: &[&str]) {
    let message = error(&run(args));
    for part in parts {
        assert!(message.contains(part), "{args:?}: `{part}` is not in: {message}");
    }
}

#[test]
fn lengths_are_told_both() {
    let long = "cat ".repeat(600);
    says(&["run", "Hi", "-n", "600"], &["prompt of 2 tokens", "600 new", "context of 512", "at most 510"]);
    says(&["run", &long], &["context of 512", "shorten"]);
    for command in ["score", "next"] {
        let message = error(&run(&[command, &long]));
        assert!(message.contains("tokens do not fit into the model's context of 512"), "{message}");
    }
}

#[test]
fn ids_outside_the_vocabulary_are_named() {
    for command in ["run", "next", "score"] {
        says(&[command, "--ids", "1,4096"], &["4096"]);
        says(&[command, "--ids", "4294967295"], &["4294967295"]);
    }
    says(&["run", "x", "--logit-bias", "9999=1"], &["9999"]);
}

#[test]
fn nothing_is_not_a_prompt() {
    says(&["run", ""], &["the prompt is empty", "--ids 0"]);
    says(&["run"], &["the prompt is empty"]);
    says(&["next", ""], &["the prompt is empty"]);
    says(&["score", "--ids", ""], &["the text is empty"]);
    says(&["next", "x", "--top", "0"], &["--top 0"]);
}

#[test]
fn options_out_of_range_are_named() {
    for (option, value) in [
        ("temperature", "-1"),
        ("temperature", "nan"),
        ("top-p", "1.5"),
        ("min-p", "-0.5"),
        ("typical-p", "0"),
        ("repetition-penalty", "0"),
        ("num-beams", "0"),
        ("num-return-sequences", "0"),
        ("max-new-tokens", "0"),
    ] {
        says(&["run", "x", &format!("--{option}"), value], &[&option.replace('-', "_")]);
    }
    says(&["run", "x", "--min-new-tokens", "65"], &["min_new_tokens (65)", "max_new_tokens (64)"]);
    says(&["run", "x", "--num-beams", "2", "--temperature", "1"], &["num_beams", "temperature"]);
    says(&["run", "x", "--num-beams", "2", "--num-return-sequences", "3"], &["num_return_sequences"]);
}

#[test]
fn absurd_numbers_are_refused_or_harmless() {
    let huge = usize::MAX.to_string();
    says(&["run", "x", "-n", &huge], &["context of 512"]);
    says(&["bench", "--prompt-tokens", &huge], &["do not fit"]);
    says(&["bench", "--new-tokens", &huge], &["do not fit"]);
    command::usage(&["run", "x", "--num-return-sequences", "5000"], "1024");
    command::usage(&["run", "x", "--num-beams", &huge], "--num-beams");
    command::usage(&["run", "x", "--threads", "5000"], "1024");
    let harmless = ["run", "x", "-n", "2", "--top-k", &huge, "--no-repeat-ngram-size", &huge];
    let sampled = ["--temperature", "1e300", "--seed", &huge];
    command::stdout(&run(&[&harmless[..], &sampled].concat()));
    assert!(command::stdout(&run(&["next", "x", "--top", &huge])).lines().count() > 4000);
}

#[test]
fn a_wrong_place_is_told() {
    says(&["run", "x", "-m", "/no/such/place"], &["/no/such/place", "no such folder or .gguf file"]);
    says(&["run", "x", "-m", "gpt5"], &["`gpt5` is not a model", "EleutherAI/pythia-70m", "1.4b"]);
    says(&["run", "x", "-m", "synth:15m"], &["unknown model size `15m`"]);
    says(&["run", "x", "--revision", "step3"], &["--revision step3", "inside this program"]);
    let model = folder(&command::MINI);
    says(&["run", "x", "-m", path(&model), "--revision", "main"], &["--revision main", path(&model)]);
    says(&["run", "x", "-m", "70m", "--offline"], &["/nonexistent", "EleutherAI/pythia-70m"]);
    let empty = folder(&[]);
    says(&["run", "x", "-m", path(&empty)], &["config.json"]);
    let bin = folder(&["config.json", "tokenizer.json"]);
    says(&["run", "x", "-m", path(&bin)], &["no weights in this folder"]);
    fs::write(bin.path().join("pytorch_model.bin"), b"PK").unwrap();
    says(&["run", "x", "-m", path(&bin)], &["pytorch_model.bin", "this is not a PyTorch checkpoint"]);
    says(&["run", "-f", "/no/such/file"], &["/no/such/file"]);
}

#[test]
fn a_draft_that_cannot_help_is_told() {
    says(&["run", "x", "--draft", "gpt5"], &["--draft gpt5: ", "`gpt5` is not a model"]);
    says(&["run", "x", "--draft", "/no/such/place"], &["--draft /no/such/place", "no such folder"]);
    says(&["run", "x", "--draft", "70m", "--offline"], &["--draft 70m", "EleutherAI/pythia-70m"]);
    // Two tokens in each other's place.
    let model = folder(&command::MINI);
    let json = fs::read_to_string(mini().join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&json).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let name = |id| vocab.iter().find(|(_, found)| **found == id).unwrap().0.clone();
    let [a, b] = [70, 71].map(name);
    vocab.insert(a, 71.into());
    vocab.insert(b, 70.into());
    fs::write(model.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let parts = ["the model's vocabulary", "its token 70 is ", "the same family"];
    says(&["run", "x", "--draft", path(&model)], &parts);
}

#[test]
fn files_that_do_not_belong_together_are_told() {
    let model = folder(&["model.safetensors", "tokenizer.json"]);
    let config = fs::read_to_string(mini().join("config.json")).unwrap();
    fs::write(model.path().join("config.json"), config.replace("128", "256")).unwrap();
    says(&["run", "x", "-m", path(&model)], &["config contradicts weights", "`hidden_size`"]);

    // One token more than the model has rows, between the special ones and the rest.
    let model = folder(&command::MINI);
    let json = fs::read_to_string(mini().join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut added = tokenizer["added_tokens"][0].clone();
    (added["id"], added["content"]) = (4200.into(), "<|new|>".into());
    tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    tokenizer["model"]["vocab"]["<|new|>"] = 4200.into();
    fs::write(model.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let parts = ["tokenizer.json", "4201", "4096", "do not belong together"];
    says(&["run", "x", "-m", path(&model)], &parts);
}

#[test]
fn damaged_files_are_errors_and_nothing_more() {
    let model = folder(&command::MINI);
    let tokenizer = model.path().join("tokenizer.json");
    fs::write(&tokenizer, b"{}").unwrap();
    says(&["run", "x", "-m", path(&model)], &["not a valid tokenizer.json"]);
    // One of the files at which the tokenizers crate panics (huggingface/tokenizers#2094): a merge that is shorter than
    // the prefix of continuing words.
    let crafted = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true,
        "trim_offsets": true, "use_regex": true}, "model": {"type": "BPE", "dropout": null, "unk_token": null,
        "continuing_subword_prefix": "long", "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}"#;
    fs::write(&tokenizer, crafted).unwrap();
    says(
        &["run", "x", "-m", path(&model)],
        &["tokenizer.json", "`continuing_subword_prefix`", "expected null"],
    );
    let weights = model.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    says(&["run", "--ids", "1", "-m", path(&model)], &["model.safetensors"]);
}

#[test]
fn convert_replaces_nothing_and_says_what_it_cannot_do() {
    let model = folder(&command::MINI);
    says(&["convert", path(&model)], &[path(&model), "not empty", "a new one"]);
    says(&["convert", "x", "--precision", "int8"], &["--precision int8", "--dtype"]);
    says(&["convert", "x", "--to", "gguf"], &["x: the name of a GGUF file ends in .gguf"]);
    says(&["convert", "x", "--dtype", "q8_0"], &["--dtype q8_0 needs --to gguf"]);
    let file = model.path().join("config.json");
    says(&["convert", file.to_str().unwrap()], &["config.json: Not a directory"]);
    command::usage(&["convert", "x", "--max-shard-size", "5XB"], "a size such as 5GB");
    command::usage(&["convert", "x", "--dtype", "int8"], "[possible values: f16, bf16, f32, q8_0]");
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let message = error(&run_with(&["score"], b"caf\xe9"));
    assert!(message.contains("stdin is not UTF-8 text: byte 3"), "{message}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, b"\xff\xfe").unwrap();
    says(&["run", "-f", file.path().to_str().unwrap()], &["is not UTF-8 text: byte 0"]);
}

#[test]
fn an_unknown_instruction_set_is_told() {
    let output = pythia().args(["run", "x"]).env("PYTHIA_ISA", "sse9").output().unwrap();
    assert!(error(&output).contains("`sse9`"));
    let output = pythia().args(["run", "Once upon", "-n4"]).env("PYTHIA_ISA", "portable").output().unwrap();
    assert_eq!(text(&output.stdout), "Once upon a time, and\n");
}
