//! The Hub against a local server that misbehaves: cut, silent, wrong, hostile.

use crate::hub_server::world::{ID, Log, World, assert_says, error_of, nobody, tree, weights};
use crate::hub_server::{Fault, HubServer, commit};
use pythia_cli::hub::progress::Quiet;
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn a_cut_connection_resumes_where_it_stopped() {
    let world = World::usual();
    let server = HubServer::with_cdn(world.repos.path());
    // Two megabytes are progress: seven cuts in all, yet never five tries without any.
    for (times, n) in [(4, 1000), (1, 2_000_000), (2, 10)] {
        server.fault("GET /cdn/", times, Fault::Cut(n));
    }
    let folder = world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let parts: Vec<_> =
        server.asked("GET", "model.safetensors").into_iter().filter(|s| s.cdn && s.sent > 0).collect();
    assert_eq!(parts.iter().map(|s| s.sent).sum::<usize>(), weights().len(), "no byte came twice");
    let mut from = 0;
    for part in &parts {
        let expected = (from > 0).then(|| format!("bytes={from}-"));
        assert_eq!(part.headers.get("range"), expected.as_ref());
        from += part.sent;
    }
    assert_eq!(parts.len(), 8);
}

#[test]
fn a_download_resumes_in_the_next_run() {
    let world = World::usual();
    let server = world.server();
    server.fault("GET model.safetensors", 5, Fault::Cut(70_000));
    let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
    assert_says(&error, &["gave up after 5 tries", "model.safetensors", "the connection broke"]);
    let here = fs::metadata(world.partial()).unwrap().len();
    assert_eq!(here, 350_000);
    let log = Log::default();
    let folder = world.hub(&server).snapshot(ID, "main", &log).unwrap();
    assert_says(&log.0.lock().unwrap().join("\n"), &["start model.safetensors 3000000 350000"]);
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let last = server.asked("GET", "model.safetensors").pop().unwrap();
    assert_eq!((last.headers["range"].as_str(), last.sent), ("bytes=350000-", 2_650_000));
    assert!(!world.partial().exists());
}

/// What an earlier run may have left, and what the next one asks for.
#[test]
fn leftovers_of_any_length_end_well() {
    for (left, range) in [
        (weights(), None),
        ([weights(), vec![0]].concat(), Some(None)),
        (weights()[..1].to_vec(), Some(Some("bytes=1-"))),
    ] {
        let world = World::usual();
        let server = world.server();
        fs::create_dir_all(world.repo().join("blobs")).unwrap();
        fs::write(world.partial(), &left).unwrap();
        let folder = world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
        let asked = server.asked("GET", "model.safetensors");
        let ranges: Vec<_> = asked.iter().map(|s| s.headers.get("range").map(String::as_str)).collect();
        assert_eq!(ranges, range.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_server_that_cannot_resume_starts_over() {
    let world = World::usual();
    let server = world.server();
    server.fault("GET model.safetensors", 1, Fault::Cut(1000));
    server.fault("GET model.safetensors", 1, Fault::Status(416, vec![]));
    server.fault("GET model.safetensors", 1, Fault::Cut(500));
    server.fault("GET model.safetensors", 1, Fault::IgnoreRange);
    let folder = world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let asked = server.asked("GET", "model.safetensors");
    let ranges: Vec<_> = asked.iter().map(|s| s.headers.get("range").map(String::as_str)).collect();
    assert_eq!(ranges, [None, Some("bytes=1000-"), None, Some("bytes=500-")]);
}

#[test]
fn a_wrong_part_is_not_glued_on() {
    let world = World::usual();
    let server = world.server();
    server.fault("GET model.safetensors", 1, Fault::Cut(1000));
    server.fault("GET model.safetensors", 1, Fault::Header("Content-Range", "bytes 7-2999999/3000000"));
    let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
    assert_says(&error, &["asked for bytes 1000-/3000000, got bytes 7-2999999/3000000", "was deleted"]);
    world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
}

#[test]
fn passing_faults_are_waited_out() {
    let world = World::usual();
    let server = world.server();
    server.fault("GET revision/main", 2, Fault::Status(503, vec![]));
    server.fault("GET revision/main", 1, Fault::Status(429, vec![("Retry-After", "1".to_owned())]));
    server.fault("HEAD config.json", 4, Fault::Status(500, vec![]));
    server.fault("GET config.json", 1, Fault::Status(502, vec![]));
    let log = Log::default();
    let start = Instant::now();
    world.hub(&server).snapshot(ID, "main", &log).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
    let told = log.0.into_inner().unwrap();
    assert_eq!(told.iter().filter(|l| l.contains("trying again in")).count(), 8);

    let world = World::usual();
    server.fault("GET revision/main", 5, Fault::Status(503, vec![]));
    let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
    assert_says(&error, &["gave up after 5 tries", "503", "/api/models/EleutherAI/pythia-70m/revision/main"]);
}

#[test]
fn a_silent_connection_is_given_up_and_resumed() {
    let world = World::usual();
    let server = world.server();
    server.fault("GET model.safetensors", 1, Fault::Stall(1_500_000, Duration::from_secs(20)));
    server.fault("GET revision/main", 1, Fault::Stall(3, Duration::from_secs(20)));
    server.fault("HEAD config.json", 1, Fault::Slow(Duration::from_secs(20)));
    let start = Instant::now();
    let folder = world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let last = server.asked("GET", "model.safetensors").pop().unwrap();
    assert_eq!((last.headers["range"].as_str(), last.sent), ("bytes=1500000-", 1_500_000));
}

#[test]
fn damaged_bytes_are_noticed_and_deleted() {
    for file in ["config.json", "model.safetensors"] {
        let world = World::usual();
        let server = world.server();
        server.fault(&format!("GET {file}"), 1, Fault::WrongByte);
        let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
        assert_says(&error, &[file, "the checksum is", "run the command again"]);
        let left = tree(&world.repo());
        assert!(left.iter().all(|f| !f.contains("incomplete") && !f.ends_with(file)), "{left:?}");
        world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
    }
}

#[test]
fn a_wrong_length_is_noticed_and_deleted() {
    let world = World::usual();
    let server = world.server();
    server.fault("GET model.safetensors", 1, Fault::Body(vec![0; 4_000_000]));
    let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
    assert_says(&error, &["model.safetensors", "sends 4000000 bytes", "expected 3000000"]);
    // The same without an announcement: the body ends with the connection.
    server.fault("GET model.safetensors", 1, Fault::Unframed(vec![0; 4_000_000]));
    let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
    assert_says(&error, &["model.safetensors", "or more, expected 3000000"]);
    assert!(!world.partial().exists());
    server.fault("HEAD model.safetensors", 1, Fault::Header("X-Linked-Size", "99"));
    let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
    assert_says(&error, &["sends 3000000 bytes", "expected 99"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_and_the_next_run_goes_on() {
    let world = World::usual();
    let server = world.server();
    fs::create_dir_all(world.repo().join("blobs")).unwrap();
    // Whatever is written to this device fails as on a full disk.
    std::os::unix::fs::symlink("/dev/full", world.partial()).unwrap();
    let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
    let path = world.partial();
    assert_says(&error, &[path.to_str().unwrap(), "No space left", "3000000 more bytes", "make room"]);
    assert!(fs::symlink_metadata(&path).is_ok(), "the partial file stays");
    assert_eq!(server.asked("GET", "model.safetensors").len(), 1, "it is no use to try again");
    fs::remove_file(&path).unwrap();
    fs::write(&path, &weights()[..4000]).unwrap();
    let folder = world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert_eq!(server.asked("GET", "model.safetensors").pop().unwrap().sent, 3_000_000 - 4000);
}

#[test]
fn hostile_answers_are_refused() {
    let sha = commit(ID, "main");
    let info = |sha: &str, file: &str| {
        Fault::Body(format!(r#"{{"sha":"{sha}","siblings":[{{"rfilename":"{file}"}}]}}"#).into_bytes())
    };
    for (request, fault, says) in [
        ("GET revision/main", info(&sha, "../../../../x"), "could leave the cache"),
        ("GET revision/main", info(&sha, "/etc/x"), "could leave the cache"),
        ("GET revision/main", info(&sha, "a\\b"), "could leave the cache"),
        ("GET revision/main", info("../../x", "config.json"), "40 hex digits"),
        ("GET revision/main", Fault::Body(b"<html>".to_vec()), "the Hub's JSON"),
        ("GET revision/main", Fault::Body(vec![b' '; (16 << 20) + 1]), "more than 16777216 bytes"),
        ("HEAD config.json", Fault::Header("ETag", "\"../../x\""), "refused the etag"),
        ("HEAD config.json", Fault::Header("ETag", "\"a.b\""), "refused the etag"),
        ("HEAD config.json", Fault::Header("ETag", ""), "has no etag"),
        ("HEAD model.safetensors", Fault::Header("X-Linked-Etag", "/tmp/x"), "refused the etag"),
        ("HEAD config.json", Fault::Header("X-Repo-Commit", "other"), "got other"),
        ("GET config.json", Fault::Status(302, vec![("Location", "file:///etc/passwd".into())]), "redirect"),
        ("GET config.json", Fault::Status(302, vec![]), "redirect to nowhere"),
        ("HEAD config.json", Fault::Status(404, vec![]), "the file is not there"),
        ("GET config.json", Fault::Status(403, vec![]), "set HF_TOKEN"),
        ("GET model.safetensors", Fault::Status(418, vec![]), "the server answered 418"),
    ] {
        let world = World::usual();
        let server = world.server();
        server.fault(request, 1, fault);
        let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
        assert_says(&error, &[says, "127.0.0.1"]);
        assert!(!world.repo().join("refs").exists());
    }
    // A circle of redirects ends.
    let world = World::usual();
    let server = world.server();
    let circle = format!("/{ID}/resolve/{sha}/config.json");
    server.fault("HEAD config.json", 99, Fault::Status(307, vec![("Location", circle)]));
    let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
    assert_says(&error, &["more than 10 redirects"]);
}

/// Whoever can write to the cache could make a model of any file that its reader may read.
#[cfg(unix)]
#[test]
fn links_out_of_the_cache_are_refused_and_links_of_the_cache_are_not() {
    use std::os::unix::fs::symlink;
    let world = World::usual();
    let server = world.server();
    let folder = world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
    let link = folder.join("tokenizer.json");
    let honest = fs::read_link(&link).unwrap();
    for outside in ["/etc/passwd", "../../../../../../../../../../../../etc/passwd"] {
        fs::remove_file(&link).unwrap();
        symlink(outside, &link).unwrap();
        let error = error_of(world.hub(&server).snapshot(ID, "main", &Quiet));
        assert_says(&error, &[link.to_str().unwrap(), "leads out of the cache, to /etc/passwd: remove it"]);
    }
    fs::remove_file(&link).unwrap();
    symlink(honest, &link).unwrap();
    // Blobs on another disk, the repository on a third.
    let elsewhere = tempfile::TempDir::new().unwrap();
    for (part, name) in [(world.repo().join("blobs"), "blobs"), (world.repo(), "repo")] {
        fs::rename(&part, elsewhere.path().join(name)).unwrap();
        symlink(elsewhere.path().join(name), &part).unwrap();
        world.hub(&server).snapshot(ID, "main", &Quiet).unwrap();
    }
}

#[test]
fn without_a_network_the_error_is_quick_and_helpful() {
    let world = World::usual();
    let endpoint = nobody();
    let hub =
        world.builder(&endpoint).patience(Duration::from_secs(5), Duration::from_secs(5)).build().unwrap();
    let start = Instant::now();
    let error = error_of(hub.snapshot(ID, "main", &Quiet));
    assert_says(&error, &["cannot reach", &endpoint, "--offline", "local folder"]);
    assert!(start.elapsed() < Duration::from_secs(4), "no waiting for what will not come");
}
