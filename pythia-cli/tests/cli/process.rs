//! The program among others: pipes that close, signals, odd environments, two at once.

use crate::command::{json, pythia, run, stdout, text};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A generation of many seconds on a synthetic model in `cache`.
fn long(cache: &TempDir, more: &[&str]) -> Command {
    let mut command = pythia();
    command.env("XDG_CACHE_HOME", cache.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.args(["run", "-m", "synth:31m", "--ids", "1,2", "-n", "2000", "--ignore-eos"]).args(more);
    command
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
}

/// The exit code and the rest of the output of a program that is to end soon.
fn end(mut child: Child) -> (Option<i32>, String, String) {
    let since = Instant::now();
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    let code = child.wait().unwrap().code();
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    (code, out, err)
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_a_generation_and_keeps_its_text() {
    let cache = TempDir::new().unwrap();
    let mut child = long(&cache, &[]).spawn().unwrap();
    let mut start = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut start).unwrap();
    interrupt(&child);
    let (code, rest, err) = end(child);
    let whole = text(&start) + &rest;
    assert_eq!(code, Some(130), "{err}");
    assert!(!err.contains("error"), "{err}");
    assert!(whole.starts_with("1,2,") && whole.ends_with('\n') && whole.len() < 9000, "{whole}");
    assert!(whole.trim().split(',').all(|id| id.parse::<u32>().is_ok()), "{whole}");

    // With --json there is no half of an object. The weights are written by now.
    let child = long(&cache, &["--json"]).spawn().unwrap();
    thread::sleep(Duration::from_secs(1));
    interrupt(&child);
    assert_eq!(end(child), (Some(130), String::new(), String::new()));
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_a_beam_search_and_keeps_its_texts() {
    let cache = TempDir::new().unwrap();
    let mut first = pythia();
    first.env("XDG_CACHE_HOME", cache.path()).args(["run", "-m", "synth:31m", "--ids", "1,2", "-n", "1"]);
    assert!(first.output().unwrap().status.success(), "the weights are not written");
    let beams = ["--num-beams", "2", "--num-return-sequences", "2"];
    let child = long(&cache, &beams).spawn().unwrap();
    thread::sleep(Duration::from_secs(2));
    interrupt(&child);
    let (code, out, err) = end(child);
    assert_eq!((code, err.as_str()), (Some(130), ""));
    let lines: Vec<&str> = out.lines().collect();
    let &["--- 1 of 2 ---", one, "--- 2 of 2 ---", two] = &lines[..] else { panic!("{out}") };
    for text in [one, two] {
        assert!(text.starts_with("1,2,") && text.len() < 9000, "{text}");
        assert!(text.split(',').all(|id| id.parse::<u32>().is_ok()), "{text}");
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_no_half_of_a_model() {
    let folder = TempDir::new().unwrap();
    let mut command = pythia();
    command.args(["synth", "2.8b"]).arg(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let files = || folder.path().read_dir().unwrap().count();
    let since = Instant::now();
    while files() == 0 {
        assert!(since.elapsed() < Duration::from_secs(10), "nothing is written");
        thread::sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    assert_eq!(end(child), (Some(130), String::new(), String::new()));
    assert_eq!(files(), 0);
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_no_half_of_a_converted_model() {
    let (cache, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let convert = |out: &str, model: &str| {
        let mut command = pythia();
        command.env("XDG_CACHE_HOME", cache.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.args(["convert", "-m", model, "--dtype", "f32"]).arg(folder.path().join(out));
        command.spawn().unwrap()
    };
    // The weights are written first.
    assert!(convert("first", "synth:70m").wait().unwrap().success());
    let files = || folder.path().read_dir().unwrap().count();
    for out in ["model.gguf", "model"] {
        let child = convert(out, "synth:70m");
        let since = Instant::now();
        while files() == 1 {
            assert!(since.elapsed() < Duration::from_secs(10), "nothing is written");
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
        interrupt(&child);
        let (code, stdout, stderr) = end(child);
        assert_eq!((code, stdout.as_str()), (Some(130), ""), "{out}: {stderr}");
        assert!(stderr.starts_with("converting to ") && stderr.lines().count() == 1, "{out}: {stderr}");
        assert_eq!(files(), 1, "{out}");
    }
}

/// A limit on the length of files stands for a full disk: the write fails in the middle.
#[test]
#[cfg(target_os = "linux")]
fn a_conversion_that_cannot_be_written_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    for out in ["model.gguf", "model"] {
        let mut command = Command::new("sh");
        // In blocks of 512 or 1024 bytes: less than the model's 3.7 MB in either.
        command.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""]);
        command.args([env!("CARGO_BIN_EXE_pythia-cli"), "convert", "--dtype", "f32"]);
        let output = command.arg(folder.path().join(out)).output().unwrap();
        let err = text(&output.stderr);
        let path = folder.path().join(out).display().to_string();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{err}");
        assert!(err.contains(&format!("error: {path}")) && err.contains("File too large"), "{err}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{out}");
    }
}

#[test]
fn nobody_reading_is_the_end_and_no_error() {
    for args in [&["run", "Hi", "-n", "400"][..], &["run", "Hi", "--json"], &["next", "Hi"], &["--help"]] {
        let mut child = pythia().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    }
    // The same for errors that nobody reads.
    let mut child = pythia().args(["run", ""]).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = pythia().args(["next", "Hi"]).stdout(full).output().unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.starts_with("error: cannot write to stdout: "), "{err}");
}

#[test]
fn the_environment_does_not_matter() {
    let args = ["next", "Ünder the", "--top", "3"];
    let usual = stdout(&run(&args));
    let same = |change: &dyn Fn(&mut Command)| {
        let mut command = pythia();
        change(command.args(args));
        assert_eq!(stdout(&command.output().unwrap()), usual);
    };
    same(&|command| _ = command.env("LC_ALL", "C"));
    same(&|command| _ = command.env("LC_ALL", "de_DE.ISO-8859-1"));
    same(&|command| _ = command.env_remove("HOME"));
    same(&|command| _ = command.env_clear());
    same(&|command| _ = command.env("COLUMNS", "wide").env("NO_COLOR", "1").env("TERM", "dumb"));
    same(&|command| _ = command.current_dir("/"));
}

#[test]
fn two_at_once_share_a_cache() {
    let cache = TempDir::new().unwrap();
    let start = || {
        let mut command = pythia();
        command.env("XDG_CACHE_HOME", cache.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.args(["run", "-m", "synth:14m", "--ids", "1,2", "-n", "3", "--json"]).spawn().unwrap()
    };
    let both = [start(), start()].map(|child| child.wait_with_output().unwrap());
    let [a, b] = both.map(|output| {
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    });
    assert_eq!(a, b);
    // Now that it is there, nothing is written and nothing is said.
    let third = start().wait_with_output().unwrap();
    assert_eq!((json(&third).len(), text(&third.stdout)), (1, a));
    assert_eq!(cache.path().join("pythia-cli/synth/14m-1234").read_dir().unwrap().count(), 2);
}
