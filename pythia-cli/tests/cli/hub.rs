//! The Hub and its cache against a local server that speaks the Hub's API.

use crate::hub_server::world::{CONFIG, ID, Log, World, assert_says, error_of, nobody, tree, weights};
use crate::hub_server::{Fault, HubServer, Options, commit, etag};
use pythia_cli::hub::progress::Quiet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[test]
fn a_download_leaves_the_cache_as_huggingface_hub_does() {
    let world = World::usual();
    let server =
        HubServer::with(world.repos.path(), Options { cdn: true, relative: true, ..Options::default() });
    let log = Log::default();
    let folder = world.hub(&server).snapshot(ID, "main", &log).unwrap();
    let sha = commit(ID, "main");
    assert_eq!(folder, world.repo().join("snapshots").join(&sha));
    let files: [(&str, Vec<u8>); 3] = [
        ("config.json", CONFIG.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", weights()),
    ];
    let mut expected = vec!["refs/main".to_owned(), format!(".no_exist/{sha}/model.safetensors.index.json")];
    for (name, bytes) in &files {
        let etag = etag(name, bytes);
        assert_eq!(&fs::read(folder.join(name)).unwrap(), bytes);
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(folder.join(name)).unwrap(),
            Path::new("../../blobs").join(&etag),
            "a relative link"
        );
        expected.extend([format!("blobs/{etag}"), format!("snapshots/{sha}/{name}")]);
    }
    expected.sort();
    assert_eq!(tree(&world.repo()), expected);
    assert_eq!(fs::read_to_string(world.repo().join("refs/main")).unwrap(), sha, "no newline");
    let told = log.0.into_inner().unwrap();
    assert_eq!(told[told.len() - 2..], ["start model.safetensors 3000000 0", "finish"]);
    // Again, by either name: without the network.
    let hub = world.builder(&nobody()).build().unwrap();
    assert_eq!(hub.snapshot(ID, "main", &Quiet).unwrap(), folder);
    assert_eq!(hub.snapshot(ID, &sha, &Quiet).unwrap(), folder);
}

#[test]
fn blobs_are_shared_between_revisions() {
    let world = World::usual();
    world.put(ID, "step1000", &[("config.json", CONFIG), ("model.safetensors", &weights())]);
    let server = world.server();
    let hub = world.hub(&server);
    hub.snapshot(ID, "main", &Quiet).unwrap();
    let folder = hub.snapshot(ID, "step1000", &Quiet).unwrap();
    assert!(folder.ends_with(commit(ID, "step1000")));
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert_eq!(server.asked("GET", "/model.safetensors").len(), 1, "the same bytes came once");
    let asked = server.seen().len();
    assert_eq!(hub.snapshot(ID, "step1000", &Quiet).unwrap(), folder);
    assert_eq!(server.seen().len(), asked, "nor is the tokenizer that it lacks asked for again");
}

#[test]
fn a_python_cache_works_without_the_network() {
    let sha = "1111111111111111111111111111111111111111";
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let layouts: [&[(&str, &[u8])]; 2] = [
        &[("model.safetensors", b"w")],
        &[
            ("model.safetensors.index.json", index),
            ("model-1.safetensors", b"1"),
            ("model-2.safetensors", b"2"),
        ],
    ];
    for layout in layouts {
        let world = World::new(&[]);
        let files = [&[("config.json", CONFIG), ("tokenizer.json", b"{}" as &[u8])], layout].concat();
        let snapshot = world.python_cache("step3000", sha, &files);
        for offline in [false, true] {
            let hub = world.builder(&nobody()).offline(offline).build().unwrap();
            assert_eq!(hub.snapshot(ID, "step3000", &Quiet).unwrap(), snapshot);
            assert_eq!(hub.snapshot(ID, sha, &Quiet).unwrap(), snapshot);
        }
        let before = tree(world.cache.path());
        fs::remove_file(snapshot.join(layout.last().unwrap().0)).unwrap();
        let hub = world.builder(&nobody()).offline(true).build().unwrap();
        let error = error_of(hub.snapshot(ID, "step3000", &Quiet));
        assert_says(&error, &[layout.last().unwrap().0, "step3000", "without --offline"]);
        assert_eq!(tree(world.cache.path()).len(), before.len() - 1, "offline writes nothing");
    }
}

#[test]
fn a_cached_bin_checkpoint_is_returned() {
    let world = World::new(&[("config.json", CONFIG), ("pytorch_model.bin", b"PK")]);
    let sha = commit(ID, "main");
    let files: [(&str, &[u8]); 3] =
        [("config.json", CONFIG), ("tokenizer.json", b"{}"), ("pytorch_model.bin", b"PK")];
    let snapshot = world.python_cache("main", &sha, &files);
    let offline = world.builder(&nobody()).offline(true).build().unwrap();
    assert_eq!(offline.snapshot(ID, "main", &Quiet).unwrap(), snapshot);
    let unreachable = world.builder(&nobody()).build().unwrap();
    assert_eq!(unreachable.snapshot(ID, "main", &Quiet).unwrap(), snapshot);
    // The Hub is asked once whether it has safetensors of that commit.
    let server = world.server();
    for _ in 0..2 {
        assert_eq!(world.hub(&server).snapshot(ID, "main", &Quiet).unwrap(), snapshot);
    }
    assert_eq!(server.seen().len(), 1);
    assert!(server.seen()[0].path.ends_with(&sha));
}

#[test]
fn what_a_cached_snapshot_lacks_is_added_at_its_commit() {
    let world = World::usual();
    let sha = commit(ID, "main");
    let snapshot =
        world.python_cache("main", &sha, &[("config.json", CONFIG), ("model.safetensors", &weights())]);
    let log = Log::default();
    let unreachable = world.builder(&nobody()).build().unwrap();
    assert_eq!(unreachable.snapshot(ID, "main", &log).unwrap(), snapshot);
    assert_says(&log.0.lock().unwrap().join("\n"), &["taking EleutherAI/pythia-70m as it is in the cache"]);
    assert!(!snapshot.join("tokenizer.json").exists());
    let server = world.server();
    assert_eq!(world.hub(&server).snapshot(ID, "main", &Quiet).unwrap(), snapshot);
    assert_eq!(fs::read(snapshot.join("tokenizer.json")).unwrap(), b"{}");
    assert_eq!(server.asked("GET", "model.safetensors").len(), 0);
}

#[test]
fn offline_touches_no_network_and_says_what_is_missing() {
    let world = World::usual();
    let server = world.server();
    let hub = world.builder(&server.url).offline(true).build().unwrap();
    let error = error_of(hub.snapshot(ID, "step1000", &Quiet));
    let folder = world.repo();
    assert_says(&error, &["offline", "step1000", ID, folder.to_str().unwrap(), "without --offline", "-m"]);
    assert!(server.seen().is_empty());
    assert!(tree(world.cache.path()).is_empty());
}

#[test]
fn shards_are_fetched_by_their_index() {
    let index =
        br#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}"#;
    let files: [(&str, &[u8]); 4] = [
        ("config.json", CONFIG),
        ("model.safetensors.index.json", index),
        ("m-1.safetensors", b"one"),
        ("m-2.safetensors", b"two"),
    ];
    let world = World::new(&files);
    let server = HubServer::with_cdn(world.repos.path());
    let folder = world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
    assert_eq!(fs::read(folder.join("m-2.safetensors")).unwrap(), b"two");
    assert_eq!(server.asked("GET", "m-1.safetensors").iter().filter(|s| s.cdn).count(), 1);

    let lacking = World::new(&files[..3]);
    let error = error_of(lacking.hub(&lacking.server()).snapshot(ID, "main", &Quiet));
    assert_says(&error, &["m-2.safetensors", "which the repository lacks"]);
    assert!(!lacking.repo().join("refs").exists(), "no reference to half a snapshot");
    let mut files = files;
    files[1].1 = br#"{"weight_map": {"a": "../../../../x"}}"#;
    let hostile = World::new(&files);
    let error = error_of(hostile.hub(&hostile.server()).snapshot(ID, "main", &Quiet));
    assert_says(&error, &["could leave the cache"]);
}

#[test]
fn two_downloads_at_once_end_with_one_blob() {
    let world = World::usual();
    let server = world.server();
    server.fault("GET model.safetensors", 1, Fault::Slow(Duration::from_millis(250)));
    let folders: Vec<PathBuf> = std::thread::scope(|scope| {
        let run = || world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(folders.iter().all(|f| *f == folders[0]));
    assert_eq!(fs::read(folders[0].join("model.safetensors")).unwrap(), weights());
    assert_eq!(fs::read_dir(world.repo().join("blobs")).unwrap().count(), 3);
    assert_eq!(server.asked("GET", "model.safetensors").len(), 1, "who waits finds the blob");
    assert!(tree(world.cache.path()).iter().all(|f| !f.contains(".tmp") && !f.contains(".incomplete")));
}

#[test]
fn a_lock_of_another_process_is_waited_for() {
    let world = World::usual();
    let server = world.server();
    let locks = world.cache.path().join(".locks/models--EleutherAI--pythia-70m");
    fs::create_dir_all(&locks).unwrap();
    // Where huggingface_hub locks too.
    let name = format!("{}.lock", etag("model.safetensors", &weights()));
    let lock = fs::File::create(locks.join(name)).unwrap();
    lock.lock().unwrap();
    let log = Log::default();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| world.hub(&server).snapshot(ID, "main", &log).unwrap());
        let waits = || log.0.lock().unwrap().iter().any(|l| l.contains("another process is downloading"));
        while !waits() {
            assert!(!run.is_finished(), "it did not wait");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(server.asked("GET", "model.safetensors").is_empty());
        lock.unlock().unwrap();
    });
    assert_eq!(fs::read(world.blob()).unwrap(), weights());
}

#[test]
fn the_token_goes_to_the_hub_only() {
    let world = World::usual();
    let token = Some("hf_secret".to_owned());
    let options = Options { cdn: true, token, ..Options::default() };
    let server = HubServer::with(world.repos.path(), options);
    let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
    assert_says(&error, &[ID, "401", "private or gated", "set HF_TOKEN"]);
    let wrong = world.builder(&server.url).token("hf_wrong").build().unwrap();
    let error = error_of(wrong.snapshot(ID, "main", &Quiet));
    assert!(error.contains("the token given has no access") && !error.contains("hf_wrong"), "{error}");
    let right = world.builder(&server.url).token("hf_secret").build().unwrap();
    right.snapshot(ID, "main", &Quiet).unwrap();
    let (cdn, hub): (Vec<_>, Vec<_>) = server.seen().into_iter().partition(|s| s.cdn);
    assert_eq!(hub.last().unwrap().headers["authorization"], "Bearer hf_secret");
    assert_eq!(cdn.len(), 1);
    assert!(cdn[0].headers.values().all(|v| !v.contains("hf_secret")));
}

#[test]
fn a_proxy_is_used() {
    let world = World::usual();
    let server = world.server();
    let proxied = world.builder("http://hub.invalid").proxy(&server.url).unwrap().build().unwrap();
    let folder = proxied.snapshot(ID, "main", &Quiet).unwrap();
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), CONFIG);
    let tunnels = server.asked("CONNECT", "hub.invalid:80");
    assert!(!tunnels.is_empty());
    assert!(server.seen().iter().all(|s| s.method == "CONNECT" || s.headers["host"] == "hub.invalid"));
    assert!(world.builder("http://hub.invalid").proxy("not a url").is_err());
}

#[test]
fn a_moved_repository_is_followed() {
    let world = World::usual();
    let moved = Some(("EleutherAI/pythia-19m".to_owned(), ID.to_owned()));
    let server = HubServer::with(world.repos.path(), Options { moved, cdn: true, ..Options::default() });
    let folder = world.hub(&server).snapshot("EleutherAI/pythia-19m", "main", &Quiet).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert!(folder.starts_with(world.cache.path().join("models--EleutherAI--pythia-19m")));
}

#[test]
fn names_and_revisions_that_are_not_there_get_advice() {
    let world = World::usual();
    let server = world.server();
    let hub = world.hub(&server);
    let error = error_of(hub.snapshot("EleutherAI/pythia-71m", "main", &Quiet));
    assert_says(&error, &["no model EleutherAI/pythia-71m", "check the spelling"]);
    let error = error_of(hub.snapshot(ID, "step1500", &Quiet));
    assert_says(&error, &["no revision step1500", "pythia-cli checkpoints"]);
    let error = error_of(hub.snapshot(ID, "mian", &Quiet));
    assert_says(&error, &["no revision mian", "a branch"]);
    let asked = server.seen().len();
    for (id, revision) in [("../x", "main"), ("a/b/c", "main"), (ID, "../../x"), (ID, "/x")] {
        error_of(hub.snapshot(id, revision, &Quiet));
    }
    assert_eq!(server.seen().len(), asked, "malformed names never leave this machine");
    assert!(tree(world.cache.path()).is_empty());
}

#[test]
fn bin_checkpoints_are_downloaded_where_there_are_no_safetensors() {
    let world =
        World::new(&[("config.json", CONFIG), ("tokenizer.json", b"{}"), ("pytorch_model.bin", b"PK")]);
    let index =
        br#"{"weight_map":{"a":"pytorch_model-00001-of-00002.bin","b":"pytorch_model-00002-of-00002.bin"}}"#;
    let sharded: [(&str, &[u8]); 4] = [
        ("config.json", CONFIG),
        ("pytorch_model.bin.index.json", index),
        ("pytorch_model-00001-of-00002.bin", b"1"),
        ("pytorch_model-00002-of-00002.bin", b"2"),
    ];
    world.put(ID, "step9000", &sharded);
    let server = world.server();
    let (single, shards) = (
        world.hub(&server).snapshot(ID, "main", &Quiet).unwrap(),
        world.hub(&server).snapshot(ID, "step9000", &Quiet).unwrap(),
    );
    assert_eq!(fs::read(single.join("pytorch_model.bin")).unwrap(), b"PK");
    for (name, content) in sharded {
        assert_eq!(fs::read(shards.join(name)).unwrap(), content);
    }
    // What is whole in the cache is not asked for again, and needs no network.
    let asked = server.seen().len();
    assert_eq!(world.hub(&server).snapshot(ID, "main", &Quiet).unwrap(), single);
    assert_eq!(server.seen().len(), asked);
    let offline = world.builder(&nobody()).offline(true).build().unwrap();
    assert_eq!(offline.snapshot(ID, "step9000", &Quiet).unwrap(), shards);
}

#[test]
fn repositories_without_weights_are_refused_by_name() {
    let world = World::new(&[("README.md", b"x")]);
    world.put(ID, "step111000", &[("config.json", CONFIG), ("pytorch_model-00001-of-00002.bin", b"1")]);
    let server = world.server();
    for (revision, says) in
        [("step111000", &["has no weights", "another revision"][..]), ("main", &["no config.json"])]
    {
        let error = error_of(world.hub(&server).snapshot(ID, revision, &Quiet));
        assert_says(&error, says);
        assert_says(&error, &[ID, revision]);
    }
    assert!(server.seen().iter().all(|s| s.path.starts_with("/api/")), "nothing was downloaded");
}
