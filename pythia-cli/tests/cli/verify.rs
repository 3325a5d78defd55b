//! `verify`: damage is found and named, and steps that are not what they are called.

use crate::command::{self, pythia_at, text};
use crate::hub_server::{HubServer, commit, etag};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

const ID: &str = "EleutherAI/pythia-14m";
/// Of a mean loss over a part of a tale, from that over all valid tales: half more than was seen, 0.68.
const TOLERANCE: f64 = 1.0;
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// The tensors of a very small model, those of the first shard first.
fn tensors() -> [Vec<(String, Vec<usize>)>; 2] {
    let (v, c, i) = (16, 8, 12);
    let layer = |l: usize| {
        let tensor = |name: &str, shape: &[usize]| (format!("gpt_neox.layers.{l}.{name}"), shape.to_vec());
        [
            tensor("input_layernorm.weight", &[c]),
            tensor("input_layernorm.bias", &[c]),
            tensor("post_attention_layernorm.weight", &[c]),
            tensor("post_attention_layernorm.bias", &[c]),
            tensor("attention.query_key_value.weight", &[3 * c, c]),
            tensor("attention.query_key_value.bias", &[3 * c]),
            tensor("attention.dense.weight", &[c, c]),
            tensor("attention.dense.bias", &[c]),
            tensor("mlp.dense_h_to_4h.weight", &[i, c]),
            tensor("mlp.dense_h_to_4h.bias", &[i]),
            tensor("mlp.dense_4h_to_h.weight", &[c, i]),
            tensor("mlp.dense_4h_to_h.bias", &[c]),
        ]
    };
    let tensor = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
    let mut first = vec![tensor("gpt_neox.embed_in.weight", &[v, c])];
    first.extend(layer(0));
    let mut second = layer(1).to_vec();
    second.push(tensor("gpt_neox.final_layer_norm.weight", &[c]));
    second.push(tensor("gpt_neox.final_layer_norm.bias", &[c]));
    second.push(tensor("embed_out.weight", &[v, c]));
    [first, second]
}

/// A safetensors file of these tensors, their numbers those of the step.
fn safetensors(tensors: &[(String, Vec<usize>)], step: u64) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (t, (name, shape)) in tensors.iter().enumerate() {
        let start = data.len();
        // From 0.125 to 2, in f16.
        let number = |i: u64| 0x3000 + ((i * 31 + t as u64 * 7 + step * 1009) % 0x1000) as u16;
        let count = shape.iter().product::<usize>() as u64;
        data.extend((0..count).flat_map(|i| number(i).to_le_bytes()));
        header.insert(
            name.clone(),
            json!({"dtype": "F16", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let mut header = Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// The weights of a step in one file.
fn weights(step: u64) -> Vec<u8> {
    safetensors(&tensors().concat(), step)
}

fn config() -> String {
    json!({
        "model_type": "gpt_neox", "vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 12, "rotary_pct": 0.5,
    })
    .to_string()
}

/// A Hub, and a home for the cache.
struct World {
    server: HubServer,
    home: TempDir,
    repos: TempDir,
}

/// What `verify --json` told.
struct Told {
    code: Option<i32>,
    checkpoints: Vec<Value>,
    findings: Vec<Value>,
    err: String,
}

impl Told {
    /// The kinds of the findings, with the steps that they are about.
    fn kinds(&self) -> Vec<(&str, Vec<&str>)> {
        self.findings
            .iter()
            .map(|f| {
                let revisions = f["revisions"].as_array().unwrap();
                (f["finding"].as_str().unwrap(), revisions.iter().map(|r| r.as_str().unwrap()).collect())
            })
            .collect()
    }
}

impl World {
    fn new() -> Self {
        let repos = TempDir::new().unwrap();
        Self { server: HubServer::new(repos.path()), home: TempDir::new().unwrap(), repos }
    }

    /// Serves the weights of a step under a name.
    fn put(&self, id: &str, revision: &str, step: u64) {
        self.put_files(id, revision, &[("model.safetensors", &weights(step))]);
    }

    /// The same in two shards, each of a step of its own.
    fn put_shards(&self, id: &str, revision: &str, steps: [u64; 2]) {
        let tensors = tensors();
        let names = tensors
            .iter()
            .zip(SHARDS)
            .flat_map(|(tensors, shard)| tensors.iter().map(move |t| (&t.0, shard)));
        let map: serde_json::Map<_, _> = names.map(|(name, shard)| (name.clone(), json!(shard))).collect();
        let index = json!({ "weight_map": map }).to_string();
        let [first, second] = [0, 1].map(|i| safetensors(&tensors[i], steps[i]));
        let files: [(&str, &[u8]); 3] =
            [("model.safetensors.index.json", index.as_bytes()), (SHARDS[0], &first), (SHARDS[1], &second)];
        self.put_files(id, revision, &files);
    }

    fn put_files(&self, id: &str, revision: &str, files: &[(&str, &[u8])]) {
        let folder = self.repos.path().join(id).join(revision);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), config()).unwrap();
        fs::write(folder.join("tokenizer.json"), "{}").unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
    }

    fn run(&self, args: &[&str]) -> Output {
        pythia_at(&self.server.url, self.home.path(), args).output().unwrap()
    }

    fn pull(&self, args: &[&str]) -> String {
        let output = self.run(&[&["pull"], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    }

    /// The steps of 14m, each with weights of its own, in the cache.
    fn pulled(steps: &[u64]) -> Self {
        let world = Self::new();
        steps.iter().for_each(|step| world.put(ID, &format!("step{step}"), *step));
        let steps: Vec<_> = steps.iter().map(u64::to_string).collect();
        world.pull(&["14m", "--steps", &steps.join(",")]);
        world
    }

    fn verify(&self, args: &[&str]) -> Told {
        let output = self.run(&[&["verify", "--json"], args].concat());
        let lines = text(&output.stdout);
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let (findings, checkpoints) = lines.partition(|line| line.get("finding").is_some());
        Told { code: output.status.code(), checkpoints, findings, err: text(&output.stderr) }
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--EleutherAI--pythia-14m")
    }

    fn blob(&self, step: u64) -> PathBuf {
        self.repo().join("blobs").join(etag("model.safetensors", &weights(step)))
    }

    fn snapshot(&self, revision: &str) -> PathBuf {
        self.repo().join("snapshots").join(commit(ID, revision))
    }
}

#[track_caller]
fn says(text: &Value, parts: &[&str]) {
    let text = text.as_str().unwrap();
    assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in: {text}");
}

#[test]
fn checkpoints_that_are_whole_are_said_to_be() {
    let world = World::pulled(&[4, 8, 16]);
    let told = world.verify(&["14m"]);
    assert_eq!((told.code, &*told.err, told.kinds()), (Some(0), "", vec![]));
    let revisions: Vec<&Value> = told.checkpoints.iter().map(|c| &c["revision"]).collect();
    assert_eq!(revisions, ["step4", "step8", "step16"]);
    for (checkpoint, step) in told.checkpoints.iter().zip([4, 8, 16]) {
        let files = checkpoint["files"].as_array().unwrap();
        assert_eq!(
            files.iter().map(|f| f["name"].as_str().unwrap()).collect::<Vec<_>>(),
            ["config.json", "model.safetensors", "tokenizer.json"]
        );
        assert!(files.iter().all(|f| f["checksum"] == f["expected"]));
        assert_eq!(files[1]["checksum"], etag("model.safetensors", &weights(step)));
        assert_eq!(files[1]["bytes"], weights(step).len());
        assert_eq!(checkpoint["path"], world.snapshot(&format!("step{step}")).to_str().unwrap());
        assert_eq!(checkpoint["fingerprint"]["layer_index"], 1);
    }
    let hashes = |part: &str| -> Vec<&Value> {
        told.checkpoints.iter().map(|c| &c["fingerprint"][part]["hash"]).collect()
    };
    for part in ["embedding", "layer", "unembedding"] {
        let hashes = hashes(part);
        assert!(
            hashes[0] != hashes[1] && hashes[1] != hashes[2] && hashes[0] != hashes[2],
            "{part}: {hashes:?}"
        );
    }
    // One request a checkpoint; offline none.
    let asked = world.server.seen().len();
    let output = world.run(&["verify", "14m"]);
    assert_eq!(world.server.seen().len(), asked + 3);
    let table = text(&output.stdout);
    assert_eq!(table.matches("  whole  ").count(), 3, "{table}");
    assert!(table.contains("EleutherAI/pythia-14m: 3 checkpoints, compared with the Hub, "), "{table}");
    let told = world.verify(&["14m", "--offline", "--revision", "step8"]);
    assert_eq!((told.code, told.checkpoints.len(), told.kinds()), (Some(0), 1, vec![]));
    assert_eq!(world.server.seen().len(), asked + 3);
    // A Hub that cannot be reached does not keep from checking.
    let mut alone = pythia_at("http://127.0.0.1:9", world.home.path(), &["verify", "14m"]);
    let output = alone.output().unwrap();
    let err = text(&output.stderr);
    assert!(err.starts_with("warning: not compared with the Hub: cannot reach http://127.0.0.1:9"), "{err}");
    assert!(output.status.success() && text(&output.stdout).contains(", not compared with the Hub, "));
}

#[test]
fn a_changed_byte_is_found_and_pulling_again_mends_it() {
    let world = World::pulled(&[4, 8]);
    // Another revision with the same blob.
    world.put(ID, "step16", 8);
    world.pull(&["14m", "--steps", "16"]);
    let mut bytes = weights(8);
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(world.blob(8), &bytes).unwrap();
    for args in [&["14m"][..], &["14m", "--offline"]] {
        let told = world.verify(args);
        assert_eq!(told.code, Some(1));
        assert_eq!(
            told.kinds(),
            [("checksum", vec!["step8", "step16"]), ("identical", vec!["step8", "step16"])]
        );
        let found = etag("model.safetensors", &bytes);
        let blob = world.blob(8);
        let expected = etag("model.safetensors", &weights(8));
        says(&told.findings[0]["text"], &["model.safetensors of step8", &found, &expected, "pull again"]);
        assert_eq!(told.findings[0]["path"], blob.to_str().unwrap());
        assert!(told.findings[0]["damage"] == true && told.findings[1]["damage"] == false);
        let error = told.err.strip_prefix("error: EleutherAI/pythia-14m: model.safetensors of step8: ");
        assert!(error.is_some_and(|error| error.lines().count() == 1), "{}", told.err);
    }
    // As the finding says.
    fs::remove_file(world.blob(8)).unwrap();
    world.pull(&["14m", "--steps", "8"]);
    assert_eq!(world.verify(&["14m"]).kinds(), [("identical", vec!["step8", "step16"])]);
}

#[test]
fn what_was_checked_before_is_checked_by_a_faster_sum() {
    let world = World::pulled(&[4, 8]);
    let note = |step: u64| {
        world.home.path().join("cache/pythia-cli/checksums").join(etag("model.safetensors", &weights(step)))
    };
    // What was computed of the weights, and whether it was right.
    let verify = |args: &[&str]| {
        let told = world.verify(&[&["14m", "--offline"], args].concat());
        assert_eq!(told.checkpoints.len(), 2);
        let files = [0, 1].map(|c| told.checkpoints[c]["files"].clone());
        assert!(files.iter().all(|files| files[0]["name"] == "config.json" && files[0]["by"] == "sha1"));
        let right = |file: &Value| file["checksum"] == file["expected"];
        assert_eq!(told.code == Some(0), files.iter().all(|files| right(&files[1])));
        let fingerprints = [0, 1].map(|c| told.checkpoints[c]["fingerprint"].clone());
        let found = files.map(|files| (files[1]["by"].as_str().unwrap().to_owned(), right(&files[1])));
        (found, fingerprints)
    };
    let by = |kinds: [&str; 2]| kinds.map(|kind| (kind.to_owned(), true));
    let sums = |args: &[&str]| verify(args).0;
    // The download has left notes, and so does checking where there are none.
    let (found, fingerprints) = verify(&[]);
    assert_eq!(found, by(["xxh3"; 2]));
    assert_eq!(verify(&["--full"]), (by(["sha256"; 2]), fingerprints));
    fs::remove_file(note(4)).unwrap();
    assert_eq!(sums(&[]), by(["sha256", "xxh3"]));
    assert_eq!(sums(&[]), by(["xxh3"; 2]));
    // A note that is wrong makes no file damaged.
    let right = fs::read(note(4)).unwrap();
    for wrong in [&*fs::read(note(8)).unwrap(), b"", &right[1..]] {
        fs::write(note(4), wrong).unwrap();
        assert_eq!(sums(&[]), by(["sha256", "xxh3"]));
        assert_eq!(fs::read(note(4)).unwrap(), right);
    }
    // A byte anywhere.
    let bytes = weights(8);
    for place in [0, bytes.len() / 2, bytes.len() - 1] {
        let mut bytes = bytes.clone();
        bytes[place] ^= 0x10;
        fs::write(world.blob(8), bytes).unwrap();
        for args in [&[][..], &["--full"]] {
            assert_eq!(sums(args)[1], ("sha256".to_owned(), false), "{place} {args:?}");
        }
    }
    fs::write(world.blob(8), bytes).unwrap();
    assert_eq!(sums(&[]), by(["xxh3"; 2]));
    let table = text(&world.run(&["verify", "14m", "--offline"]).stdout);
    assert!(table.contains("; 2 of 4 files by XXH3, --full computes SHA-256"), "{table}");
    let table = text(&world.run(&["verify", "14m", "--offline", "--full"]).stdout);
    assert!(!table.contains("--full"), "{table}");
}

#[test]
fn a_file_that_is_cut_off_is_found_by_its_size_and_is_no_model() {
    let world = World::pulled(&[4, 8]);
    fs::write(world.blob(8), &weights(8)[..100]).unwrap();
    let told = world.verify(&["14m"]);
    assert_eq!(
        (told.code, told.kinds()),
        (Some(1), vec![("size", vec!["step8"]), ("unreadable", vec!["step8"])])
    );
    says(&told.findings[0]["text"], &["100 bytes, but the Hub says", &weights(8).len().to_string()]);
    says(&told.findings[1]["text"], &["step8: ", "model.safetensors"]);
    assert!(
        told.err.starts_with("error: EleutherAI/pythia-14m: 2 findings of damage, the first: "),
        "{}",
        told.err
    );
    let told = world.verify(&["14m", "--offline"]);
    assert_eq!(told.kinds(), [("checksum", vec!["step8"]), ("unreadable", vec!["step8"])]);
    assert_eq!(told.checkpoints[1]["fingerprint"], Value::Null);
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_or_elsewhere_are_found() {
    let world = World::pulled(&[4, 8, 16]);
    fs::remove_file(world.blob(4)).unwrap();
    let link = world.snapshot("step16").join("model.safetensors");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(Path::new("../../blobs").join(etag("model.safetensors", &weights(8))), &link)
        .unwrap();
    let told = world.verify(&["14m"]);
    assert_eq!(told.code, Some(1));
    let kinds = [("dead", vec!["step4"]), ("link", vec!["step16"]), ("identical", vec!["step8", "step16"])];
    assert_eq!(told.kinds(), kinds);
    says(
        &told.findings[0]["text"],
        &["model.safetensors of step4", world.blob(4).to_str().unwrap(), "pull it again"],
    );
    says(&told.findings[1]["text"], &["but the Hub says", &etag("model.safetensors", &weights(16))]);
    // Without the Hub, that it is another step's is all there is to see.
    assert_eq!(world.verify(&["14m", "--offline"]).kinds(), [kinds[0].clone(), kinds[2].clone()]);
    world.pull(&["14m", "--steps", "4"]);
    assert_eq!(world.verify(&["14m", "--offline"]).kinds(), [kinds[2].clone()]);
}

#[test]
fn what_is_asked_for_must_be_there() {
    let world = World::pulled(&[4, 8]);
    let told = world.verify(&["14m", "--steps", "4..64"]);
    assert_eq!((told.code, told.checkpoints.len()), (Some(1), 2));
    assert_eq!(told.kinds(), [("missing", vec!["step16", "step32", "step64"])]);
    says(&told.findings[0]["text"], &["step16, step32 and step64", "`pythia-cli pull 14m --steps 16,32,64`"]);
    // A config alone, as who only wants to look at it has it.
    fs::remove_file(world.snapshot("step8").join("model.safetensors")).unwrap();
    let told = world.verify(&["14m"]);
    assert_eq!((told.code, told.kinds()), (Some(0), vec![("incomplete", vec!["step8"])]));
    says(&told.findings[0]["text"], &["step8 lacks model.safetensors"]);
    assert_eq!(world.verify(&["14m", "--steps", "8"]).code, Some(1));

    for (args, part) in [
        (&["70m"][..], "has nothing of EleutherAI/pythia-70m: download it first with `pythia-cli pull`"),
        (&["14m", "--steps", "3"], "nearest are step2 and step4"),
        (&["14n"], "`14n` is not a model"),
    ] {
        let told = world.verify(args);
        assert!(told.code == Some(1) && told.err.contains(part), "{args:?}: {}", told.err);
    }
}

#[test]
fn steps_with_the_same_weights_are_found_with_what_is_known_of_them() {
    let world = World::new();
    for (revision, step) in
        [("step0", 1), ("step1", 1), ("step4", 143), ("step8", 8), ("step143000", 143), ("main", 143)]
    {
        world.put(ID, revision, step);
    }
    let warned = world.pull(&["14m", "--steps", "0,1,4,8,143000"]);
    let known = "may have the same weights as its neighbours: step0 and step1 do, step2 in part (EleutherAI/pythia#83, #198)";
    assert!(warned.contains(&format!("warning: {ID} at step0 and step1, each: {known}\n")), "{warned}");
    world.pull(&["14m"]);
    let told = world.verify(&["14m"]);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let kinds = [("identical", vec!["step0", "step1"]), ("final", vec!["step4", "step143000", "main"])];
    assert_eq!(told.kinds(), kinds);
    assert_eq!(told.findings[0]["known"], json!([known]));
    assert_eq!(told.findings[1]["known"], json!([]));
    says(&told.findings[1]["text"], &["step4: the same weights as the final model (step143000, main)"]);
    let table = text(&world.run(&["verify", "14m"]).stdout);
    let lines =
        format!("warning: step0 and step1 have the same weights\n  known defect: {known}\nwarning: step4: ");
    assert!(table.contains(&lines), "{table}");
    // The last step is the final model, which is as it should be.
    let told = world.verify(&["14m", "--steps", "0,143000"]);
    assert_eq!((told.code, told.kinds()), (Some(0), vec![]));
    // What is known is told of who has it, found or not.
    let table = text(&world.run(&["verify", "14m", "--steps", "0,143000"]).stdout);
    assert!(table.contains(&format!("\nknown defect: step0: {known}\n")), "{table}");
}

#[test]
fn a_shard_of_the_final_model_in_a_step_is_found() {
    const ID: &str = "EleutherAI/pythia-12b";
    let world = World::new();
    world.put_shards(ID, "step50000", [143, 50]);
    world.put_shards(ID, "step51000", [51, 51]);
    // The final model is in one file.
    world.put(ID, "main", 143);
    let warned = world.pull(&["12b", "--steps", "50000,51000"]);
    assert!(
        warned.contains("warning: EleutherAI/pythia-12b at step50000 has the first of its three shards"),
        "{warned}"
    );
    world.pull(&["12b"]);
    let told = world.verify(&["12b"]);
    assert_eq!((told.code, told.kinds()), (Some(0), vec![("shards", vec!["step50000", "main"])]));
    says(
        &told.findings[0]["text"],
        &[
            "model-00001-of-00002.safetensors of step50000",
            "main is the final model",
            "shards of different steps",
        ],
    );
    says(&told.findings[0]["known"][0], &["EleutherAI/pythia#206"]);
    // Of two steps without main.
    world.put_shards(ID, "step52000", [52, 51]);
    world.pull(&["12b", "--steps", "52000"]);
    let told = world.verify(&["12b", "--steps", "51000,52000"]);
    assert_eq!((told.code, told.kinds()), (Some(0), vec![("shards", vec!["step51000", "step52000"])]));
    says(&told.findings[0]["text"], &["model-00002-of-00002.safetensors of step51000"]);
}

#[test]
fn a_branch_that_moved_is_told() {
    let world = World::pulled(&[4, 8]);
    let old = "1".repeat(40);
    fs::rename(world.snapshot("step4"), world.repo().join("snapshots").join(&old)).unwrap();
    fs::write(world.repo().join("refs/step4"), &old).unwrap();
    // And a commit without a name.
    fs::remove_file(world.repo().join("refs/step8")).unwrap();
    let told = world.verify(&["14m"]);
    assert_eq!((told.code, told.kinds()), (Some(0), vec![("moved", vec!["step4"])]));
    says(
        &told.findings[0]["text"],
        &[&format!("step4 stands at {} on the Hub by now, here at {old}", commit(ID, "step4"))],
    );
    assert_eq!(told.checkpoints[1]["revision"], commit(ID, "step8"));
}

#[test]
fn a_folder_is_checked_for_being_a_model() {
    let folder = command::folder(&command::MINI);
    let world = World::new();
    let told = world.verify(&[command::path(&folder)]);
    assert_eq!((told.code, told.kinds(), &*told.err), (Some(0), vec![], ""));
    assert!(told.checkpoints[0]["fingerprint"]["embedding"]["norm"].as_f64().unwrap() > 1.0);
    let weights = folder.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    let told = world.verify(&[command::path(&folder)]);
    assert_eq!((told.code, told.findings.len()), (Some(1), 1));
    says(&told.findings[0]["text"], &["model.safetensors"]);
    for (args, part) in [
        (&["./nowhere"][..], "there is no such folder"),
        (&[command::path(&folder), "--revision", "main"], "leave them out"),
    ] {
        let told = world.verify(args);
        assert!(told.code == Some(1) && told.err.contains(part), "{}", told.err);
    }
}

#[test]
fn the_small_suite_is_pulled_verified_compared_and_evicted() {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/mini-suite");
    if !suite.is_dir() {
        println!("notice: skipped, there is no {}", suite.display());
        return;
    }
    let steps = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000];
    let world = World::new();
    let tokenizer = fs::read(suite.join("tokenizer.json")).unwrap();
    for step in steps {
        let read = |file: &str| fs::read(suite.join(format!("step{step}")).join(file)).unwrap();
        let files = [
            ("config.json", read("config.json")),
            ("model.safetensors", read("model.safetensors")),
            ("tokenizer.json", tokenizer.clone()),
        ];
        world.put_files(
            ID,
            &format!("step{step}"),
            &files.each_ref().map(|(name, bytes)| (*name, &bytes[..])),
        );
    }
    world.pull(&["14m", "--steps", "0..3000"]);
    let told = world.verify(&["14m", "--steps", "0..3000"]);
    assert_eq!((told.code, told.kinds(), told.checkpoints.len()), (Some(0), vec![], 14));
    // Training goes on: on a part of a valid tale, as on all of them, whose losses are on record.
    let losses: Value = serde_json::from_slice(&fs::read(suite.join("valid_loss.json")).unwrap()).unwrap();
    let tales = fs::read_to_string(suite.join("../data/tales/valid.jsonl")).unwrap();
    let tale: Value = serde_json::from_str(tales.lines().next().unwrap()).unwrap();
    let tale: String = tale["text"].as_str().unwrap().chars().take(1000).collect();
    let mean = |step: u64| {
        let revision = format!("step{step}");
        let output =
            world.run(&["score", &tale, "-m", "14m", "--revision", &revision, "--offline", "--json"]);
        let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
        let tokens = scores["ids"].as_array().unwrap().len() - 1;
        -scores["sum"].as_f64().unwrap() / tokens as f64
    };
    let means = steps.map(mean);
    let losses = steps.map(|step| losses["loss"][format!("step{step}")].as_f64().unwrap());
    for (i, (mean, loss)) in means.iter().zip(losses).enumerate() {
        println!("step{}: {mean:.3}, valid tales {loss:.3}", steps[i]);
        // Some hundred tokens are not all the tales; but steps some apart differ by more.
        assert!((mean - loss).abs() < TOLERANCE, "step{}: {mean} {loss}", steps[i]);
        assert!(i < 3 || *mean < means[i - 3], "step{}: {means:?}", steps[i]);
    }
    world.pull(&["14m", "--steps", "3000", "--keep", "4"]);
    let told = world.verify(&["14m"]);
    assert_eq!((told.code, told.kinds(), told.checkpoints.len()), (Some(0), vec![], 4));
    assert_eq!(told.checkpoints[3]["revision"], "step3000");
}
