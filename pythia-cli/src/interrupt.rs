//! Ctrl-C: a generation ends after the token it is at; everything else ends at once.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, fs, process, thread};

/// The exit code of an interrupted program: 128 + SIGINT, as shells have it.
pub(crate) const EXIT: u8 = 130;

/// How long a generation may take to notice, before the program ends without it.
const GRACE: Duration = Duration::from_secs(1);

/// Whether somebody looks at `STOP`.
static WATCHED: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);
/// The folder that a large file is being written into.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The error of a command that ended because the user said so.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Takes over SIGINT, SIGTERM and SIGHUP. To be called once.
pub(crate) fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        STOP.store(true, Ordering::SeqCst);
        if WATCHED.load(Ordering::SeqCst) {
            thread::sleep(GRACE);
        }
        if let Some(folder) = unfinished().as_deref() {
            remove_unfinished(folder);
        }
        process::exit(i32::from(EXIT));
    })
    .context("cannot watch for Ctrl-C")
}

/// While this lives, its owner ends the program when it is [`stopped`](Watch::stopped).
pub(crate) struct Watch(());

impl Watch {
    pub(crate) fn new() -> Self {
        WATCHED.store(true, Ordering::SeqCst);
        Self(())
    }

    /// Whether the user wants to stop.
    #[expect(clippy::unused_self, reason = "only who watches may ask")]
    pub(crate) fn stopped(&self) -> bool {
        STOP.load(Ordering::SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, Ordering::SeqCst);
    }
}

/// While this lives, files are written whole into a folder. If the program is interrupted, it removes what is not whole.
pub(crate) struct Writing(());

impl Writing {
    pub(crate) fn into(folder: &Path) -> Self {
        *unfinished() = Some(folder.to_owned());
        Self(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        *unfinished() = None;
    }
}

fn unfinished() -> MutexGuard<'static, Option<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes this process's temporary files and folders, `.NAME.PID-N.tmp`, as well as it can.
fn remove_unfinished(folder: &Path) {
    let mine = format!(".{}-", process::id());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let temporary = Path::new(&name).extension().is_some_and(|end| end == "tmp");
        if temporary && name.starts_with('.') && name.contains(&mine) {
            let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path()));
        }
    }
}
