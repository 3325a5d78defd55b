//! What a test of the Hub starts from: repositories to serve, an empty cache, and ways to look at what happened.

use super::{HubServer, etag};
use pythia_cli::hub::{Builder, Hub, Progress};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;

/// The repository of most tests.
pub(crate) const ID: &str = "EleutherAI/pythia-70m";
/// What stands for a config.
pub(crate) const CONFIG: &[u8] = br#"{"model_type": "gpt_neox"}"#;

/// What stands for weights: large enough that a try which brings most of it counts as progress.
pub(crate) fn weights() -> Vec<u8> {
    (0..3_000_000_u32).flat_map(|i| [(i ^ (i >> 7)) as u8]).collect()
}

/// A folder of repositories for the server, and an empty cache.
pub(crate) struct World {
    pub(crate) repos: TempDir,
    pub(crate) cache: TempDir,
}

impl World {
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        let world = Self { repos: TempDir::new().unwrap(), cache: TempDir::new().unwrap() };
        world.put(ID, "main", files);
        world
    }

    pub(crate) fn usual() -> Self {
        Self::new(&[
            ("README.md", b"# Pythia"),
            ("config.json", CONFIG),
            ("tokenizer.json", b"{}"),
            ("model.safetensors", &weights()),
            ("pytorch_model.bin", b"PK"),
        ])
    }

    pub(crate) fn put(&self, id: &str, revision: &str, files: &[(&str, &[u8])]) {
        let folder = self.repos.path().join(id).join(revision);
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }

    pub(crate) fn server(&self) -> HubServer {
        HubServer::new(self.repos.path())
    }

    pub(crate) fn builder(&self, endpoint: &str) -> Builder {
        Builder::new(self.cache.path())
            .endpoint(endpoint)
            .patience(Duration::from_millis(400), Duration::from_millis(1))
    }

    pub(crate) fn hub(&self, server: &HubServer) -> Hub {
        self.builder(&server.url).build().unwrap()
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.cache.path().join("models--EleutherAI--pythia-70m")
    }

    pub(crate) fn blob(&self) -> PathBuf {
        self.repo().join("blobs").join(etag("model.safetensors", &weights()))
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.blob().with_extension("incomplete")
    }

    /// Lays a snapshot out as `huggingface_hub` does, with plain files for blobs.
    pub(crate) fn python_cache(&self, revision: &str, commit: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let snapshot = self.repo().join("snapshots").join(commit);
        for folder in [&snapshot, &self.repo().join("blobs"), &self.repo().join("refs")] {
            fs::create_dir_all(folder).unwrap();
        }
        for (name, bytes) in files {
            let etag = etag(name, bytes);
            fs::write(self.repo().join("blobs").join(&etag), bytes).unwrap();
            #[cfg(unix)]
            std::os::unix::fs::symlink(format!("../../blobs/{etag}"), snapshot.join(name)).unwrap();
            #[cfg(not(unix))]
            fs::write(snapshot.join(name), bytes).unwrap();
        }
        fs::write(self.repo().join("refs").join(revision), commit).unwrap();
        snapshot
    }
}

/// An address where nobody listens.
pub(crate) fn nobody() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

/// The error's one line.
pub(crate) fn error_of<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    let text = format!("{:#}", result.unwrap_err());
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[track_caller]
pub(crate) fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

/// Every file and link below a folder, relative to it, sorted.
pub(crate) fn tree(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Log(pub Mutex<Vec<String>>);

impl Progress for Log {
    fn start(&self, file: &str, total: u64, done: u64) {
        self.note(&format!("start {file} {total} {done}"));
    }
    fn advance(&self, _done: u64) {}
    fn finish(&self) {
        self.note("finish");
    }
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}
