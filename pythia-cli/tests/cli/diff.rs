//! `diff`: two models, and the checkpoints of one.

use crate::command::{self, error, folder, json, mini, path, pythia, pythia_at, run, stdout, text, usage};
use crate::hub_server::HubServer;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The folder of the small suite, or None with a notice.
fn suite() -> Option<PathBuf> {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/mini-suite");
    if suite.is_dir() {
        return Some(suite);
    }
    println!("notice: skipped, there is no {}", suite.display());
    None
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn f64_of(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

/// The embedded model with one number of its embedding changed: element `place`, by `change` of its bits.
fn changed(place: usize, bits: u8) -> TempDir {
    let folder = folder(&command::MINI);
    let file = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let names: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = names["gpt_neox.embed_in.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    assert_eq!(names["gpt_neox.embed_in.weight"]["dtype"], "F16");
    // The exponent of an f16 is in its upper byte.
    bytes[8 + header + start + 2 * place + 1] ^= bits;
    fs::write(&file, bytes).unwrap();
    folder
}

#[test]
fn a_model_beside_itself_has_not_moved() {
    let mini = mini();
    let mini = mini.to_str().unwrap();
    let report = json(&run(&["diff", mini, mini, "--json"])).remove(0);
    assert_eq!(keys(&report), ["a", "b", "weights", "predictions"]);
    let weights = &report["weights"];
    assert_eq!(keys(weights), ["all", "layers", "kinds", "tensors", "tokens", "uneven"]);
    let apart = ["relative", "cosine", "norm_a", "norm_b", "largest_change"];
    assert_eq!(keys(&weights["all"]), apart);
    assert_eq!(keys(&weights["layers"][0])[1..], apart);
    assert_eq!(keys(&weights["tensors"][0])[3..8], apart);
    let all =
        [&weights["layers"], &weights["kinds"], &weights["tensors"]].map(|list| list.as_array().unwrap());
    for one in all.into_iter().flatten().chain([&weights["all"]]) {
        assert_eq!((f64_of(&one["relative"]), f64_of(&one["cosine"])), (0.0, 1.0), "{one}");
        assert_eq!((&one["norm_a"], f64_of(&one["largest_change"])), (&one["norm_b"], 0.0));
    }
    assert!(weights["tensors"].as_array().unwrap().iter().all(|tensor| tensor["largest"].is_null()));
    let predictions = &report["predictions"];
    let tokens = predictions["tokens"].as_u64().unwrap() as usize;
    assert!(tokens > 80 && tokens < 512, "{tokens}");
    assert_eq!(predictions["kl"], Value::from(vec![0.0; tokens]));
    assert_eq!(predictions["ids"].as_array().unwrap().len(), tokens);
    for (key, want) in [("kl_mean", 0.0), ("kl_largest", 0.0), ("agreement", 1.0), ("vocabulary", 4096.0)] {
        assert_eq!(f64_of(&predictions[key]), want, "{key}");
    }
    assert_eq!(predictions["logprob_a"], predictions["logprob_b"]);
}

#[test]
fn what_changed_is_found() {
    let (mini, other) = (mini(), changed(1213 * 128 + 5, 0x10));
    let (mini, other) = (mini.to_str().unwrap(), path(&other).to_owned());
    let args = ["diff", mini, &other, "--text", "The cat sat", "--top", "1"];
    let report = json(&run(&[&args[..], &["--json"]].concat())).remove(0);
    let weights = &report["weights"];
    let tensors = weights["tensors"].as_array().unwrap();
    let moved: Vec<_> = tensors.iter().filter(|tensor| f64_of(&tensor["relative"]) != 0.0).collect();
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0]["name"], "gpt_neox.embed_in.weight");
    let largest = &moved[0]["largest"];
    assert_eq!((largest["row"].as_u64(), largest["column"].as_u64()), (Some(1213), Some(5)));
    let change = (f64_of(&largest["b"]) - f64_of(&largest["a"])).abs();
    assert!((f64_of(&weights["all"]["largest_change"]) - change).abs() < 1e-6 && change > 0.0);
    let row = &weights["tokens"][0]["rows"][0];
    assert_eq!((row["id"].as_u64(), row["token"].as_str()), (Some(1213), Some(" ground")));
    // Three tokens, none of which is the one whose embedding changed.
    assert_eq!(f64_of(&report["predictions"]["kl_mean"]), 0.0);

    let table = stdout(&run(&args));
    assert!(table.contains("embed_in.weight") && table.contains("row 1213, column 5"), "{table}");
    assert!(table.contains("  1213  ·ground"), "{table}");
    assert!(table.contains("KL(A‖B), mean") && table.contains("same most probable token"), "{table}");
    // Where it is read, what follows changes.
    let args = ["diff", mini, &other, "--ids", "480,1213,793", "--only", "predictions", "--json"];
    let report = json(&run(&args)).remove(0);
    assert!(report["weights"].is_null());
    let kl: Vec<f64> = report["predictions"]["kl"].as_array().unwrap().iter().map(f64_of).collect();
    assert!(kl[0] == 0.0 && kl[1] > 0.0 && kl.len() == 3, "{kl:?}");
}

#[test]
fn the_log_probability_is_that_of_score() {
    let Some(suite) = suite() else { return };
    let (a, b) = (suite.join("step512"), mini());
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let sentence = "Once upon a time there was a king";
    let report = json(&run(&["diff", a, b, "--text", sentence, "--only", "predictions", "--json"])).remove(0);
    let score = json(&run(&["score", "-m", b, sentence, "--json"])).remove(0);
    assert_eq!(report["predictions"]["logprob_b"], score["sum"]);
    let [a, b] = ["logprob_a", "logprob_b"].map(|key| f64_of(&report["predictions"][key]));
    assert!(a < b, "512 steps know less than 3000: {a} {b}");
}

#[test]
fn models_without_a_tokenizer_are_compared_by_their_weights() {
    let plain = folder(&["config.json", "model.safetensors"]);
    let output = run(&["diff", path(&plain), path(&plain), "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && report["predictions"].is_null());
    assert!(text(&output.stderr).contains("neither model has a tokenizer.json; give token ids"));
    let report = json(&run(&["diff", path(&plain), path(&plain), "--ids", "1,2", "--json"])).remove(0);
    assert_eq!(report["predictions"]["tokens"], 2);
    let message = error(&run(&["diff", path(&plain), path(&plain), "--only", "predictions"]));
    assert!(message.contains("has no tokenizer.json") && message.contains("--ids"), "{message}");
    assert_eq!(json(&run(&["diff", path(&plain), path(&plain), "--only", "weights", "--json"])).len(), 1);
}

#[test]
fn other_sizes_are_told_apart() {
    let cache = TempDir::new().unwrap();
    let with_cache =
        |args: &[&str]| pythia().env("XDG_CACHE_HOME", cache.path()).args(args).output().unwrap();
    let mini = mini();
    let mini = mini.to_str().unwrap();
    let message = error(&with_cache(&["diff", mini, "synth:31m", "--ids", "1,2"]));
    assert!(message.contains("128 and 256 channels") && message.contains("--only predictions"), "{message}");
    let report =
        json(&with_cache(&["diff", mini, "synth:31m", "--ids", "1,2", "--only", "predictions", "--json"]));
    assert_eq!(report[0]["predictions"]["vocabulary"], 4096);
    // The same channels, other rows of vocabulary.
    let report = json(&with_cache(&["diff", mini, "synth:14m", "--ids", "1,2", "--json"])).remove(0);
    let uneven = report["weights"]["uneven"].as_array().unwrap();
    let first = uneven.iter().find(|uneven| uneven["name"] == "gpt_neox.embed_in.weight").unwrap();
    assert_eq!(
        (&first["shape_a"][0], &first["shape_b"][0], &first["compared_rows"]),
        (&4096.into(), &50304.into(), &4096.into())
    );
    let table = text(&with_cache(&["diff", mini, "synth:14m", "--ids", "1,2"]).stdout);
    assert!(table.contains("the first 4096 rows were compared"), "{table}");
}

#[test]
fn wrong_command_lines_are_named() {
    usage(&["diff", "70m"], "<B>");
    usage(&["diff", "70m", "410m", "--plot", "x.svg"], "--steps <STEPS>");
    usage(&["diff", "70m", "--plot", "x.svg"], "--steps <STEPS>");
    usage(&["diff", "70m", "--steps", "0,1", "--revision", "main"], "cannot be used with");
    let folder = folder(&command::MINI);
    for (args, says) in [
        (&["diff", "71m", "70m"][..], "`71m` is not a model"),
        (&["diff", "70m@step3", "70m"], "nearest are step2 and step4"),
        (&["diff", "70m@step512", "70m", "--offline"], "step512"),
        (&["diff", path(&folder), "./nowhere"], "there is no such folder"),
        (
            &["diff", path(&folder), path(&folder), "--revision", "main"],
            "--revision main needs a model of the Hub",
        ),
        (&["diff", path(&folder), path(&folder), "--text", ""], "the text is empty"),
        (&["diff", "70m", "--steps", "3000"], "one checkpoint"),
        (&["diff", "70m", "--steps", "0,3"], "nearest are step2 and step4"),
        (&["diff", "70m@step1", "--steps", "0,1"], "give 70m alone"),
        (
            &["diff", path(&folder), "--steps", "0,1"],
            "there is no such folder; the steps of a folder lie in it as stepN",
        ),
        (&["diff", "70m", "--steps", "0,1", "--plot", "x.png"], "a name that ends in .svg"),
        (&["diff", "70m", "410m", "--steps", "0,1", "--plot", "x.png"], "a name that ends in .svg"),
        (
            &["diff", "70m", "410m-v0", "--steps", "0,1000"],
            "410m-v0 has no checkpoint step0: nearest is step1000",
        ),
        (&["diff", "70m-v0", "410m", "--steps", "0,1000"], "70m-v0 has no checkpoint step0"),
        (&["diff", "70m", "410m@step1", "--steps", "0,1"], "give 410m alone"),
        (&["diff", path(&folder), path(&folder), "--steps", "all"], "`all` needs a model of the suite"),
        (&["diff", "70m", "--steps", "0,1", "--plot", "/nowhere/x.svg"], "there is no folder /nowhere"),
    ] {
        let message = error(&run(args));
        assert!(message.contains(says), "{args:?}: {message}");
    }
}

/// The names of the elements of a document, if it is well-formed as far as this program's plots go.
fn elements(svg: &str) -> Vec<String> {
    let (mut open, mut seen, mut rest) = (Vec::new(), Vec::new(), svg);
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>') && !rest[..start].contains("&&"), "{}", &rest[..start]);
        let end = start + rest[start..].find('>').expect("an end of the tag");
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<') && tag.matches('"').count() % 2 == 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
        } else {
            let name = tag.trim_end_matches('/').split_whitespace().next().unwrap().to_owned();
            if !tag.ends_with('/') {
                open.push(name.clone());
            }
            seen.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
    seen
}

const STEPS: [u64; 14] = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000];

#[test]
fn a_training_is_followed_and_drawn() {
    let Some(suite) = suite() else { return };
    let folder = TempDir::new().unwrap();
    let plot = folder.path().join("a & b.svg");
    let (suite, drawn) = (suite.to_str().unwrap(), plot.to_str().unwrap());
    let steps = STEPS.map(|step| step.to_string()).join(",");
    let output = run(&["diff", suite, "--steps", &steps, "--json", "--plot", drawn]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), format!("drawn into {drawn}\n"));
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(told, STEPS);
    let distance = |line: &Value, from: &str| f64_of(&line[from]["weights"]["all"]["relative"]);
    let kl = |line: &Value, from: &str| f64_of(&line[from]["predictions"]["kl_mean"]);
    let (first, last) = (&lines[0], &lines[STEPS.len() - 1]);
    assert!(first["previous"].is_null());
    assert_eq!((distance(first, "first"), kl(first, "first")), (0.0, 0.0));
    assert_eq!((distance(last, "last"), kl(last, "last")), (0.0, 0.0));
    for pair in lines.windows(2) {
        let [a, b] = pair else { unreachable!() };
        // Farther from where it began (at the end it hardly moves, and its weights decay), nearer to where it will end.
        assert!(distance(b, "first") > 0.98 * distance(a, "first"), "{}", b["step"]);
        assert!(distance(b, "last") < distance(a, "last"), "{}", b["step"]);
        assert!(distance(b, "previous") > 0.0 && kl(b, "previous") > 0.0);
        // No way is shorter than the straight one, as lengths: ‖B - first‖ <= ‖A - first‖ + ‖B - A‖.
        let norm = |line: &Value, from: &str| f64_of(&line[from]["weights"]["all"]["norm_a"]);
        let length = |line: &Value, from: &str| distance(line, from) * norm(line, from);
        assert!(length(b, "first") <= (length(a, "first") + length(b, "previous")) * (1.0 + 1e-6));
    }
    assert!(
        kl(first, "last") > 10.0 * kl(&lines[12], "last"),
        "the last but one predicts nearly as the last"
    );
    assert_eq!(keys(&last["previous"]["weights"]), ["all", "layers", "kinds"]);
    // As two models side by side.
    let pair =
        ["diff", &format!("{suite}/step2000"), &format!("{suite}/step3000"), "--json"].map(str::to_owned);
    let ids = {
        let mini = mini();
        let whole = json(&run(&["diff", mini.to_str().unwrap(), mini.to_str().unwrap(), "--json"])).remove(0);
        whole["predictions"]["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let pair: Vec<&str> = pair.iter().map(String::as_str).chain(["--ids", &ids]).collect();
    let pair = json(&run(&pair)).remove(0);
    assert_eq!(pair["weights"]["all"], last["previous"]["weights"]["all"]);
    assert_eq!(pair["predictions"]["kl_mean"], last["previous"]["predictions"]["kl_mean"]);

    let svg = fs::read_to_string(&plot).unwrap();
    let circles = elements(&svg).into_iter().filter(|name| name == "circle").count();
    // Two panels of three lines, of which that from the step before has one point less; and a row for each layer, the
    // embedding and the unembedding.
    assert_eq!(circles, 2 * (3 * STEPS.len() - 1));
    assert_eq!(svg.matches("<rect class=\"cell\"").count(), (STEPS.len() - 1) * (4 + 2));
    // The first from itself and the last from itself have no distance.
    assert_eq!(svg.matches("fill=\"#fff\" stroke").count(), 4);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");

    let table = stdout(&run(&["diff", suite, "--steps", "0,512,3000"]));
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 5 && lines[0].contains("KL(A‖B)"), "{table}");
    let cells: Vec<Vec<&str>> = lines[2..].iter().map(|line| line.split_whitespace().collect()).collect();
    assert!(cells.iter().all(|cells| cells.len() == 8), "{table}");
    assert_eq!((cells[0][1], cells[0][2], cells[2][3]), ("-", "0", "0"));
}

#[test]
fn checkpoints_of_the_hub_are_followed() {
    let Some(suite) = suite() else { return };
    let (home, repos) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for step in [0, 512, 3000] {
        let folder = repos.path().join(format!("EleutherAI/pythia-70m/step{step}"));
        fs::create_dir_all(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(suite.join(format!("step{step}")).join(file), folder.join(file)).unwrap();
        }
        fs::copy(suite.join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    }
    let server = HubServer::new(repos.path());
    let run = |args: &[&str]| pythia_at(&server.url, home.path(), args).output().unwrap();
    let steps = run(&["diff", "19m", "--steps", "0,512,3000", "--json"]);
    assert!(
        text(&steps.stderr).contains("warning: EleutherAI/pythia-70m at step0"),
        "{}",
        text(&steps.stderr)
    );
    // The old name is told once, not at each step.
    assert_eq!(text(&steps.stderr).matches("19m is called EleutherAI/pythia-70m today").count(), 1);
    let last =
        text(&steps.stdout).lines().last().map(|line| serde_json::from_str::<Value>(line).unwrap()).unwrap();
    assert_eq!((&last["revision"], &last["step"]), (&"step3000".into(), &3000.into()));
    let pair = json(&run(&["diff", "70m@step512", "70m@step3000", "--offline", "--json"])).remove(0);
    assert_eq!((&pair["a"], &pair["b"]), (&"70m@step512".into(), &"70m@step3000".into()));
    assert_eq!(pair["weights"]["all"], last["previous"]["weights"]["all"]);
    assert_eq!(pair["predictions"]["kl_mean"], last["previous"]["predictions"]["kl_mean"]);
    // One revision for both.
    let same = json(&run(&["diff", "70m@step512", "70m", "--revision", "step3000", "--offline", "--json"]))
        .remove(0);
    assert_eq!(same["weights"], pair["weights"]);
}

/// A folder of steps, each of which is some step of the small suite; they share its tokenizer.
fn steps_of(suite: &Path, steps: &[(u64, u64)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (step, from) in steps {
        let (from, to) = (suite.join(format!("step{from}")), folder.path().join(format!("step{step}")));
        fs::create_dir(&to).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }
    fs::copy(suite.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    folder
}

#[test]
fn two_trainings_are_followed_side_by_side() {
    let Some(suite) = suite() else { return };
    // The other is ahead in between.
    let other = steps_of(&suite, &[(0, 0), (64, 512), (512, 1000), (3000, 3000)]);
    let drawn = TempDir::new().unwrap();
    let plot = drawn.path().join("both.svg");
    let (a, b) = (suite.to_str().unwrap(), path(&other));
    let both = |more: &[&str]| run(&[&["diff", a, b, "--steps", "0,64,512,3000"], more].concat());

    let output = both(&["--json", "--plot", plot.to_str().unwrap()]);
    assert_eq!(text(&output.stderr), format!("drawn into {}\n", plot.display()));
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 64, 512, 3000]
    );
    assert_eq!(keys(&lines[1]), ["revision", "step", "weights", "predictions"]);
    assert_eq!(lines[1]["revision"], "step64");
    for (line, same) in lines.iter().zip([true, false, false, true]) {
        let (distance, kl) = (&line["weights"]["all"]["relative"], &line["predictions"]["kl_mean"]);
        assert_eq!((f64_of(distance) == 0.0, f64_of(kl) == 0.0), (same, same), "{line}");
    }
    // As two models, where A is the first.
    let [x, y] = ["step512", "step1000"].map(|step| format!("{a}/{step}"));
    let pair = json(&run(&["diff", &x, &y, "--only", "weights", "--json"])).remove(0);
    for key in ["all", "layers", "kinds"] {
        assert_eq!(lines[2]["weights"][key], pair["weights"][key]);
    }
    let [told_a, told_b] = ["logprob_a", "logprob_b"].map(|key| f64_of(&lines[2]["predictions"][key]));
    assert!(told_a < told_b, "512 steps know less than 1000: {told_a} {told_b}");

    let svg = fs::read_to_string(&plot).unwrap();
    let circles = elements(&svg).into_iter().filter(|name| name == "circle").count();
    assert_eq!(
        (circles, svg.matches("fill=\"#fff\" stroke").count()),
        (2 * 4, 2 * 2),
        "two of each four are 0"
    );
    assert!(!svg.contains("<rect class=\"cell\""), "nothing happens between steps");

    let table = stdout(&both(&[]));
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(lines.len() == 2 + 4 && lines[0].contains(&"KL(A‖B),"), "{table}");
    // Step, distance, divergences, agreement in percent, and log-probabilities.
    assert_eq!(lines[2][..6], ["0", "0", "0", "0", "100.0", "%"]);
    assert!(lines.iter().skip(2).all(|cells| cells.len() == 8) && lines[3][1] != "0", "{table}");
    assert_eq!(lines[2][6], lines[2][7]);
    let table = stdout(&both(&["--only", "weights"]));
    assert!(
        table.lines().last().unwrap().ends_with("0         -         -          -           -           -"),
        "{table}"
    );
    let only = json(&both(&["--only", "predictions", "--json"]));
    assert!(
        only.len() == 4
            && only.iter().all(|line| line["weights"].is_null() && line["predictions"].is_object())
    );
}

#[test]
fn a_range_is_of_the_steps_that_both_have() {
    let Some(suite) = suite() else { return };
    let (home, repos) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for name in ["pythia-70m", "pythia-70m-v0"] {
        let folder = repos.path().join(format!("EleutherAI/{name}/step1000"));
        fs::create_dir_all(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(suite.join("step1000").join(file), folder.join(file)).unwrap();
        }
    }
    let server = HubServer::new(repos.path());
    // First versions have no step 512.
    for (a, b) in [("70m", "70m-v0"), ("70m-v0", "70m")] {
        let args = ["diff", a, b, "--steps", "512..1000", "--only", "weights", "--json"];
        let output = pythia_at(&server.url, home.path(), &args).output().unwrap();
        let line: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        assert_eq!(
            (&line["revision"], f64_of(&line["weights"]["all"]["relative"])),
            (&"step1000".into(), 0.0)
        );
    }
}
