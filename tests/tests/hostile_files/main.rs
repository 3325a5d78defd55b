//! Files made by hand to do harm: each is refused by its own error, which names the file.

mod folders;
mod gguf;
mod json;
mod pytorch;
mod safetensors;

use pythia_model::{Model, Tokenizer};
use pythia_tests::{temporary, tiny};
use std::fs;
use std::path::Path;

/// A folder with a good `config.json` in which something is wrong.
#[derive(Clone)]
pub(crate) struct Case {
    /// The files that are written into it.
    files: Vec<(String, Vec<u8>)>,
    /// What else is done to it.
    then: fn(&Path),
    /// The file that the error names; the folder if it is empty.
    named: String,
    /// What the error says. No two cases have the same.
    says: String,
}

impl Case {
    /// The file `name` with these bytes.
    fn new(name: &str, bytes: impl Into<Vec<u8>>, says: &str) -> Self {
        Self { files: vec![(name.into(), bytes.into())], then: |_| (), named: name.into(), says: says.into() }
    }

    /// With one more file.
    fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.into(), bytes.into()));
        self
    }

    /// With something done to the folder once the files are written.
    fn then(self, then: fn(&Path)) -> Self {
        Self { then, ..self }
    }

    /// With another file named.
    fn naming(self, named: &str) -> Self {
        Self { named: named.into(), ..self }
    }

    /// The error with which the model and its tokenizer are refused.
    fn error(&self) -> (String, String) {
        let dir = temporary();
        fs::write(dir.path().join("config.json"), tiny::config_json().to_string()).unwrap();
        for (name, bytes) in &self.files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        (self.then)(dir.path());
        let opened = Model::open(dir.path()).and_then(|_| Tokenizer::of_model(dir.path()));
        let error = opened.expect_err(&self.says).to_string();
        let named = if self.named.is_empty() { dir.path().to_owned() } else { dir.path().join(&self.named) };
        (named.display().to_string(), error)
    }
}

/// Checks every case, and tells all that are wrong.
fn check(cases: &[Case]) {
    let mut wrong = vec![];
    for case in cases {
        let (path, error) = case.error();
        let named = error.starts_with(&format!("{path}: "));
        let short = error.len() < path.len() + 800 && !error.contains(char::is_control);
        if !named || !short || !error.contains(&case.says) {
            wrong.push(format!("expected {path}: ...{}...\n   found {error:?}", case.says));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn safetensors_files() {
    check(&safetensors::cases());
}

#[test]
fn pickles() {
    check(&pytorch::pickles());
}

#[test]
fn zip_archives() {
    check(&pytorch::archives());
}

#[test]
fn old_streams() {
    check(&pytorch::streams());
}

#[test]
fn gguf_files() {
    check(&gguf::cases());
}

#[test]
fn indices() {
    check(&json::indices());
}

#[test]
fn configs() {
    check(&json::configs());
}

#[test]
fn tokenizers() {
    check(&json::tokenizers());
}

#[test]
#[cfg(unix)]
fn folders_and_links() {
    check(&folders::cases());
}

/// How many there are, and that no error stands for two of them.
#[test]
fn every_file_has_an_error_of_its_own() {
    let mut cases = [safetensors::cases(), gguf::cases(), folders::cases()].concat();
    cases.extend([pytorch::pickles(), pytorch::archives(), pytorch::streams()].concat());
    cases.extend([json::indices(), json::configs(), json::tokenizers()].concat());
    let mut says: Vec<_> = cases.iter().map(|case| format!("{} {}", case.named, case.says)).collect();
    println!("{} hostile files", says.len());
    says.sort();
    let twice = says.windows(2).find(|pair| pair[0] == pair[1]);
    assert!(says.len() >= 60 && twice.is_none(), "{} cases, twice: {twice:?}", says.len());
}
