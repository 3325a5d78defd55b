//! Checkpoints of a model: listed, pulled several at once, evicted, with a download that is killed in between.

use crate::command::{self, error, json, pythia_at, text};
use crate::hub_server::world::tree;
use crate::hub_server::{Fault, HubServer, commit, etag};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ID: &str = "EleutherAI/pythia-14m";

/// A Hub with some checkpoints of one model, and a home for the cache.
struct World {
    server: HubServer,
    home: TempDir,
    repos: TempDir,
}

/// What stands for the weights of a step. Those of step 1 are those of step 0.
fn weights(step: u64) -> Vec<u8> {
    (0..200_000_u32).map(|i| (i ^ (i >> 7)) as u8 ^ step.max(1) as u8).collect()
}

impl World {
    fn empty() -> Self {
        let repos = TempDir::new().unwrap();
        Self { server: HubServer::new(repos.path()), home: TempDir::new().unwrap(), repos }
    }

    /// With made-up files at these steps.
    fn new(steps: &[u64]) -> Self {
        let world = Self::empty();
        for step in steps {
            let folder = world.folder(*step);
            fs::write(folder.join("config.json"), r#"{"model_type": "gpt_neox"}"#).unwrap();
            fs::write(folder.join("tokenizer.json"), "{}").unwrap();
            fs::write(folder.join("model.safetensors"), weights(*step)).unwrap();
        }
        world
    }

    fn folder(&self, step: u64) -> PathBuf {
        let folder = self.repos.path().join(ID).join(format!("step{step}"));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn pythia(&self, args: &[&str]) -> Command {
        pythia_at(&self.server.url, self.home.path(), args)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.pythia(args).output().unwrap()
    }

    /// The one JSON object of a pull that went well.
    #[track_caller]
    fn pull(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["pull", "14m", "--json"], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The steps that are listed as on disk.
    fn on_disk(&self) -> Vec<u64> {
        let lines = json(&self.run(&["checkpoints", "14m", "--json"]));
        assert_eq!(lines.len(), 154);
        let lines = lines.iter().filter(|line| line["on_disk"] == true);
        lines.map(|line| line["step"].as_u64().unwrap()).collect()
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--EleutherAI--pythia-14m")
    }

    fn blob(&self, step: u64) -> PathBuf {
        self.repo().join("blobs").join(etag("model.safetensors", &weights(step)))
    }
}

#[test]
fn several_checkpoints_come_at_once_and_only_once() {
    let world = World::new(&[0, 1, 2, 512, 1000]);
    assert!(world.on_disk().is_empty());
    let output = world.run(&["pull", "14m", "--steps", "0..2,512"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    let snapshot = |step: u64| world.repo().join("snapshots").join(commit(ID, &format!("step{step}")));
    for (line, step) in out.lines().zip([0, 1, 2, 512]) {
        assert_eq!(line, format!("{:<10}  {}", format!("step{step}"), snapshot(step).display()));
        assert_eq!(fs::read(snapshot(step).join("model.safetensors")).unwrap(), weights(step));
    }
    assert_eq!(out.lines().count(), 4);
    let err = text(&output.stderr);
    // Three different weights and two small files.
    assert!(err.contains("4 of 4 to download, 0.6 MB; ") && err.contains(" free on the disk"), "{err}");
    assert!(err.contains(": 4 of 4\n"), "{err}");

    // Identical bytes are stored once and were sent once.
    assert_eq!(fs::read_dir(world.repo().join("blobs")).unwrap().count(), 5);
    assert_eq!(world.server.asked("GET", "model.safetensors").len(), 3);
    assert_eq!(world.server.asked("GET", "tokenizer.json").len(), 1);
    assert_eq!(world.on_disk(), [0, 1, 2, 512]);
    let left = tree(world.home.path());
    assert!(left.iter().all(|f| !f.contains(".tmp") && !f.contains(".incomplete")), "{left:?}");

    // What is there needs no network; what is new comes alone.
    let asked = world.server.seen().len();
    let again = world.pull(&["--steps", "0..2,512"]);
    assert_eq!((world.server.seen().len(), &again["downloaded_bytes"]), (asked, &Value::from(0)));
    let more = world.pull(&["--steps", "0,1000"]);
    assert_eq!(more["downloaded_bytes"], 200_000);
    assert_eq!(more["snapshots"][1]["path"], snapshot(1000).to_str().unwrap());
    assert_eq!(world.on_disk(), [0, 1, 2, 512, 1000]);
    let table = world.run(&["checkpoints", "pythia-14m"]);
    let table = text(&table.stdout);
    assert!(table.contains("step512          1073741824  on disk\n"), "{table}");
    assert!(table.ends_with("EleutherAI/pythia-14m: 154 checkpoints, 5 on disk\n"), "{table}");
}

#[test]
fn the_oldest_checkpoints_are_evicted_and_shared_blobs_stay() {
    let world = World::new(&[0, 1, 2, 4, 8]);
    // Not a checkpoint, and not to be evicted: it shares the bytes of step 2.
    let main = world.repos.path().join(ID).join("main");
    fs::create_dir_all(&main).unwrap();
    for entry in fs::read_dir(world.folder(2)).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), main.join(entry.file_name())).unwrap();
    }
    world.pull(&[]);
    for step in ["2", "0", "1"] {
        let pulled = world.pull(&["--steps", step, "--keep", "3"]);
        assert_eq!(pulled["evicted"], Value::Array(vec![]));
        // The age of a checkpoint is that of a file.
        thread::sleep(Duration::from_millis(30));
    }
    // As Python leaves it.
    let listing = world.repo().join("trees").join(format!("{}.json", commit(ID, "step2")));
    fs::create_dir_all(listing.parent().unwrap()).unwrap();
    fs::write(&listing, "{}").unwrap();
    let output = world.run(&["pull", "14m", "--steps", "4", "--keep", "2"]);
    let err = text(&output.stderr);
    assert!(err.starts_with("evicted step2, step0: 0 bytes freed\n"), "{err}");
    assert_eq!((world.on_disk(), listing.exists()), (vec![1, 4], false));
    // The weights of step 0 are those of step 1, those of step 2 those of main.
    assert!(world.blob(0).is_file() && world.blob(2).is_file());
    let pulled = world.pull(&["--steps", "8", "--keep", "1"]);
    assert_eq!(pulled["evicted"], serde_json::json!(["step1", "step4"]));
    assert_eq!(pulled["evicted_bytes"], 400_000);
    assert_eq!((world.on_disk(), world.blob(0).exists()), (vec![8], false));
    let left = tree(&world.repo());
    let of = |start: &str| left.iter().filter(|f| f.starts_with(start)).collect::<Vec<_>>();
    assert_eq!((of("refs/").len(), of("blobs/").len()), (2, 4), "{left:?}");
    assert_eq!((of("snapshots/").len(), of(".no_exist/").len()), (6, 2), "{left:?}");

    let message = error(&world.run(&["pull", "14m", "--steps", "0,1", "--keep", "1"]));
    assert!(message.contains("--keep 1 is fewer than the 2 checkpoints"), "{message}");
    assert_eq!(world.on_disk(), [8], "an error evicts nothing");
}

#[test]
fn a_killed_download_goes_on_where_it_stopped() {
    let world = World::new(&[0, 1, 2, 4, 8, 16]);
    world.server.fault("GET model.safetensors", 4, Fault::Stall(150_000, Duration::from_mins(1)));
    let steps = ["--steps", "0..16"];
    for kill in 0..2 {
        let mut child = world.pythia(&[&["pull", "14m"], &steps[..]].concat());
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let since = Instant::now();
        let partial =
            |step| fs::metadata(world.blob(step).with_extension("incomplete")).map_or(0, |m| m.len());
        // The first time in the middle of four files; then wherever it is.
        while kill == 0 && [0, 2, 4, 8].into_iter().any(|step| partial(step) < 150_000) {
            assert!(since.elapsed() < Duration::from_secs(20), "nothing is downloaded");
            thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let pulled = world.pull(&steps);
    assert_eq!(pulled["snapshots"].as_array().unwrap().len(), 6);
    for step in [0, 2, 4, 8, 16] {
        assert_eq!(fs::read(world.blob(step)).unwrap(), weights(step));
    }
    assert_eq!(world.on_disk(), [0, 1, 2, 4, 8, 16]);
    let left = tree(world.home.path());
    assert!(left.iter().all(|f| !f.contains(".incomplete")), "{left:?}");
    // Who was cut at 150000 went on from there.
    let asked = world.server.asked("GET", "model.safetensors");
    let resumed = asked.iter().filter(|s| s.headers.get("range").is_some_and(|r| r == "bytes=150000-"));
    assert!(resumed.count() >= 4, "{asked:?}");
}

/// Two checkpoints that come in pieces, the program killed at moments all over the download.
#[test]
fn a_download_killed_at_any_moment_is_completed_by_the_next_run() {
    const MOMENTS: u32 = 24;
    let steps = ["--steps", "0,2"];
    let slow = |world: &World| {
        world.server.fault("GET ", 99, Fault::Trickle(5000, Duration::from_millis(10)));
        let mut pull = world.pythia(&[&["pull", "14m"], &steps[..]].concat());
        pull.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (world, since) = (World::new(&[0, 2]), Instant::now());
    assert!(slow(&world).wait().unwrap().success());
    let whole = since.elapsed();
    let mut halves = 0;
    for moment in 0..MOMENTS {
        let world = World::new(&[0, 2]);
        let mut child = slow(&world);
        thread::sleep(whole * moment / MOMENTS);
        child.kill().unwrap();
        child.wait().unwrap();
        let left = if world.repo().exists() { tree(&world.repo()) } else { vec![] };
        halves += usize::from(left.iter().any(|file| file.ends_with(".incomplete")));
        // What is listed as on disk is whole.
        for step in world.on_disk() {
            assert_eq!(fs::read(world.blob(step)).unwrap(), weights(step), "{moment} of {MOMENTS}: {left:?}");
        }
        let again = World { server: HubServer::new(world.repos.path()), ..world };
        again.pull(&steps);
        assert_eq!(again.on_disk(), [0, 2], "{moment} of {MOMENTS}: {left:?}");
        for step in [0, 2] {
            assert_eq!(fs::read(again.blob(step)).unwrap(), weights(step), "{moment} of {MOMENTS}: {left:?}");
        }
        let files = tree(&again.repo());
        assert!(files.iter().all(|file| !file.ends_with(".incomplete")), "{files:?}");
    }
    println!("{halves} of {MOMENTS} were killed in the middle of a file, of {whole:?} in all");
    assert!(halves >= 3, "{halves}");
}

#[test]
fn a_killed_eviction_is_finished_by_the_next() {
    let world = World::new(&[0, 2, 4]);
    world.pull(&["--steps", "0"]);
    // Its weights are gone, its branch is not.
    fs::remove_file(world.blob(0)).unwrap();
    assert!(world.on_disk().is_empty());
    assert_eq!(world.pull(&["--steps", "2", "--keep", "1"])["evicted"], serde_json::json!(["step0"]));
    assert_eq!(fs::read_dir(world.repo().join("snapshots")).unwrap().count(), 1);
    // Or what it took is pulled again.
    fs::remove_file(world.blob(2)).unwrap();
    world.pull(&["--steps", "2"]);
    assert_eq!((world.on_disk(), fs::read(world.blob(2)).unwrap()), (vec![2], weights(2)));
}

#[test]
fn a_disk_without_the_room_is_told_before_anything_is_downloaded() {
    let world = World::new(&[0, 2]);
    world.pull(&["--steps", "0"]);
    let asked = world.server.asked("GET", "model.safetensors").len();
    world.server.fault("HEAD model.safetensors", 1, Fault::Header("X-Linked-Size", "9000000000000000000"));
    let message = error(&world.run(&["pull", "14m", "--steps", "2", "--keep", "1"]));
    if cfg!(unix) {
        assert!(message.contains("the download needs 9000000000.00 GB, and the disk of "), "{message}");
        assert!(message.contains(" free: ask for fewer steps"), "{message}");
        assert_eq!(world.server.asked("GET", "model.safetensors").len(), asked);
    }
    assert_eq!(world.on_disk(), [0], "nothing is evicted for it");
}

#[test]
fn wrong_names_and_steps_are_told_without_the_network() {
    let world = World::new(&[0]);
    for (args, says) in [
        (
            &["pull", "410m", "--steps", "3001"][..],
            "no checkpoint step3001: nearest are step3000 and step4000",
        ),
        (&["pull", "410m", "--revision", "step3"], "nearest are step2 and step4"),
        (&["pull", "71m"], "`71m` is not a model"),
        (&["pull", "."], ". is a folder"),
        (&["checkpoints", "gpt2"], "`gpt2` is not a model of the suite"),
        (&["models", "71m"], "`pythia-cli models` lists them"),
        (&["next", "x", "-m", "EleutherAI/pythia-70m", "--revision", "step6"], "nearest are step4 and step8"),
    ] {
        let message = error(&world.run(args));
        assert!(message.contains(says), "{args:?}: {message}");
    }
    assert!(world.server.seen().is_empty());
    command::usage(&["pull", "14m", "--steps", "0", "--revision", "main"], "cannot be used with");
    // A step of the suite that this repository lacks, and a network that is forbidden.
    let message = error(&world.run(&["pull", "14m", "--steps", "0,2"]));
    assert!(message.contains("EleutherAI/pythia-14m has no revision step2"), "{message}");
    let mut offline = world.pythia(&["pull", "14m", "--steps", "0"]);
    let message = error(&offline.env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert!(message.contains("offline") && message.contains("step0"), "{message}");
}

#[test]
fn old_names_lead_to_the_model_of_today_with_a_notice() {
    for args in [&["models", "350m-deduped"][..], &["checkpoints", "350m-deduped"]] {
        let output = World::empty().run(args);
        assert!(output.status.success() && text(&output.stdout).contains("EleutherAI/pythia-410m-deduped"));
        assert_eq!(text(&output.stderr), "350m-deduped is called EleutherAI/pythia-410m-deduped today\n");
    }
    let output = World::empty().run(&["next", "x", "-m", "19m", "--offline"]);
    let err = text(&output.stderr);
    assert!(err.starts_with("19m is called EleutherAI/pythia-70m today\nerror: offline"), "{err}");
}

#[test]
fn the_small_suite_is_pulled_listed_run_and_evicted() {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/mini-suite");
    if !suite.is_dir() {
        println!("notice: skipped, there is no {}", suite.display());
        return;
    }
    let steps = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000];
    let world = World::empty();
    for step in steps {
        let folder = world.folder(step);
        for file in ["config.json", "model.safetensors"] {
            fs::copy(suite.join(format!("step{step}")).join(file), folder.join(file)).unwrap();
        }
        fs::copy(suite.join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    }
    world.pull(&["--steps", "0..3000"]);
    assert_eq!(world.on_disk(), steps);
    let next = |step: u64| {
        let revision = format!("step{step}");
        let output =
            world.run(&["next", "Once", "-m", "14m", "--revision", &revision, "--offline", "--json"]);
        let warned = text(&output.stderr)
            .starts_with("warning: EleutherAI/pythia-14m at step0 may have the same weights");
        assert_eq!(warned, step == 0, "{}", text(&output.stderr));
        let top: Value = serde_json::from_slice(&output.stdout).unwrap();
        top["top"][0]["logprob"].as_f64().unwrap()
    };
    assert!(next(3000) > next(0), "what was trained knows better than what was not");
    world.pull(&["--steps", "3000", "--keep", "4"]);
    let left = world.on_disk();
    assert!(left.len() == 4 && left.contains(&3000), "{left:?}");
    next(3000);
}
