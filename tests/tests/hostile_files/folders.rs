//! What is no file at all.

use super::Case;
use pythia_tests::tiny;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

const WEIGHTS: &str = "model.safetensors";

/// A folder without weights to which something is done.
fn folder(then: fn(&Path), named: &str, says: &str) -> Case {
    Case::new("README.md", "", says).naming(named).then(then)
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

fn replace(path: &Path, with: fn(&Path)) {
    fs::remove_file(path).expect("a file to replace");
    with(path);
}

pub(crate) fn cases() -> Vec<Case> {
    let weights = tiny::safetensors(&tiny::tensors(&tiny::config()));
    let gguf = tiny::gguf(&tiny::config_json(), None);
    vec![
        folder(|_| (), "", "no weights in this folder: expected model.safetensors or pytorch_model.bin"),
        folder(|dir| pipe(&dir.join(WEIGHTS)), WEIGHTS, "expected a regular file, found a device or a pipe"),
        folder(
            |dir| fs::create_dir(dir.join(WEIGHTS)).unwrap(),
            WEIGHTS,
            "expected a regular file, found a folder",
        ),
        folder(
            |dir| symlink("/dev/zero", dir.join("pytorch_model.bin")).unwrap(),
            "pytorch_model.bin",
            "found a device",
        ),
        folder(
            |dir| symlink(WEIGHTS, dir.join(WEIGHTS)).unwrap(),
            WEIGHTS,
            "Too many levels of symbolic links",
        ),
        folder(|dir| symlink("absent", dir.join(WEIGHTS)).unwrap(), WEIGHTS, "No such file or directory"),
        folder(
            |dir| pipe(&dir.join("model.safetensors.index.json")),
            "model.safetensors.index.json",
            "a device or a pipe",
        ),
        folder(
            |dir| replace(&dir.join("config.json"), pipe),
            "config.json",
            "expected a regular file, found a device",
        ),
        folder(
            |dir| replace(&dir.join("config.json"), |path| fs::create_dir(path).unwrap()),
            "config.json",
            "found a folder",
        ),
        folder(
            |dir| replace(&dir.join("config.json"), |path| symlink("/dev/zero", path).unwrap()),
            "config.json",
            "or a pipe",
        ),
        folder(|dir| fs::remove_file(dir.join("config.json")).unwrap(), "config.json", "No such file"),
        Case::new("tokenizer.json", "", "expected a regular file, found a folder")
            .with(WEIGHTS, weights)
            .then(|dir| {
                replace(&dir.join("tokenizer.json"), |path| fs::create_dir(path).unwrap());
            }),
        Case::new("a.gguf", gguf.clone(), "there are 2 GGUF files: name one, such as")
            .with("b.gguf", gguf)
            .naming(""),
    ]
}
