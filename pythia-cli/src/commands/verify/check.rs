//! The reading: checksums of files and fingerprints of checkpoints, on all cores.

use crate::bar::Bar;
use crate::hub::{Held, HeldFile, Upstream, checksum};
use crate::parallel::in_parallel;
use pythia_model::quantized::Progress;
use pythia_model::{Config, Fingerprint, Weights};
use pythia_tensor::Team;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Instant;

/// What reading the files brought. What could not be read has the error's text.
#[derive(Default)]
pub(super) struct Checked {
    /// The checksum of each file that has an expected one which says something, by path.
    pub(super) sums: HashMap<PathBuf, Result<String, String>>,
    /// For each checkpoint, unless it lacks something.
    pub(super) fingerprints: Vec<Option<Result<Arc<Fingerprint>, String>>>,
    /// Bytes that were read.
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

/// A piece of work.
enum Task<'h> {
    Sum {
        path: &'h Path,
        etag: String,
    },
    /// The place of a checkpoint.
    Fingerprint(usize),
}

enum Done {
    Sum(PathBuf, Option<Result<String, String>>),
    Fingerprint(usize, Box<Result<Fingerprint, String>>),
}

/// The checksum that a file should have: that of its blob's name; for a copy, that of the Hub.
pub(super) fn expected(file: &HeldFile, upstream: Option<&Upstream>) -> Option<String> {
    let of_hub = || Some(upstream?.files.as_ref()?.get(&file.name)?.0.clone());
    file.etag.clone().or_else(of_hub)
}

/// Reads everything once: what several checkpoints share is not read again. A file's checksum is the work of one core. The
/// fingerprint of its checkpoint is made from the pages that are in memory then.
pub(super) fn check(held: &[Held], upstream: Option<&[Upstream]>) -> Checked {
    let same = owners(held);
    let tasks = tasks(held, upstream, &same);
    let bytes_of = |task: &Task<'_>| match task {
        Task::Sum { path, .. } => std::fs::metadata(path).map_or(0, |m| m.len()),
        Task::Fingerprint(c) => {
            held.get(*c).map_or(0, |held| held.files.iter().filter_map(|f| f.bytes).sum())
        }
    };
    let sums = |task: &&Task<'_>| matches!(task, Task::Sum { .. });
    // A fingerprint beside checksums is no further reading.
    let counts_sums = tasks.iter().any(|task| sums(&task));
    let total = tasks.iter().filter(|task| sums(task) == counts_sums).map(bytes_of).sum();
    let (bar, done) = (Bar::new("verifying", "every byte is read"), AtomicU64::new(0));
    bar.show(Progress { done: 0, total });
    let read = |n| bar.show(Progress { done: n + done.fetch_add(n, Ordering::Relaxed), total });
    let since = Instant::now();
    let work = |task: &Task<'_>| {
        Ok(match task {
            Task::Sum { path, etag } => {
                let sum = checksum::of_file(path, etag, &read).map_err(|e| format!("{e:#}")).transpose();
                Done::Sum((*path).to_owned(), sum)
            }
            Task::Fingerprint(c) => {
                let read = |n| {
                    if !counts_sums {
                        read(n);
                    }
                };
                let folder = held.get(*c).map_or(Path::new(""), |held| &held.folder);
                Done::Fingerprint(*c, Box::new(fingerprint(folder, &read).map_err(|e| e.to_string())))
            }
        })
    };
    let cores = available_parallelism().map_or(1, usize::from);
    let results = in_parallel(cores, &tasks, work).unwrap_or_default();
    bar.finish();
    let mut checked =
        Checked { bytes: done.into_inner(), seconds: since.elapsed().as_secs_f64(), ..Checked::default() };
    let mut fingerprints = HashMap::new();
    for result in results {
        match result {
            Done::Sum(path, sum) => checked.sums.extend(sum.map(|sum| (path, sum))),
            Done::Fingerprint(c, found) => drop(fingerprints.insert(c, found.map(Arc::new))),
        }
    }
    checked.fingerprints = same.iter().map(|owner| fingerprints.get(owner.as_ref()?).cloned()).collect();
    checked
}

/// For each checkpoint that lacks nothing, the first one with the same files.
fn owners(held: &[Held]) -> Vec<Option<usize>> {
    let mut first = HashMap::new();
    let owner = |(c, held): (usize, &Held)| {
        let files: Vec<_> = held.files.iter().map(|file| (file.name.clone(), file.path.clone())).collect();
        held.lacking.is_none().then(|| *first.entry(files).or_insert(c))
    };
    held.iter().enumerate().map(owner).collect()
}

/// What is to be read: of each checkpoint in turn its files, the largest first; its weights only after the next checkpoint's first
/// file, when its own files are in memory. While a file is being summed, reading its mapping as well makes the disk give
/// it in small pieces, a quarter slower.
fn tasks<'h>(held: &'h [Held], upstream: Option<&[Upstream]>, owners: &[Option<usize>]) -> Vec<Task<'h>> {
    let (mut tasks, mut seen) = (Vec::new(), std::collections::HashSet::new());
    let mut waiting = None;
    for (c, held) in held.iter().enumerate() {
        let upstream = upstream.and_then(|all| all.get(c));
        let mut files: Vec<_> = held.files.iter().filter(|file| file.bytes.is_some()).collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
        for file in files {
            if let Some(etag) = expected(file, upstream).filter(|_| seen.insert(&file.path)) {
                tasks.push(Task::Sum { path: &file.path, etag });
                tasks.extend(waiting.take());
            }
        }
        tasks.extend(waiting.take());
        if owners.get(c) == Some(&Some(c)) {
            waiting = Some(Task::Fingerprint(c));
        }
    }
    tasks.extend(waiting);
    tasks
}

fn fingerprint(folder: &Path, read: &dyn Fn(u64)) -> anyhow::Result<Fingerprint> {
    let config = Config::of_model(folder)?;
    let weights = Weights::open(folder, &config)?;
    // The cores each have work of their own.
    Ok(Team::new(1)?.enter(|crew| Fingerprint::of(crew, &weights, &mut |n| read(n))))
}
