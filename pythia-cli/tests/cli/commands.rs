//! Every command as a user runs it, on the embedded model.

use crate::command::{error, folder, json, mini, path, pythia, run, run_with, stdout, text, usage};
use serde_json::{Value, json as value};
use std::fs;

fn f64s(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

#[test]
fn run_prints_the_prompt_and_its_continuation() {
    let whole = stdout(&run(&["run", "Once upon", "-n", "8"]));
    assert!(whole.starts_with("Once upon a time") && whole.ends_with('\n'), "{whole}");
    let only = stdout(&run(&["run", "Once upon", "-n", "8", "--no-echo"]));
    assert_eq!(whole, format!("Once upon{only}"));
    let object = json(&run(&["run", "Once upon", "-n", "8", "--json"])).remove(0);
    let keys: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["prompt_ids", "ids", "text", "finish"]);
    assert_eq!(format!("{}\n", object["text"].as_str().unwrap()), only);
    assert_eq!((object["ids"].as_array().unwrap().len(), &object["finish"]), (8, &value!("length")));
    // The same prompt in every form.
    let ids = object["prompt_ids"].to_string();
    let ids = ids.trim_matches(['[', ']']);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "Once upon").unwrap();
    let file = file.path().to_str().unwrap();
    for args in [&["run", "-n8", "--ids", ids][..], &["run", "-n8", "--file", file]] {
        assert_eq!(stdout(&run(args)), whole, "{args:?}");
    }
    assert_eq!(stdout(&run_with(&["run", "-n8"], b"Once upon")), whole);
    // The last newline is part of the prompt.
    let object = json(&run_with(&["run", "-n1", "--json"], b"Once upon\n")).remove(0);
    assert_eq!(object["prompt_ids"].as_array().unwrap().len(), ids.split(',').count() + 1);
}

#[test]
fn stop_strings_end_the_text_and_are_cut_off() {
    let object = json(&run(&["run", "Once upon", "--stop", "zzz", "--stop", "ime,", "--json"])).remove(0);
    assert_eq!((&object["text"], &object["finish"]), (&value!(" a t"), &value!("stop")));
    assert_eq!(stdout(&run(&["run", "Once upon", "--stop", "ime,"])), "Once upon a t\n");
    assert!(error(&run(&["run", "x", "--stop", ""])).contains("stop string 1 of 1 is empty"));
}

#[test]
fn the_end_of_text_token_ends_the_text() {
    let to_eos = ["run", "Once upon", "-n", "9", "--json", "--logit-bias", "0=100"];
    let object = json(&run(&to_eos)).remove(0);
    assert_eq!(
        (&object["ids"], &object["text"], &object["finish"]),
        (&value!([0]), &value!(""), &value!("eos"))
    );
    let object = json(&run(&[&to_eos[..], &["--min-new-tokens", "4"]].concat())).remove(0);
    assert_eq!(object["ids"].as_array().unwrap().len(), 5);
    let object = json(&run(&[&to_eos[..], &["--ignore-eos"]].concat())).remove(0);
    assert_eq!((&object["ids"], &object["finish"]), (&value!(vec![0; 9]), &value!("length")));
}

#[test]
fn a_seed_gives_the_same_text_for_any_number_of_threads() {
    let sample = |seed: &str, threads: &str| {
        let sampling = ["--temperature", "1", "--top-p", "0.95", "--top-k", "50", "--min-p", "0.001"];
        let args = ["run", "The king", "-n", "24", "--seed", seed, "--threads", threads];
        stdout(&run(&[&args[..], &sampling].concat()))
    };
    assert_eq!(sample("1", "1"), sample("1", "3"));
    assert_ne!(sample("1", "1"), sample("2", "1"));
}

#[test]
fn several_samples_and_beams_come_one_by_one() {
    let several = ["run", "The king", "-n", "6", "--temperature", "1", "--num-return-sequences", "3"];
    let objects = json(&run(&[&several[..], &["--json"]].concat()));
    let texts: Vec<_> = objects.iter().map(|o| o["text"].as_str().unwrap()).collect();
    assert_eq!(objects.iter().map(|o| o["sample"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(texts[0] != texts[1] || texts[1] != texts[2], "{texts:?}");
    let plain: Vec<_> =
        (1..).zip(&texts).map(|(i, text)| format!("--- {i} of 3 ---\nThe king{text}\n")).collect();
    assert_eq!(stdout(&run(&several)), plain.concat());

    let beams = ["run", "The king", "-n", "6", "--num-beams", "4", "--num-return-sequences", "2", "--json"];
    let objects = json(&run(&beams));
    let scores: Vec<_> = objects.iter().map(|o| o["score"].as_f64().unwrap()).collect();
    assert!(scores.len() == 2 && scores[0] >= scores[1] && scores[1] < 0.0, "{scores:?}");
}

#[test]
fn statistics_go_to_stderr_when_asked_for() {
    let output = run(&["run", "Once upon", "-n", "4", "--stats", "--json"]);
    let err = text(&output.stderr);
    assert!(err.starts_with("prompt: 2 tokens, ") && err.contains("; new: 4 tokens, "), "{err}");
    assert_eq!(text(&output.stdout).lines().count(), 1);
}

#[test]
fn speculation_changes_the_speed_only() {
    let args = ["run", "The cat sat on the", "-n", "48", "--ignore-eos"];
    let with = |more: &[&str]| run(&[&args[..], more].concat());
    let plain = stdout(&with(&[]));
    let mini = mini();
    let draft = ["--draft", mini.to_str().unwrap()];
    for more in [&["--lookup"][..], &draft, &["--lookup", "--num-assistant-tokens", "4"]] {
        assert_eq!(stdout(&with(more)), plain, "{more:?}");
        let output = with(&[more, &["--stats", "--json"]].concat());
        let object: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
        let keys: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["prompt_ids", "ids", "text", "finish", "proposed", "accepted"]);
        let [proposed, accepted] = ["proposed", "accepted"].map(|key| object[key].as_u64().unwrap());
        assert!(0 < accepted && accepted <= proposed, "{object}");
        let told = format!("; {accepted} of {proposed} proposed tokens accepted\n");
        assert!(text(&output.stderr).ends_with(&told), "{}", text(&output.stderr));
    }
}

#[test]
fn convert_writes_a_model_that_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "a/parts"].map(|name| dir.path().join(name).display().to_string());
    let said = stdout(&run(&["convert", &whole]));
    assert!(said.starts_with(&format!("{whole}: 3 files, 3.7 MB of weights, ")), "{said}");
    let shards = ["--max-shard-size", "3MB", "--dtype", "f32", "--json"];
    let report = json(&run(&[&["convert", "-m", &whole, &parts][..], &shards].concat())).remove(0);
    let keys: Vec<_> = report.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["path", "files", "bytes", "ignored", "seconds"]);
    assert!(report["files"].as_array().unwrap().len() > 5, "{report}");
    let score = |args: &[&str]| stdout(&run(&[&["score", "Once upon a time", "--json"], args].concat()));
    for folder in [&whole, &parts] {
        assert_eq!(score(&["-m", folder]), score(&[]));
    }
}

#[test]
fn a_gguf_file_is_a_model_with_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mini.gguf").display().to_string();
    let said = stdout(&run(&["convert", &file]));
    assert!(said.starts_with(&format!("{file}: 1 file, ")), "{said}");
    let score = |args: &[&str]| stdout(&run(&[&["score", "Once upon a time", "--json"], args].concat()));
    for place in [&file, path(&dir)] {
        assert_eq!(score(&["-m", place]), score(&[]));
    }
    assert!(error(&run(&["convert", &file])).contains("this file is there already"));
}

#[test]
fn next_shows_the_distribution_of_the_next_token() {
    let object = json(&run(&["next", "Once upon a", "--top", "3", "--json"])).remove(0);
    let top = object["top"].as_array().unwrap();
    assert_eq!((top.len(), &top[0]["token"]), (3, &value!(" time")));
    let logprobs: Vec<_> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
    assert!(logprobs.is_sorted_by(|a, b| a >= b) && logprobs[0] < 0.0, "{logprobs:?}");
    // The first is what greedy decoding takes.
    let greedy = json(&run(&["run", "Once upon a", "-n1", "--json"])).remove(0);
    assert_eq!(greedy["ids"][0], top[0]["id"]);

    let table = stdout(&run(&["next", "Once upon a", "--top", "3"]));
    let lines: Vec<_> = table.lines().collect();
    let percent = format!("{:.1} %", 100.0 * logprobs[0].exp());
    assert!(lines[1].starts_with("Once upon a"), "{table}");
    assert!(lines[3].contains("·time") && lines[3].contains(&percent) && lines[3].contains('█'), "{table}");
    assert!(lines[6].contains("everything else"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours for a pipe");
    let narrow = pythia().args(["next", &"Once upon a ".repeat(9)]).env("COLUMNS", "54").output().unwrap();
    assert!(stdout(&narrow).lines().all(|line| line.chars().count() <= 54));
    // Of all tokens, nothing is left over; padding has no token.
    let all = json(&run(&["next", "Once upon a", "--top", "5000", "--json"])).remove(0);
    let sum: f64 = all["top"].as_array().unwrap().iter().map(|t| t["logprob"].as_f64().unwrap().exp()).sum();
    assert!((sum - 1.0).abs() < 0.01 && all["top"].as_array().unwrap().len() <= 4096, "{sum}");
}

#[test]
fn score_shows_how_probable_a_text_is() {
    let sentence = "Once upon a time there was";
    let object = json(&run(&["score", sentence, "--json"])).remove(0);
    let keys: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["ids", "logprobs", "sum", "perplexity"]);
    assert_eq!(object["logprobs"][0], Value::Null);
    let known = f64s(&object["logprobs"]);
    assert_eq!(known.len() + 1, object["ids"].as_array().unwrap().len());
    let sum: f64 = known.iter().sum();
    assert!((object["sum"].as_f64().unwrap() - sum).abs() < 1e-4);
    let perplexity = (-sum / known.len() as f64).exp();
    assert!((object["perplexity"].as_f64().unwrap() - perplexity).abs() < 1e-4);
    // Single precision in its shortest form: no more than nine digits.
    let shown = object["logprobs"][1].to_string();
    assert!(shown.len() <= 12 && shown.parse::<f32>().is_ok(), "{shown}");
    // What `next` says of the same token.
    let next = json(&run(&["next", "Once upon a", "--json", "--top", "1"])).remove(0);
    let (next, scored) = (next["top"][0]["logprob"].as_f64().unwrap(), known[2]);
    assert!((next - scored).abs() < 1e-5, "{next} {scored}");

    let table = stdout(&run_with(&["score"], sentence.as_bytes()));
    assert!(table.contains("·upon") && table.contains(&format!("{:.4}", known[0])), "{table}");
    assert!(table.contains(&format!("{perplexity:.4}  = exp(-mean)")), "{table}");
    let one = json(&run(&["score", "--ids", "5", "--json"])).remove(0);
    assert_eq!((&one["logprobs"], &one["perplexity"]), (&value!([null]), &Value::Null));
}

#[test]
fn tokenize_and_detokenize_are_each_others_inverse() {
    let object = json(&run(&["tokenize", "Hello  world é", "--json"])).remove(0);
    let ids = object["ids"].as_array().unwrap();
    assert_eq!(ids.len(), object["tokens"].as_array().unwrap().len());
    assert_eq!(object["offsets"][0], value!([0, 1]));
    assert!(object["tokens"].to_string().contains("Ġworld"), "{object}");
    let ids = object["ids"].to_string().trim_matches(['[', ']']).to_owned();
    assert_eq!(stdout(&run(&["detokenize", &ids])), "Hello  world é\n");
    let spaced = ids.replace(',', " ");
    assert_eq!(stdout(&run_with(&["detokenize"], spaced.as_bytes())), "Hello  world é\n");
    let back = json(&run(&[&["detokenize", "--json"][..], &spaced.split(' ').collect::<Vec<_>>()].concat()));
    assert_eq!(back[0], value!({"ids": object["ids"], "text": "Hello  world é"}));
    let table = stdout(&run(&["tokenize", "Hello  world é"]));
    assert!(
        table.contains("·world") && table.contains("\\xc3") && table.ends_with(&format!(": {ids}\n")),
        "{table}"
    );
    // No weights are needed.
    let model = folder(&["tokenizer.json"]);
    assert_eq!(stdout(&run(&["tokenize", "Hello  world é", "-m", path(&model)])), table);
    assert!(error(&run(&["detokenize", "4096"])).contains("no token 4096"));
    assert!(error(&run_with(&["detokenize"], b"1,x")).contains("`x` is not a token id"));
}

#[test]
fn bench_compares_with_the_peaks() {
    let args = ["bench", "--prompt-tokens", "64", "--new-tokens", "4", "--repeats", "1"];
    let object = json(&run(&[&args[..], &["--json"]].concat())).remove(0);
    let keys: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
    let speeds =
        ["prefill_tok_s", "decode_tok_s", "peak_gflops", "read_gb_s", "prefill_fraction", "decode_fraction"];
    let spreads = ["prefill_spread", "decode_spread"];
    let what = ["model", "precision", "prompt_tokens", "new_tokens", "batch_size"];
    assert_eq!(keys, [&speeds[..], &spreads, &what].concat());
    assert!(speeds.iter().all(|key| object[key].as_f64().unwrap() > 0.0), "{object}");
    assert!(
        spreads.iter().all(|key| object[key].as_f64() == Some(0.0)),
        "one measurement has no spread: {object}"
    );
    assert_eq!(
        what.map(|key| object[key].clone()),
        [value!("the embedded model"), value!("exact"), value!(64), value!(4), value!(1)]
    );
    let table = stdout(&run(&args));
    assert!(table.contains("prefill   1 x   64 tokens") && table.contains("GB/s"), "{table}");
    assert!(error(&run(&["bench", "--prompt-tokens", "513"])).contains("513 tokens do not fit"));
    assert!(error(&run(&["bench", "--repeats", "0"])).contains("--repeats 0"));
    assert!(error(&run(&["bench", "--batch-sizes", "1,0"])).contains("--batch-sizes 0"));
}

#[test]
fn bench_takes_lists() {
    let mini = mini();
    let models = [mini.to_str().unwrap(), mini.to_str().unwrap()].join(",");
    let lists = ["bench", "-m", &models, "--prompt-tokens", "8,16", "--batch-sizes", "1,3"];
    let args = [&lists[..], &["--new-tokens", "2", "--repeats", "2"]].concat();
    let objects = json(&run(&[&args[..], &["--json"]].concat()));
    let cases: Vec<_> =
        objects.iter().map(|o| (o["batch_size"].as_u64(), o["prompt_tokens"].as_u64())).collect();
    let one = [(1, 8), (1, 16), (3, 8), (3, 16)].map(|(b, p)| (Some(b), Some(p)));
    assert_eq!(cases, [one, one].concat());
    let table = stdout(&run(&[&args[..], &["--markdown"]].concat()));
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 2 + 2 * 4 * 2, "{table}");
    assert!(
        rows.iter().all(|row| row.matches('|').count() == 7) && rows[2].contains("prefill 1 x 8"),
        "{table}"
    );
    assert!(error(&run(&["bench", "-m", "14m,15m", "--offline"])).contains("pythia-14m"));
    usage(&["bench", "--json", "--markdown"], "cannot be used with");
    usage(&["bench", "--prompt-tokens", "8,x"], "--prompt-tokens");
}

#[test]
fn synth_writes_a_model_that_runs_and_spares_one_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new");
    let dir = dir.to_str().unwrap();
    assert!(
        stdout(&run(&["synth", "14m", dir, "--seed", "7"])).contains("14m with seed 7, 14.1 M parameters")
    );
    let message = error(&run(&["synth", "14m", dir]));
    assert!(message.contains("already has a config.json") && message.contains("--force"), "{message}");
    let before = stdout(&run(&["run", "-m", dir, "--ids", "1,2", "-n", "4"]));
    stdout(&run(&["synth", "14m", dir, "--force"]));
    let after = stdout(&run(&["run", "-m", dir, "--ids", "1,2", "-n", "4"]));
    assert!(before.starts_with("1,2,") && after.starts_with("1,2,") && before != after, "{before}{after}");
    assert!(error(&run(&["synth", "15m", dir])).contains("known: 14m, 31m"));
}

#[test]
fn a_model_without_a_tokenizer_speaks_in_ids() {
    let model = folder(&["config.json", "model.safetensors"]);
    let with = json(&run(&["run", "--ids", "41,427", "-n", "5", "--json"])).remove(0);
    let without = json(&run(&["run", "--ids", "41,427", "-n", "5", "--json", "-m", path(&model)])).remove(0);
    assert_eq!((&without["ids"], &without["text"]), (&with["ids"], &value!("")));
    let ids: Vec<_> = with["ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    let plain = |more: &[&str]| {
        stdout(&run(&[&["run", "--ids", "41,427", "-n", "5", "-m", path(&model)][..], more].concat()))
    };
    assert_eq!(plain(&[]), format!("41,427,{}\n", ids.join(",")));
    assert_eq!(plain(&["--no-echo"]), format!("{}\n", ids.join(",")));
    assert_eq!(plain(&["--num-beams", "2", "--no-echo"]).matches(',').count(), 4);
    let next = json(&run(&["next", "--ids", "41,427", "--json", "-m", path(&model)])).remove(0);
    assert_eq!((&next["top"][0]["id"], &next["top"][0]["token"]), (&with["ids"][0], &Value::Null));
    assert!(stdout(&run(&["score", "--ids", "41,427", "-m", path(&model)])).contains("#427"));
    for command in ["run", "next", "score"] {
        let message = error(&run(&[command, "Hello", "-m", path(&model)]));
        assert!(message.contains("has no tokenizer.json") && message.contains("--ids"), "{message}");
    }
    assert!(error(&run(&["tokenize", "Hello", "-m", path(&model)])).contains("has no tokenizer.json"));
    assert!(error(&run(&["run", "--ids", "1", "--stop", "x", "-m", path(&model)])).contains("tokenizer"));
}

#[test]
fn a_folder_of_the_same_files_is_the_same_model() {
    let mini = mini();
    let mini = mini.to_str().unwrap();
    let args = ["score", "Once upon a time", "--json"];
    assert_eq!(stdout(&run(&[&args[..], &["-m", mini]].concat())), stdout(&run(&args)));
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    usage(&["run", "x", "--precision", "f64"], "exact");
    usage(&["run", "x", "--wrong"], "--wrong");
    usage(&["sing"], "sing");
    usage(&[], "Usage");
    usage(&["run", "x", "--ids", "1"], "cannot be used with");
    usage(&["run", "x", "--lookup", "--draft", "70m"], "cannot be used with");
    usage(&["run", "x", "--lookup", "--num-beams", "2"], "cannot be used with");
    usage(&["run", "x", "--draft", "70m", "--num-return-sequences", "2"], "cannot be used with");
    usage(&["run", "x", "--draft-revision", "main"], "--draft");
    usage(&["run", "x", "--num-assistant-tokens", "4"], "--lookup");
    usage(&["run", "x", "--lookup", "--num-assistant-tokens", "0"], "--num-assistant-tokens");
    usage(&["run", "--ids", "1,b"], "`b` is not a token id");
    usage(&["run", "x", "--logit-bias", "5"], "ID=BIAS");
    usage(&["run", "x", "--threads", "many"], "--threads");
    usage(&["run", "x", "-n", "-1"], "'-1'");
}
