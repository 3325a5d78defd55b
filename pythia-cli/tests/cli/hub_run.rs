//! A model of the Hub, run by name: downloaded once, then from the cache.

use crate::command::{MINI, error, json, mini, pythia_at, run, stdout, text};
use crate::hub_server::HubServer;
use std::fs;
use std::process::{Command, Output};
use tempfile::TempDir;

const ID: &str = "EleutherAI/pythia-14m";

/// A Hub with one model at one step, and a home for its cache.
struct World {
    server: HubServer,
    home: TempDir,
    _repos: TempDir,
}

impl World {
    fn new() -> Self {
        let repos = TempDir::new().unwrap();
        let folder = repos.path().join(ID).join("step3000");
        fs::create_dir_all(&folder).unwrap();
        for file in MINI {
            fs::copy(mini().join(file), folder.join(file)).unwrap();
        }
        Self { server: HubServer::new(repos.path()), home: TempDir::new().unwrap(), _repos: repos }
    }

    fn pythia(&self, args: &[&str]) -> Command {
        pythia_at(&self.server.url, self.home.path(), args)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.pythia(args).output().unwrap()
    }
}

#[test]
fn a_model_is_downloaded_once_and_then_runs_offline() {
    let world = World::new();
    let args = ["run", "Once upon a time", "-n", "8", "--json", "-m", "14m", "--revision", "step3000"];
    let first = world.run(&args);
    assert!(first.status.success(), "{}", text(&first.stderr));
    // Progress is on stderr, and stdout has the object alone.
    let err = text(&first.stderr);
    assert!(err.starts_with("downloading model.safetensors: 3.7 MB\n"), "{err}");
    let embedded = stdout(&run(&args[..5]));
    assert_eq!(text(&first.stdout), embedded);
    let asked = world.server.seen().len();
    assert!(asked >= 4, "{asked}");

    let offline = [&args[..], &["--offline"]].concat();
    for again in [world.run(&args), world.run(&offline)] {
        assert_eq!(stdout(&again), embedded);
    }
    let by_variable = world.pythia(&args).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(json(&by_variable).len(), 1);
    assert_eq!(world.server.seen().len(), asked, "no request more");

    let message = error(&world.run(&["run", "x", "-m", "14m", "--revision", "step1000", "--offline"]));
    assert!(message.contains("step1000") && message.contains("without --offline"), "{message}");
}

#[test]
fn a_step_that_does_not_exist_gets_its_neighbours() {
    let message = error(&World::new().run(&["run", "x", "-m", ID, "--revision", "step7"]));
    assert!(message.contains("no checkpoint step7: nearest are step4 and step8"), "{message}");
}
