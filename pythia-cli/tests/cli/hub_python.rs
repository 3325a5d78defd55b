//! Against Python's `huggingface_hub`, the reference for the cache: the same downloads leave the same cache, and each finds what
//! the other downloaded. With the Python that `PYTHIA_PYTHON` names, if it has the package.

use crate::command::{pythia_at, text};
use crate::hub_server::world::tree;
use crate::hub_server::{HubServer, Options};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const ID: &str = "EleutherAI/pythia-14m";
/// A commit's files in one, or in shards.
const REVISIONS: [&str; 3] = ["main", "step4", "step8"];

/// Downloads the revisions, and asks for a file that is not there, as transformers does.
const DOWNLOAD: &str = r#"
import sys
from huggingface_hub import hf_hub_download, snapshot_download
try:
    from huggingface_hub.errors import EntryNotFoundError
except ImportError:
    from huggingface_hub.utils import EntryNotFoundError
id, *revisions = sys.argv[1:]
for revision in revisions:
    snapshot_download(id, revision=revision, allow_patterns=["*.json", "*.safetensors"])
    for absent in "model.safetensors", "model.safetensors.index.json", "tokenizer.json":
        try:
            hf_hub_download(id, absent, revision=revision)
        except EntryNotFoundError:
            pass
"#;

/// Tells what it finds without the network: the folder, the files in it, those known to be absent; and what it thinks of the
/// cache as a whole.
const FIND: &str = r#"
import json, os, sys
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
id, *revisions = sys.argv[1:]
for revision in revisions:
    folder = snapshot_download(id, revision=revision, allow_patterns=["*.json", "*.safetensors"])
    files = sorted(os.listdir(folder))
    for file in files:
        assert hf_hub_download(id, file, revision=revision) == os.path.join(folder, file), file
    absent = [file for file in ("model.safetensors", "model.safetensors.index.json", "tokenizer.json")
              if try_to_load_from_cache(id, file, revision=revision) is _CACHED_NO_EXIST]
    print(json.dumps({"folder": folder, "files": files, "absent": absent}))
scan = scan_cache_dir()
repo, = scan.repos
print(json.dumps({"warnings": [str(w) for w in scan.warnings], "bytes": repo.size_on_disk, "refs": sorted(repo.refs)}))
"#;

/// A Python with `huggingface_hub`, or None with a printed notice.
fn python() -> Option<OsString> {
    let Some(python) = std::env::var_os("PYTHIA_PYTHON") else {
        println!("notice: skipped, PYTHIA_PYTHON does not name a Python with huggingface_hub");
        return None;
    };
    let version = "import huggingface_hub; print('huggingface_hub', huggingface_hub.__version__)";
    let output = Command::new(&python).args(["-c", version]).output();
    let output = output.unwrap_or_else(|e| panic!("PYTHIA_PYTHON={}: {e}", python.display()));
    if output.status.success() {
        print!("{}", text(&output.stdout));
        return Some(python);
    }
    println!("notice: skipped, the Python of PYTHIA_PYTHON lacks huggingface_hub");
    None
}

/// Repositories of three revisions: some files shared, one in shards, one without a tokenizer.
fn repositories() -> TempDir {
    let repos = TempDir::new().unwrap();
    let put = |revision: &str, files: &[(&str, &str)]| {
        let folder = repos.path().join(ID).join(revision);
        fs::create_dir_all(&folder).unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    };
    let config = ("config.json", r#"{"model_type": "gpt_neox"}"#);
    let tokenizer = ("tokenizer.json", "{}");
    put("main", &[config, tokenizer, ("model.safetensors", "eight"), ("README.md", "not for a machine")]);
    put("step4", &[config, tokenizer, ("tokenizer_config.json", "[]"), ("model.safetensors", "four")]);
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let shards = [("model-1.safetensors", "first"), ("model-2.safetensors", "second")];
    put("step8", &[&[config, ("model.safetensors.index.json", index)], &shards[..]].concat());
    repos
}

/// A cache and what it is filled from.
struct Side<'s> {
    server: &'s HubServer,
    home: TempDir,
}

impl Side<'_> {
    fn python(&self, python: &OsString, script: &str, offline: bool) -> Vec<Value> {
        let mut command = Command::new(python);
        for (name, _) in std::env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy().to_ascii_uppercase();
            name.starts_with("HF_") || name.ends_with("_PROXY")
        }) {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.server.url).env("HF_HOME", self.home.path());
        command
            .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
            .env("HF_HUB_DISABLE_PROGRESS_BARS", "1");
        let output = command.args(["-c", script, ID]).args(REVISIONS).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn pythia(&self, args: &[&str], offline: bool) -> Vec<Value> {
        let mut command = pythia_at(&self.server.url, self.home.path(), args);
        let output = command.env("HF_HUB_OFFLINE", if offline { "1" } else { "0" }).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Brings all revisions, or finds them; their folders.
    fn pull(&self, offline: bool) -> Vec<String> {
        let folder = |revision: &str| {
            let pulled = self.pythia(&["pull", ID, "--revision", revision, "--json"], offline);
            let path = pulled[0]["snapshots"][0]["path"].as_str().unwrap();
            path.strip_prefix(self.home.path().to_str().unwrap()).unwrap().to_owned()
        };
        REVISIONS.map(folder).to_vec()
    }

    /// Every file of the cache with its content, or where it leads; without the locks and what Python
    /// remembers of the Hub's listings since its version 2.
    fn files(&self) -> BTreeMap<String, String> {
        let hub = self.home.path().join("hub");
        let read = |file: &String| match fs::read_link(hub.join(file)) {
            Ok(target) => target.to_str().unwrap().to_owned(),
            Err(_) => fs::read_to_string(hub.join(file)).unwrap(),
        };
        let files = tree(&hub).into_iter();
        let own = |file: &String| {
            !file.starts_with(".locks/") && !file.contains("/trees/") && file != "CACHEDIR.TAG"
        };
        files.filter(own).map(|file| (file.clone(), read(&file))).collect()
    }
}

fn gets(server: &HubServer) -> usize {
    server.seen().iter().filter(|seen| seen.method == "GET" && !seen.path.starts_with("/api/")).count()
}

#[test]
fn python_and_this_program_share_a_cache() {
    let Some(python) = python() else { return };
    let repos = repositories();
    let server = HubServer::with(repos.path(), Options { cdn: true, relative: true, ..Options::default() });
    let [theirs, ours] = [(); 2].map(|()| Side { server: &server, home: TempDir::new().unwrap() });
    theirs.python(&python, DOWNLOAD, false);
    let folders = ours.pull(false);
    let files = ours.files();
    assert_eq!(files, theirs.files());
    let of = |part: &str| files.keys().filter(|file| file.contains(part)).count();
    assert_eq!(
        (of("/refs/"), of("/snapshots/"), of("/blobs/"), of("/.no_exist/")),
        (3, 11, 8, 4),
        "{files:#?}"
    );
    let locks = |side: &Side<'_>| {
        let tree = tree(&side.home.path().join("hub")).into_iter();
        tree.filter(|file| file.starts_with(".locks/")).collect::<Vec<_>>()
    };
    // Both lock the same files, or they would write at once.
    assert_eq!((locks(&ours), locks(&ours).len()), (locks(&theirs), 8));

    // Each finds all in the other's cache, without the network and with it.
    let asked = server.seen().len();
    assert_eq!(theirs.pull(true), folders);
    let [their_scan, our_scan] = [&theirs, &ours].map(|side| {
        let mut found = side.python(&python, FIND, true);
        let scan = found.pop().unwrap();
        for (found, folder) in found.iter().zip(&folders) {
            assert_eq!(found["folder"], format!("{}{folder}", side.home.path().display()));
            let absent = if found["files"].as_array().unwrap().len() == 4 && folder == &folders[2] {
                vec!["model.safetensors", "tokenizer.json"]
            } else {
                vec!["model.safetensors.index.json"]
            };
            assert_eq!(found["absent"], serde_json::json!(absent));
        }
        scan
    });
    assert_eq!(our_scan, their_scan);
    assert_eq!(
        (&our_scan["warnings"], &our_scan["refs"]),
        (&serde_json::json!([]), &serde_json::json!(REVISIONS))
    );
    assert_eq!(server.seen().len(), asked, "offline asks nobody");
    let sent = gets(&server);
    ours.python(&python, DOWNLOAD, false);
    theirs.pull(false);
    assert_eq!(gets(&server), sent, "nothing is downloaded twice");

    // What Python downloaded is whole, by its own checksums and by the Hub's.
    let told = theirs.pythia(&["verify", ID, "--json"], false);
    let damage = told.iter().filter(|line| line["damage"] == true);
    assert_eq!((damage.count(), told.iter().filter(|line| line.get("files").is_some()).count()), (0, 3));
    let files = told.iter().filter_map(|line| line["files"].as_array()).flatten();
    assert!(files.clone().count() == 11 && files.clone().all(|file| file["checksum"] == file["expected"]));
    check_interrupted(&python, &server);
}

/// What one was cut off in, the other finishes.
fn check_interrupted(python: &OsString, server: &HubServer) {
    let side = Side { server, home: TempDir::new().unwrap() };
    side.python(python, DOWNLOAD, false);
    let blobs = side.home.path().join("hub/models--EleutherAI--pythia-14m/blobs");
    let blob = |content: &str| -> std::path::PathBuf {
        let entries = fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| fs::read_to_string(path).unwrap() == content).unwrap()
    };
    let gone: [&Path; 2] = [&blob("four"), &blob("second")];
    gone.iter().for_each(|blob| fs::remove_file(blob).unwrap());
    side.pull(false);
    assert!(gone.iter().all(|blob| blob.is_file()));
    gone.iter().for_each(|blob| fs::remove_file(blob).unwrap());
    side.python(python, DOWNLOAD, false);
    assert!(gone.iter().all(|blob| blob.is_file()));
}
