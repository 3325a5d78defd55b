//! `--precision int8` and `int4`: where their weights are kept, what is told, and what goes wrong.

use crate::command::{self, error, folder, json, path, pythia, text, usage};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const TALE: &str = "Once upon a time there was a king who had three sons.";

/// The program with a cache of its own.
struct World(TempDir);

impl World {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = pythia();
        command.args(args).env("XDG_CACHE_HOME", self.0.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The object of a run that went well, and what it told on stderr.
    #[track_caller]
    fn object(&self, args: &[&str]) -> (Value, String) {
        let output = self.run(&[args, &["--json"]].concat());
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{err}");
        (serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}")), err)
    }

    /// The files of quantised weights.
    fn files(&self) -> Vec<PathBuf> {
        let entries = self.0.path().join("pythia-cli/quantized").read_dir();
        let mut files: Vec<_> = entries.into_iter().flatten().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }
}

fn sum(object: &Value) -> f64 {
    object["sum"].as_f64().unwrap()
}

#[test]
fn the_first_use_quantises_and_the_next_finds_it() {
    let world = World::new();
    let (exact, _) = world.object(&["score", TALE]);
    assert!(world.files().is_empty());
    let mut sums = vec![sum(&exact)];
    for precision in ["int8", "int4"] {
        let args = ["score", TALE, "--precision", precision];
        let (first, told) = world.object(&args);
        assert_eq!(told, "");
        assert_eq!(world.object(&args), (first.clone(), String::new()));
        let difference = (sum(&first) - sum(&exact)).abs() / first["ids"].as_array().unwrap().len() as f64;
        assert!(difference < 0.3 && !sums.contains(&sum(&first)), "{precision}: {difference}");
        sums.push(sum(&first));
    }
    let names: Vec<_> = world.files().iter().map(|f| f.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["embedded.int4", "embedded.int8"]);
    for command in [&["run", "Once", "-n", "3"][..], &["next", "Once"]] {
        let (object, told) = world.object(&[command, &["--precision", "int8"]].concat());
        assert!(object.is_object() && told.is_empty(), "{told}");
    }
}

#[test]
fn quantize_tells_where_the_file_is() {
    let (world, model) = (World::new(), folder(&command::MINI));
    let args = ["quantize", "-m", path(&model), "--precision", "int8"];
    let (report, told) = world.object(&args);
    let keys: Vec<_> = report.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["path", "precision", "bytes", "written", "seconds"]);
    let file = PathBuf::from(report["path"].as_str().unwrap());
    assert_eq!((world.files(), told.as_str()), (vec![file.clone()], ""));
    assert_eq!(report["bytes"].as_u64().unwrap(), fs::metadata(&file).unwrap().len());
    assert_eq!((&report["precision"], &report["written"]), (&Value::from("int8"), &Value::from(true)));
    // Half of f16, and the name of the folder.
    let stored = fs::metadata(model.path().join("model.safetensors")).unwrap().len();
    let share = report["bytes"].as_f64().unwrap() / stored as f64;
    assert!((0.3..0.6).contains(&share), "{share}");
    let folder = model.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(&folder) && file.extension().unwrap() == "int8", "{name}");

    for (more, how) in [(&[][..], ".int8: int8, "), (&["--verify"], "there already, every byte checked in ")]
    {
        let said = text(&world.run(&[&args[..], more].concat()).stdout);
        assert!(said.starts_with(file.to_str().unwrap()) && said.contains(how), "{said}");
    }
    // Without a file the folder's place in the cache is used by `run`, too.
    let (_, told) = world.object(&["score", TALE, "-m", path(&model), "--precision", "int8"]);
    assert_eq!((world.files().len(), told.as_str()), (1, ""));
    let message = error(&world.run(&["quantize", "-m", path(&model)]));
    assert!(
        message.contains("--precision exact has no quantised weights: ask for int8 or int4"),
        "{message}"
    );
}

#[test]
fn damaged_and_stale_files_are_reported_and_made_again() {
    let (world, model) = (World::new(), folder(&command::MINI));
    let args = ["score", TALE, "-m", path(&model), "--precision", "int8"];
    let (want, _) = world.object(&args);
    let file = world.files().remove(0);
    let reported = |message: &str| {
        let (got, told) = world.object(&args);
        assert_eq!(got, want);
        assert!(told.starts_with(&format!("warning: {}: ", file.display())), "{told}");
        assert!(told.contains(message) && told.ends_with("; the weights were quantised again\n"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert_eq!(world.object(&args), (want.clone(), String::new()));
        assert_eq!(world.files(), std::slice::from_ref(&file));
    };
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    reported("cut short");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    fs::write(&file, &flipped).unwrap();
    reported("the quantised weights are damaged");
    fs::write(&file, b"hello").unwrap();
    reported("cut short");
    let weights = model.path().join("model.safetensors");
    fs::write(&weights, fs::read(&weights).unwrap()).unwrap();
    reported("made from other weights");
    let mut flipped = fs::read(&file).unwrap();
    flipped[bytes.len() / 2] ^= 4;
    fs::write(&file, &flipped).unwrap();
    let output = world.run(&["quantize", "-m", path(&model), "--precision", "int8", "--verify"]);
    assert!(text(&output.stderr).contains("damaged") && text(&output.stdout).contains("written and checked"));
}

/// A file in place of the folder: nothing can be written there.
#[test]
fn without_a_place_the_weights_are_in_memory() {
    let world = World::new();
    let args = ["score", TALE, "--precision", "int4"];
    let (want, _) = world.object(&args);
    fs::remove_dir_all(world.0.path().join("pythia-cli")).unwrap();
    fs::write(world.0.path().join("pythia-cli"), b"x").unwrap();
    let (got, told) = world.object(&args);
    assert_eq!(got, want);
    assert!(told.starts_with("warning: ") && told.contains("in memory only"), "{told}");
    assert!(told.lines().count() <= 2, "{told}");
    let message = error(&world.run(&["quantize", "--precision", "int4"]).without_warnings());
    assert!(message.contains("the quantised weights cannot be kept"), "{message}");
}

trait WithoutWarnings {
    fn without_warnings(self) -> Self;
}

impl WithoutWarnings for Output {
    fn without_warnings(mut self) -> Self {
        let err = text(&self.stderr);
        let rest: Vec<_> = err.lines().filter(|line| !line.starts_with("warning: ")).collect();
        self.stderr = (rest.join("\n") + "\n").into_bytes();
        self
    }
}

/// A limit on the length of files stands for a disk that becomes full in the middle.
#[test]
#[cfg(unix)]
fn a_disk_that_becomes_full_leaves_nothing_and_is_no_error() {
    let world = World::new();
    let args = ["score", TALE, "--precision", "int8", "--json"];
    let want = json(&world.run(&args)).remove(0);
    fs::remove_dir_all(world.0.path().join("pythia-cli")).unwrap();
    let mut shell = Command::new("sh");
    // In blocks of 512 or 1024 bytes; the file has 1.7 MB.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 500; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_pythia-cli")]);
    let output = shell.args(args).env("XDG_CACHE_HOME", world.0.path()).output().unwrap();
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), want);
    assert!(told.starts_with("warning: ") && told.contains("embedded.int8: "), "{told}");
    assert!(
        told.ends_with("the quantised weights are in memory only, and will be made again next time\n"),
        "{told}"
    );
    assert_eq!((told.lines().count(), world.files().len()), (1, 0), "{told}");
}

#[test]
fn two_at_once_leave_one_good_file() {
    let world = World::new();
    let args = ["score", TALE, "--precision", "int8", "--json"];
    let start = || world.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let both = [start(), start()].map(|child| child.wait_with_output().unwrap());
    let [a, b] = both.map(|output| json(&output));
    assert_eq!((&a, world.files().len()), (&b, 1));
    assert_eq!(json(&world.run(&args)), a);
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_no_half_of_a_file() {
    let world = World::new();
    let output = world.run(&["synth", "70m", world.0.path().join("model").to_str().unwrap()]);
    assert!(output.status.success());
    let model = world.0.path().join("model");
    let args = ["quantize", "-m", model.to_str().unwrap(), "--precision", "int4"];
    let child = world.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let since = Instant::now();
    while world.files().is_empty() {
        assert!(since.elapsed() < Duration::from_secs(10), "nothing is written");
        thread::sleep(Duration::from_millis(1));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(130), String::new()));
    assert!(world.files().is_empty());
}

#[test]
fn what_cannot_run_is_told_with_what_can() {
    let output = pythia().args(["run", "x", "--precision", "bf16"]).env("PYTHIA_ISA", "portable").output();
    let message = error(&output.unwrap());
    assert!(message.contains("needs the instruction set avx512bf16, found portable"), "{message}");
    assert!(message.contains("what can run here: exact, int8, int4"), "{message}");
    usage(&["run", "x", "--precision", "f64"], "unknown precision `f64`; known: exact, bf16, int8, int4");
}
