//! The program as a child process, cut off from the user's settings.

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The embedded model's files.
pub(crate) const MINI: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];

/// `pythia-cli`, with a home that does not exist, no terminal and the Hub out of reach.
pub(crate) fn pythia() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pythia-cli"));
    let settings = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy().to_ascii_uppercase();
        ["HF_", "XDG_", "PYTHIA_"].iter().any(|start| name.starts_with(start)) || name.ends_with("_PROXY")
    });
    settings.for_each(|(name, _)| {
        command.env_remove(name);
    });
    command.env("HOME", "/nonexistent").env("HF_ENDPOINT", "http://127.0.0.1:9").stdin(Stdio::null());
    command
}

/// The same, with a Hub at `url` and the caches in `home`.
pub(crate) fn pythia_at(url: &str, home: &Path, args: &[&str]) -> Command {
    let mut command = pythia();
    command.env("HF_ENDPOINT", url).env("HF_HOME", home).env("XDG_CACHE_HOME", home.join("cache")).args(args);
    command
}

/// The program with these arguments.
pub(crate) fn run(args: &[&str]) -> Output {
    pythia().args(args).output().unwrap()
}

/// The same, with `input` on stdin.
pub(crate) fn run_with(args: &[&str], input: &[u8]) -> Output {
    let piped = Stdio::piped;
    let child = pythia().args(args).stdin(piped()).stdout(piped()).stderr(piped()).spawn();
    let mut child = child.unwrap();
    // Who refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// stdout of a run that went well, and told nothing on stderr.
#[track_caller]
pub(crate) fn stdout(output: &Output) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{:?}\n{out}\n{err}", output.status);
    out
}

/// The JSON objects on stdout, a line each.
#[track_caller]
pub(crate) fn json(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The one line of a run that failed, which printed nothing else.
#[track_caller]
pub(crate) fn error(output: &Output) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), out.as_str()), (Some(1), ""), "{err}");
    let line = err.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{err}");
    line.strip_prefix("error: ").unwrap_or_else(|| panic!("{err}")).to_owned()
}

/// Checks that a command line is refused as such, with a message that has `part`.
#[track_caller]
pub(crate) fn usage(args: &[&str], part: &str) {
    let output = run(args);
    let err = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {err}");
    assert!(err.contains(part), "{args:?}: {err}");
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The folder with the embedded model's files.
pub(crate) fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/mini")
}

/// A folder with some of the embedded model's files.
pub(crate) fn folder(files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(mini().join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// `-m` for a folder.
pub(crate) fn path(folder: &TempDir) -> &str {
    folder.path().to_str().unwrap()
}
