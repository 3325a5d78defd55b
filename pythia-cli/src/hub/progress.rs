//! What is shown while files come down: a bar on a terminal, plain lines elsewhere, or nothing.

use crate::output::note;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Told of what a download does. One file at a time.
pub trait Progress: Sync {
    /// The download of `file`, `total` bytes long, starts with `done` bytes already here.
    fn start(&self, file: &str, total: u64, done: u64);
    /// `done` bytes of the file are here; fewer than before if the server made it start over.
    fn advance(&self, done: u64);
    /// The file is complete and checked.
    fn finish(&self);
    /// Something worth a line: a retry, a wait for another process.
    fn note(&self, line: &str);
}

/// Shows nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Quiet;

impl Progress for Quiet {
    fn start(&self, _file: &str, _total: u64, _done: u64) {}
    fn advance(&self, _done: u64) {}
    fn finish(&self) {}
    fn note(&self, _line: &str) {}
}

/// Shows notes only, on stderr.
#[derive(Debug, Default, Clone, Copy)]
pub struct Notes;

impl Progress for Notes {
    fn start(&self, _file: &str, _total: u64, _done: u64) {}
    fn advance(&self, _done: u64) {}
    fn finish(&self) {}
    fn note(&self, line: &str) {
        note(line);
    }
}

/// Progress on stderr: a bar with bytes, speed and time left if it is a terminal; otherwise one line at the start
/// and one at the end of each large file.
#[derive(Debug)]
pub struct Stderr {
    terminal: bool,
    file: Mutex<Option<Shown>>,
}

/// The file under way.
#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { file: String, total: u64, done_before: u64, since: Instant },
}

/// Below this many bytes a file gets no lines.
const LARGE: u64 = 1 << 20;

impl Default for Stderr {
    fn default() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), file: Mutex::new(None) }
    }
}

impl Progress for Stderr {
    fn start(&self, file: &str, total: u64, done: u64) {
        let shown = if self.terminal {
            let bar = bar(total);
            bar.set_message(file.to_owned());
            bar.set_position(done);
            // The bytes of an earlier run say nothing about this run's speed.
            bar.reset_eta();
            Shown::Bar(bar)
        } else {
            if total >= LARGE {
                let resumed =
                    if done > 0 { format!(", of which {} are here", megabytes(done)) } else { String::new() };
                note(&format!("downloading {file}: {}{resumed}", megabytes(total)));
            }
            Shown::Lines { file: file.to_owned(), total, done_before: done, since: Instant::now() }
        };
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
    }

    fn advance(&self, done: u64) {
        if let Some(Shown::Bar(bar)) = &*self.file.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_position(done);
        }
    }

    fn finish(&self) {
        match self.file.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(Shown::Bar(bar)) => bar.finish(),
            Some(Shown::Lines { file, total, done_before, since }) if total >= LARGE => {
                let seconds = since.elapsed().as_secs_f64();
                let speed = total.saturating_sub(done_before) as f64 / 1e6 / seconds.max(1e-3);
                note(&format!("downloaded {file}: {} in {seconds:.1} s ({speed:.1} MB/s)", megabytes(total)));
            }
            _ => {}
        }
    }

    fn note(&self, line: &str) {
        match &*self.file.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Shown::Bar(bar)) => bar.println(line),
            _ => note(line),
        }
    }
}

/// The progress of several files at once, on stderr: one bar for all if it is a terminal; otherwise a line for each
/// revision that is whole.
#[derive(Debug)]
pub struct Total {
    bar: Option<ProgressBar>,
    snapshots: usize,
    whole: AtomicUsize,
    /// Bytes that were brought, less those that were thrown away.
    done: AtomicI64,
}

impl Total {
    /// For `bytes` of as many revisions.
    pub fn new(bytes: u64, snapshots: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = bar(bytes);
            bar.set_message(format!("0 of {snapshots}"));
            bar
        });
        Self { bar, snapshots, whole: AtomicUsize::new(0), done: AtomicI64::new(0) }
    }

    /// Told of what happens to one of the files.
    pub fn part(&self) -> impl Progress {
        Part { total: self, done: AtomicU64::new(0) }
    }

    /// A revision is whole.
    pub(super) fn snapshot(&self, revision: &str) {
        let (whole, snapshots) = (1 + self.whole.fetch_add(1, Ordering::SeqCst), self.snapshots);
        match &self.bar {
            Some(bar) => bar.set_message(format!("{whole} of {snapshots}")),
            None => note(&format!("{revision} is here: {whole} of {snapshots}")),
        }
    }

    /// All is done.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

/// One file of a [`Total`].
struct Part<'t> {
    total: &'t Total,
    /// Bytes of it that are here.
    done: AtomicU64,
}

impl Progress for Part<'_> {
    fn start(&self, _file: &str, _total: u64, done: u64) {
        self.done.store(done, Ordering::SeqCst);
    }

    fn advance(&self, done: u64) {
        let more = done as i64 - self.done.swap(done, Ordering::SeqCst) as i64;
        let all = more + self.total.done.fetch_add(more, Ordering::SeqCst);
        if let Some(bar) = &self.total.bar {
            bar.set_position(all.max(0) as u64);
        }
    }

    fn finish(&self) {}

    fn note(&self, line: &str) {
        match &self.total.bar {
            Some(bar) => bar.println(line),
            None => note(line),
        }
    }
}

/// A bar with bytes, speed and time left.
fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// `bytes` in decimal gigabytes, or megabytes if there are few.
pub(crate) fn gigabytes(bytes: u64) -> String {
    if bytes >= 100_000_000 { format!("{:.2} GB", bytes as f64 / 1e9) } else { megabytes(bytes) }
}

/// `bytes` in decimal megabytes, as disks and networks count.
pub(super) fn megabytes(bytes: u64) -> String {
    if bytes >= 100_000 { format!("{:.1} MB", bytes as f64 / 1e6) } else { format!("{bytes} bytes") }
}
