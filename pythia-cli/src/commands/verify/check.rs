//! The reading: checksums of files and fingerprints of checkpoints, on all cores.

use crate::bar::Bar;
use crate::hub::checksum::Checksum;
use crate::hub::known_sums::KnownSums;
use crate::hub::{Held, HeldFile, Upstream};
use crate::parallel::in_parallel;
use crate::whole_file::{self, ReadFrom};
use anyhow::{Context as _, ensure};
use pythia_model::fingerprint::{FileSums, Fingerprint, Summed};
use pythia_model::quantized::Progress;
use pythia_model::{Config, FileStamp, Weights};
use pythia_tensor::Team;
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;
use std::time::Instant;
use twox_hash::XxHash3_128;

/// What reading the files brought. What could not be read has the error's text.
pub(super) struct Checked {
    /// The checksum of each file that has an expected one which says something, by path.
    pub(super) sums: HashMap<PathBuf, Result<Sum, String>>,
    /// For each checkpoint, unless it lacks something.
    pub(super) fingerprints: Vec<Option<Result<Arc<Fingerprint>, String>>>,
    /// Bytes that were read, those of each file once.
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

/// The checksum of a file.
#[derive(Debug)]
pub(super) struct Sum {
    pub(super) hex: String,
    pub(super) by: By,
}

/// What was computed of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum By {
    Sha256,
    /// Of git's blob.
    Sha1,
    /// That of the bytes which are known to have the file's SHA-256.
    Xxh3,
}

/// How files are checked.
#[derive(Debug)]
pub(super) struct How {
    /// Whether SHA-256 is computed even where the XXH3 is known.
    pub(super) full: bool,
    pub(super) known: KnownSums,
}

/// Bytes that are in a core's own cache the second time.
const IN_CACHE: usize = 128 << 10;

/// Files that are read at the same time. With 8 on two cores a disk of 3 GB/s gives a fifth more than with 4.
const MOST_FILES: usize = 16;

/// A file that has a checksum.
struct Reading<'h> {
    path: &'h Path,
    etag: String,
    bytes: u64,
    /// The first checkpoint that has it, and what it is called there.
    checkpoint: usize,
    name: &'h str,
    /// The checkpoints whose fingerprint needs it.
    wanted_by: Vec<usize>,
}

/// A piece of work.
enum Task<'h> {
    Read(Reading<'h>),
    /// Of a checkpoint none of whose files is read otherwise.
    Fingerprint(usize),
}

/// What came of a task.
struct Done {
    sum: Option<(PathBuf, Result<Sum, String>)>,
    fingerprints: Vec<(usize, Result<Fingerprint, String>)>,
}

/// The checksum that a file should have: that of its blob's name; for a copy, that of the Hub.
pub(super) fn expected(file: &HeldFile, upstream: Option<&Upstream>) -> Option<String> {
    let of_hub = || Some(upstream?.files.as_ref()?.get(&file.name)?.0.clone());
    file.etag.clone().or_else(of_hub)
}

/// Reads everything once: what several checkpoints share is not read again. Each thread has a file, and waits for the disk or adds
/// up; there are more of them than cores, so that the disk always has requests and the cores always have bytes. A file's matrices
/// are summed with it, and who reads the last of a checkpoint's files makes the fingerprint.
pub(super) fn check(held: &[Held], upstream: Option<&[Upstream]>, how: &How) -> Checked {
    let same = owners(held);
    let tasks = tasks(held, upstream, &same);
    let reader = Reader::new(held, &tasks, how);
    let total = tasks.iter().map(|task| reader.bytes(task)).sum();
    let (bar, done) = (Bar::new("verifying", "every byte is read"), AtomicU64::new(0));
    bar.show(Progress { done: 0, total });
    let read = |n| bar.show(Progress { done: n + done.fetch_add(n, Ordering::Relaxed), total });
    let cores = available_parallelism().map_or(1, usize::from);
    let since = Instant::now();
    let results = in_parallel((4 * cores).min(MOST_FILES), &tasks, |task| Ok(reader.work(task, &read)));
    let seconds = since.elapsed().as_secs_f64();
    bar.finish();
    let (mut sums, mut fingerprints) = (HashMap::new(), HashMap::new());
    for result in results.unwrap_or_default() {
        sums.extend(result.sum);
        fingerprints.extend(result.fingerprints.into_iter().map(|(c, found)| (c, found.map(Arc::new))));
    }
    let fingerprints = same.iter().map(|owner| fingerprints.get(owner.as_ref()?).cloned()).collect();
    Checked { sums, fingerprints, bytes: done.load(Ordering::Relaxed), seconds }
}

/// What the threads share.
struct Reader<'h> {
    held: &'h [Held],
    how: &'h How,
    /// Files that each checkpoint's fingerprint still waits for.
    missing: Vec<AtomicUsize>,
    /// The sums of the matrices of each file that has been read.
    summed: HashMap<&'h Path, OnceLock<Summed>>,
}

impl<'h> Reader<'h> {
    fn new(held: &'h [Held], tasks: &[Task<'h>], how: &'h How) -> Self {
        let mut reader = Self {
            held,
            how,
            missing: held.iter().map(|_| AtomicUsize::new(0)).collect(),
            summed: HashMap::new(),
        };
        for task in tasks {
            let Task::Read(reading) = task else { continue };
            reader.summed.insert(reading.path, OnceLock::new());
            for c in &reading.wanted_by {
                if let Some(missing) = reader.missing.get_mut(*c) {
                    *missing.get_mut() += 1;
                }
            }
        }
        reader
    }

    /// How much a task is.
    fn bytes(&self, task: &Task<'_>) -> u64 {
        match task {
            Task::Read(reading) => reading.bytes,
            Task::Fingerprint(c) => {
                self.held.get(*c).map_or(0, |held| held.files.iter().filter_map(|f| f.bytes).sum())
            }
        }
    }

    fn work(&self, task: &Task<'h>, read: &dyn Fn(u64)) -> Done {
        let fingerprint = |c: usize, read: &dyn Fn(u64)| {
            let made = self.held.get(c).map(|held| self.fingerprint(held, read));
            made.map(|made| (c, made.map_err(|e| e.to_string())))
        };
        match task {
            Task::Fingerprint(c) => {
                Done { sum: None, fingerprints: fingerprint(*c, read).into_iter().collect() }
            }
            Task::Read(reading) => {
                let sum = self.sum(reading, read).map_err(|e| format!("{e:#}")).transpose();
                // Without a file that cannot be read there is no fingerprint: looking at its mapping would end the process.
                let wanted_by = if matches!(sum, Some(Err(_))) { &[][..] } else { &reading.wanted_by };
                let missing =
                    |c: usize| self.missing.get(c).map(|missing| missing.fetch_sub(1, Ordering::AcqRel));
                let ready = wanted_by.iter().filter(|c| missing(**c) == Some(1));
                // What it reads besides is in memory, or small.
                let fingerprints = ready.filter_map(|c| fingerprint(*c, &|_| ())).collect();
                Done { sum: sum.map(|sum| (reading.path.to_owned(), sum)), fingerprints }
            }
        }
    }

    /// The checksum of a file; the sums of its matrices are kept. XXH3 is computed of what is nearest, what the Hub calls files by
    /// of what is on the disk.
    fn sum(&self, reading: &Reading<'h>, count: &dyn Fn(u64)) -> anyhow::Result<Option<Sum>> {
        let &Reading { path, ref etag, bytes, .. } = reading;
        let known = self.how.known.get(etag).filter(|_| !self.how.full);
        if let Some(known) = known {
            let mut xxh3 = XxHash3_128::new();
            let summed = self.read(reading, ReadFrom::Nearest, &mut |part| xxh3.write(part), count)?;
            if xxh3.finish_128() == known {
                self.keep(reading, summed);
                return Ok(Some(Sum { hex: etag.clone(), by: By::Xxh3 }));
            }
        }
        let count = if known.is_some() { &|_| () } else { count };
        let mut checksum = Checksum::new(etag, bytes);
        let summed = self.read(reading, ReadFrom::Disk, &mut |part| checksum.update(part), count)?;
        self.keep(reading, summed);
        let Some(digest) = checksum.finish() else { return Ok(None) };
        // The note was right, and so is the file now.
        ensure!(
            known.is_none() || digest.xxh3 != known,
            "{} was read twice, with different bytes: what is on the disk is right, but not what the system had in memory, or the file \
             is being written, or memory or disk fails",
            path.display()
        );
        if digest.hex.eq_ignore_ascii_case(etag) {
            self.how.known.note(&digest);
        }
        let by = if digest.xxh3.is_some() { By::Sha256 } else { By::Sha1 };
        Ok(Some(Sum { hex: digest.hex, by }))
    }

    /// Reads a file; the sums of its matrices, if a fingerprint needs them.
    fn read(
        &self,
        reading: &Reading<'h>,
        from: ReadFrom,
        update: &mut dyn FnMut(&[u8]),
        count: &dyn Fn(u64),
    ) -> anyhow::Result<Summed> {
        let &Reading { path, checkpoint, name, .. } = reading;
        let held = self.held.get(checkpoint).filter(|_| !reading.wanted_by.is_empty());
        let config = held.and_then(|held| Config::of_model(&held.folder).ok());
        let mut sums = config.map(|config| FileSums::new(path, name, &config)).unwrap_or_default();
        // The cores each have work of their own.
        Team::new(1)?.enter(|crew| {
            let piece = |bytes: &[u8]| {
                for part in bytes.chunks(IN_CACHE) {
                    update(part);
                    sums.update(crew, part);
                }
                count(bytes.len() as u64);
            };
            whole_file::read(path, from, piece).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(sums.finish(crew))
        })
    }

    fn keep(&self, reading: &Reading<'h>, summed: Summed) {
        // Each file is read by one task.
        self.summed.get(reading.path).map(|place| place.set(summed));
    }

    /// The fingerprint of a checkpoint, from the sums of its files and what they have besides.
    fn fingerprint(&self, held: &Held, read: &dyn Fn(u64)) -> anyhow::Result<Fingerprint> {
        let config = Config::of_model(&held.folder)?;
        let weights = Weights::open(&held.folder, &config)?;
        let summed = |stamp: &FileStamp| {
            let file = held.files.iter().find(|file| held.folder.join(&file.name) == stamp.path)?;
            self.summed.get(&*file.path)?.get()
        };
        Ok(Team::new(1)?.enter(|crew| Fingerprint::of(crew, &weights, &summed, &mut |n| read(n))))
    }
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

/// What is to be read: of each checkpoint in turn its files, the largest first, but nothing twice; then what has no checksums.
fn tasks<'h>(held: &'h [Held], upstream: Option<&[Upstream]>, owners: &[Option<usize>]) -> Vec<Task<'h>> {
    let (mut readings, mut places): (Vec<Reading<'h>>, HashMap<&Path, usize>) = Default::default();
    let mut alone = Vec::new();
    for (c, held) in held.iter().enumerate() {
        let upstream = upstream.and_then(|all| all.get(c));
        let mut files: Vec<_> = held.files.iter().collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
        let owner = owners.get(c) == Some(&Some(c));
        let mut shares = false;
        for file in files {
            let (Some(bytes), Some(etag)) = (file.bytes, expected(file, upstream)) else { continue };
            if matches!(Checksum::new(&etag, bytes), Checksum::None) {
                continue;
            }
            let place = *places.entry(&file.path).or_insert_with(|| {
                let (path, name) = (&*file.path, &*file.name);
                readings.push(Reading { path, etag, bytes, checkpoint: c, name, wanted_by: Vec::new() });
                readings.len() - 1
            });
            if let Some(reading) = readings.get_mut(place).filter(|_| owner) {
                reading.wanted_by.push(c);
                shares = true;
            }
        }
        if owner && !shares {
            alone.push(Task::Fingerprint(c));
        }
    }
    readings.into_iter().map(Task::Read).chain(alone).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::hub::Held;
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A checkpoint of the small model, each file a link to a blob as in the cache.
    fn held(folder: &Path) -> Held {
        let (blobs, snapshot) = (folder.join("blobs"), folder.join("snapshots/commit"));
        fs::create_dir(&blobs).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        for name in ["config.json", "model.safetensors"] {
            let bytes = fs::read(Path::new("assets/mini").join(name)).unwrap();
            let mut checksum = Checksum::new(&"0".repeat(64), bytes.len() as u64);
            checksum.update(&bytes);
            let blob = checksum.finish().unwrap().hex;
            fs::write(blobs.join(&blob), bytes).unwrap();
            symlink(Path::new("../../blobs").join(blob), snapshot.join(name)).unwrap();
        }
        Held::of_folder(&snapshot).unwrap()
    }

    /// With notes of its own.
    fn how(folder: &Path) -> How {
        How { full: false, known: KnownSums::in_folder(&folder.join("notes")) }
    }

    #[test]
    fn no_matrix_is_read_again_for_the_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let (held, how) = ([held(folder.path())], how(folder.path()));
        let tasks = tasks(&held, None, &owners(&held));
        let (all, counted) = (held[0].files.iter().filter_map(|file| file.bytes).sum::<u64>(), Cell::new(0));
        let count = |n| counted.set(counted.get() + n);
        // As by somebody who reads all of it.
        let alone = Reader::new(&held, &[], &how).fingerprint(&held[0], &count).unwrap();
        assert!(counted.replace(0) > 0);
        let parts = |f: &Fingerprint| (f.hash, f.embedding, f.layer, f.unembedding);
        // Without notes, with those that this leaves, with wrong ones, and with those that are right again.
        for by in [By::Sha256, By::Xxh3, By::Sha256, By::Xxh3] {
            let reader = Reader::new(&held, &tasks, &how);
            let done: Vec<Done> = tasks.iter().map(|task| reader.work(task, &count)).collect();
            for Done { sum, .. } in &done {
                let (path, Ok(sum)) = sum.as_ref().unwrap() else { panic!("{sum:?}") };
                assert_eq!((sum.by, path.file_name().unwrap().to_str().unwrap()), (by, &*sum.hex));
            }
            assert_eq!(counted.replace(0), all);
            let made: Vec<_> = done.iter().flat_map(|done| &done.fingerprints).collect();
            let [(0, Ok(made))] = made[..] else { panic!("{made:?}") };
            assert_eq!(parts(made), parts(&alone));
            let again = reader.fingerprint(&held[0], &count).unwrap();
            assert_eq!((counted.get(), again.hash), (0, made.hash));
            if by == By::Xxh3 {
                for note in fs::read_dir(folder.path().join("notes")).unwrap() {
                    fs::write(note.unwrap().path(), "1".repeat(32)).unwrap();
                }
            }
        }
    }

    #[test]
    fn two_readings_that_differ_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (held, how) = ([held(folder.path())], how(folder.path()));
        let tasks = tasks(&held, None, &owners(&held));
        let work = |count: &dyn Fn(u64)| -> Vec<Done> {
            let reader = Reader::new(&held, &tasks, &how);
            tasks.iter().map(|task| reader.work(task, count)).collect()
        };
        // Leaves notes.
        work(&|_| ());
        let weights = held[0].files.iter().find(|file| file.name == "model.safetensors").unwrap();
        let right = fs::read(&weights.path).unwrap();
        let mut wrong = right.clone();
        // In the first piece that is read.
        wrong[100_000] ^= 1;
        fs::write(&weights.path, wrong).unwrap();
        // Somebody mends the file after the first reading.
        let done = work(&|_| fs::write(&weights.path, &right).unwrap());
        let sums: HashMap<_, _> = done.into_iter().filter_map(|done| done.sum).collect();
        let error = sums[&weights.path].as_ref().unwrap_err();
        assert!(error.contains("was read twice, with different bytes"), "{error}");
        assert_eq!((sums.len(), sums.values().filter(|sum| sum.is_ok()).count()), (2, 1));
    }

    #[test]
    fn what_has_a_file_that_cannot_be_read_has_no_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let held = [held(folder.path())];
        let weights = held[0].files.iter().find(|file| file.name == "model.safetensors").unwrap();
        // It was there when the cache was listed.
        fs::remove_file(&weights.path).unwrap();
        let checked = check(&held, None, &how(folder.path()));
        assert!(checked.sums.get(&weights.path).unwrap().as_ref().unwrap_err().starts_with("cannot read"));
        assert_eq!((checked.sums.len(), checked.fingerprints[0].is_none()), (2, true));
    }
}
